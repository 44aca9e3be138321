//! Compaction by the clock, as kube-apiserver does it.

use std::sync::Arc;
use std::time::Duration;

use base::{Chain, Shutdown};

use crate::{Error, Revision, Store};

/// Compacts every `interval` at the revision that was the latest one interval
/// before, until shutdown: history reaches back at least one interval, and at
/// most two. Ends early once it finds the store closed.
///
/// Several servers of one store may all run this: the one that comes second
/// finds it compacted and leaves it at that.
pub async fn compact_regularly(store: Arc<dyn Store>, interval: Duration, stop: Shutdown) {
    let mut before = Revision(0);
    while stop.guard(tokio::time::sleep(interval)).await.is_some() {
        match compact(&*store, before).await {
            Ok(latest) => before = latest,
            Err(Error::Closed) => return,
            Err(error) => {
                let error = Chain(&error).to_string();
                tracing::warn!(error, "compacting the store; trying again next time");
            }
        }
    }
}

/// Compacts at `before`, unless that is done already; the latest revision now.
async fn compact(store: &dyn Store, before: Revision) -> crate::Result<Revision> {
    if before > store.compacted_revision().await? {
        match store.compact(before).await {
            Ok(()) | Err(Error::Compacted(_)) => {}
            Err(error) => return Err(error),
        }
    }
    store.revision().await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::sqlite::{Config, Sqlite};
    use crate::{LeaseId, Op, Txn};

    async fn put(store: &dyn Store) -> Revision {
        let (key, value) = ("a".into(), "1".into());
        let lease = LeaseId(0);
        let success = vec![Op::Put {
            key,
            value,
            lease,
            prev_kv: false,
        }];
        let txn = Txn {
            success,
            ..Txn::default()
        };
        store.txn(txn).await.unwrap().revision
    }

    #[tokio::test]
    async fn follows_one_interval_behind() {
        let folder = tempfile::tempdir().unwrap();
        let store = Sqlite::open(folder.path().join("state.db"), Config::default()).unwrap();
        let mut before = Revision(0);
        for _ in 0..3 {
            put(&*store).await;
            let latest = put(&*store).await;
            assert_eq!(compact(&*store, before).await.unwrap(), latest);
            assert_eq!(store.compacted_revision().await.unwrap(), before);
            before = latest;
        }
        // Nothing was written since: once, and then no more.
        for _ in 0..2 {
            assert_eq!(compact(&*store, before).await.unwrap(), before);
            assert_eq!(store.compacted_revision().await.unwrap(), before);
        }
    }

    #[tokio::test]
    async fn runs_until_told() {
        let folder = tempfile::tempdir().unwrap();
        let store = Sqlite::open(folder.path().join("state.db"), Config::default()).unwrap();
        let stop = Shutdown::new();
        let often = Duration::from_millis(1);
        let told = tokio::spawn(compact_regularly(store.clone(), often, stop.clone()));
        let latest = put(&*store).await;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while store.compacted_revision().await.unwrap() < latest {
            assert!(tokio::time::Instant::now() < deadline);
            tokio::time::sleep(often).await;
        }
        stop.trigger();
        told.await.unwrap();
    }
}

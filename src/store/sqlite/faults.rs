//! What becomes of writes whose commit fails.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use futures::StreamExt;
use rusqlite::{Connection, ffi};

use super::{Config, Sqlite};
use crate::{
    Error, LeaseId, Op, RangeRequest, Result, Revision, Store, Txn, TxnResult, WatchEvent,
    WatchRequest,
};

async fn put(store: &Sqlite, key: &'static str, lease: i64) -> Result<TxnResult> {
    let (key, value, lease) = (key.into(), "1".into(), LeaseId(lease));
    let success = vec![Op::Put {
        key,
        value,
        lease,
        prev_kv: false,
    }];
    store
        .txn(Txn {
            success,
            ..Txn::default()
        })
        .await
}

fn everything() -> RangeRequest {
    RangeRequest {
        end: Some("\0".into()),
        ..RangeRequest::default()
    }
}

async fn keys(store: &Sqlite) -> Vec<bytes::Bytes> {
    let kvs = store.range(everything()).await.unwrap().kvs;
    kvs.into_iter().map(|kv| kv.key).collect()
}

#[tokio::test]
async fn a_failed_commit_is_an_error_and_not_seen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = Sqlite::open(&path, Config::default()).unwrap();
    put(&store, "a", 0).await.unwrap();
    let request = WatchRequest {
        end: Some("\0".into()),
        ..WatchRequest::default()
    };
    let mut watching = store.watch(request).await.unwrap();

    *store.shared.fault.lock() = Some(ffi::SQLITE_FULL);
    let (b, c) = tokio::join!(put(&store, "b", 0), put(&store, "c", 0));
    assert!(matches!(b, Err(Error::Write(_))), "{b:?}");
    assert!(base::Chain(&b.unwrap_err()).to_string().contains("full"));
    // Whether it shared the commit is a matter of timing.
    let c = c.is_ok();
    assert_eq!(
        keys(&store).await,
        if c { vec!["a", "c"] } else { vec!["a"] }
    );

    put(&store, "d", 0).await.unwrap();
    let latest = if c { 4 } else { 3 };
    assert_eq!(store.revision().await.unwrap(), Revision(latest));
    let mut told = Vec::new();
    while told.len() < usize::from(c) + 1 {
        if let WatchEvent::Events(_, events) = watching.next().await.unwrap().unwrap() {
            told.extend(events.into_iter().map(|event| event.kv.key));
        }
    }
    assert_eq!(told, if c { vec!["c", "d"] } else { vec!["d"] });
    store.close().await;
    let store = Sqlite::open(&path, Config::default()).unwrap();
    assert_eq!(keys(&store).await.len(), if c { 3 } else { 2 });
}

#[tokio::test]
async fn a_commit_that_may_have_failed_stops_all_writing_until_reopened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let store = Sqlite::open(&path, Config::default()).unwrap();
    put(&store, "a", 0).await.unwrap();
    *store.shared.fault.lock() = Some(ffi::SQLITE_IOERR_FSYNC);
    for _ in 0..3 {
        let error = put(&store, "b", 0).await.unwrap_err();
        assert!(matches!(error, Error::Unusable { .. }), "{error:?}");
        let message = error.to_string();
        assert!(
            message.contains("state.db: a write failed and may or may not"),
            "{message}"
        );
        let compacted = store.compact(Revision(2)).await;
        assert!(matches!(compacted, Err(Error::Unusable { .. })));
    }
    assert_eq!(keys(&store).await, ["a"], "reads go on");
    let read = Txn {
        success: vec![Op::Range(everything())],
        ..Txn::default()
    };
    store.txn(read).await.unwrap();
    store.close().await;
    let store = Sqlite::open(&path, Config::default()).unwrap();
    put(&store, "b", 0).await.unwrap();
    assert_eq!(keys(&store).await, ["a", "b"]);
}

#[tokio::test]
async fn a_lease_whose_end_failed_is_still_there() {
    let folder = tempfile::tempdir().unwrap();
    let store = Sqlite::open(folder.path().join("state.db"), Config::default()).unwrap();
    store
        .lease_grant(LeaseId(1), Duration::from_secs(60))
        .await
        .unwrap();
    put(&store, "a", 1).await.unwrap();
    *store.shared.fault.lock() = Some(ffi::SQLITE_FULL);
    let revoked = store.lease_revoke(LeaseId(1)).await;
    assert!(matches!(revoked, Err(Error::Write(_))), "{revoked:?}");
    assert_eq!(store.lease_info(LeaseId(1)).await.unwrap().keys, ["a"]);
    store.lease_revoke(LeaseId(1)).await.unwrap();
    assert!(keys(&store).await.is_empty());
}

#[tokio::test]
async fn a_compaction_that_failed_goes_on_with_the_next_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let config = Config {
        fsync: false,
        ..Config::default()
    };
    let store = Sqlite::open(&path, config).unwrap();
    for _ in 0..1000 {
        put(&store, "a", 0).await.unwrap();
    }
    store.compact(Revision(1001)).await.unwrap();
    *store.shared.fault.lock() = Some(ffi::SQLITE_FULL);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    let swept = || {
        let connection = Connection::open(&path).unwrap();
        let rows = connection.query_row("SELECT count(*) FROM versions", [], |row| row.get(0));
        let swept =
            connection.query_row("SELECT value FROM meta WHERE name = 'swept'", [], |row| {
                row.get::<_, i64>(0)
            });
        (rows.unwrap(), swept.unwrap_or(0))
    };
    let mut writes = 0;
    while swept() != (1 + writes, 1001) {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", swept());
        // The fault may hit this write in place of the compaction.
        writes += i64::from(put(&store, "b", 0).await.is_ok());
    }
}

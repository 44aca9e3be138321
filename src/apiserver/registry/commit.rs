//! Writing one object: compare-and-swap against the revision it was read at.

use std::sync::Arc;

use api::{Reason, Status};
use bytes::Bytes;
use store::{Compare, Op, OpResult, RangeRequest, Revision, Txn};

use super::{Registry, Resource};
use crate::cache::Entry;

/// What a commit came to.
pub(crate) enum Commit {
    /// Written at this revision.
    Done(u64),
    /// Somebody was faster; this is what is there now.
    Conflict(Option<Arc<Entry>>),
}

impl Registry {
    /// Writes (or, without a value, deletes) a key if it is still at
    /// `expected`; 0 expects it to be absent.
    pub(crate) async fn commit(
        &self,
        resource: &Resource,
        key: &str,
        expected: u64,
        value: Option<Bytes>,
        lease: store::LeaseId,
    ) -> Result<Commit, Status> {
        self.hub.admit().await;
        let full: Bytes = resource.full_key(key).into();
        let write = match value {
            Some(value) => Op::Put {
                key: full.clone(),
                value,
                lease,
                prev_kv: false,
            },
            None => Op::Delete {
                key: full.clone(),
                end: None,
                prev_kv: false,
            },
        };
        let result = self
            .hub
            .store()
            .txn(Txn {
                compares: vec![Compare::mod_revision(full.clone(), Revision(expected))],
                success: vec![write],
                failure: vec![Op::Range(RangeRequest {
                    key: full,
                    ..RangeRequest::default()
                })],
            })
            .await
            .map_err(|error| store_error(&error))?;
        if result.succeeded {
            return Ok(Commit::Done(result.revision.0));
        }
        let latest = match result.results.into_iter().next() {
            Some(OpResult::Range(range)) => range.kvs.into_iter().next(),
            _ => None,
        };
        Ok(Commit::Conflict(latest.and_then(|kv| {
            Entry::new(&resource.codec, key.into(), &kv.value, kv.mod_revision.0).map(Arc::new)
        })))
    }

    /// Reads one key from the store itself.
    pub(crate) async fn fetch(
        &self,
        resource: &Resource,
        key: &str,
    ) -> Result<Option<Arc<Entry>>, Status> {
        let range = self
            .hub
            .store()
            .range(RangeRequest {
                key: resource.full_key(key).into(),
                ..RangeRequest::default()
            })
            .await
            .map_err(|error| store_error(&error))?;
        Ok(range.kvs.into_iter().next().and_then(|kv| {
            Entry::new(&resource.codec, key.into(), &kv.value, kv.mod_revision.0).map(Arc::new)
        }))
    }
}

/// A failure of the store as clients see it.
pub(crate) fn store_error(error: &store::Error) -> Status {
    match error {
        store::Error::Compacted(_) => Status::new(
            Reason::Expired,
            "The resourceVersion for the provided list is too old.",
        ),
        store::Error::Closed => Status::new(
            Reason::ServiceUnavailable,
            "the server is currently unable to handle the request",
        ),
        other => {
            let chain = base::Chain(other).to_string();
            tracing::error!(error = %chain, "store");
            Status::internal(chain)
        }
    }
}

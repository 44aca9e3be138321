//! The store under the API server: an MVCC key-value map with etcd's semantics.
//!
//! One global [`Revision`] counts transactions that write. Every version of
//! every key since the last compaction can be read at any revision and watched
//! from it. The store knows bytes, not Kubernetes.
//!
//! [`Store`] is the face; `sqlite` implements it over one SQLite database,
//! and a client of an external etcd cluster can implement it as well: callers
//! hold an `Arc<dyn Store>` and do not know which they have.

#![forbid(unsafe_code)]

mod compactor;
pub mod sqlite;
mod types;

pub use compactor::compact_regularly;
pub use types::{
    Commit, Compare, CompareOp, CompareTarget, Error, Event, EventKind, KeyValue, LeaseId,
    LeaseInfo, Op, OpResult, RangeRequest, RangeResult, Result, Revision, Txn, TxnResult,
    WatchEvent, WatchRequest,
};

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;

/// Sees every write of a store in the moment it happens; see [`Store::observe`].
pub trait Observer: Send + Sync {
    /// Takes in what was written since the last call, in revision order (events
    /// carry no version before); with it, the store is at `revision`. Called
    /// on the thread that writes: every writer waits until it returns.
    fn observe(&self, commits: &[Arc<Commit>], revision: Revision);
}

/// An MVCC key-value store with watches.
///
/// A write returns after it is durable: acknowledged is never lost, and a
/// revision never moves backwards.
#[async_trait]
pub trait Store: Send + Sync {
    /// Reads keys at a revision, in key order.
    async fn range(&self, request: RangeRequest) -> Result<RangeResult>;

    /// Runs a transaction: all compares hold → `success`, else `failure`.
    /// Writes of one transaction share one revision; a transaction without
    /// writes takes none.
    async fn txn(&self, txn: Txn) -> Result<TxnResult>;

    /// Watches keys from a revision. The stream ends only with an error event
    /// or when dropped; [`Error::Compacted`] when the revision is gone.
    async fn watch(&self, request: WatchRequest) -> Result<BoxStream<'static, Result<WatchEvent>>>;

    /// Has `observer` told of every write behind the returned revision, before
    /// the write is acknowledged: whoever keeps a copy of what is stored is then
    /// never behind what was acknowledged. One observer a store; a second call
    /// replaces the first. `None` if this store cannot do that; watch it instead.
    fn observe(&self, observer: Weak<dyn Observer>) -> Option<Revision> {
        drop(observer);
        None
    }

    /// Makes every watch that has caught up send a [`WatchEvent::Progress`]
    /// with a revision at least as new as the one [`Store::revision`] gave
    /// before: whoever needs to know that a watch has seen everything asks so.
    async fn request_progress(&self) -> Result<()>;

    /// Forgets versions superseded at or before `revision`.
    async fn compact(&self, revision: Revision) -> Result<()>;

    /// Grants a lease; keys attached to it are deleted when it runs out. A
    /// zero id lets the store choose one.
    async fn lease_grant(&self, id: LeaseId, ttl: Duration) -> Result<LeaseId>;

    /// Renews a lease; returns its granted time to live.
    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Duration>;

    /// Ends a lease and deletes its keys in one revision.
    async fn lease_revoke(&self, id: LeaseId) -> Result<()>;

    /// A lease's times and keys.
    async fn lease_info(&self, id: LeaseId) -> Result<LeaseInfo>;

    /// Every lease there is, by id.
    async fn leases(&self) -> Result<Vec<LeaseId>>;

    /// Revision of the last write that is durable and visible.
    async fn revision(&self) -> Result<Revision>;

    /// Oldest revision that can still be read or watched from; 0 while
    /// nothing was compacted.
    async fn compacted_revision(&self) -> Result<Revision>;

    /// Bytes the store takes on disk.
    async fn size(&self) -> Result<u64>;
}

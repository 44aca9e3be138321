//! Requests, results and errors of a [`crate::Store`].

use bytes::Bytes;

/// Result of a store operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Position in the store's history. 1 is the empty store; every writing
/// transaction adds one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Name of a lease; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// One version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// Key.
    pub key: Bytes,
    /// Value; empty in a keys-only range and in a delete event.
    pub value: Bytes,
    /// Revision that created the key.
    pub create_revision: Revision,
    /// Revision of this version.
    pub mod_revision: Revision,
    /// Writes since creation, from 1; 0 in a delete event.
    pub version: u64,
    /// Lease it is attached to.
    pub lease: LeaseId,
}

/// Which keys to read. `end: None` is the one key; `end: Some(e)` is the
/// half-open range `[key, e)`; an end of `\0` is everything from `key` on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeRequest {
    /// First key.
    pub key: Bytes,
    /// End of the range, exclusive.
    pub end: Option<Bytes>,
    /// Revision to read at; the latest when `None` or 0.
    pub revision: Option<Revision>,
    /// Most keys to return; 0 is all.
    pub limit: usize,
    /// Leave values out.
    pub keys_only: bool,
    /// Leave keys and values out: only [`RangeResult::count`] counts.
    pub count_only: bool,
}

/// Keys read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeResult {
    /// Revision of the store when it answered.
    pub revision: Revision,
    /// Keys in key order.
    pub kvs: Vec<KeyValue>,
    /// Whether the limit cut the range.
    pub more: bool,
    /// Keys in the range, beyond the limit, too.
    pub count: u64,
}

/// What a compare looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompareTarget {
    /// Revision that created the key; 0 if it is absent.
    CreateRevision(Revision),
    /// Revision of its latest version; 0 if it is absent.
    ModRevision(Revision),
    /// Writes since creation; 0 if it is absent.
    Version(u64),
    /// Value; an absent key never compares as true.
    Value(Bytes),
    /// Lease; 0 if it is absent.
    Lease(LeaseId),
}

/// How a compare compares: *key's field* OP *target*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareOp {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
    /// Greater.
    Greater,
    /// Less.
    Less,
}

/// One condition of a transaction. With an `end`, it must hold for every key
/// in the range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// Key.
    pub key: Bytes,
    /// End of a range, exclusive.
    pub end: Option<Bytes>,
    /// How.
    pub op: CompareOp,
    /// With what.
    pub target: CompareTarget,
}

impl Compare {
    /// `key` was last changed at `revision`; revision 0 says it is absent.
    pub fn mod_revision(key: impl Into<Bytes>, revision: Revision) -> Self {
        Self {
            key: key.into(),
            end: None,
            op: CompareOp::Equal,
            target: CompareTarget::ModRevision(revision),
        }
    }
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Reads.
    Range(RangeRequest),
    /// Writes a key.
    Put {
        /// Key.
        key: Bytes,
        /// Value.
        value: Bytes,
        /// Lease to attach to.
        lease: LeaseId,
        /// Return the version before.
        prev_kv: bool,
    },
    /// Deletes a key or range.
    Delete {
        /// First key.
        key: Bytes,
        /// End of a range, exclusive.
        end: Option<Bytes>,
        /// Return the versions before.
        prev_kv: bool,
    },
    /// A nested transaction.
    Txn(Txn),
}

/// A transaction. No key may be written twice in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// Conditions; all must hold for `success`.
    pub compares: Vec<Compare>,
    /// Steps when they hold.
    pub success: Vec<Op>,
    /// Steps when one does not.
    pub failure: Vec<Op>,
}

impl Txn {
    /// Bytes of the values it may write.
    pub(crate) fn bytes(&self) -> usize {
        let of = |step: &Op| match step {
            Op::Put { key, value, .. } => key.len() + value.len(),
            Op::Txn(txn) => txn.bytes(),
            Op::Range(_) | Op::Delete { .. } => 0,
        };
        self.success.iter().chain(&self.failure).map(of).sum()
    }
}

/// Result of a step, in the order of the steps that ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResult {
    /// Of [`Op::Range`].
    Range(RangeResult),
    /// Of [`Op::Put`]; the version before, when asked for.
    Put(Option<KeyValue>),
    /// Of [`Op::Delete`]: how many keys, and their versions before, when asked for.
    Delete(u64, Vec<KeyValue>),
    /// Of [`Op::Txn`].
    Txn(TxnResult),
}

/// Result of a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnResult {
    /// Revision of the store after it: its own if it wrote.
    pub revision: Revision,
    /// Whether the conditions held.
    pub succeeded: bool,
    /// What its steps returned.
    pub results: Vec<OpResult>,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was written.
    Put,
    /// It was deleted.
    Delete,
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Written or deleted.
    pub kind: EventKind,
    /// The new version; for a delete, the key and the deleting revision.
    pub kv: KeyValue,
    /// The version before, when asked for and not compacted.
    pub prev: Option<KeyValue>,
}

/// All changes of one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Revision.
    pub revision: Revision,
    /// Changes, in the order of the transaction's steps.
    pub events: Vec<Event>,
}

/// What to watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchRequest {
    /// First key.
    pub key: Bytes,
    /// End of the range, exclusive, as in [`RangeRequest`].
    pub end: Option<Bytes>,
    /// First revision to deliver; from now on when `None` or 0.
    pub start: Option<Revision>,
    /// Deliver the version before each change.
    pub prev_kv: bool,
}

/// What a watch delivers, in revision order without a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// All changes of one revision that match.
    Events(Revision, Vec<Event>),
    /// Nothing that matches has happened up to this revision (sent when the
    /// watch has caught up, and from time to time while the store moves on).
    Progress(Revision),
}

/// A lease, as [`crate::Store::lease_info`] tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Time to live it was granted.
    pub granted: std::time::Duration,
    /// What is left of it.
    pub remaining: std::time::Duration,
    /// Keys attached to it, in order.
    pub keys: Vec<Bytes>,
}

/// Why a store operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The revision was compacted; the oldest readable one is given.
    #[error("required revision has been compacted (oldest is {0})")]
    Compacted(Revision),
    /// The revision has not happened yet; the latest one is given.
    #[error("required revision is a future revision (latest is {0})")]
    Future(Revision),
    /// A transaction writes a key twice.
    #[error("duplicate key given in txn request")]
    DuplicateKey,
    /// No such lease.
    #[error("requested lease not found")]
    LeaseNotFound,
    /// A lease of this id exists.
    #[error("lease already exists")]
    LeaseExists,
    /// A watcher fell too far behind and was ended; resume from a revision.
    #[error("watcher fell behind and was ended")]
    Lagged,
    /// The database cannot be used: corrupt, of a newer version, read-only or
    /// out of space. Says which file and what to do.
    #[error("{what}")]
    Unusable {
        /// File, reason and the way out.
        what: String,
        /// SQLite's or the system's error.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The write failed and is not durable; nothing of it is visible.
    #[error("write failed")]
    Write(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The store is shutting down.
    #[error("store is shutting down")]
    Closed,
}

//! Whether an informer has caught up with a controller's own writes.
//!
//! A controller that creates three pods and runs again before its informer
//! shows them would create three more. Upstream counts events against a
//! number of expected creations and deletions; here a controller remembers
//! the revision of what it created and the names of what it deleted, and asks
//! the informer: nothing is counted, so nothing can be miscounted.

use std::collections::HashMap;
use std::time::Duration;

use client::{Informer, NamespacedName, Watched};
use parking_lot::Mutex;
use tokio::time::Instant;

/// After this long a write is taken for seen, in case it left no trace.
const TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Outstanding writes by the key of the object they were made for.
#[derive(Default)]
pub(crate) struct Expectations {
    pending: Mutex<HashMap<NamespacedName, Pending>>,
}

struct Pending {
    revision: u64,
    deleted: Vec<(NamespacedName, Option<String>)>,
    since: Instant,
}

impl Expectations {
    /// Notes what the API server answered to a create.
    pub(crate) fn created<K: client::Resource>(&self, owner: &NamespacedName, object: &K) {
        let version = object.meta().resource_version.as_deref();
        let revision = version.and_then(|version| version.parse().ok());
        self.note(owner, |pending| {
            pending.revision = pending.revision.max(revision.unwrap_or(0));
        });
    }

    /// Notes an object whose deletion was asked for.
    pub(crate) fn deleted<K: client::Resource>(&self, owner: &NamespacedName, object: &K) {
        let deleted = (NamespacedName::of(object), object.meta().uid.clone());
        self.note(owner, |pending| pending.deleted.push(deleted));
    }

    fn note(&self, owner: &NamespacedName, note: impl FnOnce(&mut Pending)) {
        let mut pending = self.pending.lock();
        let entry = pending.entry(owner.clone()).or_insert_with(|| Pending {
            revision: 0,
            deleted: Vec::new(),
            since: Instant::now(),
        });
        entry.since = Instant::now();
        note(entry);
    }

    /// Whether `informer` shows every write made for `owner`.
    pub(crate) fn satisfied<K: Watched>(
        &self,
        owner: &NamespacedName,
        informer: &Informer<K>,
    ) -> bool {
        let mut all = self.pending.lock();
        let Some(pending) = all.get(owner) else {
            return true;
        };
        let created = informer.revision() >= pending.revision;
        let deleted = pending.deleted.iter().all(|(name, uid)| {
            informer.get(name).is_none_or(|object| {
                let meta = object.meta();
                meta.uid != *uid || meta.deletion_timestamp.is_some()
            })
        });
        let satisfied = created && deleted || pending.since.elapsed() >= TIMEOUT;
        if satisfied {
            all.remove(owner);
        }
        satisfied
    }

    /// Forgets an owner that is gone.
    pub(crate) fn forget(&self, owner: &NamespacedName) {
        self.pending.lock().remove(owner);
    }
}

//! Leases: their times, their keys, and the one timer that ends them.
//!
//! Times live in memory only: keeping a lease alive writes nothing, and after a
//! restart every lease has its full time again, as in etcd. The timer thread
//! sleeps until the next deadline and then asks the writer to end the lease,
//! which deletes its keys in one revision.
//!
//! Deadlines sit in a heap. Keeping a lease alive does not touch it: an entry
//! that comes up early is put back at the lease's true deadline.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::{Error, LeaseId, LeaseInfo, Result};

/// All leases, shared by callers, the writer and the timer.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    book: Mutex<Book>,
    earlier: Condvar,
}

/// The leases behind the lock.
#[derive(Debug, Default)]
pub(crate) struct Book {
    leases: BTreeMap<i64, Lease>,
    deadlines: BinaryHeap<Reverse<(Instant, i64)>>,
    closed: bool,
}

#[derive(Debug)]
struct Lease {
    granted: Duration,
    deadline: Instant,
    /// It ran out, and the writer was asked to end it.
    ending: bool,
    keys: BTreeSet<Bytes>,
}

impl Leases {
    /// Locks them.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock()
    }

    /// Adds a lease whose time starts now.
    pub(crate) fn grant(&self, id: i64, granted: Duration) {
        let mut book = self.book.lock();
        // Far enough for every client, and no overflow.
        let deadline = Instant::now() + granted.min(Duration::from_secs(u64::from(u32::MAX)));
        let lease = Lease {
            granted,
            deadline,
            ending: false,
            keys: BTreeSet::new(),
        };
        book.leases.insert(id, lease);
        book.arm(deadline, id, &self.earlier);
    }

    /// Renews a lease; its granted time.
    pub(crate) fn keep_alive(&self, id: i64) -> Result<Duration> {
        let mut book = self.book.lock();
        let lease = book.leases.get_mut(&id).filter(|lease| !lease.ending);
        let lease = lease.ok_or(Error::LeaseNotFound)?;
        let granted = lease.granted.min(Duration::from_secs(u64::from(u32::MAX)));
        lease.deadline = Instant::now() + granted;
        Ok(lease.granted)
    }

    /// What is known of a lease.
    pub(crate) fn info(&self, id: i64) -> Result<LeaseInfo> {
        let book = self.book.lock();
        let lease = book.leases.get(&id).ok_or(Error::LeaseNotFound)?;
        Ok(LeaseInfo {
            granted: lease.granted,
            remaining: lease.deadline.saturating_duration_since(Instant::now()),
            keys: lease.keys.iter().cloned().collect(),
        })
    }

    /// Every id, in order.
    pub(crate) fn ids(&self) -> Vec<LeaseId> {
        self.book
            .lock()
            .leases
            .keys()
            .copied()
            .map(LeaseId)
            .collect()
    }

    /// Ends a lease later, after ending it has failed.
    pub(crate) fn retry(&self, id: i64, later: Duration) {
        let mut book = self.book.lock();
        let deadline = Instant::now() + later;
        if book.leases.contains_key(&id) {
            book.arm(deadline, id, &self.earlier);
        }
    }

    /// Stops the timer.
    pub(crate) fn close(&self) {
        self.book.lock().closed = true;
        self.earlier.notify_all();
    }

    /// Sleeps from deadline to deadline and hands each lease that ran out to
    /// `end`, until closed or `end` says that nobody listens.
    pub(crate) fn run_timer(&self, mut end: impl FnMut(i64) -> bool) {
        let mut book = self.book.lock();
        while !book.closed {
            let now = Instant::now();
            let Some(&Reverse((deadline, id))) = book.deadlines.peek() else {
                self.earlier.wait(&mut book);
                continue;
            };
            if deadline > now {
                self.earlier.wait_until(&mut book, deadline);
                continue;
            }
            book.deadlines.pop();
            let Some(lease) = book.leases.get_mut(&id) else {
                continue;
            };
            if lease.deadline > now {
                let deadline = lease.deadline;
                book.deadlines.push(Reverse((deadline, id)));
                continue;
            }
            lease.ending = true;
            if !MutexGuard::unlocked(&mut book, || end(id)) {
                return;
            }
        }
    }
}

impl Book {
    fn arm(&mut self, deadline: Instant, id: i64, earlier: &Condvar) {
        let first = self
            .deadlines
            .peek()
            .is_none_or(|Reverse((first, _))| deadline < *first);
        self.deadlines.push(Reverse((deadline, id)));
        if first {
            earlier.notify_all();
        }
    }

    /// Whether there is such a lease.
    pub(crate) fn contains(&self, id: i64) -> bool {
        self.leases.contains_key(&id)
    }

    /// Whether it ran out and nobody renewed it in time.
    pub(crate) fn is_ending(&self, id: i64) -> bool {
        self.leases.get(&id).is_some_and(|lease| lease.ending)
    }

    /// Keys attached to it.
    pub(crate) fn keys(&self, id: i64) -> impl Iterator<Item = &Bytes> {
        self.leases
            .get(&id)
            .into_iter()
            .flat_map(|lease| &lease.keys)
    }

    /// Moves a key from one lease to another; 0 is none.
    pub(crate) fn attach(&mut self, key: &Bytes, from: i64, to: i64) {
        if from == to {
            return;
        }
        if let Some(lease) = self.leases.get_mut(&from) {
            lease.keys.remove(key);
        }
        if let Some(lease) = self.leases.get_mut(&to) {
            lease.keys.insert(key.clone());
        }
    }

    /// Forgets a lease that was ended.
    pub(crate) fn remove(&mut self, id: i64) {
        self.leases.remove(&id);
    }
}

//! Where the writer meets the watchers.
//!
//! The writer makes one list of events per revision and hands every watcher
//! that matches a reference to it; each watcher picks its own events on its own
//! task. A queue that is full ends its watch with [`crate::Error::Lagged`]: a
//! consumer that cannot keep up resumes from the revision it has, out of the
//! table, and what waits for it in memory stays bounded.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::Shared;
use super::keys::KeyRange;
use crate::{Commit, Error, Result};

/// Revisions that may be missing when a watch joins the live ones; reading them
/// must not take longer than its queue lasts.
const JOIN_GAP: u64 = 500;

/// What a watcher's queue carries.
#[derive(Debug)]
pub(crate) enum Message {
    /// Events, some of which are for the watcher.
    Commit(Arc<Commit>),
    /// The hub has come this far.
    Progress(u64),
}

/// Where the writer meets the watchers.
#[derive(Debug)]
pub(crate) struct Hub {
    watchers: HashMap<u64, Watcher>,
    /// Watchers of single keys.
    singles: HashMap<Bytes, Vec<u64>>,
    /// Watchers of ranges.
    ranges: Vec<u64>,
    next_id: u64,
    published: u64,
    queue: usize,
    progress_interval: Duration,
    last_progress: Instant,
    closed: bool,
}

#[derive(Debug)]
struct Watcher {
    range: KeyRange,
    /// First revision it wants.
    from: u64,
    prev_kv: bool,
    queue: mpsc::Sender<Message>,
    lagged: Arc<AtomicBool>,
    /// Last revision it was told of.
    told: u64,
}

impl Hub {
    /// A hub at `published`, whose watchers may have `queue` commits waiting.
    pub(crate) fn new(published: u64, queue: usize, progress_interval: Duration) -> Self {
        Self {
            watchers: HashMap::new(),
            singles: HashMap::new(),
            ranges: Vec::new(),
            next_id: 0,
            published,
            queue: queue.max(1),
            progress_interval,
            last_progress: Instant::now(),
            closed: false,
        }
    }

    /// Watchers there are.
    pub(crate) fn len(&self) -> usize {
        self.watchers.len()
    }

    /// Last revision that was handed out.
    pub(crate) fn published(&self) -> u64 {
        self.published
    }

    /// Whether a watcher wants to know what was at `key` before.
    pub(crate) fn wants_previous(&self, key: &Bytes) -> bool {
        let wants = |id: &u64| {
            let watcher = self.watchers.get(id);
            watcher.is_some_and(|watcher| watcher.prev_kv && watcher.range.contains(key))
        };
        self.ranges.iter().any(wants) || self.singles.get(key).into_iter().flatten().any(wants)
    }

    /// Hands out commits in revision order; the store is at `revision` now.
    pub(crate) fn publish(&mut self, commits: &[Arc<Commit>], revision: u64) {
        self.published = revision;
        let mut full = Vec::new();
        for commit in commits {
            for id in &self.ranges {
                let Some(watcher) = self.watchers.get_mut(id) else {
                    continue;
                };
                let range = &watcher.range;
                if commit
                    .events
                    .iter()
                    .any(|event| range.contains(&event.kv.key))
                {
                    watcher.tell(commit, *id, &mut full);
                }
            }
            if self.singles.is_empty() {
                continue;
            }
            for event in &commit.events {
                for id in self.singles.get(&event.kv.key).into_iter().flatten() {
                    let Some(watcher) = self.watchers.get_mut(id) else {
                        continue;
                    };
                    if watcher.told != commit.revision.0 {
                        watcher.tell(commit, *id, &mut full);
                    }
                }
            }
        }
        for id in full {
            self.remove(id);
        }
        if self.last_progress.elapsed() >= self.progress_interval {
            self.last_progress = Instant::now();
            self.tell_progress(false);
        }
    }

    /// Tells watchers how far the store is; those that just had an event know.
    pub(crate) fn tell_progress(&mut self, all: bool) {
        for watcher in self.watchers.values_mut() {
            // A full queue holds something newer to come, or ends the watch.
            if (all || watcher.told < self.published)
                && watcher
                    .queue
                    .try_send(Message::Progress(self.published))
                    .is_ok()
            {
                watcher.told = watcher.told.max(self.published);
            }
        }
    }

    /// Ends every watch.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.watchers.clear();
        self.singles.clear();
        self.ranges.clear();
    }

    /// Adds a watcher if at most [`JOIN_GAP`] revisions from `from` on are
    /// behind the hub already.
    pub(crate) fn join(
        &mut self,
        shared: &Arc<Shared>,
        from: u64,
        request: &Wanted,
    ) -> Result<Option<Live>> {
        if self.closed {
            return Err(Error::Closed);
        }
        if (self.published + 1).saturating_sub(from) > JOIN_GAP {
            return Ok(None);
        }
        let (sender, queue) = mpsc::channel(self.queue);
        let lagged = Arc::new(AtomicBool::new(false));
        let id = self.next_id;
        self.next_id += 1;
        match &request.range {
            KeyRange::One(key) => self.singles.entry(key.clone()).or_default().push(id),
            _ => self.ranges.push(id),
        }
        let watcher = Watcher {
            range: request.range.clone(),
            from: from.max(self.published + 1),
            prev_kv: request.prev_kv,
            queue: sender,
            lagged: Arc::clone(&lagged),
            told: self.published,
        };
        self.watchers.insert(id, watcher);
        let seat = Seat {
            shared: Arc::clone(shared),
            id,
        };
        Ok(Some(Live {
            queue,
            lagged,
            joined: self.published,
            _seat: seat,
        }))
    }

    fn remove(&mut self, id: u64) {
        let Some(watcher) = self.watchers.remove(&id) else {
            return;
        };
        match &watcher.range {
            KeyRange::One(key) => {
                if let Some(ids) = self.singles.get_mut(key) {
                    ids.retain(|other| *other != id);
                    if ids.is_empty() {
                        self.singles.remove(key);
                    }
                }
            }
            _ => self.ranges.retain(|other| *other != id),
        }
    }
}

impl Watcher {
    fn tell(&mut self, commit: &Arc<Commit>, id: u64, full: &mut Vec<u64>) {
        if commit.revision.0 < self.from {
            return;
        }
        self.told = commit.revision.0;
        match self.queue.try_send(Message::Commit(Arc::clone(commit))) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                self.lagged.store(true, Ordering::Release);
                // Nothing may follow what it missed.
                self.from = u64::MAX;
                full.push(id);
            }
            Err(TrySendError::Closed(_)) => full.push(id),
        }
    }
}

/// A watcher's place in the hub; leaves it when dropped.
struct Seat {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.hub.lock().remove(self.id);
    }
}

/// What a watch asks for.
pub(crate) struct Wanted {
    /// Keys.
    pub(crate) range: KeyRange,
    /// Whether with the version before.
    pub(crate) prev_kv: bool,
}

/// The receiving end of a watcher in the hub.
pub(crate) struct Live {
    /// What it is told.
    pub(crate) queue: mpsc::Receiver<Message>,
    /// Whether the queue ended because it was full.
    pub(crate) lagged: Arc<AtomicBool>,
    /// Revision the hub was at.
    pub(crate) joined: u64,
    _seat: Seat,
}

//! Watches: history from the table, then live events from the writer.
//!
//! A watch that starts in the past reads history in chunks until little is
//! missing. Then it joins the hub, which from that moment queues every later
//! commit for it, reads the little that is missing, and goes on with its queue:
//! no revision is lost or told twice.
//!
//! The writer makes one list of events per revision and hands every watcher
//! that matches a reference to it; each watcher picks its own events on its own
//! task. A queue that is full ends its watch with [`Error::Lagged`]: a consumer
//! that cannot keep up resumes from the revision it has, out of the table, and
//! what waits for it in memory stays bounded.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::Shared;
use super::keys::KeyRange;
use super::read::{HistoryRow, Snapshot, with_snapshot};
use super::txn::key_value;
use crate::{
    Error, Event, EventKind, KeyValue, LeaseId, Result, Revision, WatchEvent, WatchRequest,
};

/// Revisions that may be missing when a watch joins the live ones; reading them
/// must not take longer than its queue lasts.
const JOIN_GAP: u64 = 500;

/// All events of one revision, with the versions before where a watcher asks.
#[derive(Debug)]
pub(crate) struct Commit {
    pub(crate) revision: u64,
    pub(crate) events: Vec<Event>,
}

#[derive(Debug)]
enum Message {
    Commit(Arc<Commit>),
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
                    if watcher.told != commit.revision {
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
    fn join(&mut self, shared: &Arc<Shared>, from: u64, request: &Wanted) -> Result<Option<Live>> {
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
        if commit.revision < self.from {
            return;
        }
        self.told = commit.revision;
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
struct Wanted {
    range: KeyRange,
    prev_kv: bool,
}

/// The receiving end of a watcher in the hub.
struct Live {
    queue: mpsc::Receiver<Message>,
    lagged: Arc<AtomicBool>,
    /// Revision the hub was at.
    joined: u64,
    _seat: Seat,
}

enum Phase {
    /// Far behind: reading history.
    Behind,
    /// In the hub; reading what is missing up to the revision it joined at.
    Joined(Live),
    /// Everything comes from the hub.
    Live(Live),
    /// Told its last.
    Ended,
}

struct Watch {
    shared: Arc<Shared>,
    wanted: Arc<Wanted>,
    /// First revision that was not read yet.
    next: u64,
    ready: VecDeque<WatchEvent>,
    phase: Phase,
}

/// Starts a watch. It is in the hub before this returns, unless it has a lot
/// to catch up on.
pub(crate) fn watch(
    shared: &Arc<Shared>,
    request: WatchRequest,
) -> Result<BoxStream<'static, Result<WatchEvent>>> {
    let range = KeyRange::new(request.key, request.end);
    let wanted = Arc::new(Wanted {
        range,
        prev_kv: request.prev_kv,
    });
    let start = request.start.filter(|revision| revision.0 != 0);
    if let Some(Revision(start)) = start {
        let compacted = shared.index.read().compacted;
        if start < compacted {
            return Err(Error::Compacted(Revision(compacted)));
        }
    }
    let mut hub = shared.hub.lock();
    let next = start.map_or(hub.published + 1, |start| start.0);
    let phase = match hub.join(shared, next, &wanted)? {
        Some(live) => Phase::Joined(live),
        None => Phase::Behind,
    };
    drop(hub);
    let shared = Arc::clone(shared);
    let watch = Watch {
        shared,
        wanted,
        next,
        ready: VecDeque::new(),
        phase,
    };
    let events = stream::unfold(watch, |mut watch| async move {
        let event = watch.next_event().await?;
        if event.is_err() {
            watch.phase = Phase::Ended;
        }
        Some((event, watch))
    });
    Ok(events.boxed())
}

impl Watch {
    async fn next_event(&mut self) -> Option<Result<WatchEvent>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            let stepped = match std::mem::replace(&mut self.phase, Phase::Ended) {
                Phase::Ended => return None,
                Phase::Behind => self.step_behind().await,
                Phase::Joined(live) => self.step_joined(live).await,
                Phase::Live(live) => self.step_live(live).await,
            };
            match stepped {
                Ok(phase) => self.phase = phase,
                Err(error) => return Some(Err(error)),
            }
        }
    }

    async fn step_behind(&mut self) -> Result<Phase> {
        let joined = self
            .shared
            .hub
            .lock()
            .join(&self.shared, self.next, &self.wanted)?;
        if let Some(live) = joined {
            return Ok(Phase::Joined(live));
        }
        let until = self.shared.index.read().revision;
        self.read_history(until).await?;
        Ok(Phase::Behind)
    }

    async fn step_joined(&mut self, live: Live) -> Result<Phase> {
        if self.next <= live.joined {
            self.read_history(live.joined).await?;
            return Ok(Phase::Joined(live));
        }
        self.ready
            .push_back(WatchEvent::Progress(Revision(live.joined)));
        Ok(Phase::Live(live))
    }

    async fn step_live(&mut self, mut live: Live) -> Result<Phase> {
        match live.queue.recv().await {
            Some(Message::Progress(revision)) => {
                self.ready
                    .push_back(WatchEvent::Progress(Revision(revision)));
            }
            Some(Message::Commit(commit)) => {
                let matching = commit
                    .events
                    .iter()
                    .filter(|event| self.wanted.range.contains(&event.kv.key));
                let events = matching.map(|event| Event {
                    kind: event.kind,
                    kv: event.kv.clone(),
                    prev: event.prev.as_ref().filter(|_| self.wanted.prev_kv).cloned(),
                });
                let events = WatchEvent::Events(Revision(commit.revision), events.collect());
                self.ready.push_back(events);
            }
            None if live.lagged.load(Ordering::Acquire) => return Err(Error::Lagged),
            None => return Err(Error::Closed),
        }
        Ok(Phase::Live(live))
    }

    /// Reads the next chunk of history, up to `until`, into `ready`.
    async fn read_history(&mut self, until: u64) -> Result<()> {
        let (from, wanted) = (self.next, Arc::clone(&self.wanted));
        let check = move |index: &super::index::Index| match index.compacted {
            compacted if from < compacted => Err(Error::Compacted(Revision(compacted))),
            _ => Ok(()),
        };
        let read = move |shared: &Shared, snapshot: &Snapshot<'_>, ()| {
            let (rows, next) = snapshot.table().history(&wanted.range, from, until)?;
            let mut ready = VecDeque::new();
            let mut rows = rows.into_iter().peekable();
            while let Some(first) = rows.peek() {
                let revision = first.version.slot.revision();
                let mut events = Vec::new();
                while let Some(row) = rows.next_if(|r| r.version.slot.revision() == revision) {
                    events.push(event_of(shared, snapshot, row, wanted.prev_kv)?);
                }
                ready.push_back(WatchEvent::Events(Revision(revision), events));
            }
            Ok((ready, next))
        };
        let (ready, next) = with_snapshot(&self.shared, check, read).await?;
        self.ready.extend(ready);
        self.next = next;
        Ok(())
    }
}

fn event_of(
    shared: &Shared,
    snapshot: &Snapshot<'_>,
    row: HistoryRow,
    prev_kv: bool,
) -> Result<Event> {
    let slot = row.version.slot;
    let prev = match prev_kv {
        false => None,
        true => {
            let before = shared.index.read().before(&row.key, slot);
            let table = snapshot.table();
            let prev = |slot| -> Result<KeyValue> {
                Ok(key_value(
                    row.key.clone(),
                    &table.version(slot)?,
                    table.value(slot)?,
                ))
            };
            before.map(prev).transpose()?
        }
    };
    Ok(event(row.key, &row.version, row.value, prev))
}

/// The event that a write is.
pub(crate) fn event(
    key: Bytes,
    version: &super::row::Version,
    value: Bytes,
    prev: Option<KeyValue>,
) -> Event {
    if !version.slot.is_tombstone() {
        return Event {
            kind: EventKind::Put,
            kv: key_value(key, version, value),
            prev,
        };
    }
    let kv = KeyValue {
        key,
        value: Bytes::new(),
        create_revision: Revision(0),
        mod_revision: Revision(version.slot.revision()),
        version: 0,
        lease: LeaseId(0),
    };
    Event {
        kind: EventKind::Delete,
        kv,
        prev,
    }
}

//! Watches: history from the table, then live events from the writer.
//!
//! A watch that starts in the past reads history in chunks until little is
//! missing. Then it joins the hub, which from that moment queues every later
//! commit for it, reads the little that is missing, and goes on with its queue:
//! no revision is lost or told twice.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};

use super::Shared;
use super::hub::{Live, Message, Wanted};
use super::keys::KeyRange;
use super::read::{HistoryRow, Snapshot, with_snapshot};
use super::txn::key_value;
use crate::{
    Error, Event, EventKind, KeyValue, LeaseId, Result, Revision, WatchEvent, WatchRequest,
};

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
    let next = start.map_or(hub.published() + 1, |start| start.0);
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
                let events = WatchEvent::Events(commit.revision, events.collect());
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

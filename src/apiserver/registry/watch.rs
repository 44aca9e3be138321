//! WATCH: from a revision, from the present, or with the present first.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use api::{FieldError, Path, Reason, Status};
use futures::{Stream, StreamExt};
use store::{Revision, WatchEvent, WatchRequest};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::list::list_options_kind;
use super::read::too_large;
use super::{Registry, Resource, VersionMatch, store_error};
use crate::cache::{
    Backlog, Cache, Delivery, Entry, Event, EventType, Filter, Hub, Start, prefix_end,
};

/// How often a watcher that allows it is told how far it is.
const BOOKMARKS: Duration = Duration::from_secs(60);
/// The watch ends after this when the client names no timeout; a random
/// part as long again is added, so that watches do not all end at once.
const TIMEOUT: Duration = Duration::from_secs(1800);

/// What a client asks of a watch.
#[derive(Clone, Debug, Default)]
pub(crate) struct WatchOptions {
    /// `None` when empty.
    pub resource_version: Option<u64>,
    pub version_match: VersionMatch,
    pub send_initial_events: Option<bool>,
    pub bookmarks: bool,
    pub timeout: Option<Duration>,
    /// `continue` was given, which a watch does not take.
    pub has_token: bool,
}

/// One thing a watch delivers.
#[derive(Clone, Debug)]
pub(crate) enum Frame {
    /// An object that was there when the watch began.
    Initial(Arc<Entry>),
    /// A change.
    Change(EventType, Arc<Event>),
    /// Everything up to a revision has been delivered; the flag marks the end
    /// of the initial objects.
    Bookmark(u64, bool),
    /// The watch failed.
    Error(Status),
}

impl WatchOptions {
    fn check(&self) -> Result<(), Status> {
        let mut errors = Vec::new();
        let path = Path::new("resourceVersionMatch");
        if self.send_initial_events.is_some() && self.version_match != VersionMatch::NotOlderThan {
            errors.push(FieldError::forbidden(
                &path,
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        if self.version_match != VersionMatch::Unset {
            if self.send_initial_events.is_none() {
                errors.push(FieldError::forbidden(
                    &path,
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                ));
            }
            if self.version_match != VersionMatch::NotOlderThan {
                errors.push(FieldError::not_supported(&path, "Exact", &["NotOlderThan"]));
            }
            if self.has_token {
                errors.push(FieldError::forbidden(
                    &path,
                    "resourceVersionMatch is forbidden when continue is provided",
                ));
            }
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(Status::invalid(&list_options_kind(), "", &errors))
        }
    }

    fn start(&self) -> Start {
        match (self.send_initial_events, self.resource_version) {
            (Some(true), _) => Start::Objects,
            (Some(false), None | Some(0)) => Start::Now,
            (None, None | Some(0)) => Start::Objects,
            (_, Some(revision)) => Start::After(revision),
        }
    }
}

impl Registry {
    /// Watches a resource. The stream ends when the timeout has passed, when
    /// the watcher fell behind, or after an error frame.
    pub(crate) async fn watch(
        &self,
        resource: &Resource,
        filter: Filter,
        options: &WatchOptions,
    ) -> Result<impl Stream<Item = Frame> + Send + use<>, Status> {
        options.check()?;
        let cache = self.cache(resource).await?;
        match options.resource_version {
            None => {
                self.catch_up().await?;
            }
            Some(0) => {}
            // A watch may begin in the future, but an initial list may not.
            Some(version) if options.send_initial_events == Some(true) => {
                self.hub
                    .reach(version)
                    .await
                    .map_err(|late| too_large(&late))?;
            }
            Some(_) => {}
        }
        let start = options.start();
        // Read before subscribing: what is delivered is at least this new.
        let applied = self.hub.applied();
        let subscription = cache.subscribe(filter.clone(), start);
        let mut queue: VecDeque<Frame> = VecDeque::new();
        let mut sent = subscription.revision.max(applied);
        let mut history = None;
        match subscription.backlog {
            Backlog::Objects(objects) => {
                queue.extend(objects.into_iter().map(Frame::Initial));
            }
            Backlog::Events(events) => {
                queue.extend(
                    events
                        .into_iter()
                        .map(|(kind, event)| Frame::Change(kind, event)),
                );
            }
            Backlog::Store => {
                let from = match start {
                    Start::After(revision) => revision,
                    Start::Now | Start::Objects => subscription.revision,
                };
                history = Some((from, subscription.revision));
            }
        }
        if options.send_initial_events == Some(true) && options.bookmarks {
            queue.push_back(Frame::Bookmark(sent, true));
        }
        if let Start::After(revision) = start {
            sent = sent.max(revision);
        }
        let timeout = options
            .timeout
            .unwrap_or_else(|| TIMEOUT.mul_f64(1.0 + fastrand::f64()));
        let state = Watching {
            hub: self.hub.clone(),
            cache,
            filter,
            queue,
            history,
            events: subscription.events,
            deadline: Instant::now() + timeout,
            bookmark: options
                .bookmarks
                .then(|| Instant::now() + BOOKMARKS.mul_f64(0.95 + 0.1 * fastrand::f64())),
            sent,
            after: match start {
                Start::After(revision) => revision,
                Start::Now | Start::Objects => 0,
            },
            ended: false,
        };
        Ok(futures::stream::unfold(state, |mut state| async move {
            let frame = state.next().await?;
            Some((frame, state))
        }))
    }
}

struct Watching {
    hub: Arc<Hub>,
    cache: Arc<Cache>,
    filter: Filter,
    /// What is to be delivered before new changes.
    queue: VecDeque<Frame>,
    /// Changes after the first revision up to the second are to be read from
    /// the store first.
    history: Option<(u64, u64)>,
    events: mpsc::Receiver<Delivery>,
    deadline: Instant,
    bookmark: Option<Instant>,
    /// Revision of what was delivered last.
    sent: u64,
    /// Changes up to here are not wanted.
    after: u64,
    ended: bool,
}

impl Watching {
    async fn next(&mut self) -> Option<Frame> {
        if let Some((from, to)) = self.history.take()
            && let Err(status) = self.read_history(from, to).await
        {
            self.ended = true;
            return Some(Frame::Error(status));
        }
        if let Some(frame) = self.queue.pop_front() {
            return Some(frame);
        }
        if self.ended {
            return None;
        }
        loop {
            let wake = self
                .bookmark
                .map_or(self.deadline, |at| at.min(self.deadline));
            let received = tokio::select! {
                biased;
                received = self.events.recv() => Some(received),
                () = tokio::time::sleep_until(wake) => None,
            };
            match received {
                // The cache ended this watcher.
                Some(None) => return None,
                Some(Some((kind, event))) => {
                    if event.revision <= self.after {
                        continue;
                    }
                    self.sent = self.sent.max(event.revision);
                    return Some(Frame::Change(kind, event));
                }
                None if Instant::now() >= self.deadline => return None,
                None => {
                    self.bookmark = Some(Instant::now() + BOOKMARKS);
                    let applied = self.hub.applied();
                    let all_told = self.cache.all_told();
                    // What came in until then goes first.
                    while let Ok((kind, event)) = self.events.try_recv() {
                        if event.revision > self.after {
                            self.sent = self.sent.max(event.revision);
                            self.queue.push_back(Frame::Change(kind, event));
                        }
                    }
                    if all_told {
                        self.sent = self.sent.max(applied);
                    }
                    self.queue.push_back(Frame::Bookmark(self.sent, false));
                    return self.queue.pop_front();
                }
            }
        }
    }

    /// Changes that are no longer in memory, from the store's history.
    async fn read_history(&mut self, from: u64, to: u64) -> Result<(), Status> {
        let expired = || {
            Status::new(
                Reason::Expired,
                format!("too old resource version: {from} ({to})"),
            )
        };
        let failed = |error: store::Error| match error {
            store::Error::Compacted(_) => expired(),
            error => store_error(&error),
        };
        let mut events = self
            .hub
            .store()
            .watch(WatchRequest {
                key: self.cache.prefix().to_owned().into(),
                end: Some(prefix_end(self.cache.prefix()).into()),
                start: Some(Revision(from + 1)),
                prev_kv: true,
            })
            .await
            .map_err(failed)?;
        while let Some(event) = events.next().await {
            let (revision, changes) = match event.map_err(failed)? {
                WatchEvent::Progress(revision) => (revision.0, Vec::new()),
                WatchEvent::Events(revision, changes) => (revision.0, changes),
            };
            if revision > to {
                break;
            }
            for change in changes {
                let current = match change.kind {
                    store::EventKind::Put => self.cache.entry(&change.kv).map(Arc::new),
                    store::EventKind::Delete => None,
                };
                let previous = change
                    .prev
                    .as_ref()
                    .and_then(|kv| self.cache.entry(kv))
                    .map(Arc::new);
                if current.is_none() && previous.is_none() {
                    continue;
                }
                let event = Event::new(self.cache.codec.clone(), revision, current, previous);
                if let Some(kind) = event.seen_by(&self.filter, &self.cache.fields) {
                    self.queue.push_back(Frame::Change(kind, Arc::new(event)));
                }
            }
            if revision >= to {
                break;
            }
        }
        Ok(())
    }
}

//! The watch cache: every read and watch is served from memory.
//!
//! The store tells the caches of every write before that is acknowledged; a
//! store that cannot do so is watched, by one watch over everything. Resources
//! that nobody has asked for are not kept and cost nothing. Because every
//! revision is seen, "has caught up with revision N" is a single number for all
//! of them, and a consistent read is: ask the store for its revision, wait until
//! the caches are there, read memory.
//!
//! Taking a change in is all the writing thread does. Telling watchers of it is
//! the job of a task ([`Hub::run`]), which may fall behind; when it is far
//! behind, writes wait ([`Hub::admit`]), so that what is queued stays bounded.

mod entry;
mod event;
mod filter;
mod resource;

pub(crate) use entry::{Codec, Entry};
pub(crate) use event::{Event, EventType, json_frame};
pub(crate) use filter::Filter;
pub(crate) use resource::{Backlog, Cache, Delivery, Start, prefix_end};

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use base::{Backoff, Shutdown};
use futures::StreamExt;
use parking_lot::RwLock;
use store::{Commit, Revision, Store, WatchEvent, WatchRequest};
use tokio::sync::{Notify, watch};

/// Where objects live in the store.
pub(crate) const ROOT: &str = "/registry/";
/// How long a read waits for the cache to reach a revision.
const CATCH_UP: Duration = Duration::from_secs(3);

/// How long a change normally takes from the store to the cache, at most.
const SOON: Duration = Duration::from_millis(5);

/// Changes that may wait to be told to watchers before writes are held back.
const BACKLOG: usize = 2048;

/// The key below which a resource's objects are.
pub(crate) fn prefix(group: &str, resource: &str) -> String {
    let group = if group.is_empty() { "core" } else { group };
    format!("{ROOT}{group}/{resource}/")
}

/// The prefix a key falls under: up to its fourth slash.
fn prefix_of(key: &[u8]) -> Option<&[u8]> {
    let mut slashes = key.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    slashes.nth(3).map(|(at, _)| &key[..=at])
}

/// The caches and the watch that feeds them.
pub(crate) struct Hub {
    store: Arc<dyn Store>,
    caches: RwLock<HashMap<Vec<u8>, Arc<Cache>>>,
    applied: watch::Sender<u64>,
    fan_out: Arc<FanOut>,
}

/// What is yet to be told to watchers, of all caches.
#[derive(Debug, Default)]
pub(crate) struct FanOut {
    /// Changes that wait.
    waiting: AtomicUsize,
    /// There is something to tell.
    work: Notify,
    /// Little is left.
    room: Notify,
}

impl FanOut {
    fn added(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    fn joined(&self) {
        self.work.notify_one();
    }

    fn done(&self, count: usize) {
        let before = self.waiting.fetch_sub(count, Ordering::Relaxed);
        if before > BACKLOG / 2 && before - count <= BACKLOG / 2 {
            self.room.notify_waiters();
        }
    }
}

/// The cache did not reach a revision in time.
#[derive(Debug)]
pub(crate) struct TooLarge {
    pub wanted: u64,
    pub current: u64,
}

impl Hub {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            caches: RwLock::default(),
            applied: watch::Sender::new(0),
            fan_out: Arc::default(),
        }
    }

    /// Where new caches report what they have to tell.
    pub(crate) fn fan_out(&self) -> &Arc<FanOut> {
        &self.fan_out
    }

    /// Waits while watchers are far behind; call it before a write.
    pub(crate) async fn admit(&self) {
        while self.fan_out.waiting.load(Ordering::Relaxed) > BACKLOG {
            let room = self.fan_out.room.notified();
            if self.fan_out.waiting.load(Ordering::Relaxed) > BACKLOG {
                room.await;
            }
        }
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The loaded cache of a resource, made by `new` if this is the first use.
    pub(crate) async fn cache(
        &self,
        prefix: &str,
        new: impl FnOnce() -> Cache,
    ) -> store::Result<Arc<Cache>> {
        let known = self.caches.read().get(prefix.as_bytes()).cloned();
        let cache = match known {
            Some(cache) => cache,
            None => self
                .caches
                .write()
                .entry(prefix.as_bytes().to_vec())
                .or_insert_with(|| Arc::new(new()))
                .clone(),
        };
        cache.load(&*self.store).await?;
        Ok(cache)
    }

    /// The object of a key as a write has just left it, if it is cached.
    pub(crate) fn written(&self, prefix: &str, key: &str, revision: u64) -> Option<Arc<Entry>> {
        let entry = self.caches.read().get(prefix.as_bytes())?.get(key)?;
        (entry.revision == revision).then_some(entry)
    }

    /// Drops the cache of a resource and ends its watches; the next use reads
    /// it anew.
    pub(crate) fn forget(&self, prefix: &str) {
        if let Some(cache) = self.caches.write().remove(prefix.as_bytes()) {
            cache.end_watchers();
        }
    }

    /// How many objects each cached resource has.
    pub(crate) fn counts(&self) -> Vec<(String, usize)> {
        let caches = self.caches.read();
        let mut counts: Vec<(String, usize)> = caches
            .values()
            .map(|cache| {
                let path = cache
                    .prefix()
                    .trim_start_matches(ROOT)
                    .trim_end_matches('/');
                let name = match path.split_once('/') {
                    Some(("core", resource)) => resource.to_owned(),
                    Some((group, resource)) => format!("{resource}.{group}"),
                    None => path.to_owned(),
                };
                (name, cache.len())
            })
            .collect();
        counts.sort();
        counts
    }

    /// Revision up to which the caches are current.
    pub(crate) fn applied(&self) -> u64 {
        *self.applied.borrow()
    }

    /// Waits until the caches have seen a revision.
    pub(crate) async fn reach(&self, revision: u64) -> Result<(), TooLarge> {
        if self.applied() >= revision {
            return Ok(());
        }
        let mut applied = self.applied.subscribe();
        // Writes outside of what is watched move the revision, too: the store
        // is asked to say that there is nothing for this watch in them.
        let soon = applied.wait_for(|applied| *applied >= revision);
        if let Ok(Ok(_)) = tokio::time::timeout(SOON, soon).await {
            return Ok(());
        }
        if let Err(error) = self.store.request_progress().await {
            tracing::debug!(error = %base::Chain(&error), "asking for progress");
        }
        let reached = applied.wait_for(|applied| *applied >= revision);
        match tokio::time::timeout(CATCH_UP, reached).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(TooLarge {
                wanted: revision,
                current: self.applied(),
            }),
        }
    }

    /// Feeds the caches and tells watchers until shutdown. Everything waits for
    /// this to begin.
    pub(crate) async fn run(self: Arc<Self>, stop: Shutdown) {
        let observer: Weak<dyn store::Observer> = Arc::downgrade(&self) as _;
        let fed = self.store.observe(observer);
        if let Some(revision) = fed {
            self.reached(revision.0);
        }
        let tell = async {
            while stop.guard(self.fan_out.work.notified()).await.is_some() {
                self.tell().await;
            }
        };
        let watch = async {
            if fed.is_none() {
                self.watch(&stop).await;
            }
        };
        tokio::join!(tell, watch);
    }

    /// Feeds the caches from a watch.
    async fn watch(&self, stop: &Shutdown) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        while !stop.is_triggered() {
            match stop.guard(self.pump()).await {
                Some(Err(store::Error::Compacted(_))) => self.start_over(),
                Some(Err(error)) => {
                    tracing::warn!(error = %base::Chain(&error), "the store watch ended; resuming");
                    if stop
                        .guard(tokio::time::sleep(backoff.next_delay()))
                        .await
                        .is_none()
                    {
                        return;
                    }
                }
                Some(Ok(())) | None => return,
            }
        }
    }

    /// Hands queued changes to watchers until nothing is queued.
    async fn tell(&self) {
        loop {
            let caches: Vec<_> = self.caches.read().values().cloned().collect();
            let mut told = 0;
            for cache in caches {
                told += cache.tell();
            }
            if told == 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// The caches have seen everything up to a revision.
    fn reached(&self, revision: u64) {
        self.applied.send_if_modified(|applied| {
            let moved = revision > *applied;
            *applied = revision.max(*applied);
            moved
        });
    }

    /// Ends every watch, so that connections can be drained.
    pub(crate) fn close(&self) {
        for cache in self.caches.read().values() {
            cache.end_watchers();
        }
    }

    /// Some changes are lost: caches must be read anew.
    fn start_over(&self) {
        tracing::warn!("the store was compacted past the watch cache; reading everything anew");
        let caches = std::mem::take(&mut *self.caches.write());
        for cache in caches.into_values() {
            cache.end_watchers();
        }
        self.applied.send_replace(0);
    }

    async fn pump(&self) -> store::Result<()> {
        if self.applied() == 0 {
            let now = self.store.revision().await?;
            self.applied.send_replace(now.0);
        }
        let mut events = self
            .store
            .watch(WatchRequest {
                key: ROOT.into(),
                end: Some(prefix_end(ROOT).into()),
                start: Some(Revision(self.applied() + 1)),
                prev_kv: false,
            })
            .await?;
        while let Some(event) = events.next().await {
            let revision = match event? {
                WatchEvent::Events(revision, events) => {
                    self.take_in(&[Arc::new(Commit { revision, events })]);
                    revision
                }
                WatchEvent::Progress(revision) => revision,
            };
            self.reached(revision.0);
        }
        Err(store::Error::Closed)
    }

    fn take_in(&self, commits: &[Arc<Commit>]) {
        let mut queued = false;
        let caches = self.caches.read();
        let mut last: Option<&Arc<Cache>> = None;
        for commit in commits {
            for event in &commit.events {
                let same = last.filter(|cache| event.kv.key.starts_with(cache.prefix().as_bytes()));
                let cache = same.or_else(|| caches.get(prefix_of(&event.kv.key)?));
                if let Some(cache) = cache {
                    queued |= cache.apply(commit.revision.0, event);
                }
                last = cache;
            }
        }
        drop(caches);
        if queued {
            self.fan_out.work.notify_one();
        }
    }
}

impl store::Observer for Hub {
    fn observe(&self, commits: &[Arc<Commit>], revision: Revision) {
        self.take_in(commits);
        self.reached(revision.0);
    }
}

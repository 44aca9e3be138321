//! The watch cache: every read and watch is served from memory.
//!
//! One store watch over everything feeds the caches of those resources that
//! somebody has asked for; a resource nobody reads costs nothing. Because the
//! one watch sees every revision, "has caught up with revision N" is a single
//! number for all of them, and a consistent read is: ask the store for its
//! revision, wait until the watch is there, read memory.

mod entry;
mod event;
mod filter;
mod resource;

pub(crate) use entry::{Codec, Entry};
pub(crate) use event::{Event, EventType, json_frame};
pub(crate) use filter::Filter;
pub(crate) use resource::{Backlog, Cache, Delivery, Start, prefix_end};

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base::{Backoff, Shutdown};
use futures::StreamExt;
use parking_lot::RwLock;
use store::{Revision, Store, WatchEvent, WatchRequest};
use tokio::sync::watch;

/// Where objects live in the store.
pub(crate) const ROOT: &str = "/registry/";
/// How long a read waits for the cache to reach a revision.
const CATCH_UP: Duration = Duration::from_secs(3);

/// How long a change normally takes from the store to the cache, at most.
const SOON: Duration = Duration::from_millis(5);

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

    /// Feeds the caches until shutdown. Everything waits for this to begin.
    pub(crate) async fn run(self: Arc<Self>, stop: Shutdown) {
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
                    self.dispatch(revision.0, events);
                    revision
                }
                WatchEvent::Progress(revision) => revision,
            };
            self.applied.send_if_modified(|applied| {
                let moved = revision.0 > *applied;
                *applied = revision.0.max(*applied);
                moved
            });
        }
        Err(store::Error::Closed)
    }

    fn dispatch(&self, revision: u64, mut events: Vec<store::Event>) {
        events.retain(|event| prefix_of(&event.kv.key).is_some());
        let caches = self.caches.read();
        while let Some(prefix) = events.first().and_then(|event| prefix_of(&event.kv.key)) {
            let prefix = prefix.to_vec();
            let (same, rest): (Vec<_>, Vec<_>) = events
                .into_iter()
                .partition(|event| event.kv.key.starts_with(&prefix));
            events = rest;
            if let Some(cache) = caches.get(&prefix) {
                cache.apply(revision, same);
            }
        }
    }
}

//! Fills the graph: discovery, and one metadata watch for each resource.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use base::{Backoff, Shutdown, Supervisor};
use client::Api;
use client::core::{DynamicObject, PartialObjectMeta};
use client::runtime::WatchStreamExt;
use client::runtime::watcher::{self, Event};
use futures::StreamExt;
use tokio::sync::mpsc;

use super::Collector;
use crate::discover::{self, Discovered};

/// How long after a change of what is served to ask again: the API server
/// takes a moment to serve a new resource.
const SETTLE: Duration = Duration::from_millis(250);
/// Asking once more, in case that moment was longer.
const SETTLE_AGAIN: Duration = Duration::from_secs(5);

/// Whether changes of this resource change what the API server serves.
fn changes_discovery(found: &Discovered) -> bool {
    matches!(
        (
            found.resource.group.as_str(),
            found.resource.plural.as_str()
        ),
        ("apiextensions.k8s.io", "customresourcedefinitions")
            | ("apiregistration.k8s.io", "apiservices")
    )
}

fn is_watched(found: &Discovered) -> bool {
    found.resource.plural != "events"
        && ["delete", "list", "watch"]
            .iter()
            .all(|verb| found.supports(verb))
}

/// Keeps one watch for each resource that is served.
pub(super) async fn discover(collector: Arc<Collector>, tasks: Arc<Supervisor>, stop: Shutdown) {
    let (nudge, mut nudges) = mpsc::channel(1);
    let mut watches: HashMap<String, (Arc<Discovered>, Shutdown)> = HashMap::new();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    let mut first = true;
    loop {
        let found = match stop.guard(discover::resources(&collector.client)).await {
            None => return,
            Some(Ok(found)) => found,
            Some(Err(error)) => {
                tracing::debug!(error = %base::Chain(&error), "discovery");
                if stop
                    .guard(tokio::time::sleep(backoff.next_delay()))
                    .await
                    .is_none()
                {
                    return;
                }
                continue;
            }
        };
        backoff.reset();
        let name = |found: &Discovered| {
            format!(
                "{}/{}/{}",
                found.resource.group, found.resource.version, found.resource.plural
            )
        };
        let found: HashMap<String, Discovered> = found
            .into_iter()
            .map(|found| (name(&found), found))
            .collect();
        watches.retain(|name, (resource, watch)| {
            let served = found.contains_key(name);
            if !served {
                watch.trigger();
                forget(&collector, resource);
            }
            served
        });
        let mut all = Vec::new();
        for (name, found) in found {
            if let Some((known, _)) = watches.get(&name) {
                all.push(known.clone());
                continue;
            }
            let found = Arc::new(found);
            all.push(found.clone());
            if is_watched(&found) {
                let ended = stop.child();
                watches.insert(name.clone(), (found.clone(), ended.clone()));
                collector.unsynced.send_modify(|unsynced| *unsynced += 1);
                let (collector, nudge) = (collector.clone(), nudge.clone());
                tasks.spawn(format!("garbage collector watch {name}"), move |_| {
                    watch(collector, found, nudge, ended)
                });
            }
        }
        *collector.resources.write() = all;
        if std::mem::take(&mut first) {
            collector.unsynced.send_modify(|unsynced| *unsynced -= 1);
        }
        match stop.guard(nudges.recv()).await {
            Some(Some(delay)) => {
                if stop.guard(tokio::time::sleep(delay)).await.is_none() {
                    return;
                }
                if delay == SETTLE {
                    let _ = nudge.try_send(SETTLE_AGAIN);
                }
            }
            _ => return,
        }
    }
}

/// Drops every object of a resource that is served no more.
fn forget(collector: &Collector, resource: &Arc<Discovered>) {
    let mut graph = collector.graph.lock();
    for uid in graph.missing(resource, &HashSet::new()) {
        graph.remove(&uid);
    }
}

async fn watch(
    collector: Arc<Collector>,
    resource: Arc<Discovered>,
    nudge: mpsc::Sender<Duration>,
    stop: Shutdown,
) {
    let api = Api::<PartialObjectMeta<DynamicObject>>::all_with(
        collector.client.clone(),
        &resource.resource,
    );
    let config = watcher::Config::default().any_semantic();
    let mut events = pin!(watcher::watcher(api, config).default_backoff());
    let nudges = changes_discovery(&resource);
    let mut seen = HashSet::new();
    let mut synced = false;
    while let Some(Some(event)) = stop.guard(events.next()).await {
        let affected = match event {
            Ok(Event::Init) => {
                seen.clear();
                Vec::new()
            }
            Ok(Event::InitApply(object)) => {
                seen.extend(object.metadata.uid.clone());
                collector.graph.lock().apply(&resource, &object.metadata)
            }
            Ok(Event::InitDone) => {
                let mut graph = collector.graph.lock();
                let gone = graph.missing(&resource, &seen);
                seen = HashSet::new();
                if !std::mem::replace(&mut synced, true) {
                    collector.unsynced.send_modify(|unsynced| *unsynced -= 1);
                }
                gone.iter().flat_map(|uid| graph.remove(uid)).collect()
            }
            Ok(Event::Apply(object)) => {
                if nudges {
                    let _ = nudge.try_send(SETTLE);
                }
                collector.graph.lock().apply(&resource, &object.metadata)
            }
            Ok(Event::Delete(object)) => {
                if nudges {
                    let _ = nudge.try_send(SETTLE);
                }
                let uid = object.metadata.uid.unwrap_or_default();
                collector.graph.lock().remove(&uid)
            }
            Err(error) => {
                tracing::debug!(resource = resource.dotted(), error = %base::Chain(&error), "watch");
                Vec::new()
            }
        };
        collector.run(affected);
    }
    if !synced {
        collector.unsynced.send_modify(|unsynced| *unsynced -= 1);
    }
}

//! Config maps and secrets the pods of this node use, each watched by name
//! while some pod uses it.
//!
//! A node may not list secrets, and should not hold those it has no use for:
//! one watch with `metadata.name=…` for each object in use costs memory in
//! proportion to the pods here, not to the cluster.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use base::{Shutdown, Supervisor};
use client::runtime::WatchStreamExt;
use client::runtime::watcher::{self, Event};
use client::{Api, Client, NamespacedName, Watched};
use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::pod::Nudge;

/// How long the first answer about an object may take.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// What is known of an object.
#[derive(Clone, Debug)]
enum Known<K> {
    NotYet,
    Absent,
    Present(Arc<K>),
}

/// An object in use; dropping the last handle ends its watch.
pub(crate) struct Handle<K> {
    state: watch::Receiver<Known<K>>,
    users: Arc<Mutex<HashMap<String, Nudge>>>,
    stop: Shutdown,
}

impl<K: Watched> Handle<K> {
    /// The object as it is, or `None` if it does not exist. Waits for the
    /// first answer of the API server; an error if none comes.
    pub(crate) async fn get(&self) -> Result<Option<Arc<K>>, String> {
        let mut state = self.state.clone();
        let answered = state.wait_for(|known| !matches!(known, Known::NotYet));
        match tokio::time::timeout(FIRST_ANSWER, answered).await {
            Ok(Ok(known)) => Ok(match &*known {
                Known::Present(object) => Some(object.clone()),
                Known::Absent | Known::NotYet => None,
            }),
            Ok(Err(_)) | Err(_) => {
                let kind = K::kind(&()).to_lowercase();
                Err(format!(
                    "failed to sync {kind} cache: timed out waiting for the condition"
                ))
            }
        }
    }

    /// Calls `nudge` when the object changes, on behalf of a pod.
    pub(crate) fn subscribe(&self, pod_uid: &str, nudge: Nudge) {
        self.users.lock().insert(pod_uid.to_owned(), nudge);
    }

    /// Forgets a pod.
    pub(crate) fn unsubscribe(&self, pod_uid: &str) {
        self.users.lock().remove(pod_uid);
    }
}

impl<K> Drop for Handle<K> {
    fn drop(&mut self) {
        self.stop.trigger();
    }
}

/// The objects of one kind in use on this node.
pub(crate) struct Objects<K> {
    client: Client,
    tasks: Arc<Supervisor>,
    handles: Mutex<HashMap<NamespacedName, Weak<Handle<K>>>>,
}

impl<K> Objects<K>
where
    K: Watched + client::Resource<Scope = NamespaceResourceScope>,
{
    /// Nothing in use yet.
    pub(crate) fn new(client: Client, tasks: Arc<Supervisor>) -> Self {
        Self {
            client,
            tasks,
            handles: Mutex::default(),
        }
    }

    /// The handle of an object, watched from now on.
    pub(crate) fn acquire(&self, namespace: &str, name: &str) -> Arc<Handle<K>> {
        let key = NamespacedName::new(namespace, name);
        let mut handles = self.handles.lock();
        if let Some(handle) = handles.get(&key).and_then(Weak::upgrade) {
            return handle;
        }
        handles.retain(|_, handle| handle.strong_count() > 0);
        let (sender, state) = watch::channel(Known::NotYet);
        let stop = self.tasks.shutdown().child();
        let users = Arc::<Mutex<HashMap<String, Nudge>>>::default();
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let config = watcher::Config::default()
            .any_semantic()
            .fields(&format!("metadata.name={name}"));
        let task_users = users.clone();
        let task_stop = stop.clone();
        self.tasks
            .spawn(format!("watch {} {key}", K::kind(&())), |_| async move {
                task_stop
                    .guard(follow(api, config, sender, task_users))
                    .await;
            });
        let handle = Arc::new(Handle { state, users, stop });
        handles.insert(key, Arc::downgrade(&handle));
        handle
    }
}

async fn follow<K: Watched>(
    api: Api<K>,
    config: watcher::Config,
    state: watch::Sender<Known<K>>,
    users: Arc<Mutex<HashMap<String, Nudge>>>,
) {
    let mut events = pin!(watcher::watcher(api, config).default_backoff());
    let mut listed = None;
    while let Some(event) = events.next().await {
        let next = match event {
            Ok(Event::Init) => {
                listed = None;
                continue;
            }
            Ok(Event::InitApply(object)) => {
                listed = Some(object);
                continue;
            }
            Ok(Event::InitDone) => listed
                .take()
                .map_or(Known::Absent, |o| Known::Present(o.into())),
            Ok(Event::Apply(object)) => Known::Present(object.into()),
            Ok(Event::Delete(_)) => Known::Absent,
            Err(error) => {
                tracing::debug!(kind = %K::kind(&()), error = %base::Chain(&error), "watch");
                continue;
            }
        };
        let version = |known: &Known<K>| match known {
            Known::Present(object) => object.meta().resource_version.clone(),
            Known::Absent | Known::NotYet => None,
        };
        let changed = state.send_if_modified(|known| {
            let changed = matches!(known, Known::NotYet) || version(known) != version(&next);
            *known = next;
            changed
        });
        if changed {
            for nudge in users.lock().values() {
                nudge();
            }
        }
    }
}

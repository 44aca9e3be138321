//! Shared informers: one list/watch for each kind, a local copy, and changes.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::ops::Bound;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base::{Shutdown, Supervisor};
use futures::StreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use tokio::sync::{broadcast, watch};

use crate::NamespacedName;

/// Changes a slow subscriber may fall behind before it is told to resync.
const BACKLOG: usize = 1024;

/// What a subscriber sees.
#[derive(Clone, Debug)]
pub enum Change<K> {
    /// An object appeared or changed; `old` is what was known before.
    Applied {
        /// The object as it was, if it was known.
        old: Option<Arc<K>>,
        /// The object as it is.
        new: Arc<K>,
    },
    /// An object went away; this is its last known form.
    Deleted(Arc<K>),
    /// The subscriber fell behind, or has just begun: look at everything in
    /// the informer's store.
    Resync,
}

/// A kind this client can watch. Implemented for every built-in type.
pub trait Watched:
    kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static
{
}

impl<K> Watched for K where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static
{
}

/// The local copy of one kind, kept current. Clones share it.
pub struct Informer<K> {
    shared: Arc<Shared<K>>,
}

struct Shared<K> {
    objects: RwLock<BTreeMap<NamespacedName, Arc<K>>>,
    revision: AtomicU64,
    changes: broadcast::Sender<Change<K>>,
    synced: watch::Sender<bool>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<K: Watched> Informer<K> {
    fn start(api: Api<K>, config: watcher::Config, tasks: &Supervisor) -> Self {
        let shared = Arc::new(Shared {
            objects: RwLock::default(),
            revision: AtomicU64::new(0),
            changes: broadcast::Sender::new(BACKLOG),
            synced: watch::Sender::new(false),
        });
        let name = format!("informer {}", K::kind(&()));
        let task = shared.clone();
        tasks.spawn(
            name,
            |stop| async move { task.run(api, config, stop).await },
        );
        Self { shared }
    }

    /// The object of this name, as far as is known.
    pub fn get(&self, key: &NamespacedName) -> Option<Arc<K>> {
        self.shared.objects.read().get(key).cloned()
    }

    /// Every object, in order of namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared.objects.read().values().cloned().collect()
    }

    /// Every object `keep` accepts, in order of namespace and name.
    pub fn filter(&self, mut keep: impl FnMut(&K) -> bool) -> Vec<Arc<K>> {
        self.shared
            .objects
            .read()
            .values()
            .filter(|object| keep(object))
            .cloned()
            .collect()
    }

    /// Every object of a namespace, in order of name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let first = NamespacedName::new(namespace, "");
        self.shared
            .objects
            .read()
            .range((Bound::Included(first), Bound::Unbounded))
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// The highest `resourceVersion` this copy has seen on an object. Once it
    /// reaches the version a write returned, the copy reflects that write.
    pub fn revision(&self) -> u64 {
        self.shared.revision.load(Ordering::Acquire)
    }

    /// Completes once the first list has arrived.
    pub async fn synced(&self) {
        // The sender lives in `shared`, which `self` holds: waiting cannot fail.
        let _ = self
            .shared
            .synced
            .subscribe()
            .wait_for(|synced| *synced)
            .await;
    }

    /// Whether the first list has arrived.
    pub fn is_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }

    /// Changes from now on; the first one is always [`Change::Resync`].
    pub fn subscribe(&self) -> Subscription<K> {
        Subscription {
            receiver: self.shared.changes.subscribe(),
            resync: true,
        }
    }
}

/// A stream of changes of one informer.
pub struct Subscription<K> {
    receiver: broadcast::Receiver<Change<K>>,
    resync: bool,
}

impl<K: Watched> Subscription<K> {
    /// The next change; `None` once the informer has stopped.
    pub async fn next(&mut self) -> Option<Change<K>> {
        if std::mem::take(&mut self.resync) {
            return Some(Change::Resync);
        }
        match self.receiver.recv().await {
            Ok(change) => Some(change),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Change::Resync),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

impl<K: Watched> Shared<K> {
    async fn run(self: Arc<Self>, api: Api<K>, config: watcher::Config, stop: Shutdown) {
        let mut events = pin!(watcher::watcher(api, config).default_backoff());
        let mut relist: Option<BTreeMap<NamespacedName, Arc<K>>> = None;
        while let Some(Some(event)) = stop.guard(events.next()).await {
            match event {
                Ok(Event::Init) => relist = Some(BTreeMap::new()),
                Ok(Event::InitApply(mut object)) => {
                    trim(&mut object);
                    relist
                        .get_or_insert_default()
                        .insert(NamespacedName::of(&object), Arc::new(object));
                }
                Ok(Event::InitDone) => {
                    self.replace(relist.take().unwrap_or_default());
                    self.synced.send_replace(true);
                }
                Ok(Event::Apply(mut object)) => {
                    trim(&mut object);
                    let new = Arc::new(object);
                    let old = self
                        .objects
                        .write()
                        .insert(NamespacedName::of(&*new), new.clone());
                    self.advance(&new);
                    let _ = self.changes.send(Change::Applied { old, new });
                }
                Ok(Event::Delete(mut object)) => {
                    trim(&mut object);
                    self.objects.write().remove(&NamespacedName::of(&object));
                    self.advance(&object);
                    let _ = self.changes.send(Change::Deleted(Arc::new(object)));
                }
                Err(error) => {
                    tracing::debug!(kind = %K::kind(&()), error = %base::Chain(&error), "watch");
                }
            }
        }
    }

    fn advance(&self, object: &K) {
        let version = object.meta().resource_version.as_deref();
        if let Some(version) = version.and_then(|version| version.parse().ok()) {
            self.revision.fetch_max(version, Ordering::AcqRel);
        }
    }

    /// Swaps in a fresh list and tells subscribers what differs.
    fn replace(&self, fresh: BTreeMap<NamespacedName, Arc<K>>) {
        let stale = std::mem::replace(&mut *self.objects.write(), fresh.clone());
        for object in fresh.values() {
            self.advance(object);
        }
        for (key, new) in &fresh {
            let old = stale.get(key).cloned();
            if old.as_ref().is_some_and(|old| {
                old.meta().resource_version == new.meta().resource_version
                    && old.meta().uid == new.meta().uid
            }) {
                continue;
            }
            let _ = self.changes.send(Change::Applied {
                old,
                new: new.clone(),
            });
        }
        for (key, old) in stale {
            if !fresh.contains_key(&key) {
                let _ = self.changes.send(Change::Deleted(old));
            }
        }
    }
}

/// Drops what no reader of an informer looks at and what is often the larger
/// half of an object. An update without `managedFields` leaves them as they are.
fn trim<K: kube::Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

/// Informers by the type and field selector they watch.
type Started = HashMap<(TypeId, String), Box<dyn Any + Send + Sync>>;

/// Every informer of a process, started when first asked for. Clones share them.
#[derive(Clone)]
pub struct Informers {
    client: Client,
    tasks: Arc<Supervisor>,
    started: Arc<Mutex<Started>>,
}

impl Informers {
    /// Informers that watch through `client` and whose tasks `tasks` owns.
    pub fn new(client: Client, tasks: Arc<Supervisor>) -> Self {
        Self {
            client,
            tasks,
            started: Arc::default(),
        }
    }

    /// The client they watch through.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The shared informer of a kind, across all namespaces.
    pub fn of<K: Watched>(&self) -> Informer<K> {
        self.with_fields("")
    }

    /// The shared informer of the objects of a kind that a field selector
    /// matches, such as `spec.nodeName=edge-1`.
    pub fn with_fields<K: Watched>(&self, fields: &str) -> Informer<K> {
        let mut started = self.started.lock();
        started
            .entry((TypeId::of::<K>(), fields.to_owned()))
            .or_insert_with(|| {
                let mut config = watcher::Config::default().any_semantic();
                if !fields.is_empty() {
                    config = config.fields(fields);
                }
                let api = Api::<K>::all(self.client.clone());
                Box::new(Informer::<K>::start(api, config, &self.tasks))
            })
            .downcast_ref::<Informer<K>>()
            .expect("the map's key holds the type")
            .clone()
    }
}

//! The objects of one resource, kept current, with a window of recent changes.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use store::{EventKind, KeyValue, RangeRequest, Store};
use tokio::sync::{OnceCell, mpsc};

use super::entry::{Codec, Entry};
use super::event::{Event, EventType};
use super::filter::{Fields, Filter};

/// Changes a watcher may fall behind before it is ended.
const WATCHER_QUEUE: usize = 1024;
/// Changes kept for watches that resume; older ones come from the store.
const WINDOW: usize = 512;

/// A change on its way to one watcher.
pub(crate) type Delivery = (EventType, Arc<Event>);

/// What a new watcher is given.
pub(crate) struct Subscription {
    /// Changes from [`Subscription::revision`] on; ends when the watcher fell
    /// behind or the cache started over.
    pub events: mpsc::Receiver<Delivery>,
    /// Everything up to here is in `backlog`, what follows in `events`.
    pub revision: u64,
    /// Changes that happened since the asked-for revision, filtered.
    pub backlog: Backlog,
}

/// How a watcher gets from its revision to the present.
pub(crate) enum Backlog {
    /// With these objects, as if each had just appeared.
    Objects(Vec<Arc<Entry>>),
    /// With these changes.
    Events(Vec<Delivery>),
    /// The window does not reach back that far: ask the store.
    Store,
}

/// Where a watcher wants to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// With every object there is.
    Objects,
    /// Now.
    Now,
    /// After this revision.
    After(u64),
}

struct Watcher {
    filter: Filter,
    sender: mpsc::Sender<Delivery>,
}

struct State {
    objects: BTreeMap<Arc<str>, Arc<Entry>>,
    /// Revision the objects are at, at least.
    revision: u64,
    /// Revision of the last change of this resource.
    changed: u64,
    window: VecDeque<Arc<Event>>,
    /// Every change after this revision is in the window.
    window_floor: u64,
    watchers: Vec<Watcher>,
}

/// What the store said while the first read was under way.
type Pending = Vec<(u64, Vec<store::Event>)>;

/// One resource's cache.
pub(crate) struct Cache {
    /// `/registry/GROUP/RESOURCE/`
    prefix: String,
    pub(crate) codec: Arc<Codec>,
    pub(crate) fields: Fields,
    state: RwLock<State>,
    pending: Mutex<Option<Pending>>,
    loaded: OnceCell<()>,
}

impl Cache {
    pub(crate) fn new(prefix: String, codec: Arc<Codec>, fields: Fields) -> Self {
        Self {
            prefix,
            codec,
            fields,
            state: RwLock::new(State {
                objects: BTreeMap::new(),
                revision: 0,
                changed: 0,
                window: VecDeque::new(),
                window_floor: 0,
                watchers: Vec::new(),
            }),
            pending: Mutex::new(Some(Vec::new())),
            loaded: OnceCell::new(),
        }
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Reads the resource from the store the first time. The cache must be
    /// reachable for [`Cache::apply`] before this is called.
    pub(crate) async fn load(&self, store: &dyn Store) -> store::Result<()> {
        self.loaded
            .get_or_try_init(|| async {
                let range = store
                    .range(RangeRequest {
                        key: self.prefix.clone().into(),
                        end: Some(prefix_end(&self.prefix).into()),
                        ..RangeRequest::default()
                    })
                    .await?;
                self.fill(range.revision.0, range.kvs);
                Ok(())
            })
            .await
            .copied()
    }

    fn fill(&self, revision: u64, kvs: Vec<KeyValue>) {
        let mut pending = self.pending.lock();
        let mut state = self.state.write();
        for kv in &kvs {
            if let Some(entry) = self.entry(kv) {
                state.objects.insert(entry.key.clone(), Arc::new(entry));
            }
        }
        state.revision = revision;
        state.changed = kvs.iter().map(|kv| kv.mod_revision.0).max().unwrap_or(0);
        state.window_floor = revision;
        for (at, events) in pending.take().unwrap_or_default() {
            self.advance(&mut state, at, &events);
        }
    }

    /// An entry of a store value; logs and skips what is not JSON.
    pub(crate) fn entry(&self, kv: &KeyValue) -> Option<Entry> {
        let key = std::str::from_utf8(kv.key.get(self.prefix.len()..)?).ok()?;
        let entry = Entry::new(&self.codec, key.into(), &kv.value, kv.mod_revision.0);
        if entry.is_none() {
            tracing::warn!(key = %String::from_utf8_lossy(&kv.key), "stored value is not JSON; ignored");
        }
        entry
    }

    /// Takes in the changes of one revision.
    pub(crate) fn apply(&self, revision: u64, events: Vec<store::Event>) {
        let mut pending = self.pending.lock();
        if let Some(pending) = &mut *pending {
            pending.push((revision, events));
            return;
        }
        drop(pending);
        self.advance(&mut self.state.write(), revision, &events);
    }

    fn advance(&self, state: &mut State, revision: u64, events: &[store::Event]) {
        if revision <= state.revision {
            return;
        }
        state.revision = revision;
        for event in events {
            let change = match event.kind {
                EventKind::Put => {
                    let Some(entry) = self.entry(&event.kv) else {
                        continue;
                    };
                    let entry = Arc::new(entry);
                    let previous = state.objects.insert(entry.key.clone(), entry.clone());
                    Event::new(self.codec.clone(), revision, Some(entry), previous)
                }
                EventKind::Delete => {
                    let Some(previous) = event
                        .kv
                        .key
                        .get(self.prefix.len()..)
                        .and_then(|key| std::str::from_utf8(key).ok())
                        .and_then(|key| state.objects.remove(key))
                    else {
                        continue;
                    };
                    Event::new(self.codec.clone(), revision, None, Some(previous))
                }
            };
            let change = Arc::new(change);
            state.changed = revision;
            state.watchers.retain(
                |watcher| match change.seen_by(&watcher.filter, self.fields) {
                    Some(kind) => watcher.sender.try_send((kind, change.clone())).is_ok(),
                    None => !watcher.sender.is_closed(),
                },
            );
            state.window.push_back(change);
            if state.window.len() > WINDOW
                && let Some(dropped) = state.window.pop_front()
            {
                state.window_floor = dropped.revision;
            }
        }
    }

    /// Ends every watcher; used when the cache is replaced by a fresh one.
    pub(crate) fn end_watchers(&self) {
        self.state.write().watchers.clear();
    }

    /// The object of a key below the prefix.
    pub(crate) fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.state.read().objects.get(key).cloned()
    }

    /// Revision of the last change of this resource.
    pub(crate) fn changed(&self) -> u64 {
        self.state.read().changed
    }

    /// How many objects there are.
    pub(crate) fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    /// Every object a filter wants whose key is not before `from`, in key
    /// order, and the revision they are at. Stops after `limit` objects; the
    /// last number counts what is left in range, wanted or not.
    pub(crate) fn list(
        &self,
        filter: &Filter,
        from: &str,
        limit: usize,
    ) -> (Vec<Arc<Entry>>, u64, usize) {
        let state = self.state.read();
        let namespace = match filter.namespace.as_str() {
            "" => String::new(),
            namespace => format!("{namespace}/"),
        };
        let start = if from.is_empty() { &*namespace } else { from };
        let mut range = state
            .objects
            .range::<str, _>((Bound::Included(start), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(&*namespace));
        let mut out = Vec::new();
        for (_, entry) in range.by_ref() {
            if filter.matches(entry, self.fields) {
                out.push(entry.clone());
                if limit > 0 && out.len() == limit {
                    break;
                }
            }
        }
        let left = if limit > 0 { range.count() } else { 0 };
        (out, state.revision, left)
    }

    /// Adds a watcher.
    pub(crate) fn subscribe(&self, filter: Filter, start: Start) -> Subscription {
        let mut state = self.state.write();
        let backlog = match start {
            Start::Now => Backlog::Events(Vec::new()),
            Start::Objects => Backlog::Objects(
                state
                    .objects
                    .values()
                    .filter(|entry| filter.matches(entry, self.fields))
                    .cloned()
                    .collect(),
            ),
            Start::After(revision) if revision >= state.window_floor => Backlog::Events(
                state
                    .window
                    .iter()
                    .filter(|event| event.revision > revision)
                    .filter_map(|event| Some((event.seen_by(&filter, self.fields)?, event.clone())))
                    .collect(),
            ),
            Start::After(_) => Backlog::Store,
        };
        let (sender, events) = mpsc::channel(WATCHER_QUEUE);
        state.watchers.push(Watcher { filter, sender });
        Subscription {
            events,
            revision: state.revision,
            backlog,
        }
    }
}

/// The first key after every key with this prefix.
pub(crate) fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

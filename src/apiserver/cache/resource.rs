//! The objects of one resource, kept current, with a window of recent changes.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};
use store::{EventKind, KeyValue, RangeRequest, Store};
use tokio::sync::{OnceCell, mpsc};

use super::FanOut;
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

/// What the task that tells watchers is to do, in order.
enum Telling {
    /// Tell every watcher that wants to know.
    Change(Arc<Event>),
    /// One more watcher, for what comes after.
    Join(Watcher),
}

struct State {
    objects: BTreeMap<Arc<str>, Arc<Entry>>,
    /// Revision the objects are at, at least.
    revision: u64,
    /// Revision they were read from the store at.
    loaded: u64,
    /// Revision of the last change of this resource.
    changed: u64,
    window: VecDeque<Arc<Event>>,
    /// Every change after this revision is in the window.
    window_floor: u64,
    telling: Vec<Telling>,
}

/// What the store said while the first read was under way.
type Pending = Vec<(u64, store::Event)>;

/// One resource's cache.
pub(crate) struct Cache {
    /// `/registry/GROUP/RESOURCE/`
    prefix: String,
    pub(crate) codec: Arc<Codec>,
    pub(crate) fields: Fields,
    state: RwLock<State>,
    /// Locked before `state`, by the one who tells.
    watchers: Mutex<Vec<Watcher>>,
    /// Watchers there are, those about to join among them.
    audience: AtomicUsize,
    /// Changes no watcher was told of yet.
    untold: AtomicUsize,
    /// Whether `telling` may hold something.
    news: AtomicBool,
    fan_out: Arc<FanOut>,
    pending: Mutex<Option<Pending>>,
    loaded: OnceCell<()>,
}

impl Cache {
    pub(crate) fn new(
        prefix: String,
        codec: Arc<Codec>,
        fields: Fields,
        fan_out: Arc<FanOut>,
    ) -> Self {
        Self {
            prefix,
            codec,
            fields,
            state: RwLock::new(State {
                objects: BTreeMap::new(),
                revision: 0,
                loaded: 0,
                changed: 0,
                window: VecDeque::new(),
                window_floor: 0,
                telling: Vec::new(),
            }),
            watchers: Mutex::default(),
            audience: AtomicUsize::new(0),
            untold: AtomicUsize::new(0),
            news: AtomicBool::new(false),
            fan_out,
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
        state.loaded = revision;
        state.changed = kvs.iter().map(|kv| kv.mod_revision.0).max().unwrap_or(0);
        state.window_floor = revision;
        for (at, event) in pending.take().unwrap_or_default() {
            self.advance(&mut state, at, &event);
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

    /// Takes in a change; whether there is somebody to tell of it.
    pub(crate) fn apply(&self, revision: u64, event: &store::Event) -> bool {
        let mut pending = self.pending.lock();
        if let Some(pending) = &mut *pending {
            pending.push((revision, event.clone()));
            return false;
        }
        drop(pending);
        self.advance(&mut self.state.write(), revision, event)
    }

    fn advance(&self, state: &mut State, revision: u64, event: &store::Event) -> bool {
        if revision <= state.loaded {
            return false;
        }
        state.revision = revision;
        let change = match event.kind {
            EventKind::Put => {
                let Some(entry) = self.entry(&event.kv) else {
                    return false;
                };
                let (entry, previous) = match state.objects.get_mut(&*entry.key) {
                    Some(there) => {
                        // One key for all versions of an object.
                        let entry = Arc::new(entry.with_key(there.key.clone()));
                        let previous = std::mem::replace(there, entry.clone());
                        (entry, Some(previous))
                    }
                    None => {
                        let entry = Arc::new(entry);
                        state.objects.insert(entry.key.clone(), entry.clone());
                        (entry, None)
                    }
                };
                Event::new(self.codec.clone(), revision, Some(entry), previous)
            }
            EventKind::Delete => {
                let key = event.kv.key.get(self.prefix.len()..);
                let key = key.and_then(|key| std::str::from_utf8(key).ok());
                let Some(previous) = key.and_then(|key| state.objects.remove(key)) else {
                    return false;
                };
                Event::new(self.codec.clone(), revision, None, Some(previous))
            }
        };
        let change = Arc::new(change);
        state.changed = revision;
        let heard = self.audience.load(Ordering::Relaxed) > 0;
        if heard {
            self.untold.fetch_add(1, Ordering::Release);
            self.fan_out.added();
            state.telling.push(Telling::Change(change.clone()));
            self.news.store(true, Ordering::Release);
        }
        state.window.push_back(change);
        if state.window.len() > WINDOW
            && let Some(dropped) = state.window.pop_front()
        {
            state.window_floor = dropped.revision;
        }
        heard
    }

    /// Tells watchers of what has happened; how many changes that was.
    pub(crate) fn tell(&self) -> usize {
        if !self.news.swap(false, Ordering::AcqRel) {
            return 0;
        }
        let mut watchers = self.watchers.lock();
        let telling = std::mem::take(&mut self.state.write().telling);
        let mut told = 0;
        for item in telling {
            match item {
                Telling::Change(change) => {
                    told += 1;
                    watchers.retain(|watcher| {
                        match change.seen_by(&watcher.filter, &self.fields) {
                            Some(kind) => watcher.sender.try_send((kind, change.clone())).is_ok(),
                            None => !watcher.sender.is_closed(),
                        }
                    });
                }
                Telling::Join(watcher) => {
                    // Those that left without a change to notice it by.
                    if watchers.len() == watchers.capacity() {
                        watchers.retain(|watcher| !watcher.sender.is_closed());
                    }
                    watchers.push(watcher);
                }
            }
        }
        // Under the state's lock, so that nobody joins uncounted.
        let state = self.state.write();
        let joining = state.telling.iter();
        let joining = joining
            .filter(|item| matches!(item, Telling::Join(_)))
            .count();
        self.audience
            .store(watchers.len() + joining, Ordering::Relaxed);
        drop(state);
        self.untold.fetch_sub(told, Ordering::Release);
        self.fan_out.done(told);
        told
    }

    /// Whether watchers were told of everything the cache has taken in.
    pub(crate) fn all_told(&self) -> bool {
        self.untold.load(Ordering::Acquire) == 0
    }

    /// Ends every watcher; used when the cache is replaced by a fresh one.
    pub(crate) fn end_watchers(&self) {
        let mut watchers = self.watchers.lock();
        let telling = std::mem::take(&mut self.state.write().telling);
        let untold = telling
            .iter()
            .filter(|item| matches!(item, Telling::Change(_)))
            .count();
        watchers.clear();
        self.audience.store(0, Ordering::Relaxed);
        self.untold.fetch_sub(untold, Ordering::Release);
        self.fan_out.done(untold);
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
            if filter.matches(entry, &self.fields) {
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
                    .filter(|entry| filter.matches(entry, &self.fields))
                    .cloned()
                    .collect(),
            ),
            Start::After(revision) if revision >= state.window_floor => Backlog::Events(
                state
                    .window
                    .iter()
                    .filter(|event| event.revision > revision)
                    .filter_map(|event| {
                        Some((event.seen_by(&filter, &self.fields)?, event.clone()))
                    })
                    .collect(),
            ),
            Start::After(_) => Backlog::Store,
        };
        let (sender, events) = mpsc::channel(WATCHER_QUEUE);
        // Behind the changes that are not told yet: the backlog has those.
        state
            .telling
            .push(Telling::Join(Watcher { filter, sender }));
        self.audience.fetch_add(1, Ordering::Relaxed);
        self.news.store(true, Ordering::Release);
        self.fan_out.joined();
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

//! Work queues of keys and the loops that drain them.
//!
//! A reconciler is level-triggered: it takes a key, looks at the informers,
//! and makes the world fit. The queue is deduplicated by key, so it is bounded
//! by the number of objects; a key that is added while it runs is run once
//! more afterwards, never beside itself.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::error::Error;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use base::{Shutdown, Supervisor};
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::informer::Watched;
use crate::{Change, Informer, NamespacedName};

const FIRST_RETRY: Duration = Duration::from_millis(5);
const LAST_RETRY: Duration = Duration::from_secs(1000);

/// What a reconciler wants next for its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing until something changes.
    Done,
    /// Another run after this long, even if nothing changes.
    After(Duration),
}

/// A handle that puts keys into a controller's queue.
pub struct Enqueue<Q = NamespacedName>(Arc<Queue<Q>>);

impl<Q> Clone for Enqueue<Q> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<Q: Clone + Eq + Hash + Ord + Send + 'static> Enqueue<Q> {
    /// Runs the key as soon as a worker is free.
    pub fn add(&self, key: Q) {
        self.0.state.lock().add(key);
        self.0.changed.notify_one();
    }

    /// Runs the key after a delay; an earlier run stands.
    pub fn add_after(&self, key: Q, delay: Duration) {
        self.0.state.lock().add_at(key, Instant::now() + delay);
        self.0.changed.notify_one();
    }
}

struct Queue<Q> {
    state: Mutex<State<Q>>,
    changed: Notify,
}

struct State<Q> {
    ready: VecDeque<Q>,
    queued: HashSet<Q>,
    running: HashSet<Q>,
    delayed: BTreeMap<(Instant, u64), Q>,
    due: HashMap<Q, (Instant, u64)>,
    failures: HashMap<Q, u32>,
    sequence: u64,
}

impl<Q: Clone + Eq + Hash + Ord> State<Q> {
    fn add(&mut self, key: Q) {
        if let Some(at) = self.due.remove(&key) {
            self.delayed.remove(&at);
        }
        if self.queued.insert(key.clone()) && !self.running.contains(&key) {
            self.ready.push_back(key);
        }
    }

    fn add_at(&mut self, key: Q, at: Instant) {
        if self.queued.contains(&key) && !self.running.contains(&key) {
            return;
        }
        if let Some(known) = self.due.get(&key) {
            if known.0 <= at {
                return;
            }
            self.delayed.remove(known);
        }
        self.sequence += 1;
        let at = (at, self.sequence);
        self.due.insert(key.clone(), at);
        self.delayed.insert(at, key);
    }

    /// The next key to run, or when to look again.
    fn take(&mut self, now: Instant) -> Result<Q, Option<Instant>> {
        while let Some((&at, _)) = self.delayed.first_key_value() {
            if at.0 > now {
                break;
            }
            if let Some(key) = self.delayed.remove(&at) {
                self.due.remove(&key);
                self.add(key);
            }
        }
        match self.ready.pop_front() {
            Some(key) => {
                self.queued.remove(&key);
                self.running.insert(key.clone());
                Ok(key)
            }
            None => Err(self.delayed.first_key_value().map(|(at, _)| at.0)),
        }
    }

    fn finish(&mut self, key: Q, next: Result<Action, ()>, now: Instant) {
        self.running.remove(&key);
        if self.queued.contains(&key) {
            self.ready.push_back(key.clone());
        }
        match next {
            Ok(action) => {
                self.failures.remove(&key);
                if let Action::After(delay) = action {
                    self.add_at(key, now + delay);
                }
            }
            Err(()) => {
                let failures = self.failures.entry(key.clone()).or_default();
                let delay = FIRST_RETRY
                    .saturating_mul(1 << (*failures).min(20))
                    .min(LAST_RETRY);
                *failures += 1;
                self.add_at(key, now + delay);
            }
        }
    }
}

/// A named queue with its workers: watch sources feed keys, a reconciler takes them.
pub struct Controller<Q = NamespacedName> {
    name: &'static str,
    queue: Arc<Queue<Q>>,
    tasks: Arc<Supervisor>,
    needs: Mutex<Vec<BoxFuture<'static, ()>>>,
    scans: Arc<Mutex<Vec<Scan<Q>>>>,
}

/// Names the keys of everything one source knows.
type Scan<Q> = Box<dyn Fn() -> Vec<Q> + Send + Sync>;

/// A change as [`Controller::watch_changes`] shows it.
#[derive(Debug)]
pub enum Observed<'a, K> {
    /// An object appeared or changed.
    Applied {
        /// What was known before.
        old: Option<&'a K>,
        /// The object as it is.
        new: &'a K,
    },
    /// An object went away; this is its last known form.
    Deleted(&'a K),
}

impl<Q: Clone + Eq + Hash + Ord + Send + Sync + std::fmt::Debug + 'static> Controller<Q> {
    /// A controller whose tasks `tasks` owns.
    pub fn new(name: &'static str, tasks: Arc<Supervisor>) -> Self {
        let state = State {
            ready: VecDeque::new(),
            queued: HashSet::new(),
            running: HashSet::new(),
            delayed: BTreeMap::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
            sequence: 0,
        };
        let queue = Arc::new(Queue {
            state: Mutex::new(state),
            changed: Notify::new(),
        });
        Self {
            name,
            queue,
            tasks,
            needs: Mutex::default(),
            scans: Arc::default(),
        }
    }

    /// A handle to put keys in from elsewhere.
    pub fn enqueue(&self) -> Enqueue<Q> {
        Enqueue(self.queue.clone())
    }

    /// Holds the workers back until this informer has its first list. Every
    /// informer a reconciler reads belongs here, or it would take an empty
    /// copy for an empty cluster; those it watches are included.
    pub fn needs<K: Watched>(&self, informer: &Informer<K>) -> &Self {
        let informer = informer.clone();
        self.needs
            .lock()
            .push(async move { informer.synced().await }.boxed());
        self
    }

    /// Feeds the keys `map` names for every object that appears, changes or
    /// goes. For a change both forms are mapped, so that an owner an object
    /// left is run, too.
    pub fn watch<K: Watched>(
        &self,
        informer: &Informer<K>,
        map: impl Fn(&K) -> Vec<Q> + Send + Sync + 'static,
    ) -> &Self {
        self.watch_changes(informer, move |change| match change {
            Observed::Applied {
                old: Some(old),
                new,
            } => {
                let mut keys = map(old);
                keys.extend(map(new));
                keys
            }
            Observed::Applied { old: None, new } => map(new),
            Observed::Deleted(old) => map(old),
        })
    }

    /// Feeds the keys `map` names for every change, for reconcilers that care
    /// what changed. An object that a fresh look at everything finds appears
    /// as [`Observed::Applied`] without an old form.
    pub fn watch_changes<K: Watched>(
        &self,
        informer: &Informer<K>,
        map: impl Fn(Observed<'_, K>) -> Vec<Q> + Send + Sync + 'static,
    ) -> &Self {
        self.needs(informer);
        let map = Arc::new(map);
        let scan = {
            let (informer, map) = (informer.clone(), map.clone());
            move || {
                let objects = informer.list();
                let keys = objects
                    .iter()
                    .flat_map(|new| map(Observed::Applied { old: None, new }));
                keys.collect::<Vec<_>>()
            }
        };
        self.scans.lock().push(Box::new(scan));
        let scans = self.scans.clone();
        let enqueue = self.enqueue();
        let informer = informer.clone();
        let name = format!("{} watch {}", self.name, K::kind(&()));
        self.tasks.spawn(name, |stop| async move {
            let mut changes = informer.subscribe();
            while let Some(Some(change)) = stop.guard(changes.next()).await {
                let keys = match &change {
                    Change::Applied { old, new } => map(Observed::Applied {
                        old: old.as_deref(),
                        new,
                    }),
                    Change::Deleted(old) => map(Observed::Deleted(old)),
                    // What was missed may have been a deletion, whose keys only
                    // the other sources still name: look at all of them.
                    Change::Resync => scans.lock().iter().flat_map(|scan| scan()).collect(),
                };
                for key in keys {
                    enqueue.add(key);
                }
            }
        });
        self
    }

    /// Starts `workers` loops that run `reconcile` on keys: one run for each
    /// key at a time. A failed run is logged and retried with back-off from
    /// 5 ms to 1,000 s.
    pub fn run<F, T, E>(self, workers: usize, reconcile: F)
    where
        F: Fn(Q) -> T + Send + Sync + 'static,
        T: Future<Output = Result<Action, E>> + Send + 'static,
        E: Error + Send + 'static,
    {
        let reconcile = Arc::new(reconcile);
        let needs = self.needs.into_inner();
        let synced = futures::future::join_all(needs)
            .map(|_| ())
            .boxed()
            .shared();
        for worker in 0..workers {
            let queue = self.queue.clone();
            let reconcile = reconcile.clone();
            let controller = self.name;
            let synced = synced.clone();
            self.tasks
                .spawn(format!("{controller} worker {worker}"), |stop| async move {
                    if stop.guard(synced).await.is_none() {
                        return;
                    }
                    while let Some(key) = next(&queue, &stop).await {
                        let outcome = reconcile(key.clone()).await.map_err(|error| {
                        tracing::info!(controller, ?key, error = %base::Chain(&error), "retrying");
                    });
                        queue.state.lock().finish(key, outcome, Instant::now());
                        queue.changed.notify_one();
                    }
                });
        }
    }
}

async fn next<Q: Clone + Eq + Hash + Ord>(queue: &Queue<Q>, stop: &Shutdown) -> Option<Q> {
    loop {
        if stop.is_triggered() {
            return None;
        }
        let wake = {
            let mut state = queue.state.lock();
            match state.take(Instant::now()) {
                Ok(key) => {
                    // `notify_one` wakes a single worker: pass it on if there is more.
                    if !state.ready.is_empty() || !state.delayed.is_empty() {
                        queue.changed.notify_one();
                    }
                    return Some(key);
                }
                Err(wake) => wake,
            }
        };
        let changed = queue.changed.notified();
        match wake {
            Some(at) => {
                stop.guard(tokio::time::timeout_at(at, changed)).await?.ok();
            }
            None => stop.guard(changed).await?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    #[tokio::test(start_paused = true)]
    async fn runs_a_key_again_when_it_was_added_while_running() {
        let tasks = Arc::new(Supervisor::new(Shutdown::new()));
        let controller = Controller::<u32>::new("test", tasks.clone());
        let enqueue = controller.enqueue();
        let (sender, mut runs) = mpsc::unbounded_channel();
        let again = enqueue.clone();
        controller.run(2, move |key| {
            let (sender, again) = (sender.clone(), again.clone());
            async move {
                if key == 1 {
                    again.add(1 + 1);
                    again.add(2);
                }
                sender.send(key).ok();
                Ok::<_, std::io::Error>(Action::Done)
            }
        });
        enqueue.add(1);
        enqueue.add_after(3, Duration::from_secs(5));
        assert_eq!(runs.recv().await, Some(1));
        assert_eq!(runs.recv().await, Some(2));
        assert_eq!(runs.recv().await, Some(3));
        assert_eq!(
            tasks.stop(Duration::from_secs(1)).await.aborted,
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_failed_key_waits_longer_each_time() {
        let tasks = Arc::new(Supervisor::new(Shutdown::new()));
        let controller = Controller::<u32>::new("test", tasks);
        let mut state = controller.queue.state.lock();
        let now = Instant::now();
        state.add(1);
        for failures in 0..4 {
            let at = now + FIRST_RETRY * (1 << failures);
            let key = state.take(now + Duration::from_secs(60)).expect("due");
            state.finish(key, Err(()), now);
            assert_eq!(state.take(now), Err(Some(at)));
        }
    }
}

//! The loop around the decision.

use std::collections::HashMap;
use std::sync::Arc;

use base::{Shutdown, Supervisor};
use client::{Change, Client, EventRecorder, Informer, Informers, NamespacedName};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use tokio::time::Instant;

use crate::bind::{Bound, Writer};
use crate::preempt::preempt;
use crate::queue::Queue;
use crate::schedule::schedule;
use crate::snapshot::{PodInfo, Snapshot};

const NAME: &str = "default-scheduler";

/// Starts the scheduler. `client` speaks as `system:kube-scheduler`.
pub fn register(tasks: &Arc<Supervisor>, informers: &Informers, client: Client) {
    let recorder = EventRecorder::new(client.clone(), tasks, NAME, "");
    let sources = Sources {
        pods: informers.of(),
        nodes: informers.of(),
        namespaces: informers.of(),
        budgets: informers.of(),
        claims: informers.of(),
        volumes: informers.of(),
        classes: informers.of(),
    };
    let writer = Writer {
        client,
        recorder,
        claims: sources.claims.clone(),
    };
    let scheduler = Scheduler {
        sources,
        writer,
        snapshot: Snapshot::default(),
        queue: Queue::default(),
        placed: HashMap::new(),
        assumed: HashMap::new(),
        work: FuturesUnordered::new(),
    };
    tasks.spawn("scheduler", |stop| scheduler.run(stop));
}

struct Sources {
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    namespaces: Informer<Namespace>,
    budgets: Informer<PodDisruptionBudget>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
}

struct Scheduler {
    sources: Sources,
    writer: Writer,
    snapshot: Snapshot,
    queue: Queue,
    /// Where each pod is in the snapshot.
    placed: HashMap<NamespacedName, String>,
    /// Pods whose binding is on its way, as they were when it was decided.
    assumed: HashMap<NamespacedName, Arc<PodInfo>>,
    /// Requests on their way: bounded by the number of pods.
    work: FuturesUnordered<BoxFuture<'static, Option<Bound>>>,
}

impl Scheduler {
    async fn run(mut self, stop: Shutdown) {
        let synced = async {
            self.sources.pods.synced().await;
            self.sources.nodes.synced().await;
            self.sources.namespaces.synced().await;
            self.sources.budgets.synced().await;
            self.sources.claims.synced().await;
            self.sources.volumes.synced().await;
            self.sources.classes.synced().await;
        };
        if stop.guard(synced).await.is_none() {
            return;
        }
        let mut pods = self.sources.pods.subscribe();
        let mut nodes = self.sources.nodes.subscribe();
        let mut namespaces = self.sources.namespaces.subscribe();
        let mut budgets = self.sources.budgets.subscribe();
        let mut claims = self.sources.claims.subscribe();
        let mut volumes = self.sources.volumes.subscribe();
        let mut classes = self.sources.classes.subscribe();
        loop {
            let now = Instant::now();
            let tried = match self.queue.pop(now) {
                Some(key) => {
                    self.attempt(&key);
                    true
                }
                None => false,
            };
            let deadline = self.queue.next_deadline();
            let sleep = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            // Changes first: a decision should rest on all that is known.
            tokio::select! {
                biased;
                () = stop.triggered() => return,
                Some(change) = pods.next() => self.see_pod(change),
                Some(change) = nodes.next() => self.see_node(change),
                Some(_) = namespaces.next() => self.refresh_namespaces(),
                Some(_) = budgets.next() => self.snapshot.budgets = self.sources.budgets.list(),
                Some(_) = claims.next() => self.refresh_volumes(),
                Some(_) = volumes.next() => self.refresh_volumes(),
                Some(_) = classes.next() => self.refresh_volumes(),
                Some(done) = self.work.next() => self.finish(done),
                () = std::future::ready(()), if tried => {}
                () = sleep => {}
            }
        }
    }

    fn attempt(&mut self, key: &NamespacedName) {
        let Some(pod) = self.sources.pods.get(key).filter(|pod| is_ours(pod)) else {
            self.queue.remove(key);
            return;
        };
        let pod = Arc::new(PodInfo::new(pod));
        match schedule(&self.snapshot, &pod) {
            Ok(node) => {
                self.place(&node, pod.clone());
                self.forget_nomination(key);
                self.assumed.insert(key.clone(), pod.clone());
                let bind = self.writer.clone().bind(pod, node);
                self.work.push(Box::pin(async move { Some(bind.await) }));
            }
            Err(mut error) => {
                let writer = self.writer.clone();
                let preemption = match error.unmet.is_some() || error.nodes == 0 {
                    true => None,
                    false => Some(preempt(&self.snapshot, &pod, &error)),
                };
                match preemption {
                    Some(Ok(preemption)) => {
                        self.forget_nomination(key);
                        self.snapshot
                            .nominated
                            .entry(preemption.node.clone())
                            .or_default()
                            .push(pod.clone());
                        let carry_out = writer.carry_out(pod, preemption, error.to_string());
                        self.work.push(Box::pin(async move {
                            carry_out.await;
                            None
                        }));
                    }
                    outcome => {
                        error.preemption = outcome.and_then(Result::err);
                        let status = pod.pod.status.as_ref();
                        let promised = status.and_then(|status| status.nominated_node_name.clone());
                        // A promise stands while its victims are leaving.
                        let waiting = error
                            .preemption
                            .as_deref()
                            .is_some_and(|text| text.contains("terminating pod on the nominated"));
                        let promised = promised.filter(|_| waiting);
                        if promised.is_none() {
                            self.forget_nomination(key);
                        }
                        let report = writer.report(pod, error.to_string(), promised);
                        self.work.push(Box::pin(async move {
                            report.await;
                            None
                        }));
                    }
                }
                self.queue.park(key, Instant::now());
            }
        }
    }

    fn finish(&mut self, done: Option<Bound>) {
        let Some(Bound { key, node, outcome }) = done else {
            return;
        };
        // Gone from here once the informer has shown the pod bound.
        let Some(_) = self.assumed.get(&key) else {
            return;
        };
        if let Err(error) = outcome {
            tracing::debug!(pod = %key, node, %error, "not bound");
            self.assumed.remove(&key);
            self.remove(&key);
            self.queue.retry(&key, Instant::now());
        }
    }

    fn place(&mut self, node: &str, pod: Arc<PodInfo>) {
        if self.placed.get(&pod.key).is_some_and(|known| known != node) {
            self.remove(&pod.key);
        }
        self.placed.insert(pod.key.clone(), node.to_owned());
        self.snapshot.place(node, pod);
    }

    /// Takes a pod off its node; whether it was on one.
    fn remove(&mut self, key: &NamespacedName) -> bool {
        let Some(node) = self.placed.remove(key) else {
            return false;
        };
        if let Some(node) = self.snapshot.nodes.get_mut(&node) {
            node.remove(key);
        }
        true
    }

    fn forget_nomination(&mut self, key: &NamespacedName) {
        self.snapshot.nominated.retain(|_, pods| {
            pods.retain(|pod| pod.key != *key);
            !pods.is_empty()
        });
    }

    fn see_pod(&mut self, change: Change<Pod>) {
        match change {
            Change::Applied { old, new } => self.take_pod(old.as_deref(), &new),
            Change::Deleted(pod) => self.drop_pod(&NamespacedName::of(&*pod)),
            Change::Resync => {
                let known: Vec<_> = self.placed.keys().cloned().collect();
                for key in known {
                    if self.sources.pods.get(&key).is_none() {
                        self.drop_pod(&key);
                    }
                }
                for pod in self.sources.pods.list() {
                    self.take_pod(None, &pod);
                }
            }
        }
    }

    fn drop_pod(&mut self, key: &NamespacedName) {
        self.queue.remove(key);
        self.assumed.remove(key);
        self.forget_nomination(key);
        if self.remove(key) {
            self.queue.stir(Instant::now());
        }
    }

    fn take_pod(&mut self, old: Option<&Pod>, new: &Arc<Pod>) {
        let key = NamespacedName::of(&**new);
        let node = new
            .spec
            .as_ref()
            .and_then(|spec| spec.node_name.clone())
            .unwrap_or_default();
        let phase = new
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            self.drop_pod(&key);
        } else if !node.is_empty() {
            self.queue.remove(&key);
            self.forget_nomination(&key);
            self.assumed.remove(&key);
            let appeared = self.placed.get(&key) != Some(&node);
            let relabelled = old.is_some_and(|old| old.metadata.labels != new.metadata.labels);
            self.place(&node, Arc::new(PodInfo::new(new.clone())));
            // Someone may have wanted to be near such a pod, and a pod
            // resized in place may have made room.
            let resized = old.is_some_and(|old| old.spec != new.spec);
            if appeared || relabelled || resized {
                self.queue.stir(Instant::now());
            }
        } else if self.assumed.contains_key(&key) {
        } else if is_ours(new) {
            let priority = new
                .spec
                .as_ref()
                .and_then(|spec| spec.priority)
                .unwrap_or(0);
            let same = old.is_some_and(|old| {
                old.spec == new.spec && old.metadata.labels == new.metadata.labels
            });
            if !same || !self.queue.contains(&key) {
                self.queue.add(&key, priority);
            }
            let status = new.status.as_ref();
            if let Some(promised) = status.and_then(|status| status.nominated_node_name.clone()) {
                self.forget_nomination(&key);
                let info = Arc::new(PodInfo::new(new.clone()));
                self.snapshot
                    .nominated
                    .entry(promised)
                    .or_default()
                    .push(info);
            }
        } else {
            self.queue.remove(&key);
            self.forget_nomination(&key);
        }
    }

    fn see_node(&mut self, change: Change<Node>) {
        match change {
            Change::Applied { old, new } => self.take_node(old.as_deref(), new),
            Change::Deleted(node) => {
                self.snapshot
                    .nodes
                    .remove(node.metadata.name.as_deref().unwrap_or_default());
            }
            Change::Resync => {
                let nodes = self.sources.nodes.list();
                self.snapshot.nodes.retain(|name, _| {
                    nodes
                        .iter()
                        .any(|node| node.metadata.name.as_deref() == Some(name))
                });
                for node in nodes {
                    self.take_node(None, node);
                }
            }
        }
    }

    fn take_node(&mut self, old: Option<&Node>, new: Arc<Node>) {
        let name = new.metadata.name.clone().unwrap_or_default();
        let allocatable = |node: &Node| node.status.as_ref().and_then(|s| s.allocatable.clone());
        // Heartbeats change nothing a pod may be waiting for.
        let same = old.is_some_and(|old| {
            old.spec == new.spec
                && old.metadata.labels == new.metadata.labels
                && allocatable(old) == allocatable(&new)
        });
        let known = self.snapshot.nodes.contains_key(&name);
        self.snapshot.set_node(new);
        if !known {
            for pod in self.sources.pods.filter(|pod| {
                pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(&name)
            }) {
                self.take_pod(None, &pod);
            }
            let assumed: Vec<_> = self.assumed.values().cloned().collect();
            for pod in assumed {
                if self.placed.get(&pod.key) == Some(&name) {
                    self.snapshot.place(&name, pod);
                }
            }
        }
        if !same {
            self.queue.stir(Instant::now());
        }
    }

    fn refresh_namespaces(&mut self) {
        let labels = |namespace: Arc<Namespace>| {
            let meta = &namespace.metadata;
            (
                meta.name.clone().unwrap_or_default(),
                meta.labels.clone().unwrap_or_default(),
            )
        };
        self.snapshot.namespaces = self
            .sources
            .namespaces
            .list()
            .into_iter()
            .map(labels)
            .collect();
    }

    fn refresh_volumes(&mut self) {
        let claims = self.sources.claims.list().into_iter();
        self.snapshot.claims = claims
            .map(|claim| (NamespacedName::of(&*claim), claim))
            .collect();
        let volumes = self.sources.volumes.list().into_iter();
        self.snapshot.volumes = volumes
            .map(|volume| (volume.metadata.name.clone().unwrap_or_default(), volume))
            .collect();
        let classes = self.sources.classes.list().into_iter();
        self.snapshot.waiting_classes = classes
            .filter(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"))
            .filter_map(|class| class.metadata.name.clone())
            .collect();
        self.queue.stir(Instant::now());
    }
}

/// Whether the pod is for this scheduler to place, now.
fn is_ours(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && pod.spec.as_ref().is_some_and(|spec| {
            spec.node_name.as_deref().unwrap_or_default().is_empty()
                && spec
                    .scheduler_name
                    .as_deref()
                    .is_none_or(|name| name == NAME)
                && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
        })
}

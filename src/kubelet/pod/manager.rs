//! The workers of a node: one for each pod bound to it, and one for each pod
//! the runtime still knows but the API server does not.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base::Shutdown;
use client::{Change, Informer};
use cri::{ContainerEvent, PodSandboxId};
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;

use super::admission::{Refusal, refuse};
use super::observed::{Observed, labels};
use super::spec::{is_deleted, is_terminal, name, namespace, phase, uid};
use super::worker::{Desired, Shared, Signals, Worker};

/// What is known of a pod, for the node API.
#[derive(Clone, Debug)]
pub(crate) struct PodView {
    pub(crate) pod: Arc<Pod>,
    pub(crate) status: Arc<PodStatus>,
    pub(crate) observed: Arc<Observed>,
}

struct Entry {
    desired: watch::Sender<Desired>,
    signals: Arc<Signals>,
    view: Arc<Mutex<PodView>>,
    done: Arc<AtomicBool>,
}

/// The pods of a node by uid.
pub(crate) struct Pods {
    shared: Arc<Shared>,
    entries: Mutex<BTreeMap<String, Entry>>,
}

impl Pods {
    pub(crate) fn new(shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            shared,
            entries: Mutex::default(),
        })
    }

    /// Every pod as it is now.
    pub(crate) fn views(&self) -> Vec<PodView> {
        self.entries
            .lock()
            .values()
            .map(|entry| entry.view.lock().clone())
            .collect()
    }

    /// The pod of this name, or of this uid if one is given.
    pub(crate) fn find(
        &self,
        in_namespace: &str,
        called: &str,
        of_uid: Option<&str>,
    ) -> Option<PodView> {
        let found = self.views().into_iter().filter(|view| {
            namespace(&view.pod) == in_namespace
                && name(&view.pod) == called
                && of_uid.is_none_or(|of_uid| uid(&view.pod) == of_uid)
        });
        // A pod that is being replaced by one of the same name comes first otherwise.
        found.max_by_key(|view| view.pod.metadata.creation_timestamp.clone())
    }

    /// Adopts what runs, then follows the informer and the runtime until stopped.
    pub(crate) async fn run(self: Arc<Self>, pods: Informer<Pod>, stop: Shutdown) {
        // Subscribed before anything is listed, so that nothing falls between.
        let mut events = self.shared.runtime.events();
        let mut changes = pods.subscribe();
        if stop.guard(pods.synced()).await.is_none() {
            return;
        }
        if stop.guard(self.adopt(&pods)).await.is_none() {
            return;
        }
        loop {
            let next = stop.guard(async {
                tokio::select! {
                    change = changes.next() => Wake::Change(change),
                    event = events.recv() => Wake::Event(event),
                }
            });
            match next.await {
                None | Some(Wake::Change(None) | Wake::Event(Err(RecvError::Closed))) => return,
                Some(Wake::Change(Some(change))) => self.on_change(change, &pods),
                Some(Wake::Event(Ok(event))) => self.on_event(&event),
                Some(Wake::Event(Err(RecvError::Lagged(_)))) => self.wake_all(),
            }
        }
    }

    fn on_change(self: &Arc<Self>, change: Change<Pod>, pods: &Informer<Pod>) {
        match change {
            Change::Applied { new, .. } => self.apply(new, Observed::default()),
            Change::Deleted(old) => self.gone(old),
            Change::Resync => {
                let all = pods.list();
                let known: HashSet<&str> = all.iter().map(|pod| uid(pod)).collect();
                let lost: Vec<Arc<Pod>> = self
                    .entries
                    .lock()
                    .iter()
                    .filter(|(uid, _)| !known.contains(uid.as_str()))
                    .map(|(_, entry)| entry.desired.borrow().pod().clone())
                    .collect();
                lost.into_iter().for_each(|pod| self.gone(pod));
                all.iter()
                    .for_each(|pod| self.apply(pod.clone(), Observed::default()));
            }
        }
    }

    fn on_event(&self, event: &ContainerEvent) {
        let (sandbox, lost) = match event {
            ContainerEvent::Started(sandbox, _) | ContainerEvent::Exited(sandbox, _) => {
                (sandbox, false)
            }
            ContainerEvent::SandboxLost(sandbox) => (sandbox, true),
        };
        let entries = self.entries.lock();
        let knows = |entry: &&Entry| {
            let observed = entry.view.lock().observed.clone();
            observed.sandboxes.iter().any(|known| known.id == *sandbox)
        };
        let owner = entries.values().find(knows);
        // A sandbox no view shows yet is that of a worker in the midst of its
        // work; waking all of them costs little.
        let woken = owner.map_or_else(|| entries.values().collect(), |owner| vec![owner]);
        for entry in woken {
            if lost {
                entry.signals.relist.store(true, Ordering::Relaxed);
            }
            entry.signals.wake.notify_one();
        }
    }

    fn wake_all(&self) {
        for entry in self.entries.lock().values() {
            entry.signals.relist.store(true, Ordering::Relaxed);
            entry.signals.wake.notify_one();
        }
    }

    /// Starts a worker for a pod, or tells the one it has.
    fn apply(self: &Arc<Self>, pod: Arc<Pod>, observed: Observed) {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get(uid(&pod)) {
            entry.desired.send_if_modified(|desired| {
                let known = desired.pod().metadata.resource_version.clone();
                let changed = known != pod.metadata.resource_version;
                *desired = Desired::Pod(pod);
                changed
            });
            return;
        }
        let refusal = self.judge(&entries, &pod, &observed);
        self.start(&mut entries, Desired::Pod(pod), observed, refusal);
    }

    /// Why a pod that is new here cannot run beside the others; `None` if it can,
    /// or does already.
    fn judge(
        &self,
        entries: &BTreeMap<String, Entry>,
        pod: &Pod,
        observed: &Observed,
    ) -> Option<Refusal> {
        let status = pod.status.as_ref();
        let began = status.is_some_and(|status| {
            status.container_statuses.is_some() || status.init_container_statuses.is_some()
        });
        if began || is_deleted(pod) || is_terminal(phase(pod)) || !observed.sandboxes.is_empty() {
            return None;
        }
        let views: Vec<PodView> = entries
            .values()
            .map(|entry| entry.view.lock().clone())
            .filter(|view| !is_terminal(view.status.phase.as_deref().unwrap_or_default()))
            .collect();
        let others = views.iter().map(|view| &*view.pod);
        refuse(pod, others, &self.shared.allocatable())
    }

    fn start(
        self: &Arc<Self>,
        entries: &mut BTreeMap<String, Entry>,
        desired: Desired,
        observed: Observed,
        refusal: Option<Refusal>,
    ) {
        let pod = desired.pod().clone();
        let key = uid(&pod).to_owned();
        let view = Arc::new(Mutex::new(PodView {
            status: Arc::new(pod.status.clone().unwrap_or_default()),
            observed: Arc::new(observed.clone()),
            pod: pod.clone(),
        }));
        let signals = Arc::new(Signals::default());
        let (desired, inbox) = watch::channel(desired);
        let done = Arc::new(AtomicBool::new(false));
        let worker = Worker::new(
            self.shared.clone(),
            inbox,
            signals.clone(),
            observed,
            view.clone(),
            refusal,
        );
        let entry = Entry {
            desired,
            signals,
            view,
            done: done.clone(),
        };
        entries.insert(key.clone(), entry);
        let task_name = format!("pod {}/{}", namespace(&pod), name(&pod));
        let pods = self.clone();
        self.shared.tasks.spawn(task_name, |stop| async move {
            worker.run(stop).await;
            done.store(true, Ordering::Release);
            pods.sweep();
        });
    }

    fn gone(&self, pod: Arc<Pod>) {
        let key = uid(&pod).to_owned();
        self.shared.reporter.forget(&key);
        if let Some(entry) = self.entries.lock().get(&key) {
            entry.desired.send_replace(Desired::Gone(pod));
        }
        self.sweep();
    }

    /// Drops the entries of workers that are through.
    fn sweep(&self) {
        self.entries.lock().retain(|_, entry| {
            let gone = matches!(*entry.desired.borrow(), Desired::Gone(_));
            !(gone && entry.done.load(Ordering::Acquire))
        });
    }

    /// Takes over what the runtime still runs, and removes what nobody owns.
    async fn adopt(self: &Arc<Self>, pods: &Informer<Pod>) {
        let shared = &self.shared;
        let (sandboxes, containers) = match (
            shared.runtime.list_pod_sandboxes().await,
            shared.runtime.list_containers().await,
        ) {
            (Ok(sandboxes), Ok(containers)) => (sandboxes, containers),
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(error = %base::Chain(&error), "listing what still runs failed; \
                        nothing is taken over");
                return;
            }
        };
        let keep: Vec<PodSandboxId> = sandboxes.iter().map(|sandbox| sandbox.id.clone()).collect();
        if let Err(error) = shared.network.retain(&keep).await {
            tracing::warn!(error = %base::Chain(&error), "freeing unused pod addresses failed");
        }
        let mut by_uid: BTreeMap<String, Observed> = BTreeMap::new();
        for sandbox in sandboxes {
            by_uid
                .entry(sandbox.config.uid.clone())
                .or_default()
                .sandboxes
                .push(sandbox);
        }
        for container in containers {
            if let Some(own) = container.config.labels.get(labels::POD_UID).cloned() {
                by_uid.entry(own).or_default().containers.push(container);
            }
        }
        for observed in by_uid.values_mut() {
            observed.sort();
        }
        let known = pods.list();
        let mut keep: HashSet<String> = known.iter().map(|pod| uid(pod).to_owned()).collect();
        keep.extend(by_uid.keys().cloned());
        remove_orphans(shared, &keep).await;
        for pod in known {
            let observed = by_uid.remove(uid(&pod)).unwrap_or_default();
            self.apply(pod, observed);
        }
        let mut entries = self.entries.lock();
        for (uid, observed) in by_uid {
            if let Some(pod) = orphan(&uid, &observed) {
                tracing::info!(
                    pod = name(&pod),
                    namespace = namespace(&pod),
                    "stopping a pod that is gone from the API server"
                );
                let desired = Desired::Gone(Arc::new(pod));
                self.start(&mut entries, desired, observed, None);
            }
        }
    }
}

enum Wake {
    Change(Option<Change<Pod>>),
    Event(Result<ContainerEvent, RecvError>),
}

/// A stand-in for a pod whose object is gone.
fn orphan(uid: &str, observed: &Observed) -> Option<Pod> {
    let labels_of = observed
        .sandboxes
        .first()
        .map(|sandbox| &sandbox.config.labels)
        .or_else(|| observed.containers.first().map(|run| &run.config.labels))?;
    Some(Pod {
        metadata: ObjectMeta {
            uid: Some(uid.to_owned()),
            name: labels_of.get(labels::POD_NAME).cloned(),
            namespace: labels_of.get(labels::POD_NAMESPACE).cloned(),
            ..Default::default()
        },
        spec: Some(PodSpec::default()),
        status: None,
    })
}

/// Removes folders of pods that are neither known nor running.
async fn remove_orphans(shared: &Shared, keep: &HashSet<String>) {
    let (pods, logs, keep) = (
        shared.config.root_dir.join("pods"),
        shared.config.log_dir.clone(),
        keep.clone(),
    );
    let work = move || {
        for (path, name) in entries_of(&pods) {
            if !keep.contains(&name)
                && let Err(error) = crate::volumes::tear_down(&path)
            {
                tracing::warn!(path = %path.display(), %error, "removing a stale pod folder");
            }
        }
        for (path, name) in entries_of(&logs) {
            let own = name.rsplit('_').next().unwrap_or_default();
            if name.matches('_').count() == 2
                && !keep.contains(own)
                && let Err(error) = std::fs::remove_dir_all(&path)
            {
                tracing::warn!(path = %path.display(), %error, "removing stale logs");
            }
        }
    };
    if let Err(error) = tokio::task::spawn_blocking(work).await {
        tracing::warn!(%error, "removing stale pod folders");
    }
}

fn entries_of(dir: &Path) -> Vec<(std::path::PathBuf, String)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Some((entry.path(), entry.file_name().into_string().ok()?)))
        .collect()
}

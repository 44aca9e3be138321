//! The life of one pod on this node.
//!
//! ```text
//! Running ──► Terminating ──► Terminated ──► Finished
//! ```
//!
//! *Running*: containers are made to match the spec. *Terminating*: deletion was
//! asked for, the pod ran its course, ran out of time, or vanished; everything
//! is being stopped. *Terminated*: nothing runs, volumes are gone, logs and
//! statuses remain until the object is deleted. *Finished*: nothing is left.
//!
//! One task owns a pod and does one thing at a time. It wakes when the pod, an
//! object it uses, a container or a probe changes, and at deadlines.

mod end;
mod images;
mod report;
mod resizing;
mod sandboxes;
mod sync;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::Shutdown;
use client::Client;
use cri::{
    ContainerId, ContainerResources, ContainerRuntime, ContainerState, ErrorKind, ImageService,
    PodNetwork, PodSandboxId, SandboxState,
};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodStatus, Secret, Service};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::Nudge;
use super::admission::Refusal;
use super::backoff::KeyedBackoff;
use super::fields::FieldContext;
use super::images::{PullState, Puller};
use super::kill::{Killer, Progress};
use super::manager::PodView;
use super::observed::{Observed, labels};
use super::reporter::Reporter;
use super::resize::{self, ResizeCondition};
use super::spec::{is_deleted, is_host_network, is_terminal, phase, uid};
use super::status::WaitReasons;
use crate::config::Config;
use crate::events::Recorder;
use crate::objects::{Handle, Objects};
use crate::probe::Probes;
use crate::quantity::ResourceList;
use crate::volumes::{Plugins, ReadyVolumes, Tokens};

/// What every worker of a node works with.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) client: Client,
    pub(crate) runtime: Arc<dyn ContainerRuntime>,
    pub(crate) images: Arc<dyn ImageService>,
    pub(crate) network: Arc<dyn PodNetwork>,
    pub(crate) tasks: Arc<base::Supervisor>,
    pub(crate) events: Recorder,
    pub(crate) services: client::Informer<Service>,
    pub(crate) config_maps: Objects<ConfigMap>,
    pub(crate) secrets: Objects<Secret>,
    pub(crate) plugins: Plugins,
    pub(crate) puller: Puller,
    pub(crate) reporter: Reporter,
    pub(crate) memory_capacity: u64,
    pub(crate) least_oom_score: i32,
    pub(crate) allocatable: RwLock<Arc<ResourceList>>,
}

impl Shared {
    pub(crate) fn allocatable(&self) -> Arc<ResourceList> {
        self.allocatable.read().clone()
    }
}

/// What is wanted of a pod.
#[derive(Clone, Debug)]
pub(crate) enum Desired {
    /// The object as the API server has it.
    Pod(Arc<Pod>),
    /// The object is gone; this is its last known form.
    Gone(Arc<Pod>),
}

impl Desired {
    pub(crate) fn pod(&self) -> &Arc<Pod> {
        match self {
            Self::Pod(pod) | Self::Gone(pod) => pod,
        }
    }

    fn is_gone(&self) -> bool {
        matches!(self, Self::Gone(_))
    }
}

/// Completes once the pod is to be stopped.
pub(super) async fn stopping(mut inbox: watch::Receiver<Desired>) {
    let wanted = |desired: &Desired| desired.is_gone() || is_deleted(desired.pod());
    let found = inbox.wait_for(wanted).await.is_ok();
    if !found {
        std::future::pending::<()>().await;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Running,
    Terminating,
    Terminated,
    Finished,
}

/// What the worker does after a step.
enum Next {
    /// Step again at once.
    Again,
    /// Wait for a change, or until then.
    Wait(Option<Instant>),
    Done,
}

/// Tells a worker about the world outside.
#[derive(Default)]
pub(crate) struct Signals {
    pub(crate) wake: Notify,
    /// The runtime's lists must be read anew.
    pub(crate) relist: AtomicBool,
    /// Objects behind volumes have changed.
    pub(crate) volumes: AtomicBool,
}

/// Objects in use by name.
type Handles<K> = BTreeMap<String, Arc<Handle<K>>>;

pub(crate) struct Worker {
    pub(super) node: Arc<Shared>,
    pub(super) pod: Arc<Pod>,
    pub(super) inbox: watch::Receiver<Desired>,
    signals: Arc<Signals>,
    life: Life,
    pub(super) observed: Observed,
    probes: Probes,
    pub(super) crashes: KeyedBackoff,
    pub(super) pulls: PullState,
    setup_backoff: KeyedBackoff,
    waiting: WaitReasons,
    messages: BTreeMap<String, String>,
    status: Arc<PodStatus>,
    /// Why the pod was stopped though its containers would have gone on.
    verdict: Option<(String, String)>,
    /// Why the pod never ran here.
    refusal: Option<Refusal>,
    /// How a resize stands, if it is not done.
    resize: Option<ResizeCondition>,
    /// Limits of the pod's cgroup, where they were changed.
    pod_limits: Option<(PodSandboxId, ContainerResources)>,
    tokens: Tokens,
    config_maps: Handles<ConfigMap>,
    secrets: Handles<Secret>,
    pub(super) volumes: ReadyVolumes,
    volumes_ready: bool,
    pub(super) kill_progress: Progress,
    view: Arc<Mutex<PodView>>,
    /// Containers that ran before this process took over.
    adopted: Vec<ContainerId>,
}

impl Worker {
    pub(crate) fn new(
        node: Arc<Shared>,
        inbox: watch::Receiver<Desired>,
        signals: Arc<Signals>,
        observed: Observed,
        view: Arc<Mutex<PodView>>,
        refusal: Option<Refusal>,
    ) -> Self {
        let pod = inbox.borrow().pod().clone();
        let nudge: Nudge = {
            let signals = signals.clone();
            Arc::new(move || signals.wake.notify_one())
        };
        let probes = Probes::new(node.tasks.clone(), nudge);
        let status = Arc::new(pod.status.clone().unwrap_or_default());
        let adopted = observed.running().map(|run| run.id.clone()).collect();
        let seconds = Duration::from_secs;
        Self {
            life: Life::Running,
            observed,
            probes,
            crashes: KeyedBackoff::new(seconds(10), seconds(300)),
            pulls: PullState::default(),
            setup_backoff: KeyedBackoff::new(Duration::from_millis(500), seconds(60)),
            waiting: WaitReasons::new(),
            messages: BTreeMap::new(),
            status,
            verdict: None,
            refusal,
            resize: None,
            pod_limits: None,
            tokens: Tokens::default(),
            config_maps: Handles::new(),
            secrets: Handles::new(),
            volumes: ReadyVolumes::new(),
            volumes_ready: false,
            kill_progress: Progress::default(),
            view,
            adopted,
            node,
            pod,
            inbox,
            signals,
        }
    }

    /// Walks the pod through its life; returns early if stopped, with
    /// everything left running to be adopted later.
    pub(crate) async fn run(mut self, stop: Shutdown) {
        while let Some(next) = stop.guard(self.step()).await {
            let deadline = match next {
                Next::Again => continue,
                Next::Done => return,
                Next::Wait(deadline) => deadline.unwrap_or_else(crate::probe::never),
            };
            let woken = stop.guard(async {
                tokio::select! {
                    _ = self.inbox.changed() => {}
                    () = self.signals.wake.notified() => {}
                    () = tokio::time::sleep_until(deadline) => {}
                }
            });
            if woken.await.is_none() {
                return;
            }
        }
    }

    async fn step(&mut self) -> Next {
        let desired = self.inbox.borrow_and_update().clone();
        if self.pod.metadata.labels != desired.pod().metadata.labels
            || self.pod.metadata.annotations != desired.pod().metadata.annotations
        {
            self.signals.volumes.store(true, Ordering::Relaxed);
        }
        let allocatable = self.node.allocatable();
        (self.pod, self.resize) = resize::allocate(desired.pod(), &self.status, &allocatable);
        self.refresh().await;
        match self.life {
            Life::Running => {
                let over = is_terminal(phase(&self.pod));
                if desired.is_gone() || is_deleted(&self.pod) || over {
                    self.life = Life::Terminating;
                    return Next::Again;
                }
                self.sync().await
            }
            Life::Terminating => self.terminate(desired.is_gone()).await,
            Life::Terminated => self.clean_up(&desired).await,
            Life::Finished => match desired.is_gone() {
                true => Next::Done,
                false => Next::Wait(None),
            },
        }
    }

    /// Looks at what the runtime has, where it can have changed.
    async fn refresh(&mut self) {
        if self.signals.relist.swap(false, Ordering::Relaxed) {
            self.relist().await;
        }
        let live: Vec<ContainerId> = self
            .observed
            .containers
            .iter()
            .filter(|run| !matches!(run.state, ContainerState::Exited { .. }))
            .map(|run| run.id.clone())
            .collect();
        for id in live {
            self.track(id).await;
        }
        if self.observed.ips.is_empty()
            && !is_host_network(&self.pod)
            && let Some(sandbox) = self.observed.sandboxes.first()
            && sandbox.state == SandboxState::Ready
            && let Ok(Some(status)) = self.node.network.status(&sandbox.id).await
        {
            self.observed.ips = status.ips;
        }
        for run in &self.observed.containers {
            let ended = matches!(run.state, ContainerState::Exited { .. });
            if ended && !self.messages.contains_key(&run.id.0) {
                self.messages
                    .insert(run.id.0.clone(), report::termination_message(run));
            }
        }
    }

    async fn relist(&mut self) {
        let own = uid(&self.pod);
        match self.node.runtime.list_pod_sandboxes().await {
            Ok(all) => {
                self.observed.sandboxes = all
                    .into_iter()
                    .filter(|sandbox| sandbox.config.uid == own)
                    .collect();
            }
            Err(error) => tracing::info!(error = %base::Chain(&error), "listing sandboxes"),
        }
        match self.node.runtime.list_containers().await {
            Ok(all) => {
                let is_own = |label: Option<&String>| label.is_some_and(|label| label == own);
                self.observed.containers = all
                    .into_iter()
                    .filter(|run| is_own(run.config.labels.get(labels::POD_UID)))
                    .collect();
            }
            Err(error) => tracing::info!(error = %base::Chain(&error), "listing containers"),
        }
        self.observed.sort();
        let ready = self.observed.sandboxes.first();
        if !ready.is_some_and(|sandbox| sandbox.state == SandboxState::Ready) {
            self.observed.ips.clear();
        }
    }

    /// Brings what is known of one container up to date.
    pub(super) async fn track(&mut self, id: ContainerId) {
        let known = self.observed.containers.iter().position(|run| run.id == id);
        match (self.node.runtime.container_status(&id).await, known) {
            (Ok(status), Some(index)) => self.observed.containers[index] = status,
            (Ok(status), None) => {
                self.observed.containers.push(status);
                self.observed.sort();
            }
            (Err(error), Some(index)) if error.kind == ErrorKind::NotFound => {
                self.observed.containers.remove(index);
            }
            (Err(error), _) => {
                tracing::info!(container = %id, error = %base::Chain(&error), "container status");
            }
        }
    }

    fn pod_ips(&self) -> &[IpAddr] {
        match is_host_network(&self.pod) {
            true => &self.node.config.node_ips,
            false => &self.observed.ips,
        }
    }

    pub(super) fn fields<'a>(&'a self, allocatable: &'a ResourceList) -> FieldContext<'a> {
        FieldContext {
            pod_ips: self.pod_ips(),
            host_ips: &self.node.config.node_ips,
            allocatable,
        }
    }

    fn killer(&self) -> Killer<'_> {
        Killer {
            runtime: &*self.node.runtime,
            events: &self.node.events,
            pod: &self.pod,
            pod_ip: self.pod_ips().first().copied(),
            progress: &self.kill_progress,
        }
    }

    fn release_handles(&mut self) {
        let own = uid(&self.pod);
        self.config_maps
            .values()
            .for_each(|handle| handle.unsubscribe(own));
        self.secrets
            .values()
            .for_each(|handle| handle.unsubscribe(own));
        self.config_maps.clear();
        self.secrets.clear();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.release_handles();
    }
}

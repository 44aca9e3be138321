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

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::Shutdown;
use client::Client;
use cri::{
    ContainerId, ContainerRuntime, ContainerState, ErrorKind, ImageService, PodNetwork,
    PodSandboxId, SandboxState,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, PodStatus, Secret, Service};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::Nudge;
use super::backoff::KeyedBackoff;
use super::dns::{parse_resolv_conf, pod_dns};
use super::env::Sources;
use super::fields::FieldContext;
use super::images::{PullState, Puller};
use super::kill::{Killer, Progress};
use super::manager::PodView;
use super::observed::{Observed, labels};
use super::plan::{Plan, plan};
use super::reporter::Reporter;
use super::sandbox::{self, log_directory};
use super::spec::{
    as_container, containers, ephemeral_containers, find_container, init_containers, is_deleted,
    is_host_network, is_sidecar, is_terminal, namespace, spec, uid,
};
use super::start::{remove_logs, shown};
use super::status::{StatusInput, WaitReasons, pod_status};
use crate::config::Config;
use crate::events::{Normal, Recorder, Warning, container_reference};
use crate::objects::{Handle, Objects};
use crate::probe::{Prober, Probes, Subject, Target};
use crate::quantity::ResourceList;
use crate::volumes::{self, Plugins, ReadyVolumes, Tokens};

const MAX_MESSAGE: usize = 4096;
const MAX_LOG_MESSAGE: usize = 2048;
const MAX_LOG_LINES: usize = 80;

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
    verdict: Option<(&'static str, &'static str)>,
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
        self.pod = desired.pod().clone();
        self.refresh().await;
        match self.life {
            Life::Running => {
                let over = is_terminal(super::spec::phase(&self.pod));
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
                    .insert(run.id.0.clone(), termination_message(run));
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

    /// Computes the status and reports it if it is news.
    fn report(&mut self, terminal: bool) {
        let verdicts = self.probes.verdicts();
        let status = pod_status(&StatusInput {
            pod: &self.pod,
            observed: &self.observed,
            verdicts: &verdicts,
            waiting: &self.waiting,
            messages: &self.messages,
            old: &self.status,
            host_ips: &self.node.config.node_ips,
            terminal,
            verdict: self.verdict,
            now: now_in_seconds(),
        });
        if status != *self.status {
            self.status = Arc::new(status);
            self.node.reporter.set(&self.pod, self.status.clone());
        }
        let mut view = self.view.lock();
        view.pod = self.pod.clone();
        view.status = self.status.clone();
        view.observed = Arc::new(self.observed.clone());
    }

    /// Starts probes of containers that run, ends those of others, and lets
    /// liveness and readiness probes begin once a container has started.
    fn sync_probes(&mut self) {
        let running: Vec<_> = self
            .observed
            .running()
            .map(|run| (run.id.clone(), run.config.name.clone(), run.started_at))
            .collect();
        self.probes
            .retain(|id| running.iter().any(|(known, ..)| known == id));
        for (id, name, started_at) in &running {
            let Some(container) = find_container(&self.pod, name) else {
                continue;
            };
            let status = self.container_status(name);
            if !self.probes.has(id) {
                let adopted = self.adopted.contains(id);
                let was = |flag: fn(&k8s_openapi::api::core::v1::ContainerStatus) -> bool| {
                    adopted && status.is_some_and(flag)
                };
                let target = Target {
                    id: id.clone(),
                    container: Arc::new(container.clone().into_owned()),
                    pod_ip: self.pod_ips().first().copied(),
                    reference: container_reference(&self.pod, name),
                };
                let subject = Subject {
                    id,
                    container: &container,
                    started_at: *started_at,
                    was_started: was(|status| status.started.unwrap_or(false)),
                    was_ready: was(|status| status.ready),
                    prober: Prober {
                        runtime: self.node.runtime.clone(),
                        events: self.node.events.clone(),
                        target: Arc::new(target),
                    },
                };
                self.probes.start(subject);
            }
        }
    }

    fn release_probes(&self) {
        for run in self.observed.running() {
            let status = self.container_status(&run.config.name);
            let started = status.is_some_and(|status| status.started.unwrap_or(false));
            self.probes.set_started(&run.id, started);
        }
    }

    fn container_status(&self, name: &str) -> Option<&k8s_openapi::api::core::v1::ContainerStatus> {
        let init = self.status.init_container_statuses.iter().flatten();
        init.chain(self.status.container_statuses.iter().flatten())
            .find(|status| status.name == name)
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

    /// Config maps and secrets as they are now, watched from now on.
    pub(super) async fn sources(&mut self) -> Result<Sources, String> {
        let (maps, secrets) = volumes::references(&self.pod);
        let signals = self.signals.clone();
        let nudge: Nudge = Arc::new(move || {
            signals.volumes.store(true, Ordering::Relaxed);
            signals.wake.notify_one();
        });
        let mut sources = Sources::default();
        for name in maps {
            let handle = self.config_maps.entry(name.clone()).or_insert_with(|| {
                let handle = self.node.config_maps.acquire(namespace(&self.pod), &name);
                handle.subscribe(uid(&self.pod), nudge.clone());
                handle
            });
            sources.config_maps.insert(name, handle.get().await?);
        }
        for name in secrets {
            let handle = self.secrets.entry(name.clone()).or_insert_with(|| {
                let handle = self.node.secrets.acquire(namespace(&self.pod), &name);
                handle.subscribe(uid(&self.pod), nudge.clone());
                handle
            });
            sources.secrets.insert(name, handle.get().await?);
        }
        Ok(sources)
    }

    /// Makes volumes ready and current.
    async fn sync_volumes(&mut self) -> Result<(), String> {
        let due = self
            .volumes
            .values()
            .filter_map(|volume| volume.refresh_at)
            .min();
        let due = due.is_some_and(|due| due <= Instant::now());
        let changed = self.signals.volumes.swap(false, Ordering::Relaxed);
        if self.volumes_ready && !due && !changed {
            return Ok(());
        }
        let sources = self.sources().await?;
        let allocatable = self.node.allocatable();
        let pod_dir = self.pod_dir();
        let context = volumes::Context {
            pod: &self.pod,
            pod_dir: &pod_dir,
            client: &self.node.client,
            sources: &sources,
            fields: self.fields(&allocatable),
            tokens: &self.tokens,
            node_name: &self.node.config.node_name,
        };
        let ready = self
            .node
            .plugins
            .set_up(&context)
            .await
            .map_err(|error| error.to_string())?;
        self.volumes = ready;
        self.volumes_ready = true;
        Ok(())
    }

    /// When the pod runs out of time.
    fn active_deadline(&self) -> Option<Timestamp> {
        let seconds = spec(&self.pod).active_deadline_seconds?;
        let start = self.status.start_time.as_ref()?.0;
        start
            .checked_add(jiff::SignedDuration::from_secs(seconds))
            .ok()
    }

    async fn sync(&mut self) -> Next {
        self.sync_probes();
        self.report(false);
        self.release_probes();
        let phase = self.status.phase.clone().unwrap_or_default();
        if is_terminal(&phase) {
            self.life = Life::Terminating;
            return Next::Again;
        }
        let deadline = self.active_deadline();
        if deadline.is_some_and(|deadline| deadline <= Timestamp::now()) {
            let message = "Pod was active on the node longer than the specified deadline";
            self.node
                .events
                .pod(&self.pod, Normal, "DeadlineExceeded", message);
            self.verdict = Some(("DeadlineExceeded", message));
            self.report(false);
            self.life = Life::Terminating;
            return Next::Again;
        }
        let mut wake = deadline.map(|deadline| after(Timestamp::now(), deadline));
        if let Err(message) = self.sync_volumes().await {
            let failed_before = self.setup_backoff.updated("volumes");
            let now = Timestamp::now();
            self.setup_backoff.next("volumes", now, now);
            if failed_before.is_none() || !self.volumes_ready {
                self.node
                    .events
                    .pod(&self.pod, Warning, "FailedMount", message);
            }
            if !self.volumes_ready {
                return Next::Wait(earliest(wake, self.setup_delay("volumes")));
            }
            // Old contents are better than none; try again later.
            self.signals.volumes.store(true, Ordering::Relaxed);
            wake = earliest(wake, self.setup_delay("volumes"));
        } else {
            self.setup_backoff.reset("volumes");
        }
        let refresh = self
            .volumes
            .values()
            .filter_map(|volume| volume.refresh_at)
            .min();
        wake = earliest(wake, refresh);

        let todo = plan(&self.pod, &self.observed, &self.probes.verdicts());
        if todo.is_empty() {
            self.collect_garbage().await;
            return Next::Wait(wake);
        }
        if todo.kill_pod && !todo.create_sandbox {
            // Every container is over for good, and the phase follows.
            self.life = Life::Terminating;
            return Next::Again;
        }
        let retry = self.execute(todo).await;
        self.refresh().await;
        self.sync_probes();
        self.report(false);
        self.release_probes();
        self.collect_garbage().await;
        match retry {
            // What was started may have made more possible.
            None => match plan(&self.pod, &self.observed, &self.probes.verdicts()).is_empty() {
                true => Next::Wait(wake),
                false => Next::Again,
            },
            Some(retry) => Next::Wait(earliest(wake, Some(retry))),
        }
    }

    fn setup_delay(&self, key: &str) -> Option<Instant> {
        let now = Timestamp::now();
        let (left, _) = self.setup_backoff.remaining(key, now, now)?;
        Some(Instant::now() + left)
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

    /// Carries a plan out; returns when to try again if something failed.
    async fn execute(&mut self, todo: Plan) -> Option<Instant> {
        if todo.kill_pod {
            if !self.observed.sandboxes.is_empty() {
                let message = "Pod sandbox changed, it will be killed and re-created.";
                self.node
                    .events
                    .pod(&self.pod, Normal, "SandboxChanged", message);
            }
            if let Err(error) = self.stop_everything(None).await {
                let message = format!("error killing pod: {}", base::Chain(&error));
                self.node
                    .events
                    .pod(&self.pod, Warning, "FailedKillPod", message);
                return Some(Instant::now() + Duration::from_secs(5));
            }
            self.remove_init_containers().await;
        }
        for kill in &todo.kill {
            let killer = self.killer();
            let why = Some(kill.message.as_str());
            let result = killer
                .kill(&kill.id, &kill.name, why, kill.reason, None, None)
                .await;
            self.track(kill.id.clone()).await;
            if let Err(error) = result {
                tracing::info!(pod = shown(&self.pod), container = kill.name,
                    error = %base::Chain(&error), "killing a container failed");
                return Some(Instant::now() + Duration::from_secs(5));
            }
        }
        if todo.create_sandbox
            && let Err(message) = self.create_sandbox(todo.attempt).await
        {
            let message = format!("Failed to create pod sandbox: {message}");
            self.node
                .events
                .pod(&self.pod, Warning, "FailedCreatePodSandBox", message);
            let now = Timestamp::now();
            self.setup_backoff.next("sandbox", now, now);
            return self.setup_delay("sandbox");
        }
        self.setup_backoff.reset("sandbox");
        let sandbox = self.observed.ready_sandbox(&self.pod)?.id.clone();
        let pod = self.pod.clone();
        let mut retry = None;
        for index in todo.ephemeral {
            let container = as_container(&ephemeral_containers(&pod)[index]);
            retry = earliest(retry, self.start(&sandbox, &container).await);
        }
        for index in todo.init {
            let container = &init_containers(&pod)[index];
            let failed = self.start(&sandbox, container).await;
            retry = earliest(retry, failed);
            if failed.is_some() && !is_sidecar(container) {
                return retry;
            }
        }
        for index in todo.containers {
            retry = earliest(retry, self.start(&sandbox, &containers(&pod)[index]).await);
        }
        retry
    }

    /// Starts a container and reports how that went; when to try again if it failed.
    async fn start(&mut self, sandbox: &PodSandboxId, container: &Container) -> Option<Instant> {
        let desired = self.inbox.borrow().clone();
        if desired.is_gone() || is_deleted(desired.pod()) {
            return Some(Instant::now());
        }
        let result = self.start_container(sandbox, container).await;
        let retry = match result {
            Ok(()) => {
                self.waiting.remove(&container.name);
                None
            }
            Err(error) => {
                self.waiting
                    .insert(container.name.clone(), (error.reason.into(), error.message));
                let delay = error.retry_after.unwrap_or(Duration::from_secs(10));
                Some(Instant::now() + delay)
            }
        };
        self.refresh().await;
        self.sync_probes();
        self.report(false);
        self.release_probes();
        retry
    }

    async fn create_sandbox(&mut self, attempt: u32) -> Result<(), String> {
        let node = self.node.clone();
        let config = &node.config;
        let host = std::fs::read_to_string(&config.resolv_conf).unwrap_or_default();
        let host = parse_resolv_conf(&host);
        let (dns, warnings) = pod_dns(
            &self.pod,
            &host,
            &config.cluster_dns,
            &config.cluster_domain,
        );
        for (reason, message) in warnings {
            node.events.pod(&self.pod, Warning, reason, message);
        }
        let request = sandbox::config(
            &self.pod,
            attempt,
            dns,
            &config.cluster_domain,
            &config.log_dir,
        )?;
        let logs = log_directory(&config.log_dir, &self.pod);
        tokio::fs::create_dir_all(&logs)
            .await
            .map_err(|error| format!("making the log folder {logs:?}: {error}"))?;
        let made = node.runtime.run_pod_sandbox(&request).await;
        let made = made.map_err(|error| base::Chain(&error).to_string())?;
        let id = made.id.clone();
        let network = sandbox::network_request(&self.pod, &made);
        self.observed.sandboxes.insert(0, made);
        self.observed.ips.clear();
        if let Some(request) = network {
            match node.network.set_up(&request).await {
                Ok(status) => self.observed.ips = status.ips,
                Err(error) => {
                    let message = base::Chain(&error).to_string();
                    self.remove_sandbox(&id).await;
                    return Err(format!(
                        "failed to set up the network of sandbox {id}: {message}"
                    ));
                }
            }
        }
        Ok(())
    }

    async fn remove_sandbox(&mut self, id: &PodSandboxId) {
        let network = self.node.network.tear_down(id).await;
        let runtime = self.node.runtime.remove_pod_sandbox(id).await;
        if let Some(error) = network.err().or(runtime.err()) {
            tracing::info!(sandbox = %id, error = %base::Chain(&error), "removing a sandbox");
            return;
        }
        self.observed.sandboxes.retain(|sandbox| sandbox.id != *id);
        self.observed.containers.retain(|run| run.sandbox != *id);
    }

    /// Stops every container and every sandbox.
    async fn stop_everything(&mut self, grace: Option<i64>) -> cri::Result<()> {
        self.killer().kill_all(&self.observed, grace).await?;
        for sandbox in &mut self.observed.sandboxes {
            if sandbox.netns.is_some() {
                self.node.network.tear_down(&sandbox.id).await?;
            }
            self.node.runtime.stop_pod_sandbox(&sandbox.id).await?;
            sandbox.state = SandboxState::NotReady;
        }
        self.observed.ips.clear();
        self.refresh().await;
        Ok(())
    }

    /// A new sandbox is initialised anew.
    async fn remove_init_containers(&mut self) {
        let pod = self.pod.clone();
        for container in init_containers(&pod) {
            let runs = self.observed.containers.iter();
            let ids: Vec<_> = runs
                .filter(|run| run.config.name == container.name)
                .map(|run| run.id.clone())
                .collect();
            for id in ids {
                self.remove_container(&id).await;
            }
        }
    }

    async fn remove_container(&mut self, id: &ContainerId) {
        match self.node.runtime.remove_container(id).await {
            Ok(()) => {
                self.observed.containers.retain(|run| run.id != *id);
                self.messages.remove(&id.0);
            }
            Err(error) => {
                tracing::info!(container = %id, error = %base::Chain(&error), "removing");
            }
        }
    }

    /// Keeps two runs of every container, and the sandboxes those are in.
    async fn collect_garbage(&mut self) {
        let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
        let mut old = Vec::new();
        for run in &self.observed.containers {
            let count = seen.entry(&run.config.name).or_default();
            *count += 1;
            if *count > 2 && matches!(run.state, ContainerState::Exited { .. }) {
                old.push((run.id.clone(), run.log_path.clone()));
            }
        }
        for (id, log) in old {
            self.remove_container(&id).await;
            remove_logs(&log);
        }
        let unused: Vec<_> = self
            .observed
            .sandboxes
            .iter()
            .skip(1)
            .filter(|sandbox| {
                !self
                    .observed
                    .containers
                    .iter()
                    .any(|run| run.sandbox == sandbox.id)
            })
            .map(|sandbox| sandbox.id.clone())
            .collect();
        for id in unused {
            self.remove_sandbox(&id).await;
        }
    }

    async fn terminate(&mut self, gone: bool) -> Next {
        self.probes.stop_liveness_and_startup();
        if !gone {
            self.report(false);
        }
        // A pod that vanished has nobody to wait for it.
        let vanished = gone && !is_deleted(&self.pod);
        let grace = vanished.then_some(1);
        let before = self
            .pod
            .metadata
            .deletion_grace_period_seconds
            .unwrap_or(i64::MAX);
        let mut inbox = self.inbox.clone();
        let shorter = async {
            let found = inbox
                .wait_for(|desired| {
                    let now = desired.pod().metadata.deletion_grace_period_seconds;
                    now.is_some_and(|now| now < before)
                })
                .await
                .is_ok();
            if !found {
                std::future::pending::<()>().await;
            }
        };
        let kill = async { self.killer().kill_all(&self.observed, grace).await };
        let result = tokio::select! {
            result = kill => result,
            // Begin anew with less time; what was done once is not done again.
            () = shorter => return Next::Again,
        };
        let result = match result {
            Ok(()) => self.stop_everything(grace).await,
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            let message = format!("error killing pod: {}", base::Chain(&error));
            self.node
                .events
                .pod(&self.pod, Warning, "FailedKillPod", message);
            let now = Timestamp::now();
            self.setup_backoff.next("kill", now, now);
            return Next::Wait(self.setup_delay("kill"));
        }
        self.refresh().await;
        self.probes.retain(|_| false);
        self.waiting.clear();
        if !gone {
            self.report(true);
        }
        self.life = Life::Terminated;
        Next::Again
    }

    async fn clean_up(&mut self, desired: &Desired) -> Next {
        if self.volumes_ready || self.pod_dir().exists() {
            let dir = self.pod_dir();
            let result = tokio::task::spawn_blocking(move || volumes::tear_down(&dir)).await;
            if let Ok(Err(error)) = result {
                tracing::warn!(pod = shown(&self.pod), %error, "tearing down volumes failed, \
                    trying again");
                return Next::Wait(Some(Instant::now() + Duration::from_secs(5)));
            }
            self.volumes_ready = false;
            self.volumes.clear();
            self.release_handles();
        }
        if !desired.is_gone() && !is_deleted(&self.pod) {
            return Next::Wait(None);
        }
        for id in self
            .observed
            .sandboxes
            .iter()
            .map(|s| s.id.clone())
            .collect::<Vec<_>>()
        {
            self.remove_sandbox(&id).await;
        }
        if !self.observed.sandboxes.is_empty() {
            return Next::Wait(Some(Instant::now() + Duration::from_secs(5)));
        }
        let logs = log_directory(&self.node.config.log_dir, &self.pod);
        match tokio::fs::remove_dir_all(&logs).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(path = %logs.display(), %error, "removing a pod's logs failed");
            }
            _ => {}
        }
        self.life = Life::Finished;
        if desired.is_gone() {
            return Next::Done;
        }
        self.node.reporter.delete(&self.pod);
        Next::Wait(None)
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

fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    a.into_iter().chain(b).min()
}

fn after(now: Timestamp, at: Timestamp) -> Instant {
    Instant::now() + Duration::try_from(at.duration_since(now)).unwrap_or_default()
}

/// Now, as precise as the API is.
fn now_in_seconds() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default()
}

/// What a container left to say: its message file, or the end of its log if
/// its policy falls back to that.
fn termination_message(run: &cri::ContainerStatus) -> String {
    let ContainerState::Exited { exit, message, .. } = &run.state else {
        return String::new();
    };
    let annotation = |key: &str| run.config.annotations.get(key).map(String::as_str);
    let file = annotation(labels::TERMINATION_PATH).filter(|path| !path.is_empty());
    let said = file
        .and_then(|file| std::fs::read(file).ok())
        .unwrap_or_default();
    let start = said.len().saturating_sub(MAX_MESSAGE);
    let mut text = String::from_utf8_lossy(&said[start..]).into_owned();
    let falls_back = annotation(labels::TERMINATION_POLICY) == Some("FallbackToLogsOnError");
    if text.is_empty() && falls_back && exit.code != 0 {
        text = crate::server::log_tail(&run.log_path, MAX_LOG_LINES, MAX_LOG_MESSAGE);
    }
    if text.is_empty() {
        message.clone()
    } else {
        text
    }
}

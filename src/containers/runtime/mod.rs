//! The container runtime: sandboxes, containers, and what the daemon knows of them.
//!
//! Layout, with `DATA` and `RUN` from [`Config`]:
//!
//! ```text
//! DATA/images/                    see the image store
//! DATA/pods/POD/sandbox.json      what the sandbox was made from
//! DATA/pods/POD/CONTAINER/        bundle: config.json, io.json, container.json,
//!                                 upper/ work/ rootfs/, started.json, exit.json
//! RUN/pods/POD/                   shim.sock, pinned namespaces, shm, resolv.conf
//! ```
//!
//! Every change is on disk before it is in memory, and the shim writes how
//! containers end; a daemon that starts reads the folders, connects to the
//! shims that answer and clears away what belongs to nothing. `RUN` is empty
//! after a reboot, and then every sandbox is not ready.

mod adopt;
mod container;
pub(crate) mod link;
mod sandbox;
mod stats;
mod streams;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base::{Shutdown, Supervisor};
use cri::{
    ContainerConfig, ContainerEvent, ContainerId, ContainerResources, ContainerRuntime,
    ContainerState, ContainerStats, ContainerStatus, ExecRequest, ExecResult, ExitStatus, FsUsage,
    Image, ImageService, PodSandboxConfig, PodSandboxId, PodSandboxStats, PodSandboxStatus,
    PullProgress, RegistryAuth, Result, SandboxState, Streams,
};
use linux::cgroup::Cgroups;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, watch};

use crate::error::{Context, blocking, not_found};
use crate::image::import;
use crate::image::registries::Registries;
use crate::image::store::Store;
use crate::spec::User;

/// Events a slow subscriber may be behind before it has to list anew.
const EVENTS: usize = 1024;

/// Where and how containers run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Images and containers, `/var/lib/karve/agent/containers`.
    pub data_dir: PathBuf,
    /// State that ends with the machine's uptime, `/run/karve`.
    pub run_dir: PathBuf,
    /// Executable started as `EXE shim …`; normally `/proc/self/exe`.
    pub shim_exe: PathBuf,
    /// Cgroup that every pod's cgroup lies beneath, `/karve`.
    pub cgroup_root: PathBuf,
    /// Mirrors and credentials of registries.
    pub registries: Registries,
}

/// Implements the kubelet's runtime and image contracts.
#[derive(Debug)]
pub struct Runtime {
    shared: Arc<Shared>,
    supervisor: Arc<Supervisor>,
}

/// What tasks and calls share.
#[derive(Debug)]
pub(crate) struct Shared {
    config: Config,
    store: Arc<Store>,
    cgroups: Cgroups,
    state: Mutex<State>,
    events: broadcast::Sender<ContainerEvent>,
}

#[derive(Debug, Default)]
struct State {
    sandboxes: BTreeMap<PodSandboxId, Sandbox>,
    containers: BTreeMap<ContainerId, Container>,
}

/// `sandbox.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct SandboxRecord {
    config: PodSandboxConfig,
    created_at: i64,
    /// Set once every part of it stands.
    complete: bool,
    stopped: bool,
}

#[derive(Clone, Debug)]
struct Sandbox {
    record: SandboxRecord,
    /// Its shim answers.
    ready: bool,
}

/// `container.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ContainerRecord {
    sandbox: PodSandboxId,
    config: ContainerConfig,
    created_at: i64,
    image_id: String,
    layers: Vec<String>,
    log_path: PathBuf,
    user: User,
    stop_signal: i32,
    cgroup: PathBuf,
}

#[derive(Clone, Debug)]
struct Container {
    record: Arc<ContainerRecord>,
    phase: watch::Sender<Phase>,
}

/// Where a container is, as far as the daemon knows.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Created,
    Starting,
    Running {
        pid: i32,
        started_at: i64,
    },
    Exited {
        started_at: i64,
        finished_at: i64,
        exit: ExitStatus,
        oom_killed: bool,
        message: String,
    },
}

impl Phase {
    fn is_over(&self) -> bool {
        matches!(self, Self::Exited { .. })
    }
}

impl Shared {
    fn pod_data(&self, id: &PodSandboxId) -> PathBuf {
        self.config.data_dir.join("pods").join(&id.0)
    }

    fn pod_run(&self, id: &PodSandboxId) -> PathBuf {
        self.config.run_dir.join("pods").join(&id.0)
    }

    fn container_dir(&self, sandbox: &PodSandboxId, id: &ContainerId) -> PathBuf {
        self.pod_data(sandbox).join(&id.0)
    }

    fn pod_cgroup(&self, id: &PodSandboxId, config: &PodSandboxConfig) -> PathBuf {
        let parent = Path::new(&config.cgroup_parent);
        let clean = linux::beneath::normalise(parent);
        let own = if clean.as_os_str().is_empty() {
            Path::new("pods").join(&id.0)
        } else {
            clean
        };
        self.config.cgroup_root.join(own)
    }

    fn sandbox(&self, id: &PodSandboxId) -> Result<Sandbox> {
        let state = self.state.lock();
        state
            .sandboxes
            .get(id)
            .cloned()
            .ok_or_else(|| not_found(format!("pod sandbox {id} does not exist")))
    }

    fn container(&self, id: &ContainerId) -> Result<Container> {
        let state = self.state.lock();
        state
            .containers
            .get(id)
            .cloned()
            .ok_or_else(|| not_found(format!("container {id} does not exist")))
    }

    fn emit(&self, event: ContainerEvent) {
        // Nobody listens yet, or any more.
        let _ = self.events.send(event);
    }
}

impl SandboxRecord {
    fn status(&self, id: &PodSandboxId, ready: bool, run: &Path) -> PodSandboxStatus {
        PodSandboxStatus {
            id: id.clone(),
            config: self.config.clone(),
            state: if ready {
                SandboxState::Ready
            } else {
                SandboxState::NotReady
            },
            created_at: self.created_at,
            netns: (self.config.network != cri::NamespaceMode::Node).then(|| run.join("net")),
        }
    }
}

impl Container {
    fn status(&self, id: &ContainerId) -> ContainerStatus {
        let record = &self.record;
        let (state, started_at, finished_at) = match &*self.phase.borrow() {
            Phase::Created | Phase::Starting => (ContainerState::Created, 0, 0),
            Phase::Running { started_at, .. } => (ContainerState::Running, *started_at, 0),
            Phase::Exited {
                started_at,
                finished_at,
                exit,
                oom_killed,
                message,
            } => (
                ContainerState::Exited {
                    exit: *exit,
                    oom_killed: *oom_killed,
                    message: message.clone(),
                },
                *started_at,
                *finished_at,
            ),
        };
        ContainerStatus {
            id: id.clone(),
            sandbox: record.sandbox.clone(),
            config: record.config.clone(),
            state,
            created_at: record.created_at,
            started_at,
            finished_at,
            log_path: record.log_path.clone(),
            image_id: record.image_id.clone(),
            user: Some((record.user.uid, record.user.gid, record.user.groups.clone())),
        }
    }
}

/// 64 random hexadecimal digits.
fn fresh_id() -> String {
    let half = || uuid::Uuid::new_v4().simple().to_string();
    format!("{}{}", half(), half())
}

impl Runtime {
    /// Opens the runtime: adopts the pods that still run, clears away what is
    /// left of those that do not.
    pub async fn open(config: Config) -> Result<Arc<Self>> {
        for folder in [config.data_dir.join("pods"), config.run_dir.join("pods")] {
            use std::os::unix::fs::DirBuilderExt;
            let made = std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o711)
                .create(&folder);
            crate::error::at(made, "creating", &folder)?;
        }
        let images = config.data_dir.join("images");
        let store = Arc::new(blocking(move || Store::open(&images)).await?);
        let cgroups = Cgroups::detect().context(|| "looking for cgroups".into())?;
        let shared = Arc::new(Shared {
            config,
            store,
            cgroups,
            state: Mutex::default(),
            events: broadcast::channel(EVENTS).0,
        });
        let runtime = Arc::new(Self {
            shared,
            supervisor: Arc::new(Supervisor::new(Shutdown::new())),
        });
        runtime.adopt().await?;
        Ok(runtime)
    }

    /// Lets go of the shims without touching what they run. Calls under way end.
    pub async fn close(&self) {
        self.supervisor.stop(Duration::from_secs(5)).await;
    }
}

#[async_trait]
impl ContainerRuntime for Runtime {
    async fn run_pod_sandbox(&self, config: &PodSandboxConfig) -> Result<PodSandboxStatus> {
        self.run_sandbox(config).await
    }

    async fn stop_pod_sandbox(&self, id: &PodSandboxId) -> Result<()> {
        self.stop_sandbox(id).await
    }

    async fn remove_pod_sandbox(&self, id: &PodSandboxId) -> Result<()> {
        self.remove_sandbox(id).await
    }

    async fn list_pod_sandboxes(&self) -> Result<Vec<PodSandboxStatus>> {
        let state = self.shared.state.lock();
        Ok(state
            .sandboxes
            .iter()
            .map(|(id, sandbox)| {
                sandbox
                    .record
                    .status(id, sandbox.ready, &self.shared.pod_run(id))
            })
            .collect())
    }

    async fn update_pod_resources(&self, id: &PodSandboxId, to: &ContainerResources) -> Result<()> {
        let sandbox = self.shared.sandbox(id)?;
        let cgroup = self.shared.pod_cgroup(id, &sandbox.record.config);
        container::apply_limits(&self.shared.cgroups, &cgroup, to)
    }

    async fn create_container(
        &self,
        sandbox: &PodSandboxId,
        config: &ContainerConfig,
    ) -> Result<ContainerId> {
        self.create(sandbox, config).await
    }

    async fn start_container(&self, id: &ContainerId) -> Result<()> {
        self.start(id).await
    }

    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<()> {
        self.stop(id, grace).await
    }

    async fn remove_container(&self, id: &ContainerId) -> Result<()> {
        self.remove(id).await
    }

    async fn list_containers(&self) -> Result<Vec<ContainerStatus>> {
        let state = self.shared.state.lock();
        Ok(state
            .containers
            .iter()
            .map(|(id, container)| container.status(id))
            .collect())
    }

    async fn container_status(&self, id: &ContainerId) -> Result<ContainerStatus> {
        Ok(self.shared.container(id)?.status(id))
    }

    async fn update_container_resources(
        &self,
        id: &ContainerId,
        to: &ContainerResources,
    ) -> Result<()> {
        self.update(id, to)
    }

    async fn exec(&self, id: &ContainerId, request: &ExecRequest) -> Result<Streams> {
        self.exec_streams(id, request).await
    }

    async fn attach(&self, id: &ContainerId, request: &ExecRequest) -> Result<Streams> {
        self.attach_streams(id, request).await
    }

    async fn exec_sync(
        &self,
        id: &ContainerId,
        command: &[String],
        timeout: Duration,
    ) -> Result<ExecResult> {
        self.exec_to_end(id, command, timeout).await
    }

    async fn container_stats(&self, id: &ContainerId) -> Result<ContainerStats> {
        self.stats_of(id).await
    }

    async fn pod_sandbox_stats(&self, id: &PodSandboxId) -> Result<PodSandboxStats> {
        self.sandbox_stats(id).await
    }

    fn events(&self) -> broadcast::Receiver<ContainerEvent> {
        self.shared.events.subscribe()
    }
}

#[async_trait]
impl ImageService for Runtime {
    async fn image_status(&self, reference: &str) -> Result<Option<Image>> {
        Ok(self.shared.store.describe(reference))
    }

    async fn list_images(&self) -> Result<Vec<Image>> {
        Ok(self.shared.store.list())
    }

    async fn pull_image(
        &self,
        reference: &str,
        auth: &[RegistryAuth],
        progress: watch::Sender<PullProgress>,
    ) -> Result<Image> {
        let registries = &self.shared.config.registries;
        let id =
            crate::image::pull::pull(&self.shared.store, registries, reference, auth, &progress)
                .await?;
        self.image(&id)
    }

    async fn import(&self, archive: &Path) -> Result<Vec<Image>> {
        let (store, archive) = (Arc::clone(&self.shared.store), archive.to_owned());
        let ids = blocking(move || import::import(&store, &archive)).await?;
        ids.iter().map(|id| self.image(id)).collect()
    }

    async fn remove_image(&self, reference: &str) -> Result<()> {
        let (store, reference) = (Arc::clone(&self.shared.store), reference.to_owned());
        blocking(move || store.remove(&reference)).await
    }

    async fn mount_image(&self, reference: &str, dir: &Path) -> Result<PathBuf> {
        let (shared, dir) = (Arc::clone(&self.shared), dir.to_owned());
        let record = shared
            .store
            .find(reference)
            .ok_or_else(|| not_found(format!("image {reference} is not on this node")))?;
        blocking(move || shared.mount_image(&dir, &record)).await
    }

    async fn image_fs_usage(&self) -> Result<FsUsage> {
        self.image_usage()
    }
}

impl Runtime {
    fn image(&self, id: &str) -> Result<Image> {
        self.shared
            .store
            .describe(id)
            .ok_or_else(|| not_found(format!("image {id} was removed as it came in")))
    }
}

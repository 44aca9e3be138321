//! Sandboxes and containers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::Result;

/// Name of a sandbox, unique on the node for ever; 64 hex digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PodSandboxId(pub String);

/// Name of a container, unique on the node for ever; 64 hex digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContainerId(pub String);

impl std::fmt::Display for PodSandboxId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::fmt::Display for ContainerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whose namespace a sandbox or container lives in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// The sandbox's own, shared by its containers.
    #[default]
    Pod,
    /// One for each container.
    Container,
    /// The node's.
    Node,
    /// That of another container of the pod (`kubectl debug --target`).
    Target(ContainerId),
}

/// `/etc/resolv.conf` of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsConfig {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// `search` domains.
    pub searches: Vec<String>,
    /// `options`.
    pub options: Vec<String>,
}

/// A pod sandbox to create.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSandboxConfig {
    /// Pod name.
    pub name: String,
    /// Pod namespace.
    pub namespace: String,
    /// Pod uid.
    pub uid: String,
    /// How often this pod's sandbox was made anew.
    pub attempt: u32,
    /// Host name inside; empty with the node's network namespace.
    pub hostname: String,
    /// Folder for container logs: `/var/log/pods/NAMESPACE_NAME_UID`.
    pub log_directory: PathBuf,
    /// `resolv.conf`; the runtime keeps the file and mounts it into containers.
    pub dns: DnsConfig,
    /// Network namespace: `Pod` or `Node`.
    pub network: NamespaceMode,
    /// PID namespace: `Pod` (shared), `Container` or `Node`.
    pub pid: NamespaceMode,
    /// IPC namespace: `Pod` or `Node`.
    pub ipc: NamespaceMode,
    /// User namespace: the node's when absent, else uid/gid mapping
    /// (host start, length) with container ids from 0.
    pub user_namespace: Option<(u32, u32)>,
    /// Cgroup folder of the pod relative to each hierarchy's mount:
    /// `/kubepods/burstable/podUID`. The kubelet decides the name, the
    /// runtime creates and removes it.
    pub cgroup_parent: String,
    /// Limits of the pod's cgroup as a whole.
    pub resources: ContainerResources,
    /// `sysctl` name to value, set in the sandbox's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Found again with the sandbox; the kubelet's to define.
    pub labels: BTreeMap<String, String>,
    /// As `labels`, for larger values.
    pub annotations: BTreeMap<String, String>,
}

/// Whether a sandbox can run containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxState {
    /// Its namespaces stand and its shim answers.
    Ready,
    /// It was stopped, or its shim died.
    NotReady,
}

/// A sandbox as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSandboxStatus {
    /// Its id.
    pub id: PodSandboxId,
    /// The configuration it was made from.
    pub config: PodSandboxConfig,
    /// Whether it can run containers.
    pub state: SandboxState,
    /// Nanoseconds since the Unix epoch.
    pub created_at: i64,
    /// Path of the pinned network namespace; `None` with the node's.
    pub netns: Option<PathBuf>,
}

/// How mounts made after the start pass between node and container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountPropagation {
    /// None: `rprivate`.
    #[default]
    Private,
    /// Node to container: `rslave`.
    HostToContainer,
    /// Both ways: `rshared`.
    Bidirectional,
}

/// A path of the node inside a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Path on the node; the runtime resolves it without following a link
    /// out of it that the container could have planted.
    pub host_path: PathBuf,
    /// Path inside.
    pub container_path: PathBuf,
    /// Read-only.
    pub readonly: bool,
    /// Read-only for mounts beneath it, too.
    pub recursive_readonly: bool,
    /// Propagation.
    pub propagation: MountPropagation,
}

/// Limits and shares, already in cgroup terms.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerResources {
    /// CPU shares (cgroup v1 scale, 2 to 262144).
    pub cpu_shares: Option<u64>,
    /// CPU quota in microseconds a period; -1 is none.
    pub cpu_quota: Option<i64>,
    /// CPU period in microseconds.
    pub cpu_period: Option<u64>,
    /// Memory limit in bytes.
    pub memory_limit: Option<i64>,
    /// `memory.high`-style soft limit in bytes (cgroup v2).
    pub memory_high: Option<i64>,
    /// OOM score adjustment, -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// Most processes.
    pub pids_limit: Option<i64>,
    /// Huge page limits: page size such as `2MB` to bytes.
    pub hugepage_limits: BTreeMap<String, u64>,
    /// `cpuset.cpus`.
    pub cpuset_cpus: Option<String>,
    /// `cpuset.mems`.
    pub cpuset_mems: Option<String>,
}

/// User a container runs as; the image's when absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerUser {
    /// Numeric uid.
    Uid(i64),
    /// Name, looked up in the image's `/etc/passwd`.
    Name(String),
}

/// Seccomp profile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompProfile {
    /// None.
    #[default]
    Unconfined,
    /// The runtime's default.
    RuntimeDefault,
    /// A profile file on the node.
    Localhost(PathBuf),
}

/// Linux security settings of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityContext {
    /// User; the image's when absent.
    pub run_as_user: Option<ContainerUser>,
    /// Primary group.
    pub run_as_group: Option<i64>,
    /// More groups (`fsGroup`, `supplementalGroups`).
    pub supplemental_groups: Vec<i64>,
    /// Use only `supplemental_groups`, not the image's (`supplementalGroupsPolicy: Strict`).
    pub supplemental_groups_strict: bool,
    /// All capabilities, devices and no confinement.
    pub privileged: bool,
    /// `no_new_privs`.
    pub no_new_privileges: bool,
    /// Root file system read-only.
    pub readonly_rootfs: bool,
    /// Capabilities added, without `CAP_`; `ALL` is all.
    pub add_capabilities: Vec<String>,
    /// Capabilities dropped, without `CAP_`; `ALL` is all.
    pub drop_capabilities: Vec<String>,
    /// Seccomp.
    pub seccomp: SeccompProfile,
    /// AppArmor profile name.
    pub apparmor_profile: Option<String>,
    /// Paths hidden; the runtime's defaults when `None` (`procMount: Default`).
    pub masked_paths: Option<Vec<String>>,
    /// Paths made read-only; the runtime's defaults when `None`.
    pub readonly_paths: Option<Vec<String>>,
}

/// A container to create.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// Container name in the pod.
    pub name: String,
    /// How often this container was made anew in this pod.
    pub attempt: u32,
    /// Id of the image, as [`crate::Image::id`].
    pub image: String,
    /// Replaces the image's entrypoint (and drops its command) when not empty.
    pub command: Vec<String>,
    /// Replaces the image's command when not empty.
    pub args: Vec<String>,
    /// Working folder; the image's when empty.
    pub working_dir: String,
    /// Environment, over the image's.
    pub envs: Vec<(String, String)>,
    /// Mounts beside the ones every container has.
    pub mounts: Vec<Mount>,
    /// Device nodes of the node: path on the node, path inside, permissions `rwm`.
    pub devices: Vec<(PathBuf, PathBuf, String)>,
    /// Log file, relative to the sandbox's log folder: `NAME/ATTEMPT.log`.
    pub log_path: PathBuf,
    /// Standard input is kept open for attach.
    pub stdin: bool,
    /// Standard input closes after the first attach ends.
    pub stdin_once: bool,
    /// A terminal.
    pub tty: bool,
    /// Limits.
    pub resources: ContainerResources,
    /// Security settings.
    pub security: SecurityContext,
    /// PID namespace of this container where it differs from the sandbox's.
    pub pid: Option<NamespaceMode>,
    /// Signal that stops it, `SIGTERM` or the image's when absent.
    pub stop_signal: Option<String>,
    /// Log file is rotated past this many bytes; 0 is never.
    pub log_max_size: u64,
    /// Log files kept, the current one counted.
    pub log_max_files: u32,
    /// Found again with the container; the kubelet's to define.
    pub labels: BTreeMap<String, String>,
    /// As `labels`, for larger values.
    pub annotations: BTreeMap<String, String>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// Exit code; 128 + signal when killed.
    pub code: i32,
    /// Signal that killed it, or 0.
    pub signal: i32,
}

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Running.
    Running,
    /// Over.
    Exited {
        /// How its first process ended.
        exit: ExitStatus,
        /// Killed because it went over its memory limit.
        oom_killed: bool,
        /// Why it could not start, when it never ran.
        message: String,
    },
    /// The runtime lost track of it.
    Unknown,
}

/// A container as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Its id.
    pub id: ContainerId,
    /// Its sandbox.
    pub sandbox: PodSandboxId,
    /// The configuration it was made from.
    pub config: ContainerConfig,
    /// Where it is in its life.
    pub state: ContainerState,
    /// Nanoseconds since the Unix epoch; 0 is not yet.
    pub created_at: i64,
    /// Nanoseconds since the Unix epoch; 0 is not yet.
    pub started_at: i64,
    /// Nanoseconds since the Unix epoch; 0 is not yet.
    pub finished_at: i64,
    /// Full path of its log.
    pub log_path: PathBuf,
    /// Id of the image it runs.
    pub image_id: String,
    /// Numeric uid, gid and groups its first process started with.
    pub user: Option<(u32, u32, Vec<u32>)>,
}

/// A change the kubelet should look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerEvent {
    /// A container started.
    Started(PodSandboxId, ContainerId),
    /// A container's first process ended.
    Exited(PodSandboxId, ContainerId),
    /// A sandbox is no longer ready.
    SandboxLost(PodSandboxId),
}

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// A command to run in a container, or an attach to its first process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Command and arguments; empty for attach.
    pub command: Vec<String>,
    /// Standard input wanted.
    pub stdin: bool,
    /// Standard output wanted.
    pub stdout: bool,
    /// Standard error wanted; not with a terminal.
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
}

/// The open streams of an exec or attach. Dropping it hangs up; an exec'd
/// process is then killed, an attached one goes on.
pub struct Streams {
    /// Writes reach standard input; shutting it down closes it.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Standard output (and error, with a terminal).
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Standard error.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// New terminal sizes.
    pub resize: mpsc::Sender<TerminalSize>,
    /// Completes when the process ends; dropped unsent if that is not known.
    pub exit: oneshot::Receiver<Result<ExitStatus>>,
}

/// What a finished [`ContainerRuntime::exec_sync`] printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecResult {
    /// Standard output, at most 16 MiB.
    pub stdout: Vec<u8>,
    /// Standard error, at most 16 MiB.
    pub stderr: Vec<u8>,
    /// Exit code.
    pub code: i32,
}

/// What a container uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContainerStats {
    /// Nanoseconds since the Unix epoch.
    pub at: i64,
    /// CPU time used since the start, in nanoseconds.
    pub cpu_usage_ns: u64,
    /// Memory in use, in bytes.
    pub memory_usage: u64,
    /// Memory in use less the page cache that can go, in bytes.
    pub memory_working_set: u64,
    /// Anonymous memory, in bytes.
    pub memory_rss: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Major page faults.
    pub major_page_faults: u64,
    /// Bytes in the writable layer.
    pub rootfs_used_bytes: u64,
    /// Inodes in the writable layer.
    pub rootfs_inodes_used: u64,
    /// Processes.
    pub pids: u64,
}

/// What a sandbox uses: its cgroup as a whole and its network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodSandboxStats {
    /// The pod's cgroup.
    pub cgroup: ContainerStats,
    /// Bytes received on the pod's interface.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Receive errors.
    pub rx_errors: u64,
    /// Send errors.
    pub tx_errors: u64,
}

/// Runs sandboxes and containers. Every call is idempotent where CRI's is:
/// stopping or removing what is stopped or gone succeeds.
#[async_trait]
pub trait ContainerRuntime: Send + Sync {
    /// Creates a sandbox: namespaces pinned, cgroup made, shim answering.
    async fn run_pod_sandbox(&self, config: &PodSandboxConfig) -> Result<PodSandboxStatus>;

    /// Kills what still runs in it and lets go of its namespaces.
    async fn stop_pod_sandbox(&self, id: &PodSandboxId) -> Result<()>;

    /// Removes it with its containers; nothing of it is left on the node but logs.
    async fn remove_pod_sandbox(&self, id: &PodSandboxId) -> Result<()>;

    /// Every sandbox, the not ready ones, too.
    async fn list_pod_sandboxes(&self) -> Result<Vec<PodSandboxStatus>>;

    /// Changes the limits of the pod's cgroup.
    async fn update_pod_resources(&self, id: &PodSandboxId, to: &ContainerResources) -> Result<()>;

    /// Creates a container, not started.
    async fn create_container(
        &self,
        sandbox: &PodSandboxId,
        config: &ContainerConfig,
    ) -> Result<ContainerId>;

    /// Starts it; [`crate::ErrorKind::CannotRun`] when its command cannot be run.
    async fn start_container(&self, id: &ContainerId) -> Result<()>;

    /// Sends the stop signal, then `SIGKILL` after `grace`. Returns once it is over.
    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<()>;

    /// Removes it, killing it first if it runs. Its log stays.
    async fn remove_container(&self, id: &ContainerId) -> Result<()>;

    /// Every container, the exited ones, too.
    async fn list_containers(&self) -> Result<Vec<ContainerStatus>>;

    /// One container.
    async fn container_status(&self, id: &ContainerId) -> Result<ContainerStatus>;

    /// Changes its limits in place.
    async fn update_container_resources(
        &self,
        id: &ContainerId,
        to: &ContainerResources,
    ) -> Result<()>;

    /// Runs a command in it with streams.
    async fn exec(&self, id: &ContainerId, request: &ExecRequest) -> Result<Streams>;

    /// Joins the streams of its first process.
    async fn attach(&self, id: &ContainerId, request: &ExecRequest) -> Result<Streams>;

    /// Runs a command in it to its end; killed with
    /// [`crate::ErrorKind::DeadlineExceeded`] past `timeout`.
    async fn exec_sync(
        &self,
        id: &ContainerId,
        command: &[String],
        timeout: Duration,
    ) -> Result<ExecResult>;

    /// What a container uses.
    async fn container_stats(&self, id: &ContainerId) -> Result<ContainerStats>;

    /// What a sandbox uses.
    async fn pod_sandbox_stats(&self, id: &PodSandboxId) -> Result<PodSandboxStats>;

    /// Changes, as they happen. A receiver that lags lists anew.
    fn events(&self) -> broadcast::Receiver<ContainerEvent>;
}

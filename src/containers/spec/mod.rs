//! From a container's configuration to an OCI runtime specification.
//!
//! Pure but for looking users up in the image and devices on the node. The
//! specification is built as JSON rather than with a builder whose defaults
//! (a `TERM`, `no_new_privs`, three capabilities) are not a container's.

mod capabilities;
mod devices;
mod mounts;
mod process;
mod seccomp;
mod user;

use std::path::{Path, PathBuf};

use cri::{ContainerConfig, NamespaceMode};
use linux::beneath::Root;
use linux::cgroup::Cgroups;
use serde_json::{Value, json};

pub(crate) use devices::allowed as allowed_devices;
pub(crate) use process::{exec_process, stop_signal};
pub(crate) use user::User;

use crate::error::{Context, invalid};
use crate::image::config::RunConfig;

/// Hidden unless `procMount` says otherwise.
const MASKED_PATHS: [&str; 14] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/devices/system/cpu/cpu0/thermal_throttle",
    "/sys/dev/block",
    "/sys/firmware",
];
/// Read-only unless `procMount` says otherwise.
const READONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Namespaces and files of the sandbox a container joins.
#[derive(Clone, Debug, Default)]
pub(crate) struct SandboxPaths {
    /// Absent with the node's network namespace.
    pub(crate) net: Option<PathBuf>,
    /// Absent with the node's IPC namespace.
    pub(crate) ipc: Option<PathBuf>,
    /// Absent with the node's UTS namespace.
    pub(crate) uts: Option<PathBuf>,
    /// PID namespace to join, if not a new one.
    pub(crate) pid: Option<PathBuf>,
    pub(crate) shm: PathBuf,
    pub(crate) hostname_file: PathBuf,
    pub(crate) resolv_conf: PathBuf,
}

/// Everything a specification is made from.
pub(crate) struct Input<'a> {
    pub(crate) config: &'a ContainerConfig,
    pub(crate) image: &'a RunConfig,
    pub(crate) paths: &'a SandboxPaths,
    pub(crate) pid: &'a NamespaceMode,
    /// Mounted root file system.
    pub(crate) rootfs: &'a Path,
    pub(crate) hostname: &'a str,
    /// Cgroup of the container, relative to each hierarchy.
    pub(crate) cgroup: &'a Path,
    pub(crate) cgroups: &'a Cgroups,
}

/// A specification and what else was found out on the way.
pub(crate) struct Built {
    pub(crate) spec: Value,
    pub(crate) user: User,
}

/// Builds the specification.
pub(crate) fn build(input: &Input<'_>) -> cri::Result<Built> {
    let config = input.config;
    let security = &config.security;
    let root = Root::open(input.rootfs).context(|| "opening the root file system".into())?;
    let user = User::resolve(&root, security, &input.image.user)?;
    let process = process::process(input, &user)?;
    let devices = if security.privileged {
        devices::all()
    } else {
        devices::given(&config.devices)?
    };
    let mounts = mounts::mounts(input)?;
    let mut linux = json!({
        "cgroupsPath": input.cgroup,
        "namespaces": namespaces(input),
        "devices": devices.nodes,
        "resources": { "devices": devices.rules },
        "maskedPaths": paths(security.masked_paths.as_deref(), &MASKED_PATHS, security.privileged),
        "readonlyPaths": readonly_paths(input),
        "rootfsPropagation": mounts.propagation,
    });
    if let Some(seccomp) = seccomp::profile(security)? {
        linux["seccomp"] = seccomp;
    }
    let spec = json!({
        "ociVersion": "1.0.2",
        "process": process,
        "root": { "path": input.rootfs, "readonly": security.readonly_rootfs },
        "mounts": mounts.list,
        "linux": linux,
    });
    Ok(Built { spec, user })
}

fn namespaces(input: &Input<'_>) -> Vec<Value> {
    let mut list = vec![json!({ "type": "mount" })];
    let shared = [
        ("network", &input.paths.net),
        ("ipc", &input.paths.ipc),
        ("uts", &input.paths.uts),
    ];
    for (kind, path) in shared {
        list.extend(
            path.as_ref()
                .map(|path| json!({ "type": kind, "path": path })),
        );
    }
    match (&input.paths.pid, input.pid) {
        (Some(path), _) => list.push(json!({ "type": "pid", "path": path })),
        (None, NamespaceMode::Node) => {}
        (None, _) => list.push(json!({ "type": "pid" })),
    }
    if input.cgroups.is_v2() && !input.config.security.privileged {
        list.push(json!({ "type": "cgroup" }));
    }
    list
}

fn paths(own: Option<&[String]>, defaults: &[&str], privileged: bool) -> Vec<String> {
    match own {
        Some(own) => own.to_vec(),
        None if privileged => Vec::new(),
        None => defaults.iter().map(|&path| path.to_owned()).collect(),
    }
}

fn readonly_paths(input: &Input<'_>) -> Vec<String> {
    let security = &input.config.security;
    let mut list = paths(
        security.readonly_paths.as_deref(),
        &READONLY_PATHS,
        security.privileged,
    );
    if !security.privileged && !input.cgroups.is_v2() {
        // The tmpfs that holds the hierarchies' mount points.
        list.push("/sys/fs/cgroup".to_owned());
    }
    list
}

/// Creates the working folder where the container will see it: in its root,
/// or in the volume that covers that path.
pub(crate) fn make_working_dir(
    rootfs: &Path,
    config: &ContainerConfig,
    cwd: &Path,
) -> cri::Result<()> {
    let cwd = linux::beneath::normalise(cwd);
    let covering = config
        .mounts
        .iter()
        .map(|m| (linux::beneath::normalise(&m.container_path), m))
        .filter(|(path, _)| cwd.starts_with(path))
        .max_by_key(|(path, _)| path.components().count());
    let (base, rest, readonly) = match &covering {
        Some((path, mount)) => (
            mount.host_path.as_path(),
            cwd.strip_prefix(path).unwrap_or(Path::new("")),
            mount.readonly,
        ),
        None => (rootfs, cwd.as_path(), false),
    };
    if rest.as_os_str().is_empty() || !base.is_dir() {
        return Ok(());
    }
    let root = Root::open(base).context(|| format!("opening {}", base.display()))?;
    let mode = rustix::fs::Mode::from_raw_mode(0o755);
    match root.make_dirs(rest, mode) {
        Err(_) if readonly => Ok(()),
        Err(error) => Err(invalid(format!(
            "working directory {}: {error}",
            cwd.display()
        ))),
        Ok(_) => Ok(()),
    }
}

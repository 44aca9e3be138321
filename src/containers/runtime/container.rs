//! Containers: create, start, stop, remove, update.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cri::{
    ContainerConfig, ContainerEvent, ContainerId, ContainerResources, ExitStatus, NamespaceMode,
    PodSandboxId, Result,
};
use linux::cgroup::{Cgroups, Limits};
use linux::mounts::{self, Overlay};
use tokio::sync::watch;

use super::link::{ask, failed, order};
use super::sandbox::{PATIENCE, hostname};
use super::{Container, ContainerRecord, Phase, Runtime, Sandbox, Shared, fresh_id};
use crate::error::{Context, at, blocking, internal, invalid, not_found};
use crate::files::{now, read_json, remove_dir, write_json};
use crate::image::store::Record;
use crate::shim::protocol::{
    EXIT_FILE, Exited, IO_FILE, Io, Reply, Request, STARTED_FILE, Started,
};
use crate::spec::{self, Input, SandboxPaths};

/// How long a container may take to start.
const START: Duration = Duration::from_secs(120);

impl Runtime {
    pub(super) async fn create(
        &self,
        sandbox_id: &PodSandboxId,
        config: &ContainerConfig,
    ) -> Result<ContainerId> {
        let shared = Arc::clone(&self.shared);
        let sandbox = shared.sandbox(sandbox_id)?;
        if !sandbox.ready {
            return Err(internal(format!("pod sandbox {sandbox_id} is not ready")));
        }
        let image = shared
            .store
            .find(&config.image)
            .ok_or_else(|| not_found(format!("image {:?} is not on this node", config.image)))?;
        let id = ContainerId(fresh_id());
        let (sandbox_id, config, id_) = (sandbox_id.clone(), config.clone(), id.clone());
        let record = blocking(move || {
            let layers: Vec<String> = image.layers.iter().map(|l| l.diff_id.clone()).collect();
            shared.store.hold(layers.iter().map(String::as_str));
            let made = shared.lay_out(&sandbox_id, &sandbox, &id_, &config, &image);
            if made.is_err() {
                let dir = shared.container_dir(&sandbox_id, &id_);
                let cgroup = shared
                    .pod_cgroup(&sandbox_id, &sandbox.record.config)
                    .join(&id_.0);
                if let Err(rest) = shared.clear_container(&dir, &cgroup, &layers) {
                    tracing::warn!(container = %id_, "clearing away: {}", base::Chain(&rest));
                }
            }
            made
        })
        .await?;
        let (phase, _) = watch::channel(Phase::Created);
        let container = Container {
            record: Arc::new(record),
            phase,
        };
        self.shared
            .state
            .lock()
            .containers
            .insert(id.clone(), container);
        Ok(id)
    }

    pub(super) async fn start(&self, id: &ContainerId) -> Result<()> {
        let shared = &self.shared;
        let container = shared.container(id)?;
        let begun = container.phase.send_if_modified(|phase| {
            let fresh = *phase == Phase::Created;
            if fresh {
                *phase = Phase::Starting;
            }
            fresh
        });
        if !begun {
            return Err(internal(format!("container {id} was started before")));
        }
        let sandbox = &container.record.sandbox;
        let run = shared.pod_run(sandbox);
        let request = Request::Start { id: id.0.clone() };
        let reply = match tokio::time::timeout(START, ask(&run, &request)).await {
            Ok(reply) => reply,
            Err(_) => {
                // Whatever hangs is in the container's cgroup or dies with it.
                let kill = Request::Kill {
                    id: id.0.clone(),
                    signal: nix::libc::SIGKILL,
                    all: true,
                };
                order(&run, &kill).await?;
                Err(std::io::ErrorKind::TimedOut.into())
            }
        };
        match reply {
            Ok(Reply::Started { pid }) => {
                let file = shared.container_dir(sandbox, id).join(STARTED_FILE);
                let started = read_json::<Started>(&file)?;
                let started_at = started.map_or_else(now, |started| started.at);
                let is_news = container.phase.send_if_modified(|phase| {
                    // Its end may have been heard of before its start.
                    let is_news = *phase == Phase::Starting;
                    if is_news {
                        *phase = Phase::Running { pid, started_at };
                    }
                    is_news
                });
                if is_news {
                    shared.emit(ContainerEvent::Started(sandbox.clone(), id.clone()));
                }
                Ok(())
            }
            other => {
                let error = match other {
                    Ok(reply) => failed(reply),
                    Err(error) => {
                        internal(format!("the shim of {sandbox} does not answer: {error}"))
                    }
                };
                let exit = Exited {
                    code: 128,
                    at: now(),
                    message: error.message.clone(),
                    ..Exited::default()
                };
                write_json(&shared.container_dir(sandbox, id).join(EXIT_FILE), &exit)?;
                shared.container_ended(id);
                Err(error)
            }
        }
    }

    pub(super) async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<()> {
        let shared = &self.shared;
        let Ok(container) = shared.container(id) else {
            return Ok(());
        };
        let mut phase = container.phase.subscribe();
        if matches!(*phase.borrow(), Phase::Created | Phase::Exited { .. }) {
            return Ok(());
        }
        let run = shared.pod_run(&container.record.sandbox);
        let kill = |signal, all| Request::Kill {
            id: id.0.clone(),
            signal,
            all,
        };
        if !grace.is_zero() {
            let signal = container.record.stop_signal;
            if order(&run, &kill(signal, false)).await.is_ok()
                && tokio::time::timeout(grace, phase.wait_for(Phase::is_over))
                    .await
                    .is_ok()
            {
                return Ok(());
            }
        }
        if order(&run, &kill(nix::libc::SIGKILL, true)).await.is_err() {
            // Without its shim only the cgroup is left to go by.
            let cgroups = shared.cgroups.clone();
            let cgroup = container.record.cgroup.clone();
            blocking(move || at(cgroups.kill(&cgroup), "killing cgroup", &cgroup)).await?;
        }
        match tokio::time::timeout(PATIENCE, phase.wait_for(Phase::is_over)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(cri::Error::new(
                cri::ErrorKind::DeadlineExceeded,
                format!("container {id} is still there {PATIENCE:?} after it was killed"),
            )),
        }
    }

    pub(super) async fn remove(&self, id: &ContainerId) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let Ok(container) = shared.container(id) else {
            return Ok(());
        };
        self.stop(id, Duration::ZERO).await?;
        let record = container.record;
        let run = shared.pod_run(&record.sandbox);
        if run.join(crate::shim::SOCKET).exists() {
            // A shim that is gone has forgotten already.
            let _ = order(&run, &Request::Forget { id: id.0.clone() }).await;
        }
        shared.state.lock().containers.remove(id);
        let dir = shared.container_dir(&record.sandbox, id);
        blocking(move || shared.clear_container(&dir, &record.cgroup, &record.layers)).await
    }

    pub(super) fn update(&self, id: &ContainerId, to: &ContainerResources) -> Result<()> {
        let shared = &self.shared;
        let container = shared.container(id)?;
        apply_limits(&shared.cgroups, &container.record.cgroup, to)?;
        let mut record = (*container.record).clone();
        merge(&mut record.config.resources, to);
        write_json(
            &shared
                .container_dir(&record.sandbox, id)
                .join("container.json"),
            &record,
        )?;
        if let Some(container) = shared.state.lock().containers.get_mut(id) {
            container.record = Arc::new(record);
        }
        Ok(())
    }
}

impl Shared {
    /// Root file system, specification, cgroup. Blocks.
    fn lay_out(
        &self,
        sandbox_id: &PodSandboxId,
        sandbox: &Sandbox,
        id: &ContainerId,
        config: &ContainerConfig,
        image: &Record,
    ) -> Result<ContainerRecord> {
        let pod = &sandbox.record.config;
        let dir = self.container_dir(sandbox_id, id);
        let rootfs = dir.join("rootfs");
        at(std::fs::create_dir(&dir), "creating", &dir)?;
        self.mount_root(&dir, image)?;
        let mode = config.pid.clone().unwrap_or_else(|| pod.pid.clone());
        let paths = self.sandbox_paths(sandbox_id, sandbox, &mode)?;
        let cgroup = self.pod_cgroup(sandbox_id, pod).join(&id.0);
        let input = Input {
            config,
            image: &image.run,
            paths: &paths,
            pid: &mode,
            rootfs: &rootfs,
            hostname: &hostname(pod),
            cgroup: &cgroup,
            cgroups: &self.cgroups,
        };
        let stop_signal = spec::stop_signal(config, &image.run)?;
        at(self.cgroups.create(&cgroup), "creating cgroup", &cgroup)?;
        apply_limits(&self.cgroups, &cgroup, &config.resources)?;
        let built = spec::build(&input)?;
        if self.cgroups.is_v2()
            && let Some(allowed) = spec::allowed_devices(&built.spec)
        {
            // On v1 libcontainer writes the rules to the devices controller.
            for (_, folder) in self.cgroups.folders(&cgroup) {
                at(
                    linux::devices::restrict(&folder, &allowed),
                    "restricting devices of",
                    &folder,
                )?;
            }
        }
        if let Some(cwd) = built.spec["process"]["cwd"].as_str() {
            spec::make_working_dir(&rootfs, config, Path::new(cwd))?;
        }
        let log_path = if config.log_path.as_os_str().is_empty() {
            PathBuf::from("/dev/null")
        } else {
            pod.log_directory
                .join(linux::beneath::normalise(&config.log_path))
        };
        let io = Io {
            log: log_path.clone(),
            log_max_size: config.log_max_size,
            log_max_files: config.log_max_files,
            stdin: config.stdin,
            stdin_once: config.stdin_once,
            tty: config.tty,
            uid: built.user.uid,
            cgroup: cgroup.clone(),
        };
        write_json(&dir.join("config.json"), &built.spec)?;
        write_json(&dir.join(IO_FILE), &io)?;
        let record = ContainerRecord {
            sandbox: sandbox_id.clone(),
            config: config.clone(),
            created_at: now(),
            image_id: image.id.clone(),
            layers: image.layers.iter().map(|l| l.diff_id.clone()).collect(),
            log_path,
            user: built.user,
            stop_signal,
            cgroup,
        };
        write_json(&dir.join("container.json"), &record)?;
        Ok(record)
    }

    /// An image's files in a folder below `dir`, mounted unless they are.
    pub(super) fn mount_image(&self, dir: &Path, image: &Record) -> Result<PathBuf> {
        let root = dir.join("rootfs");
        if root.exists() && at(linux::mounts::is_mount_point(&root), "looking at", &root)? {
            return Ok(root);
        }
        // What an interrupted attempt left would stand in the way.
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            done => at(done, "clearing", dir)?,
        }
        at(std::fs::create_dir_all(dir), "creating", dir)?;
        self.mount_root(dir, image)?;
        Ok(root)
    }

    fn mount_root(&self, dir: &Path, image: &Record) -> Result<()> {
        let [upper, work, rootfs] = ["upper", "work", "rootfs"].map(|name| dir.join(name));
        for folder in [&upper, &work, &rootfs] {
            at(std::fs::create_dir(folder), "creating", folder)?;
        }
        let mut lower = self.store.lower_dirs(image)?;
        if lower.is_empty() {
            // An image from nothing; overlayfs wants one layer at least.
            let empty = dir.join("lower");
            at(std::fs::create_dir(&empty), "creating", &empty)?;
            lower.push(empty);
        }
        // The upper folder is the root the container sees: it looks as the
        // topmost layer's does.
        use std::os::unix::fs::MetadataExt;
        let top = at(std::fs::metadata(&lower[0]), "reading", &lower[0])?;
        at(
            std::os::unix::fs::chown(&upper, Some(top.uid()), Some(top.gid())),
            "preparing",
            &upper,
        )?;
        at(
            std::fs::set_permissions(&upper, top.permissions()),
            "preparing",
            &upper,
        )?;
        let overlay = Overlay {
            lower,
            upper,
            work,
            target: rootfs.clone(),
        };
        at(overlay.mount(), "mounting", &rootfs)
    }

    fn sandbox_paths(
        &self,
        id: &PodSandboxId,
        sandbox: &Sandbox,
        pid: &NamespaceMode,
    ) -> Result<SandboxPaths> {
        let run = self.pod_run(id);
        let config = &sandbox.record.config;
        let own_net = config.network != NamespaceMode::Node;
        let own_ipc = config.ipc != NamespaceMode::Node;
        let pid = match pid {
            NamespaceMode::Pod if config.pid != NamespaceMode::Pod => {
                return Err(invalid("the pod has no PID namespace to share"));
            }
            NamespaceMode::Pod => Some(run.join("pid")),
            NamespaceMode::Container | NamespaceMode::Node => None,
            NamespaceMode::Target(target) => match &*self.container(target)?.phase.borrow() {
                Phase::Running { pid, .. } => Some(PathBuf::from(format!("/proc/{pid}/ns/pid"))),
                _ => return Err(invalid(format!("target container {target} is not running"))),
            },
        };
        Ok(SandboxPaths {
            net: own_net.then(|| run.join("net")),
            ipc: own_ipc.then(|| run.join("ipc")),
            uts: own_net.then(|| run.join("uts")),
            pid,
            shm: if own_ipc {
                run.join("shm")
            } else {
                PathBuf::from("/dev/shm")
            },
            hostname_file: run.join("hostname"),
            resolv_conf: run.join("resolv.conf"),
        })
    }

    /// Leaves nothing of a container but its log. Blocks.
    pub(super) fn clear_container(
        &self,
        dir: &Path,
        cgroup: &Path,
        layers: &[String],
    ) -> Result<()> {
        let gone = self
            .cgroups
            .kill(cgroup)
            .and_then(|()| self.cgroups.remove(cgroup, PATIENCE));
        at(gone, "removing cgroup", cgroup)?;
        let rootfs = dir.join("rootfs");
        at(mounts::detach(&rootfs), "unmounting", &rootfs)?;
        remove_dir(dir)?;
        self.store.release(layers.iter().map(String::as_str))
    }

    /// Takes up what the exit file of a container says.
    pub(super) fn container_ended(&self, id: &ContainerId) {
        let Ok(container) = self.container(id) else {
            return;
        };
        let dir = self.container_dir(&container.record.sandbox, id);
        let exited = match read_json::<Exited>(&dir.join(EXIT_FILE)) {
            Ok(Some(exited)) => exited,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(container = %id, "{}", base::Chain(&error));
                Exited {
                    code: 255,
                    at: now(),
                    message: error.message,
                    ..Exited::default()
                }
            }
        };
        let started = read_json::<Started>(&dir.join(STARTED_FILE)).ok().flatten();
        let ended = container.phase.send_if_modified(|phase| {
            let is_news = !phase.is_over();
            if is_news {
                *phase = exited_phase(exited, started);
            }
            is_news
        });
        if ended {
            let sandbox = container.record.sandbox.clone();
            self.emit(ContainerEvent::Exited(sandbox, id.clone()));
        }
    }
}

/// The phase that the two state files describe.
pub(super) fn exited_phase(exited: Exited, started: Option<Started>) -> Phase {
    Phase::Exited {
        started_at: started.map_or(0, |started| started.at),
        finished_at: exited.at,
        exit: ExitStatus {
            code: exited.code,
            signal: exited.signal,
        },
        oom_killed: exited.oom_killed,
        message: exited.message,
    }
}

/// Writes limits to a cgroup.
pub(super) fn apply_limits(
    cgroups: &Cgroups,
    cgroup: &Path,
    resources: &ContainerResources,
) -> Result<()> {
    let limits = Limits {
        cpu_shares: resources.cpu_shares,
        cpu_quota: resources.cpu_quota,
        cpu_period: resources.cpu_period,
        memory: resources.memory_limit,
        memory_high: resources.memory_high,
        pids: resources.pids_limit,
        hugepages: resources.hugepage_limits.clone(),
        cpuset_cpus: resources.cpuset_cpus.clone(),
        cpuset_mems: resources.cpuset_mems.clone(),
    };
    cgroups
        .apply(cgroup, &limits)
        .context(|| format!("limiting cgroup {}", cgroup.display()))
}

/// What was changed replaces what was set.
fn merge(own: &mut ContainerResources, to: &ContainerResources) {
    macro_rules! take {
        ($($field:ident),*) => {$(
            if to.$field.is_some() {
                own.$field.clone_from(&to.$field);
            }
        )*};
    }
    take!(
        cpu_shares,
        cpu_quota,
        cpu_period,
        memory_limit,
        memory_high,
        oom_score_adj,
        pids_limit,
        cpuset_cpus,
        cpuset_mems
    );
    own.hugepage_limits.extend(to.hugepage_limits.clone());
}

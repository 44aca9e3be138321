//! Making, stopping and removing sandboxes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cri::{
    ContainerEvent, ContainerId, DnsConfig, NamespaceMode, PodSandboxConfig, PodSandboxId,
    PodSandboxStatus, Result,
};
use linux::namespaces::{self, Pins};
use linux::{mounts, signals};

use super::link::{Link, ask, failed, order};
use super::{Phase, Runtime, Sandbox, SandboxRecord, Shared, fresh_id};
use crate::error::{Context, at, blocking, internal, invalid};
use crate::files::{now, remove_dir, write_json};
use crate::shim::protocol::{EXIT_FILE, Exited, Reply, Request};

/// Size of a pod's `/dev/shm`.
const SHM_BYTES: u64 = 64 << 20;
/// How long the kernel and a shim may take to finish killed processes.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

impl Runtime {
    pub(super) async fn run_sandbox(&self, config: &PodSandboxConfig) -> Result<PodSandboxStatus> {
        check(config)?;
        let id = PodSandboxId(fresh_id());
        let shared = &self.shared;
        let mut record = SandboxRecord {
            config: config.clone(),
            created_at: now(),
            complete: false,
            stopped: false,
        };
        let data = shared.pod_data(&id);
        at(std::fs::create_dir(&data), "creating", &data)?;
        let file = data.join("sandbox.json");
        // Known on disk first: whatever a crash leaves is found by this.
        write_json(&file, &record)?;
        let made = async {
            self.make_sandbox(&id, &record).await?;
            record.complete = true;
            write_json(&file, &record)
        };
        if let Err(error) = made.await {
            if let Err(rest) = shared.clear_sandbox(&id, &record).await {
                tracing::warn!(sandbox = %id, "clearing away a failed sandbox: {}", base::Chain(&rest));
            }
            return Err(error);
        }
        let status = record.status(&id, true, &shared.pod_run(&id));
        let sandbox = Sandbox {
            record,
            ready: true,
        };
        shared.state.lock().sandboxes.insert(id.clone(), sandbox);
        if let Err(error) = self.watch_shim(&id).await {
            self.remove_sandbox(&id).await?;
            return Err(error);
        }
        Ok(status)
    }

    async fn make_sandbox(&self, id: &PodSandboxId, record: &SandboxRecord) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let (id_, record_) = (id.clone(), record.clone());
        blocking(move || shared.lay_out_sandbox(&id_, &record_)).await?;
        let run = self.shared.pod_run(id);
        let launched = tokio::process::Command::new(&self.shared.config.shim_exe)
            .arg("shim")
            .arg("launch")
            .args([&run, &self.shared.pod_data(id)])
            .arg(self.shared.config.cgroup_root.join("shims"))
            .env_clear()
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .output()
            .await
            .context(|| format!("starting {}", self.shared.config.shim_exe.display()))?;
        if !launched.status.success() {
            return Err(internal(format!(
                "the shim did not start: {}",
                String::from_utf8_lossy(&launched.stderr).trim()
            )));
        }
        if record.config.pid == NamespaceMode::Pod {
            let reply = ask(&run, &Request::PidNamespace)
                .await
                .map_err(|error| internal(format!("{error}; the shim said: {}", shim_log(&run))))?;
            let Reply::Started { pid } = reply else {
                return Err(failed(reply));
            };
            let source = format!("/proc/{pid}/ns/pid");
            namespaces::pin_one(Path::new(&source), &run.join("pid"))
                .context(|| "pinning the PID namespace".into())?;
        }
        Ok(())
    }

    /// Connects to a shim for as long as both live.
    pub(super) async fn watch_shim(&self, id: &PodSandboxId) -> Result<()> {
        let run = self.shared.pod_run(id);
        let mut link = Link::open(&run, &Request::Watch, &[])
            .await
            .context(|| format!("connecting to the shim of {id}"))?;
        match link.reply().await {
            Ok(Reply::Ok) => {}
            Ok(other) => return Err(failed(other)),
            Err(error) => {
                return Err(internal(format!(
                    "{error}; the shim said: {}",
                    shim_log(&run)
                )));
            }
        }
        let (shared, id) = (Arc::clone(&self.shared), id.clone());
        self.supervisor.spawn(format!("shim {id}"), |stop| async move {
            loop {
                match stop.guard(link.next()).await {
                    None => return,
                    Some(Ok(Some(Reply::Exited { id: container }))) => {
                        shared.container_ended(&ContainerId(container));
                    }
                    Some(Ok(Some(other))) => {
                        tracing::warn!(sandbox = %id, "unexpected news from the shim: {other:?}");
                    }
                    Some(Ok(None) | Err(_)) => break,
                }
            }
            shared.shim_ended(&id).await;
        });
        Ok(())
    }

    pub(super) async fn stop_sandbox(&self, id: &PodSandboxId) -> Result<()> {
        let shared = &self.shared;
        let Ok(sandbox) = shared.sandbox(id) else {
            return Ok(());
        };
        for container in shared.containers_of(id) {
            self.stop(&container, Duration::ZERO).await?;
        }
        let mut record = sandbox.record;
        record.stopped = true;
        write_json(&shared.pod_data(id).join("sandbox.json"), &record)?;
        if let Some(sandbox) = shared.state.lock().sandboxes.get_mut(id) {
            sandbox.record = record;
            sandbox.ready = false;
        }
        shared.let_go(id).await
    }

    pub(super) async fn remove_sandbox(&self, id: &PodSandboxId) -> Result<()> {
        let shared = &self.shared;
        let Ok(sandbox) = shared.sandbox(id) else {
            return Ok(());
        };
        self.stop_sandbox(id).await?;
        for container in shared.containers_of(id) {
            self.remove(&container).await?;
        }
        shared.state.lock().sandboxes.remove(id);
        shared.clear_sandbox(id, &sandbox.record).await
    }
}

impl Shared {
    pub(super) fn containers_of(&self, id: &PodSandboxId) -> Vec<ContainerId> {
        let state = self.state.lock();
        let own = state
            .containers
            .iter()
            .filter(|(_, c)| c.record.sandbox == *id);
        own.map(|(id, _)| id.clone()).collect()
    }

    /// Folders, namespaces, files and cgroup. Blocks.
    fn lay_out_sandbox(&self, id: &PodSandboxId, record: &SandboxRecord) -> Result<()> {
        let config = &record.config;
        let run = self.pod_run(id);
        at(std::fs::create_dir(&run), "creating", &run)?;
        let pod_net = config.network != NamespaceMode::Node;
        let pod_ipc = config.ipc != NamespaceMode::Node;
        let hostname = hostname(config);
        namespaces::pin(&Pins {
            net: pod_net.then(|| run.join("net")),
            ipc: pod_ipc.then(|| run.join("ipc")),
            uts: pod_net.then(|| run.join("uts")),
            hostname: if pod_net {
                hostname.clone()
            } else {
                String::new()
            },
            sysctls: config.sysctls.clone(),
        })
        .map_err(|error| {
            let kind = match error.kind() {
                std::io::ErrorKind::InvalidInput => cri::ErrorKind::Invalid,
                _ => cri::ErrorKind::Internal,
            };
            cri::Error::with_source(kind, "making the pod's namespaces", error)
        })?;
        if pod_ipc {
            let shm = run.join("shm");
            at(std::fs::create_dir(&shm), "creating", &shm)?;
            at(mounts::tmpfs(&shm, SHM_BYTES, 0o1777), "mounting", &shm)?;
        }
        let files = [
            ("hostname", format!("{hostname}\n")),
            ("resolv.conf", resolv_conf(&config.dns)),
        ];
        for (name, content) in files {
            let path = run.join(name);
            at(std::fs::write(&path, content), "writing", &path)?;
        }
        let cgroup = self.pod_cgroup(id, config);
        self.cgroups
            .create(&cgroup)
            .context(|| format!("creating cgroup {}", cgroup.display()))?;
        super::container::apply_limits(&self.cgroups, &cgroup, &config.resources)
    }

    /// Ends the shim and unpins the namespaces. Nothing must run any more.
    pub(super) async fn let_go(&self, id: &PodSandboxId) -> Result<()> {
        let run = self.pod_run(id);
        if !run.exists() {
            return Ok(());
        }
        if order(&run, &Request::Shutdown).await.is_err() {
            kill_shim(&run);
        }
        blocking(move || {
            for name in ["net", "ipc", "uts", "pid"] {
                let path = run.join(name);
                at(namespaces::unpin(&path), "letting go of", &path)?;
            }
            let shm = run.join("shm");
            at(mounts::detach(&shm), "unmounting", &shm)
        })
        .await
    }

    /// Leaves nothing of a sandbox behind, whatever of it there is.
    pub(super) async fn clear_sandbox(
        &self,
        id: &PodSandboxId,
        record: &SandboxRecord,
    ) -> Result<()> {
        self.let_go(id).await?;
        let (data, run) = (self.pod_data(id), self.pod_run(id));
        let cgroup = self.pod_cgroup(id, &record.config);
        // A newer sandbox of the same pod has the same cgroup.
        let shared = self.state.lock().sandboxes.iter().any(|(other, sandbox)| {
            other != id && self.pod_cgroup(other, &sandbox.record.config) == cgroup
        });
        let (cgroups, root) = (self.cgroups.clone(), self.config.cgroup_root.clone());
        blocking(move || {
            for folder in [&data, &run] {
                if folder.exists() {
                    at(mounts::detach_beneath(folder), "unmounting beneath", folder)?;
                }
                remove_dir(folder)?;
            }
            if !shared && cgroup != root {
                let gone = cgroups
                    .kill(&cgroup)
                    .and_then(|()| cgroups.remove(&cgroup, PATIENCE));
                at(gone, "removing cgroup", &cgroup)?;
                cgroups.remove_empty_parents(&cgroup, &root);
            }
            Ok(())
        })
        .await
    }

    /// A shim is gone: its containers cannot be waited for or logged any more,
    /// so they end with it.
    pub(super) async fn shim_ended(self: &Arc<Self>, id: &PodSandboxId) {
        let lost = {
            let mut state = self.state.lock();
            match state.sandboxes.get_mut(id) {
                Some(sandbox) if sandbox.ready && !sandbox.record.stopped => {
                    sandbox.ready = false;
                    true
                }
                _ => false,
            }
        };
        if !lost {
            return;
        }
        tracing::warn!(sandbox = %id, "its shim died; its containers are killed");
        for container in self.containers_of(id) {
            let (shared, container_) = (Arc::clone(self), container.clone());
            let killed = blocking(move || shared.end_orphan(&container_)).await;
            if let Err(error) = killed {
                tracing::warn!(%container, "killing what its shim left: {}", base::Chain(&error));
            }
            self.container_ended(&container);
        }
        self.emit(ContainerEvent::SandboxLost(id.clone()));
    }

    /// Kills a container without a shim and notes its end. Blocks.
    pub(super) fn end_orphan(&self, id: &ContainerId) -> Result<()> {
        let container = self.container(id)?;
        let phase = container.phase.borrow().clone();
        if !matches!(phase, Phase::Running { .. } | Phase::Starting) {
            return Ok(());
        }
        let cgroup = &container.record.cgroup;
        at(self.cgroups.kill(cgroup), "killing cgroup", cgroup)?;
        let file = self
            .container_dir(&container.record.sandbox, id)
            .join(EXIT_FILE);
        if !file.exists() {
            let exit = Exited {
                code: 255,
                at: now(),
                message: "its shim was lost, and with it how it ended".to_owned(),
                ..Exited::default()
            };
            write_json(&file, &exit)?;
        }
        Ok(())
    }
}

fn check(config: &PodSandboxConfig) -> Result<()> {
    if config.user_namespace.is_some() {
        return Err(invalid(
            "user namespaces are not supported on this node; leave hostUsers unset",
        ));
    }
    if config.network == NamespaceMode::Node
        && let Some(name) = config.sysctls.keys().find(|name| name.starts_with("net"))
    {
        return Err(invalid(format!(
            "sysctl {name} would change the node's network; the pod shares it"
        )));
    }
    if config.ipc == NamespaceMode::Node
        && let Some(name) = config.sysctls.keys().find(|name| !name.starts_with("net"))
    {
        return Err(invalid(format!(
            "sysctl {name} would change the node; the pod shares its IPC"
        )));
    }
    if config.hostname.len() > 64 {
        return Err(invalid(format!(
            "host name {:?} has more than 64 bytes",
            config.hostname
        )));
    }
    Ok(())
}

/// The pod's host name, the node's if it shares that.
pub(super) fn hostname(config: &PodSandboxConfig) -> String {
    if config.hostname.is_empty() || config.network == NamespaceMode::Node {
        rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned()
    } else {
        config.hostname.clone()
    }
}

fn resolv_conf(dns: &DnsConfig) -> String {
    if *dns == DnsConfig::default() {
        return std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    }
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    text
}

/// The last words of a shim.
fn shim_log(run: &Path) -> String {
    std::fs::read_to_string(run.join(crate::shim::LOG_FILE))
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Kills a shim that does not answer, if the process of its id is one.
pub(super) fn kill_shim(run: &Path) {
    let pids = [crate::shim::PID_FILE, "init.pid"].map(|name| {
        std::fs::read_to_string(run.join(name))
            .ok()
            .and_then(|text| text.parse::<i32>().ok())
    });
    for pid in pids.into_iter().flatten() {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|&b| b == 0).skip(1);
        if words.next() == Some(b"shim") {
            // It may end by itself meanwhile.
            let _ = signals::send(pid, nix::libc::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_written_in_order() {
        let dns = DnsConfig {
            servers: vec!["10.43.0.10".into()],
            searches: vec![
                "default.svc.cluster.local".into(),
                "svc.cluster.local".into(),
            ],
            options: vec!["ndots:5".into()],
        };
        assert_eq!(
            resolv_conf(&dns),
            "search default.svc.cluster.local svc.cluster.local\nnameserver 10.43.0.10\noptions ndots:5\n"
        );
    }
}

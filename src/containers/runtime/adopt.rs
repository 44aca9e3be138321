//! Starting the daemon beside pods that run, and after those that do not.

use std::path::Path;
use std::sync::Arc;

use cri::{ContainerId, NamespaceMode, PodSandboxId, Result};
use linux::mounts;
use tokio::sync::watch;

use super::container::exited_phase;
use super::sandbox::kill_shim;
use super::{Container, ContainerRecord, Phase, Runtime, Sandbox, SandboxRecord};
use crate::error::{at, blocking};
use crate::files::{now, read_json, remove_dir, write_json};
use crate::shim::protocol::{EXIT_FILE, Exited, STARTED_FILE, Started};

impl Runtime {
    /// Takes up every sandbox on disk. One that is damaged is cleared away, so
    /// that it costs itself and not the node.
    pub(super) async fn adopt(&self) -> Result<()> {
        let shared = &self.shared;
        let folder = shared.config.data_dir.join("pods");
        for name in names(&folder)? {
            let id = PodSandboxId(name);
            let file = shared.pod_data(&id).join("sandbox.json");
            match read_json::<SandboxRecord>(&file) {
                Ok(Some(record)) if record.complete => self.adopt_sandbox(&id, record).await?,
                Ok(Some(record)) => shared.clear_sandbox(&id, &record).await?,
                found => {
                    if let Err(error) = found {
                        tracing::warn!(sandbox = %id, "{}", base::Chain(&error));
                    }
                    self.clear_folders(&id).await?;
                }
            }
        }
        // Run state without a record.
        for name in names(&shared.config.run_dir.join("pods"))? {
            let id = PodSandboxId(name);
            if !shared.state.lock().sandboxes.contains_key(&id) {
                self.clear_folders(&id).await?;
            }
        }
        let store = Arc::clone(&shared.store);
        blocking(move || store.collect()).await
    }

    async fn adopt_sandbox(&self, id: &PodSandboxId, record: SandboxRecord) -> Result<()> {
        let shared = &self.shared;
        let run = shared.pod_run(id);
        let stopped = record.stopped;
        let pinned = run.join("net").exists() || record.config.network == NamespaceMode::Node;
        let sandbox = Sandbox {
            record,
            ready: !stopped && pinned,
        };
        shared.state.lock().sandboxes.insert(id.clone(), sandbox);
        for name in names(&shared.pod_data(id))? {
            self.adopt_container(id, ContainerId(name)).await?;
        }
        if stopped {
            return Ok(());
        }
        // Listening first, looking second: what ends in between is seen twice,
        // never missed.
        let alive = pinned && self.watch_shim(id).await.is_ok();
        for container in shared.containers_of(id) {
            shared.container_ended(&container);
            if !alive {
                let (shared, container_) = (Arc::clone(shared), container.clone());
                blocking(move || shared.end_orphan(&container_)).await?;
                self.shared.container_ended(&container);
            }
        }
        if !alive {
            kill_shim(&run);
            if let Some(sandbox) = shared.state.lock().sandboxes.get_mut(id) {
                sandbox.ready = false;
            }
        }
        Ok(())
    }

    async fn adopt_container(&self, sandbox: &PodSandboxId, id: ContainerId) -> Result<()> {
        let shared = &self.shared;
        let dir = shared.container_dir(sandbox, &id);
        let record = match read_json::<ContainerRecord>(&dir.join("container.json")) {
            Ok(Some(record)) => record,
            found => {
                if let Err(error) = found {
                    tracing::warn!(container = %id, "{}", base::Chain(&error));
                }
                // Not finished being made: no process can be in it.
                let config = shared.sandbox(sandbox)?.record.config;
                let cgroup = shared.pod_cgroup(sandbox, &config).join(&id.0);
                let shared = Arc::clone(shared);
                return blocking(move || shared.clear_container(&dir, &cgroup, &[])).await;
            }
        };
        shared.store.hold(record.layers.iter().map(String::as_str));
        let started = read_json::<Started>(&dir.join(STARTED_FILE))?;
        let phase = match (read_json::<Exited>(&dir.join(EXIT_FILE))?, started) {
            (Some(exited), started) => exited_phase(exited, started),
            (None, Some(started)) => Phase::Running {
                pid: started.pid,
                started_at: started.at,
            },
            (None, None) if dir.join("create.order").exists() => {
                // The daemon died while the shim started it; nobody waits for
                // the answer, so it counts as failed.
                let exit = Exited {
                    code: 128,
                    at: now(),
                    message: "the daemon ended while the container was being started".to_owned(),
                    ..Exited::default()
                };
                let (cgroups, cgroup) = (shared.cgroups.clone(), record.cgroup.clone());
                blocking(move || at(cgroups.kill(&cgroup), "killing cgroup", &cgroup)).await?;
                write_json(&dir.join(EXIT_FILE), &exit)?;
                exited_phase(exit, None)
            }
            (None, None) => Phase::Created,
        };
        let (phase, _) = watch::channel(phase);
        let container = Container {
            record: Arc::new(record),
            phase,
        };
        shared.state.lock().containers.insert(id, container);
        Ok(())
    }

    /// Removes folders that no record explains.
    async fn clear_folders(&self, id: &PodSandboxId) -> Result<()> {
        let (data, run) = (self.shared.pod_data(id), self.shared.pod_run(id));
        blocking(move || {
            kill_shim(&run);
            for folder in [&run, &data] {
                if folder.exists() {
                    at(mounts::detach_beneath(folder), "unmounting beneath", folder)?;
                }
                remove_dir(folder)?;
            }
            Ok(())
        })
        .await
    }
}

/// Names of the folders in a folder.
fn names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in at(std::fs::read_dir(folder), "listing", folder)? {
        let entry = at(entry, "listing", folder)?;
        if at(entry.file_type(), "listing", folder)?.is_dir() {
            names.extend(entry.file_name().into_string().ok());
        }
    }
    Ok(names)
}

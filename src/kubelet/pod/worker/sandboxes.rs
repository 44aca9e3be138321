//! Making, stopping and removing sandboxes and containers.

use std::collections::BTreeMap;

use cri::{ContainerId, ContainerState, PodSandboxId, SandboxState};

use super::Worker;
use crate::events::Warning;
use crate::pod::dns::{parse_resolv_conf, pod_dns};
use crate::pod::sandbox::{self, log_directory};
use crate::pod::spec::init_containers;
use crate::pod::start::remove_logs;

impl Worker {
    pub(super) async fn create_sandbox(&mut self, attempt: u32) -> Result<(), String> {
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

    pub(super) async fn remove_sandbox(&mut self, id: &PodSandboxId) {
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
    pub(super) async fn stop_everything(&mut self) -> cri::Result<()> {
        self.killer().kill_all(&self.observed, None).await?;
        self.refresh().await;
        self.stop_sandboxes().await
    }

    /// Unplugs and stops every sandbox.
    pub(super) async fn stop_sandboxes(&mut self) -> cri::Result<()> {
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
    pub(super) async fn remove_init_containers(&mut self) {
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

    pub(super) async fn remove_container(&mut self, id: &ContainerId) {
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
    pub(super) async fn collect_garbage(&mut self) {
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
}

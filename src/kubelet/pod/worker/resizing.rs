//! Changing limits of what runs.

use std::time::Duration;

use cri::{ContainerId, ContainerResources, ContainerState, PodSandboxId};
use tokio::time::Instant;

use super::Worker;
use crate::pod::resize::{Changed, Resize, ResizeCondition, explicit, judge, larger};
use crate::pod::resources::pod_resources;
use crate::pod::spec::{containers, init_containers, is_sidecar};

/// When a change that failed is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// A running container whose limits change.
struct Target {
    id: ContainerId,
    name: String,
    now: ContainerResources,
    to: ContainerResources,
}

impl Worker {
    /// Makes limits of what runs follow the spec; gives when to try again if
    /// that failed. Containers that must start anew for it are the plan's.
    pub(super) async fn sync_limits(&mut self) -> Option<Instant> {
        let sandbox = self.observed.ready_sandbox(&self.pod)?;
        let id = sandbox.id.clone();
        let known = match &self.pod_limits {
            Some((own, limits)) if *own == id => limits.clone(),
            _ => sandbox.config.resources.clone(),
        };
        let mut restarts = false;
        let mut targets = Vec::new();
        let sidecars = init_containers(&self.pod).iter().filter(|c| is_sidecar(c));
        for container in sidecars.chain(containers(&self.pod)) {
            let run = self.observed.latest(&container.name);
            let Some(run) = run.filter(|run| run.state == ContainerState::Running) else {
                continue;
            };
            match judge(&self.pod, container, &run.config.resources) {
                Resize::None => {}
                Resize::Restart => restarts = true,
                Resize::InPlace(to) => targets.push(Target {
                    id: run.id.clone(),
                    name: container.name.clone(),
                    now: run.config.resources.clone(),
                    to,
                }),
            }
        }
        let wanted = pod_resources(&self.pod);
        if restarts {
            self.resize_is_open("", String::new());
        }
        if targets.is_empty() && !Changed::between(&known, &wanted).any() {
            return None;
        }
        match self.change_limits(&id, &known, &wanted, targets).await {
            Ok(()) => None,
            Err(message) => {
                self.resize_is_open("Error", message);
                Some(Instant::now() + RETRY)
            }
        }
    }

    fn resize_is_open(&mut self, reason: &'static str, message: String) {
        self.resize.get_or_insert(ResizeCondition {
            kind: "PodResizeInProgress",
            reason,
            message,
        });
    }

    async fn change_limits(
        &mut self,
        sandbox: &PodSandboxId,
        known: &ContainerResources,
        wanted: &ContainerResources,
        targets: Vec<Target>,
    ) -> Result<(), String> {
        let node = self.node.clone();
        let said = |error: cri::Error| base::Chain(&error).to_string();
        let both = larger(known, wanted);
        if Changed::between(known, &both).any() {
            let to = explicit(&both);
            let done = node.runtime.update_pod_resources(sandbox, &to).await;
            done.map_err(said)?;
            self.pod_limits = Some((sandbox.clone(), both.clone()));
        }
        for target in targets {
            let limit = target.to.memory_limit.filter(|limit| *limit > 0);
            let before = target.now.memory_limit.filter(|limit| *limit > 0);
            if let Some(limit) = limit
                && before.is_none_or(|before| limit < before)
            {
                // Taking memory away that is in use would kill the container.
                let stats = node.runtime.container_stats(&target.id).await;
                let usage = stats.map_err(said)?.memory_working_set;
                if u64::try_from(limit).is_ok_and(|limit| usage > limit) {
                    return Err(format!(
                        "attempting to set container {:?} memory limit ({limit}) below current \
                         usage ({usage})",
                        target.name
                    ));
                }
            }
            let runtime = &node.runtime;
            let done = runtime.update_container_resources(&target.id, &target.to);
            done.await.map_err(said)?;
            self.track(target.id).await;
        }
        if Changed::between(&both, wanted).any() {
            let to = explicit(wanted);
            let done = node.runtime.update_pod_resources(sandbox, &to).await;
            done.map_err(said)?;
        }
        self.pod_limits = Some((sandbox.clone(), wanted.clone()));
        Ok(())
    }
}

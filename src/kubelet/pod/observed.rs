//! What the runtime says a pod is, as the pure parts take it.

use std::net::IpAddr;

use cri::{ContainerState, ContainerStatus, PodSandboxStatus, SandboxState};
use k8s_openapi::api::core::v1::{Container, Pod};

use super::spec::{is_deleted, is_host_network, restarts_after};

/// Keys the kubelet sets on sandboxes and containers, and finds them by.
pub(crate) mod labels {
    pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
    pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
    pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    pub(crate) const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
    pub(crate) const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    pub(crate) const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    /// Image as it shows in a container status.
    pub(crate) const IMAGE: &str = "io.karve.container.image";
    /// Image id as it shows in a container status.
    pub(crate) const IMAGE_REF: &str = "io.karve.container.image-ref";
}

/// Sandboxes and containers of one pod, the newest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    pub(crate) sandboxes: Vec<PodSandboxStatus>,
    pub(crate) containers: Vec<ContainerStatus>,
    /// Addresses of the newest sandbox.
    pub(crate) ips: Vec<IpAddr>,
}

impl Observed {
    /// Puts the newest first.
    pub(crate) fn sort(&mut self) {
        self.sandboxes
            .sort_by_key(|sandbox| std::cmp::Reverse(sandbox.created_at));
        self.containers.sort_by_key(|container| {
            std::cmp::Reverse((container.created_at, container.config.attempt))
        });
    }

    /// The newest container of this name.
    pub(crate) fn latest(&self, name: &str) -> Option<&ContainerStatus> {
        self.containers
            .iter()
            .find(|container| container.config.name == name)
    }

    /// The newest exited container of this name.
    pub(crate) fn latest_exited(&self, name: &str) -> Option<&ContainerStatus> {
        self.containers.iter().find(|container| {
            container.config.name == name
                && matches!(container.state, ContainerState::Exited { .. })
        })
    }

    /// The sandbox containers can start in, if there is one.
    pub(crate) fn ready_sandbox(&self, pod: &Pod) -> Option<&PodSandboxStatus> {
        let newest = self.sandboxes.first()?;
        let plugged_in = is_host_network(pod) || !self.ips.is_empty();
        (newest.state == SandboxState::Ready && plugged_in).then_some(newest)
    }

    /// Containers that run.
    pub(crate) fn running(&self) -> impl Iterator<Item = &ContainerStatus> {
        self.containers
            .iter()
            .filter(|container| container.state == ContainerState::Running)
    }
}

/// Exit code of a container that is over.
pub(crate) fn exit_code(status: &ContainerStatus) -> Option<i32> {
    match &status.state {
        ContainerState::Exited { exit, .. } => Some(exit.code),
        _ => None,
    }
}

/// Whether a container that does not run is to be started (again).
pub(crate) fn should_restart(pod: &Pod, container: &Container, observed: &Observed) -> bool {
    if is_deleted(pod) {
        return false;
    }
    match observed.latest(&container.name).map(|status| &status.state) {
        None | Some(ContainerState::Unknown | ContainerState::Created) => true,
        Some(ContainerState::Running) => false,
        Some(ContainerState::Exited { exit, .. }) => restarts_after(container, pod, exit.code),
    }
}

/// Identifies what cannot change in a running container: its name and image.
pub(crate) fn container_hash(container: &Container) -> String {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    hash.update(container.name.as_bytes());
    hash.update([0]);
    hash.update(container.image.as_deref().unwrap_or_default().as_bytes());
    hash.finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Whether the spec of a container differs from what it was made from.
pub(crate) fn definition_changed(container: &Container, status: &ContainerStatus) -> bool {
    let known = status.config.annotations.get(labels::CONTAINER_HASH);
    known.is_some_and(|known| *known != container_hash(container))
}

//! Plugging a sandbox into the pod network.

use std::net::IpAddr;
use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{PodSandboxId, Result};

/// Transport protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A `hostPort` of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port inside the pod.
    pub container_port: u16,
    /// Port on the node.
    pub host_port: u16,
    /// Node address to listen on; every address when absent.
    pub host_ip: Option<IpAddr>,
}

/// A sandbox to be plugged in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodNetworkRequest {
    /// The sandbox; one sandbox has one set of addresses at most.
    pub sandbox: PodSandboxId,
    /// Pod namespace, for logs and status.
    pub namespace: String,
    /// Pod name, for logs and status.
    pub name: String,
    /// Path of the pinned network namespace.
    pub netns: PathBuf,
    /// Ports to open on the node.
    pub port_mappings: Vec<PortMapping>,
    /// `kubernetes.io/ingress-bandwidth` in bits per second.
    pub ingress_bits_per_second: Option<u64>,
    /// `kubernetes.io/egress-bandwidth` in bits per second.
    pub egress_bits_per_second: Option<u64>,
}

/// Addresses a sandbox was given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodNetworkStatus {
    /// Pod addresses, the primary family first.
    pub ips: Vec<IpAddr>,
}

/// Gives sandboxes interfaces and addresses. Idempotent in both directions:
/// setting up twice returns the same addresses, tearing down an unknown
/// sandbox succeeds. Allocations survive a restart of the daemon.
#[async_trait]
pub trait PodNetwork: Send + Sync {
    /// Plugs the sandbox in.
    async fn set_up(&self, request: &PodNetworkRequest) -> Result<PodNetworkStatus>;

    /// Unplugs it and frees its addresses and host ports.
    async fn tear_down(&self, sandbox: &PodSandboxId) -> Result<()>;

    /// What a sandbox was given, if it is plugged in.
    async fn status(&self, sandbox: &PodSandboxId) -> Result<Option<PodNetworkStatus>>;

    /// Frees whatever belongs to sandboxes not in `keep` (called once at
    /// start, after the runtime has listed what still runs).
    async fn retain(&self, keep: &[PodSandboxId]) -> Result<()>;
}

//! The contract between the kubelet and what runs its pods.
//!
//! Modelled on the Kubernetes Container Runtime Interface (CRI v1), without
//! the gRPC: the kubelet consumes these traits, `containers` implements
//! [`ContainerRuntime`] and [`ImageService`], `network` implements
//! [`PodNetwork`]. Types are plain data; nothing here does I/O.
//!
//! Differences from CRI, on purpose:
//! - a sandbox has no pause process: its network, IPC and UTS namespaces are
//!   pinned by bind mounts under the run state folder;
//! - the kubelet, not the runtime, plugs the sandbox into the network, so that
//!   neither implementation knows the other;
//! - state changes are pushed ([`ContainerRuntime::events`]): nothing polls.

#![forbid(unsafe_code)]

mod error;
mod image;
mod network;
mod runtime;

pub use error::{Error, ErrorKind, Result};
pub use image::{FsUsage, Image, ImageService, PullProgress, RegistryAuth};
pub use network::{PodNetwork, PodNetworkRequest, PodNetworkStatus, PortMapping, Protocol};
pub use runtime::{
    ContainerConfig, ContainerEvent, ContainerId, ContainerResources, ContainerRuntime,
    ContainerState, ContainerStats, ContainerStatus, ContainerUser, DnsConfig, ExecRequest,
    ExecResult, ExitStatus, Mount, MountPropagation, NamespaceMode, PodSandboxConfig, PodSandboxId,
    PodSandboxStats, PodSandboxStatus, SandboxState, SeccompProfile, SecurityContext, Streams,
    TerminalSize,
};

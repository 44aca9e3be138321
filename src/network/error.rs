//! What can go wrong.

use std::io;
use std::path::PathBuf;

use ipnet::IpNet;
use linux::{netlink, netns, sysctl};

/// A failed network operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The node has not been given a pod CIDR.
    #[error(
        "the node has no pod CIDR yet; the controller manager assigns one \
         (or set --cluster-cidr large enough for one /24 a node)"
    )]
    NotReady,
    /// All addresses of the pod CIDR are taken.
    #[error("no free address is left in {0}; delete pods or give nodes a larger pod CIDR")]
    Exhausted(IpNet),
    /// The CIDR is too small for a gateway and one pod.
    #[error("pod CIDR {0} has no room for a gateway and a pod; use a prefix of at most /{1}")]
    TooSmall(IpNet, u8),
    /// Pods run with addresses of the old CIDR.
    #[error("the pod CIDR changed from {old} to {new} while {pods} pods use it; drain the node")]
    InUse {
        /// CIDR in use.
        old: String,
        /// CIDR asked for.
        new: String,
        /// Number of pods with addresses in `old`.
        pods: usize,
    },
    /// The name of the node's own interface is taken by something else.
    #[error("network interface {0} exists and is not Karve's; remove it or choose another name")]
    NameTaken(String),
    /// An interface that was just made is gone.
    #[error("network interface {0} was removed by somebody else")]
    Vanished(String),
    /// The file of allocations could not be read or written.
    #[error("{operation} {}", path.display())]
    State {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The sandbox's namespace is gone or cannot be entered.
    #[error("entering the sandbox's network")]
    Netns(#[from] netns::Error),
    /// The kernel refused a change to interfaces, addresses or routes.
    #[error("changing the pod network")]
    Netlink(#[from] netlink::Error),
    /// A kernel parameter could not be set.
    #[error("preparing the node for the pod network")]
    Sysctl(#[from] sysctl::Error),
}

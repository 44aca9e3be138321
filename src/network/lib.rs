//! The pod network of one node: addresses, a bridge, veth pairs, host ports.
//!
//! [`Network`] implements [`cri::PodNetwork`]. Every pod gets an interface
//! `eth0` with a single address (`/32`, `/128`) and one route: everything
//! through the gateway, which is the bridge of the node (`karve0`, the first
//! address of the pod CIDR). Ports of the bridge are isolated from each other.
//!
//! So the bridge never forwards between pods; the node routes every packet.
//! That is on purpose: address translation of Services and, later, network
//! policy see both directions of every connection whatever
//! `bridge-nf-call-iptables` says and whether or not `br_netfilter` is there;
//! a pod reaches itself through its Service without hairpin mode; and no pod
//! can answer ARP for another. The rejected alternative, pods sharing the
//! subnet on the bridge, is what makes other clusters depend on
//! `br_netfilter`.
//!
//! # Layout
//!
//! - [`pool`]: which address is free (pure);
//! - [`state`]: what was handed out, on disk;
//! - [`plumbing`]: bridge, veth pairs, routes;
//! - [`rules`]: masquerading and host ports as an nftables table (pure);
//! - [`service`]: the order in which the others are called.
//!
//! # State
//!
//! `Config::state_dir` holds one small JSON file. Namespaces do not survive a
//! reboot, so it belongs on a tmpfs (`/run/karve/network`); it is written
//! atomically and synced all the same.
#![forbid(unsafe_code)]

mod error;
mod plumbing;
mod pool;
mod service;
mod state;

pub use error::Error;
pub use service::{Config, Network};

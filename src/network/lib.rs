//! The pod network of one node: addresses, veth pairs, routes, host ports.
//!
//! [`Network`] implements [`cri::PodNetwork`]. Every pod gets an interface
//! `eth0` with a single address (`/32`, `/128`) and one route: everything
//! through the node, at the first address of the pod CIDR. The node has that
//! address on an interface of its own (`karve0`) and, for each pod, the other
//! end of a veth pair with a route to it.
//!
//! There is no bridge between pods; the node routes every packet. That is on
//! purpose: address translation of Services and, later, network policy see
//! both directions of every connection; no pod can answer ARP for another.
//! The rejected alternative, pods as ports of a bridge, depends on
//! `br_netfilter` and its per-namespace switch: off, replies between pods of
//! one node bypass translation; on, translated packets are bridged instead of
//! routed, and a pod reaches itself through its Service in hairpin mode only.
//! Other software on the node flips that switch.
//!
//! # Layout
//!
//! - `pool`: which address is free (pure);
//! - `state`: what was handed out, on disk;
//! - `plumbing`: interfaces, addresses, routes;
//! - `rules`: masquerading and host ports as an nftables table (pure);
//! - `service`: the order in which the others are called.
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
mod rules;
mod service;
mod state;

pub use error::Error;
pub use service::{Config, Network};

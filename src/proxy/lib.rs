//! Services to nftables.
//!
//! [`Proxy`] watches Services and EndpointSlices and keeps two tables,
//! `ip karve-proxy` and `ip6 karve-proxy`, as they say. [`render()`] is the
//! whole translation, a pure function; [`linux::nftables::Owner`] sends what
//! changed in one transaction.
//!
//! # The rules
//!
//! The first packet of a connection meets one lookup in a verdict map, however
//! many Services there are: `service-ips` (address, protocol, port) for
//! ClusterIPs, external and load-balancer addresses, `service-nodeports`
//! (protocol, port) for packets to any address of the node. It leads to a
//! chain of the Service's port:
//!
//! - `service-…` picks among all usable endpoints: a random number below their
//!   count is looked up in the map `endpoints`, and the packet's destination
//!   is translated to what is found there;
//! - `local-…` picks among the node's own, for the traffic policy `Local`;
//! - `external-…` is where traffic from outside comes in, and decides between
//!   the two and whether it is masqueraded;
//! - `firewall-…` checks `loadBalancerSourceRanges` first;
//! - `endpoint-…` only exists with session affinity: it remembers the client
//!   in the set `affinity`, whose elements expire after the Service's timeout.
//!
//! Services without endpoints lead to `reject`. Packets that must look as if
//! they came from the node carry a mark from here to `postrouting`.
//!
//! The rules stay when the daemon ends; a new one replaces the tables as a
//! whole in its first transaction. Both are atomic, no packet is lost.
#![forbid(unsafe_code)]

mod endpoints;
mod flows;
mod render;
mod service;
mod sync;

pub use render::{Ruleset, State, render};
pub use sync::{Config, Error, Proxy, remove};

#[cfg(test)]
mod tests;

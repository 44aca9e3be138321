//! Cluster DNS from informer state.
//!
//! [`Dns`] answers for the cluster domain as the Kubernetes DNS specification
//! says (Services, headless Services, named ports, pods by address, reverse
//! names) and forwards everything else. It runs inside the daemon of every
//! node: no pod has to start before names resolve, and a question never
//! leaves the node unless it is about another world.
//!
//! # How it is reached
//!
//! Stock clusters have a Service `kube-dns` in `kube-system` at the cluster DNS
//! address, and so has Karve. It has no selector; [`publish`](publish()) gives
//! it an EndpointSlice with one endpoint for each node: the node's own address
//! in its pod CIDR (the first one), where that node's daemon listens on port
//! 53. Its traffic policy is `Local`, so the proxy of each node leads
//! `10.43.0.10:53` to the node itself. No address is special to the proxy, the
//! daemon binds no wildcard address that could collide with another resolver,
//! a restart loses nothing but questions in flight, and whoever wants another
//! cluster DNS gives the Service a selector.
//!
//! To be wired by the composition root:
//!
//! - where controllers run: [`publish`](publish()) with the cluster DNS
//!   addresses;
//! - on every node: wait for the gateways of the pod network, [`Sockets::bind`]
//!   each of them at port 53, then run a [`Dns`] with [`Upstreams::file`] of
//!   the node's `/etc/resolv.conf`;
//! - the kubelet writes the cluster DNS address to pods' `resolv.conf`.
//!
//! Rejected: giving every node the cluster DNS address itself (as
//! NodeLocal DNSCache does) needs exceptions in the proxy, and a `kube-dns`
//! Service that lies about its endpoints.
//!
//! # Layout
//!
//! - `index`: what is known, by name and by address;
//! - `zone`: from a question to records (pure);
//! - `message`: from questions to messages: flags, EDNS, truncation (pure);
//! - `forward`: other servers;
//! - `server`: sockets;
//! - `publish`: the Service and its EndpointSlices.
#![forbid(unsafe_code)]

mod forward;
mod index;
mod message;
mod publish;
mod server;
mod zone;

pub use forward::Upstreams;
pub use publish::{PublishConfig, publish};
pub use server::{Config, Dns, Error, Sockets};

#[cfg(test)]
mod informer_tests;

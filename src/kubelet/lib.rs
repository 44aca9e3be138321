//! The node agent: pod workers, volumes, probes, status and the node API.
//!
//! [`build`] takes a [`Config`] and everything it works with ([`Deps`]) and
//! returns a [`Kubelet`] to start. It knows the runtime, the images and the
//! network only by the traits of `cri`, and the cluster only by its API.
//!
//! - `node` keeps the Node object and its lease,
//! - `pod` walks each pod through its life,
//! - `probe` runs probes, `volumes` sets volumes up, `objects` watches the
//!   config maps and secrets in use,
//! - `server` is the node API on port 10250, `streaming` the WebSocket and
//!   SPDY engine beneath exec, attach and port-forward.
//!
//! Stopping the kubelet stops no container: at the next start it finds what
//! runs by its labels and takes it over.

#![forbid(unsafe_code)]

mod config;
mod events;
mod kubelet;
mod node;
mod objects;
mod pod;
mod probe;
mod quantity;
mod server;
mod streaming;
mod volumes;

pub use config::{
    Config, Denied, Deps, EvictionThresholds, ImageGc, KUBELET_VERSION, NodeAuth, NodeRequest,
    PodCidrCallback, RUNTIME_NAME,
};
pub use kubelet::{BuildError, Kubelet, build};

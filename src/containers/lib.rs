//! Images, overlay root file systems and containers by libcontainer.
//!
//! [`Runtime`] implements the kubelet's two contracts, `cri::ContainerRuntime`
//! and `cri::ImageService`. [`shim::main`] is the other half: the small process
//! beside every pod that keeps containers running while the daemon is not.
//! `image` knows archives, registries and the store; `spec` turns a container's
//! configuration into an OCI runtime specification; `runtime` ties them together.
//! What touches the kernel beyond the standard library is in the crate `linux`.

#![forbid(unsafe_code)]

mod error;
mod files;
mod image;
mod runtime;
pub mod shim;
mod spec;

pub use image::{reference, registries};
pub use runtime::{Config, Runtime};

//! Real containers, as root, in mounts and cgroups of the tests' own.

#![allow(clippy::unwrap_used, reason = "tests")]

mod hostile;
mod life;
mod registry;
mod sandbox;
mod streams;
mod support;

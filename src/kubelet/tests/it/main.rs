//! The kubelet against a small API server and a runtime that only pretends.

#![allow(clippy::unwrap_used, reason = "tests")]

mod api;
mod lifecycle;
mod node;
mod runtime;
mod server;
mod world;

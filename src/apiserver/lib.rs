//! The Kubernetes API server.

#![forbid(unsafe_code)]

pub mod access;
pub mod admission;

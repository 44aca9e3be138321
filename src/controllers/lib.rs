//! Kubernetes' controllers, one module each.

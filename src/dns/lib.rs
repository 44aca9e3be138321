//! Cluster DNS from informer state.

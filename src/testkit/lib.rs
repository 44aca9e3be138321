//! Helpers for tests: an in-process control plane, node sandbox, waits.

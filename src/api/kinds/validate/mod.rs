//! Validation, one module for each family of kinds.

pub(super) mod admission;
pub(super) mod apps;
pub(super) mod autoscaling;
pub(super) mod batch;
pub(super) mod certificates;
pub(super) mod config;
pub(super) mod core;
pub(super) mod discovery;
pub(super) mod dynamic;
pub(super) mod event;
pub(super) mod flowcontrol;
pub(super) mod networking;
pub(super) mod pod;
pub(super) mod pod_update;
pub(super) mod policy;
pub(super) mod quota;
pub(super) mod rbac;
pub(super) mod service;
pub(super) mod storage;
pub(super) mod volume;

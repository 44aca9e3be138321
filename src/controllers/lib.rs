//! Kubernetes' controllers, one module each.
//!
//! Every loop is level-triggered: it is woken with a key, looks at the shared
//! informers, and makes the API server's state fit. What differs from
//! kube-controller-manager on purpose is told where it differs. [`register`]
//! starts all of them; each speaks to the API server as a service account of
//! its own (`system:serviceaccount:kube-system:NAME`), which RBAC limits to
//! what that loop needs.
#![forbid(unsafe_code)]

mod certificates;
mod cluster_role;
mod context;
mod count;
mod credentials;
mod cronjob;
mod daemonset;
mod deployment;
mod discover;
mod disruption;
mod endpoints;
mod error;
mod expectations;
mod garbage;
mod hash;
mod history;
mod job;
mod namespace;
mod node;
mod node_ipam;
mod owner;
mod pod_gc;
mod pods;
mod replicaset;
mod resource_quota;
mod root_ca;
mod serviceaccount;
mod statefulset;
mod storage_protection;
mod token_secret;
mod ttl_after_finished;

use std::sync::Arc;

use base::Supervisor;
use client::{Client, EventRecorder, Informers};
use ipnet::IpNet;

use context::Context;

pub use credentials::{CertificateSubject, Credentials};

/// Gives the client of a controller, by the controller's name.
pub type Clients = Arc<dyn Fn(&str) -> Client + Send + Sync>;

/// What the controllers need to be told.
#[derive(Clone)]
pub struct Config {
    /// The client for each controller's own identity.
    pub clients: Clients,
    /// The cluster's CA certificate as PEM, published in every namespace.
    pub root_ca: String,
    /// Pod addresses of the cluster, one range a family; without any, nodes
    /// get no share from here.
    pub cluster_cidrs: Vec<IpNet>,
    /// How many ended pods are kept; 0 keeps all.
    pub terminated_pod_threshold: usize,
    /// Signs what is asked for by certificate requests and token secrets;
    /// without it nothing is.
    pub credentials: Option<Arc<dyn Credentials>>,
}

impl Config {
    /// Upstream's defaults.
    pub fn new(clients: Clients, root_ca: String) -> Self {
        Self {
            clients,
            root_ca,
            cluster_cidrs: Vec::new(),
            terminated_pod_threshold: 12_500,
            credentials: None,
        }
    }
}

/// Starts every controller; `tasks` owns what they run in.
pub fn register(tasks: &Arc<Supervisor>, informers: &Informers, config: Config) {
    let events = EventRecorder::new(informers.client().clone(), tasks, "controllers", "");
    let context = Context {
        tasks: tasks.clone(),
        informers: informers.clone(),
        config,
        events,
    };
    namespace::register(&context);
    serviceaccount::register(&context);
    root_ca::register(&context);
    deployment::register(&context);
    endpoints::register(&context);
    replicaset::register_replica_sets(&context);
    replicaset::register_replication_controllers(&context);
    garbage::register(&context);
    node_ipam::register(&context);
    pod_gc::register(&context);
    job::register(&context);
    cronjob::register(&context);
    daemonset::register(&context);
    disruption::register(&context);
    statefulset::register(&context);
    node::register(&context);
    resource_quota::register(&context);
    storage_protection::register(&context);
    ttl_after_finished::register(&context);
    cluster_role::register(&context);
    certificates::register(&context);
    token_secret::register(&context);
}

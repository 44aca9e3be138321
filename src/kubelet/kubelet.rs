//! Putting the parts together.

use std::sync::Arc;

use base::{Shutdown, Supervisor};
use client::EventRecorder;
use k8s_openapi::api::core::v1::{Pod, Service};
use parking_lot::RwLock;
use tokio::sync::Notify;

use crate::config::{Config, Deps};
use crate::events::Recorder;
use crate::node::{ImageCollector, Machine, NodeAgent, allocatable};
use crate::objects::Objects;
use crate::pod::{Pods, Puller, Reporter, Shared};
use crate::server::Server;
use crate::volumes::Plugins;

/// A kubelet that is put together but does not run yet.
pub struct Kubelet {
    config: Config,
    deps: Deps,
}

/// What a kubelet cannot begin without.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The configuration names no address.
    #[error("the node has no address: give it one with --node-ip")]
    NoAddress,
    /// A folder could not be made.
    #[error("making the folder {}", path.display())]
    Folder {
        /// The folder.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Checks the configuration, makes the folders, and returns a kubelet to run.
pub fn build(config: Config, deps: Deps) -> Result<Kubelet, BuildError> {
    if config.node_ips.is_empty() {
        return Err(BuildError::NoAddress);
    }
    for path in [config.root_dir.join("pods"), config.log_dir.clone()] {
        std::fs::create_dir_all(&path).map_err(|source| BuildError::Folder { path, source })?;
    }
    Ok(Kubelet { config, deps })
}

impl Kubelet {
    /// Starts every part as a task of the supervisor it was built with.
    pub fn start(self) {
        let Self { config, deps } = self;
        let tasks: Arc<Supervisor> = deps.tasks.clone();
        let events = EventRecorder::new(
            deps.client.clone(),
            &tasks,
            "kubelet",
            config.node_name.clone(),
        );
        let events = Recorder::new(events);
        let machine = Arc::new(Machine::detect(&config.root_dir));
        let images_changed = Arc::new(Notify::new());
        let shared = Arc::new(Shared {
            client: deps.client.clone(),
            runtime: deps.runtime.clone(),
            images: deps.images.clone(),
            network: deps.network.clone(),
            tasks: tasks.clone(),
            events: events.clone(),
            services: deps.informers.of::<Service>(),
            config_maps: Objects::new(deps.client.clone(), tasks.clone()),
            secrets: Objects::new(deps.client.clone(), tasks.clone()),
            plugins: Plugins::default(),
            puller: Puller::new(deps.images.clone(), images_changed.clone()),
            reporter: Reporter::start(deps.client.clone(), tasks.clone()),
            memory_capacity: machine.memory,
            least_oom_score: machine.least_oom_score,
            allocatable: RwLock::new(Arc::new(allocatable(&config, &machine))),
            config: config.clone(),
        });
        let agent = NodeAgent {
            config: config.clone(),
            client: deps.client.clone(),
            informers: deps.informers.clone(),
            images: deps.images.clone(),
            machine: machine.clone(),
            events: events.clone(),
            images_changed: images_changed.clone(),
        };
        tasks.spawn("node status", |stop: Shutdown| agent.run(stop));

        let fields = format!("spec.nodeName={}", config.node_name);
        let informer = deps.informers.with_fields::<Pod>(&fields);
        let pods = Pods::new(shared.clone());
        let worker_feed = pods.clone();
        tasks.spawn("pods", |stop| worker_feed.run(informer, stop));

        let collector = ImageCollector {
            images: deps.images.clone(),
            pods: pods.clone(),
            limits: config.image_gc,
            events,
            node: config.node_name.clone(),
            changed: images_changed,
        };
        tasks.spawn("image collector", |stop| collector.run(stop));

        let server = Server::new(shared, pods, machine, deps.auth);
        let (listener, tls) = (deps.listener, deps.tls);
        tasks.spawn("node API", |stop| server.serve(listener, tls, stop));
    }
}

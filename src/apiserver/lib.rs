//! The Kubernetes API server.
//!
//! [`build`] puts it together; [`ApiServer::serve`] answers a socket,
//! [`ApiServer::in_process`] a client in the same process. A request passes
//! the handler chain (who asks, whether they may), then the registry, which is
//! driven by data: there are no handlers per kind. Writes go to the store by
//! compare-and-swap; reads and watches are served from the watch cache, which
//! holds each object once, in the bytes that are sent.

#![forbid(unsafe_code)]

pub mod access;
pub mod admission;
mod alloc;
mod bootstrap;
mod cache;
mod config;
mod custom;
mod engine;
mod handlers;
mod http;
mod metrics;
mod registry;
mod request;
mod server;
mod subresources;

pub use config::{Config, Deps, KubeletClient};
pub use http::{Body, BoxError};
pub use server::{ApiServer, InProcess};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::{Shutdown, Supervisor};

/// How long tunnels may take to end.
const DRAIN: Duration = Duration::from_secs(2);

/// How long history lasts at least: upstream's default for
/// `--etcd-compaction-interval`.
const COMPACTION_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// What runs beside the server: feeds the watch cache, puts the objects every
/// cluster has in place, compacts the store. Nothing is answered from the cache
/// before it runs.
#[must_use = "the server answers nothing without its task"]
pub struct Task {
    server: ApiServer,
}

impl Task {
    /// Runs until shutdown.
    pub async fn run(self, stop: Shutdown) {
        let inner = self.server.inner.clone();
        let pump = inner.registry.hub.clone().run(stop.clone());
        let bootstrap = async {
            if stop.guard(bootstrap::run(&self.server)).await.is_some() {
                inner.ready.send_replace(true);
            }
            stop.triggered().await;
            inner.stopping.store(true, Ordering::Release);
            inner.registry.hub.close();
        };
        let definitions = custom::run(self.server.clone(), stop.clone());
        let store = inner.registry.hub.store().clone();
        let compaction = store::compact_regularly(store, COMPACTION_INTERVAL, stop.clone());
        tokio::join!(pump, bootstrap, compaction, definitions);
        inner.tasks.stop(DRAIN).await;
    }
}

/// Puts a server together. It answers once the returned task runs.
pub fn build(config: Config, deps: Deps) -> (ApiServer, Task) {
    let hub = Arc::new(cache::Hub::new(deps.store));
    let engine = engine::Engine::new(api::Scheme::builtin());
    let allocators =
        alloc::Allocators::new(config.service_cidrs.clone(), config.node_ports.clone());
    let registry = Arc::new(registry::Registry::new(hub, engine, allocators));
    let reader: Arc<dyn admission::Reader> = registry.clone();
    let rbac = Arc::new(access::Rbac::new(reader.clone()));
    let tokens = Arc::new(access::ServiceAccountTokens::new(
        deps.token_key,
        config.issuer.clone(),
        reader,
    ));
    let mut authenticators = deps.authenticators;
    let mut authorizers = deps.authorizers;
    authorizers.push(Arc::new(access::NodeAuthorizer::new(registry.clone())));
    authorizers.push(rbac.clone());
    let reviews = access::Reviews::new(
        authorizers.clone(),
        rbac.clone(),
        tokens.clone(),
        authenticators.clone(),
    );
    authenticators.push(tokens);
    let mut plugins = admission::default_plugins(rbac, &authorizers);
    plugins.extend(deps.admission);
    plugins.push(Arc::new(admission::ResourceQuota::new(registry.clone())));
    *registry.admission.write() = admission::Chain::new(plugins);
    let server = ApiServer {
        inner: Arc::new(server::Inner {
            config,
            registry,
            authenticators,
            authorizers,
            reviews,
            kubelet: deps.kubelet,
            metrics: metrics::Metrics::default(),
            tasks: Supervisor::default(),
            ready: tokio::sync::watch::Sender::new(false),
            stopping: AtomicBool::new(false),
        }),
    };
    let task = Task {
        server: server.clone(),
    };
    (server, task)
}

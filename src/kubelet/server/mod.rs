//! The node API on port 10250: health, pods, logs, exec, attach, port-forward,
//! statistics and metrics.
//!
//! The API server calls it on behalf of users, and for upgrades only tunnels
//! bytes, so what clients speak arrives here.

mod exec;
mod forward;
mod logs;
mod metrics;
mod query;
mod reply;
mod stats;

use std::sync::Arc;
use std::time::Duration;

use base::Shutdown;
use futures::stream::{FuturesUnordered, StreamExt};
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

pub(crate) use logs::tail as log_tail;

use crate::config::{Denied, NodeAuth, NodeRequest};
use crate::node::Machine;
use crate::pod::{PodView, Pods, Shared};
use reply::{Reply, error, json, text};

const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections served at once; further ones wait in the listener's queue.
const MAX_CONNECTIONS: usize = 512;

/// Serves the node API.
pub(crate) struct Server {
    shared: Arc<Shared>,
    pods: Arc<Pods>,
    machine: Arc<Machine>,
    auth: Arc<dyn NodeAuth>,
}

impl Server {
    pub(crate) fn new(
        shared: Arc<Shared>,
        pods: Arc<Pods>,
        machine: Arc<Machine>,
        auth: Arc<dyn NodeAuth>,
    ) -> Arc<Self> {
        Arc::new(Self {
            shared,
            pods,
            machine,
            auth,
        })
    }

    /// Accepts until stopped; then connections end with this future.
    pub(crate) async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        stop: Shutdown,
    ) {
        let acceptor = TlsAcceptor::from(tls);
        let mut connections = FuturesUnordered::new();
        let run = async {
            loop {
                tokio::select! {
                    accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                        match accepted {
                            Ok((stream, _)) => {
                                let (server, acceptor) = (self.clone(), acceptor.clone());
                                // Each on a task of its own, which ends when this is dropped.
                                let task = tokio::spawn(server.connection(stream, acceptor));
                                connections.push(AbortOnDrop(task));
                            }
                            Err(error) => {
                                tracing::debug!(%error, "accepting a node API connection");
                                tokio::time::sleep(Duration::from_millis(100)).await;
                            }
                        }
                    }
                    Some(_) = connections.next(), if !connections.is_empty() => {}
                }
            }
        };
        stop.guard(run).await;
    }

    async fn connection(self: Arc<Self>, stream: tokio::net::TcpStream, acceptor: TlsAcceptor) {
        stream.set_nodelay(true).ok();
        let accepted = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await;
        let stream = match accepted {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%error, "node API handshake");
                return;
            }
            Err(_) => return,
        };
        let certificates: Arc<[CertificateDer<'static>]> = stream
            .get_ref()
            .1
            .peer_certificates()
            .unwrap_or_default()
            .to_vec()
            .into();
        // Upgraded connections outlive their request: their work is collected
        // here and done on this task once the request is answered.
        let (upgrades, mut upgraded) = tokio::sync::mpsc::channel::<reply::Upgrade>(1);
        let service = service_fn(|request| {
            let (server, certificates) = (self.clone(), certificates.clone());
            let upgrades = upgrades.clone();
            async move {
                let reply = server.handle(request, &certificates).await;
                if let Some(upgrade) = reply.upgrade {
                    upgrades.try_send(upgrade).ok();
                }
                Ok::<_, std::convert::Infallible>(reply.response)
            }
        });
        let builder = hyper::server::conn::http1::Builder::new();
        let connection = builder
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        if let Err(error) = connection.await {
            tracing::debug!(%error, "node API connection");
        }
        if let Ok(upgrade) = upgraded.try_recv() {
            upgrade.await;
        }
    }

    async fn handle(
        self: &Arc<Self>,
        request: Request<Incoming>,
        certificates: &[CertificateDer<'static>],
    ) -> Reply {
        let path = request.uri().path().to_owned();
        let bearer = request
            .headers()
            .get("authorization")
            .and_then(|value| value.to_str().ok());
        let bearer = bearer
            .and_then(|value| value.strip_prefix("Bearer "))
            .map(str::trim);
        let attributes = NodeRequest {
            node: &self.shared.config.node_name,
            verb: verb(request.method()),
            subresources: subresources(&path),
            path: &path,
        };
        match self.auth.authorize(certificates, bearer, &attributes).await {
            Ok(()) => {}
            Err(Denied::Unauthorized) => return error(StatusCode::UNAUTHORIZED, "Unauthorized"),
            Err(Denied::Forbidden(message)) => return error(StatusCode::FORBIDDEN, &message),
        }
        let parts: Vec<String> = path
            .trim_matches('/')
            .split('/')
            .map(query::decode)
            .collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let read = matches!(*request.method(), Method::GET | Method::HEAD);
        let streaming = read || *request.method() == Method::POST;
        match parts.as_slice() {
            ["healthz"] | ["healthz", "ping" | "log" | "syncloop"] if read => {
                text(StatusCode::OK, "ok")
            }
            ["pods"] if read => self.list_pods(false),
            ["runningpods"] if read => self.list_pods(true),
            ["stats", "summary"] if read => stats::summary(self).await,
            ["metrics"] if read => metrics::own(self),
            ["metrics", "resource"] if read => metrics::resource(self).await,
            ["metrics", "cadvisor"] if read => metrics::cadvisor(self).await,
            ["containerLogs", namespace, pod, container] if read => {
                match self.find(namespace, pod, None) {
                    Ok(view) => logs::serve(self, &request, &view, container).await,
                    Err(message) => error(StatusCode::NOT_FOUND, &message),
                }
            }
            [
                kind @ ("exec" | "attach" | "run"),
                namespace,
                pod,
                rest @ ..,
            ] if streaming => {
                let (of_uid, container) = match rest {
                    [container] => (None, *container),
                    [of_uid, container] => (Some(*of_uid), *container),
                    _ => return not_found(),
                };
                match (self.find(namespace, pod, of_uid), *kind) {
                    (Err(message), _) => error(StatusCode::NOT_FOUND, &message),
                    (Ok(view), "exec") => exec::exec(self, request, &view, container).await,
                    (Ok(view), "attach") => exec::attach(self, request, &view, container).await,
                    (Ok(view), _) => exec::run(self, &request, &view, container).await,
                }
            }
            ["portForward", namespace, pod, rest @ ..] if streaming && rest.len() <= 1 => {
                match self.find(namespace, pod, rest.first().copied()) {
                    Ok(view) => forward::serve(request, &view),
                    Err(message) => error(StatusCode::NOT_FOUND, &message),
                }
            }
            _ => not_found(),
        }
    }

    fn find(&self, namespace: &str, name: &str, uid: Option<&str>) -> Result<PodView, String> {
        let missing = || format!("pod \"{name}_{namespace}\" does not exist");
        self.pods.find(namespace, name, uid).ok_or_else(missing)
    }

    fn list_pods(&self, running_only: bool) -> Reply {
        let views = self.pods.views().into_iter();
        let views = views.filter(|view| !running_only || view.observed.running().next().is_some());
        let items: Vec<serde_json::Value> = views
            .map(|view| {
                let mut pod = (*view.pod).clone();
                pod.status = Some((*view.status).clone());
                serde_json::json!(pod)
            })
            .collect();
        json(
            &serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {},
            "items": items}),
        )
    }
}

fn not_found() -> Reply {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

/// Subresources of `nodes` a path is authorised by, the finest first.
fn subresources(path: &str) -> &'static [&'static str] {
    let under = |prefix: &str| {
        path == prefix
            || path
                .strip_prefix(prefix)
                .is_some_and(|rest| rest.starts_with('/'))
    };
    if under("/stats") {
        &["stats"]
    } else if under("/metrics") {
        &["metrics"]
    } else if under("/logs") {
        &["log"]
    } else if under("/healthz") {
        &["healthz", "proxy"]
    } else if under("/configz") {
        &["configz", "proxy"]
    } else if under("/pods") || under("/runningpods") {
        &["pods", "proxy"]
    } else {
        &["proxy"]
    }
}

/// A task that ends with its handle.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Future for AbortOnDrop {
    type Output = ();

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<()> {
        std::pin::Pin::new(&mut self.0).poll(context).map(drop)
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_authorised_by_subresource() {
        let check = |path: &str, want: &[&str]| assert_eq!(subresources(path), want, "{path}");
        check("/stats/summary", &["stats"]);
        check("/metrics", &["metrics"]);
        check("/metricsx", &["proxy"]);
        check("/healthz", &["healthz", "proxy"]);
        check("/pods", &["pods", "proxy"]);
        check("/exec/ns/pod/c", &["proxy"]);
    }
}

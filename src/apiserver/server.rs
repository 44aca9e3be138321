//! The server as others hold it: a socket, or a tower service in the process.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use base::{Shutdown, Supervisor};
use bytes::Bytes;
use http_body_util::BodyExt;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpListener;

use crate::access::{Authenticator, Authorizer, Reviews, User};
use crate::config::{Config, KubeletClient};
use crate::http::{Body, BoxError, Request, Response};
use crate::metrics::Metrics;
use crate::registry::Registry;

/// Who is at the other end of a connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peer {
    /// Client certificates that TLS verified, the leaf first.
    pub certificates: Vec<CertificateDer<'static>>,
    /// Set for callers in this process: no credential is asked for.
    pub user: Option<Arc<User>>,
}

impl Peer {
    pub(crate) fn remote(certificates: Vec<CertificateDer<'static>>) -> Self {
        Self {
            certificates,
            user: None,
        }
    }

    pub(crate) fn local(user: User) -> Self {
        Self {
            certificates: Vec::new(),
            user: Some(Arc::new(user.authenticated())),
        }
    }
}

/// The API server. Clones share everything.
#[derive(Clone)]
pub struct ApiServer {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub config: Config,
    pub registry: Arc<Registry>,
    pub authenticators: Vec<Arc<dyn Authenticator>>,
    pub authorizers: Vec<Arc<dyn Authorizer>>,
    pub reviews: Reviews,
    pub kubelet: Option<KubeletClient>,
    pub metrics: Metrics,
    /// Connections to kubelets and tunnels through this server.
    pub tasks: Supervisor,
    /// Bootstrap objects are there.
    pub ready: tokio::sync::watch::Sender<bool>,
    pub stopping: AtomicBool,
}

impl ApiServer {
    /// Serves a listener until shutdown, then lets open requests end.
    pub async fn serve(
        self,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        stop: Shutdown,
    ) {
        crate::http::serve(self, listener, tls, stop).await;
    }

    /// A service that answers in this process, as `user`, without a socket.
    pub fn in_process(&self, user: User) -> InProcess {
        InProcess {
            server: self.clone(),
            peer: Arc::new(Peer::local(user)),
        }
    }

    /// Completes once everything a client needs to begin is there.
    pub async fn ready(&self) {
        let mut ready = self.inner.ready.subscribe();
        // The sender lives in `inner`, which `self` holds: waiting cannot fail.
        let _ = ready.wait_for(|ready| *ready).await;
    }

    /// Whether everything a client needs to begin is there.
    pub fn is_ready(&self) -> bool {
        *self.inner.ready.borrow() && !self.inner.stopping.load(Ordering::Acquire)
    }

    pub(crate) async fn handle(&self, request: Request, peer: &Peer) -> Response {
        crate::handlers::handle(self, request, peer).await
    }
}

/// See [`ApiServer::in_process`].
#[derive(Clone)]
pub struct InProcess {
    server: ApiServer,
    peer: Arc<Peer>,
}

impl<B> tower::Service<http::Request<B>> for InProcess
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let (server, peer) = (self.server.clone(), self.peer.clone());
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        Box::pin(async move { Ok(server.handle(request, &peer).await) })
    }
}

//! The listener: TLS, HTTP/1.1 and HTTP/2 by ALPN, graceful drain.

use std::sync::Arc;
use std::time::Duration;

use base::Shutdown;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::server::{ApiServer, Peer};

/// How long a connection may be silent before the header of a request.
const IDLE: Duration = Duration::from_secs(90);
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long open requests may take to end after shutdown began.
const DRAIN: Duration = Duration::from_secs(10);
/// How long to wait when accepting fails for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves connections until shutdown, then lets open requests end.
pub(crate) async fn serve(
    server: ApiServer,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    stop: Shutdown,
) {
    let acceptor = TlsAcceptor::from(tls);
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match stop.guard(listener.accept()).await {
            None => break,
            Some(Ok((stream, address))) => {
                let (server, acceptor, stop) = (server.clone(), acceptor.clone(), stop.clone());
                connections.spawn(async move {
                    if let Err(error) = connection(server, acceptor, stream, stop).await {
                        tracing::debug!(%address, %error, "connection ended");
                    }
                });
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        connections.shutdown().await;
    }
}

async fn connection(
    server: ApiServer,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    stop: Shutdown,
) -> Result<(), super::BoxError> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await??;
    let certificates = stream
        .get_ref()
        .1
        .peer_certificates()
        .unwrap_or_default()
        .to_vec();
    let peer = Arc::new(Peer::remote(certificates));
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (server, peer) = (server.clone(), peer.clone());
        async move {
            let request = request.map(|body| body.map_err(super::BoxError::from).boxed_unsync());
            Ok::<_, std::convert::Infallible>(server.handle(request, &peer).await)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(1000)
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(25 * 1024 * 1024)
        .keep_alive_interval(Duration::from_secs(30));
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = stop.triggered() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

//! Passing a request on to a kubelet, pod or service, and what comes back.
//!
//! A request that asks for an upgrade becomes a tunnel: once the other side
//! has agreed, bytes are copied both ways and not looked at.

use std::sync::Arc;
use std::time::Duration;

use api::{Reason, Status};
use futures::FutureExt;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::handlers::Context;
use crate::http::{Body, BoxError, RequestBody, Response};

const DIAL: Duration = Duration::from_secs(10);

/// Headers that are between two hops only.
const HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Where a request goes on to.
pub(super) struct Target {
    pub host: String,
    pub port: u16,
    /// `None` for plain HTTP.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Path and query there.
    pub path: String,
    /// What is said when it cannot be reached.
    pub failure: Failure,
}

/// How a failed connection is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// `error dialing backend: …`, 500.
    Backend,
    /// `error trying to reach service: …`, 503.
    Service,
}

impl Failure {
    fn status(self, error: &BoxError) -> Status {
        match self {
            Self::Backend => {
                let message = format!("error dialing backend: {error}");
                Status {
                    message: message.clone(),
                    ..Status::internal(message)
                }
            }
            Self::Service => Status::new(
                Reason::ServiceUnavailable,
                format!("error trying to reach service: {error}"),
            )
            .with_details(json!({ "causes": [{ "message": error.to_string() }] })),
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn dial(target: &Target) -> Result<Box<dyn Stream>, BoxError> {
    let connect = async {
        let stream = TcpStream::connect((target.host.as_str(), target.port)).await?;
        stream.set_nodelay(true)?;
        match &target.tls {
            None => Ok(Box::new(stream) as Box<dyn Stream>),
            Some(tls) => {
                let name = ServerName::try_from(target.host.clone())?;
                let stream = TlsConnector::from(tls.clone())
                    .connect(name, stream)
                    .await?;
                Ok(Box::new(stream) as Box<dyn Stream>)
            }
        }
    };
    match tokio::time::timeout(DIAL, connect).await {
        Ok(result) => result.map_err(|error: BoxError| {
            format!("dial tcp {}:{}: {error}", target.host, target.port).into()
        }),
        Err(_) => Err(format!("dial tcp {}:{}: i/o timeout", target.host, target.port).into()),
    }
}

/// Sends the request on and returns what came back, upgraded if that is what
/// both sides want.
pub(super) async fn forward(
    context: &Context<'_>,
    target: Target,
    body: RequestBody,
) -> Result<Response, Status> {
    let parts = context.parts;
    let upgrade = parts
        .headers
        .contains_key(header::UPGRADE)
        .then(|| parts.extensions.get::<OnUpgrade>().cloned())
        .flatten();
    let failed = |error: BoxError| target.failure.status(&error);
    let stream = dial(&target).await.map_err(failed)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(error.into()))?;
    let tasks = &context.server.inner.tasks;
    // Boxed, because the compiler cannot see through the guard that it is `Send`.
    let connection = connection.with_upgrades().boxed();
    tasks.spawn("tunnel connection", |stop| async move {
        tokio::select! {
            ended = connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection to a backend ended");
                }
            }
            () = stop.triggered() => {}
        }
    });
    let body = body.map_err(std::io::Error::other).boxed_unsync();
    let mut request = http::Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = target
        .path
        .parse()
        .map_err(|error| Status::bad_request(format!("path cannot be passed on: {error}")))?;
    *request.headers_mut() = request_headers(context, &target, upgrade.is_some());
    let mut response = sender
        .send_request(request)
        .await
        .map_err(|error| failed(error.into()))?;
    if response.status() == http::StatusCode::SWITCHING_PROTOCOLS
        && let Some(client) = upgrade
    {
        let backend = hyper::upgrade::on(&mut response);
        tasks.spawn("tunnel", |stop| async move {
            tokio::select! {
                () = tunnel(client, backend) => {}
                () = stop.triggered() => {}
            }
        });
        let (head, _) = response.into_parts();
        let mut answer = http::Response::new(Body::empty());
        *answer.status_mut() = head.status;
        *answer.headers_mut() = head.headers;
        return Ok(answer);
    }
    Ok(pass_back(response))
}

async fn tunnel(client: OnUpgrade, backend: OnUpgrade) {
    match tokio::try_join!(client, backend) {
        Ok((client, backend)) => {
            let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
            if let Err(error) = copy_bidirectional(&mut client, &mut backend).await {
                tracing::debug!(%error, "tunnel ended");
            }
        }
        Err(error) => tracing::debug!(%error, "upgrade failed"),
    }
}

fn request_headers(context: &Context<'_>, target: &Target, upgrade: bool) -> HeaderMap {
    let mut headers = context.parts.headers.clone();
    headers.remove(header::AUTHORIZATION);
    let impersonation: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("impersonate-"))
        .cloned()
        .collect();
    for name in impersonation {
        headers.remove(name);
    }
    if target.failure == Failure::Service
        && let Ok(uri) = HeaderValue::from_str(context.parts.uri.path())
    {
        headers.insert(HeaderName::from_static("x-forwarded-uri"), uri);
    }
    if !upgrade {
        for name in HOP {
            headers.remove(name);
        }
    }
    // Those behind a proxy see the host that was asked for; kubelets their own.
    if target.failure == Failure::Service && headers.contains_key(header::HOST) {
        return headers;
    }
    let host = if target.host.contains(':') {
        format!("[{}]:{}", target.host, target.port)
    } else {
        format!("{}:{}", target.host, target.port)
    };
    if let Ok(host) = HeaderValue::from_str(&host) {
        headers.insert(header::HOST, host);
    }
    headers
}

fn pass_back(response: http::Response<Incoming>) -> Response {
    let (mut parts, body) = response.into_parts();
    for name in HOP {
        parts.headers.remove(name);
    }
    let stream = body.into_data_stream();
    let stream = futures::TryStreamExt::map_err(stream, BoxError::from);
    http::Response::from_parts(parts, Body::stream(stream))
}

//! Port-forwarding: pairs of streams joined to ports inside a pod.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use cri::SandboxState;
use futures::stream::{FuturesUnordered, StreamExt};
use http::{Request, StatusCode};
use hyper::body::Incoming as Body;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::reply::{Reply, Upgrade, error, full};
use crate::pod::{PodView, name, uid};
use crate::streaming::spdy::{self, Incoming, StreamWriter};
use crate::streaming::{ForwardTransport, Tunnel, negotiate_forward};

const CHUNK: usize = 32 << 10;

/// Where the connections of a port-forward lead.
#[derive(Clone, Debug)]
struct Target {
    /// Network namespace; the node's own if none.
    netns: Option<PathBuf>,
    pod: String,
    uid: String,
}

/// Answers a port-forward request.
pub(super) fn serve(request: Request<Body>, view: &PodView) -> Reply {
    let sandbox = view.observed.sandboxes.first();
    let Some(sandbox) = sandbox.filter(|sandbox| sandbox.state == SandboxState::Ready) else {
        let message = format!("pod {:?} is not running", name(&view.pod));
        return error(StatusCode::BAD_REQUEST, &message);
    };
    let negotiated = match negotiate_forward(request.headers()) {
        Ok(negotiated) => negotiated,
        Err((status, message)) => return error(status, &message),
    };
    let target = Target {
        netns: sandbox.netns.clone(),
        pod: name(&view.pod).to_owned(),
        uid: uid(&view.pod).to_owned(),
    };
    let transport = negotiated.protocol;
    let upgrade: Upgrade = Box::pin(async move {
        let io = match hyper::upgrade::on(request).await {
            Ok(io) => TokioIo::new(io),
            Err(failed) => {
                tracing::debug!(error = %failed, "upgrading a node API connection");
                return;
            }
        };
        let result = match transport {
            ForwardTransport::Spdy => {
                let (connection, incoming) = spdy::session(io);
                forward(connection, incoming, &target).await
            }
            ForwardTransport::WebSocket => {
                let (connection, incoming) = spdy::session(Tunnel::new(io).await);
                forward(connection, incoming, &target).await
            }
        };
        if let Err(error) = result {
            tracing::debug!(error = %base::Chain(&error), pod = target.pod, "port-forward");
        }
    });
    Reply {
        response: negotiated.response.map(|()| full("")),
        upgrade: Some(upgrade),
    }
}

/// Serves every pair of streams until the client hangs up.
async fn forward(
    connection: impl Future<Output = Result<(), spdy::Error>>,
    mut incoming: mpsc::Receiver<Incoming>,
    target: &Target,
) -> Result<(), spdy::Error> {
    let mut connection = std::pin::pin!(connection);
    let mut half_open: HashMap<String, Incoming> = HashMap::new();
    let mut joined = FuturesUnordered::new();
    loop {
        tokio::select! {
            result = &mut connection => return result,
            Some(()) = joined.next(), if !joined.is_empty() => {}
            Some(stream) = incoming.recv() => {
                let Some(key) = pair_key(&stream) else {
                    stream.writer.reset().await.ok();
                    continue;
                };
                match half_open.remove(&key) {
                    Some(other) => match pair(stream, other) {
                        Some((data, errors)) => joined.push(join(data, errors, target)),
                        None => tracing::debug!(key, "two streams of one kind"),
                    },
                    None => {
                        half_open.insert(key, stream);
                    }
                }
            }
        }
    }
}

/// What the two streams of a forwarded connection share.
fn pair_key(stream: &Incoming) -> Option<String> {
    if let Some(id) = stream.headers.get("requestid") {
        return Some(id.to_owned());
    }
    // Old clients open the error stream and then the data stream.
    match stream.headers.get("streamtype")? {
        "error" => Some(stream.id.to_string()),
        "data" => Some(stream.id.checked_sub(2)?.to_string()),
        _ => None,
    }
}

/// Data and error stream out of two.
fn pair(a: Incoming, b: Incoming) -> Option<(Incoming, StreamWriter)> {
    match (a.headers.get("streamtype"), b.headers.get("streamtype")) {
        (Some("data"), Some("error")) => Some((a, b.writer)),
        (Some("error"), Some("data")) => Some((b, a.writer)),
        _ => None,
    }
}

/// Joins one connection; what goes wrong is said on the error stream.
async fn join(data: Incoming, errors: StreamWriter, target: &Target) {
    let text = data.headers.get("port").unwrap_or_default().to_owned();
    let result = match text.parse::<u16>().ok().filter(|port| *port > 0) {
        Some(port) => copy(data, port, target).await.map_err(|error| {
            let (pod, uid) = (&target.pod, &target.uid);
            format!("error forwarding port {port} to pod {pod}, uid {uid}: {error}")
        }),
        None => {
            data.writer.reset().await.ok();
            Err(format!("\"port\" header {text:?} is not a port"))
        }
    };
    if let Err(message) = result {
        tracing::debug!(message, "port-forward");
        errors.send(Bytes::from(message)).await.ok();
    }
    errors.finish().await.ok();
}

async fn copy(mut data: Incoming, port: u16, target: &Target) -> Result<(), String> {
    let stream = match connect(target.netns.as_deref(), port).await {
        Ok(stream) => stream,
        Err(error) => {
            data.writer.finish().await.ok();
            let netns = target.netns.as_ref().map(|path| path.display().to_string());
            return Err(format!(
                "failed to execute portforward in network namespace {:?}: failed to connect to \
                 localhost:{port} inside namespace {:?}: {error}",
                netns.as_deref().unwrap_or("host"),
                target.uid
            ));
        }
    };
    stream.set_nodelay(true).ok();
    let (mut read, mut write) = stream.into_split();
    let upstream = async {
        while let Some(bytes) = data.reader.recv().await {
            if write.write_all(&bytes).await.is_err() {
                break;
            }
        }
        write.shutdown().await.ok();
        // The server may still have something to say.
        std::future::pending::<()>().await;
    };
    let downstream = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(CHUNK);
            match read.read_buf(&mut buffer).await {
                Ok(0) => return Ok(()),
                Ok(_) => {
                    if data.writer.send(buffer.split().freeze()).await.is_err() {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    };
    let result = tokio::select! {
        () = upstream => Ok(()),
        result = downstream => result,
    };
    data.writer.finish().await.ok();
    result
}

/// Connects to a port of the pod's loopback, IPv4 first.
async fn connect(netns: Option<&Path>, port: u16) -> io::Result<TcpStream> {
    let mut first_error = None;
    for ip in [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ] {
        let address = SocketAddr::new(ip, port);
        let result = match netns {
            Some(path) => linux::netns::connect(path, address).await,
            None => TcpStream::connect(address).await,
        };
        match result {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                first_error.get_or_insert(error);
            }
        }
    }
    Err(first_error.unwrap_or_else(|| io::Error::other("no address to try")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::streaming::spdy::TestClient;

    #[tokio::test]
    async fn joins_pairs_to_ports() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let (near, far) = tokio::io::duplex(256);
        let (connection, incoming) = spdy::session(near);
        let target = Target {
            netns: None,
            pod: "p".into(),
            uid: "u".into(),
        };
        let echo = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await.unwrap();
        };
        let drive = async {
            let mut client = TestClient::new(far);
            let headers = |kind, port| [("streamtype", kind), ("port", port), ("requestid", "0")];
            let errors = client.open(&headers("error", &port)).await;
            let data = client.open(&headers("data", &port)).await;
            client.send(data, b"hello", true).await;
            let mut got = Vec::new();
            loop {
                let (id, bytes, fin) = client.data().await.unwrap();
                assert!(id == data || bytes.is_empty(), "{id}: {bytes:?}");
                got.extend_from_slice(&bytes);
                if fin && id == errors {
                    break;
                }
            }
            assert_eq!(got, b"hello");
            let bad = [("streamtype", "error"), ("port", "0"), ("requestid", "1")];
            let errors = client.open(&bad).await;
            client
                .open(&[("streamtype", "data"), ("port", "0"), ("requestid", "1")])
                .await;
            let mut said = Vec::new();
            loop {
                let (id, bytes, fin) = client.data().await.unwrap();
                if id == errors {
                    said.extend_from_slice(&bytes);
                    if fin {
                        break;
                    }
                }
            }
            assert!(String::from_utf8_lossy(&said).contains("is not a port"));
        };
        let serve = forward(connection, incoming, &target);
        let (result, (), ()) = tokio::join!(serve, echo, drive);
        result.unwrap();
    }
}

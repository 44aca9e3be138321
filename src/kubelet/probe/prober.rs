//! Running one probe once.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use cri::{ContainerId, ContainerRuntime, ErrorKind};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{Container, ObjectReference, Probe};

use super::http::{HttpTarget, dial, http_get};
use super::{ProbeKind, Verdict};
use crate::events::{Recorder, Warning};
use crate::pod::{expand_static, resolve_port};

const ATTEMPTS: usize = 3;
/// Most of a command's output that goes into an event.
const MAX_OUTPUT: usize = 10 << 10;

/// The container a probe is aimed at.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) id: ContainerId,
    pub(crate) container: Arc<Container>,
    pub(crate) pod_ip: Option<IpAddr>,
    /// The pod, with the container as field path; events are about it.
    pub(crate) reference: ObjectReference,
}

/// Runs probes against one container.
#[derive(Clone)]
pub(crate) struct Prober {
    pub(crate) runtime: Arc<dyn ContainerRuntime>,
    pub(crate) events: Recorder,
    pub(crate) target: Arc<Target>,
}

/// What one run of a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    Warning(String),
    Failure(String),
}

impl Prober {
    /// Probes once and reports a failure as an event; `None` if it could not
    /// be found out.
    pub(crate) async fn probe(
        &self,
        kind: ProbeKind,
        probe: &Probe,
        timeout: Duration,
    ) -> Option<Verdict> {
        let mut result = Err(String::new());
        for _ in 0..ATTEMPTS {
            result = self.run(probe, timeout).await;
            if result.is_ok() {
                break;
            }
        }
        let kind = kind.as_str();
        let warn = |reason: &'static str, message: String| {
            self.events
                .record(&self.target.reference, Warning, reason, message);
        };
        match result {
            Ok(Outcome::Success) => Some(Verdict::Success),
            Ok(Outcome::Warning(output)) => {
                warn("ProbeWarning", format!("{kind} probe warning: {output}"));
                Some(Verdict::Success)
            }
            Ok(Outcome::Failure(output)) => {
                warn("Unhealthy", format!("{kind} probe failed: {output}"));
                Some(Verdict::Failure)
            }
            Err(error) => {
                let message =
                    format!("{kind} probe errored and resulted in unknown state: {error}");
                warn("Unhealthy", message);
                None
            }
        }
    }

    async fn run(&self, probe: &Probe, timeout: Duration) -> Result<Outcome, String> {
        let ip = self
            .target
            .pod_ip
            .map(|ip| ip.to_string())
            .unwrap_or_default();
        let container = &self.target.container;
        if let Some(action) = &probe.exec {
            let words = action.command.iter().flatten();
            let command: Vec<String> = words.map(|word| expand_static(word, container)).collect();
            return self.exec(&command, timeout).await;
        }
        if let Some(action) = &probe.http_get {
            let target = HttpTarget::new(action, container, &ip, "probe")?;
            return Ok(match http_get(&target, timeout).await {
                Ok((200..=299, _)) => Outcome::Success,
                Ok((300..=399, body)) => Outcome::Warning(format!(
                    "Probe terminated redirects, Response body: {}",
                    String::from_utf8_lossy(&body)
                )),
                Ok((status, _)) => {
                    Outcome::Failure(format!("HTTP probe failed with statuscode: {status}"))
                }
                Err(error) => Outcome::Failure(error),
            });
        }
        if let Some(action) = &probe.tcp_socket {
            let port = resolve_port(&action.port, container)?;
            let host = action
                .host
                .as_deref()
                .filter(|host| !host.is_empty())
                .unwrap_or(&ip);
            return Ok(
                match tokio::time::timeout(timeout, dial(host, port)).await {
                    Ok(Ok(_)) => Outcome::Success,
                    Ok(Err(error)) => Outcome::Failure(error),
                    Err(_) => Outcome::Failure(format!("dial tcp {host}:{port}: i/o timeout")),
                },
            );
        }
        if let Some(action) = &probe.grpc {
            let service = action.service.as_deref().unwrap_or_default();
            let port = u16::try_from(action.port).map_err(|_| "invalid port".to_owned())?;
            return Ok(grpc(&ip, port, service, timeout).await);
        }
        Err("missing probe handler".into())
    }

    async fn exec(&self, command: &[String], timeout: Duration) -> Result<Outcome, String> {
        match self.target_exec(command, timeout).await {
            Ok((0, _)) => Ok(Outcome::Success),
            Ok((_, output)) => Ok(Outcome::Failure(output)),
            Err(error) if error.kind == ErrorKind::DeadlineExceeded => {
                let command = command.join(" ");
                let message = format!("command timed out: {command:?} timed out after {timeout:?}");
                Ok(Outcome::Failure(message))
            }
            // The container cannot run the command at all: that is an answer.
            Err(error) if error.kind == ErrorKind::CannotRun => {
                Ok(Outcome::Failure(base::Chain(&error).to_string()))
            }
            Err(error) => Err(base::Chain(&error).to_string()),
        }
    }

    async fn target_exec(
        &self,
        command: &[String],
        timeout: Duration,
    ) -> cri::Result<(i32, String)> {
        let result = self
            .runtime
            .exec_sync(&self.target.id, command, timeout)
            .await?;
        let mut output = result.stdout;
        output.extend_from_slice(&result.stderr);
        output.truncate(MAX_OUTPUT);
        Ok((result.code, String::from_utf8_lossy(&output).into_owned()))
    }
}

/// `grpc.health.v1.Health/Check` over plain HTTP/2.
async fn grpc(host: &str, port: u16, service: &str, timeout: Duration) -> Outcome {
    let place = match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    };
    let deadline = tokio::time::Instant::now() + timeout;
    let stream = match tokio::time::timeout_at(deadline, dial(host, port)).await {
        Ok(Ok(stream)) => stream,
        // Upstream's dialer keeps trying until its deadline.
        Ok(Err(_)) | Err(_) => {
            return Outcome::Failure(format!(
                "timeout: failed to connect service {place:?} within {timeout:?}: context deadline \
                 exceeded"
            ));
        }
    };
    match tokio::time::timeout_at(deadline, check(stream, &place, service)).await {
        Err(_) => Outcome::Failure(format!(
            "timeout: health rpc did not complete within {timeout:?}"
        )),
        Ok(Err(error)) => Outcome::Failure(format!("error: health rpc probe failed: {error}")),
        Ok(Ok(1)) => Outcome::Success,
        Ok(Ok(status)) => {
            let name = match status {
                0 => "UNKNOWN",
                2 => "NOT_SERVING",
                3 => "SERVICE_UNKNOWN",
                _ => "UNRECOGNIZED",
            };
            Outcome::Failure(format!("service unhealthy (responded with {name:?})"))
        }
    }
}

/// The serving status of a service.
async fn check(stream: tokio::net::TcpStream, place: &str, service: &str) -> Result<u64, String> {
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    let request = Request::post(format!("http://{place}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.36")
        .body(Full::new(health_request(service)))
        .map_err(|error| error.to_string())?;
    let respond = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        let head = grpc_failure(response.headers());
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|error| error.to_string())?;
        if let Some(failure) = head.or_else(|| body.trailers().and_then(grpc_failure)) {
            return Err(failure);
        }
        health_status(&body.to_bytes()).ok_or_else(|| "malformed response".to_owned())
    };
    tokio::pin!(connection);
    tokio::pin!(respond);
    tokio::select! {
        result = &mut respond => result,
        ended = &mut connection => match ended {
            Ok(()) => respond.await,
            Err(error) => Err(error.to_string()),
        },
    }
}

fn grpc_failure(headers: &http::HeaderMap) -> Option<String> {
    let code = headers.get("grpc-status")?.to_str().ok()?;
    if code == "0" {
        return None;
    }
    let message = headers
        .get("grpc-message")
        .and_then(|message| message.to_str().ok());
    Some(format!(
        "rpc error: code = {code} desc = {}",
        message.unwrap_or_default()
    ))
}

/// `HealthCheckRequest{service}` in a gRPC message frame.
fn health_request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(&message);
    frame.freeze()
}

/// `HealthCheckResponse.status` out of a gRPC message frame.
fn health_status(frame: &[u8]) -> Option<u64> {
    let message = frame.get(5..)?;
    match message {
        [] => Some(0),
        [0x08, status, ..] if *status < 0x80 => Some(u64::from(*status)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_health_checks() {
        assert_eq!(&health_request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(
            &health_request("ab")[..],
            [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']
        );
        assert_eq!(health_status(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(health_status(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(health_status(&[0, 0]), None);
    }
}

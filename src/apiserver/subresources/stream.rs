//! `log`, `exec`, `attach` and `portforward`: streams from and to kubelets.

use api::{Reason, Status};
use futures::StreamExt;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt;
use serde_json::Value;

use super::core;
use super::node::kubelet;
use super::tunnel::{Target, forward};
use crate::handlers::Context;
use crate::http::{RequestBody, Response, text, websocket};
use crate::registry::Registry;

/// Error texts of kubelets are read up to this size.
const ERROR_TEXT: usize = 64 * 1024;

pub(super) async fn pod(
    context: &Context<'_>,
    registry: &Registry,
    name: &str,
) -> Result<Value, Status> {
    let pods = core(registry, "pods")?;
    let key = pods.key(&context.info.namespace, name);
    let entry = registry.read(&pods, &key).await?;
    Ok(entry.ok_or_else(|| pods.not_found(name))?.value())
}

fn node_of(pod: &Value) -> &str {
    pod["spec"]["nodeName"].as_str().unwrap_or_default()
}

fn container_names(pod: &Value) -> Vec<&str> {
    ["initContainers", "containers", "ephemeralContainers"]
        .iter()
        .flat_map(|list| pod["spec"][*list].as_array().into_iter().flatten())
        .filter_map(|container| container["name"].as_str())
        .collect()
}

/// The container a request means.
fn container(pod: &Value, asked: &str) -> Result<String, Status> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let all = container_names(pod);
    if !asked.is_empty() {
        if all.contains(&asked) {
            return Ok(asked.to_owned());
        }
        return Err(Status::bad_request(format!(
            "container {asked} is not valid for pod {name}"
        )));
    }
    match pod["spec"]["containers"].as_array().map(Vec::as_slice) {
        Some([one]) => Ok(one["name"].as_str().unwrap_or_default().to_owned()),
        None | Some([]) => Err(Status::bad_request(format!(
            "a container name must be specified for pod {name}"
        ))),
        _ => Err(Status::bad_request(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            all.join(" ")
        ))),
    }
}

/// A query of the parameters that are there, under these names.
fn query(context: &Context<'_>, names: &[&str]) -> String {
    let mut out = String::new();
    for name in names {
        for value in context.query.all(name) {
            push(&mut out, name, &value);
        }
    }
    out
}

fn push(out: &mut String, name: &str, value: &str) {
    out.push(if out.is_empty() { '?' } else { '&' });
    out.push_str(name);
    out.push('=');
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
}

/// GET of a container's log.
pub(super) async fn log(context: &Context<'_>, registry: &Registry) -> Result<Response, Status> {
    let info = context.info;
    let pod = pod(context, registry, &info.name).await?;
    let asked = context.query.get("container").unwrap_or_default();
    let container = container(&pod, &asked)?;
    if node_of(&pod).is_empty() {
        return Ok(text(200, ""));
    }
    let mut parameters = query(
        context,
        &[
            "sinceSeconds",
            "sinceTime",
            "tailLines",
            "limitBytes",
            "stream",
        ],
    );
    for flag in ["follow", "previous", "timestamps"] {
        if context.query.flag(flag) {
            push(&mut parameters, flag, "true");
        }
    }
    let path = format!(
        "/containerLogs/{}/{}/{container}{parameters}",
        info.namespace, info.name
    );
    let target = kubelet(context, registry, node_of(&pod), path).await?;
    let empty = http_body_util::Empty::new()
        .map_err(|never| match never {})
        .boxed_unsync();
    if websocket::is_wanted(&context.parts.headers) {
        return log_messages(context, target, empty).await;
    }
    let mut response = forward(context, target, empty).await?;
    if response.status().as_u16() >= 400 {
        return Err(kubelet_error(response).await);
    }
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    Ok(response)
}

/// A log as WebSocket messages; the first is empty and says that it begins.
async fn log_messages(
    context: &Context<'_>,
    target: Target,
    body: RequestBody,
) -> Result<Response, Status> {
    // The kubelet is asked for a plain answer.
    let mut parts = context.parts.clone();
    websocket::strip(&mut parts.headers);
    let plain = Context {
        server: context.server,
        parts: &parts,
        query: context.query,
        info: context.info,
        user: context.user.clone(),
    };
    let response = forward(&plain, target, body).await?;
    if response.status().as_u16() >= 400 {
        return Err(kubelet_error(response).await);
    }
    let (handshake, framing) = match websocket::Handshake::reader(context.parts) {
        Ok(agreed) => agreed,
        Err(refusal) => return Ok(*refusal),
    };
    let begin = futures::stream::iter([Ok(bytes::Bytes::new())]);
    let chunks = begin.chain(response.into_body().into_data_stream());
    Ok(handshake.send(&context.server.inner.tasks, framing, chunks))
}

/// A kubelet's refusal as a `Status`, its text as the message.
async fn kubelet_error(response: Response) -> Status {
    let code = response.status().as_u16();
    let message = match collect(response, ERROR_TEXT).await {
        Some((_, bytes)) => String::from_utf8_lossy(&bytes).trim_end().to_owned(),
        None => "unknown".to_owned(),
    };
    let reason = match code {
        400 => Reason::BadRequest,
        401 => Reason::Unauthorized,
        403 => Reason::Forbidden,
        404 => Reason::NotFound,
        429 => Reason::TooManyRequests,
        503 => Reason::ServiceUnavailable,
        _ => Reason::InternalError,
    };
    Status {
        code,
        ..Status::new(reason, message)
    }
}

pub(super) async fn collect(
    response: Response,
    limit: usize,
) -> Option<(http::response::Parts, bytes::Bytes)> {
    let (parts, body) = response.into_parts();
    let body = http_body_util::Limited::new(body, limit)
        .collect()
        .await
        .ok()?;
    Some((parts, body.to_bytes()))
}

/// `exec` and `attach`.
pub(super) async fn exec(
    context: &Context<'_>,
    registry: &Registry,
    body: RequestBody,
    verb: &str,
) -> Result<Response, Status> {
    let info = context.info;
    let pod = pod(context, registry, &info.name).await?;
    let asked = context.query.get("container").unwrap_or_default();
    let container = container(&pod, &asked)?;
    let node = host(&pod, &info.name)?;
    let mut parameters = String::new();
    for (ours, theirs) in [
        ("stdin", "input"),
        ("stdout", "output"),
        ("stderr", "error"),
        ("tty", "tty"),
    ] {
        if context.query.flag(ours) {
            push(&mut parameters, theirs, "1");
        }
    }
    if verb == "exec" {
        for word in context.query.all("command") {
            push(&mut parameters, "command", &word);
        }
    }
    let path = format!(
        "/{verb}/{}/{}/{container}{parameters}",
        info.namespace, info.name
    );
    let target = kubelet(context, registry, node, path).await?;
    stream(context, target, body).await
}

/// `portforward`.
pub(super) async fn port_forward(
    context: &Context<'_>,
    registry: &Registry,
    body: RequestBody,
) -> Result<Response, Status> {
    let info = context.info;
    let pod = pod(context, registry, &info.name).await?;
    let node = host(&pod, &info.name)?;
    let mut parameters = String::new();
    let ports = context.query.all("ports");
    if !ports.is_empty() {
        push(&mut parameters, "port", &ports.join(","));
    }
    let path = format!("/portForward/{}/{}{parameters}", info.namespace, info.name);
    let target = kubelet(context, registry, node, path).await?;
    stream(context, target, body).await
}

fn host<'a>(pod: &'a Value, name: &str) -> Result<&'a str, Status> {
    match node_of(pod) {
        "" => Err(Status::bad_request(format!(
            "pod {name} does not have a host assigned"
        ))),
        node => Ok(node),
    }
}

/// Streams need an upgrade; a kubelet's refusal becomes a `Status`.
async fn stream(
    context: &Context<'_>,
    target: Target,
    body: RequestBody,
) -> Result<Response, Status> {
    if !context.parts.headers.contains_key(http::header::UPGRADE) {
        return Err(Status::bad_request("Upgrade request required"));
    }
    let response = forward(context, target, body).await?;
    if response.status().as_u16() >= 400 {
        return Err(kubelet_error(response).await);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn containers_are_chosen() {
        let pod = json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}]},
        });
        let message = |asked| container(&pod, asked).map_err(|status| status.message);
        assert_eq!(message("b"), Ok("b".to_owned()));
        assert_eq!(
            message(""),
            Err("a container name must be specified for pod p, choose one of: [a b]".to_owned())
        );
        assert_eq!(
            message("c"),
            Err("container c is not valid for pod p".to_owned())
        );
    }
}

//! `log`, `exec`, `attach`, `portforward` and `proxy`.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use api::{Reason, Status};
use futures::StreamExt;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Method};
use http_body_util::BodyExt;
use serde_json::Value;

use super::core;
use super::node::kubelet;
use super::tunnel::{Failure, Target, forward};
use crate::handlers::Context;
use crate::http::{Body, RequestBody, Response, text, websocket};
use crate::registry::Registry;

/// TLS to pods. Who signed their certificates is for them to know, and the
/// server's own certificate is not for them to see.
static POD_TLS: LazyLock<Arc<rustls::ClientConfig>> = LazyLock::new(|| {
    let config = pki::tls::unverified_client_config();
    Arc::new(config.expect("the provider supports the default TLS versions"))
});

/// Error texts of kubelets are read up to this size.
const ERROR_TEXT: usize = 64 * 1024;
/// HTML pages are rewritten up to this size.
const PAGE: usize = 8 * 1024 * 1024;

async fn pod(context: &Context<'_>, registry: &Registry, name: &str) -> Result<Value, Status> {
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

async fn collect(
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

/// `nodes/NAME/proxy`: anything a kubelet serves.
pub(super) async fn node_proxy(
    context: &Context<'_>,
    registry: &Registry,
    body: RequestBody,
) -> Result<Response, Status> {
    let (_, name, port) = split(&context.info.name);
    let mut target = kubelet(context, registry, &name, path_there(context)).await?;
    if let Ok(port) = port.parse() {
        target.port = port;
    }
    proxy(context, target, body).await
}

/// `pods/NAME/proxy`.
pub(super) async fn pod_proxy(
    context: &Context<'_>,
    registry: &Registry,
    body: RequestBody,
) -> Result<Response, Status> {
    let (scheme, name, port) = split(&context.info.name);
    let pod = pod(context, registry, &name).await?;
    let port = if port.is_empty() {
        pod["spec"]["containers"]
            .as_array()
            .into_iter()
            .flatten()
            .find_map(|container| container["ports"][0]["containerPort"].as_u64())
            .unwrap_or(if scheme == "https" { 443 } else { 80 })
            .to_string()
    } else {
        port
    };
    let port = port
        .parse()
        .map_err(|_| Status::bad_request(format!("invalid pod request {:?}", context.info.name)))?;
    let address = pod["status"]["podIPs"][0]["ip"]
        .as_str()
        .unwrap_or_default();
    let target = plain_target(context, &scheme, address, port)?;
    proxy(context, target, body).await
}

/// `services/NAME/proxy`: one of its endpoints, chosen at random.
pub(super) async fn service_proxy(
    context: &Context<'_>,
    registry: &Registry,
    body: RequestBody,
) -> Result<Response, Status> {
    let unavailable = |text: String| Status::new(Reason::ServiceUnavailable, text);
    let (scheme, name, port) = split(&context.info.name);
    let services = core(registry, "services")?;
    let key = services.key(&context.info.namespace, &name);
    let service = registry
        .read(&services, &key)
        .await?
        .ok_or_else(|| services.not_found(&name))?
        .value();
    let port_name = match port.parse::<u64>() {
        Err(_) => port.clone(),
        Ok(number) => service["spec"]["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|port| port["port"] == number)
            .map(|port| port["name"].as_str().unwrap_or_default().to_owned())
            .ok_or_else(|| {
                unavailable(format!(
                    "no service port {number} found for service {name:?}"
                ))
            })?,
    };
    let endpoints = core(registry, "endpoints")?;
    let entry = registry
        .read(&endpoints, &key)
        .await?
        .ok_or_else(|| endpoints.not_found(&name))?;
    let object = entry.value();
    let mut found: Vec<(String, u16)> = Vec::new();
    for subset in object["subsets"].as_array().into_iter().flatten() {
        for port in subset["ports"].as_array().into_iter().flatten() {
            let own = port["name"].as_str().unwrap_or_default();
            let Some(number) = port["port"].as_u64().and_then(|it| u16::try_from(it).ok()) else {
                continue;
            };
            if own != port_name {
                continue;
            }
            for address in subset["addresses"].as_array().into_iter().flatten() {
                if let Some(ip) = address["ip"].as_str() {
                    found.push((ip.to_owned(), number));
                }
            }
        }
    }
    let Some((address, port)) = fastrand::choice(found) else {
        return Err(unavailable(format!(
            "no endpoints available for service {:?}",
            context.info.name
        )));
    };
    let target = plain_target(context, &scheme, &address, port)?;
    proxy(context, target, body).await
}

/// `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT`.
fn split(id: &str) -> (String, String, String) {
    let parts: Vec<&str> = id.split(':').collect();
    match parts.as_slice() {
        [name] => (String::new(), (*name).to_owned(), String::new()),
        [name, port] => (String::new(), (*name).to_owned(), (*port).to_owned()),
        [scheme, name, port] => ((*scheme).to_owned(), (*name).to_owned(), (*port).to_owned()),
        _ => (String::new(), id.to_owned(), String::new()),
    }
}

/// An address of a pod. Others are not proxied to: a proxy into the server's
/// own network would be a way around it.
fn plain_target(
    context: &Context<'_>,
    scheme: &str,
    address: &str,
    port: u16,
) -> Result<Target, Status> {
    let allowed = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => {
            !(ip.is_loopback() || ip.is_link_local() || ip.is_multicast() || ip.is_unspecified())
        }
        Ok(IpAddr::V6(ip)) => {
            !(ip.is_loopback() || ip.is_multicast() || ip.is_unspecified())
                && (ip.segments()[0] & 0xffc0) != 0xfe80
        }
        Err(_) => false,
    };
    if !allowed {
        return Err(Status::bad_request("address not allowed"));
    }
    let tls = match scheme {
        "https" => Some(POD_TLS.clone()),
        _ => None,
    };
    Ok(Target {
        host: address.to_owned(),
        port,
        tls,
        path: path_there(context),
        failure: Failure::Service,
    })
}

fn path_there(context: &Context<'_>) -> String {
    let path = match context.info.tail.as_str() {
        "" => "/",
        tail => tail,
    };
    match context.parts.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    }
}

/// Passes a request on and rewrites links in what comes back, so that pages
/// work below the proxy's path.
async fn proxy(
    context: &Context<'_>,
    target: Target,
    body: RequestBody,
) -> Result<Response, Status> {
    let raw = context.parts.uri.path();
    let upgrade = context.parts.headers.contains_key(http::header::UPGRADE);
    let looks = matches!(context.parts.method, Method::GET | Method::HEAD);
    if context.info.tail.is_empty() && looks && !upgrade {
        let mut location = format!("{raw}/");
        if let Some(query) = context.parts.uri.query() {
            location = format!("{location}?{query}");
        }
        let mut response = http::Response::new(Body::empty());
        *response.status_mut() = http::StatusCode::MOVED_PERMANENTLY;
        let value = HeaderValue::from_str(&location)
            .map_err(|_| Status::bad_request("path cannot be redirected to"))?;
        response.headers_mut().insert(LOCATION, value);
        return Ok(response);
    }
    let prefix = raw
        .strip_suffix(&*context.info.tail)
        .unwrap_or(raw)
        .to_owned();
    let authority = format!("{}:{}", target.host, target.port);
    let mut response = forward(context, target, body).await?;
    if let Some(location) = response
        .headers()
        .get(LOCATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| rewrite(value, &prefix, &authority))
        && let Ok(value) = HeaderValue::from_str(&location)
    {
        response.headers_mut().insert(LOCATION, value);
    }
    let html = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| {
            value
                .split(';')
                .next()
                .is_some_and(|it| it.trim() == "text/html")
        });
    let plain = !response
        .headers()
        .contains_key(http::header::CONTENT_ENCODING);
    if !html || !plain {
        return Ok(response);
    }
    let Some((mut parts, page)) = collect(response, PAGE).await else {
        return Err(Status::internal("the page is too large to be proxied"));
    };
    let page = rewrite_page(&String::from_utf8_lossy(&page), &prefix, &authority);
    parts.headers.remove(http::header::CONTENT_LENGTH);
    Ok(http::Response::from_parts(parts, Body::full(page)))
}

/// A link of a proxied page as it is below the proxy; `None` if it stays.
fn rewrite(link: &str, prefix: &str, authority: &str) -> Option<String> {
    if let Some((_, rest)) = link.split_once("://") {
        let path = rest.strip_prefix(authority)?;
        return (path.is_empty() || path.starts_with('/')).then(|| format!("{prefix}{path}"));
    }
    let own = link.starts_with('/') && !link.starts_with("//") && !link.starts_with(prefix);
    own.then(|| format!("{prefix}{link}"))
}

/// Rewrites the links of an HTML page.
fn rewrite_page(page: &str, prefix: &str, authority: &str) -> String {
    const ATTRIBUTES: [&str; 4] = ["href=", "src=", "action=", "data="];
    let mut out = String::with_capacity(page.len() + 64);
    let mut rest = page;
    while let Some((at, name)) = ATTRIBUTES
        .iter()
        .filter_map(|name| rest.find(name).map(|at| (at, *name)))
        .min()
    {
        let value = at + name.len();
        out.push_str(&rest[..value]);
        rest = &rest[value..];
        let Some(quote) = rest.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
            continue;
        };
        let Some(end) = rest[1..].find(quote) else {
            break;
        };
        let link = &rest[1..=end];
        out.push(quote);
        match rewrite(link, prefix, authority) {
            Some(link) => out.push_str(&link),
            None => out.push_str(link),
        }
        rest = &rest[end + 1..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pages_are_rewritten() {
        let page = r#"<a href="/x">a</a><img src='http://10.0.0.1:80/i.png'><a href="rel">"#;
        assert_eq!(
            rewrite_page(page, "/p/proxy", "10.0.0.1:80"),
            r#"<a href="/p/proxy/x">a</a><img src='/p/proxy/i.png'><a href="rel">"#
        );
    }

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

//! `proxy` of pods, services and nodes: HTTP through to what they serve.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use api::{Reason, Status};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION};
use http::{HeaderName, HeaderValue, Method};
use serde_json::Value;

use super::core;
use super::html::Links;
use super::node::kubelet;
use super::stream::{collect, pod as find_pod};
use super::tunnel::{Failure, Target, forward};
use crate::handlers::Context;
use crate::http::{Body, RequestBody, Response};
use crate::registry::Registry;

/// TLS to pods. Who signed their certificates is for them to know, and the
/// server's own certificate is not for them to see.
static POD_TLS: LazyLock<Arc<rustls::ClientConfig>> = LazyLock::new(|| {
    let config = pki::tls::unverified_client_config();
    Arc::new(config.expect("the provider supports the default TLS versions"))
});

/// HTML pages are rewritten up to this size.
const PAGE: usize = 8 * 1024 * 1024;

/// `nodes/NAME/proxy`: anything a kubelet, or somebody else on the node, serves.
pub(super) async fn node(
    context: &Context<'_>,
    registry: &Registry,
    body: RequestBody,
) -> Result<Response, Status> {
    let (scheme, name, port) = split(&context.info.name, "node")?;
    let mut target = kubelet(context, registry, &name, path_there(context)).await?;
    if !port.is_empty() && port != target.port.to_string() {
        target.port = number(&port, "node", &context.info.name)?;
        target.tls = (scheme == "https").then(|| POD_TLS.clone());
        target.failure = Failure::Service;
    }
    proxy(context, target, body).await
}

/// `pods/NAME/proxy`.
pub(super) async fn pod(
    context: &Context<'_>,
    registry: &Registry,
    body: RequestBody,
) -> Result<Response, Status> {
    let (scheme, name, port) = split(&context.info.name, "pod")?;
    let pod = find_pod(context, registry, &name).await?;
    let port = if port.is_empty() {
        let first = pod["spec"]["containers"]
            .as_array()
            .into_iter()
            .flatten()
            .find_map(|container| container["ports"][0]["containerPort"].as_u64());
        match first.and_then(|port| u16::try_from(port).ok()) {
            Some(port) => port,
            None if scheme == "https" => 443,
            None => 80,
        }
    } else {
        number(&port, "pod", &context.info.name)?
    };
    let address = pod["status"]["podIPs"][0]["ip"]
        .as_str()
        .unwrap_or_default();
    let target = target(context, &scheme, address, port)?;
    proxy(context, target, body).await
}

/// `services/NAME/proxy`: one of its endpoints, chosen at random.
pub(super) async fn service(
    context: &Context<'_>,
    registry: &Registry,
    body: RequestBody,
) -> Result<Response, Status> {
    let unavailable = |text: String| Status::new(Reason::ServiceUnavailable, text);
    let (scheme, name, port) = split(&context.info.name, "service")?;
    let services = core(registry, "services")?;
    let key = services.key(&context.info.namespace, &name);
    let port_name = match port.parse::<i64>() {
        Err(_) => port,
        Ok(number) => {
            let service = registry
                .read(&services, &key)
                .await?
                .ok_or_else(|| services.not_found(&name))?
                .value();
            service["spec"]["ports"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|port| port["port"] == number)
                .map(|port| port["name"].as_str().unwrap_or_default().to_owned())
                .ok_or_else(|| {
                    unavailable(format!(
                        "no service port {number} found for service {name:?}"
                    ))
                })?
        }
    };
    let endpoints = core(registry, "endpoints")?;
    let entry = registry
        .read(&endpoints, &key)
        .await?
        .ok_or_else(|| endpoints.not_found(&name))?;
    let mut found = addresses(&entry.value(), &port_name);
    fastrand::shuffle(&mut found);
    for (reference, address, port) in found {
        if is_of_pod(registry, &reference, &address).await? {
            let target = target(context, &scheme, &address, port)?;
            return proxy(context, target, body).await;
        }
    }
    Err(unavailable(format!(
        "no endpoints available for service {:?}",
        context.info.name
    )))
}

/// Every address that serves a port, with what it says it is of.
fn addresses(endpoints: &Value, port_name: &str) -> Vec<(Value, String, u16)> {
    let mut found = Vec::new();
    for subset in endpoints["subsets"].as_array().into_iter().flatten() {
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
                    found.push((address["targetRef"].clone(), ip.to_owned(), number));
                }
            }
        }
    }
    found
}

/// Whether an endpoint is a pod's address. Others are not proxied to: whoever
/// may write endpoints could reach the server's own network by them.
async fn is_of_pod(registry: &Registry, reference: &Value, address: &str) -> Result<bool, Status> {
    let text = |field: &str| reference[field].as_str().unwrap_or_default();
    if text("kind") != "Pod" {
        return Ok(false);
    }
    let pods = core(registry, "pods")?;
    let key = pods.key(text("namespace"), text("name"));
    let Some(pod) = registry.read(&pods, &key).await? else {
        return Ok(false);
    };
    let pod = pod.value();
    Ok(pod["status"]["podIPs"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|own| own["ip"] == address))
}

/// `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT`.
fn split(id: &str, what: &str) -> Result<(String, String, String), Status> {
    let parts: Vec<&str> = id.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme @ ("" | "http" | "https"), name, port] => (*scheme, *name, *port),
        _ => ("", "", ""),
    };
    if name.is_empty() {
        return Err(Status::bad_request(format!(
            "invalid {what} request {id:?}"
        )));
    }
    Ok((scheme.to_owned(), name.to_owned(), port.to_owned()))
}

fn number(port: &str, what: &str, id: &str) -> Result<u16, Status> {
    port.parse()
        .map_err(|_| Status::bad_request(format!("invalid {what} request {id:?}")))
}

/// An address of a pod, and none that would lead somewhere else.
fn target(context: &Context<'_>, scheme: &str, address: &str, port: u16) -> Result<Target, Status> {
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
    Ok(Target {
        host: address.to_owned(),
        port,
        tls: (scheme == "https").then(|| POD_TLS.clone()),
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
    let backend = format!("{}:{}", target.host, target.port);
    let host = context
        .parts
        .headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .or_else(|| {
            context
                .parts
                .uri
                .authority()
                .map(http::uri::Authority::as_str)
        })
        .unwrap_or_default()
        .to_owned();
    let mut response = forward(context, target, body).await?;
    let links = Links {
        prefix: &prefix,
        backend: &backend,
        host: &host,
    };
    if let Some(location) = response.headers().get(LOCATION) {
        let rewritten = location.to_str().ok().and_then(|link| links.rewrite(link));
        if let Some(Ok(value)) = rewritten.map(|link| HeaderValue::from_str(&link)) {
            response.headers_mut().insert(LOCATION, value);
        }
        return Ok(response);
    }
    let kind = header_text(&response, &CONTENT_TYPE);
    let encoding = header_text(&response, &CONTENT_ENCODING);
    let html = kind
        .split(';')
        .next()
        .is_some_and(|kind| kind.trim() == "text/html");
    if !html || !matches!(encoding.as_str(), "" | "identity" | "gzip" | "deflate") {
        return Ok(response);
    }
    let Some((mut parts, page)) = collect(response, PAGE).await else {
        return Err(Status::internal("the page is too large to be proxied"));
    };
    let page = match links.rewrite_body(&page, &encoding) {
        Some(page) => page.into(),
        None => page,
    };
    parts.headers.remove(CONTENT_LENGTH);
    Ok(http::Response::from_parts(parts, Body::full(page)))
}

fn header_text(response: &Response, name: &HeaderName) -> String {
    let value = response
        .headers()
        .get(name)
        .and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_what_is_proxied_to() {
        let parts = |scheme: &str, name: &str, port: &str| {
            Ok((scheme.to_owned(), name.to_owned(), port.to_owned()))
        };
        for (id, expected) in [
            ("a", parts("", "a", "")),
            ("a:80", parts("", "a", "80")),
            ("a:", parts("", "a", "")),
            ("https:a:web", parts("https", "a", "web")),
            (":a:web", parts("", "a", "web")),
            (
                "ftp:a:80",
                Err("invalid pod request \"ftp:a:80\"".to_owned()),
            ),
            (":80", Err("invalid pod request \":80\"".to_owned())),
            ("a:b:c:d", Err("invalid pod request \"a:b:c:d\"".to_owned())),
        ] {
            let found = split(id, "pod").map_err(|status| status.message);
            assert_eq!(found, expected, "{id}");
        }
    }
}

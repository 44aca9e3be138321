//! The handler chain: who asks, whether they may, then what they ask for.

pub(crate) mod body;
mod delete;
mod discovery;
mod impersonate;
mod openapi;
pub(crate) mod output;
mod paths;
mod read;
mod resources;
mod watch;
pub(crate) mod write;

pub(crate) use paths::not_found;
pub(crate) use resources::method_not_allowed;
pub(crate) use write::unsupported as unsupported_media;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use api::{GroupResource, Reason, Status};
use futures::FutureExt;
use http::{HeaderName, HeaderValue};
use serde_json::json;

use crate::access::{self, User};
use crate::http::{
    Output, Request, Response, accept, gzip_if_wanted, text, websocket, write_status,
};
use crate::metrics::RequestLabels;
use crate::request::{Query, RequestInfo};
use crate::server::{ApiServer, Peer};

/// Longest time a client may ask for with `?timeout=`.
const LONGEST: Duration = Duration::from_secs(60);

/// One request on its way through the handlers.
pub(crate) struct Context<'a> {
    pub server: &'a ApiServer,
    pub parts: &'a http::request::Parts,
    pub query: Query<'a>,
    pub info: &'a RequestInfo,
    pub user: Arc<User>,
}

impl Context<'_> {
    /// The format errors are written in: JSON where negotiation fails.
    fn error_output(&self) -> Output {
        accept(&self.parts.headers, self.query, true, true).unwrap_or_default()
    }
}

/// Answers a request.
pub(crate) async fn handle(server: &ApiServer, request: Request, peer: &Peer) -> Response {
    let started = Instant::now();
    let (mut parts, body) = request.into_parts();
    let bearer = websocket::take_bearer(&mut parts.headers);
    let query_text = parts.uri.query().unwrap_or_default().to_owned();
    let query = Query(&query_text);
    let info = RequestInfo::parse(&parts.method, parts.uri.path(), &query);
    let long = info.is_long_running(&query);
    let _flying = Flying::begin(server, &info, long);
    let audit_id = parts
        .headers
        .get("audit-id")
        .filter(|id| id.len() <= 64)
        .cloned()
        .unwrap_or_else(new_audit_id);
    let answer = AssertUnwindSafe(async {
        match bearer {
            Ok(()) => answer(server, &parts, query, &info, body, peer).await,
            Err(error) => {
                tracing::debug!(%error, "authentication failed");
                let status = Status::new(Reason::Unauthorized, "Unauthorized");
                write_status(&status, &Output::default())
            }
        }
    });
    let limit = time_limit(server, query);
    let result = if long {
        answer.catch_unwind().await
    } else {
        match tokio::time::timeout(limit, answer.catch_unwind()).await {
            Ok(result) => result,
            Err(_) => Ok(write_status(
                &Status::new(
                    Reason::Timeout,
                    "request did not complete within the allotted timeout",
                ),
                &Output::default(),
            )),
        }
    };
    let mut response = result.unwrap_or_else(|_| {
        tracing::error!(path = %info.path, "a request handler panicked");
        text(
            500,
            "This request caused apiserver to panic. Look in the logs for details.",
        )
    });
    response
        .headers_mut()
        .insert(HeaderName::from_static("audit-id"), audit_id);
    let response = if long {
        response
    } else {
        gzip_if_wanted(&parts.headers, response)
    };
    let verb = metric_verb(&info);
    server.inner.metrics.observe(
        RequestLabels {
            verb,
            group: info.group,
            version: info.version,
            resource: info.resource,
            subresource: info.subresource,
            code: response.status().as_u16(),
            dry_run: query.get("dryRun").is_some(),
        },
        started.elapsed(),
    );
    response
}

fn new_audit_id() -> HeaderValue {
    HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).expect("a UUID is a header value")
}

fn time_limit(server: &ApiServer, query: Query<'_>) -> Duration {
    let most = server.inner.config.request_timeout.min(LONGEST);
    query
        .get("timeout")
        .and_then(|text| parse_duration(&text))
        .filter(|asked| !asked.is_zero())
        .map_or(most, |asked| asked.min(most))
}

/// `30s`, `1m30s`, `500ms`: Go durations.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    Duration::try_from_secs_f64(total).ok()
}

async fn answer(
    server: &ApiServer,
    parts: &http::request::Parts,
    query: Query<'_>,
    info: &RequestInfo,
    body: crate::http::RequestBody,
    peer: &Peer,
) -> Response {
    let mut context = Context {
        server,
        parts,
        query,
        info,
        user: Arc::new(User::anonymous()),
    };
    match authenticate(server, parts, info, peer).await {
        Ok(user) => context.user = user,
        Err(status) => return write_status(&status, &context.error_output()),
    }
    if impersonate::is_asked(&parts.headers) {
        match impersonate::impersonate(&context).await {
            Ok(user) => context.user = user,
            Err(status) => return write_status(&status, &context.error_output()),
        }
    }
    if let Err(status) = authorize(&context).await {
        let mut response = write_status(&status, &context.error_output());
        response.headers_mut().insert(
            http::header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        return response;
    }
    let result = if info.is_resource {
        resources::handle(&context, body).await
    } else {
        paths::handle(&context).await
    };
    match result {
        Ok(response) => response,
        Err(status) => write_status(&status, &context.error_output()),
    }
}

async fn authenticate(
    server: &ApiServer,
    parts: &http::request::Parts,
    info: &RequestInfo,
    peer: &Peer,
) -> Result<Arc<User>, Status> {
    if let Some(user) = &peer.user {
        return Ok(user.clone());
    }
    let unauthorized = || Status::new(Reason::Unauthorized, "Unauthorized");
    for authenticator in &server.inner.authenticators {
        match authenticator.authenticate(parts, &peer.certificates).await {
            Ok(Some(user)) => return Ok(Arc::new(user.authenticated())),
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(%error, "authentication failed");
                return Err(unauthorized());
            }
        }
    }
    let credential = parts.headers.contains_key(http::header::AUTHORIZATION);
    if access::is_public(&info.path) && !credential {
        return Ok(Arc::new(User::anonymous()));
    }
    Err(unauthorized())
}

async fn authorize(context: &Context<'_>) -> Result<(), Status> {
    let info = context.info;
    if !info.is_resource && access::is_public(&info.path) {
        return Ok(());
    }
    let attributes = info.attributes();
    check_access(context, &attributes).await
}

/// 403 unless the user may do this.
pub(crate) async fn check_access(
    context: &Context<'_>,
    attributes: &access::Attributes<'_>,
) -> Result<(), Status> {
    let decision =
        access::authorize(&context.server.inner.authorizers, &context.user, attributes).await;
    if decision.allowed {
        return Ok(());
    }
    let message = access::forbidden_message(&context.user, attributes, &decision.reason);
    if !attributes.is_resource {
        return Err(
            Status::new(Reason::Forbidden, format!("forbidden: {message}")).with_details(json!({})),
        );
    }
    let resource = GroupResource {
        group: attributes.group.to_owned(),
        resource: attributes.resource.to_owned(),
    };
    Err(Status::forbidden(&resource, attributes.name, &message))
}

fn metric_verb(info: &RequestInfo) -> &'static str {
    match info.verb {
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        _ => "other",
    }
}

/// Counts a request while it is served.
struct Flying<'a>(&'a AtomicI64);

impl<'a> Flying<'a> {
    fn begin(server: &'a ApiServer, info: &RequestInfo, long: bool) -> Self {
        let metrics = &server.inner.metrics;
        let gauge = if long {
            &metrics.long_running
        } else if matches!(info.verb, "get" | "list" | "watch" | "head") {
            &metrics.in_flight_reading
        } else {
            &metrics.in_flight_mutating
        };
        gauge.fetch_add(1, Ordering::Relaxed);
        Self(gauge)
    }
}

impl Drop for Flying<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in [
            ("30s", 30.0),
            ("1m30s", 90.0),
            ("500ms", 0.5),
            ("1.5s", 1.5),
        ] {
            assert_eq!(
                parse_duration(text).map(|it| it.as_secs_f64()),
                Some(seconds),
                "{text}"
            );
        }
        assert_eq!(parse_duration("5"), None);
        assert_eq!(parse_duration("x"), None);
    }
}

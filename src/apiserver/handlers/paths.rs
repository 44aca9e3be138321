//! Paths that are no resources: discovery, health, version, metrics.

use std::sync::atomic::Ordering;

use api::{Reason, Status};
use http::Method;
use serde_json::json;

use super::{Context, discovery, openapi};
use crate::http::{Output, Response, accept, json_value, not_found_page, object, text};

/// Serves such a path.
pub(crate) async fn handle(context: &Context<'_>) -> Result<Response, Status> {
    let path = context.info.path.as_str();
    if !matches!(context.parts.method, Method::GET | Method::HEAD) {
        return Ok(not_found_page());
    }
    let trimmed = path.trim_end_matches('/');
    match trimmed {
        "" => {
            return Ok(json_value(
                200,
                &plain(context),
                &json!({ "paths": paths(context) }),
            ));
        }
        "/version" => return Ok(json_value(200, &plain(context), &version(context))),
        "/.well-known/openid-configuration" => {
            let tokens = context.server.inner.reviews.tokens();
            return Ok(json_value(
                200,
                &Output::default(),
                &tokens.openid_configuration(),
            ));
        }
        "/openid/v1/jwks" => {
            let tokens = context.server.inner.reviews.tokens();
            let mut response = json_value(200, &Output::default(), &tokens.jwks());
            response.headers_mut().insert(
                http::header::CONTENT_TYPE,
                http::HeaderValue::from_static("application/jwk-set+json"),
            );
            return Ok(response);
        }
        "/metrics" => return Ok(metrics(context).await),
        _ => {}
    }
    for probe in ["/healthz", "/livez", "/readyz"] {
        if let Some(rest) = trimmed.strip_prefix(probe)
            && (rest.is_empty() || rest.starts_with('/'))
        {
            return Ok(health(context, &probe[1..], rest.trim_start_matches('/')).await);
        }
    }
    if trimmed.starts_with("/openapi/") {
        return openapi::handle(context, trimmed).await;
    }
    discovery::handle(context, trimmed)
}

fn plain(context: &Context<'_>) -> Output {
    Output {
        pretty: true,
        ..accept(&context.parts.headers, context.query, false, false).unwrap_or_default()
    }
}

fn version(context: &Context<'_>) -> serde_json::Value {
    let config = &context.server.inner.config;
    json!({
        "major": "1",
        "minor": "36",
        "emulationMajor": "1",
        "emulationMinor": "36",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35",
        "gitVersion": config.version,
        "gitCommit": config.git_commit,
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "go1.26",
        "compiler": "rustc",
        "platform": format!("linux/{}", architecture()),
    })
}

/// Go's name of the architecture.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn paths(context: &Context<'_>) -> Vec<String> {
    let mut paths: Vec<String> = [
        "/.well-known/openid-configuration",
        "/api",
        "/api/v1",
        "/apis",
        "/apis/",
        "/healthz",
        "/healthz/etcd",
        "/healthz/ping",
        "/livez",
        "/livez/etcd",
        "/livez/ping",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openapi/v3/",
        "/openid/v1/jwks",
        "/readyz",
        "/readyz/etcd",
        "/readyz/ping",
        "/readyz/poststarthook/start-apiextensions-controllers",
        "/readyz/shutdown",
        "/version",
    ]
    .map(str::to_owned)
    .to_vec();
    for (group, versions) in discovery::groups(context) {
        if group.is_empty() {
            continue;
        }
        paths.push(format!("/apis/{group}"));
        paths.extend(
            versions
                .iter()
                .map(|version| format!("/apis/{group}/{version}")),
        );
    }
    paths.sort();
    paths
}

async fn metrics(context: &Context<'_>) -> Response {
    let inner = &context.server.inner;
    let body = inner
        .metrics
        .render(&inner.config.version, &inner.registry.hub.counts());
    object(200, "text/plain; version=0.0.4; charset=utf-8", body)
}

/// `/healthz`, `/livez` and `/readyz`, whole or one check.
async fn health(context: &Context<'_>, probe: &str, only: &str) -> Response {
    let inner = &context.server.inner;
    let store = inner.registry.hub.store().revision().await;
    let mut checks = vec![
        ("ping", Ok(())),
        ("log", Ok(())),
        (
            "etcd",
            store
                .map(|_| ())
                .map_err(|error| base::Chain(&error).to_string()),
        ),
    ];
    let hook = "poststarthook/bootstrap-objects";
    let started = if *inner.ready.borrow() {
        Ok(())
    } else {
        Err("not finished".to_owned())
    };
    if probe != "livez" {
        checks.push((hook, started));
    }
    if probe == "readyz" {
        let stopping = inner.stopping.load(Ordering::Acquire);
        checks.push((
            "shutdown",
            if stopping {
                Err("process is shutting down".to_owned())
            } else {
                Ok(())
            },
        ));
    }
    if !only.is_empty() {
        return match checks.into_iter().find(|(name, _)| *name == only) {
            Some((_, Ok(()))) => text(200, "ok"),
            Some((_, Err(why))) => text(500, format!("internal server error: {why}\n")),
            None => not_found_page(),
        };
    }
    let excluded = context.query.all("exclude");
    let mut failed = false;
    let mut report = String::new();
    for (name, result) in &checks {
        if excluded.iter().any(|it| it == name) {
            report.push_str(&format!("[+]{name} excluded: ok\n"));
            continue;
        }
        match result {
            Ok(()) => report.push_str(&format!("[+]{name} ok\n")),
            Err(_) => {
                failed = true;
                report.push_str(&format!("[-]{name} failed: reason withheld\n"));
            }
        }
    }
    if failed {
        report.push_str(&format!("{probe} check failed\n"));
        return text(500, report);
    }
    if context.query.get("verbose").is_some() {
        report.push_str(&format!("{probe} check passed\n"));
        return text(200, report);
    }
    text(200, "ok")
}

/// 404 as a `Status`.
pub(crate) fn not_found() -> Status {
    Status::new(
        Reason::NotFound,
        "the server could not find the requested resource",
    )
    .with_details(json!({}))
}

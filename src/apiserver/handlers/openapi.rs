//! `/openapi/v2` and `/openapi/v3`.
//!
//! Documents are made from the schema table when somebody asks, straight into
//! the compressor if the client takes gzip, and not kept: clients keep them by
//! the hash in their URL, which changes only when the document may have.

use std::io::Write;

use api::openapi;
use api::{Reason, Resource, Scheme, Status};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
    LOCATION, VARY,
};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::Context;
use crate::custom::Published;
use crate::http::{Body, Response, not_found_page, object};

const JSON: &str = "application/json";
const V2_JSON: &str = "application/com.github.proto-openapi.spec.v2.v1.0+json";

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Document {
    V2,
    V2Protobuf,
    /// By its name in the index, such as `apis/apps/v1`.
    V3(String),
}

/// Serves a path below `/openapi`.
pub(crate) async fn handle(context: &Context<'_>, path: &str) -> Result<Response, Status> {
    let registry = &context.server.inner.registry;
    let scheme = registry.engine.scheme;
    let published = registry.documents.published(registry);
    let headers = &context.parts.headers;
    let document = match path {
        "/openapi/v2" => v2_form(headers)?,
        "/openapi/v3" => {
            let names = names(scheme, &published);
            let hashed = names
                .iter()
                .map(|name| (name.as_str(), openapi::hash(name, salt(name, &published))));
            let index = openapi::v3_index(hashed).to_string();
            return Ok(object(200, "text/plain; charset=utf-8", index));
        }
        _ => match path.strip_prefix("/openapi/v3/") {
            Some(name) if names(scheme, &published).iter().any(|known| known == name) => {
                Document::V3(name.to_owned())
            }
            _ => return Ok(not_found_page()),
        },
    };
    let hash = match &document {
        Document::V3(name) => openapi::hash(name, salt(name, &published)),
        _ => openapi::hash("v2", &published.salt),
    };
    let asked = context.query.get("hash");
    if let (Document::V3(name), Some(asked)) = (&document, &asked)
        && *asked != hash
    {
        let mut response = object(301, JSON, "");
        let url = format!("/openapi/v3/{name}?hash={hash}");
        insert(response.headers_mut(), LOCATION, &url);
        return Ok(response);
    }
    let etag = format!("\"{hash}\"");
    let known = headers
        .get(IF_NONE_MATCH)
        .is_some_and(|tag| tag.as_bytes() == etag.as_bytes());
    let gzip = headers
        .get_all(ACCEPT_ENCODING)
        .iter()
        .any(|value| value.to_str().is_ok_and(|value| value.contains("gzip")));
    let media_type = match document {
        Document::V2Protobuf => openapi::V2_PROTOBUF_ANSWER,
        _ => JSON,
    };
    let mut response = if known {
        let mut response = http::Response::new(Body::full(""));
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        let bytes = tokio::task::spawn_blocking(move || write(scheme, &published, &document, gzip))
            .await
            .map_err(Status::internal)?
            .map_err(Status::internal)?;
        object(200, media_type, bytes)
    };
    let headers = response.headers_mut();
    insert(headers, ETAG, &etag);
    headers.insert(VARY, HeaderValue::from_static("Accept-Encoding, Accept"));
    if gzip && !known {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if asked.is_some() {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    } else {
        headers.remove(CACHE_CONTROL);
    }
    headers
        .entry(CONTENT_TYPE)
        .or_insert(HeaderValue::from_static(JSON));
    Ok(response)
}

fn insert(headers: &mut HeaderMap, name: http::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn v2_form(headers: &HeaderMap) -> Result<Document, Status> {
    let Some(accept) = headers.get(ACCEPT).and_then(|value| value.to_str().ok()) else {
        return Ok(Document::V2);
    };
    for wanted in accept.split(',') {
        match wanted.split(';').next().unwrap_or("").trim() {
            openapi::V2_PROTOBUF | openapi::V2_PROTOBUF_ANSWER => return Ok(Document::V2Protobuf),
            JSON | V2_JSON | "application/*" | "*/*" | "" => return Ok(Document::V2),
            _ => {}
        }
    }
    let offered = [JSON, openapi::V2_PROTOBUF].join(", ");
    Err(Status::new(
        Reason::NotAcceptable,
        format!("only the following media types are accepted: {offered}"),
    ))
}

fn served(scheme: &Scheme) -> impl Iterator<Item = &Resource> {
    scheme
        .resources()
        .iter()
        .filter(|resource| resource.served_by_default)
}

/// What tells apart the states of a document that can change.
fn salt<'a>(name: &str, published: &'a Published) -> &'a str {
    let mut parts = name.split('/').skip(1);
    let is_custom = match (parts.next(), parts.next()) {
        (Some(group), Some(version)) => published.of(group, version).next().is_some(),
        _ => false,
    };
    if is_custom { &published.salt } else { "" }
}

/// Every v3 document.
fn names(scheme: &Scheme, published: &Published) -> Vec<String> {
    let mut names = vec!["api".to_owned(), "apis".to_owned(), "version".to_owned()];
    let customs = published.resources.iter().map(|it| &it.resource);
    for resource in served(scheme).chain(customs) {
        let gvk = &resource.gvk;
        let (group, version) = if gvk.group.is_empty() {
            (None, format!("api/{}", gvk.version))
        } else {
            (
                Some(format!("apis/{}", gvk.group)),
                format!("apis/{}/{}", gvk.group, gvk.version),
            )
        };
        for name in group.into_iter().chain([version]) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

fn write(
    scheme: &Scheme,
    published: &Published,
    document: &Document,
    gzip: bool,
) -> std::io::Result<Vec<u8>> {
    if !gzip {
        let mut plain = Vec::new();
        write_to(scheme, published, document, &mut plain)?;
        return Ok(plain);
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    write_to(scheme, published, document, &mut encoder)?;
    encoder.finish()
}

fn write_to(
    scheme: &Scheme,
    published: &Published,
    document: &Document,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let customs = &published.resources;
    let name = match document {
        Document::V2 => return openapi::write_v2(served(scheme), customs, out),
        Document::V2Protobuf => return openapi::write_v2_protobuf(served(scheme), customs, out),
        Document::V3(name) => name,
    };
    if openapi::write_v3_discovery(name, out)? {
        return Ok(());
    }
    let parts: Vec<&str> = name.split('/').collect();
    let (group, version) = match parts.as_slice() {
        ["api", version] => ("", *version),
        ["apis", group, version] => (*group, *version),
        _ => return Ok(()),
    };
    let own = served(scheme)
        .filter(|resource| resource.gvk.group == group && resource.gvk.version == version);
    openapi::write_v3(group, version, own, published.of(group, version), out)
}

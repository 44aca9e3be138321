//! Answers: objects, errors, plain text, compression.

use std::io::Write;

use api::Status;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, VARY};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::Value;

use super::{Body, Format, Output, Response};

/// Answers below this size are not worth compressing.
const GZIP_FROM: usize = 128 * 1024;

/// Encoded bytes with their media type.
pub(crate) fn object(code: u16, media_type: &'static str, bytes: impl Into<Bytes>) -> Response {
    let mut response = http::Response::new(Body::full(bytes));
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A JSON tree in the negotiated format; protobuf falls back to JSON, for it
/// is only possible where the caller has encoded it already.
pub(crate) fn json_value(code: u16, output: &Output, value: &Value) -> Response {
    match output.format {
        Format::Yaml => match serde_yaml_ng::to_string(value) {
            Ok(text) => object(code, Format::Yaml.media_type(), text),
            Err(error) => write_status(&Status::internal(error), &Output::default()),
        },
        _ if output.pretty => {
            let mut text = serde_json::to_vec_pretty(value).expect("a value is JSON");
            text.push(b'\n');
            object(code, Format::Json.media_type(), text)
        }
        _ => {
            let mut text = serde_json::to_vec(value).expect("a value is JSON");
            text.push(b'\n');
            object(code, Format::Json.media_type(), text)
        }
    }
}

/// An error answer.
pub(crate) fn write_status(status: &Status, output: &Output) -> Response {
    let value = status.to_value();
    let ty = api::Scheme::builtin().type_of(&api::GroupVersionKind::new("", "v1", "Status"));
    let mut response = match ty {
        Some(ty) if output.format == Format::Protobuf => object(
            status.code,
            Format::Protobuf.media_type(),
            api::proto::encode_object(&value, ty),
        ),
        _ => json_value(status.code, output, &value),
    };
    if let Some(seconds) = status
        .details
        .as_ref()
        .and_then(|details| details.get("retryAfterSeconds"))
        .and_then(Value::as_u64)
    {
        response
            .headers_mut()
            .insert(http::header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// `Status: Success`.
pub(crate) fn status_value(details: Value) -> Value {
    serde_json::json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    })
}

/// Plain text.
pub(crate) fn text(code: u16, text: impl Into<Bytes>) -> Response {
    let mut response = object(code, "text/plain; charset=utf-8", text);
    response.headers_mut().insert(
        http::header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// The answer for a path nobody serves.
pub(crate) fn not_found_page() -> Response {
    let mut response = text(404, "404 page not found\n");
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

/// Compresses a large known body for a client that takes gzip.
pub(crate) fn gzip_if_wanted(request: &HeaderMap, response: Response) -> Response {
    let wanted = request
        .get_all(ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| {
            coding
                .split(';')
                .next()
                .is_some_and(|name| name.trim() == "gzip")
        });
    let large = response
        .body()
        .known()
        .is_some_and(|bytes| bytes.len() > GZIP_FROM);
    if !wanted || !large || response.headers().contains_key(CONTENT_ENCODING) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let bytes = body.known().cloned().unwrap_or_default();
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 8), Compression::fast());
    match encoder.write_all(&bytes).and_then(|()| encoder.finish()) {
        Ok(compressed) => {
            parts
                .headers
                .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            parts
                .headers
                .insert(VARY, HeaderValue::from_static("Accept-Encoding"));
            http::Response::from_parts(parts, Body::full(compressed))
        }
        Err(_) => http::Response::from_parts(parts, Body::full(bytes)),
    }
}

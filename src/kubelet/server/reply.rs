//! Answers of the node API.

use std::convert::Infallible;
use std::pin::Pin;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};

/// What happens on a connection after it has been upgraded.
pub(super) type Upgrade = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Body of an answer.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// An answer, and what follows on the connection if it is an upgrade.
pub(super) struct Reply {
    pub(super) response: Response<Body>,
    pub(super) upgrade: Option<Upgrade>,
}

impl From<Response<Body>> for Reply {
    fn from(response: Response<Body>) -> Self {
        Self {
            response,
            upgrade: None,
        }
    }
}

/// A body that is there already.
pub(super) fn full(data: impl Into<Bytes>) -> Body {
    Full::new(data.into()).boxed_unsync()
}

fn with_type(status: StatusCode, content_type: &'static str, data: impl Into<Bytes>) -> Reply {
    let mut response = Response::new(full(data));
    *response.status_mut() = status;
    let value = header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response.into()
}

/// Plain text.
pub(super) fn text(status: StatusCode, data: impl Into<Bytes>) -> Reply {
    with_type(status, "text/plain; charset=utf-8", data)
}

/// A message that says what is wrong.
pub(super) fn error(status: StatusCode, message: &str) -> Reply {
    text(status, format!("{message}\n"))
}

/// A JSON document.
pub(super) fn json(value: &serde_json::Value) -> Reply {
    with_type(StatusCode::OK, "application/json", value.to_string())
}

/// Metrics in the Prometheus text format.
pub(super) fn prometheus(data: String) -> Reply {
    with_type(
        StatusCode::OK,
        "text/plain; version=0.0.4; charset=utf-8",
        data,
    )
}

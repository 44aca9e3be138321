//! HTTP: bodies, content negotiation, error answers, connections.

mod body;
mod connection;
mod negotiate;
mod respond;
pub(crate) mod websocket;

pub(crate) use body::RequestBody;
pub use body::{Body, BoxError};
pub(crate) use connection::serve;
pub(crate) use negotiate::{Format, Output, Shape, accept, content_format};
pub(crate) use respond::{
    gzip_if_wanted, json_value, not_found_page, object, status_value, text, write_status,
};

/// A request as the handlers see it.
pub(crate) type Request = http::Request<RequestBody>;
/// A response.
pub(crate) type Response = http::Response<Body>;

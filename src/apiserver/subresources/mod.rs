//! Subresources that are not parts of the stored object, and resources that
//! store nothing.

mod binding;
mod eviction;
mod html;
mod node;
mod proxy;
mod review;
mod scale;
mod stream;
mod tunnel;

use std::sync::Arc;

use api::{GroupVersionKind, Status};
use serde_json::{Value, json};

use crate::engine::Served;
use crate::handlers::output::View;
use crate::handlers::{Context, body, write};
use crate::http::{RequestBody, Response, accept, content_format, json_value};
use crate::registry::{Call, Registry, Resource};

/// What serves a request that the registry alone does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    /// Questions about access.
    Review,
    Scale,
    Binding,
    Eviction,
    /// `serviceaccounts/token`.
    Token,
    Log,
    Exec,
    Attach,
    PortForward,
    PodProxy,
    ServiceProxy,
    NodeProxy,
    ComponentStatus,
    /// Discovery names it, but nobody serves it.
    Unserved,
}

impl Special {
    /// Finds out whether a request is special.
    pub(crate) fn of(context: &Context<'_>, served: &Served) -> Option<Self> {
        let info = context.info;
        Some(match (info.resource.as_str(), info.subresource.as_str()) {
            ("bindings", "") if info.group.is_empty() => Self::Binding,
            ("componentstatuses", "") => Self::ComponentStatus,
            (_, "") if served.is_stored => return None,
            (_, "") => Self::Review,
            (_, "status" | "finalize" | "approval" | "resize" | "ephemeralcontainers") => {
                return None;
            }
            (_, "scale") => Self::Scale,
            ("pods", "binding") => Self::Binding,
            ("pods", "eviction") => Self::Eviction,
            ("serviceaccounts", "token") => Self::Token,
            ("pods", "log") => Self::Log,
            ("pods", "exec") => Self::Exec,
            ("pods", "attach") => Self::Attach,
            ("pods", "portforward") => Self::PortForward,
            ("pods", "proxy") => Self::PodProxy,
            ("services", "proxy") => Self::ServiceProxy,
            ("nodes", "proxy") => Self::NodeProxy,
            _ => Self::Unserved,
        })
    }

    /// Serves it.
    pub(crate) async fn run(
        self,
        context: &Context<'_>,
        registry: Arc<Registry>,
        body: RequestBody,
        served: &Served,
    ) -> Result<Response, Status> {
        match self {
            Self::Review => review::review(context, body, &served.gvk).await,
            Self::Token => review::token(context, &registry, body).await,
            Self::Scale => scale::scale(context, &registry, body).await,
            Self::Binding => binding::bind(context, &registry, body).await,
            Self::Eviction => eviction::evict(context, &registry, body).await,
            Self::Log => stream::log(context, &registry).await,
            Self::Exec => stream::exec(context, &registry, body, "exec").await,
            Self::Attach => stream::exec(context, &registry, body, "attach").await,
            Self::PortForward => stream::port_forward(context, &registry, body).await,
            Self::PodProxy => proxy::pod(context, &registry, body).await,
            Self::ServiceProxy => proxy::service(context, &registry, body).await,
            Self::NodeProxy => proxy::node(context, &registry, body).await,
            Self::ComponentStatus => review::component_statuses(context).await,
            Self::Unserved => Ok(crate::http::not_found_page()),
        }
    }
}

/// The stored resource a subresource belongs to.
fn parent(context: &Context<'_>, registry: &Registry) -> Result<Arc<Resource>, Status> {
    registry
        .resource(&context.info.group, &context.info.resource)
        .ok_or_else(crate::handlers::not_found)
}

/// The core resource of a name.
fn core(registry: &Registry, name: &str) -> Result<Arc<Resource>, Status> {
    registry
        .resource("", name)
        .ok_or_else(|| Status::internal(format!("no resource {name}")))
}

fn call(
    context: &Context<'_>,
    resource: Arc<Resource>,
    options: &str,
) -> Result<(Call, View), Status> {
    let output = accept(&context.parts.headers, context.query, true, false)?;
    let view = View::new(context, resource, output)?;
    let call = write::call(context, &view, options)?;
    Ok((call, view))
}

/// A body that must be of a kind that is not the resource's.
async fn decode(
    context: &Context<'_>,
    call: &Call,
    body: RequestBody,
    gvk: &GroupVersionKind,
) -> Result<Value, Status> {
    let bytes = body::read(body).await?;
    let format = content_format(&context.parts.headers, true)?;
    let engine = &context.server.inner.registry.engine;
    engine.decode_kind(call, gvk, format, &bytes)
}

/// A tree that is no stored object, in the format the client takes.
fn answer(context: &Context<'_>, call: Option<&Call>, code: u16, value: &Value) -> Response {
    let output = accept(&context.parts.headers, context.query, true, false).unwrap_or_default();
    let engine = &context.server.inner.registry.engine;
    let mut response = if output.format == crate::http::Format::Protobuf
        && let Ok(bytes) = engine.to_protobuf(value)
    {
        crate::http::object(code, output.format.media_type(), bytes)
    } else {
        json_value(code, &output, value)
    };
    if let Some(call) = call {
        write::add_warnings(call, &mut response);
    }
    response
}

/// `Status: Success` with its code, as subresources that only do something answer.
fn success(context: &Context<'_>, call: &Call, code: u16) -> Response {
    let value = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "code": code,
    });
    answer(context, Some(call), code, &value)
}

//! Requests about resources: which verb of which resource or subresource.

use api::{Reason, Status};
use http::Method;
use serde_json::json;

use super::output::View;
use super::{Context, delete, not_found, read, write};
use crate::http::{RequestBody, Response, Shape, accept, not_found_page};
use crate::subresources::Special;

/// Serves a request whose path names a resource.
pub(crate) async fn handle(context: &Context<'_>, body: RequestBody) -> Result<Response, Status> {
    let info = context.info;
    let registry = context.server.inner.registry.clone();
    let Some(verbs) = registry.served(&info.group, &info.version, &info.resource) else {
        return if super::discovery::knows(context, &info.group) {
            Err(not_found())
        } else {
            Ok(not_found_page())
        };
    };
    if verbs.namespaced && info.namespace.is_empty() {
        // Across namespaces one can only look.
        if !info.name.is_empty() && !field_named(context) {
            return Ok(not_found_page());
        }
        if !matches!(info.verb, "list" | "watch") {
            return Err(method_not_allowed());
        }
    } else if !verbs.namespaced && !info.namespace.is_empty() && info.resource != "namespaces" {
        return Ok(not_found_page());
    }
    if !info.subresource.is_empty() && !verbs.has_subresource(&info.subresource) {
        return Err(not_found());
    }
    if let Some(special) = Special::of(context, &verbs) {
        return special.run(context, registry, body, &verbs).await;
    }
    let Some(resource) = registry.resource(&info.group, &info.resource) else {
        return Ok(not_found_page());
    };
    let output = accept(
        &context.parts.headers,
        context.query,
        resource.is_builtin,
        true,
    )?;
    let view = View::new(context, resource, output)?;
    let collection = info.name.is_empty() || field_named(context);
    let method = &context.parts.method;
    if !verbs.allows(&info.subresource, info.verb) {
        return Err(method_not_allowed());
    }
    match *method {
        Method::GET | Method::HEAD => match info.verb {
            "watch" => read::watch(context, view).await,
            "list" => read::list(context, view).await,
            // `?watch=1` on a single object.
            _ if context.query.flag("watch") => read::watch(context, view).await,
            _ => read::get(context, view).await,
        },
        Method::POST if collection => {
            if view.output.shape != Shape::Object && context.query.get("watch").is_some() {
                return Err(method_not_allowed());
            }
            write::create(context, view, body).await
        }
        Method::PUT if !collection => write::update(context, view, body).await,
        Method::PATCH if !collection => write::patch(context, view, body).await,
        Method::DELETE if collection => delete::delete_collection(context, view, body).await,
        Method::DELETE => delete::delete(context, view, body).await,
        _ => Err(method_not_allowed()),
    }
}

/// Whether the name comes from a field selector, not from the path.
fn field_named(context: &Context<'_>) -> bool {
    matches!(context.info.verb, "list" | "watch" | "deletecollection")
}

/// 405.
pub(crate) fn method_not_allowed() -> Status {
    Status::new(
        Reason::MethodNotAllowed,
        "the server does not allow this method on the requested resource",
    )
    .with_details(json!({}))
}

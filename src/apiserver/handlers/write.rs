//! POST, PUT and PATCH.

use api::{FieldError, GroupKind, Path, Reason, Status};
use http::HeaderValue;
use http::header::WARNING;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::output::{self, View};
use super::{Context, body};
use crate::engine::Patch;
use crate::http::{RequestBody, Response, content_format};
use crate::registry::{Call, Change, Replace};

/// POST of a new object.
pub(crate) async fn create(
    context: &Context<'_>,
    view: View,
    body: RequestBody,
) -> Result<Response, Status> {
    let registry = &context.server.inner.registry;
    let call = call(context, &view, "CreateOptions")?;
    let object = decode(context, &view, &call, body).await?;
    let mut call = call;
    if call.resource.is("", "namespaces") {
        // Namespaces are reviewed as being in themselves.
        call.namespace = object["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
    }
    let entry = registry.create(&call, object).await?;
    let mut response = output::one(context, &view, 201, &entry);
    add_warnings(&call, &mut response);
    Ok(response)
}

/// PUT of an object or one of its updatable parts.
pub(crate) async fn update(
    context: &Context<'_>,
    view: View,
    body: RequestBody,
) -> Result<Response, Status> {
    let call = call(context, &view, "UpdateOptions")?;
    let object = decode(context, &view, &call, body).await?;
    finish(context, view, call, &Replace(object)).await
}

/// PATCH of an object or one of its updatable parts.
pub(crate) async fn patch(
    context: &Context<'_>,
    view: View,
    body: RequestBody,
) -> Result<Response, Status> {
    let call = call(context, &view, "PatchOptions")?;
    let bytes = body::read(body).await?;
    let patch = Patch::parse(context, &bytes)?;
    finish(context, view, call, &patch).await
}

async fn finish(
    context: &Context<'_>,
    view: View,
    call: Call,
    change: &dyn Change,
) -> Result<Response, Status> {
    let registry = &context.server.inner.registry;
    let updated = registry.update(&call, change).await?;
    let code = if updated.created { 201 } else { 200 };
    let mut response = output::one(context, &view, code, &updated.entry);
    add_warnings(&call, &mut response);
    Ok(response)
}

/// The object of the body, decoded, defaulted and in the storage version.
async fn decode(
    context: &Context<'_>,
    view: &View,
    call: &Call,
    body: RequestBody,
) -> Result<Value, Status> {
    let bytes = body::read(body).await?;
    let format = content_format(&context.parts.headers, true)?;
    let engine = &context.server.inner.registry.engine;
    engine.decode(call, &view.resource.gvk(&call.version), format, &bytes)
}

/// Everything about the call that the query says.
pub(crate) fn call(context: &Context<'_>, view: &View, options_kind: &str) -> Result<Call, Status> {
    let query = context.query;
    let info = context.info;
    let dry_run = query.all("dryRun");
    let field_validation = query
        .get("fieldValidation")
        .unwrap_or_default()
        .into_owned();
    let field_manager = query.get("fieldManager").unwrap_or_default().into_owned();
    let mut errors = Vec::new();
    let kind = options_kind.trim_end_matches("Options");
    if kind != "Delete" {
        errors.extend(api::meta::field_manager(
            &field_manager,
            &Path::new("fieldManager"),
        ));
    }
    if dry_run.iter().any(|value| value != "All") {
        errors.push(FieldError::not_supported(
            &Path::new("dryRun"),
            json!(dry_run),
            &["All"],
        ));
    }
    if kind != "Delete" && !matches!(&*field_validation, "" | "Ignore" | "Warn" | "Strict") {
        errors.push(FieldError::not_supported(
            &Path::new("fieldValidation"),
            field_validation.clone(),
            &["", "Ignore", "Strict", "Warn"],
        ));
    }
    if !errors.is_empty() {
        let kind = GroupKind {
            group: "meta.k8s.io".to_owned(),
            kind: options_kind.to_owned(),
        };
        return Err(Status::invalid(&kind, "", &errors));
    }
    let user_agent = context
        .parts
        .headers
        .get(http::header::USER_AGENT)
        .and_then(|agent| agent.to_str().ok())
        .unwrap_or_default();
    let mut options = json!({ "kind": options_kind, "apiVersion": "meta.k8s.io/v1" });
    if !dry_run.is_empty() {
        options["dryRun"] = json!(dry_run);
    }
    if !field_manager.is_empty() {
        options["fieldManager"] = field_manager.clone().into();
    }
    if !field_validation.is_empty() {
        options["fieldValidation"] = field_validation.clone().into();
    }
    let manager = api::managed::manager_name(&field_manager, user_agent);
    Ok(Call {
        resource: view.resource.clone(),
        version: info.version.clone(),
        subresource: info.subresource.clone(),
        namespace: info.namespace.clone(),
        name: info.name.clone(),
        user: context.user.clone(),
        dry_run: !dry_run.is_empty(),
        manager: if manager.is_empty() {
            "unknown".to_owned()
        } else {
            manager
        },
        field_validation: if field_validation.is_empty() {
            "Warn".to_owned()
        } else {
            field_validation
        },
        options,
        warnings: Mutex::default(),
        empties: Mutex::default(),
    })
}

/// Adds collected warnings as `Warning: 299 - "text"`.
pub(crate) fn add_warnings(call: &Call, response: &mut Response) {
    for warning in call.warnings.lock().iter() {
        let mut text = String::with_capacity(warning.len() + 10);
        text.push_str("299 - \"");
        for c in warning.chars() {
            match c {
                '"' | '\\' => {
                    text.push('\\');
                    text.push(c);
                }
                c if c.is_control() => text.push(' '),
                c => text.push(c),
            }
        }
        text.push('"');
        if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
            response.headers_mut().append(WARNING, value);
        }
    }
}

/// 415 where a route names the types it takes.
pub(crate) fn unsupported() -> Status {
    Status::new(Reason::UnsupportedMediaType, "415: Unsupported Media Type").with_details(json!({}))
}

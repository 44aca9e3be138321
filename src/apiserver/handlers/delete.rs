//! DELETE of an object or a collection.

use api::Status;
use serde_json::{Map, Value, json};

use super::output::{self, View};
use super::read::{filter, integer, list_options};
use super::write::call;
use super::{Context, body};
use crate::http::{RequestBody, Response, status_value};
use crate::registry::{DeleteOptions, Deleted};

/// DELETE of one object.
pub(crate) async fn delete(
    context: &Context<'_>,
    view: View,
    body: RequestBody,
) -> Result<Response, Status> {
    let registry = &context.server.inner.registry;
    let (options, value) = options(context, body).await?;
    let mut call = call(context, &view, "DeleteOptions")?;
    call.dry_run |= is_dry_run(&value);
    call.options = value;
    let deleted = registry.delete(&call, &options).await?;
    let waiting = matches!(&deleted, Deleted::Object { gone: false, .. });
    let code = if waiting && options.orphan_dependents == Some(false) {
        202
    } else {
        200
    };
    let mut response = match deleted {
        Deleted::Object { entry, .. } => output::one(context, &view, code, &entry),
        Deleted::Status(details) => output::any(context, &view, code, &status_value(details)),
    };
    super::write::add_warnings(&call, &mut response);
    Ok(response)
}

/// DELETE of everything a list selects.
pub(crate) async fn delete_collection(
    context: &Context<'_>,
    view: View,
    body: RequestBody,
) -> Result<Response, Status> {
    let registry = &context.server.inner.registry;
    let (options, value) = options(context, body).await?;
    let mut call = call(context, &view, "DeleteOptions")?;
    call.dry_run |= is_dry_run(&value);
    call.options = value;
    call.name = String::new();
    let filter = filter(context, &view)?;
    let list = list_options(context)?;
    let result = registry
        .delete_collection(&call, &filter, &list, &options)
        .await?;
    Ok(output::list(context, &view, result))
}

fn is_dry_run(options: &Value) -> bool {
    options["dryRun"]
        .as_array()
        .is_some_and(|all| !all.is_empty())
}

/// Options from the body, or from the query when there is no body.
async fn options(
    context: &Context<'_>,
    request: RequestBody,
) -> Result<(DeleteOptions, Value), Status> {
    let bytes = body::read(request).await?;
    let registry = &context.server.inner.registry;
    let value = if bytes.is_empty() {
        let mut value = Map::new();
        if let Some(seconds) = integer(context, "gracePeriodSeconds")? {
            value.insert("gracePeriodSeconds".into(), seconds.into());
        }
        if let Some(policy) = context.query.non_empty("propagationPolicy") {
            value.insert("propagationPolicy".into(), policy.into_owned().into());
        }
        if context.query.get("orphanDependents").is_some() {
            let orphan = context.query.flag("orphanDependents");
            value.insert("orphanDependents".into(), orphan.into());
        }
        let dry_run = context.query.all("dryRun");
        if !dry_run.is_empty() {
            value.insert("dryRun".into(), json!(dry_run));
        }
        Value::Object(value)
    } else {
        registry
            .engine
            .decode_options(context, &bytes, "DeleteOptions")?
    };
    let options = DeleteOptions::parse(&value)?;
    Ok((options, value))
}

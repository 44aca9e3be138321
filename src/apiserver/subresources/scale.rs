//! `scale`: the number of replicas of a workload, as autoscalers see it.

use api::{FieldError, GroupKind, GroupVersionKind, LabelSelector, Path, Status};
use http::Method;
use serde_json::{Map, Value, json};

use super::{answer, call, decode, parent};
use crate::engine::Patch;
use crate::handlers::{Context, body, method_not_allowed};
use crate::http::{RequestBody, Response};
use crate::registry::{Call, Change, Registry, Resource};

fn gvk() -> GroupVersionKind {
    GroupVersionKind::new("autoscaling", "v1", "Scale")
}

/// The `Scale` of a workload.
fn of(object: &Value) -> Value {
    let mut metadata = Map::new();
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        let value = &object["metadata"][field];
        if !value.is_null() {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    let selector = if object["kind"] == "ReplicationController" {
        LabelSelector::from_map(&object["spec"]["selector"]).to_string()
    } else {
        LabelSelector::from_object(&object["spec"]["selector"])
            .map(|selector| selector.to_string())
            .unwrap_or_default()
    };
    let mut spec = json!({});
    match object["spec"]["replicas"].as_i64() {
        Some(0) | None => {}
        Some(replicas) => spec["replicas"] = replicas.into(),
    }
    let mut status = json!({ "replicas": object["status"]["replicas"].as_i64().unwrap_or(0) });
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": spec,
        "status": status,
    })
}

/// The `Scale` of an object of a resource.
fn shown(resource: &Resource, version: &str, object: &Value) -> Result<Value, Status> {
    let scale = resource
        .custom
        .as_ref()
        .and_then(|custom| custom.definition.version(version)?.scale.as_ref());
    let Some(scale) = scale else {
        return Ok(of(object));
    };
    let wrong = |error: String| Status::internal(error);
    let Some(replicas) = scale.replicas(object).map_err(wrong)? else {
        return Err(Status::internal(format!(
            "the spec replicas field {:?} does not exist",
            scale.spec
        )));
    };
    let mut answer = of(object);
    answer["spec"] = json!({});
    if replicas != 0 {
        answer["spec"]["replicas"] = replicas.into();
    }
    let ready = scale.ready(object).map_err(wrong)?.unwrap_or(0);
    answer["status"] = json!({ "replicas": ready });
    let selector = scale.labels(object).map_err(wrong)?;
    if !selector.is_empty() {
        answer["status"]["selector"] = selector.into();
    }
    Ok(answer)
}

/// A change of the replicas, by a whole `Scale` or a patch of it.
enum Scaling<'a> {
    Replace(Value),
    Patch(Patch<'a>),
}

impl Change for Scaling<'_> {
    fn apply(&self, call: &Call, current: Option<&Value>) -> Result<Value, Status> {
        let Some(current) = current else {
            return Err(call.resource.not_found(&call.name));
        };
        let scale = match self {
            Self::Replace(scale) => scale.clone(),
            Self::Patch(patch) => {
                let current = shown(&call.resource, &call.version, current)?;
                patch.apply_to(call, &gvk(), &current)?
            }
        };
        let metadata = &scale["metadata"];
        let text = |field: &str| metadata[field].as_str().unwrap_or_default();
        if text("name") != call.name {
            return Err(Status::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({})",
                text("name"),
                call.name
            )));
        }
        let uid = text("uid");
        if !uid.is_empty() && current["metadata"]["uid"] != uid {
            return Err(Status::conflict(
                &call.resource.group_resource,
                &call.name,
                &format!(
                    "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                    current["metadata"]["uid"].as_str().unwrap_or_default()
                ),
            ));
        }
        let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
        if replicas < 0 {
            let kind = GroupKind {
                group: "autoscaling".to_owned(),
                kind: "Scale".to_owned(),
            };
            return Err(Status::invalid(
                &kind,
                &call.name,
                &[FieldError::invalid(
                    &Path::new("spec").child("replicas"),
                    replicas,
                    "must be greater than or equal to 0",
                )],
            ));
        }
        let mut new = current.clone();
        let custom = call.resource.custom.as_ref();
        let scale = custom.and_then(|it| it.definition.version(&call.version)?.scale.as_ref());
        match scale {
            Some(scale) => scale.set(&mut new, replicas),
            None => new["spec"]["replicas"] = replicas.into(),
        }
        let version = text("resourceVersion");
        let metadata = api::meta::metadata_mut(&mut new);
        if version.is_empty() {
            metadata.remove("resourceVersion");
        } else {
            metadata.insert("resourceVersion".to_owned(), version.into());
        }
        Ok(new)
    }
}

/// GET, PUT and PATCH.
pub(super) async fn scale(
    context: &Context<'_>,
    registry: &Registry,
    body: RequestBody,
) -> Result<Response, Status> {
    let resource = parent(context, registry)?;
    let info = context.info;
    let bytes;
    let (call, change) = match context.parts.method {
        Method::GET | Method::HEAD => {
            let key = resource.key(&info.namespace, &info.name);
            let entry = registry
                .read(&resource, &key)
                .await?
                .ok_or_else(|| resource.not_found(&info.name))?;
            let mut object = entry.value();
            if resource.custom.is_some() {
                let engine = &registry.engine;
                object = engine.in_request_version(&resource, &info.version, object);
            }
            let scale = shown(&resource, &info.version, &object)?;
            return Ok(answer(context, None, 200, &scale));
        }
        Method::PUT => {
            let (call, _) = call(context, resource, "UpdateOptions")?;
            let scale = decode(context, &call, body, &gvk()).await?;
            (call, Scaling::Replace(scale))
        }
        Method::PATCH => {
            let (call, _) = call(context, resource, "PatchOptions")?;
            bytes = body::read(body).await?;
            let patch = Patch::parse(context, &bytes)?;
            (call, Scaling::Patch(patch))
        }
        _ => return Err(method_not_allowed()),
    };
    let updated = registry.update(&call, &change).await?;
    let mut object = updated.entry.value();
    if call.resource.custom.is_some() {
        let engine = &registry.engine;
        object = engine.in_request_version(&call.resource, &call.version, object);
    }
    let scale = shown(&call.resource, &call.version, &object)?;
    Ok(answer(context, Some(&call), 200, &scale))
}

//! The same for custom resources, whose types are schemas of their definition.

use std::sync::Arc;

use api::custom::{Definition, Node};
use api::managed::{self, Write};
use api::patch::{self, PatchType};
use api::{FieldError, FieldValidation, GroupKind, Path, Reason, Status, decode};
use serde_json::{Value, json};

use super::Engine;
use super::decode::wire;
use crate::http::Format;
use crate::registry::Call;

/// What a request's version says of the object.
fn node<'a>(definition: &'a Definition, version: &str) -> Node<'a> {
    Node::new(
        definition
            .version(version)
            .and_then(|it| it.schema.as_ref()),
    )
}

/// An object in another version, with its schema.
fn in_version<'a>(
    definition: &'a Definition,
    object: &Value,
    version: &str,
) -> Option<(Value, Node<'a>)> {
    let (group, name) = version.split_once('/')?;
    if group != definition.group {
        return None;
    }
    definition.version(name)?;
    let mut object = object.clone();
    definition.convert(name, &mut object);
    Some((object, node(definition, name)))
}

impl Engine {
    /// Decodes the body of a create or update of a custom resource.
    pub(super) fn decode_custom(
        &self,
        call: &Call,
        definition: &Arc<Definition>,
        format: Format,
        bytes: &[u8],
    ) -> Result<Value, Status> {
        if format == Format::Protobuf {
            return Err(unknown_format("application/json, application/yaml"));
        }
        let gvk = call.resource.gvk(&call.version);
        let validation = call.validation();
        let strict = validation != FieldValidation::Ignore;
        let refused = |error: &str| decode::refused(&gvk, &gvk, error);
        let (mut object, mut problems) =
            decode::unstructured(bytes, wire(format), strict).map_err(|error| refused(&error))?;
        let text = String::from_utf8_lossy(bytes);
        for (field, shown) in [("kind", "Kind"), ("apiVersion", "apiVersion")] {
            if object[field].as_str().is_none_or(str::is_empty) {
                return Err(Status::bad_request(format!(
                    "Object '{shown}' is missing in '{}'",
                    text.trim()
                )));
            }
        }
        let wanted = definition.api_version(&call.version);
        if object["apiVersion"] != wanted.as_str() {
            return Err(Status::bad_request(format!(
                "the API version in the data ({}) does not match the expected API version ({wanted})",
                object["apiVersion"].as_str().unwrap_or_default()
            )));
        }
        let unknown = definition
            .coerce(&call.version, &mut object)
            .map_err(|error| refused(&error))?;
        problems.extend(unknown.iter().map(|path| format!("unknown field {path:?}")));
        self.judge(call, problems)
            .map_err(|error| refused(&error))?;
        Ok(object)
    }

    /// What strict validation has against a body becomes an error, warnings or
    /// nothing, as the request wants it.
    fn judge(&self, call: &Call, problems: Vec<String>) -> Result<(), String> {
        match call.validation() {
            FieldValidation::Strict if !problems.is_empty() => {
                Err(format!("strict decoding error: {}", problems.join(", ")))
            }
            FieldValidation::Warn => {
                call.warn(problems);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Applies a JSON or merge patch.
    pub(super) fn patch_custom(
        &self,
        call: &Call,
        definition: &Arc<Definition>,
        kind: PatchType,
        object: &Value,
        body: &[u8],
    ) -> Result<Value, Status> {
        if !matches!(kind, PatchType::Json | PatchType::Merge) {
            return Err(unknown_format(
                "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
            ));
        }
        let gvk = call.resource.gvk(&call.version);
        let strict = call.validation() != FieldValidation::Ignore;
        let (mut patched, mut problems) = patch::untyped(kind, object, body, strict)?;
        let unknown = definition
            .coerce(&call.version, &mut patched)
            .map_err(|error| decode::refused(&gvk, &gvk, &error))?;
        problems.extend(unknown.iter().map(|path| format!("unknown field {path:?}")));
        self.judge(call, problems).map_err(|error| {
            let none = GroupKind {
                group: String::new(),
                kind: String::new(),
            };
            let shown = String::from_utf8_lossy(body).into_owned();
            Status::invalid(
                &none,
                "",
                &[FieldError::invalid(&Path::new("patch"), shown, error)],
            )
        })?;
        Ok(patched)
    }

    /// Records who wrote which fields of a custom resource.
    pub(super) fn manage_custom(
        &self,
        call: &Call,
        definition: &Arc<Definition>,
        live: &Value,
        new: &mut Value,
        now: &str,
    ) {
        let api_version = definition.api_version(&call.version);
        managed::update(
            &node(definition, &call.version),
            (!live.is_null()).then_some(live),
            new,
            &self.write(call, &api_version, now),
            &|object, version| in_version(definition, object, version),
        );
    }
}

/// Server-side apply of a custom resource.
pub(super) fn apply(
    call: &Call,
    definition: &Arc<Definition>,
    live: Option<&Value>,
    config: &Value,
    force: bool,
    write: &Write<'_>,
) -> Result<Value, Status> {
    let gvk = call.resource.gvk(&call.version);
    let mut object = api::apply::apply(
        &node(definition, &call.version),
        live,
        config,
        force,
        write,
        &|object, version| in_version(definition, object, version),
    )?;
    definition
        .coerce(&call.version, &mut object)
        .map_err(|error| decode::refused(&gvk, &gvk, &error))?;
    Ok(object)
}

fn unknown_format(accepted: &str) -> Status {
    Status::new(
        Reason::UnsupportedMediaType,
        format!(
            "the body of the request was in an unknown format - accepted media types include: {accepted}"
        ),
    )
    .with_details(json!({}))
}

//! Custom resources in the engine: their schemas are a definition's, and
//! objects stay in the version of the request until they are stored.

use api::custom::{Definition, Node};
use api::managed;
use api::patch::{self, PatchType};
use api::{FieldValidation, GroupVersionKind, Reason, Status, decode};
use serde_json::Value;

use super::Engine;
use crate::http::Format;
use crate::registry::Call;

/// The definition behind a call, if its resource is a custom one.
pub(super) fn definition(call: &Call) -> Option<&Definition> {
    call.resource.custom.as_ref().map(|it| &it.definition)
}

fn schema<'a>(definition: &'a Definition, version: &str) -> Option<&'a api::custom::Schema> {
    definition
        .version(version)
        .and_then(|it| it.schema.as_ref())
}

/// Decodes a body, without defaults.
pub(super) fn decode(
    call: &Call,
    definition: &Definition,
    gvk: &GroupVersionKind,
    format: Format,
    bytes: &[u8],
) -> Result<Value, Status> {
    let wire = match format {
        Format::Json => decode::Format::Json,
        Format::Yaml => decode::Format::Yaml,
        Format::Protobuf => {
            return Err(Status::new(
                Reason::UnsupportedMediaType,
                "the body of the request was in an unknown format - accepted media types \
                 include: application/json, application/yaml",
            ));
        }
    };
    let strict = call.validation() != FieldValidation::Ignore;
    let (mut object, problems) = decode::unstructured(bytes, wire, strict)
        .map_err(|error| decode::refused(gvk, gvk, &error))?;
    let text = |object: &Value, name: &str| object[name].as_str().unwrap_or_default().to_owned();
    if !object.is_object() {
        return Err(decode::refused(gvk, gvk, "expected an object"));
    }
    for (name, given) in [
        ("Kind", text(&object, "kind")),
        ("apiVersion", text(&object, "apiVersion")),
    ] {
        if given.is_empty() {
            let body = String::from_utf8_lossy(bytes);
            return Err(decode::refused(
                gvk,
                gvk,
                &format!("Object '{name}' is missing in '{body}'"),
            ));
        }
    }
    let wanted = gvk.group_version().to_string();
    let given = text(&object, "apiVersion");
    if given != wanted {
        return Err(Status::bad_request(format!(
            "the API version in the data ({given}) does not match the expected API version ({wanted})"
        )));
    }
    settle(call, definition, &mut object, problems)
        .map_err(|error| decode::refused(gvk, gvk, &error))?;
    Ok(object)
}

/// Brings an object into the form of its schema, under the field validation of
/// the request.
fn settle(
    call: &Call,
    definition: &Definition,
    object: &mut Value,
    mut problems: Vec<String>,
) -> Result<(), String> {
    let unknown = definition.coerce(&call.version, object)?;
    problems.extend(unknown.iter().map(|path| format!("unknown field {path:?}")));
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

/// What a patch made of an object.
pub(super) fn retype(
    call: &Call,
    definition: &Definition,
    object: &Value,
    problems: Vec<String>,
) -> Result<Value, String> {
    let mut object = object.clone();
    settle(call, definition, &mut object, problems)?;
    Ok(object)
}

/// A JSON or merge patch.
pub(super) fn patch(
    call: &Call,
    definition: &Definition,
    kind: PatchType,
    object: &Value,
    body: &[u8],
) -> Result<Value, Status> {
    let strict = call.validation() != FieldValidation::Ignore;
    let (merged, problems) = patch::untyped(kind, object, body, strict)?;
    let gvk = definition.gvk(&call.version);
    retype(call, definition, &merged, problems).map_err(|error| {
        let error = api::FieldError::invalid(&api::Path::new("patch"), merged.to_string(), error);
        let kind = api::GroupKind {
            group: gvk.group,
            kind: gvk.kind,
        };
        Status::invalid(&kind, &call.name, &[error])
    })
}

impl Engine {
    /// Records who wrote which fields of a custom resource.
    pub(super) fn manage_custom(
        &self,
        call: &Call,
        definition: &Definition,
        live: &Value,
        new: &mut Value,
        now: &str,
    ) {
        let api_version = definition.api_version(&call.version);
        let node = Node::new(schema(definition, &call.version));
        let live = (!live.is_null()).then_some(live);
        let versions = |object: &Value, version: &str| in_version(definition, object, version);
        managed::update(
            &node,
            live,
            new,
            &self.write(call, &api_version, now),
            &versions,
        );
    }

    /// Server-side apply of a custom resource.
    pub(super) fn apply_custom(
        &self,
        call: &Call,
        definition: &Definition,
        live: Option<&Value>,
        config: &Value,
        force: bool,
    ) -> Result<Value, Status> {
        let own = schema(definition, &call.version);
        let now = crate::registry::now();
        let api_version = definition.api_version(&call.version);
        let versions = |object: &Value, version: &str| in_version(definition, object, version);
        let write = self.write(call, &api_version, &now);
        let object = api::apply::apply(&Node::new(own), live, config, force, &write, &versions)?;
        let gvk = definition.gvk(&call.version);
        retype(call, definition, &object, Vec::new())
            .map_err(|error| decode::refused(&gvk, &gvk, &error))
    }
}

/// An object in another version, with its schema.
fn in_version<'a>(
    definition: &'a Definition,
    object: &Value,
    version: &str,
) -> Option<(Value, Node<'a>)> {
    let name = version
        .strip_prefix(&*definition.group)?
        .strip_prefix('/')?;
    definition.version(name)?;
    let mut object = object.clone();
    definition.convert(name, &mut object);
    Some((object, Node::new(schema(definition, name))))
}

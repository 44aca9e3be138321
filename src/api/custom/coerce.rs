//! `apiVersion`, `kind` and `metadata` of objects inside objects.

use serde_json::Value;

use super::Schema;
use crate::meta::{self, NameRule};
use crate::schema::TypeRef;
use crate::{FieldError, Path, Scheme, names};

fn object_meta() -> TypeRef<'static> {
    let ty = Scheme::builtin().schema().named("meta/v1", "ObjectMeta");
    ty.expect("the table has ObjectMeta")
}

/// Reads `metadata` as its Go type; unknown fields go, and their paths are
/// returned.
///
/// # Errors
///
/// What is of the wrong type, in the words of `encoding/json`.
pub(super) fn metadata(value: &mut Value, prefix: &str) -> Result<Vec<String>, String> {
    let (typed, strict) = crate::decode::retype(value, object_meta(), true)?;
    *value = typed;
    let unknown = strict.iter().filter_map(|text| {
        let path = text.split('"').nth(1)?;
        Some(format!("{prefix}.{path}"))
    });
    Ok(unknown.collect())
}

/// Checks the types of embedded objects' own fields, and prunes their
/// metadata; returns the paths of what was unknown.
///
/// # Errors
///
/// The first field of a wrong type.
pub(crate) fn coerce(value: &mut Value, schema: &Schema) -> Result<Vec<String>, FieldError> {
    let mut found = Vec::new();
    walk(value, schema, &Path::root(), &mut found)?;
    found.sort();
    Ok(found)
}

fn walk(
    value: &mut Value,
    schema: &Schema,
    path: &Path,
    found: &mut Vec<String>,
) -> Result<(), FieldError> {
    match value {
        Value::Object(map) => {
            for (name, value) in map.iter_mut() {
                if schema.is_embedded {
                    let at = path.child(name);
                    match name.as_str() {
                        "apiVersion" | "kind" if !value.is_string() => {
                            return Err(FieldError::invalid(
                                &at,
                                value.clone(),
                                "must be a string",
                            ));
                        }
                        "metadata" => {
                            let unknown = metadata(value, &at.to_string())
                                .map_err(|error| FieldError::invalid(&at, value.clone(), error))?;
                            found.extend(unknown);
                        }
                        _ => {}
                    }
                }
                let (below, at) = match schema.properties.get(name) {
                    Some(property) => (Some(property), path.child(name)),
                    None => (schema.additional_schema(), path.key(name)),
                };
                if let Some(below) = below {
                    walk(value, below, &at, found)?;
                }
            }
            Ok(())
        }
        Value::Array(items) => {
            let Some(below) = schema.items.as_deref() else {
                return Ok(());
            };
            for (at, item) in items.iter_mut().enumerate() {
                walk(item, below, &path.index(at), found)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// What is wrong with embedded objects' own fields.
pub(crate) fn embedded_errors(
    value: &Value,
    schema: &Schema,
    path: &Path,
    errors: &mut Vec<FieldError>,
) {
    match value {
        Value::Object(map) => {
            if schema.is_embedded {
                embedded(value, path, errors);
            }
            for (name, value) in map {
                match schema.properties.get(name) {
                    Some(property) => embedded_errors(value, property, &path.child(name), errors),
                    None => {
                        if let Some(below) = schema.additional_schema() {
                            embedded_errors(value, below, &path.key(name), errors);
                        }
                    }
                }
            }
        }
        Value::Array(items) => {
            if let Some(below) = schema.items.as_deref() {
                for (at, item) in items.iter().enumerate() {
                    embedded_errors(item, below, &path.index(at), errors);
                }
            }
        }
        _ => {}
    }
}

fn embedded(object: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    for name in ["apiVersion", "kind"] {
        let at = path.child(name);
        match object.get(name) {
            None => errors.push(FieldError::required(&at, "")),
            Some(Value::String(text)) if text.is_empty() => {
                errors.push(FieldError::invalid(&at, "", "must not be empty"));
            }
            Some(Value::String(text)) if name == "apiVersion" => {
                if text.matches('/').count() > 1 {
                    let error = format!("unexpected GroupVersion string: {text}");
                    errors.push(FieldError::invalid(&at, text.clone(), error));
                }
            }
            Some(Value::String(text)) => {
                let wrong = names::dns_1035_label(&text.to_lowercase());
                if !wrong.is_empty() {
                    let list = wrong.join(",");
                    errors.push(FieldError::invalid(
                        &at,
                        text.clone(),
                        format!("may have mixed case, but should otherwise match: {list}"),
                    ));
                }
            }
            Some(other) => {
                errors.push(FieldError::invalid(&at, other.clone(), "must be a string"));
            }
        }
    }
    let Some(own) = object.get("metadata") else {
        return;
    };
    let at = path.child("metadata");
    match crate::decode::normalise(own, object_meta()) {
        Err(error) => errors.push(FieldError::invalid(&at, own.clone(), error)),
        Ok(mut own) => {
            if own["name"].as_str().is_none_or(str::is_empty) {
                // Anything that is a name: an embedded object needs none.
                own["name"] = "fakename".into();
            }
            let namespaced = own["namespace"].as_str().is_some_and(|it| !it.is_empty());
            errors.extend(meta::validate(&own, namespaced, NameRule::PathSegment, &at));
        }
    }
}

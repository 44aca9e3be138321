//! Patches: RFC 6902, RFC 7386 and strategic merge.
//!
//! [`apply`] takes the object as its version shows it and the body of the
//! request, and returns the object after the patch, read again as its type,
//! with the warnings of field validation. Defaults, admission and validation
//! come after it. Server-side apply is elsewhere.

pub mod json;
pub mod merge;
mod restore;
mod shown;
pub mod strategic;

use serde_json::Value;

use crate::decode::{self, FieldValidation, Format, go_quote};
use crate::schema::TypeRef;
use crate::status::{Reason, Status};
use crate::{ErrorType, FieldError, GroupKind, GroupVersion, GroupVersionKind, Path, Scheme};

/// The kind of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 6902, `application/json-patch+json`.
    Json,
    /// RFC 7386, `application/merge-patch+json`.
    Merge,
    /// `application/strategic-merge-patch+json`.
    Strategic,
    /// Server-side apply, `application/apply-patch+yaml`.
    Apply,
}

impl PatchType {
    /// The patch that a `Content-Type` stands for.
    pub fn of_content_type(content_type: &str) -> Option<Self> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            "application/apply-patch+yaml" => Some(Self::Apply),
            _ => None,
        }
    }
}

/// An object after a patch.
#[derive(Clone, Debug, PartialEq)]
pub struct Patched {
    /// The object.
    pub object: Value,
    /// What field validation has against the patch; empty unless it warns.
    pub warnings: Vec<String>,
}

/// Applies a JSON, merge or strategic merge patch to an object of a built-in
/// type.
///
/// # Errors
///
/// 400 for a malformed patch, 413 for one of too many operations, 422 where
/// the patch does not apply or its result is not such an object, 500 where
/// upstream's strategic merge fails with an error of its own.
pub fn apply(
    patch_type: PatchType,
    current: &Value,
    body: &[u8],
    ty: TypeRef<'_>,
    validation: FieldValidation,
) -> Result<Patched, Status> {
    let strict = validation != FieldValidation::Ignore;
    if patch_type == PatchType::Strategic {
        let (patch, problems) = object_body(body, strict).map_err(Status::bad_request)?;
        let shown = go_print(&patch);
        let Value::Object(patch) = patch else {
            return Err(Status::bad_request("Invalid JSON Patch"));
        };
        let merged = strategic::apply(current.clone(), patch, ty).map_err(|it| it.status())?;
        if let Some(error) = restore::mismatch(&merged, ty) {
            return Err(invalid(&shown, &error));
        }
        let mut patched = finish(&merged, || shown.clone(), ty, problems, validation)?;
        // What the patch says of the type is read and forgotten.
        for name in ["apiVersion", "kind"] {
            if let Some(own) = current.get(name) {
                patched.object[name] = own.clone();
            }
        }
        return Ok(patched);
    }
    let (merged, problems) = untyped(patch_type, current, body, strict)?;
    let own = ty;
    let show = || shown_after(patch_type, current, &merged, body, own);
    let ty = renamed(current, &merged).unwrap_or(Ok(ty));
    let ty = ty.map_err(|error| invalid(&show(), &error))?;
    let mut patched = finish(&merged, show, ty, problems, validation)?;
    for name in ["apiVersion", "kind"] {
        if merged.get(name).is_none()
            && let Some(own) = current.get(name)
        {
            patched.object[name] = own.clone();
        }
    }
    Ok(patched)
}

/// The document after a JSON or merge patch, as errors show it.
fn shown_after(
    patch_type: PatchType,
    current: &Value,
    merged: &Value,
    body: &[u8],
    ty: TypeRef<'_>,
) -> String {
    match patch_type {
        PatchType::Json => {
            let operations = json::parse(body, false).map_or_else(|_| Vec::new(), |it| it.0);
            let pointers = operations.iter().flat_map(json::Operation::pointers);
            shown::patched(merged, pointers, ty)
        }
        _ => {
            let patch = object_body(body, false).map_or(Value::Null, |it| it.0);
            shown::merged(current, merged, &patch, ty)
        }
    }
}

/// Applies a JSON or merge patch and leaves the result as it is, with the
/// problems that strict validation has with the patch itself.
///
/// # Errors
///
/// 400 for a malformed patch, 413 for one of too many operations, 422 where it
/// does not apply.
pub fn untyped(
    patch_type: PatchType,
    current: &Value,
    body: &[u8],
    strict: bool,
) -> Result<(Value, Vec<String>), Status> {
    match patch_type {
        PatchType::Json => {
            let (operations, problems) = json::parse(body, strict)?;
            let mut object = current.clone();
            json::apply(&mut object, &operations).map_err(|_| rejected())?;
            Ok((object, problems))
        }
        PatchType::Merge => {
            let decoded = object_body(body, strict);
            let decoding = |error| Status::bad_request(format!("error decoding patch: {error}"));
            let (patch, problems) = decoded.map_err(decoding)?;
            if patch.is_null() {
                return Err(Status::bad_request("Invalid JSON Patch"));
            }
            let mut object = current.clone();
            merge::apply(&mut object, &patch);
            Ok((object, problems))
        }
        PatchType::Strategic | PatchType::Apply => Err(Status::new(
            Reason::UnsupportedMediaType,
            "415: Unsupported Media Type",
        )),
    }
}

/// 422 without a word, which is what upstream says of a JSON patch that does
/// not apply.
fn rejected() -> Status {
    let message = "the server rejected our request due to an error in our request";
    Status::new(Reason::Invalid, message).with_details(serde_json::json!({}))
}

/// The type of an object whose `apiVersion` or `kind` the patch changed.
fn renamed(current: &Value, merged: &Value) -> Option<Result<TypeRef<'static>, String>> {
    let name = |object: &Value| {
        let text = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
        (text("apiVersion"), text("kind"))
    };
    let (mut version, mut kind) = name(merged);
    let own = name(current);
    // What is left out is what it was.
    if version.is_empty() {
        version.clone_from(&own.0);
    }
    if kind.is_empty() {
        kind.clone_from(&own.1);
    }
    if own == (version.clone(), kind.clone()) {
        return None;
    }
    let type_of = |version: &str, kind: &str| {
        let gv = GroupVersion::parse(version).unwrap_or_default();
        Scheme::builtin().type_of(&GroupVersionKind::new(gv.group, gv.version, kind))
    };
    let ty = type_of(&version, &kind);
    if let (Some(ty), Some(before)) = (ty, type_of(&own.0, &own.1))
        && kind != own.1
    {
        return Some(Err(decode::unconvertible(ty, before)));
    }
    Some(ty.ok_or_else(|| {
        format!(
            "no kind {} is registered for version {} in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
            go_quote(&kind),
            go_quote(&version)
        )
    }))
}

/// A patch that is an object; `null` stays.
fn object_body(body: &[u8], strict: bool) -> Result<(Value, Vec<String>), String> {
    let (patch, problems) = decode::unstructured(body, Format::Json, strict)?;
    let kind = match &patch {
        Value::Object(_) | Value::Null => return Ok((patch, problems)),
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
    };
    Err(format!(
        "json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"
    ))
}

fn invalid(shown: &str, error: &str) -> Status {
    let error = FieldError::new(ErrorType::Invalid, &Path::new("patch"), shown, error);
    Status::invalid(&GroupKind::default(), "", &[error])
}

fn finish(
    merged: &Value,
    shown: impl Fn() -> String,
    ty: TypeRef<'_>,
    mut problems: Vec<String>,
    validation: FieldValidation,
) -> Result<Patched, Status> {
    let strict = validation != FieldValidation::Ignore;
    let (mut object, unknown) =
        decode::retype(merged, ty, strict).map_err(|error| invalid(&shown(), &error))?;
    problems.extend(unknown);
    if validation == FieldValidation::Strict && !problems.is_empty() {
        let error = format!("strict decoding error: {}", problems.join(", "));
        return Err(invalid(&shown(), &error));
    }
    for name in ["apiVersion", "kind"] {
        if let Some(value) = merged.get(name).filter(|it| *it != "") {
            object[name] = value.clone();
        }
    }
    let entries = &merged["metadata"]["managedFields"];
    if entries.as_array().is_some_and(Vec::is_empty) {
        // An empty list is how clients clear the owners of fields.
        object["metadata"]["managedFields"] = entries.clone();
    }
    Ok(Patched {
        object,
        warnings: problems,
    })
}

/// A value as Go's `%v` prints it.
pub(crate) fn go_print(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => {
            let items: Vec<String> = list.iter().map(go_print).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            let entries: Vec<String> = entries
                .into_iter()
                .map(|(key, value)| format!("{key}:{}", go_print(value)))
                .collect();
            format!("map[{}]", entries.join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;

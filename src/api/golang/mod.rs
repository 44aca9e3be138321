//! Values in messages as Go prints them.
//!
//! Clients read and compare the text of errors, and upstream's errors print
//! structs as `encoding/json` does: fields in the order of the Go type, not of
//! their names. Versioned types have their order in the schema table; what
//! validation prints are mostly unversioned types, whose names and order are
//! in a table of their own (`table`). An error finds its type by its path,
//! so that rules need not know any of this.

mod diff;
mod table;

use serde_json::{Map, Value};

pub(crate) use diff::diff;

use crate::schema::{Scalar, Shape, TypeRef};
use crate::{ErrorType, FieldError};

/// Lets errors about fields of an object of this type print their values as
/// upstream does. `empties` are paths of maps and lists that the client wrote
/// and left empty, which the object does not tell from absent ones.
pub fn print(errors: &mut [FieldError], ty: TypeRef<'_>, empties: &[String]) {
    for error in errors {
        if error.shown.is_none() {
            error.shown = shown(error, ty, empties);
        }
    }
}

/// The value of an error as upstream prints it, where that is not how JSON does.
fn shown(error: &FieldError, ty: TypeRef<'_>, empties: &[String]) -> Option<String> {
    let path = error.field.to_string();
    let found = of_path(ty, &path);
    match &error.value {
        Value::Null if matches!(error.kind, ErrorType::Invalid | ErrorType::NotSupported) => {
            nothing(found?, is_pointer(ty, &path), empties.contains(&path)).map(str::to_owned)
        }
        // An empty list is one that nobody has given.
        Value::Array(list) if list.is_empty() => {
            let is_list = matches!(found?.shape(), Shape::List(_));
            (is_list && !empties.contains(&path)).then(|| "null".to_owned())
        }
        Value::Object(_) | Value::Array(_) => {
            // Some errors about a field print the struct that it is in, some
            // about a list one item.
            let fits = |ty: &TypeRef<'_>| match (ty.shape(), &error.value) {
                (Shape::Scalar(_), _) => false,
                (Shape::List(_), value) => value.is_array(),
                (_, value) => value.is_object(),
            };
            let element = found.and_then(|found| match found.shape() {
                Shape::List(element) => Some(element),
                _ => None,
            });
            let holder = path.rsplit_once('.').map_or("", |(holder, _)| holder);
            let ty = found
                .filter(fits)
                .or_else(|| element.filter(fits))
                .or_else(|| of_path(ty, holder).filter(fits))?;
            Some(internal(&error.value, ty))
        }
        _ => None,
    }
}

/// What Go prints of a field that was not given, where that is not `null`.
fn nothing(ty: TypeRef<'_>, is_pointer: bool, is_empty: bool) -> Option<&'static str> {
    match ty.shape() {
        Shape::List(_) if is_empty => Some("[]"),
        Shape::Map(_) if is_empty => Some("{}"),
        Shape::Scalar(_) if is_pointer => None,
        Shape::Scalar(Scalar::String) => Some("\"\""),
        Shape::Scalar(Scalar::Bool) => Some("false"),
        Shape::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::IntOrString) => Some("0"),
        _ => None,
    }
}

/// The type of the value at a path such as `spec.containers[0]`.
fn of_path<'a>(ty: TypeRef<'a>, path: &str) -> Option<TypeRef<'a>> {
    let mut at = ty;
    for step in path.split('.') {
        let (name, rest) = step
            .split_once('[')
            .map_or((step, ""), |(name, rest)| (name, rest));
        at = at.as_struct()?.field(name)?.ty();
        for _ in rest.matches(']') {
            at = match at.shape() {
                Shape::List(element) => element,
                Shape::Map(value) => value,
                _ => return None,
            };
        }
    }
    Some(at)
}

/// Whether Go has a pointer at this path, which is nil where nothing is given.
fn is_pointer(ty: TypeRef<'_>, path: &str) -> bool {
    let (holder, name) = path.rsplit_once('.').unwrap_or(("", path));
    let holder = if holder.is_empty() {
        Some(ty)
    } else {
        of_path(ty, holder)
    };
    holder
        .and_then(TypeRef::as_struct)
        .and_then(|it| it.field(name))
        .is_none_or(crate::FieldRef::is_pointer)
}

/// A value of a versioned type, printed as the unversioned type it is
/// converted to; as the versioned one where that is no type of a group.
pub(crate) fn internal(value: &Value, ty: TypeRef<'_>) -> String {
    let mut out = String::new();
    write_internal(value, ty, &mut out);
    out
}

fn write_internal(value: &Value, ty: TypeRef<'_>, out: &mut String) {
    match (ty.shape(), value) {
        (Shape::Struct(it), Value::Object(_)) => match table::of(it) {
            Some(table) => table.write(value, out),
            None => write(value, ty, out),
        },
        (Shape::List(element), Value::Array(list)) => {
            write_list(list, out, |item, out| write_internal(item, element, out));
        }
        (Shape::Map(of), Value::Object(map)) => {
            write_map(map, out, |item, out| write_internal(item, of, out));
        }
        _ => write(value, ty, out),
    }
}

/// JSON with the fields of structs in the order of their Go types.
pub(crate) fn json(value: &Value, ty: TypeRef<'_>) -> String {
    let mut out = String::new();
    write(value, ty, &mut out);
    out
}

pub(crate) fn write(value: &Value, ty: TypeRef<'_>, out: &mut String) {
    match (ty.shape(), value) {
        (Shape::Struct(it), Value::Object(map)) => {
            out.push('{');
            let known = it.fields().filter_map(|field| {
                let value = map.get(field.name())?;
                Some((field.name(), value, Some(field.ty())))
            });
            let unknown = map
                .iter()
                .filter(|(name, _)| it.field(name).is_none())
                .map(|(name, value)| (name.as_str(), value, None));
            for (index, (name, value, ty)) in known.chain(unknown).enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_string(name, out);
                out.push(':');
                match ty {
                    Some(ty) => write(value, ty, out),
                    None => write_any(value, out),
                }
            }
            out.push('}');
        }
        (Shape::List(element), Value::Array(list)) => {
            write_list(list, out, |item, out| write(item, element, out));
        }
        (Shape::Map(of), Value::Object(map)) => {
            write_map(map, out, |item, out| write(item, of, out));
        }
        _ => write_any(value, out),
    }
}

fn write_list(list: &[Value], out: &mut String, mut item: impl FnMut(&Value, &mut String)) {
    out.push('[');
    for (index, value) in list.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        item(value, out);
    }
    out.push(']');
}

fn write_map(
    map: &Map<String, Value>,
    out: &mut String,
    mut item: impl FnMut(&Value, &mut String),
) {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    out.push('{');
    for (index, (key, value)) in entries.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        write_string(key, out);
        out.push(':');
        item(value, out);
    }
    out.push('}');
}

/// A value without a type: maps by key.
pub(crate) fn write_any(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => write_map(map, out, write_any),
        Value::Array(list) => write_list(list, out, write_any),
        Value::String(text) => write_string(text, out),
        other => out.push_str(&other.to_string()),
    }
}

/// A string as `encoding/json` writes it, with what HTML minds escaped.
pub(crate) fn write_string(text: &str, out: &mut String) {
    let quoted = Value::from(text).to_string();
    for c in quoted.chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::*;
    use crate::{Path, Scheme};

    fn pod() -> TypeRef<'static> {
        Scheme::builtin().schema().named("core/v1", "Pod").unwrap()
    }

    fn check(path: &str, value: Value, empties: &[&str], expected: &str) {
        let mut errors = [FieldError::invalid(&Path::new(path), value, "")];
        let empties: Vec<String> = empties.iter().map(|it| (*it).to_owned()).collect();
        print(&mut errors, pod(), &empties);
        assert_eq!(errors[0].body(), format!("Invalid value: {expected}"));
    }

    #[test]
    fn structs_print_as_their_unversioned_types() {
        check(
            "spec.tolerations[0]",
            json!({"operator": "Exists", "key": "a<b", "tolerationSeconds": 3}),
            &[],
            r#"{"Key":"a\u003cb","Operator":"Exists","Value":"","Effect":"","TolerationSeconds":3}"#,
        );
        check(
            "metadata.ownerReferences",
            json!([{"uid": "1", "apiVersion": "v1", "kind": "Pod", "name": "a"}]),
            &[],
            r#"[{"apiVersion":"v1","kind":"Pod","name":"a","uid":"1"}]"#,
        );
        check(
            "spec.overhead",
            json!({"memory": "1Gi", "cpu": "1"}),
            &[],
            r#"{"cpu":"1","memory":"1Gi"}"#,
        );
    }

    #[test]
    fn what_moved_between_versions_is_found() {
        let spec = json!({"hostNetwork": true, "containers": []});
        let shown = internal(&spec, of_path(pod(), "spec").unwrap());
        assert!(
            shown.contains(r#""SecurityContext":{"HostNetwork":true,"#),
            "{shown}"
        );
        assert!(shown.starts_with(r#"{"Volumes":null,"InitContainers":null,"Containers":[],"#));
    }

    #[test]
    fn empty_is_not_absent() {
        check("metadata.labels", Value::Null, &["metadata.labels"], "{}");
        check("spec.volumes", Value::Null, &["spec.volumes"], "[]");
        check("metadata.labels", Value::Null, &[], "null");
    }
}

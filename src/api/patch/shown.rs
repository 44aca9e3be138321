//! The patched document as errors show it.
//!
//! Upstream patches bytes that Go wrote, and takes apart only what a patch
//! touches: the maps on its way come out sorted, everything else stays in the
//! order of Go's types.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::golang;
use crate::schema::{Shape, TypeRef};

/// After a merge patch.
pub(super) fn merged(current: &Value, merged: &Value, patch: &Value, ty: TypeRef<'_>) -> String {
    let mut out = String::new();
    write_merged(current, merged, patch, Some(ty), &mut out);
    out
}

fn write_merged(
    current: &Value,
    merged: &Value,
    patch: &Value,
    ty: Option<TypeRef<'_>>,
    out: &mut String,
) {
    let (Value::Object(map), Value::Object(changes)) = (merged, patch) else {
        return golang::write_any(merged, out);
    };
    out.push('{');
    for (index, (name, value)) in map.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        golang::write_string(name, out);
        out.push(':');
        let ty = field(ty, name);
        match (changes.get(name), ty) {
            (Some(change), _) if current[name].is_object() => {
                write_merged(&current[name], value, change, ty, out);
            }
            (None, Some(ty)) => golang::write(value, ty, out),
            _ => golang::write_any(value, out),
        }
    }
    out.push('}');
}

/// After a JSON patch whose operations went to these places.
pub(super) fn patched<'a>(
    patched: &Value,
    pointers: impl Iterator<Item = &'a str>,
    ty: TypeRef<'_>,
) -> String {
    let mut touched = BTreeSet::from([String::new()]);
    for pointer in pointers {
        let mut place = pointer;
        while let Some((before, _)) = place.rsplit_once('/') {
            touched.insert(before.to_owned());
            place = before;
        }
    }
    let mut out = String::new();
    write_patched(patched, "", &touched, Some(ty), &mut out);
    out
}

fn write_patched(
    value: &Value,
    at: &str,
    touched: &BTreeSet<String>,
    ty: Option<TypeRef<'_>>,
    out: &mut String,
) {
    if !touched.contains(at) {
        return match ty {
            Some(ty) => golang::write(value, ty, out),
            None => golang::write_any(value, out),
        };
    }
    match value {
        Value::Object(map) => {
            out.push('{');
            for (index, (name, value)) in map.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                golang::write_string(name, out);
                out.push(':');
                let at = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
                write_patched(value, &at, touched, field(ty, name), out);
            }
            out.push('}');
        }
        Value::Array(list) => {
            let element = ty.and_then(|ty| match ty.shape() {
                Shape::List(element) => Some(element),
                _ => None,
            });
            out.push('[');
            for (index, value) in list.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_patched(value, &format!("{at}/{index}"), touched, element, out);
            }
            out.push(']');
        }
        other => golang::write_any(other, out),
    }
}

fn field<'a>(ty: Option<TypeRef<'a>>, name: &str) -> Option<TypeRef<'a>> {
    match ty?.shape() {
        Shape::Struct(it) => it.field(name).map(crate::FieldRef::ty),
        Shape::Map(value) => Some(value),
        _ => None,
    }
}

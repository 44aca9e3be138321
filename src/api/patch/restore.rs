//! A merged map back into its type, as `runtime.DefaultUnstructuredConverter`
//! words what does not fit: strategic merge goes through it, while the other
//! patches go through JSON again.

use serde_json::Value;

use crate::decode;
use crate::schema::{Scalar, Shape, TypeRef};

/// The first thing in a value that is not of its type, in the type's order.
pub(super) fn mismatch(value: &Value, ty: TypeRef<'_>) -> Option<String> {
    if value.is_null() {
        return None;
    }
    match (ty.shape(), value) {
        (Shape::Struct(it), Value::Object(map)) => it.fields().find_map(|field| {
            map.get(field.name())
                .and_then(|value| mismatch(value, field.ty()))
        }),
        (Shape::Struct(_), other) => Some(format!("cannot restore struct from: {}", kind(other))),
        (Shape::List(element), Value::Array(list)) => {
            list.iter().find_map(|item| mismatch(item, element))
        }
        (Shape::List(_), other) => Some(format!("cannot restore slice from {}", kind(other))),
        (Shape::Map(of), Value::Object(map)) => map.values().find_map(|item| mismatch(item, of)),
        (Shape::Map(_), other) => Some(format!("cannot restore map from {}", kind(other))),
        (Shape::Scalar(scalar), value) => scalar_mismatch(scalar, value, ty),
    }
}

fn scalar_mismatch(scalar: Scalar, value: &Value, ty: TypeRef<'_>) -> Option<String> {
    let convert = || {
        Some(format!(
            "cannot convert {} to {}",
            kind(value),
            ty.go_name()
        ))
    };
    let unrecognized = |kind: &str| Some(format!("unrecognized type: {kind}"));
    match (scalar, value) {
        (Scalar::String, Value::String(_)) | (Scalar::Bool, Value::Bool(_)) => None,
        // Go would make a character of it, which JSON does not.
        (Scalar::String, Value::Number(number)) if !number.is_f64() => convert(),
        (Scalar::String, _) => unrecognized("string"),
        (Scalar::Bool, _) => unrecognized("bool"),
        (Scalar::Float64, Value::Number(_)) => None,
        (Scalar::Int32 | Scalar::Int64 | Scalar::Uint64, Value::Number(number)) => {
            let whole = number.as_f64().is_some_and(|number| number.fract() == 0.0);
            if whole { None } else { convert() }
        }
        (Scalar::Int32 | Scalar::Int64 | Scalar::Uint64 | Scalar::Float64, _) => {
            unrecognized(scalar.go_name())
        }
        (Scalar::Bytes, Value::String(text)) => decode::bytes(&json(text), ty, false)
            .err()
            .map(|error| format!("error decoding from json: {error}")),
        (Scalar::Bytes, Value::Array(_)) => None,
        (Scalar::Bytes, other) => Some(format!("cannot restore slice from {}", kind(other))),
        (Scalar::Json | Scalar::Any | Scalar::RawExtension | Scalar::FieldsV1, _) => None,
        // These read themselves from JSON, with words of their own.
        (_, value) => decode::bytes(value.to_string().as_bytes(), ty, false).err(),
    }
}

fn json(text: &str) -> Vec<u8> {
    Value::from(text).to_string().into_bytes()
}

/// `reflect.Kind` of a decoded value.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "invalid",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    fn check(object: Value, expected: Option<&str>) {
        let schema = crate::Scheme::builtin().schema();
        let pod = schema.named("core/v1", "Pod").unwrap();
        assert_eq!(mismatch(&object, pod).as_deref(), expected, "{object}");
    }

    #[test]
    fn words() {
        check(
            json!({"spec": "x"}),
            Some("cannot restore struct from: string"),
        );
        check(
            json!({"metadata": {"labels": 1}}),
            Some("cannot restore map from int64"),
        );
        check(
            json!({"spec": {"containers": {}}}),
            Some("cannot restore slice from map"),
        );
        check(
            json!({"spec": {"priority": "x"}}),
            Some("unrecognized type: int32"),
        );
        check(
            json!({"spec": {"priority": 1.5}}),
            Some("cannot convert float64 to int32"),
        );
        check(
            json!({"spec": {"nodeName": 1}}),
            Some("cannot convert int64 to string"),
        );
        check(
            json!({"spec": {"nodeName": true}}),
            Some("unrecognized type: string"),
        );
        check(
            json!({"spec": {"hostNetwork": "x"}}),
            Some("unrecognized type: bool"),
        );
        check(json!({"spec": {"hostNetwork": null, "priority": 1}}), None);
    }
}

//! Values into messages.

use serde_json::{Map, Value};

use crate::decode::scalar;
use crate::schema::{Member, Scalar, Shape, StructRef, TypeRef};

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const LENGTH: u32 = 2;

/// Encodes the message of a value, without an envelope. What the value lacks
/// is written as Go's zero value where Go has no pointer.
pub fn encode(value: &Value, ty: TypeRef<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    contents(&mut out, ty, Some(value));
    out
}

/// A length-delimited field.
pub(super) fn bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    varint(out, u64::from(number << 3 | LENGTH));
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn integer(out: &mut Vec<u8>, number: u32, value: i64) {
    varint(out, u64::from(number << 3 | VARINT));
    varint(out, value as u64);
}

/// A length-delimited field whose contents are written by `fill`.
fn nested(out: &mut Vec<u8>, number: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    varint(out, u64::from(number << 3 | LENGTH));
    let start = out.len();
    fill(out);
    let mut length = Vec::with_capacity(5);
    varint(&mut length, (out.len() - start) as u64);
    out.splice(start..start, length);
}

/// The contents of a message: of a struct, or of a scalar that is one.
fn contents(out: &mut Vec<u8>, ty: TypeRef<'_>, value: Option<&Value>) {
    match ty.shape() {
        Shape::Struct(it) => members(out, it, 0, value.and_then(Value::as_object)),
        Shape::List(element) => {
            for item in value.and_then(Value::as_array).into_iter().flatten() {
                single(out, 1, element, Some(item));
            }
        }
        Shape::Map(_) => {}
        Shape::Scalar(scalar) => message(out, scalar, ty, value),
    }
}

fn members(out: &mut Vec<u8>, it: StructRef<'_>, level: u8, object: Option<&Map<String, Value>>) {
    for (number, member) in it.members(level) {
        let field = match member {
            Member::Embed(level) => {
                nested(out, number, |out| members(out, it, level, object));
                continue;
            }
            Member::Field(field) => field,
        };
        let value = object
            .and_then(|it| it.get(field.name()))
            .filter(|it| !it.is_null());
        let ty = field.ty();
        match ty.shape() {
            Shape::List(element) if !ty.is_message() => {
                for item in value.and_then(Value::as_array).into_iter().flatten() {
                    single(out, number, element, Some(item));
                }
            }
            Shape::Map(of) => {
                let Some(map) = value.and_then(Value::as_object) else {
                    continue;
                };
                let mut entries: Vec<_> = map.iter().collect();
                entries.sort_unstable_by_key(|(key, _)| *key);
                for (key, value) in entries {
                    nested(out, number, |out| {
                        bytes(out, 1, key.as_bytes());
                        single(out, 2, of, Some(value));
                    });
                }
            }
            Shape::List(_) | Shape::Scalar(Scalar::Bytes) if value.is_none() => {}
            _ if field.is_pointer() && value.is_none() => {}
            _ => single(out, number, ty, value),
        }
    }
}

/// One value as a field.
fn single(out: &mut Vec<u8>, number: u32, ty: TypeRef<'_>, value: Option<&Value>) {
    let Shape::Scalar(scalar) = ty.shape() else {
        return nested(out, number, |out| contents(out, ty, value));
    };
    let text = || value.and_then(Value::as_str).unwrap_or_default();
    match scalar {
        Scalar::String => bytes(out, number, text().as_bytes()),
        Scalar::Bool => integer(out, number, i64::from(value == Some(&Value::Bool(true)))),
        Scalar::Int32 | Scalar::Int64 => {
            integer(
                out,
                number,
                value.and_then(Value::as_i64).unwrap_or_default(),
            );
        }
        Scalar::Uint64 => {
            integer(
                out,
                number,
                value.and_then(Value::as_u64).unwrap_or_default() as i64,
            );
        }
        Scalar::Float64 => {
            varint(out, u64::from(number << 3 | FIXED64));
            let double = value.and_then(Value::as_f64).unwrap_or_default();
            out.extend_from_slice(&double.to_le_bytes());
        }
        Scalar::Bytes => bytes(out, number, &scalar::base64(text()).unwrap_or_default()),
        _ => nested(out, number, |out| message(out, scalar, ty, value)),
    }
}

/// The contents of a scalar that is a message of its own.
fn message(out: &mut Vec<u8>, scalar: Scalar, ty: TypeRef<'_>, value: Option<&Value>) {
    let value = value.filter(|it| !it.is_null());
    let text = || value.and_then(Value::as_str).unwrap_or_default();
    match scalar {
        Scalar::Time | Scalar::MicroTime => {
            if let Some((seconds, nanos)) = scalar::parse_written(text()) {
                integer(out, 1, seconds);
                integer(
                    out,
                    2,
                    if scalar == Scalar::Time {
                        0
                    } else {
                        i64::from(nanos)
                    },
                );
            }
        }
        Scalar::Duration => integer(out, 1, scalar::parse_duration(text()).unwrap_or_default()),
        Scalar::Quantity => match value {
            None => bytes(out, 1, b"0"),
            Some(_) => bytes(out, 1, text().as_bytes()),
        },
        Scalar::IntOrString => {
            let is_text = value.is_some_and(Value::is_string);
            integer(out, 1, i64::from(is_text));
            integer(out, 2, value.and_then(Value::as_i64).unwrap_or_default());
            bytes(out, 3, text().as_bytes());
        }
        Scalar::FieldsV1 | Scalar::RawExtension | Scalar::Json | Scalar::Any => {
            if let Some(value) = value {
                bytes(out, 1, &serde_json::to_vec(value).unwrap_or_default());
            }
        }
        Scalar::SchemaOrBool => {
            let schema = value.filter(|it| it.is_object());
            let allows = schema.is_some() || value == Some(&Value::Bool(true));
            integer(out, 1, i64::from(allows));
            if schema.is_some() {
                single(out, 2, props(ty), schema);
            }
        }
        Scalar::SchemaOrArray | Scalar::SchemaOrStrings => match value {
            Some(Value::Array(items)) => {
                for item in items {
                    match item {
                        Value::String(text) => bytes(out, 2, text.as_bytes()),
                        item => single(out, 2, props(ty), Some(item)),
                    }
                }
            }
            Some(schema) => single(out, 1, props(ty), Some(schema)),
            None => {}
        },
        Scalar::String
        | Scalar::Bool
        | Scalar::Int32
        | Scalar::Int64
        | Scalar::Uint64
        | Scalar::Float64
        | Scalar::Bytes => {}
    }
}

/// `JSONSchemaProps`, beside the unions that hold it.
pub(super) fn props(ty: TypeRef<'_>) -> TypeRef<'_> {
    ty.sibling("JSONSchemaProps")
        .expect("the type is beside its unions")
}

//! What Go writes for a value and for none: the rules of `omitempty`.

use serde_json::{Map, Value};

use crate::schema::{FieldRef, Scalar, Shape, StructRef};

/// Puts a decoded field into its object, or leaves it out as Go's tags say.
pub(super) fn put(map: &mut Map<String, Value>, field: FieldRef<'_>, value: Value, held: bool) {
    let omitted = if field.is_pointer() {
        value.is_null() && (field.omitempty() || field.omitzero())
    } else {
        field.omitzero() && !held
            || field.omitempty()
                && match &value {
                    Value::Null => !writes_null(field.ty().shape()),
                    Value::Bool(it) => !it,
                    Value::Number(it) => {
                        it.as_f64() == Some(0.0)
                            && !matches!(field.ty().shape(), Shape::Scalar(Scalar::IntOrString))
                    }
                    Value::String(it) => {
                        it.is_empty()
                            && !matches!(
                                field.ty().shape(),
                                Shape::Scalar(Scalar::IntOrString | Scalar::RawExtension)
                            )
                    }
                    Value::Array(it) => {
                        it.is_empty() && matches!(field.ty().shape(), Shape::List(_))
                    }
                    Value::Object(it) => {
                        it.is_empty() && matches!(field.ty().shape(), Shape::Map(_))
                    }
                }
    };
    if omitted {
        map.remove(field.name());
    } else {
        map.insert(field.name().to_owned(), value);
    }
}

/// Whether the zero value is a struct in Go, which omitempty does not leave
/// out, and is written as `null`.
fn writes_null(shape: Shape<'_>) -> bool {
    matches!(
        shape,
        Shape::Scalar(
            Scalar::Time
                | Scalar::MicroTime
                | Scalar::RawExtension
                | Scalar::Json
                | Scalar::FieldsV1
                | Scalar::SchemaOrArray
                | Scalar::SchemaOrStrings
        )
    )
}

/// What Go writes for a field that was not given; `None` leaves it out.
pub(crate) fn written_zero(field: FieldRef<'_>) -> Option<Value> {
    if field.omitzero() {
        return None;
    }
    if field.is_pointer() {
        return (!field.omitempty()).then_some(Value::Null);
    }
    let shape = field.ty().shape();
    let is_struct = match shape {
        Shape::Struct(_) => true,
        Shape::Scalar(
            Scalar::Quantity | Scalar::IntOrString | Scalar::Duration | Scalar::SchemaOrBool,
        ) => true,
        shape => writes_null(shape),
    };
    (is_struct || !field.omitempty()).then(|| zero_of(shape))
}

/// The zero value of a type as Go writes it.
pub(super) fn zero_of(shape: Shape<'_>) -> Value {
    match shape {
        Shape::Struct(it) => zero_struct(it),
        Shape::List(_) | Shape::Map(_) => Value::Null,
        Shape::Scalar(scalar) => match scalar {
            Scalar::String => Value::String(String::new()),
            Scalar::Bool | Scalar::SchemaOrBool => Value::Bool(false),
            Scalar::Int32
            | Scalar::Int64
            | Scalar::Uint64
            | Scalar::Float64
            | Scalar::IntOrString => 0.into(),
            Scalar::Quantity => "0".into(),
            Scalar::Duration => "0s".into(),
            _ => Value::Null,
        },
    }
}

pub(super) fn zero_struct(it: StructRef<'_>) -> Value {
    let fields = it.fields();
    Value::Object(
        fields
            .filter_map(|field| Some((field.name().to_owned(), written_zero(field)?)))
            .collect(),
    )
}

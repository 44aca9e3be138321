//! The schema table as [`Structure`].

use serde_json::{Map, Value, json};

use super::typed::{Shape, Structure};
use crate::schema::{ListAttrs, ListType};
use crate::{FieldRef, Scalar, TypeRef};

/// A type of the table as a field or an object has it.
#[derive(Clone, Copy)]
pub struct Node<'a>(Inner<'a>);

#[derive(Clone, Copy)]
enum Inner<'a> {
    /// A type, with the list attributes and atomicity of the field that holds it.
    Typed {
        ty: TypeRef<'a>,
        list: Option<&'a ListAttrs>,
        atomic: Option<bool>,
    },
    /// Unknown: objects are divided, all else is not.
    Deduced,
}

impl<'a> From<TypeRef<'a>> for Node<'a> {
    fn from(ty: TypeRef<'a>) -> Self {
        Self(Inner::Typed {
            ty,
            list: None,
            atomic: None,
        })
    }
}

impl<'a> From<FieldRef<'a>> for Node<'a> {
    fn from(field: FieldRef<'a>) -> Self {
        Self(Inner::Typed {
            ty: field.ty(),
            list: field.list_attrs(),
            atomic: Some(field.is_atomic()),
        })
    }
}

impl Structure for Node<'_> {
    fn shape(&self, value: &Value) -> Shape {
        let (ty, list, atomic) = match self.0 {
            Inner::Typed { ty, list, atomic } => (ty, list, atomic),
            Inner::Deduced if value.is_object() => return Shape::Map,
            Inner::Deduced => return Shape::Leaf,
        };
        match (ty.shape(), value) {
            (crate::Shape::List(_), Value::Array(_)) => match list.or_else(|| ty.list_attrs()) {
                Some(attrs) if attrs.list_type == ListType::Set => Shape::Set,
                Some(attrs) if attrs.list_type == ListType::Map => {
                    Shape::Keyed(attrs.keys.iter().map(ToString::to_string).collect())
                }
                _ => Shape::Leaf,
            },
            (crate::Shape::Map(_) | crate::Shape::Struct(_), Value::Object(_)) => {
                if atomic.unwrap_or_else(|| ty.is_atomic()) {
                    Shape::Leaf
                } else {
                    Shape::Map
                }
            }
            _ => Shape::Leaf,
        }
    }

    fn field(&self, name: &str) -> (Self, bool) {
        let unknown = (Self(Inner::Deduced), false);
        let Inner::Typed { ty, .. } = self.0 else {
            return unknown;
        };
        match ty.shape() {
            crate::Shape::Struct(fields) => match fields.field(name) {
                Some(field) => (field.into(), true),
                None => unknown,
            },
            crate::Shape::Map(value) => (value.into(), false),
            _ => unknown,
        }
    }

    fn item(&self) -> Self {
        match self.0 {
            Inner::Typed { ty, .. } => match ty.shape() {
                crate::Shape::List(item) => item.into(),
                _ => Self(Inner::Deduced),
            },
            Inner::Deduced => *self,
        }
    }

    fn key_default(&self, name: &str) -> Option<Value> {
        let Inner::Typed { ty, .. } = self.0 else {
            return None;
        };
        let field = ty.as_struct()?.field(name)?;
        field.default_value().cloned().or_else(|| {
            // OpenAPI gives required scalars their zero values as defaults.
            let required = !field.is_pointer() && !field.omitempty();
            match field.ty().shape() {
                crate::Shape::Scalar(_) if required => Some(zero(field.ty())),
                _ => None,
            }
        })
    }

    fn mismatch(&self, value: &Value) -> Option<String> {
        use super::check::{go_type, wrapped, wrapped_syntax};
        let Inner::Typed { ty, .. } = self.0 else {
            return None;
        };
        match (ty.shape(), value) {
            (crate::Shape::List(_), Value::Array(_))
            | (crate::Shape::Map(_) | crate::Shape::Struct(_), Value::Object(_)) => None,
            (crate::Shape::List(_), _) => Some(format!("expected list, got {}", wrapped(value))),
            (crate::Shape::Map(_) | crate::Shape::Struct(_), _) => {
                Some(format!("expected map, got {}", wrapped(value)))
            }
            (crate::Shape::Scalar(scalar), _) => match scalar {
                Scalar::String | Scalar::Bytes | Scalar::Duration => (!value.is_string())
                    .then(|| format!("expected string, got {}", wrapped_syntax(value))),
                Scalar::Bool => (!value.is_boolean())
                    .then(|| format!("expected boolean, got {}", wrapped(value))),
                Scalar::Int32 | Scalar::Int64 | Scalar::Uint64 | Scalar::Float64 => (!value
                    .is_number())
                .then(|| format!("expected numeric (int or float), got {}", go_type(value))),
                Scalar::Time | Scalar::MicroTime | Scalar::Quantity | Scalar::IntOrString => {
                    (value.is_object() || value.is_array())
                        .then(|| format!("expected any scalar, got {}", wrapped(value)))
                }
                _ => None,
            },
        }
    }

    fn is_closed(&self) -> bool {
        let Inner::Typed { ty, .. } = self.0 else {
            return false;
        };
        matches!(ty.shape(), crate::Shape::Struct(it) if !it.preserves_unknown())
    }

    fn zero(&self) -> Value {
        match self.0 {
            Inner::Typed { ty, .. } => zero(ty),
            Inner::Deduced => json!({}),
        }
    }
}

/// Whether Go has a struct here, which `omitempty` does not leave out.
fn is_go_struct(ty: TypeRef<'_>) -> bool {
    match ty.shape() {
        crate::Shape::Struct(_) => true,
        crate::Shape::Scalar(scalar) => matches!(
            scalar,
            Scalar::Time
                | Scalar::MicroTime
                | Scalar::Duration
                | Scalar::Quantity
                | Scalar::IntOrString
                | Scalar::RawExtension
        ),
        _ => false,
    }
}

/// What Go writes of a value that nobody has set.
fn zero(ty: TypeRef<'_>) -> Value {
    match ty.shape() {
        crate::Shape::List(_) | crate::Shape::Map(_) => Value::Null,
        crate::Shape::Scalar(scalar) => match scalar {
            Scalar::String | Scalar::Duration => "".into(),
            Scalar::Bool => false.into(),
            Scalar::Int32 | Scalar::Int64 | Scalar::Uint64 | Scalar::IntOrString => 0.into(),
            Scalar::Float64 => 0.0.into(),
            Scalar::Quantity => "0".into(),
            _ => Value::Null,
        },
        crate::Shape::Struct(fields) => {
            let mut out = Map::new();
            for field in fields.fields() {
                let is_struct = !field.is_pointer() && is_go_struct(field.ty());
                // `omitempty` leaves out everything empty but structs.
                let written = if is_struct {
                    !field.omitzero()
                } else {
                    !field.omitempty() && !field.omitzero()
                };
                if written {
                    let value = if field.is_pointer() {
                        Value::Null
                    } else {
                        zero(field.ty())
                    };
                    out.insert(field.name().to_owned(), value);
                }
            }
            Value::Object(out)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use crate::managed::typed::{compare, field_set};
    use crate::managed::unowned;

    use super::*;

    fn pod() -> Node<'static> {
        crate::Scheme::builtin()
            .schema()
            .named("core/v1", "Pod")
            .unwrap()
            .into()
    }

    #[test]
    fn new_pods_own_what_their_creator_set() {
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "labels": {"app": "t"}},
            "spec": {
                "containers": [{"name": "c", "image": "i", "resources": {}, "ports": [{"containerPort": 80, "protocol": "TCP"}]}],
                "securityContext": {}, "nodeSelector": {"a": "b"},
            },
            "status": {},
        });
        let changes = compare(&pod(), &pod().zero(), &object);
        let set = changes
            .added
            .union(&changes.modified)
            .difference(&unowned());
        assert_eq!(
            set.to_value(),
            json!({
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {
                    "f:containers": {"k:{\"name\":\"c\"}": {
                        ".": {}, "f:image": {}, "f:name": {}, "f:resources": {},
                        "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}, "f:protocol": {}}},
                    }},
                    "f:nodeSelector": {},
                    "f:securityContext": {},
                },
            })
        );
    }

    #[test]
    fn applied_ports_default_their_protocol_key() {
        let config =
            json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80}]}]}});
        let set = field_set(&pod(), &config).to_value();
        let ports = &set["f:spec"]["f:containers"]["k:{\"name\":\"c\"}"]["f:ports"];
        assert!(
            ports
                .get("k:{\"containerPort\":80,\"protocol\":\"TCP\"}")
                .is_some(),
            "{ports}"
        );
    }
}

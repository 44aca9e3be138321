//! Custom schemas as server-side apply sees them.

use serde_json::{Value, json};

use super::Schema;
use super::schema::{Additional, JsonType};
use crate::Scheme;
use crate::managed;
use crate::managed::typed::{Shape, Structure};
use crate::schema::ListType;

/// The schema of a value of a custom resource, or of its metadata.
#[derive(Clone, Copy)]
pub struct Node<'a>(Inner<'a>);

#[derive(Clone, Copy)]
enum Inner<'a> {
    /// The object itself: its metadata is that of every object.
    Root(Option<&'a Schema>),
    Value(&'a Schema),
    /// A built-in type: `metadata` and what is in it.
    Typed(managed::Node<'static>),
    /// Unknown: objects are divided, all else is not.
    Deduced,
    /// A field that is a string in every object.
    Text,
}

impl<'a> Node<'a> {
    /// The object of a kind whose schema this is; nothing is known without one.
    pub fn new(schema: Option<&'a Schema>) -> Self {
        Self(Inner::Root(schema))
    }

    fn schema(&self) -> Option<&'a Schema> {
        match self.0 {
            Inner::Root(schema) => schema,
            Inner::Value(schema) => Some(schema),
            _ => None,
        }
    }

    fn below(schema: Option<&'a Schema>) -> Self {
        Self(schema.map_or(Inner::Deduced, Inner::Value))
    }
}

fn metadata() -> managed::Node<'static> {
    let ty = Scheme::builtin().schema().named("meta/v1", "ObjectMeta");
    ty.expect("the table has ObjectMeta").into()
}

impl Structure for Node<'_> {
    fn shape(&self, value: &Value) -> Shape {
        let schema = match self.0 {
            Inner::Root(_) if value.is_object() => return Shape::Map,
            Inner::Typed(node) => return node.shape(value),
            Inner::Deduced if value.is_object() => return Shape::Map,
            Inner::Value(schema) => schema,
            _ => return Shape::Leaf,
        };
        match value {
            Value::Object(_) if schema.is_atomic_map => Shape::Leaf,
            Value::Object(_) => match schema.json_type {
                JsonType::Object | JsonType::Any => Shape::Map,
                _ => Shape::Leaf,
            },
            Value::Array(_) => match schema.list_type {
                Some(ListType::Set) => Shape::Set,
                Some(ListType::Map) => Shape::Keyed(schema.list_keys.clone()),
                _ => Shape::Leaf,
            },
            _ => Shape::Leaf,
        }
    }

    fn field(&self, name: &str) -> (Self, bool) {
        match (self.0, name) {
            (Inner::Root(_), "metadata") => return (Self(Inner::Typed(metadata())), true),
            (Inner::Root(_), "kind" | "apiVersion") => return (Self(Inner::Text), true),
            (Inner::Typed(node), name) => {
                let (field, declared) = node.field(name);
                return (Self(Inner::Typed(field)), declared);
            }
            _ => {}
        }
        let Some(schema) = self.schema() else {
            return (Self(Inner::Deduced), false);
        };
        if schema.is_embedded {
            match name {
                "metadata" => return (Self(Inner::Typed(metadata())), true),
                "kind" | "apiVersion" => return (Self(Inner::Text), true),
                _ => {}
            }
        }
        match schema.properties.get(name) {
            Some(property) => (Self(Inner::Value(property)), true),
            None => (Self::below(schema.additional_schema()), false),
        }
    }

    fn item(&self) -> Self {
        match self.0 {
            Inner::Typed(node) => Self(Inner::Typed(node.item())),
            _ => Self::below(self.schema().and_then(|it| it.items.as_deref())),
        }
    }

    fn key_default(&self, name: &str) -> Option<Value> {
        match self.0 {
            Inner::Typed(node) => node.key_default(name),
            _ => self.schema()?.properties.get(name)?.default.clone(),
        }
    }

    fn mismatch(&self, value: &Value) -> Option<String> {
        use crate::managed::check::{go_type, wrapped, wrapped_syntax};
        let schema = match self.0 {
            Inner::Typed(node) => return node.mismatch(value),
            Inner::Value(schema) if !schema.is_int_or_string => schema,
            _ => return None,
        };
        let fits = match schema.json_type {
            JsonType::Object => value.is_object(),
            JsonType::Array => value.is_array(),
            JsonType::String if schema.format.is_empty() => value.is_string(),
            JsonType::Boolean => value.is_boolean(),
            JsonType::Integer | JsonType::Number => value.is_number(),
            _ => true,
        };
        (!fits).then(|| match schema.json_type {
            JsonType::Object => format!("expected map, got {}", wrapped(value)),
            JsonType::Array => format!("expected list, got {}", wrapped(value)),
            JsonType::String => format!("expected string, got {}", wrapped_syntax(value)),
            JsonType::Boolean => format!("expected boolean, got {}", wrapped(value)),
            _ => format!("expected numeric (int or float), got {}", go_type(value)),
        })
    }

    fn is_closed(&self) -> bool {
        let schema = match self.0 {
            Inner::Typed(node) => return node.is_closed(),
            Inner::Root(Some(schema)) | Inner::Value(schema) => schema,
            _ => return false,
        };
        // Without fields, anything goes.
        !schema.preserves_unknown
            && !schema.properties.is_empty()
            && matches!(
                schema.additional,
                Additional::Unsaid | Additional::Allowed(false)
            )
    }

    fn zero(&self) -> Value {
        json!({})
    }
}

//! Types as OpenAPI schemas.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::describe::Index;
use crate::schema::{FieldRef, ListType, Scalar, Shape, StructRef, TypeRef};

/// The two forms of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// OpenAPI v2: `#/definitions/`, no defaults.
    V2,
    /// OpenAPI v3: `#/components/schemas/`, defaults.
    V3,
}

impl Dialect {
    pub(crate) fn reference(self, name: &str) -> Value {
        let prefix = match self {
            Self::V2 => "#/definitions/",
            Self::V3 => "#/components/schemas/",
        };
        json!({ "$ref": format!("{prefix}{name}") })
    }
}

/// Something that has a definition of its own.
#[derive(Clone, Copy)]
pub(super) enum Definition<'a> {
    Struct(StructRef<'a>),
    Scalar(Scalar),
}

/// Definitions by name, closed under reference.
#[derive(Default)]
pub(super) struct Definitions<'a> {
    pub(super) all: BTreeMap<String, Definition<'a>>,
}

impl<'a> Definitions<'a> {
    /// Adds a type and everything that it refers to; returns its name.
    pub(super) fn add(&mut self, ty: TypeRef<'a>) -> String {
        match ty.shape() {
            Shape::List(inner) | Shape::Map(inner) => self.add(inner),
            Shape::Scalar(scalar) => {
                let name = scalar_name(scalar).unwrap_or_default().to_owned();
                if !name.is_empty() {
                    self.all
                        .entry(name.clone())
                        .or_insert(Definition::Scalar(scalar));
                }
                name
            }
            Shape::Struct(it) => {
                let name = it.openapi_name();
                if it.is_inline() {
                    it.fields().for_each(|field| drop(self.add(field.ty())));
                } else if !self.all.contains_key(&name) {
                    self.all.insert(name.clone(), Definition::Struct(it));
                    for field in it.fields().filter(|field| !field.is_hidden()) {
                        self.add(field.ty());
                    }
                }
                name
            }
        }
    }
}

/// The name of a scalar that documents define on its own.
fn scalar_name(scalar: Scalar) -> Option<&'static str> {
    Some(match scalar {
        Scalar::Time => "io.k8s.apimachinery.pkg.apis.meta.v1.Time",
        Scalar::MicroTime => "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime",
        Scalar::Duration => "io.k8s.apimachinery.pkg.apis.meta.v1.Duration",
        Scalar::FieldsV1 => "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1",
        Scalar::Quantity => "io.k8s.apimachinery.pkg.api.resource.Quantity",
        Scalar::IntOrString => "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
        Scalar::RawExtension => "io.k8s.apimachinery.pkg.runtime.RawExtension",
        Scalar::Json => "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON",
        Scalar::SchemaOrBool => {
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool"
        }
        Scalar::SchemaOrArray => {
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray"
        }
        Scalar::SchemaOrStrings => {
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray"
        }
        _ => return None,
    })
}

/// The schema of a definition.
pub(super) fn schema(
    definition: Definition<'_>,
    dialect: Dialect,
    index: &Index<'_>,
    group_versions: &[(String, String)],
) -> Value {
    match definition {
        Definition::Scalar(scalar) => {
            let mut schema = scalar_definition(scalar, dialect);
            let name = scalar_name(scalar).unwrap_or_default();
            describe(&mut schema, index.of_type(name));
            Value::Object(schema)
        }
        Definition::Struct(it) => Value::Object(object(it, dialect, index, group_versions)),
    }
}

fn describe(schema: &mut Map<String, Value>, description: Option<String>) {
    if let Some(description) = description {
        schema.insert("description".to_owned(), description.into());
    }
}

fn object(
    it: StructRef<'_>,
    dialect: Dialect,
    index: &Index<'_>,
    group_versions: &[(String, String)],
) -> Map<String, Value> {
    let name = it.openapi_name();
    let mut schema = Map::new();
    schema.insert("type".to_owned(), "object".into());
    describe(&mut schema, index.of_type(&name));
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in it.fields().filter(|field| !field.is_hidden()) {
        if field.is_required() {
            required.push(field.name());
        }
        let described = index.of_field(&name, field.name());
        properties.insert(
            field.name().to_owned(),
            property(field, dialect, described, index),
        );
    }
    if !properties.is_empty() {
        schema.insert("properties".to_owned(), Value::Object(properties));
    }
    if !required.is_empty() {
        schema.insert("required".to_owned(), json!(required));
    }
    if it.as_type().is_atomic() {
        schema.insert("x-kubernetes-map-type".to_owned(), "atomic".into());
    }
    if it.preserves_unknown() {
        schema.insert(
            "x-kubernetes-preserve-unknown-fields".to_owned(),
            true.into(),
        );
    }
    if it.is_embedded_resource() {
        schema.insert("x-kubernetes-embedded-resource".to_owned(), true.into());
    }
    if let Some(unions) = it.attribute("u")
        && let Ok(unions) = serde_json::from_str::<Value>(unions)
    {
        schema.insert("x-kubernetes-unions".to_owned(), unions);
    }
    if let Some(kinds) = kinds(it, group_versions) {
        schema.insert("x-kubernetes-group-version-kind".to_owned(), kinds);
    }
    schema
}

/// The group-version-kinds that a struct stands for.
fn kinds(it: StructRef<'_>, group_versions: &[(String, String)]) -> Option<Value> {
    let kind = |group: &str, version: &str| json!({ "group": group, "kind": it.name(), "version": version });
    match it.attribute("g") {
        Some("*") => {
            let all = group_versions
                .iter()
                .map(|(group, version)| kind(group, version));
            Some(all.collect())
        }
        Some(own) => {
            let mut parts = own.split('/');
            let mut part = || parts.next().unwrap_or_default();
            Some(json!([{ "group": part(), "version": part(), "kind": part() }]))
        }
        None if it.is_kind() && it.group() != Some("meta.k8s.io") => {
            Some(json!([kind(it.group()?, it.version())]))
        }
        None => None,
    }
}

fn property(
    field: FieldRef<'_>,
    dialect: Dialect,
    description: Option<String>,
    index: &Index<'_>,
) -> Value {
    let ty = field.ty();
    let mut schema = value(ty, dialect, index);
    let is_ref = schema.contains_key("$ref");
    let default = (dialect == Dialect::V3)
        .then(|| match field.default_value() {
            Some(default) => Some(default.clone()),
            None if field.is_pointer() => None,
            None => match ty.shape() {
                Shape::Struct(_) => Some(json!({})),
                Shape::Scalar(scalar) if !field.omitempty() => zero_default(scalar),
                _ => None,
            },
        })
        .flatten();
    if is_ref && dialect == Dialect::V3 && (default.is_some() || description.is_some()) {
        let reference = Value::Object(std::mem::take(&mut schema));
        schema.insert("allOf".to_owned(), json!([reference]));
    }
    if let Some(default) = default {
        schema.insert("default".to_owned(), default);
    }
    describe(&mut schema, description);
    let mut extension = |name: &str, value: Value| drop(schema.insert(name.to_owned(), value));
    if let Some(list) = field.list_attrs() {
        let list_type = match list.list_type {
            ListType::Atomic => "atomic",
            ListType::Set => "set",
            ListType::Map => "map",
        };
        extension("x-kubernetes-list-type", list_type.into());
        if !list.keys.is_empty() {
            extension("x-kubernetes-list-map-keys", json!(list.keys));
        }
    }
    if let Some(atomic) = field.map_type_atomic() {
        let map_type = if atomic { "atomic" } else { "granular" };
        extension("x-kubernetes-map-type", map_type.into());
    }
    if !field.patch_merge_key().is_empty() {
        extension(
            "x-kubernetes-patch-merge-key",
            field.patch_merge_key().into(),
        );
    }
    if !field.patch_strategy().is_empty() {
        extension("x-kubernetes-patch-strategy", field.patch_strategy().into());
    }
    if field.is_nullable() && dialect == Dialect::V3 {
        extension("nullable", true.into());
    }
    Value::Object(schema)
}

/// The default that v3 documents give to a value without one.
fn zero_default(scalar: Scalar) -> Option<Value> {
    Some(match scalar {
        Scalar::String => "".into(),
        Scalar::Bool => false.into(),
        Scalar::Int32 | Scalar::Int64 | Scalar::Uint64 | Scalar::Float64 => 0.into(),
        _ => return None,
    })
}

/// A type where it is used.
fn value(ty: TypeRef<'_>, dialect: Dialect, index: &Index<'_>) -> Map<String, Value> {
    let mut schema = Map::new();
    let mut put = |name: &str, value: Value| drop(schema.insert(name.to_owned(), value));
    match ty.shape() {
        Shape::List(element) => {
            put("type", "array".into());
            put("items", item(element, dialect, index));
        }
        Shape::Map(of) => {
            put("type", "object".into());
            put("additionalProperties", item(of, dialect, index));
        }
        Shape::Struct(it) if it.is_inline() => return object(it, dialect, index, &[]),
        Shape::Struct(it) => return as_map(dialect.reference(&it.openapi_name())),
        Shape::Scalar(scalar) => {
            if let Some(name) = scalar_name(scalar) {
                return as_map(dialect.reference(name));
            }
            let (json_type, format) = match scalar {
                Scalar::Bool => ("boolean", ""),
                Scalar::Int32 => ("integer", "int32"),
                Scalar::Int64 | Scalar::Uint64 => ("integer", "int64"),
                Scalar::Float64 => ("number", "double"),
                Scalar::Bytes => ("string", "byte"),
                Scalar::Any => ("object", ""),
                _ => ("string", ""),
            };
            put("type", json_type.into());
            if !format.is_empty() {
                put("format", format.into());
            }
        }
    }
    schema
}

fn as_map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// An element of a list or a value of a map.
fn item(ty: TypeRef<'_>, dialect: Dialect, index: &Index<'_>) -> Value {
    Value::Object(value(ty, dialect, index))
}

fn scalar_definition(scalar: Scalar, dialect: Dialect) -> Map<String, Value> {
    let value = match (scalar, dialect) {
        (Scalar::Time | Scalar::MicroTime, _) => json!({ "type": "string", "format": "date-time" }),
        (Scalar::Quantity, Dialect::V3) => {
            json!({ "oneOf": [{ "type": "string" }, { "type": "number" }] })
        }
        (Scalar::IntOrString, Dialect::V3) => {
            json!({ "format": "int-or-string", "oneOf": [{ "type": "integer" }, { "type": "string" }] })
        }
        (Scalar::IntOrString, Dialect::V2) => {
            json!({ "type": "string", "format": "int-or-string" })
        }
        (Scalar::Quantity | Scalar::Duration, _) => json!({ "type": "string" }),
        (Scalar::FieldsV1 | Scalar::RawExtension, _) => json!({ "type": "object" }),
        _ => json!({}),
    };
    as_map(value)
}

//! Custom resources in OpenAPI documents.
//!
//! A definition's schema is published as it is in v3. In v2, what its clients
//! cannot read is left out: junctors, nullable values, and the fields of values
//! that keep unknown ones.

use serde_json::{Map, Value, json};

use super::definitions::Dialect;
use super::describe::Index;
use crate::scheme::Resource;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
/// A type whose fields are described as those of every object are.
const SAMPLE: &str = "io.k8s.api.core.v1.ConfigMap";
const SAMPLE_LIST: &str = "io.k8s.api.core.v1.ConfigMapList";

/// One version of a custom resource, as documents show it.
#[derive(Clone, Debug)]
pub struct Custom {
    /// Its names, verbs and subresources.
    pub resource: Resource,
    /// Kind of its lists.
    pub list_kind: String,
    /// `openAPIV3Schema`.
    pub schema: Value,
    /// Whether nothing is pruned.
    pub preserves_unknown: bool,
    /// JSON paths of selectable fields.
    pub selectable: Vec<String>,
}

impl Custom {
    /// `com.example.v1.Widget`.
    pub(super) fn name(&self) -> String {
        self.named(&self.resource.gvk.kind)
    }

    /// `com.example.v1.WidgetList`.
    pub(super) fn list_name(&self) -> String {
        self.named(&self.list_kind)
    }

    fn named(&self, kind: &str) -> String {
        let gvk = &self.resource.gvk;
        let mut parts: Vec<&str> = gvk.group.split('.').collect();
        parts.reverse();
        format!("{}.{}.{kind}", parts.join("."), gvk.version)
    }

    fn named_kind(&self, kind: &str) -> Value {
        let gvk = &self.resource.gvk;
        json!([{ "group": gvk.group, "kind": kind, "version": gvk.version }])
    }

    fn extend(&self, schema: &mut Value, kind: &str) {
        schema["x-kubernetes-group-version-kind"] = self.named_kind(kind);
        if !self.selectable.is_empty() {
            let paths = self.selectable.iter();
            schema["x-kubernetes-selectable-fields"] = paths
                .map(|path| json!({ "fieldPath": path.trim_start_matches('.') }))
                .collect();
        }
    }

    /// The schemas of objects and lists.
    pub(super) fn definitions(&self, dialect: Dialect, index: &Index<'_>) -> [(String, Value); 2] {
        let is_v2 = dialect == Dialect::V2;
        let own = &self.schema;
        let keeps = own["x-kubernetes-preserve-unknown-fields"] == true || self.preserves_unknown;
        let mut object = if !own.is_object() || (is_v2 && keeps) {
            json!({ "type": "object" })
        } else {
            let mut schema = match dialect {
                Dialect::V2 => plain(own),
                Dialect::V3 => unfolded(own),
            };
            embedded(&mut schema, dialect, index);
            about_objects(&mut schema, dialect, index, SAMPLE);
            schema
        };
        self.extend(&mut object, &self.resource.gvk.kind);
        let mut list = json!({
            "type": "object",
            "description": format!("{} is a list of {}", self.list_kind, self.resource.gvk.kind),
            "required": ["items"],
            "properties": {
                "items": {
                    "type": "array",
                    "description": format!(
                        "List of {}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md",
                        self.resource.plural
                    ),
                    "items": dialect.reference(&self.name()),
                },
            },
        });
        about_objects(&mut list, dialect, index, SAMPLE_LIST);
        self.extend(&mut list, &self.list_kind);
        [(self.name(), object), (self.list_name(), list)]
    }
}

/// `apiVersion`, `kind` and `metadata`.
fn about_objects(schema: &mut Value, dialect: Dialect, index: &Index<'_>, sample: &str) {
    for name in ["apiVersion", "kind"] {
        let mut field = json!({ "type": "string" });
        if let Some(description) = index.of_field(sample, name) {
            field["description"] = description.into();
        }
        schema["properties"][name] = field;
    }
    let ty = if sample == SAMPLE_LIST {
        "ListMeta"
    } else {
        "ObjectMeta"
    };
    let reference = dialect.reference(&format!("{META}.{ty}"));
    let mut field = match dialect {
        Dialect::V2 => reference,
        Dialect::V3 => json!({ "allOf": [reference] }),
    };
    if let Some(description) = index.of_field(sample, "metadata") {
        field["description"] = description.into();
    }
    schema["properties"]["metadata"] = field;
}

/// Objects within objects have the fields of all objects, too.
fn embedded(schema: &mut Value, dialect: Dialect, index: &Index<'_>) {
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties
            .values_mut()
            .for_each(|it| embedded(it, dialect, index));
    }
    for name in ["items", "additionalProperties"] {
        if let Some(below) = schema.get_mut(name).filter(|it| it.is_object()) {
            embedded(below, dialect, index);
        }
    }
    let is = |name: &str| schema[name] == true;
    if dialect == Dialect::V2 && is("x-kubernetes-preserve-unknown-fields") {
        return;
    }
    if is("x-kubernetes-embedded-resource") {
        about_objects(schema, dialect, index, SAMPLE);
        let mut required = schema["required"].as_array().cloned().unwrap_or_default();
        for name in ["kind", "apiVersion"] {
            if !required.iter().any(|it| it == name) {
                required.push(name.into());
            }
        }
        schema["required"] = required.into();
    }
}

/// Calls for every schema directly below one that has a structure.
fn below(map: &mut Map<String, Value>, f: fn(&Value) -> Value) {
    if let Some(properties) = map.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(|it| *it = f(it));
    }
    for name in ["items", "additionalProperties"] {
        if let Some(it) = map.get_mut(name).filter(|it| it.is_object()) {
            *it = f(it);
        }
    }
}

/// A schema whose shorthands are spelled out.
fn unfolded(schema: &Value) -> Value {
    let mut map = schema.as_object().cloned().unwrap_or_default();
    if map
        .get("x-kubernetes-int-or-string")
        .is_some_and(|it| *it == true)
    {
        map.entry("anyOf")
            .or_insert_with(|| json!([{ "type": "integer" }, { "type": "string" }]));
    }
    below(&mut map, unfolded);
    Value::Object(map)
}

/// A schema that clients of v2 can read.
fn plain(schema: &Value) -> Value {
    let mut map = schema.as_object().cloned().unwrap_or_default();
    for name in ["allOf", "anyOf", "oneOf", "not"] {
        map.remove(name);
    }
    let is = |map: &Map<String, Value>, name: &str| map.get(name).is_some_and(|it| *it == true);
    if is(&map, "nullable") {
        for name in ["nullable", "type", "items", "properties"] {
            map.remove(name);
        }
    }
    if is(&map, "x-kubernetes-preserve-unknown-fields") {
        map.remove("items");
        map.remove("properties");
        if map.get("type").is_some_and(|it| it == "object") {
            map.remove("type");
        }
    }
    if map.get("type").is_some_and(|it| it == "array") && !map.contains_key("items") {
        map.remove("type");
    }
    let nullable: Vec<String> = map
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(_, it)| it["nullable"] == true)
        .map(|(name, _)| name.clone())
        .collect();
    if let Some(required) = map.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|it| {
            !it.as_str()
                .is_some_and(|it| nullable.iter().any(|own| own == it))
        });
        if required.is_empty() {
            map.remove("required");
        }
    }
    below(&mut map, plain);
    Value::Object(map)
}

/// Leaves out of paths what custom resources do not speak.
pub(super) fn without_typed_media(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|name, _| !is_typed(name));
            map.values_mut().for_each(without_typed_media);
        }
        Value::Array(items) => {
            items.retain(|it| !it.as_str().is_some_and(is_typed));
            items.iter_mut().for_each(without_typed_media);
        }
        _ => {}
    }
}

fn is_typed(media: &str) -> bool {
    media.starts_with("application/vnd.kubernetes.protobuf")
        || media == "application/strategic-merge-patch+json"
}

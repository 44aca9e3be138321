//! Custom resources in OpenAPI documents.

use serde_json::{Map, Value, json};

use crate::openapi::Dialect;

const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const EMBEDDED_API_VERSION: &str = "apiVersion defines the versioned schema of this representation of an object. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const EMBEDDED_KIND: &str = "kind is a string value representing the type of this object. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const OBJECT_META: &str = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
const LIST_META: &str = "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// One version of a custom resource for OpenAPI documents of one dialect.
#[derive(Clone, Debug)]
pub struct Published {
    /// Group.
    pub group: String,
    /// Version.
    pub version: String,
    /// Name in paths.
    pub plural: String,
    /// Kind.
    pub kind: String,
    /// Whether objects are in namespaces.
    pub namespaced: bool,
    /// Whether there is a `status` subresource.
    pub has_status: bool,
    /// Whether there is a `scale` subresource.
    pub has_scale: bool,
    /// Name of the definition of objects.
    pub object: String,
    /// Name of the definition of lists.
    pub list: String,
    /// The definitions of both.
    pub definitions: Vec<(String, Value)>,
}

/// Every served version of a definition, in the dialect of v2 or v3.
pub fn publish(definition: &Value, v2: bool) -> Vec<Published> {
    let spec = &definition["spec"];
    let served = spec["versions"].as_array().into_iter().flatten();
    served
        .filter(|it| it["served"] == true)
        .map(|version| one(spec, version, v2))
        .collect()
}

fn one(spec: &Value, version: &Value, v2: bool) -> Published {
    let text = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let (group, name) = (text(spec, "group"), text(version, "name"));
    let (kind, list_kind) = (
        text(&spec["names"], "kind"),
        text(&spec["names"], "listKind"),
    );
    let plural = text(&spec["names"], "plural");
    let reversed: Vec<&str> = group.rsplit('.').collect();
    let model = |kind: &str| format!("{}.{name}.{kind}", reversed.join("."));
    let (object, list) = (model(&kind), model(&list_kind));
    let gvk = |kind: &str| json!([{ "group": group, "version": name, "kind": kind }]);
    let fields: Vec<Value> = version["selectableFields"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|it| it["jsonPath"].as_str())
        .map(|path| json!({ "fieldPath": path.strip_prefix('.').unwrap_or(path) }))
        .collect();
    let mut schema = object_schema(spec, version, v2);
    let mut list_schema = json!({
        "description": format!("{list_kind} is a list of {kind}"),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": { "type": "string", "description": API_VERSION },
            "kind": { "type": "string", "description": KIND },
            "metadata": described(&format!("{META}.ListMeta"), LIST_META, v2),
            "items": {
                "type": "array",
                "description": format!("List of {plural}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md"),
                "items": dialect(v2).reference(&object),
            },
        },
    });
    for (schema, kind) in [(&mut schema, &kind), (&mut list_schema, &list_kind)] {
        schema["x-kubernetes-group-version-kind"] = gvk(kind);
        if !fields.is_empty() {
            schema["x-kubernetes-selectable-fields"] = fields.clone().into();
        }
    }
    Published {
        plural,
        namespaced: spec["scope"] == "Namespaced",
        has_status: version["subresources"]["status"].is_object(),
        has_scale: version["subresources"]["scale"].is_object(),
        definitions: vec![(object.clone(), schema), (list.clone(), list_schema)],
        group,
        version: name,
        kind,
        object,
        list,
    }
}

fn described(name: &str, description: &str, v2: bool) -> Value {
    let reference = dialect(v2).reference(name);
    if v2 {
        let mut reference = reference;
        reference["description"] = description.into();
        reference
    } else {
        json!({ "description": description, "allOf": [reference] })
    }
}

fn object_schema(spec: &Value, version: &Value, v2: bool) -> Value {
    let json = &version["schema"]["openAPIV3Schema"];
    let bare = json!({ "type": "object" });
    if !json.is_object() || !super::is_structural(json) {
        return bare;
    }
    let preserves = json["x-kubernetes-preserve-unknown-fields"] == true
        || spec["preserveUnknownFields"] == true;
    if v2 && preserves {
        // With properties, kubectl would refuse everything else.
        return bare;
    }
    let mut schema = json.clone();
    unfold(&mut schema);
    if v2 {
        to_v2(&mut schema);
    }
    embed(&mut schema, v2);
    let properties = object(&mut schema, "properties");
    properties.insert(
        "metadata".into(),
        described(&format!("{META}.ObjectMeta"), OBJECT_META, v2),
    );
    for (name, description) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        let text = json!({ "type": "string", "description": description });
        properties.insert(name.into(), text);
    }
    schema
}

fn object<'a>(schema: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    if !schema[name].is_object() {
        schema[name] = json!({});
    }
    schema[name].as_object_mut().expect("made just above")
}

/// Calls for every schema that says what a value is made of.
fn each(schema: &mut Value, f: &mut dyn FnMut(&mut Value)) {
    let Some(map) = schema.as_object_mut() else {
        return;
    };
    for name in ["items", "additionalProperties"] {
        if let Some(below) = map.get_mut(name).filter(|it| it.is_object()) {
            f(below);
        }
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(f);
    }
}

/// Spells out what `x-kubernetes-int-or-string` means.
fn unfold(schema: &mut Value) {
    if schema["x-kubernetes-int-or-string"] == true {
        let both = json!([{ "type": "integer" }, { "type": "string" }]);
        let said = schema["anyOf"] == both || schema["allOf"][0]["anyOf"] == both;
        if !said && schema.get("anyOf").is_none() {
            schema["anyOf"] = both;
        } else if !said {
            let mut all = vec![json!({ "anyOf": both })];
            all.extend(schema["allOf"].as_array().cloned().unwrap_or_default());
            schema["allOf"] = all.into();
        }
    }
    each(schema, &mut unfold);
}

/// Leaves out what OpenAPI v2 and the clients that read it do not know.
fn to_v2(schema: &mut Value) {
    let nullable = |it: &Value| it["nullable"] == true;
    let mut optional: Vec<String> = Vec::new();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        if nullable(property) {
            optional.push(name.clone());
        }
    }
    let free =
        schema["additionalProperties"].is_object() && nullable(&schema["additionalProperties"]);
    let preserves = schema["x-kubernetes-preserve-unknown-fields"] == true;
    let is_nullable = nullable(schema);
    if let Some(map) = schema.as_object_mut() {
        for name in ["allOf", "oneOf", "anyOf", "not", "nullable", "default"] {
            map.remove(name);
        }
        if is_nullable {
            map.remove("type");
        }
        if is_nullable || preserves {
            map.remove("items");
            map.remove("properties");
        }
        let is =
            |map: &Map<String, Value>, wanted: &str| map.get("type").is_some_and(|it| it == wanted);
        if (is(map, "array") && !map.contains_key("items")) || (preserves && is(map, "object")) {
            map.remove("type");
        }
        if let Some(Value::Array(required)) = map.get_mut("required") {
            required.retain(|it| {
                !free
                    && !it
                        .as_str()
                        .is_some_and(|it| optional.iter().any(|own| own == it))
            });
            if required.is_empty() {
                map.remove("required");
            }
        }
    }
    each(schema, &mut to_v2);
}

/// Adds the fields of every object to embedded ones.
fn embed(schema: &mut Value, v2: bool) {
    each(schema, &mut |below| embed(below, v2));
    let preserves = schema["x-kubernetes-preserve-unknown-fields"] == true;
    if schema["x-kubernetes-embedded-resource"] != true || (v2 && preserves) {
        return;
    }
    let properties = object(schema, "properties");
    for (name, description) in [
        ("apiVersion", EMBEDDED_API_VERSION),
        ("kind", EMBEDDED_KIND),
    ] {
        let text = json!({ "type": "string", "description": description });
        properties.insert(name.into(), text);
    }
    properties.insert(
        "metadata".into(),
        described(&format!("{META}.ObjectMeta"), OBJECT_META, v2),
    );
    let mut required = schema["required"].as_array().cloned().unwrap_or_default();
    for name in ["kind", "apiVersion"] {
        if !required.iter().any(|it| it == name) {
            required.push(name.into());
        }
    }
    schema["required"] = required.into();
}

fn dialect(v2: bool) -> Dialect {
    if v2 { Dialect::V2 } else { Dialect::V3 }
}

//! Whether a schema is structural, and what keeps it from being so.
//!
//! Checks run on the JSON of a definition: what is wrong is often what the
//! compiled form has no place for.

use serde_json::Value;

use crate::{FieldError, Path};

/// Fields that structural schemas cannot have, with their Go spelling.
const UNSUPPORTED: [(&str, &str); 7] = [
    ("id", "id"),
    ("$schema", "schema"),
    ("$ref", "$ref"),
    ("patternProperties", "patternProperties"),
    ("dependencies", "dependencies"),
    ("additionalItems", "additionalItems"),
    ("definitions", "definitions"),
];

fn text<'a>(json: &'a Value, name: &str) -> &'a str {
    json[name].as_str().unwrap_or_default()
}

fn blank(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn list<'a>(json: &'a Value, name: &str) -> &'a [Value] {
    json[name].as_array().map_or(&[], Vec::as_slice)
}

fn properties(json: &Value) -> impl Iterator<Item = (&String, &Value)> {
    json["properties"].as_object().into_iter().flatten()
}

/// Calls for every schema directly below one.
pub(crate) fn each_below<'a>(json: &'a Value, f: &mut dyn FnMut(&'a Value)) {
    match &json["items"] {
        Value::Array(items) => items.iter().for_each(&mut *f),
        Value::Object(_) => f(&json["items"]),
        _ => {}
    }
    for name in ["allOf", "anyOf", "oneOf"] {
        list(json, name).iter().for_each(&mut *f);
    }
    for name in ["not", "additionalProperties", "additionalItems"] {
        if json[name].is_object() {
            f(&json[name]);
        }
    }
    for name in [
        "properties",
        "patternProperties",
        "definitions",
        "dependencies",
    ] {
        let below = json[name].as_object().into_iter().flatten();
        below
            .map(|(_, it)| it)
            .filter(|it| it.is_object())
            .for_each(&mut *f);
    }
}

/// Why a schema cannot be made structural at all.
pub(crate) fn unsupported(json: &Value) -> Option<String> {
    for (name, shown) in UNSUPPORTED {
        let value = &json[name];
        if !blank(value) || (name == "additionalItems" && !value.is_null()) {
            return Some(format!("OpenAPIV3Schema '{shown}' is not supported"));
        }
    }
    if json["x-kubernetes-preserve-unknown-fields"] == false {
        return Some(
            "internal error: 'x-kubernetes-preserve-unknown-fields' must be true or undefined"
                .to_owned(),
        );
    }
    if !list(json, "items").is_empty() {
        return Some("OpenAPIV3Schema 'items' must be a schema, but is an array".to_owned());
    }
    let mut found = None;
    each_below(json, &mut |below| {
        if found.is_none() {
            found = unsupported(below);
        }
    });
    found
}

/// Whether a schema is structural.
pub(crate) fn is_structural(json: &Value) -> bool {
    unsupported(json).is_none() && structural_errors(json, &Path::root()).is_empty()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// What keeps a schema from being structural, sorted.
pub(crate) fn structural_errors(json: &Value, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    invariants(json, Level::Root, path, &mut errors);
    completeness(json, json, path, path, &mut errors);
    errors.sort_by_cached_key(ToString::to_string);
    errors
}

fn invariants(json: &Value, level: Level, path: &Path, errors: &mut Vec<FieldError>) {
    let flag = |name: &str| json[name] == true;
    let json_type = text(json, "type");
    if json_type == "array" && !json["items"].is_object() {
        errors.push(FieldError::required(
            &path.child("items"),
            "must be specified",
        ));
    }
    if json["items"].is_object() {
        invariants(&json["items"], Level::Item, &path.child("items"), errors);
    }
    for (name, property) in properties(json) {
        invariants(
            property,
            Level::Field,
            &path.child("properties").key(name),
            errors,
        );
    }
    let additional = &json["additionalProperties"];
    let at_additional = path.child("additionalProperties");
    if !additional.is_null() {
        if level == Level::Root {
            errors.push(FieldError::forbidden(
                &at_additional,
                "must not be used at the root",
            ));
        }
        if additional.is_object() {
            invariants(additional, Level::Field, &at_additional, errors);
        }
    }
    let preserves = flag("x-kubernetes-preserve-unknown-fields");
    let embedded = flag("x-kubernetes-embedded-resource");
    let int_or_string = flag("x-kubernetes-int-or-string");
    for (name, set) in [
        ("x-kubernetes-preserve-unknown-fields", preserves),
        ("x-kubernetes-embedded-resource", embedded),
    ] {
        if int_or_string && set {
            errors.push(FieldError::invalid(
                &path.child(name),
                true,
                "must be false if x-kubernetes-int-or-string is true",
            ));
        }
    }
    let is_first = list(json, "allOf").first().is_some_and(is_int_or_string);
    value_validation(json, is_int_or_string(json), is_first, path, errors);
    let at_type = path.child("type");
    if embedded && json_type != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(if json_type.is_empty() {
            FieldError::required(&at_type, detail)
        } else {
            FieldError::invalid(&at_type, json_type, detail)
        });
    } else if json_type.is_empty() && !int_or_string && !preserves {
        let detail = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(FieldError::required(&at_type, detail));
    }
    if embedded && !additional.is_null() {
        errors.push(FieldError::forbidden(
            &at_additional,
            "must not be used if x-kubernetes-embedded-resource is set",
        ));
    }
    if level == Level::Root && !json_type.is_empty() && json_type != "object" {
        errors.push(FieldError::invalid(
            &at_type,
            json_type,
            "must be object at the root",
        ));
    }
    own_fields(json, level, embedded, path, errors);
    if embedded && !preserves && properties(json).next().is_none() {
        errors.push(FieldError::required(
            &path.child("properties"),
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
        ));
    }
}

/// What may be said of `apiVersion`, `kind` and `metadata`.
fn own_fields(
    json: &Value,
    level: Level,
    embedded: bool,
    path: &Path,
    errors: &mut Vec<FieldError>,
) {
    let is_object = level == Level::Root || embedded;
    let at = |name: &str| path.child("properties").key(name);
    for name in ["kind", "apiVersion"] {
        let property = &json["properties"][name];
        if property.is_object() && is_object && text(property, "type") != "string" {
            errors.push(FieldError::invalid(
                &at(name).child("type"),
                text(property, "type"),
                "must be string",
            ));
        }
    }
    let metadata = &json["properties"]["metadata"];
    if !metadata.is_object() {
        return;
    }
    if is_object && text(metadata, "type") != "object" {
        errors.push(FieldError::invalid(
            &at("metadata").child("type"),
            text(metadata, "type"),
            "must be object",
        ));
    }
    if level == Level::Root {
        let names = |(name, _): (&String, &Value)| matches!(name.as_str(), "name" | "generateName");
        let only_names = properties(metadata).all(names);
        let more = metadata
            .as_object()
            .into_iter()
            .flatten()
            .any(|(name, value)| {
                !matches!(name.as_str(), "type" | "default" | "properties") && !blank(value)
            });
        if more || !only_names {
            errors.push(FieldError::forbidden(
                &at("metadata"),
                "must not specify anything other than name and generateName, but metadata is implicitly specified",
            ));
        }
    }
}

/// Whether `anyOf` says integer or string, and nothing else.
fn is_int_or_string(json: &Value) -> bool {
    let is_only = |it: &Value, wanted: &str| {
        let mut set = it
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(_, value)| !blank(value));
        set.next()
            .is_some_and(|(name, value)| name == "type" && value == wanted)
            && set.next().is_none()
    };
    match list(json, "anyOf") {
        [first, second] => is_only(first, "integer") && is_only(second, "string"),
        _ => false,
    }
}

fn value_validation(
    json: &Value,
    skip_any_of: bool,
    skip_first_all_of: bool,
    path: &Path,
    errors: &mut Vec<FieldError>,
) {
    if !skip_any_of {
        for (at, below) in list(json, "anyOf").iter().enumerate() {
            nested(below, false, &path.child("anyOf").index(at), errors);
        }
    }
    for (at, below) in list(json, "allOf").iter().enumerate() {
        let skip = skip_first_all_of && at == 0;
        nested(below, skip, &path.child("allOf").index(at), errors);
    }
    for (at, below) in list(json, "oneOf").iter().enumerate() {
        nested(below, false, &path.child("oneOf").index(at), errors);
    }
    if json["not"].is_object() {
        nested(&json["not"], false, &path.child("not"), errors);
    }
    let pattern = text(json, "pattern");
    if !pattern.is_empty()
        && let Err(error) = super::compile_pattern(pattern)
    {
        errors.push(FieldError::invalid(
            &path.child("pattern"),
            pattern,
            format!("must be a valid regular expression, but isn't: {error}"),
        ));
    }
}

/// Schemas below a junctor may restrict values, but add nothing.
fn nested(json: &Value, skip_any_of: bool, path: &Path, errors: &mut Vec<FieldError>) {
    const MUST_BE: [(&str, &str); 12] = [
        ("type", "must be empty to be structural"),
        ("default", "must be undefined to be structural"),
        ("title", "must be empty to be structural"),
        ("description", "must be empty to be structural"),
        ("nullable", "must be false to be structural"),
        (
            "x-kubernetes-preserve-unknown-fields",
            "must be false to be structural",
        ),
        (
            "x-kubernetes-embedded-resource",
            "must be false to be structural",
        ),
        (
            "x-kubernetes-int-or-string",
            "must be false to be structural",
        ),
        (
            "x-kubernetes-list-map-keys",
            "must be empty to be structural",
        ),
        (
            "x-kubernetes-list-type",
            "must be undefined to be structural",
        ),
        (
            "x-kubernetes-map-type",
            "must be undefined to be structural",
        ),
        ("x-kubernetes-validations", "must be empty to be structural"),
    ];
    value_validation(json, skip_any_of, false, path, errors);
    if json["items"].is_object() {
        nested(&json["items"], false, &path.child("items"), errors);
    }
    for (name, property) in properties(json) {
        nested(property, false, &path.child("properties").key(name), errors);
    }
    for (name, detail) in MUST_BE {
        let value = &json[name];
        let set = if name == "default" {
            !value.is_null()
        } else {
            !blank(value)
        };
        if set {
            errors.push(FieldError::forbidden(&path.child(name), detail));
        }
    }
    let additional = &json["additionalProperties"];
    if additional.is_object() || additional == true {
        errors.push(FieldError::forbidden(
            &path.child("additionalProperties"),
            "must be undefined to be structural",
        ));
    }
    if json["properties"]["metadata"].is_object() {
        errors.push(FieldError::forbidden(
            &path.child("properties").key("metadata"),
            "must not be specified in a nested context",
        ));
    }
}

/// Whatever is restricted below a junctor must be specified outside of it.
fn completeness(
    rules: &Value,
    schema: &Value,
    at: &Path,
    from: &Path,
    errors: &mut Vec<FieldError>,
) {
    if rules["not"].is_object() {
        nested_completeness(&rules["not"], schema, at, &from.child("not"), errors);
    }
    for name in ["allOf", "anyOf", "oneOf"] {
        for (index, below) in list(rules, name).iter().enumerate() {
            let from = from.child(name).index(index);
            nested_completeness(below, schema, at, &from, errors);
        }
    }
}

fn nested_completeness(
    rules: &Value,
    schema: &Value,
    at: &Path,
    from: &Path,
    errors: &mut Vec<FieldError>,
) {
    completeness(rules, schema, at, from, errors);
    let mut below = |rules: &Value, schema: &Value, at: Path, from: Path| {
        if schema.is_object() {
            nested_completeness(rules, schema, &at, &from, errors);
        } else {
            let detail = format!("because it is defined in {from}");
            errors.push(FieldError::required(&at, detail));
        }
    };
    if rules["items"].is_object() {
        let (at, from) = (at.child("items"), from.child("items"));
        below(&rules["items"], &schema["items"], at, from);
    }
    for (name, property) in properties(rules) {
        let key = |path: &Path| path.child("properties").key(name);
        below(
            property,
            &schema["properties"][name.as_str()],
            key(at),
            key(from),
        );
    }
}

//! Schemas of custom resources: what a definition may say of its values.

use serde_json::Value;

use super::super::value::{blank, list, text};
use crate::custom::{self, Schema};
use crate::{FieldError, Path};

type Errors = Vec<FieldError>;

/// What is held against a schema: not what an earlier version of the
/// definition was let pass.
pub(super) struct Strictness {
    structural: bool,
    types: bool,
    pruned_defaults: bool,
    atomic_sets: bool,
    map_keys: bool,
}

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];

impl Strictness {
    /// For a new definition, or one that replaces another's spec.
    pub(super) fn of(old: Option<&Value>) -> Self {
        let had = |wrong: &dyn Fn(&Value) -> bool| {
            old.is_some_and(|old| super::apiextensions::any_schema(old, wrong))
        };
        let anywhere =
            |test: &'static dyn Fn(&Value) -> bool| move |schema: &Value| contains(schema, test);
        Self {
            structural: !had(&|schema| !custom::is_structural(schema)),
            types: !had(&anywhere(&|it| {
                let name = text(it, "type");
                !name.is_empty() && !TYPES.contains(&name)
            })),
            pruned_defaults: !had(&anywhere(&|it| !it["default"].is_null() && unpruned(it))),
            atomic_sets: !had(&anywhere(&|it| {
                let mut errors = Vec::new();
                atomic_set(it, &Path::root(), &mut errors);
                !errors.is_empty()
            })),
            map_keys: !had(&anywhere(&|it| {
                let mut errors = Vec::new();
                map_keys(it, &Path::root(), &mut errors);
                !errors.is_empty()
            })),
        }
    }
}

fn contains(schema: &Value, test: &dyn Fn(&Value) -> bool) -> bool {
    let mut found = test(schema);
    custom::each_below(schema, &mut |below| found |= contains(below, test));
    found
}

fn unpruned(json: &Value) -> bool {
    let mut pruned = json["default"].clone();
    let schema = Schema::new(json);
    !custom::prune(&mut pruned, Some(&schema), false).is_empty()
}

/// Everything wrong with the schema of a version.
pub(super) fn schema(
    json: &Value,
    has_status: bool,
    strictness: &Strictness,
    path: &Path,
    errors: &mut Errors,
) {
    let before = errors.len();
    if has_status {
        status_root(json, path, errors);
    }
    if json["nullable"] == true {
        let detail = "nullable cannot be true at the root";
        errors.push(FieldError::forbidden(&path.child("nullable"), detail));
    }
    let mut unsupported = None;
    if strictness.structural {
        unsupported = custom::unsupported(json);
        if unsupported.is_none() {
            let structural = custom::structural_errors(json, path);
            if structural.is_empty() {
                defaults(json, true, false, strictness, path, errors);
            }
            errors.extend(structural);
        }
    }
    node(json, &Place::default(), true, strictness, path, errors);
    if let Some(error) = unsupported
        && errors.len() == before
    {
        errors.push(FieldError::invalid(path, "", error));
    }
}

/// With a status subresource the root may say little, for `status` is judged
/// by its own schema alone.
fn status_root(json: &Value, path: &Path, errors: &mut Errors) {
    const ALLOWED: [&str; 23] = [
        "description",
        "type",
        "format",
        "title",
        "maximum",
        "exclusiveMaximum",
        "minimum",
        "exclusiveMinimum",
        "maxLength",
        "minLength",
        "pattern",
        "maxItems",
        "minItems",
        "uniqueItems",
        "multipleOf",
        "required",
        "items",
        "properties",
        "externalDocs",
        "example",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-validations",
        "",
    ];
    let json_type = text(json, "type");
    if !json_type.is_empty() && json_type != "object" {
        errors.push(FieldError::invalid(
            &path.child("type"),
            json_type,
            "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled",
        ));
        return;
    }
    let stray =
        json.as_object().into_iter().flatten().any(|(name, value)| {
            !ALLOWED.contains(&name.as_str()) && !blank(value) && *value != false
        });
    if stray {
        errors.push(FieldError::invalid(
            path,
            json.clone(),
            "only [Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength MinLength Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties ExternalDocs Example XPreserveUnknownFields XValidations] fields are allowed at the root of the schema if the status subresource is enabled",
        ));
    }
}

/// Defaults must be values of their schemas.
fn defaults(
    json: &Value,
    is_root: bool,
    in_meta: bool,
    strictness: &Strictness,
    path: &Path,
    errors: &mut Errors,
) {
    let embedded = is_root || json["x-kubernetes-embedded-resource"] == true;
    let in_meta = in_meta && !embedded;
    let default = &json["default"];
    if !default.is_null() {
        let at = path.child("default");
        let mut schema = Schema::new(json);
        schema.is_embedded = embedded;
        if strictness.pruned_defaults && !in_meta && unpruned(json) {
            let detail = "must not have unknown fields";
            errors.push(FieldError::invalid(&at, default.clone(), detail));
        }
        let mut own = Vec::new();
        custom::embedded_errors(default, &schema, &at, &mut own);
        if own.is_empty() {
            own = custom::check(&at, &schema, default, None);
        }
        errors.extend(own);
    }
    if json["items"].is_object() {
        defaults(
            &json["items"],
            false,
            in_meta,
            strictness,
            &path.child("items"),
            errors,
        );
    }
    for (name, property) in json["properties"].as_object().into_iter().flatten() {
        let meta = embedded && matches!(name.as_str(), "metadata" | "apiVersion" | "kind");
        let at = path.child("properties").key(name);
        defaults(property, false, in_meta || meta, strictness, &at, errors);
    }
}

/// Where in a schema a node stands.
#[derive(Clone, Default)]
struct Place {
    /// Why there may be no default.
    no_default: Option<String>,
    in_meta: bool,
}

fn node(
    json: &Value,
    place: &Place,
    is_root: bool,
    strictness: &Strictness,
    path: &Path,
    errors: &mut Errors,
) {
    unsupported_fields(json, place, strictness, path, errors);
    if json["uniqueItems"] == true {
        let detail =
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(FieldError::forbidden(&path.child("uniqueItems"), detail));
    }
    let additional = &json["additionalProperties"];
    let properties = json["properties"].as_object();
    if !additional.is_null() {
        let at = path.child("additionalProperties");
        if properties.is_some_and(|it| !it.is_empty()) && *additional != true {
            let detail = "additionalProperties and properties are mutual exclusive";
            errors.push(FieldError::forbidden(&at, detail));
        }
        if additional.is_object() {
            let mut below = place.clone();
            if place.in_meta {
                below.no_default =
                    Some("inside additionalProperties applying to object metadata".to_owned());
            }
            node(additional, &below, false, strictness, &at, errors);
        }
    }
    let embedded = json["x-kubernetes-embedded-resource"] == true;
    for (name, property) in properties.into_iter().flatten() {
        let mut below = place.clone();
        if (is_root || embedded) && matches!(name.as_str(), "metadata" | "kind" | "apiVersion") {
            below.in_meta = true;
            if is_root {
                below.no_default = Some(format!("in top-level {name}"));
            }
        }
        let at = path.child("properties").key(name);
        node(property, &below, false, strictness, &at, errors);
    }
    if json["not"].is_object() {
        node(
            &json["not"],
            place,
            false,
            strictness,
            &path.child("not"),
            errors,
        );
    }
    for name in ["allOf", "oneOf", "anyOf"] {
        for (index, below) in list(json, name).iter().enumerate() {
            let at = path.child(name).index(index);
            node(below, place, false, strictness, &at, errors);
        }
    }
    if json["items"].is_object() {
        node(
            &json["items"],
            place,
            false,
            strictness,
            &path.child("items"),
            errors,
        );
    }
    lists_and_maps(json, strictness, path, errors);
    rules(json, path, errors);
}

fn unsupported_fields(
    json: &Value,
    place: &Place,
    strictness: &Strictness,
    path: &Path,
    errors: &mut Errors,
) {
    let json_type = text(json, "type");
    if strictness.types && !json_type.is_empty() && !TYPES.contains(&json_type) {
        errors.push(FieldError::not_supported(
            &path.child("type"),
            json_type,
            &TYPES,
        ));
    }
    if let (Some(why), false) = (&place.no_default, json["default"].is_null()) {
        let detail = format!("must not be set {why}");
        errors.push(FieldError::forbidden(&path.child("default"), detail));
    }
    for name in [
        "id",
        "additionalItems",
        "patternProperties",
        "definitions",
        "dependencies",
        "$ref",
    ] {
        if !blank(&json[name]) {
            let detail = format!("{name} is not supported");
            errors.push(FieldError::forbidden(&path.child(name), detail));
        }
    }
    if json_type == "null" {
        let detail = "type cannot be set to null, use nullable as an alternative";
        errors.push(FieldError::forbidden(&path.child("type"), detail));
    }
    if !list(json, "items").is_empty() {
        let detail = "items must be a schema object and not an array";
        errors.push(FieldError::forbidden(&path.child("items"), detail));
    }
    if place.in_meta && json["x-kubernetes-embedded-resource"] == true {
        errors.push(FieldError::forbidden(
            &path.child("x-kubernetes-embedded-resource"),
            "must not be used inside of resource meta",
        ));
    }
}

fn lists_and_maps(json: &Value, strictness: &Strictness, path: &Path, errors: &mut Errors) {
    const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
    let json_type = text(json, "type");
    let at_type = path.child("type");
    if json[PRESERVE] == false {
        let detail = "must be true or undefined";
        errors.push(FieldError::invalid(&path.child(PRESERVE), false, detail));
    }
    let mut of_type = |wanted: &str, extension: &str| {
        if json_type == wanted {
            return true;
        }
        let detail = format!("must be {wanted} if {extension} is specified");
        errors.push(if json_type.is_empty() {
            FieldError::required(&at_type, detail)
        } else {
            FieldError::invalid(&at_type, json_type, detail)
        });
        false
    };
    let map_type = json["x-kubernetes-map-type"].as_str();
    if map_type.is_some() {
        of_type("object", "x-kubernetes-map-type");
    }
    let list_type = json["x-kubernetes-list-type"].as_str();
    let is_list = list_type.is_none() || of_type("array", "x-kubernetes-list-type");
    if let Some(given) = map_type.filter(|it| !matches!(*it, "atomic" | "granular")) {
        let at = path.child("x-kubernetes-map-type");
        errors.push(FieldError::not_supported(
            &at,
            given,
            &["atomic", "granular"],
        ));
    }
    if is_list && strictness.atomic_sets {
        atomic_set(json, path, errors);
    }
    let at_list = path.child("x-kubernetes-list-type");
    if let Some(given) = list_type.filter(|it| !matches!(*it, "atomic" | "set" | "map")) {
        errors.push(FieldError::not_supported(
            &at_list,
            given,
            &["atomic", "set", "map"],
        ));
    }
    let keys = list(json, "x-kubernetes-list-map-keys");
    if !keys.is_empty() && list_type != Some("map") {
        let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
        errors.push(match list_type {
            None => FieldError::required(&at_list, detail),
            Some(other) => FieldError::invalid(&at_list, other, detail),
        });
    }
    if list_type == Some("map") {
        keyed_list(json, keys, path, errors);
    }
    if strictness.map_keys {
        map_keys(json, path, errors);
    }
}

fn atomic_set(json: &Value, path: &Path, errors: &mut Errors) {
    let items = &json["items"];
    if json["x-kubernetes-list-type"] != "set" || !items.is_object() {
        return;
    }
    let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let own = &items["x-kubernetes-list-type"];
    let at = path.child("items");
    match text(items, "type") {
        "array" if !own.is_null() && own != "atomic" => {
            let at = at.child("x-kubernetes-list-type");
            errors.push(FieldError::invalid(&at, own.clone(), detail));
        }
        "object" if items["x-kubernetes-map-type"] != "atomic" => {
            // Upstream shows the list type here.
            let at = at.child("x-kubernetes-map-type");
            errors.push(FieldError::invalid(&at, own.clone(), detail));
        }
        _ => {}
    }
}

fn keyed_list(json: &Value, keys: &[Value], path: &Path, errors: &mut Errors) {
    let at_keys = path.child("x-kubernetes-list-map-keys");
    if keys.is_empty() {
        let detail = "must not be empty if x-kubernetes-list-type is map";
        errors.push(FieldError::required(&at_keys, detail));
    }
    let at = path.child("items");
    let items = &json["items"];
    if items.is_null() {
        let detail = "must have a schema if x-kubernetes-list-type is map";
        errors.push(FieldError::required(&at, detail));
    }
    if !items.is_object() {
        return;
    }
    let item_type = text(items, "type");
    if item_type != "object" {
        errors.push(FieldError::invalid(
            &at.child("type"),
            item_type,
            "must be object if parent array's x-kubernetes-list-type is map",
        ));
        return;
    }
    for (index, key) in keys.iter().enumerate() {
        let name = key.as_str().unwrap_or_default();
        let property = &items["properties"][name];
        if !property.is_object() {
            let detail = "entries must all be names of item properties";
            errors.push(FieldError::invalid(&at_keys, keys.to_vec(), detail));
        } else if matches!(text(property, "type"), "array" | "object") {
            errors.push(FieldError::invalid(
                &at.child("properties").key(name).child("type"),
                item_type,
                "must be a scalar type if parent array's x-kubernetes-list-type is map",
            ));
        }
        if keys[..index].contains(key) {
            let detail = "must not contain duplicate entries";
            errors.push(FieldError::invalid(&at_keys, keys.to_vec(), detail));
        }
    }
}

fn map_keys(json: &Value, path: &Path, errors: &mut Errors) {
    let items = &json["items"];
    let list_type = text(json, "x-kubernetes-list-type");
    if !items.is_object() || !matches!(list_type, "set" | "map") {
        return;
    }
    let at = path.child("items");
    if items["nullable"] == true {
        let detail = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
        errors.push(FieldError::forbidden(&at.child("nullable"), detail));
    }
    if list_type != "map" {
        return;
    }
    for key in list(json, "x-kubernetes-list-map-keys") {
        let property = &items["properties"][key.as_str().unwrap_or_default()];
        if !property.is_object() {
            continue;
        }
        let at = at.child("properties").key(key.as_str().unwrap_or_default());
        if !list(items, "required").contains(key) && property["default"].is_null() {
            errors.push(FieldError::required(
                &at.child("default"),
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
            ));
        }
        if property["nullable"] == true {
            errors.push(FieldError::forbidden(
                &at.child("nullable"),
                "this property is in x-kubernetes-list-map-keys, so it cannot be nullable",
            ));
        }
    }
}

/// `x-kubernetes-validations`, the expressions themselves apart.
fn rules(json: &Value, path: &Path, errors: &mut Errors) {
    const REASONS: [&str; 4] = [
        "FieldValueDuplicate",
        "FieldValueForbidden",
        "FieldValueInvalid",
        "FieldValueRequired",
    ];
    const NAME: &str = "x-kubernetes-validations";
    for (index, rule) in list(json, NAME).iter().enumerate() {
        let at = path.child(NAME).index(index);
        let given = |name: &str| text(rule, name);
        let breaks = |text: &str| text.contains(['\n', '\r']);
        let message = given("message");
        let trimmed = message.trim();
        let expression = given("rule").trim();
        if expression.is_empty() {
            errors.push(FieldError::required(
                &at.child("rule"),
                "rule is not specified",
            ));
        } else if !message.is_empty() && trimmed.is_empty() {
            let detail = "must be non-empty if specified";
            errors.push(FieldError::invalid(&at.child("message"), message, detail));
        } else if breaks(trimmed) {
            let detail = "must not contain line breaks";
            errors.push(FieldError::invalid(&at.child("message"), message, detail));
        } else if breaks(expression) && trimmed.is_empty() {
            let detail = "message must be specified if rule contains line breaks";
            errors.push(FieldError::required(&at.child("message"), detail));
        }
        let dynamic = given("messageExpression");
        if !dynamic.is_empty() && dynamic.trim().is_empty() {
            let detail = "messageExpression must be non-empty if specified";
            errors.push(FieldError::required(&at.child("messageExpression"), detail));
        }
        if let Some(reason) = rule["reason"].as_str().filter(|it| !REASONS.contains(it)) {
            errors.push(FieldError::not_supported(
                &at.child("reason"),
                reason,
                &REASONS,
            ));
        }
        let field = given("fieldPath");
        let at = at.child("fieldPath");
        if !field.is_empty() && field.trim().is_empty() {
            errors.push(FieldError::invalid(
                &at,
                field,
                "must be non-empty if specified",
            ));
        }
        if breaks(field) {
            errors.push(FieldError::invalid(
                &at,
                field,
                "must not contain line breaks",
            ));
        }
        if !field.is_empty() && field_at(field, json, true).is_err() {
            errors.push(FieldError::invalid(&at, field, "must be a valid path"));
        }
    }
}

/// The schema that a path such as `.spec.size` leads to.
///
/// # Errors
///
/// Why it leads nowhere.
pub(super) fn field_at<'a>(
    path: &str,
    schema: &'a Value,
    brackets: bool,
) -> Result<&'a Value, String> {
    let mut rest = path;
    let mut at = schema;
    let below = |at: &'a Value, name: &str| -> Result<&'a Value, String> {
        let nowhere = || "does not refer to a valid field".to_owned();
        let properties = &at["properties"];
        if properties.as_object().is_some_and(|it| !it.is_empty()) {
            return properties.get(name).ok_or_else(nowhere);
        }
        let additional = &at["additionalProperties"];
        additional
            .is_object()
            .then_some(additional)
            .ok_or_else(nowhere)
    };
    while let Some(first) = rest.chars().next() {
        match first {
            '.' => {
                let tail = &rest[1..];
                let end = tail.find(['.', '[', ']']).unwrap_or(tail.len());
                let end = if end == 0 && !tail.is_empty() { 1 } else { end };
                if tail.is_empty() {
                    return Err("unexpected end of JSON path".to_owned());
                }
                at = below(at, &tail[..end])?;
                rest = &tail[end..];
            }
            '[' if !brackets => return Err("array notation is not allowed".to_owned()),
            '[' => {
                let inner = rest[1..]
                    .strip_prefix('\'')
                    .and_then(|it| it.split_once("']"))
                    .ok_or_else(|| {
                        format!("expected single quoted string but got {}", &rest[1..])
                    })?;
                at = below(at, inner.0)?;
                rest = inner.1;
            }
            _ => {
                let end = rest.find(['.', '[', ']']).unwrap_or(rest.len()).max(1);
                return Err(format!("expected [ or . but got: {}", &rest[..end]));
            }
        }
    }
    Ok(at)
}

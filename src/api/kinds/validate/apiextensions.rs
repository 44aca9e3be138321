//! Definitions of custom resources.
//!
//! Upstream judges its internal form, in which what all versions have in
//! common stands once above them; so do the paths of its errors.

use serde_json::Value;

use super::super::value::{indexed, invalid, list, same, text};
use super::json_schema::{self, Strictness};
use crate::{FieldError, Path, names};

type Errors = Vec<FieldError>;

const APPROVED: &str = "api-approved.kubernetes.io";
const SELECTABLE_MAX: usize = 8;

/// Fields of versions, and where the common one stands.
const COMMON: [(&str, &str); 4] = [
    ("schema", "validation"),
    ("subresources", "subresources"),
    ("additionalPrinterColumns", "additionalPrinterColumns"),
    ("selectableFields", "selectableFields"),
];

/// A spec in the internal form.
fn internal(spec: &Value) -> Value {
    let mut out = spec.clone();
    let Some(versions) = out["versions"].as_array().cloned() else {
        return out;
    };
    let Some(first) = versions.first() else {
        return out;
    };
    out["version"] = first["name"].clone();
    let mut versions = versions.clone();
    for (own, common) in COMMON {
        let value = versions[0][own].clone();
        if versions.iter().all(|it| same(&it[own], &value)) {
            if !value.is_null() {
                out[common] = value;
            }
            for version in versions.iter_mut().filter_map(Value::as_object_mut) {
                version.remove(own);
            }
        }
    }
    out["versions"] = versions.into();
    let conversion = &spec["conversion"];
    if let Some(webhook) = conversion["webhook"].as_object() {
        let conversion = out["conversion"].as_object_mut();
        if let Some(conversion) = conversion {
            conversion.remove("webhook");
            for (from, to) in [
                ("clientConfig", "webhookClientConfig"),
                ("conversionReviewVersions", "conversionReviewVersions"),
            ] {
                if let Some(value) = webhook.get(from) {
                    conversion.insert(to.to_owned(), value.clone());
                }
            }
        }
    }
    out
}

/// `ValidateCustomResourceDefinition` and its update, metadata apart.
pub(in crate::kinds) fn definition(new: &Value, old: Option<&Value>) -> Errors {
    let spec = internal(&new["spec"]);
    let old_spec = old.map(|it| internal(&it["spec"]));
    let path = Path::new("spec");
    let mut errors = Vec::new();
    spec_errors(&spec, old_spec.as_ref(), &path, &mut errors);
    if let (Some(old), Some(old_spec)) = (old, &old_spec) {
        let mut keep = |holder: &[&str], at: Path| {
            let get = |spec: &Value| {
                holder
                    .iter()
                    .fold(spec.clone(), |it, name| it[*name].clone())
            };
            let value = get(&spec);
            if value != get(old_spec) {
                errors.push(FieldError::invalid(&at, value, "field is immutable"));
            }
        };
        if is_established(old) {
            keep(&["scope"], path.child("scope"));
            keep(&["names", "kind"], path.child("names").child("kind"));
        }
        keep(&["group"], path.child("group"));
        keep(&["names", "plural"], path.child("names").child("plural"));
    }
    errors.extend(status(&new["status"]));
    stored_versions(new, &mut errors);
    approval(new, old, &mut errors);
    if spec["preserveUnknownFields"] == true
        && old.is_none_or(|old| old["spec"]["preserveUnknownFields"] != true)
    {
        errors.push(FieldError::invalid(
            &path.child("preserveUnknownFields"),
            true,
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
        ));
    }
    errors
}

fn is_established(object: &Value) -> bool {
    list(&object["status"], "conditions")
        .iter()
        .any(|it| it["type"] == "Established" && it["status"] == "True")
}

/// What is wrong with a status.
pub(in crate::kinds) fn status(status: &Value) -> Errors {
    let mut errors = Vec::new();
    let at = Path::new("status").child("acceptedNames");
    given_names(&status["acceptedNames"], &at, &mut errors);
    errors
}

fn stored_versions(object: &Value, errors: &mut Errors) {
    let path = Path::new("status").child("storedVersions");
    let stored = list(&object["status"], "storedVersions");
    if stored.is_empty() {
        errors.push(FieldError::invalid(
            &path,
            Value::Null,
            "must have at least one stored version",
        ));
        return;
    }
    let versions = list(&object["spec"], "versions");
    for version in versions.iter().filter(|it| it["storage"] == true) {
        if !stored.contains(&version["name"]) {
            let detail = format!("must have the storage version {}", text(version, "name"));
            errors.push(FieldError::invalid(&path, stored.to_vec(), detail));
        }
    }
    for (index, name) in stored.iter().enumerate() {
        if !versions.iter().any(|it| it["name"] == *name) {
            let name = name.as_str().unwrap_or_default();
            errors.push(FieldError::invalid(
                &path.index(index),
                name,
                format!("missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"),
            ));
        }
    }
}

/// What a group of the community's own has to say for itself.
fn approval(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    let group = text(&new["spec"], "group");
    let protected = ["k8s.io", "kubernetes.io"].iter().any(|it| {
        group
            .strip_suffix(it)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    });
    if !protected {
        return;
    }
    let state = |object: &Value| {
        let given = text(&object["metadata"]["annotations"], APPROVED).to_owned();
        let is_url = given.split_once("://").is_some_and(|(scheme, rest)| {
            !scheme.is_empty() && !rest.is_empty() && !rest.starts_with('/')
        });
        if given.is_empty() {
            'm'
        } else if given.starts_with("unapproved") {
            'b'
        } else if is_url {
            'a'
        } else {
            'i'
        }
    };
    let now = state(new);
    if old.is_some_and(|old| state(old) == now) {
        return;
    }
    let at = Path::new("metadata").child("annotations").key(APPROVED);
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    match now {
        'm' => errors.push(FieldError::required(
            &at,
            format!("protected groups must have approval annotation {APPROVED:?}, {see}"),
        )),
        'i' => errors.push(FieldError::invalid(
            &at,
            text(&new["metadata"]["annotations"], APPROVED),
            format!("protected groups must have approval annotation {APPROVED:?} with either a URL or a reason starting with \"unapproved\", {see}"),
        )),
        _ => {}
    }
}

/// A version as upstream's internal type is printed, schemas apart.
fn shown(version: &Value) -> String {
    let quoted = |value: &Value| value.to_string();
    let flag = |name: &str| version[name] == true;
    format!(
        "{{\"Name\":{},\"Served\":{},\"Storage\":{},\"Deprecated\":{},\"DeprecationWarning\":{},\"Schema\":{},\"Subresources\":{},\"AdditionalPrinterColumns\":{},\"SelectableFields\":{}}}",
        quoted(&version["name"]),
        flag("served"),
        flag("storage"),
        flag("deprecated"),
        quoted(&version["deprecationWarning"]),
        quoted(&version["schema"]),
        quoted(&version["subresources"]),
        quoted(&version["additionalPrinterColumns"]),
        quoted(&version["selectableFields"]),
    )
}

fn spec_errors(spec: &Value, old: Option<&Value>, path: &Path, errors: &mut Errors) {
    let at = path.child("group");
    let group = text(spec, "group");
    let wrong = names::dns_subdomain(group);
    if group.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else if !wrong.is_empty() {
        errors.push(FieldError::invalid(&at, group, wrong.join(",")));
    } else if !group.contains('.') {
        let detail = "should be a domain with at least one dot";
        errors.push(FieldError::invalid(&at, group, detail));
    }
    one_of(spec, "scope", &["Cluster", "Namespaced"], path, errors);
    let versions = list(spec, "versions");
    let has_schema = |version: &Value| version["schema"]["openAPIV3Schema"].is_object();
    let common = spec["validation"]["openAPIV3Schema"].is_object();
    let had_all = old.is_none_or(|old| {
        old["validation"]["openAPIV3Schema"].is_object()
            || list(old, "versions").iter().all(has_schema)
    });
    if had_all && !common {
        for (at, version) in indexed(spec, "versions", path) {
            if !has_schema(version) {
                let at = at.child("schema").child("openAPIV3Schema");
                errors.push(FieldError::required(&at, ""));
            }
        }
    }
    let strictness = Strictness::of(old);
    let has_status = |holder: &Value| holder["status"].is_object();
    let mut seen: Vec<&str> = Vec::new();
    let mut repeated = false;
    let mut stored = 0;
    for (at, version) in indexed(spec, "versions", path) {
        stored += usize::from(version["storage"] == true);
        let name = text(version, "name");
        repeated |= seen.contains(&name);
        seen.push(name);
        let wrong = names::dns_1035_label(name);
        if !wrong.is_empty() {
            errors.push(FieldError::invalid(
                &at.child("name"),
                name,
                wrong.join(","),
            ));
        }
        deprecation(version, &at, errors);
        let own = if versions.iter().any(|it| !it["subresources"].is_null()) {
            &version["subresources"]
        } else {
            &spec["subresources"]
        };
        version_errors(version, "schema", has_status(own), &strictness, &at, errors);
    }
    let all = || {
        let each: Vec<String> = versions.iter().map(shown).collect();
        match spec.get("versions") {
            Some(Value::Array(_)) => format!("[{}]", each.join(",")),
            _ => "null".to_owned(),
        }
    };
    let mut about_versions = |detail: &str| {
        let mut error = FieldError::invalid(&path.child("versions"), Value::Null, detail);
        error.shown = Some(all());
        errors.push(error);
    };
    if repeated {
        about_versions("must contain unique version names");
    }
    if stored != 1 {
        about_versions("must have exactly one version marked as storage version");
    }
    let version = text(spec, "version");
    let wrong = names::dns_1035_label(version);
    if !version.is_empty() && !wrong.is_empty() {
        let at = path.child("version");
        errors.push(FieldError::invalid(&at, version, wrong.join(",")));
    }
    let at = path.child("names");
    for name in ["plural", "singular", "kind", "listKind"] {
        if text(&spec["names"], name).is_empty() {
            errors.push(FieldError::required(&at.child(name), ""));
        }
    }
    given_names(&spec["names"], &at, errors);
    let any_status = has_status(&spec["subresources"])
        || versions.iter().any(|it| has_status(&it["subresources"]));
    version_errors(spec, "validation", any_status, &strictness, path, errors);
    conversion(&spec["conversion"], &path.child("conversion"), errors);
}

fn one_of(holder: &Value, name: &str, known: &[&str], path: &Path, errors: &mut Errors) {
    let given = text(holder, name);
    if given.is_empty() {
        errors.push(FieldError::required(&path.child(name), ""));
    } else if !known.contains(&given) {
        errors.push(FieldError::not_supported(&path.child(name), given, known));
    }
}

fn deprecation(version: &Value, at: &Path, errors: &mut Errors) {
    let Some(warning) = version["deprecationWarning"].as_str() else {
        return;
    };
    let at = at.child("deprecationWarning");
    let mut say = |detail: String| errors.push(FieldError::invalid(&at, warning, detail));
    if version["deprecated"] != true {
        return say("can only be set for deprecated versions".to_owned());
    }
    if warning.len() > 256 {
        say("must be <= 256 characters long".to_owned());
    }
    if warning.is_empty() {
        say("must not be an empty string".to_owned());
    }
    let stray = |(_, c): &(usize, char)| c.is_control() || (c.is_whitespace() && *c != ' ');
    if let Some((index, _)) = warning.char_indices().find(stray) {
        say(format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {index}"
        ));
    }
}

/// What a version may say for itself, or the definition for all of them.
fn version_errors(
    holder: &Value,
    schema: &str,
    has_status: bool,
    strictness: &Strictness,
    path: &Path,
    errors: &mut Errors,
) {
    let json = &holder[schema]["openAPIV3Schema"];
    if json.is_object() {
        let at = path.child(schema).child("openAPIV3Schema");
        json_schema::schema(json, has_status, strictness, &at, errors);
    }
    subresources(&holder["subresources"], &path.child("subresources"), errors);
    for (at, column) in indexed(holder, "additionalPrinterColumns", path) {
        column_errors(column, &at, errors);
    }
    let fields = list(holder, "selectableFields");
    if !fields.is_empty() {
        let at = path.child("selectableFields");
        if json.is_object() {
            selectable(fields, json, &at, errors);
        } else {
            let detail = if schema == "schema" {
                "may only be set when `version.schema.openAPIV3Schema` is not included"
            } else {
                "may only be set when validations.schema is included"
            };
            errors.push(FieldError::invalid(&at, "", detail));
        }
    }
}

fn given_names(given: &Value, path: &Path, errors: &mut Errors) {
    for name in ["plural", "singular"] {
        let value = text(given, name);
        let wrong = names::dns_1035_label(value);
        if !value.is_empty() && !wrong.is_empty() {
            errors.push(FieldError::invalid(
                &path.child(name),
                value,
                wrong.join(","),
            ));
        }
    }
    for name in ["kind", "listKind"] {
        let value = text(given, name);
        let wrong = names::dns_1035_label(&value.to_lowercase());
        if !value.is_empty() && !wrong.is_empty() {
            let detail = format!(
                "may have mixed case, but should otherwise match: {}",
                wrong.join(",")
            );
            errors.push(FieldError::invalid(&path.child(name), value, detail));
        }
    }
    let mut each = |name: &str| {
        for (at, value) in indexed(given, name, path) {
            let value = value.as_str().unwrap_or_default();
            let wrong = names::dns_1035_label(value);
            if !wrong.is_empty() {
                errors.push(FieldError::invalid(&at, value, wrong.join(",")));
            }
        }
    };
    each("shortNames");
    let kind = text(given, "kind");
    let same_kinds = !kind.is_empty() && kind == text(given, "listKind");
    if same_kinds {
        errors.push(FieldError::invalid(
            &path.child("listKind"),
            kind,
            "kind and listKind may not be the same",
        ));
    }
    for (at, value) in indexed(given, "categories", path) {
        let value = value.as_str().unwrap_or_default();
        let wrong = names::dns_1035_label(value);
        if !wrong.is_empty() {
            errors.push(FieldError::invalid(&at, value, wrong.join(",")));
        }
    }
}

fn column_errors(column: &Value, at: &Path, errors: &mut Errors) {
    const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
    const FORMATS: [&str; 8] = [
        "byte",
        "date",
        "date-time",
        "double",
        "float",
        "int32",
        "int64",
        "password",
    ];
    if text(column, "name").is_empty() {
        errors.push(FieldError::required(&at.child("name"), ""));
    }
    let kind = text(column, "type");
    let detail = format!("must be one of {}", TYPES.join(","));
    if kind.is_empty() {
        errors.push(FieldError::required(&at.child("type"), detail));
    } else if !TYPES.contains(&kind) {
        errors.push(FieldError::invalid(&at.child("type"), kind, detail));
    }
    let format = text(column, "format");
    if !format.is_empty() && !FORMATS.contains(&format) {
        let detail = format!("must be one of {}", FORMATS.join(","));
        errors.push(FieldError::invalid(&at.child("format"), format, detail));
    }
    let path = text(column, "jsonPath");
    if path.is_empty() {
        errors.push(FieldError::required(&at.child("JSONPath"), ""));
    } else {
        errors.extend(simple_path(path, &at.child("JSONPath")));
    }
}

fn simple_path(path: &str, at: &Path) -> Option<FieldError> {
    (!path.starts_with('.'))
        .then(|| FieldError::invalid(at, path, "must be a simple json path starting with ."))
}

fn subresources(subresources: &Value, path: &Path, errors: &mut Errors) {
    let scale = &subresources["scale"];
    if !scale.is_object() {
        return;
    }
    for (name, below, detail) in [
        (
            "specReplicasPath",
            &[".spec."][..],
            "should be a json path under .spec",
        ),
        (
            "statusReplicasPath",
            &[".status."],
            "should be a json path under .status",
        ),
        (
            "labelSelectorPath",
            &[".spec.", ".status."],
            "should be a json path under either .spec or .status",
        ),
    ] {
        let at = path.child("scale").child(name);
        let value = text(scale, name);
        if value.is_empty() {
            if name != "labelSelectorPath" {
                errors.push(FieldError::required(&at, ""));
            }
        } else if let Some(error) = simple_path(value, &at) {
            errors.push(error);
        } else if !below.iter().any(|it| value.starts_with(it)) {
            errors.push(FieldError::invalid(&at, value, detail));
        }
    }
}

fn selectable(fields: &[Value], schema: &Value, path: &Path, errors: &mut Errors) {
    let mut seen: Vec<&str> = Vec::new();
    for (index, field) in fields.iter().enumerate() {
        let at = path.index(index).child("jsonPath");
        let given = text(field, "jsonPath");
        if given.is_empty() {
            errors.push(FieldError::required(&at, ""));
            continue;
        }
        let found = match json_schema::field_at(given, schema, false) {
            Ok(found) => found,
            Err(error) => {
                let detail = format!("is an invalid path: {error}");
                errors.push(FieldError::invalid(&at, given, detail));
                continue;
            }
        };
        if given.starts_with(".metadata.") {
            let detail = "must not point to fields in metadata";
            errors.push(FieldError::invalid(&at, given, detail));
        }
        if !matches!(text(found, "type"), "string" | "boolean" | "integer") {
            errors.push(FieldError::invalid(
                &at,
                given,
                "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.",
            ));
        }
        if seen.contains(&given) {
            errors.push(FieldError::duplicate(&at, given));
        } else {
            seen.push(given);
        }
    }
    if seen.len() > SELECTABLE_MAX {
        errors.push(FieldError::too_many(path, seen.len(), SELECTABLE_MAX));
    }
}

fn conversion(conversion: &Value, path: &Path, errors: &mut Errors) {
    if !conversion.is_object() {
        return;
    }
    one_of(conversion, "strategy", &["None", "Webhook"], path, errors);
    let config = &conversion["webhookClientConfig"];
    let at = path.child("webhookClientConfig");
    let versions = list(conversion, "conversionReviewVersions");
    let at_versions = path.child("conversionReviewVersions");
    if text(conversion, "strategy") != "Webhook" {
        let detail = "should not be set when strategy is not set to Webhook";
        if !config.is_null() {
            errors.push(FieldError::forbidden(&at, detail));
        }
        if !versions.is_empty() {
            errors.push(FieldError::forbidden(&at_versions, detail));
        }
        return;
    }
    if config.is_object() {
        super::admission::client(config, &at, errors);
    } else {
        let detail = "required when strategy is set to Webhook";
        errors.push(FieldError::required(&at, detail));
    }
    if versions.is_empty() {
        errors.push(FieldError::required(&at_versions, ""));
        return;
    }
    let mut seen: Vec<&str> = Vec::new();
    for (index, version) in versions.iter().enumerate() {
        let version = version.as_str().unwrap_or_default();
        let at = at_versions.index(index);
        if seen.contains(&version) {
            errors.push(FieldError::invalid(&at, version, "duplicate version"));
            continue;
        }
        seen.push(version);
        errors.extend(invalid(&at, version, names::dns_1035_label(version)));
    }
    if !seen.contains(&"v1") && !seen.contains(&"v1beta1") {
        errors.push(FieldError::invalid(
            &at_versions,
            versions.to_vec(),
            "must include at least one of v1, v1beta1",
        ));
    }
}

/// Whether a schema of a spec, common or of a version, has a property.
pub(super) fn any_schema(spec: &Value, has: &dyn Fn(&Value) -> bool) -> bool {
    let common = &spec["validation"]["openAPIV3Schema"];
    (common.is_object() && has(common))
        || list(spec, "versions").iter().any(|it| {
            let own = &it["schema"]["openAPIV3Schema"];
            own.is_object() && has(own)
        })
}

//! A `CustomResourceDefinition`, compiled.

use std::cmp::Ordering;

use serde_json::Value;

use super::columns::TableColumn;
use super::jsonpath::JsonPath;
use super::numbers;
use super::schema::{Schema, strings};
use crate::{FieldError, GroupVersionKind, Path};

/// What a server needs to know to serve a custom resource.
#[derive(Debug)]
pub struct Definition {
    /// Name of the definition: `PLURAL.GROUP`.
    pub name: String,
    /// UID of the definition.
    pub uid: String,
    /// API group.
    pub group: String,
    /// Name in paths, as accepted.
    pub plural: String,
    /// Singular name, as accepted.
    pub singular: String,
    /// Kind, as accepted.
    pub kind: String,
    /// Kind of lists, as accepted.
    pub list_kind: String,
    /// Short names, as accepted.
    pub short_names: Vec<String>,
    /// Categories, as accepted.
    pub categories: Vec<String>,
    /// Whether objects are in namespaces.
    pub namespaced: bool,
    /// Whether nothing is pruned.
    pub preserves_unknown: bool,
    /// Version that objects are stored in.
    pub storage_version: String,
    /// Versions, in the definition's order.
    pub versions: Vec<Version>,
}

/// One version of a custom resource.
#[derive(Debug)]
pub struct Version {
    /// Name, such as `v1`.
    pub name: String,
    /// Whether clients may use it.
    pub served: bool,
    /// What clients that use it are warned of.
    pub deprecation: Option<String>,
    /// Schema.
    pub schema: Option<Schema>,
    /// Whether `status` is a subresource.
    pub has_status: bool,
    /// The `scale` subresource.
    pub scale: Option<Scale>,
    /// Columns of tables after the name.
    pub columns: Vec<TableColumn>,
    /// Fields that selectors may name.
    pub selectable: Vec<(String, JsonPath)>,
}

/// Where the `scale` subresource finds its numbers.
#[derive(Clone, Debug)]
pub struct Scale {
    /// `specReplicasPath`.
    pub spec: String,
    /// `statusReplicasPath`.
    pub status: String,
    /// `labelSelectorPath`; may be empty.
    pub selector: String,
}

impl Definition {
    /// Compiles a definition. `None` if it has no storage version or no names
    /// were accepted.
    pub fn new(object: &Value) -> Option<Self> {
        let spec = &object["spec"];
        let names = &object["status"]["acceptedNames"];
        let text = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let versions = spec["versions"].as_array()?;
        let storage = versions.iter().find(|it| it["storage"] == true)?;
        let definition = Self {
            name: text(&object["metadata"], "name"),
            uid: text(&object["metadata"], "uid"),
            group: text(spec, "group"),
            plural: text(names, "plural"),
            singular: text(names, "singular"),
            kind: text(names, "kind"),
            list_kind: text(names, "listKind"),
            short_names: strings(&names["shortNames"]),
            categories: strings(&names["categories"]),
            namespaced: spec["scope"] == "Namespaced",
            preserves_unknown: spec["preserveUnknownFields"] == true,
            storage_version: text(storage, "name"),
            versions: versions.iter().map(|it| Version::new(spec, it)).collect(),
        };
        let named = [
            &definition.plural,
            &definition.singular,
            &definition.kind,
            &definition.list_kind,
        ];
        named.iter().all(|it| !it.is_empty()).then_some(definition)
    }

    /// The version of this name.
    pub fn version(&self, name: &str) -> Option<&Version> {
        self.versions.iter().find(|it| it.name == name)
    }

    /// Versions that are served, the preferred one first.
    pub fn served(&self) -> Vec<&Version> {
        let mut served: Vec<&Version> = self.versions.iter().filter(|it| it.served).collect();
        served.sort_by(|a, b| compare_versions(&b.name, &a.name));
        served
    }

    /// Kind in a version.
    pub fn gvk(&self, version: &str) -> GroupVersionKind {
        GroupVersionKind::new(&*self.group, version, &*self.kind)
    }

    /// `apiVersion` of a version.
    pub fn api_version(&self, version: &str) -> String {
        format!("{}/{version}", self.group)
    }

    /// Reads an object of a version that a client sent or a store had: metadata
    /// is typed, unknown fields and unwanted nulls go. Returns the paths of
    /// unknown fields.
    ///
    /// # Errors
    ///
    /// What is of the wrong type in the parts that every object has.
    pub fn coerce(&self, version: &str, object: &mut Value) -> Result<Vec<String>, String> {
        let mut unknown = Vec::new();
        if let Some(metadata) = object.get_mut("metadata") {
            unknown.extend(super::coerce::metadata(metadata, "metadata")?);
        }
        let schema = self.version(version).and_then(|it| it.schema.as_ref());
        if !self.preserves_unknown {
            unknown.extend(super::prune(object, schema, true));
            super::drop_nulls(object, schema);
        }
        if let Some(schema) = schema {
            let found =
                super::coerce(object, schema).map_err(|error: FieldError| error.to_string())?;
            unknown.extend(found);
        }
        Ok(unknown)
    }

    /// Sets the defaults of a version.
    pub fn default(&self, version: &str, object: &mut Value) {
        if let Some(schema) = self.version(version).and_then(|it| it.schema.as_ref()) {
            super::set_defaults(object, schema);
        }
    }

    /// Brings an object to a version: it is renamed, and loses what that
    /// version does not know.
    pub fn convert(&self, version: &str, object: &mut Value) {
        let wanted = self.api_version(version);
        if object["apiVersion"] != wanted.as_str() {
            object["apiVersion"] = wanted.into();
            // Metadata of an object that was stored is well-formed.
            let _ = self.coerce(version, object);
        }
    }

    /// The object as it is stored.
    pub fn to_storage(&self, object: &Value) -> Value {
        let mut stored = object.clone();
        self.convert(&self.storage_version, &mut stored);
        numbers::settle(&mut stored);
        stored
    }

    /// What is made of an object that the store has: the schemas may have
    /// changed since it was written.
    pub fn from_storage(&self, object: &mut Value) {
        let version = object["apiVersion"]
            .as_str()
            .and_then(|it| it.strip_prefix(&*self.group)?.strip_prefix('/'))
            .filter(|it| self.version(it).is_some())
            .unwrap_or(&self.storage_version)
            .to_owned();
        let _ = self.coerce(&version, object);
        self.default(&version, object);
        self.convert(&self.storage_version, object);
        if crate::meta::generation(object) == 0 {
            crate::meta::set_generation(object, 1);
        }
    }
}

impl Version {
    fn new(spec: &Value, json: &Value) -> Self {
        let name = json["name"].as_str().unwrap_or_default();
        let subresources = &json["subresources"];
        let schema = &json["schema"]["openAPIV3Schema"];
        Self {
            name: name.to_owned(),
            served: json["served"] == true,
            deprecation: (json["deprecated"] == true).then(|| deprecation(spec, json)),
            schema: schema.is_object().then(|| Schema::new(schema)),
            has_status: subresources["status"].is_object(),
            scale: subresources["scale"].is_object().then(|| {
                let text = |name: &str| {
                    let path = &subresources["scale"][name];
                    path.as_str().unwrap_or_default().to_owned()
                };
                Scale {
                    spec: text("specReplicasPath"),
                    status: text("statusReplicasPath"),
                    selector: text("labelSelectorPath"),
                }
            }),
            columns: TableColumn::all(json),
            selectable: json["selectableFields"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|it| {
                    let path = it["jsonPath"].as_str()?;
                    let name = path.strip_prefix('.').unwrap_or(path);
                    Some((name.to_owned(), JsonPath::parse(path).ok()?))
                })
                .collect(),
        }
    }

    /// The values of the selectable fields of an object.
    pub fn fields(&self, object: &Value) -> Vec<(String, String)> {
        let value = |path: &JsonPath| match path.find(object).first() {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        let all = self.selectable.iter();
        all.map(|(name, path)| (name.clone(), value(path)))
            .collect()
    }
}

/// What is said to clients of a deprecated version.
fn deprecation(spec: &Value, json: &Value) -> String {
    if let Some(warning) = json["deprecationWarning"].as_str() {
        return warning.to_owned();
    }
    let name = json["name"].as_str().unwrap_or_default();
    let group = spec["group"].as_str().unwrap_or_default();
    let kind = spec["names"]["kind"].as_str().unwrap_or_default();
    let mut better: Vec<&str> = spec["versions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|it| it["served"] == true && it["deprecated"] != true)
        .filter_map(|it| it["name"].as_str())
        .filter(|other| compare_versions(name, other) == Ordering::Less)
        .collect();
    better.sort_by(|a, b| compare_versions(b, a));
    match better.first() {
        Some(best) => format!("{group}/{name} {kind} is deprecated; use {group}/{best} {kind}"),
        None => format!("{group}/{name} {kind} is deprecated"),
    }
}

/// The order of versions by stability: `v2`, `v1`, `v1beta1`, `v1alpha1`, then
/// other names from the end of the alphabet.
pub fn compare_versions(left: &str, right: &str) -> Ordering {
    match (stability(left), stability(right)) {
        (Some(a), Some(b)) => a.cmp(&b),
        (Some(_), None) => Ordering::Greater,
        (None, Some(_)) => Ordering::Less,
        (None, None) => right.cmp(left),
    }
}

/// Stability, major and minor number of a name such as `v1beta2`.
fn stability(name: &str) -> Option<(u8, u64, u64)> {
    let rest = name.strip_prefix('v')?;
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    let major = number(&rest[..end])?;
    match &rest[end..] {
        "" => Some((2, major, 0)),
        suffix => {
            let beta = suffix.strip_prefix("beta").map(|it| (1, it));
            let (level, digits) =
                beta.or_else(|| suffix.strip_prefix("alpha").map(|it| (0, it)))?;
            Some((level, major, number(digits)?))
        }
    }
}

fn number(digits: &str) -> Option<u64> {
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    (plain && !digits.starts_with('0')).then(|| digits.parse().ok())?
}

/// Reads a nested field by a path such as `.spec.replicas`; the error is that
/// of upstream's accessors.
pub(super) fn nested<'a>(object: &'a Value, path: &str) -> Result<Option<&'a Value>, String> {
    let names: Vec<&str> = path.strip_prefix('.').unwrap_or(path).split('.').collect();
    let mut value = object;
    for (depth, name) in names.iter().enumerate() {
        let shown = |_: usize| format!(".{}", names.join("."));
        match value {
            Value::Object(map) => match map.get(*name) {
                Some(found) => value = found,
                None => return Ok(None),
            },
            Value::Null => return Ok(None),
            other => {
                return Err(format!(
                    "{} accessor error: {} is of the type {}, expected map[string]interface{{}}",
                    shown(depth),
                    crate::patch::go_print(other),
                    go_type(other)
                ));
            }
        }
    }
    Ok(Some(value))
}

pub(super) fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.as_i64().is_some() => "int64",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

impl Scale {
    /// The wanted replicas of an object.
    ///
    /// # Errors
    ///
    /// When there is something else in the place.
    pub fn replicas(&self, object: &Value) -> Result<Option<i64>, String> {
        integer(object, &self.spec)
    }

    /// The replicas that there are.
    ///
    /// # Errors
    ///
    /// When there is something else in the place.
    pub fn ready(&self, object: &Value) -> Result<Option<i64>, String> {
        integer(object, &self.status)
    }

    /// The label selector, empty without one.
    ///
    /// # Errors
    ///
    /// When there is something else in the place.
    pub fn labels(&self, object: &Value) -> Result<String, String> {
        if self.selector.is_empty() {
            return Ok(String::new());
        }
        match nested(object, &self.selector)? {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => Err(wrong(&self.selector, other, "string")),
        }
    }

    /// Sets the wanted replicas.
    pub fn set(&self, object: &mut Value, replicas: i64) {
        let path = self.spec.strip_prefix('.').unwrap_or(&self.spec);
        let mut value = object;
        for name in path.split('.') {
            if !value.is_object() {
                *value = serde_json::json!({});
            }
            value = &mut value[name];
        }
        *value = replicas.into();
    }

    pub(super) fn spec_errors(&self, object: &Value) -> Vec<FieldError> {
        counted(&self.spec, self.replicas(object))
    }

    pub(super) fn status_errors(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = counted(&self.status, self.ready(object));
        if let Err(error) = self.labels(object) {
            errors.push(FieldError::invalid(&Path::new(&self.selector), "", error));
        }
        errors
    }
}

fn wrong(path: &str, value: &Value, wanted: &str) -> String {
    let path = path.strip_prefix('.').unwrap_or(path);
    let shown = match value {
        Value::Number(number) if number.is_f64() => {
            numbers::print(number.as_f64().unwrap_or_default())
        }
        other => crate::patch::go_print(other),
    };
    let found = go_type(value);
    format!(".{path} accessor error: {shown} is of the type {found}, expected {wanted}")
}

fn integer(object: &Value, path: &str) -> Result<Option<i64>, String> {
    match nested(object, path)? {
        None => Ok(None),
        Some(Value::Number(number)) if number.as_i64().is_some() => Ok(number.as_i64()),
        Some(other) => Err(wrong(path, other, "int64")),
    }
}

fn counted(path: &str, replicas: Result<Option<i64>, String>) -> Vec<FieldError> {
    let at = Path::new(path);
    let error = match replicas {
        Err(error) => FieldError::invalid(&at, 0, error),
        Ok(Some(count)) if count < 0 => {
            FieldError::invalid(&at, count, "should be a non-negative integer")
        }
        Ok(Some(count)) if count > i64::from(i32::MAX) => FieldError::invalid(
            &at,
            count,
            format!("should be less than or equal to {}", i32::MAX),
        ),
        Ok(_) => return Vec::new(),
    };
    vec![error]
}

//! What a write may change of a custom resource, and what is wrong with it.

use serde_json::Value;

use super::definition::{Definition, Version};
use super::lists::duplicates;
use super::{check, embedded_errors};
use crate::meta::{self, NameRule};
use crate::{ErrorType, FieldError, Path, names};

impl Definition {
    fn of(&self, version: &str) -> &Version {
        // Requests are served only in versions that there are.
        self.version(version).unwrap_or(&self.versions[0])
    }

    /// Fields that a write to a subresource cannot set.
    pub fn reset_fields(
        &self,
        version: &str,
        subresource: &str,
    ) -> &'static [&'static [&'static str]] {
        match subresource {
            "" if self.of(version).has_status => &[&["status"]],
            "status" => &[&["metadata"], &["spec"]],
            _ => &[],
        }
    }

    /// Drops what a client may not set on create; the generation begins.
    pub fn prepare_create(&self, version: &str, object: &mut Value) {
        if self.of(version).has_status
            && let Some(map) = object.as_object_mut()
        {
            map.remove("status");
        }
        meta::set_generation(object, 1);
    }

    /// Keeps what a client may not change.
    pub fn prepare_update(&self, version: &str, subresource: &str, new: &mut Value, old: &Value) {
        if subresource == "status" {
            let status = new.get("status").cloned();
            let fields = new["metadata"]["managedFields"].clone();
            let resource_version = new["metadata"]["resourceVersion"].clone();
            *new = old.clone();
            let metadata = meta::metadata_mut(new);
            put(metadata, "managedFields", fields);
            put(metadata, "resourceVersion", resource_version);
            if let Some(map) = new.as_object_mut() {
                put(map, "status", status.unwrap_or_default());
            }
            return;
        }
        if self.of(version).has_status
            && let Some(map) = new.as_object_mut()
        {
            put(map, "status", old["status"].clone());
        }
        if !same_but_metadata(new, old) {
            meta::set_generation(new, meta::generation(old) + 1);
        }
    }

    fn type_errors(&self, version: &str, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let api_version = self.api_version(version);
        for (name, wanted) in [("kind", &self.kind), ("apiVersion", &api_version)] {
            let given = object[name].as_str().unwrap_or_default();
            if given != wanted {
                errors.push(FieldError::invalid(
                    &Path::new(name),
                    given,
                    format!("must be {wanted}"),
                ));
            }
        }
        errors
    }

    /// Everything wrong with a new object, the rules of its version apart that
    /// are expressions.
    pub fn validate_create(&self, version: &str, object: &Value) -> Vec<FieldError> {
        let of = self.of(version);
        let mut errors = self.type_errors(version, object);
        if errors.is_empty() {
            let at = Path::new("metadata");
            let metadata = &object["metadata"];
            errors = meta::validate(metadata, self.namespaced, NameRule::Subdomain, &at);
            if let Some(schema) = &of.schema {
                errors.extend(check(&Path::root(), schema, object, None));
            }
            if let Some(scale) = &of.scale {
                errors.extend(scale.spec_errors(object));
                errors.extend(scale.status_errors(object));
            }
        }
        if let Some(schema) = &of.schema {
            embedded_errors(object, schema, &Path::root(), &mut errors);
            errors.extend(duplicates(object, schema, &Path::root()));
        }
        errors
    }

    /// Everything wrong with a change, beside what is wrong with any object's
    /// metadata and the rules that are expressions.
    pub fn validate_update(
        &self,
        version: &str,
        subresource: &str,
        new: &Value,
        old: &Value,
    ) -> Vec<FieldError> {
        let of = self.of(version);
        let is_status = subresource == "status";
        let mut errors = self.type_errors(version, new);
        if errors.is_empty() {
            let at = Path::new("metadata");
            errors.extend(meta::validate_update(
                &new["metadata"],
                &old["metadata"],
                &at,
            ));
            errors.extend(if is_status {
                status_errors(of, new, old)
            } else {
                let root = of.schema.as_ref();
                root.map_or_else(Vec::new, |it| check(&Path::root(), it, new, Some(old)))
            });
            if let Some(scale) = &of.scale {
                if !is_status {
                    errors.extend(scale.spec_errors(new));
                }
                errors.extend(scale.status_errors(new));
            }
        }
        if let Some(schema) = &of.schema {
            if !is_status {
                embedded_errors(new, schema, &Path::root(), &mut errors);
            }
            // What occurred twice before may go on to.
            if duplicates(old, schema, &Path::root()).is_empty() {
                errors.extend(duplicates(new, schema, &Path::root()));
            }
        }
        errors
    }

    /// Whether errors keep expressions from being tried.
    pub fn is_blocking(error: &FieldError) -> bool {
        matches!(
            error.kind,
            ErrorType::NotSupported
                | ErrorType::Required
                | ErrorType::TooLong
                | ErrorType::TooMany
                | ErrorType::TypeInvalid
        )
    }

    /// `Warning:` headers for a write.
    pub fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let list = |object: &Value| -> Vec<String> {
            super::schema::strings(&object["metadata"]["finalizers"])
        };
        let known = old.map(list).unwrap_or_default();
        let mut added = list(new);
        added.retain(|it| !known.contains(it));
        added.sort();
        added.dedup();
        added.iter().flat_map(|it| finalizer_warnings(it)).collect()
    }
}

fn put(map: &mut serde_json::Map<String, Value>, name: &str, value: Value) {
    if value.is_null() {
        map.remove(name);
    } else {
        map.insert(name.to_owned(), value);
    }
}

fn same_but_metadata(new: &Value, old: &Value) -> bool {
    let rest = |object: &Value| {
        let mut rest = object.as_object().cloned().unwrap_or_default();
        rest.remove("metadata");
        rest
    };
    rest(new) == rest(old)
}

fn status_errors(of: &Version, new: &Value, old: &Value) -> Vec<FieldError> {
    let schema = of
        .schema
        .as_ref()
        .and_then(|it| it.properties.get("status"));
    match (schema, new.get("status")) {
        (Some(schema), Some(status)) => {
            check(&Path::new("status"), schema, status, old.get("status"))
        }
        _ => Vec::new(),
    }
}

fn finalizer_warnings(name: &str) -> Vec<String> {
    let at = "metadata.finalizers";
    let mut warnings: Vec<String> = names::qualified_name(name)
        .into_iter()
        .map(|message| format!("{at}: {name:?}: {message}"))
        .collect();
    let standard = matches!(name, "orphan" | "foregroundDeletion" | "kubernetes");
    if !name.contains('/') && !standard {
        let including = if name.contains('.') {
            " including a path (/)"
        } else {
            ""
        };
        warnings.push(format!(
            "{at}: {name:?}: prefer a domain-qualified finalizer name{including} to avoid accidental conflicts with other finalizer writers"
        ));
    }
    warnings
}

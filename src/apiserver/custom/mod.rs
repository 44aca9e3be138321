//! Custom resources: what definitions add to the server while it runs.
//!
//! A definition is compiled once ([`Custom`]) and then served by the same
//! registry as the built-in kinds. [`controller`] follows the definitions:
//! it accepts their names, serves what is established, and removes instances
//! before a definition goes.

mod controller;
mod openapi;

pub(crate) use controller::{FINALIZER, run, set_condition};
pub(crate) use openapi::{Documents, Published};

use std::collections::HashMap;
use std::sync::Arc;

use api::custom::Definition;
use api::kinds::{Context, Kind};
use api::{FieldError, Path, Verbs};
use expr::schema::SchemaRules;
use serde_json::Value;

use crate::engine::Served;

const VERBS: [&str; 8] = [
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "create",
    "update",
    "watch",
];

/// A compiled definition with its rules.
#[derive(Debug)]
pub(crate) struct Custom {
    pub definition: Definition,
    /// The object it was compiled from.
    pub source: Arc<Value>,
    /// Rules that are expressions, by version.
    rules: HashMap<String, SchemaRules>,
}

impl Custom {
    /// Compiles a definition whose names were accepted.
    pub(crate) fn new(source: Arc<Value>) -> Option<Self> {
        let definition = Definition::new(&source)?;
        let mut rules = HashMap::new();
        for version in source["spec"]["versions"].as_array().into_iter().flatten() {
            let schema = &version["schema"]["openAPIV3Schema"];
            // What was stored had been checked; a rule that no longer compiles
            // keeps nobody from writing.
            let (compiled, _) = SchemaRules::compile(schema, &Path::root(), Some(schema));
            if !compiled.is_empty() {
                let name = version["name"].as_str().unwrap_or_default();
                rules.insert(name.to_owned(), compiled);
            }
        }
        Some(Self {
            definition,
            source,
            rules,
        })
    }

    /// What is served in a version.
    pub(crate) fn served(&self, version: &str) -> Option<Served> {
        let definition = &self.definition;
        let of = definition.version(version).filter(|it| it.served)?;
        // No webhook is asked to convert: what would have to be is not served,
        // rather than served unconverted.
        let converts = self.source["spec"]["conversion"]["strategy"] == "Webhook";
        if converts && version != definition.storage_version {
            return None;
        }
        let mut subresources = Vec::new();
        let changing = || Verbs::new(["get", "patch", "update"]);
        if of.has_status {
            subresources.push(("status".to_owned(), changing()));
        }
        if of.scale.is_some() {
            subresources.push(("scale".to_owned(), changing()));
        }
        let is_leaving = !self.source["metadata"]["deletionTimestamp"].is_null();
        let verbs = VERBS
            .into_iter()
            // Nothing new while the old is removed.
            .filter(|verb| !(is_leaving && *verb == "create"));
        Some(Served {
            gvk: definition.gvk(version),
            namespaced: definition.namespaced,
            verbs: Verbs::new(verbs),
            subresources,
            is_stored: true,
        })
    }

    fn judge(
        &self,
        version: &str,
        mut errors: Vec<FieldError>,
        new: &Value,
        old: Option<&Value>,
    ) -> Vec<FieldError> {
        let Some(rules) = self.rules.get(version) else {
            return errors;
        };
        if errors.iter().any(Definition::is_blocking) {
            errors.push(FieldError::invalid(
                &Path::root(),
                Value::Null,
                "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation",
            ));
        } else {
            errors.extend(rules.validate(&Path::root(), new, old));
        }
        errors
    }
}

/// The rules of a custom kind, as those of any other. Metadata is judged with
/// the rest, in upstream's order.
#[derive(Clone)]
pub(crate) struct CustomKind(pub Arc<Custom>);

impl Kind for CustomKind {
    fn prepare_create(&self, object: &mut Value, context: &Context<'_>) {
        self.0.definition.prepare_create(context.version, object);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, context: &Context<'_>) {
        let definition = &self.0.definition;
        definition.prepare_update(context.version, context.subresource, new, old);
    }

    fn validate_metadata(&self, _object: &Value, _namespaced: bool) -> Vec<FieldError> {
        Vec::new()
    }

    fn validate_create(&self, object: &Value, context: &Context<'_>) -> Vec<FieldError> {
        let version = context.version;
        let errors = self.0.definition.validate_create(version, object);
        self.0.judge(version, errors, object, None)
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> Vec<FieldError> {
        let version = context.version;
        let definition = &self.0.definition;
        let errors = definition.validate_update(version, context.subresource, new, old);
        self.0.judge(version, errors, new, Some(old))
    }

    fn warnings(&self, new: &Value, old: Option<&Value>, context: &Context<'_>) -> Vec<String> {
        let definition = &self.0.definition;
        let deprecated = definition
            .version(context.version)
            .and_then(|it| it.deprecation.clone());
        let mut warnings: Vec<String> = deprecated.into_iter().collect();
        warnings.extend(definition.warnings(new, old));
        warnings
    }

    fn declared_fields(&self, object: &Value) -> Vec<(String, String)> {
        let definition = &self.0.definition;
        let version = object["apiVersion"]
            .as_str()
            .and_then(|it| it.rsplit('/').next())
            .and_then(|it| definition.version(it))
            .or_else(|| definition.version(&definition.storage_version));
        version.map(|it| it.fields(object)).unwrap_or_default()
    }

    fn selects_by(&self, field: &str) -> bool {
        let versions = &self.0.definition.versions;
        versions
            .iter()
            .any(|it| it.selectable.iter().any(|(name, _)| name == field))
    }
}

/// What is wrong with the rules of a definition that are expressions.
pub(crate) fn rule_errors(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let versions = new["spec"]["versions"].as_array();
    for (index, version) in versions.into_iter().flatten().enumerate() {
        let path = Path::new("spec")
            .child("versions")
            .index(index)
            .child("schema")
            .child("openAPIV3Schema");
        let stored = old
            .and_then(|old| old["spec"]["versions"].as_array())
            .into_iter()
            .flatten()
            .find(|it| it["name"] == version["name"])
            .map(|it| &it["schema"]["openAPIV3Schema"]);
        let schema = &version["schema"]["openAPIV3Schema"];
        errors.extend(SchemaRules::compile(schema, &path, stored).1);
    }
    errors
}

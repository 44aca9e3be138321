//! The rules of a custom resource: what its definition says at the moment.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use api::custom::Definition;
use api::kinds::{Context, Kind};
use api::{FieldError, Path, meta};
use expr::schema::SchemaRules;
use parking_lot::{Mutex, RwLock};
use serde_json::Value;

/// [`Kind`] for a custom resource. One of them lives as long as the process for
/// each name of a resource: what holds rules of a kind holds them for good.
pub(crate) struct CustomRules(RwLock<Arc<Said>>);

/// A definition with the compiled rules of its versions.
struct Said {
    definition: Arc<Definition>,
    rules: HashMap<String, SchemaRules>,
}

impl CustomRules {
    pub(crate) fn new(definition: Arc<Definition>, object: &Value) -> Self {
        Self(RwLock::new(Arc::new(Said::new(definition, object))))
    }

    pub(crate) fn set(&self, definition: Arc<Definition>, object: &Value) {
        *self.0.write() = Arc::new(Said::new(definition, object));
    }

    fn definition(&self) -> Arc<Definition> {
        self.0.read().definition.clone()
    }

    /// Adds what the rules that are expressions have against an object.
    fn judge(&self, version: &str, new: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
        let said = self.0.read().clone();
        let Some(rules) = said.rules.get(version) else {
            return;
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
    }
}

impl Said {
    fn new(definition: Arc<Definition>, object: &Value) -> Self {
        let rules = versions(object)
            .map(|(name, schema, path)| (name, SchemaRules::compile(schema, &path, Some(schema)).0))
            .filter(|(_, rules)| !rules.is_empty())
            .collect();
        Self { definition, rules }
    }
}

/// Name, schema and its place of each version.
fn versions(object: &Value) -> impl Iterator<Item = (String, &Value, Path)> {
    let all = object["spec"]["versions"].as_array();
    all.into_iter().flatten().enumerate().map(|(at, version)| {
        let path = Path::new("spec").child("versions").index(at);
        (
            version["name"].as_str().unwrap_or_default().to_owned(),
            &version["schema"]["openAPIV3Schema"],
            path.child("schema").child("openAPIV3Schema"),
        )
    })
}

/// What is wrong with the expressions of a definition.
pub(crate) fn expression_errors(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (name, schema, path) in versions(object) {
        let stored = old.and_then(|old| versions(old).find(|it| it.0 == name));
        let stored = stored.map(|it| it.1);
        errors.extend(SchemaRules::compile(schema, &path, stored).1);
    }
    errors
}

impl Kind for CustomRules {
    fn prepare_create(&self, object: &mut Value, context: &Context<'_>) {
        self.definition().prepare_create(context.version, object);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, context: &Context<'_>) {
        self.definition()
            .prepare_update(context.version, context.subresource, new, old);
    }

    fn validate_metadata(&self, _: &Value, _: bool) -> Vec<FieldError> {
        // A part of `validate_create`: only objects of the right kind are judged.
        Vec::new()
    }

    fn validate_create(&self, object: &Value, context: &Context<'_>) -> Vec<FieldError> {
        let mut errors = self.definition().validate_create(context.version, object);
        self.judge(context.version, object, None, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> Vec<FieldError> {
        let definition = self.definition();
        let version = context.version;
        let mut errors = definition.validate_update(version, context.subresource, new, old);
        self.judge(version, new, Some(old), &mut errors);
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>, _: &Context<'_>) -> Vec<String> {
        self.definition().warnings(new, old)
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let definition = self.definition();
        let mut fields: Vec<(&'static str, String)> = Vec::new();
        for version in &definition.versions {
            for (name, value) in version.fields(object) {
                let name = interned(&name);
                if fields.iter().all(|(known, _)| *known != name) {
                    fields.push((name, value));
                }
            }
        }
        fields
    }
}

/// Everything wrong with a change of a custom object.
pub(crate) fn validate_update(
    rules: &dyn Kind,
    new: &Value,
    old: &Value,
    namespaced: bool,
    context: &Context<'_>,
) -> Vec<FieldError> {
    let path = Path::new("metadata");
    let rule = meta::NameRule::PathSegment;
    let mut errors = meta::validate(&new["metadata"], namespaced, rule, &path);
    errors.extend(meta::validate_update(
        &new["metadata"],
        &old["metadata"],
        &path,
    ));
    errors.extend(rules.validate_update(new, old, context));
    errors
}

/// A name of a field for good: there are few, and selectors compare them often.
fn interned(name: &str) -> &'static str {
    static NAMES: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);
    let mut names = NAMES.lock();
    let names = names.get_or_insert_default();
    if let Some(known) = names.get(name) {
        return known;
    }
    let kept: &'static str = Box::leak(name.to_owned().into_boxed_str());
    names.insert(kept);
    kept
}

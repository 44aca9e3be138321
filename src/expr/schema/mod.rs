//! `x-kubernetes-validations`: the rules of one version's `openAPIV3Schema`.
//!
//! What cannot be compiled is refused when the definition is written, so that
//! no object is ever accepted past a rule that does not run.

use api::{FieldError, Path};
use serde_json::Value;

/// The compiled `x-kubernetes-validations` of one version's `openAPIV3Schema`.
#[derive(Debug, Default)]
pub struct SchemaRules;

impl SchemaRules {
    /// Compiles every rule of `schema`, which stands at `path` in its
    /// definition. `stored` is the schema this one replaces: rules that are
    /// already stored are held to the laxer limits of stored expressions.
    ///
    /// The errors are those the definition must be refused with.
    pub fn compile(schema: &Value, path: &Path, stored: Option<&Value>) -> (Self, Vec<FieldError>) {
        let _ = stored;
        let mut errors = Vec::new();
        refuse(schema, path, &mut errors);
        (Self, errors)
    }

    /// Whether there is no rule, so that nothing has to be run.
    pub fn is_empty(&self) -> bool {
        true
    }

    /// Runs the rules on `object`, which stands at `path`. `old` is what it
    /// replaces, for rules about transitions.
    pub fn validate(&self, path: &Path, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let _ = (path, object, old);
        Vec::new()
    }
}

/// Reports every node that has rules.
fn refuse(schema: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    if schema["x-kubernetes-validations"]
        .as_array()
        .is_some_and(|rules| !rules.is_empty())
    {
        errors.push(FieldError::forbidden(
            &path.child("x-kubernetes-validations"),
            "validation rules are not supported: remove them or express the rule with the schema's own keywords",
        ));
    }
    for keyword in ["items", "additionalProperties", "not"] {
        if schema[keyword].is_object() {
            refuse(&schema[keyword], &path.child(keyword), errors);
        }
    }
    for keyword in ["allOf", "anyOf", "oneOf"] {
        for (index, nested) in schema[keyword].as_array().into_iter().flatten().enumerate() {
            refuse(nested, &path.child(keyword).index(index), errors);
        }
    }
    for (name, nested) in schema["properties"].as_object().into_iter().flatten() {
        refuse(nested, &path.child("properties").key(name), errors);
    }
}

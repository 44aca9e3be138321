//! Lists that are sets or maps: nothing may occur twice in them.

use serde_json::{Map, Value};

use super::Schema;
use crate::schema::ListType;
use crate::{FieldError, Path};

/// Every item of a set or map that occurs twice.
pub(super) fn duplicates(value: &Value, schema: &Schema, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    walk(value, schema, path, &mut errors);
    errors
}

fn walk(value: &Value, schema: &Schema, path: &Path, errors: &mut Vec<FieldError>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                if let Some(below) = schema.additional_schema() {
                    walk(value, below, &path.key(name), errors);
                }
                if let Some(below) = schema.properties.get(name) {
                    walk(value, below, &path.child(name), errors);
                }
            }
        }
        Value::Array(items) => {
            match schema.list_type {
                Some(ListType::Set) => {
                    for at in repeated(items.iter()) {
                        errors.push(FieldError::duplicate(&path.index(at), items[at].clone()));
                    }
                }
                Some(ListType::Map) => keyed(items, &schema.list_keys, path, errors),
                _ => {}
            }
            if let Some(below) = schema.items.as_deref() {
                for (at, item) in items.iter().enumerate() {
                    walk(item, below, &path.index(at), errors);
                }
            }
        }
        _ => {}
    }
}

fn keyed(items: &[Value], keys: &[String], path: &Path, errors: &mut Vec<FieldError>) {
    let stray = items
        .iter()
        .position(|item| !item.is_null() && !item.is_object());
    if let Some(at) = stray {
        errors.push(FieldError::invalid(
            &path.index(at),
            items[at].clone(),
            "must be an object for an array of list-type map",
        ));
        return;
    }
    let found: Vec<Value> = items
        .iter()
        .map(|item| {
            let entries = keys.iter().filter_map(|key| {
                let value = item.get(key)?;
                Some((key.clone(), value.clone()))
            });
            Value::Object(entries.collect::<Map<_, _>>())
        })
        .collect();
    for at in repeated(found.iter()) {
        errors.push(FieldError::duplicate(&path.index(at), found[at].clone()));
    }
}

/// Where a value occurs the second time.
fn repeated<'a>(items: impl Iterator<Item = &'a Value>) -> Vec<usize> {
    let mut seen: std::collections::HashMap<String, usize> = std::collections::HashMap::new();
    let mut out = Vec::new();
    for (at, item) in items.enumerate() {
        let times = seen.entry(item.to_string()).or_default();
        *times += 1;
        if *times == 2 {
            out.push(at);
        }
    }
    out
}

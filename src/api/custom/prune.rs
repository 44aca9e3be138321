//! Removes what a schema does not know.

use serde_json::{Map, Value};

use super::Schema;

/// Fields of every object, which no schema needs to name.
pub(super) fn is_meta(name: &str) -> bool {
    matches!(name, "apiVersion" | "kind" | "metadata")
}

/// Removes unknown fields of an object; returns their paths, sorted.
pub(crate) fn prune(object: &mut Value, schema: Option<&Schema>, is_root: bool) -> Vec<String> {
    let mut found = Vec::new();
    let empty;
    let schema = match schema {
        None if is_root => {
            empty = Schema::default();
            Some(&empty)
        }
        schema => schema,
    };
    walk(object, schema, is_root, "", &mut found);
    found.sort();
    found
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn walk(
    value: &mut Value,
    schema: Option<&Schema>,
    is_root: bool,
    path: &str,
    found: &mut Vec<String>,
) {
    if let Some(schema) = schema.filter(|it| it.preserves_unknown) {
        return pass(value, schema, is_root, path, found);
    }
    match value {
        Value::Object(map) => {
            let keys: Vec<String> = map.keys().cloned().collect();
            for key in keys {
                if !keep(map, &key, schema, is_root, path, found) {
                    map.remove(&key);
                }
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter_mut().enumerate() {
                let below = schema.and_then(|it| it.items.as_deref());
                walk(item, below, false, &format!("{path}[{at}]"), found);
            }
        }
        _ => {}
    }
}

fn keep(
    map: &mut Map<String, Value>,
    key: &str,
    schema: Option<&Schema>,
    is_root: bool,
    path: &str,
    found: &mut Vec<String>,
) -> bool {
    let Some(schema) = schema else {
        found.push(join(path, key));
        return false;
    };
    if (schema.is_embedded || is_root) && is_meta(key) {
        return true;
    }
    let below = match schema.properties.get(key) {
        Some(property) => Some(property),
        None if !matches!(schema.additional, super::schema::Additional::Unsaid) => {
            schema.additional_schema()
        }
        None => {
            if !is_meta(key) || !path.is_empty() {
                found.push(join(path, key));
            }
            return false;
        }
    };
    if let Some(value) = map.get_mut(key) {
        walk(value, below, false, &join(path, key), found);
    }
    true
}

/// Below a value that keeps unknown fields, what is known is still pruned.
fn pass(value: &mut Value, schema: &Schema, is_root: bool, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if (schema.is_embedded || is_root) && is_meta(key) {
                    continue;
                }
                let additional = !matches!(schema.additional, super::schema::Additional::Unsaid);
                match schema.properties.get(key) {
                    Some(below) => walk(value, Some(below), false, &join(path, key), found),
                    None if additional => {
                        walk(
                            value,
                            schema.additional_schema(),
                            false,
                            &join(path, key),
                            found,
                        );
                    }
                    None => {}
                }
            }
        }
        Value::Array(items) => {
            let Some(below) = schema.items.as_deref() else {
                return;
            };
            for (at, item) in items.iter_mut().enumerate() {
                // Items of a preserving list keep what they have, too.
                pass(item, below, false, &format!("{path}[{at}]"), found);
            }
        }
        _ => {}
    }
}

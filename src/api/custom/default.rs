//! Defaults and nulls.

use serde_json::Value;

use super::Schema;

fn is_unwanted_null(value: &Value, schema: Option<&Schema>) -> bool {
    value.is_null() && schema.is_some_and(|it| !it.nullable)
}

/// Removes nulls that a schema does not allow, unless a default will replace them.
pub(crate) fn drop_nulls(value: &mut Value, schema: Option<&Schema>) {
    match value {
        Value::Object(map) => {
            map.retain(|key, value| {
                let below = schema.and_then(|it| it.field(key));
                let defaulted = below.is_some_and(|it| it.default.is_some());
                if is_unwanted_null(value, below) && !defaulted {
                    return false;
                }
                drop_nulls(value, below);
                true
            });
        }
        Value::Array(items) => {
            let below = schema.and_then(|it| it.items.as_deref());
            items.iter_mut().for_each(|item| drop_nulls(item, below));
        }
        _ => {}
    }
}

/// Sets the defaults of a schema, at every depth.
pub(crate) fn set(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) => {
            for (name, property) in &schema.properties {
                let Some(default) = &property.default else {
                    continue;
                };
                let missing = map
                    .get(name)
                    .is_none_or(|value| is_unwanted_null(value, Some(property)));
                if missing {
                    map.insert(name.clone(), default.clone());
                }
            }
            for (name, value) in map {
                let Some(below) = schema.field(name) else {
                    continue;
                };
                if !schema.properties.contains_key(name) && is_unwanted_null(value, Some(below)) {
                    *value = below.default.clone().unwrap_or_default();
                }
                set(value, below);
            }
        }
        Value::Array(items) => {
            let Some(below) = schema.items.as_deref() else {
                return;
            };
            for item in items {
                if is_unwanted_null(item, Some(below)) {
                    *item = below.default.clone().unwrap_or_default();
                }
                set(item, below);
            }
        }
        _ => {}
    }
}

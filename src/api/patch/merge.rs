//! RFC 7386: JSON merge patch.

use serde_json::{Map, Value};

/// Merges a patch into a value: objects key by key, `null` removes, everything
/// else replaces.
pub fn apply(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        target.clone_from(patch);
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            map.remove(key);
        } else {
            apply(map.entry(key).or_insert(Value::Null), value);
        }
    }
}

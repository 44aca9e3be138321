//! Reading and changing JSON objects tersely.

use serde_json::{Map, Value};

use crate::{FieldError, Path, Quantity};

/// The text of a field; empty if it is absent.
pub(super) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// The number of a field; 0 if it is absent.
pub(super) fn int(value: &Value, name: &str) -> i64 {
    value[name].as_i64().unwrap_or_default()
}

/// The items of a list field; none if it is absent.
pub(super) fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

/// The entries of a map field; none if it is absent.
pub(super) fn entries<'a>(
    value: &'a Value,
    name: &str,
) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
    value[name].as_object().into_iter().flatten()
}

/// The items of a list field with their paths.
pub(super) fn indexed<'a>(
    value: &'a Value,
    name: &str,
    path: &Path,
) -> impl Iterator<Item = (Path, &'a Value)> + use<'a> {
    let path = path.child(name);
    list(value, name)
        .iter()
        .enumerate()
        .map(move |(index, item)| (path.index(index), item))
}

/// Whether a field is absent, null, empty text, or an empty list or map.
pub(super) fn blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// The value at a path.
pub(super) fn at<'a>(value: &'a Value, path: &[&str]) -> &'a Value {
    path.iter().fold(value, |value, name| &value[*name])
}

/// `apiequality.Semantic.DeepEqual`: absent, null and empty are the same, and
/// so are quantities of one value.
pub(super) fn same(left: &Value, right: &Value) -> bool {
    if left == right || (blank(left) && blank(right)) {
        return true;
    }
    match (left, right) {
        (Value::Object(left), Value::Object(right)) => {
            let none = Value::Null;
            left.keys().chain(right.keys()).all(|key| {
                same(
                    left.get(key).unwrap_or(&none),
                    right.get(key).unwrap_or(&none),
                )
            })
        }
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(a, b)| same(a, b))
        }
        (Value::String(left), Value::String(right)) => {
            let digit = |text: &str| text.starts_with(|c: char| c.is_ascii_digit() || c == '+');
            digit(left)
                && digit(right)
                && match (left.parse::<Quantity>(), right.parse::<Quantity>()) {
                    (Ok(left), Ok(right)) => left == right,
                    _ => false,
                }
        }
        _ => false,
    }
}

/// Puts the old value of a path back, or removes it if there was none.
pub(super) fn restore(new: &mut Value, old: &Value, path: &[&str]) {
    let Some((last, parents)) = path.split_last() else {
        return;
    };
    let old = at(old, path);
    let mut target = new;
    for name in parents {
        target = object(target, name);
    }
    if old.is_null() {
        if let Some(map) = target.as_object_mut() {
            map.remove(*last);
        }
    } else {
        target[*last] = old.clone();
    }
}

/// The object of a field, made if it is absent.
pub(super) fn object<'a>(value: &'a mut Value, name: &str) -> &'a mut Value {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let field = &mut value[name];
    if field.is_null() {
        *field = Value::Object(Map::new());
    }
    field
}

/// Sets a field that is absent or empty text.
pub(super) fn default(value: &mut Value, name: &str, default: impl Into<Value>) {
    let field = &value[name];
    if field.is_null() || field == "" {
        value[name] = default.into();
    }
}

/// Sets a field that is absent; empty text is a value.
pub(super) fn default_absent(value: &mut Value, name: &str, default: impl Into<Value>) {
    if value[name].is_null() {
        value[name] = default.into();
    }
}

/// Sets a number that is absent or 0.
pub(super) fn default_zero(value: &mut Value, name: &str, default: i64) {
    if int(value, name) == 0 {
        value[name] = default.into();
    }
}

/// Calls for each item of a list field.
pub(super) fn each(value: &mut Value, name: &str, mut f: impl FnMut(&mut Value)) {
    // Not by index of an absent field, which would make it.
    if let Some(items) = value.get_mut(name).and_then(Value::as_array_mut) {
        items.iter_mut().for_each(&mut f);
    }
}

/// Calls for a field that is an object.
pub(super) fn within(value: &mut Value, name: &str, f: impl FnOnce(&mut Value)) {
    if let Some(field) = value.get_mut(name)
        && field.is_object()
    {
        f(field);
    }
}

/// Removes a field.
pub(super) fn remove(value: &mut Value, name: &str) {
    if let Some(map) = value.as_object_mut() {
        map.remove(name);
    }
}

/// One error for each message.
pub(super) fn invalid(path: &Path, value: &str, messages: Vec<String>) -> Vec<FieldError> {
    messages
        .into_iter()
        .map(|message| FieldError::invalid(path, value, message))
        .collect()
}

/// `ValidateNonnegativeField`.
pub(super) fn nonnegative(value: &Value, name: &str, path: &Path) -> Option<FieldError> {
    let number = value[name].as_i64()?;
    (number < 0).then(|| {
        FieldError::invalid(
            &path.child(name),
            number,
            "must be greater than or equal to 0",
        )
    })
}

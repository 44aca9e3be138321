//! Whether a value fits its schema, in the words of `structured-merge-diff`.
//!
//! An applied configuration is checked before it is merged; objects are
//! checked before their owners are recorded, for a list whose items cannot be
//! told apart has none.

use serde_json::Value;

use super::set::{self, Element};
use super::typed::{Shape, Structure};
use crate::decode::go_quote;
use crate::patch::go_print;

/// What is wrong, as one text. Lists with repeated keys are wrong unless
/// `duplicates` are allowed.
///
/// # Errors
/// `.path: why`, or a list of such lines.
pub fn check<S: Structure>(schema: &S, value: &Value, duplicates: bool) -> Result<(), String> {
    let mut errors = Vec::new();
    walk(schema, value, duplicates, &mut Vec::new(), &mut errors);
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => {
            let lines: Vec<String> = many.iter().map(|error| format!("  {error}")).collect();
            Err(format!("errors:\n{}", lines.join("\n")))
        }
    }
}

fn walk<S: Structure>(
    schema: &S,
    value: &Value,
    duplicates: bool,
    path: &mut Vec<Element>,
    errors: &mut Vec<String>,
) {
    let mut say = |path: &[Element], why: &str| {
        errors.push(if path.is_empty() {
            why.to_owned()
        } else {
            format!("{}: {why}", set::display(path))
        });
    };
    if value.is_null() {
        return;
    }
    if let Some(why) = schema.mismatch(value) {
        return say(path, &why);
    }
    match value {
        Value::Object(map) => {
            let closed = schema.is_closed();
            for (name, value) in map {
                let (field, declared) = schema.field(name);
                path.push(format!("f:{name}"));
                if closed && !declared {
                    let why = "field not declared in schema";
                    errors.push(format!("{}: {why}", set::display(path)));
                } else {
                    walk(&field, value, duplicates, path, errors);
                }
                path.pop();
            }
        }
        Value::Array(list) => {
            let shape = schema.shape(value);
            let item_schema = schema.item();
            let mut seen: Vec<Element> = Vec::new();
            for (index, item) in list.iter().enumerate() {
                let element = match &shape {
                    Shape::Set | Shape::Keyed(_) => {
                        match super::typed::element(schema, &shape, item) {
                            Some(element) => element,
                            None => {
                                let why = untold(&shape, item);
                                let why = format!("element {index}: {why}");
                                errors.push(if path.is_empty() {
                                    why
                                } else {
                                    format!("{}: {why}", set::display(path))
                                });
                                return;
                            }
                        }
                    }
                    _ => format!("i:{index}"),
                };
                if !duplicates && seen.contains(&element) {
                    let key = set::display(std::slice::from_ref(&element));
                    let why = format!("duplicate entries for key {key}");
                    errors.push(if path.is_empty() {
                        why
                    } else {
                        format!("{}: {why}", set::display(path))
                    });
                }
                path.push(element.clone());
                walk(&item_schema, item, duplicates, path, errors);
                path.pop();
                seen.push(element);
            }
        }
        _ => {}
    }
}

/// Why an item of a list cannot be told apart from the others.
fn untold(shape: &Shape, item: &Value) -> String {
    match (shape, item) {
        (Shape::Keyed(_), Value::Null) => {
            "associative list with keys may not have a null element".to_owned()
        }
        (Shape::Keyed(keys), Value::Object(_)) => {
            let keys: Vec<String> = keys.iter().map(|key| go_quote(key)).collect();
            format!(
                "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
                keys.join(" ")
            )
        }
        (Shape::Keyed(_), _) => {
            "associative list with keys may not have non-map elements".to_owned()
        }
        (_, Value::Object(_)) => {
            "associative list without keys has an element that's a map type".to_owned()
        }
        (_, Value::Array(_)) => "not supported: associative list with lists as elements".to_owned(),
        _ => "associative list without keys has an element that's an explicit null".to_owned(),
    }
}

/// A value as `%v` prints the wrapper it is in.
pub(crate) fn wrapped(value: &Value) -> String {
    format!("&{{{}}}", go_print(value))
}

/// A value as `%#v` prints the wrapper it is in.
pub(crate) fn wrapped_syntax(value: &Value) -> String {
    format!("&value.valueUnstructured{{Value:{}}}", go_syntax(value))
}

/// A decoded value as `%#v` prints it.
fn go_syntax(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::String(text) => go_quote(text),
        Value::Array(list) => {
            let items: Vec<String> = list.iter().map(go_syntax).collect();
            format!("[]interface {{}}{{{}}}", items.join(", "))
        }
        Value::Object(map) => {
            let items: Vec<String> = map
                .iter()
                .map(|(key, value)| format!("{}:{}", go_quote(key), go_syntax(value)))
                .collect();
            format!("map[string]interface {{}}{{{}}}", items.join(", "))
        }
        other => other.to_string(),
    }
}

/// The Go type of a decoded value, as `%T` prints it.
pub(crate) fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::super::Node;
    use super::*;

    fn case(object: Value, expected: &str) {
        let schema = crate::Scheme::builtin().schema();
        let pod = Node::from(schema.named("core/v1", "Pod").unwrap());
        let found = check(&pod, &object, false).err().unwrap_or_default();
        assert_eq!(found, expected, "{object}");
    }

    #[test]
    fn words() {
        case(json!({"spec": {"nodeName": "a", "hostAliases": []}}), "");
        case(json!({"bogus": 1}), ".bogus: field not declared in schema");
        case(
            json!({"spec": {"containers": [{"name": "c"}, {"name": "c"}]}}),
            ".spec.containers: duplicate entries for key [name=\"c\"]",
        );
        case(json!({"spec": {"containers": [{"image": "c"}]}}), "");
        case(
            json!({"spec": {"priority": "x"}}),
            ".spec.priority: expected numeric (int or float), got string",
        );
        case(
            json!({"metadata": {"labels": {"a": 1}}}),
            ".metadata.labels.a: expected string, got &value.valueUnstructured{Value:1}",
        );
        case(json!({"spec": []}), ".spec: expected map, got &{[]}");
    }
}

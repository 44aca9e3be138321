//! Strategic merge patch: merge patch that knows from the type which lists are
//! merged, by which key, and which directives the patch may carry.
//!
//! Directives: `$patch: replace|delete|merge` in maps and list elements,
//! `$retainKeys`, `$setElementOrder/FIELD`, `$deleteFromPrimitiveList/FIELD`.

use std::mem;

use serde_json::{Map, Value};

use super::go_print;
use crate::schema::{FieldRef, Shape, StructRef, TypeRef};
use crate::status::{Reason, Status};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_LIST: &str = "$deleteFromPrimitiveList";
const ELEMENT_ORDER: &str = "$setElementOrder";

/// Why a patch cannot be merged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StrategicError {
    /// A directive of the wrong form.
    #[error("{0}")]
    Format(&'static str),
    /// A patch that contradicts the object.
    #[error("{0}")]
    Unprocessable(&'static str),
    /// Everything that upstream answers with a mere error.
    #[error("{0}")]
    Other(String),
}

const BAD_RETAIN_KEYS: StrategicError =
    StrategicError::Format("invalid patch format of retainKeys");
const BAD_ELEMENT_ORDER: StrategicError =
    StrategicError::Format("invalid patch format of setElementOrder list");
const BAD_PRIMITIVE_LIST: StrategicError =
    StrategicError::Format("invalid patch format of primitive list");
const NO_LIST_OF_LISTS: StrategicError =
    StrategicError::Unprocessable("lists of lists are not supported");

impl StrategicError {
    /// The answer to the request.
    pub fn status(&self) -> Status {
        match self {
            Self::Format(text) => Status::bad_request(*text),
            Self::Unprocessable(_) => super::rejected(),
            Self::Other(text) => Status::new(Reason::Unknown, text),
        }
    }
}

/// Applies a patch to an object of a type.
///
/// # Errors
///
/// When a directive is malformed, or an element lacks the merge key of its list.
pub fn apply(
    original: Value,
    patch: Map<String, Value>,
    ty: TypeRef<'_>,
) -> Result<Value, StrategicError> {
    let mut object = match original {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    merge_map(&mut object, patch, ty.as_struct())?;
    Ok(Value::Object(object))
}

/// How a field's list or map is merged.
struct Meta<'a> {
    /// The struct of the field, or of the elements of its list.
    inner: Option<StructRef<'a>>,
    strategy: &'a str,
    key: &'a str,
}

fn meta<'a>(within: Option<StructRef<'a>>, name: &str) -> Meta<'a> {
    let field: Option<FieldRef<'a>> = within.and_then(|it| it.field(name));
    let Some(field) = field else {
        return Meta {
            inner: None,
            strategy: "",
            key: "",
        };
    };
    let ty = match field.ty().shape() {
        Shape::List(element) => element,
        _ => field.ty(),
    };
    let mut strategies = field.patch_strategy().split(',');
    Meta {
        inner: ty.as_struct(),
        strategy: strategies
            .rfind(|it| *it != "retainKeys")
            .unwrap_or_default(),
        key: field.patch_merge_key(),
    }
}

fn merge_map(
    original: &mut Map<String, Value>,
    mut patch: Map<String, Value>,
    within: Option<StructRef<'_>>,
) -> Result<(), StrategicError> {
    if let Some(directive) = patch.get(PATCH) {
        match directive.as_str() {
            Some("replace") => {
                patch.remove(PATCH);
                *original = patch;
            }
            Some("delete") => original.clear(),
            _ => return Err(unknown_directive(&patch)),
        }
        return Ok(());
    }
    retain_keys(original, &mut patch)?;
    order_lists(original, &mut patch, within)?;
    for (key, mut value) in patch {
        let deletes = key.starts_with(DELETE_LIST);
        let key = if deletes {
            directive_field(&key, DELETE_LIST)?
        } else {
            key
        };
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        let Some(current) = original.get_mut(&key) else {
            if !deletes {
                discard_nulls(&mut value);
                if let Some(value) = without_directives(value) {
                    original.insert(key, value);
                }
            }
            continue;
        };
        match (current, value) {
            (Value::Object(current), Value::Object(value)) => {
                let meta = meta(within, &key);
                if meta.strategy == "replace" {
                    *current = value;
                } else {
                    merge_map(current, value, meta.inner)?;
                }
            }
            (Value::Array(current), Value::Array(value)) => {
                let meta = meta(within, &key);
                *current = merge_lists(mem::take(current), value, &meta, deletes)?;
            }
            (_, _) if deletes => {}
            (_, mut value) => {
                discard_nulls(&mut value);
                match without_directives(value) {
                    Some(value) => drop(original.insert(key, value)),
                    None => drop(original.remove(&key)),
                }
            }
        }
    }
    Ok(())
}

fn unknown_directive(patch: &Map<String, Value>) -> StrategicError {
    let directive = go_print(&patch[PATCH]);
    let shown = go_print(&Value::Object(patch.clone()));
    StrategicError::Other(format!("unknown patch type: {directive} in map: {shown}"))
}

/// `FIELD` of `$directive/FIELD`.
fn directive_field(key: &str, directive: &str) -> Result<String, StrategicError> {
    match key.split_once('/') {
        Some((prefix, field)) if prefix == directive => Ok(field.to_owned()),
        _ if directive == DELETE_LIST => Err(BAD_PRIMITIVE_LIST),
        _ => Err(BAD_ELEMENT_ORDER),
    }
}

/// Clears what `$retainKeys` does not name.
fn retain_keys(
    original: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
) -> Result<(), StrategicError> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let Value::Array(keys) = keys else {
        return Err(BAD_RETAIN_KEYS);
    };
    let named = |key: &str| keys.iter().any(|it| it.as_str() == Some(key));
    for (key, value) in patch.iter() {
        let directive = key.starts_with(DELETE_LIST) || key.starts_with(ELEMENT_ORDER);
        if !value.is_null() && !directive && !named(key) {
            return Err(BAD_RETAIN_KEYS);
        }
    }
    original.retain(|key, _| named(key));
    Ok(())
}

/// Merges the lists whose order the patch sets, and takes them out of it.
fn order_lists(
    original: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
    within: Option<StructRef<'_>>,
) -> Result<(), StrategicError> {
    let directives: Vec<String> = patch
        .keys()
        .filter(|key| key.starts_with(ELEMENT_ORDER))
        .cloned()
        .collect();
    for directive in directives {
        let Some(Value::Array(order)) = patch.remove(&directive) else {
            return Err(BAD_ELEMENT_ORDER);
        };
        let field = directive_field(&directive, ELEMENT_ORDER)?;
        let meta = meta(within, &field);
        let list = |value: Option<&Value>| match value {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list.clone())),
            Some(other) => Err(StrategicError::Other(format!(
                "expected a []interface {{}}, but received a {}",
                go_type(other)
            ))),
        };
        let current = list(original.get(&field))?;
        let changes = list(patch.get(&field).filter(|it| !it.is_null()))?;
        if let Some(changes) = &changes {
            check_order(changes, &order, meta.key)?;
        }
        let before = current.clone().unwrap_or_default();
        let merged = match (current, changes) {
            (None, None) => continue,
            (Some(current), None) => current,
            (None, Some(changes)) => match without_directives(Value::Array(changes)) {
                Some(Value::Array(list)) => list,
                _ => continue,
            },
            (Some(current), Some(changes)) => merge_lists(current, changes, &meta, false)?,
        };
        let ordered = arrange(merged, &order, &before, meta.key)?;
        original.insert(field.clone(), Value::Array(ordered));
        patch.remove(&field);
    }
    Ok(())
}

/// Whether the elements of the patch come in the order that it sets.
fn check_order(changes: &[Value], order: &[Value], key: &str) -> Result<(), StrategicError> {
    if order.is_empty() || changes.is_empty() {
        return Ok(());
    }
    let mut order_left = order.iter();
    for change in changes.iter().filter(|it| it.get(PATCH).is_none()) {
        if !order_left.any(|it| same(it, change, key)) {
            return Err(StrategicError::Other(format!(
                "The order in patch list:\n{}\n doesn't match {ELEMENT_ORDER} list:\n{}\n",
                go_print(&Value::Array(changes.to_vec())),
                go_print(&Value::Array(order.to_vec()))
            )));
        }
    }
    Ok(())
}

/// Whether two elements are the same one: by merge key, or equal scalars.
fn same(a: &Value, b: &Value, key: &str) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => a.get(key).is_some() && a.get(key) == b.get(key),
        (a, b) => a == b,
    }
}

fn merge_lists(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    meta: &Meta<'_>,
    deletes: bool,
) -> Result<Vec<Value>, StrategicError> {
    if meta.strategy != "merge" && !deletes {
        return Ok(patch);
    }
    let Some(first) = original.first().or(patch.first()) else {
        return Ok(original);
    };
    if first.is_array() {
        return Err(NO_LIST_OF_LISTS);
    }
    let kind = go_type(first);
    if original.iter().chain(&patch).any(|it| go_type(it) != kind) {
        let both = Value::Array(vec![Value::Array(original), Value::Array(patch)]);
        return Err(StrategicError::Other(format!(
            "list element types are not identical: {}",
            go_print(&both)
        )));
    }
    if !first.is_object() {
        if deletes {
            original.retain(|it| !patch.contains(it));
            return Ok(original);
        }
        let before = original.clone();
        for item in &patch {
            if !original.contains(item) {
                original.push(item.clone());
            }
        }
        return arrange(original, &patch, &before, "");
    }
    if meta.key.is_empty() {
        let name = meta.inner.map_or("", StructRef::name);
        return Err(StrategicError::Other(format!(
            "cannot merge lists without merge key for {name}"
        )));
    }
    let mut elements = Vec::with_capacity(patch.len());
    let mut replace = false;
    for element in patch {
        let Value::Object(element) = element else {
            continue;
        };
        match element.get(PATCH).map(|it| it.as_str().unwrap_or_default()) {
            None => elements.push(element),
            Some("delete") => {
                let value = element
                    .get(meta.key)
                    .ok_or_else(|| no_key(&element, meta.key))?;
                original.retain(|it| it.get(meta.key) != Some(value));
            }
            Some("replace") => replace = true,
            Some("merge") => {
                return Err(StrategicError::Other(
                    "merging lists cannot yet be specified in the patch".to_owned(),
                ));
            }
            Some(_) => return Err(unknown_directive(&element)),
        }
    }
    if replace {
        return Ok(elements.into_iter().map(Value::Object).collect());
    }
    let before = original.clone();
    let mut order = Vec::with_capacity(elements.len());
    for element in elements {
        let Some(value) = element.get(meta.key).cloned() else {
            return Err(no_key(&element, meta.key));
        };
        let mut named = Map::new();
        named.insert(meta.key.to_owned(), value.clone());
        order.push(Value::Object(named));
        let found = original
            .iter_mut()
            .find(|it| it.get(meta.key) == Some(&value));
        match found {
            Some(Value::Object(current)) => merge_map(current, element, meta.inner)?,
            _ => original.push(Value::Object(element)),
        }
    }
    arrange(original, &order, &before, meta.key)
}

fn no_key(element: &Map<String, Value>, key: &str) -> StrategicError {
    let shown = go_print(&Value::Object(element.clone()));
    StrategicError::Other(format!(
        "map: {shown} does not contain declared merge key: {key}"
    ))
}

/// Puts a merged list in order: what the patch names in the patch's order, the
/// rest where it was before, relative to what was before it.
fn arrange(
    merged: Vec<Value>,
    order: &[Value],
    before: &[Value],
    key: &str,
) -> Result<Vec<Value>, StrategicError> {
    let place = |list: &[Value], item: &Value| list.iter().position(|it| same(it, item, key));
    if !key.is_empty()
        && let Some(Value::Object(element)) =
            merged.iter().chain(order).find(|it| it.get(key).is_none())
    {
        return Err(no_key(element, key));
    }
    let (mut named, mut rest): (Vec<Value>, Vec<Value>) = merged
        .into_iter()
        .partition(|item| place(order, item).is_some());
    named.sort_by_key(|item| place(order, item).unwrap_or(usize::MAX));
    rest.sort_by_key(|item| place(before, item).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(named.len() + rest.len());
    let (mut named, mut rest) = (named.into_iter().peekable(), rest.into_iter().peekable());
    while let (Some(left), Some(right)) = (rest.peek(), named.peek()) {
        let left_first = match (place(before, left), place(before, right)) {
            (Some(left), Some(right)) => left < right,
            _ => false,
        };
        out.extend(if left_first {
            rest.next()
        } else {
            named.next()
        });
    }
    out.extend(rest);
    out.extend(named);
    Ok(out)
}

/// Drops null members at any depth.
fn discard_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(discard_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(discard_nulls),
        _ => {}
    }
}

/// A value without the maps that carry `$patch`; `None` if it is one itself.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) => {
            if map.contains_key(PATCH) {
                return None;
            }
            let kept = map
                .into_iter()
                .filter_map(|(key, value)| Some((key, without_directives(value)?)));
            Some(Value::Object(kept.collect()))
        }
        Value::Array(list) => Some(Value::Array(
            list.into_iter().filter_map(without_directives).collect(),
        )),
        other => Some(other),
    }
}

/// The Go type of a decoded value.
fn go_type(value: &Value) -> &'static str {
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

//! Values seen through their schema: which parts of them have owners of their own.
//!
//! A list is one field (atomic), a set of scalars or a map of objects by keys;
//! a map or struct is one field or one for each entry. Comparing, merging and
//! cutting values follow that, as `structured-merge-diff` does.

use serde_json::{Map, Value};

use super::set::{Element, FieldSet};

/// How ownership of a value is divided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One field: a scalar, or an atomic list, map or struct.
    Leaf,
    /// A field for each entry.
    Map,
    /// A field for each value of a list of scalars.
    Set,
    /// A field for each object of a list, told apart by these keys.
    Keyed(Vec<String>),
}

/// The schema of a value.
pub trait Structure: Clone {
    /// How this value's ownership is divided.
    fn shape(&self, value: &Value) -> Shape;
    /// The schema of an entry, and whether the type declares it as a field.
    fn field(&self, name: &str) -> (Self, bool);
    /// The schema of a list's items.
    fn item(&self) -> Self;
    /// What a list item without this key is taken to have.
    fn key_default(&self, name: &str) -> Option<Value>;
    /// Why a value is none of this type, if it is not.
    fn mismatch(&self, _value: &Value) -> Option<String> {
        None
    }
    /// Whether an object may only have the fields that the type declares.
    fn is_closed(&self) -> bool {
        false
    }
    /// An object that sets nothing, as Go writes it: structs that are no
    /// pointers are there and empty, required lists are null. What it has is
    /// not set by whoever creates the object.
    fn zero(&self) -> Value;
}

/// What differs between two values.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// Only in the left one.
    pub removed: FieldSet,
    /// In both, unequal.
    pub modified: FieldSet,
    /// Only in the right one.
    pub added: FieldSet,
}

impl Comparison {
    /// Drops these paths and all below them.
    #[must_use]
    pub fn without(&self, fields: &FieldSet) -> Self {
        Self {
            removed: self.removed.recursive_difference(fields),
            modified: self.modified.recursive_difference(fields),
            added: self.added.recursive_difference(fields),
        }
    }
}

fn empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(map)) => map.is_empty(),
        Some(_) => false,
    }
}

fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The path element of a list's item; `None` if it cannot be told apart.
pub(super) fn element<S: Structure>(schema: &S, shape: &Shape, item: &Value) -> Option<Element> {
    match shape {
        Shape::Set => match item {
            Value::Array(_) | Value::Object(_) | Value::Null => None,
            scalar => Some(format!("v:{scalar}")),
        },
        Shape::Keyed(keys) => {
            let object = item.as_object()?;
            let schema = schema.item();
            let mut found = Map::new();
            for key in keys {
                let value = object.get(key).cloned();
                if let Some(value) = value.or_else(|| schema.key_default(key)) {
                    found.insert(key.clone(), value);
                }
            }
            (!found.is_empty()).then(|| format!("k:{}", Value::Object(found)))
        }
        _ => None,
    }
}

/// The shape that both sides have; a leaf if they disagree or both are empty.
fn common_shape<S: Structure>(schema: &S, left: Option<&Value>, right: Option<&Value>) -> Shape {
    if empty(left) && empty(right) {
        return Shape::Leaf;
    }
    let known = |value: Option<&Value>| {
        value
            .filter(|value| !value.is_null())
            .map(|value| schema.shape(value))
    };
    match (known(left), known(right)) {
        (Some(left), Some(right)) if left == right => left,
        (Some(one), None) | (None, Some(one)) => one,
        _ => Shape::Leaf,
    }
}

/// Everything that differs between two values of one schema.
pub fn compare<S: Structure>(schema: &S, left: &Value, right: &Value) -> Comparison {
    let mut out = Comparison::default();
    compare_at(schema, Some(left), Some(right), &mut Vec::new(), &mut out);
    out
}

fn compare_at<S: Structure>(
    schema: &S,
    left: Option<&Value>,
    right: Option<&Value>,
    path: &mut Vec<Element>,
    out: &mut Comparison,
) {
    let shape = common_shape(schema, left, right);
    match &shape {
        Shape::Leaf => {
            match (left, right) {
                (None, _) => out.added.insert(path),
                (_, None) => out.removed.insert(path),
                (Some(left), Some(right)) if left != right => out.modified.insert(path),
                _ => {}
            }
            return;
        }
        Shape::Map => {
            let nothing = Map::new();
            let left = left.and_then(Value::as_object).unwrap_or(&nothing);
            let right = right.and_then(Value::as_object).unwrap_or(&nothing);
            let names = left
                .keys()
                .chain(right.keys().filter(|name| !left.contains_key(*name)));
            for name in names {
                path.push(format!("f:{name}"));
                let (field, _) = schema.field(name);
                compare_at(&field, left.get(name), right.get(name), path, out);
                path.pop();
            }
        }
        Shape::Set | Shape::Keyed(_) => {
            let group = |value: Option<&'_ Value>| {
                let mut out: Vec<(Element, Vec<Value>)> = Vec::new();
                for item in items(value) {
                    let Some(key) = element(schema, &shape, item) else {
                        continue;
                    };
                    match out.iter_mut().find(|(known, _)| *known == key) {
                        Some((_, list)) => list.push(item.clone()),
                        None => out.push((key, vec![item.clone()])),
                    }
                }
                out
            };
            let (lefts, rights) = (group(left), group(right));
            let find = |list: &[(Element, Vec<Value>)], key: &str| {
                list.iter()
                    .find(|(known, _)| known == key)
                    .map_or_else(Vec::new, |(_, items)| items.clone())
            };
            let keys = lefts.iter().map(|(key, _)| key).chain(
                rights
                    .iter()
                    .map(|(key, _)| key)
                    .filter(|key| !lefts.iter().any(|(known, _)| known == *key)),
            );
            for key in keys {
                let (left, right) = (find(&lefts, key), find(&rights, key));
                path.push(key.clone());
                compare_items(schema, &left, &right, path, out);
                path.pop();
            }
        }
    }
    match (left, right) {
        (None, _) => out.added.insert(path),
        (_, None) => out.removed.insert(path),
        _ => {}
    }
}

/// Items of one key on both sides; several of one key are one field together.
fn compare_items<S: Structure>(
    schema: &S,
    left: &[Value],
    right: &[Value],
    path: &mut Vec<Element>,
    out: &mut Comparison,
) {
    let item = schema.item();
    match (left.len(), right.len()) {
        (0 | 1, 0 | 1) => compare_at(&item, left.first(), right.first(), path, out),
        (2.., 2..) => {
            if left != right {
                out.modified.insert(path);
            }
        }
        (2.., _) => {
            if let Some(right) = right.first() {
                compare_at(&item, None, Some(right), path, out);
            }
            out.removed.insert(path);
        }
        _ => {
            if let Some(left) = left.first() {
                compare_at(&item, Some(left), None, path, out);
            }
            out.added.insert(path);
        }
    }
}

/// The fields that a value sets.
pub fn field_set<S: Structure>(schema: &S, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    collect(schema, value, &mut Vec::new(), &mut set);
    set
}

fn collect<S: Structure>(schema: &S, value: &Value, path: &mut Vec<Element>, set: &mut FieldSet) {
    let shape = if value.is_null() {
        Shape::Leaf
    } else {
        schema.shape(value)
    };
    match &shape {
        Shape::Leaf => set.insert(path),
        Shape::Map => {
            for (name, child) in value.as_object().into_iter().flatten() {
                let (field, declared) = schema.field(name);
                path.push(format!("f:{name}"));
                collect(&field, child, path, set);
                let hollow = child.is_null() || child.as_object().is_some_and(Map::is_empty);
                if hollow || !declared {
                    set.insert(path);
                }
                path.pop();
            }
        }
        Shape::Set | Shape::Keyed(_) => {
            let keys: Vec<Option<Element>> = items(Some(value))
                .iter()
                .map(|item| element(schema, &shape, item))
                .collect();
            for (key, item) in keys.iter().zip(items(Some(value))) {
                let Some(key) = key else { continue };
                path.push(key.clone());
                set.insert(path);
                let once = keys.iter().flatten().filter(|known| *known == key).count() == 1;
                if once {
                    collect(&schema.item(), item, path, set);
                }
                path.pop();
            }
        }
    }
}

/// The left value with everything that the right one sets.
///
/// # Errors
/// When items of the right one cannot be told apart.
pub fn merge<S: Structure>(schema: &S, left: &Value, right: &Value) -> Result<Value, String> {
    Ok(merge_at(schema, Some(left), Some(right))?.unwrap_or(Value::Null))
}

fn merge_at<S: Structure>(
    schema: &S,
    left: Option<&Value>,
    right: Option<&Value>,
) -> Result<Option<Value>, String> {
    let shape = common_shape(schema, left, right);
    match &shape {
        Shape::Leaf => Ok(right.or(left).cloned()),
        Shape::Map => {
            if right.is_some_and(Value::is_null) {
                return Ok(left.cloned());
            }
            let mut out = Map::new();
            let nothing = Map::new();
            let left = left.and_then(Value::as_object).unwrap_or(&nothing);
            let right = right.and_then(Value::as_object).unwrap_or(&nothing);
            let names = left
                .keys()
                .chain(right.keys().filter(|name| !left.contains_key(*name)));
            for name in names {
                let (field, _) = schema.field(name);
                if let Some(value) = merge_at(&field, left.get(name), right.get(name))? {
                    out.insert(name.clone(), value);
                }
            }
            Ok((!out.is_empty()).then_some(Value::Object(out)))
        }
        Shape::Set | Shape::Keyed(_) => {
            let out = merge_list(schema, &shape, items(left), items(right))?;
            Ok((!out.is_empty()).then_some(Value::Array(out)))
        }
    }
}

/// Merges two lists, keeping the right one's order for what it names and
/// the left one's for the rest.
fn merge_list<S: Structure>(
    schema: &S,
    shape: &Shape,
    left: &[Value],
    right: &[Value],
) -> Result<Vec<Value>, String> {
    let index = |list: &[Value], unique: bool| -> Result<Vec<(Element, Option<Value>)>, String> {
        let mut out: Vec<(Element, Option<Value>)> = Vec::new();
        for (at, item) in list.iter().enumerate() {
            let key = element(schema, shape, item)
                .ok_or_else(|| format!("element {at}: associative list with keys has an element that omits all key fields"))?;
            let known = out.iter_mut().find(|(known, _)| *known == key);
            if let Some(known) = known {
                if unique {
                    return Err(format!(
                        "duplicate entries for key {}",
                        super::set::display(&[key])
                    ));
                }
                known.1 = Some(Value::Null);
                out.push((key, Some(Value::Null)));
            } else {
                out.push((key, Some(item.clone())));
            }
        }
        Ok(out)
    };
    let lefts = index(left, false)?;
    let rights = index(right, true)?;
    let find = |list: &[(Element, Option<Value>)], key: &str| {
        list.iter()
            .find(|(known, _)| known == key)
            .and_then(|(_, value)| value.clone())
    };
    let in_left = |key: &str| lefts.iter().any(|(known, _)| known == key);
    let in_right = |key: &str| rights.iter().any(|(known, _)| known == key);
    let item = schema.item();
    let mut shared = rights
        .iter()
        .map(|(key, _)| key)
        .filter(|key| in_left(key))
        .peekable();
    let mut merged: Vec<&str> = Vec::new();
    let mut out = Vec::new();
    let (mut l, mut r) = (0, 0);
    while l < lefts.len() || r < rights.len() {
        if let (Some((left_key, _)), Some((right_key, _))) = (lefts.get(l), rights.get(r)) {
            if left_key == right_key {
                merged.push(left_key);
                out.extend(merge_at(
                    &item,
                    find(&lefts, left_key).as_ref(),
                    find(&rights, left_key).as_ref(),
                )?);
                l += 1;
                r += 1;
                shared.next();
                continue;
            }
            if in_right(left_key) && shared.peek().is_some_and(|next| *next != left_key) {
                l += 1;
                continue;
            }
        }
        if let Some((key, _)) = lefts.get(l) {
            if !in_right(key) {
                out.extend(merge_at(&item, Some(&left[l]), None)?);
                l += 1;
                continue;
            } else if merged.contains(&key.as_str()) {
                l += 1;
            }
        }
        if let Some((key, _)) = rights.get(r) {
            merged.push(key);
            out.extend(merge_at(
                &item,
                find(&lefts, key).as_ref(),
                find(&rights, key).as_ref(),
            )?);
            r += 1;
            if shared.peek().is_some_and(|next| *next == key) {
                shared.next();
            }
        }
    }
    Ok(out)
}

/// The value without these fields.
pub fn remove<S: Structure>(schema: &S, value: &Value, fields: &FieldSet) -> Option<Value> {
    let shape = schema.shape(value);
    match (&shape, value) {
        (Shape::Leaf, Value::Array(_) | Value::Object(_)) => None,
        (Shape::Leaf, other) => Some(other.clone()),
        (Shape::Map, Value::Object(map)) => {
            let mut out = Map::new();
            let mut hit = false;
            for (name, child) in map {
                let key = format!("f:{name}");
                if fields.has(&key) {
                    continue;
                }
                let child = match fields.below(&key) {
                    Some(below) => {
                        hit = true;
                        let (field, _) = schema.field(name);
                        hollowed(remove(&field, child, below), child)
                    }
                    None => child.clone(),
                };
                out.insert(name.clone(), child);
            }
            (hit || !out.is_empty()).then_some(Value::Object(out))
        }
        (Shape::Set | Shape::Keyed(_), Value::Array(list)) => {
            let mut out = Vec::new();
            let mut hit = false;
            for item in list {
                let key = element(schema, &shape, item).unwrap_or_default();
                if fields.has(&key) {
                    continue;
                }
                out.push(match fields.below(&key) {
                    Some(below) => {
                        hit = true;
                        hollowed(remove(&schema.item(), item, below), item)
                    }
                    None => item.clone(),
                });
            }
            (hit || !out.is_empty()).then_some(Value::Array(out))
        }
        (_, other) => Some(other.clone()),
    }
}

/// A value cut to nothing stays as an empty one of its type.
fn hollowed(cut: Option<Value>, original: &Value) -> Value {
    match (cut, original) {
        (Some(value), _) => value,
        (None, Value::Object(_)) => Value::Object(Map::new()),
        (None, Value::Array(_)) => Value::Array(Vec::new()),
        (None, _) => Value::Null,
    }
}

/// The set with every declared field that it has paths below as a member too.
pub fn with_named_fields<S: Structure>(schema: &S, set: &FieldSet) -> FieldSet {
    let mut out = set.clone();
    for (key, child) in set.children() {
        let child_schema = match key.strip_prefix("f:") {
            Some(name) => {
                let (field, declared) = schema.field(name);
                if declared {
                    out.add_member(key);
                }
                field
            }
            None => schema.item(),
        };
        out.set_below(key, with_named_fields(&child_schema, child));
    }
    out
}

//! Values against schemas.
//!
//! The order of errors, their words, and which branch of an `anyOf` or `oneOf`
//! is complained about (the one with most checks that went well) are those of
//! `k8s.io/kube-openapi/pkg/validation/validate`. On update, what is wrong but
//! as it was is let pass: an old value is looked up beside each new one as far
//! as the two can be told to be the same.

use serde_json::{Map, Value};

use super::formats;
use super::numbers::{self, GoNumber};
use super::schema::{Additional, JsonType, Rules, Schema};
use crate::schema::ListType;
use crate::{ErrorType, FieldError, Path};

/// One complaint. Some name no field.
#[derive(Clone, Debug)]
struct Violation {
    place: Option<String>,
    kind: ErrorType,
    value: Value,
    message: String,
}

/// What holding a value against a schema came to.
#[derive(Debug, Default)]
struct Outcome {
    violations: Vec<Violation>,
    /// Checks that went well, roughly.
    matches: usize,
}

impl Outcome {
    fn is_valid(&self) -> bool {
        self.violations.is_empty()
    }

    fn add(&mut self, violation: Violation) {
        let known = |it: &Violation| {
            it.message == violation.message
                && it.place.is_some() == violation.place.is_some()
                && (!violation.message.is_empty() || it.place == violation.place)
        };
        if !self.violations.iter().any(known) {
            self.violations.push(violation);
        }
    }

    fn merge(&mut self, other: Self) {
        other.violations.into_iter().for_each(|it| self.add(it));
        self.matches += other.matches;
    }
}

fn violation(place: &str, kind: ErrorType, value: Value, message: String) -> Violation {
    Violation {
        place: Some(place.to_owned()),
        kind,
        value,
        message,
    }
}

fn remark(message: String) -> Violation {
    Violation {
        place: None,
        kind: ErrorType::Invalid,
        value: "".into(),
        message,
    }
}

fn wrong_type(place: &str, wanted: &str, found: &str) -> Violation {
    let message = format!("{place} in body must be of type {wanted}: {found:?}");
    violation(place, ErrorType::TypeInvalid, found.into(), message)
}

/// The value as it was, and the schema that both versions of it have.
#[derive(Clone, Copy)]
struct Before<'a> {
    old: &'a Value,
    new: &'a Value,
    /// The schema by which items are found again.
    schema: &'a Schema,
}

impl<'a> Before<'a> {
    fn field(self, name: &str) -> Option<Self> {
        Some(Self {
            old: self.old.as_object()?.get(name)?,
            new: self.new.as_object()?.get(name)?,
            schema: self.schema.field(name)?,
        })
    }

    fn item(self, at: usize) -> Option<Self> {
        if self.schema.list_type != Some(ListType::Map) {
            return None;
        }
        let new = self.new.as_array()?.get(at)?;
        let schema = self.schema.items.as_deref()?;
        let same = |old: &&Value| {
            let keys = &self.schema.list_keys;
            keys.iter().all(|key| {
                old.get(key).or(default(schema, key)) == new.get(key).or(default(schema, key))
            })
        };
        let old = self.old.as_array()?.iter().find(same)?;
        Some(Self { old, new, schema })
    }

    fn is_same(self) -> bool {
        self.old == self.new
    }
}

fn default<'a>(schema: &'a Schema, key: &str) -> Option<&'a Value> {
    schema.properties.get(key)?.default.as_ref()
}

/// Everything wrong with a value, the place of each error below `path`. With
/// an old value, what is as it was is not held against the new one.
pub(crate) fn check(
    path: &Path,
    schema: &Schema,
    value: &Value,
    old: Option<&Value>,
) -> Vec<FieldError> {
    let before = old.map(|old| Before {
        old,
        new: value,
        schema,
    });
    let outcome = correlated(schema, "", value, before);
    outcome
        .violations
        .into_iter()
        .map(|it| {
            let field = match it.place.as_deref() {
                None | Some("" | ".") => path.clone(),
                Some(place) => path.child(place.strip_prefix('.').unwrap_or(place)),
            };
            FieldError::new(it.kind, &field, it.value, it.message)
        })
        .collect()
}

fn correlated(schema: &Schema, place: &str, value: &Value, before: Option<Before<'_>>) -> Outcome {
    let mut outcome = whole(schema, place, value, before);
    if before.is_some_and(|it| !outcome.is_valid() && it.is_same()) {
        outcome.violations.clear();
    }
    outcome
}

fn whole(schema: &Schema, place: &str, value: &Value, before: Option<Before<'_>>) -> Outcome {
    let mut out = Outcome::default();
    if value.is_null() {
        let types = types(schema);
        if !types.is_empty() && !schema.nullable {
            out.add(wrong_type(place, &types.join(","), "null"));
        } else {
            out.matches += 1;
        }
        if let Some(rules) = &schema.rules {
            out.merge(choice(rules, place, value));
        }
        return out;
    }
    let types = types(schema);
    if !types.is_empty() || !schema.format.is_empty() {
        out.merge(of_type(schema, &types, place, value));
        out.matches += 1;
    }
    let nothing = Rules::default();
    let rules = schema.rules.as_deref().unwrap_or(&nothing);
    out.merge(junctors(rules, place, value, before));
    out.matches += 1;
    match value {
        Value::String(text) => {
            out.violations.extend(text_rules(rules, place, text));
            out.matches += 1;
            if !schema.format.is_empty() && formats::is_of_strings(&schema.format) {
                if !formats::matches(&schema.format, text) {
                    out.add(wrong_type(place, &schema.format, text));
                }
                out.matches += 1;
            }
        }
        Value::Number(number) => {
            out.merge(number_rules(schema, rules, place, GoNumber::of(number)));
            out.matches += 1;
        }
        Value::Array(items) => {
            out.merge(list_rules(schema, rules, place, items, before));
            out.matches += 1;
        }
        _ => {}
    }
    out.merge(choice(rules, place, value));
    out.matches += 1;
    if let Value::Object(map) = value {
        out.merge(object_rules(schema, rules, place, map, before));
        out.matches += 1;
    }
    out.matches += 1;
    out
}

fn types(schema: &Schema) -> Vec<&'static str> {
    if schema.is_int_or_string {
        return vec!["integer", "string"];
    }
    match schema.json_type {
        JsonType::Any => Vec::new(),
        known => vec![known.name()],
    }
}

fn of_type(schema: &Schema, types: &[&str], place: &str, value: &Value) -> Outcome {
    let mut out = Outcome::default();
    let format = &*schema.format;
    let (found, found_format) = match value {
        Value::Bool(_) => ("boolean", ""),
        Value::String(_) => ("string", ""),
        Value::Array(_) => ("array", ""),
        Value::Object(_) => ("object", ""),
        Value::Number(number) => match GoNumber::of(number) {
            GoNumber::Int(_) => ("integer", "int64"),
            GoNumber::Float(_) => ("number", "float64"),
        },
        Value::Null => ("null", ""),
    };
    let has = |name: &str| types.contains(&name);
    let integral = match value {
        Value::Number(number) => GoNumber::of(number).is_integral(),
        _ => false,
    };
    let float_as_int = found == "number" && integral && has("integer");
    let int_as_float = found == "integer" && has("number");
    let is_text_or_list = value.is_string() || value.is_array();
    let fits = has(found) || float_as_int || int_as_float;
    if !is_text_or_list && !format.is_empty() && !fits && found_format != format {
        out.add(wrong_type(place, format, found_format));
        return out;
    }
    let numeric = has("number") || has("integer");
    if !fits && (numeric || format.is_empty() || !is_text_or_list) {
        out.add(wrong_type(place, &types.join(","), found));
        return out;
    }
    out.matches += 1;
    out
}

fn junctors(rules: &Rules, place: &str, value: &Value, before: Option<Before<'_>>) -> Outcome {
    let mut out = Outcome::default();
    if !rules.any_of.is_empty() {
        let mut best: Option<Outcome> = None;
        let mut passed = None;
        for branch in &rules.any_of {
            let result = whole(branch, place, value, before);
            if result.is_valid() {
                passed = Some(result);
                break;
            }
            if best.as_ref().is_none_or(|it| result.matches > it.matches) {
                best = Some(result);
            }
        }
        match passed {
            Some(passed) => out.merge(passed),
            None => {
                out.add(remark(format!(
                    "{place:?} must validate at least one schema (anyOf)"
                )));
                out.merge(best.unwrap_or_default());
            }
        }
    }
    if !rules.one_of.is_empty() {
        one_of(rules, place, value, before, &mut out);
    }
    if !rules.all_of.is_empty() {
        let mut valid = 0;
        for branch in &rules.all_of {
            let result = whole(branch, place, value, before);
            valid += usize::from(result.is_valid());
            out.merge(result);
        }
        if valid != rules.all_of.len() {
            let none = if valid == 0 { ". None validated" } else { "" };
            out.add(remark(format!(
                "{place:?} must validate all the schemas (allOf){none}"
            )));
        }
    }
    if let Some(not) = &rules.not
        && whole(not, place, value, before).is_valid()
    {
        out.add(remark(format!(
            "{place:?} must not validate the schema (not)"
        )));
    }
    out.matches += 1;
    out
}

fn one_of(
    rules: &Rules,
    place: &str,
    value: &Value,
    before: Option<Before<'_>>,
    out: &mut Outcome,
) {
    let mut best: Option<Outcome> = None;
    let mut first = None;
    let mut valid = 0;
    for branch in &rules.one_of {
        let result = whole(branch, place, value, before);
        if result.is_valid() {
            valid += 1;
            best = None;
            first.get_or_insert(result);
        } else if valid == 0 && best.as_ref().is_none_or(|it| result.matches > it.matches) {
            best = Some(result);
        }
    }
    match (valid, first) {
        (1, Some(first)) => out.merge(first),
        _ => {
            let found = match valid {
                0 => "Found none valid".to_owned(),
                several => format!("Found {several} valid alternatives"),
            };
            out.add(remark(format!(
                "{place:?} must validate one and only one schema (oneOf). {found}"
            )));
            out.merge(best.unwrap_or_default());
        }
    }
}

fn choice(rules: &Rules, place: &str, value: &Value) -> Outcome {
    let mut out = Outcome::default();
    let same = |allowed: &Value| match (allowed, value) {
        (Value::Null, _) | (_, Value::Null) => false,
        (Value::Number(a), Value::Number(b)) => {
            GoNumber::of(a).as_f64() == GoNumber::of(b).as_f64()
        }
        (a, b) => a == b,
    };
    if rules.choices.is_empty() || rules.choices.iter().any(same) {
        return out;
    }
    let quoted: Vec<String> = rules
        .choices
        .iter()
        .map(|allowed| match allowed {
            Value::String(text) => format!("{text:?}"),
            other => format!("{:?}", other.to_string()),
        })
        .collect();
    let message = format!("supported values: {}", quoted.join(", "));
    out.add(violation(
        place,
        ErrorType::NotSupported,
        value.clone(),
        message,
    ));
    out
}

fn text_rules(rules: &Rules, place: &str, text: &str) -> Option<Violation> {
    let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    if let Some(most) = rules.max_length.filter(|most| length > *most) {
        let unit = if most == 1 { "byte" } else { "bytes" };
        let message = format!("may not be more than {most} {unit}");
        return Some(violation(place, ErrorType::TooLong, "".into(), message));
    }
    if let Some(least) = rules.min_length.filter(|least| length < *least) {
        let message = format!("{place} in body should be at least {least} chars long");
        return Some(violation(place, ErrorType::Invalid, text.into(), message));
    }
    if let Some(pattern) = rules.pattern.as_ref().filter(|it| !it.is_in(text)) {
        let message = format!("{place} in body should match '{}'", pattern.text());
        return Some(violation(place, ErrorType::Invalid, text.into(), message));
    }
    None
}

/// Whether a number fits a type and format; the complaint if not.
fn range(number: GoNumber, schema: &Schema, what: &str, place: &str) -> Option<Violation> {
    let single = !schema.is_int_or_string;
    let fits = match (schema.json_type, &*schema.format) {
        (JsonType::Integer, format) if single => {
            let int = match number {
                GoNumber::Int(int) => Some(int),
                GoNumber::Float(float) if float.fract() == 0.0 && float.abs() < 9.2e18 => {
                    Some(float as i64)
                }
                GoNumber::Float(_) => None,
            };
            match format {
                "int32" => int.is_some_and(|it| i32::try_from(it).is_ok()),
                _ => int.is_some(),
            }
        }
        (JsonType::Number, "float") if single => number.as_f64().abs() <= f64::from(f32::MAX),
        _ => true,
    };
    let name = schema.json_type.name();
    (!fits).then(|| {
        remark(if schema.format.is_empty() {
            format!("{what} value must be of type {name} (default format) in {place}")
        } else {
            let format = &schema.format;
            format!("{what} value must be of type {name} with format {format} in {place}")
        })
    })
}

/// A bound as upstream compares and prints it beside a number.
fn bound(number: GoNumber, bound: f64, native: bool) -> (std::cmp::Ordering, String) {
    match number {
        GoNumber::Int(int) if native => {
            let bound = bound as i64;
            (int.cmp(&bound), bound.to_string())
        }
        _ => {
            let order = number.as_f64().partial_cmp(&bound);
            (
                order.unwrap_or(std::cmp::Ordering::Equal),
                numbers::print(bound),
            )
        }
    }
}

fn number_rules(schema: &Schema, rules: &Rules, place: &str, number: GoNumber) -> Outcome {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let mut out = Outcome::default();
    let value = match number {
        GoNumber::Int(int) => Value::from(int),
        GoNumber::Float(float) => Value::from(float),
    };
    out.violations
        .extend(range(number, schema, "Checked", place));
    if let Some(factor) = rules.multiple_of {
        let stray = range(GoNumber::Float(factor), schema, "MultipleOf", place);
        let native = stray.is_none();
        out.violations.extend(stray);
        out.violations
            .extend(multiple(number, factor, native, place, &value));
    }
    if let Some(least) = rules.minimum {
        let stray = range(GoNumber::Float(least), schema, "Minimum boundary", place);
        let native = stray.is_none();
        out.violations.extend(stray);
        let (order, shown) = bound(number, least, native);
        if order == Less || (rules.exclusive_minimum && order == Equal) {
            let or_equal = if rules.exclusive_minimum {
                ""
            } else {
                " or equal to"
            };
            let message = format!("{place} in body should be greater than{or_equal} {shown}");
            out.add(violation(place, ErrorType::Invalid, value.clone(), message));
        }
    }
    if let Some(most) = rules.maximum {
        let stray = range(GoNumber::Float(most), schema, "Maximum boundary", place);
        let native = stray.is_none();
        out.violations.extend(stray);
        let (order, shown) = bound(number, most, native);
        if order == Greater || (rules.exclusive_maximum && order == Equal) {
            let or_equal = if rules.exclusive_maximum {
                ""
            } else {
                " or equal to"
            };
            let message = format!("{place} in body should be less than{or_equal} {shown}");
            out.add(violation(place, ErrorType::Invalid, value, message));
        }
    }
    out.matches += 1;
    out
}

fn multiple(
    number: GoNumber,
    factor: f64,
    native: bool,
    place: &str,
    value: &Value,
) -> Option<Violation> {
    let (is_positive, divides, shown, own) = match number {
        GoNumber::Int(int) if native => {
            let factor = factor as i64;
            let divides = factor > 0 && int % factor == 0;
            (factor > 0, divides, factor.to_string(), Value::from(factor))
        }
        _ => {
            let float = number.as_f64();
            let times = if factor < 1.0 {
                1.0 / factor * float
            } else {
                float / factor
            };
            let divides = is_nearly_integral(times);
            (
                factor > 0.0,
                divides,
                numbers::print(factor),
                Value::from(factor),
            )
        }
    };
    if !is_positive {
        let message = format!("factor MultipleOf declared for {place} must be positive: {shown}");
        return Some(violation(place, ErrorType::Invalid, own, message));
    }
    (!divides).then(|| {
        let message = format!("{place} in body should be a multiple of {shown}");
        violation(place, ErrorType::Invalid, value.clone(), message)
    })
}

/// Division leaves crumbs.
fn is_nearly_integral(float: f64) -> bool {
    let nearest = float.round();
    numbers::is_integral(float)
        || (nearest.abs() <= 9_007_199_254_740_991.0 && (float - nearest).abs() < 1e-9)
}

fn list_rules(
    schema: &Schema,
    rules: &Rules,
    place: &str,
    items: &[Value],
    before: Option<Before<'_>>,
) -> Outcome {
    let mut out = Outcome::default();
    if let Some(below) = schema.items.as_deref() {
        for (at, item) in items.iter().enumerate() {
            let old = before.and_then(|it| it.item(at));
            out.merge(correlated(below, &format!("{place}[{at}]"), item, old));
        }
    }
    let count = i64::try_from(items.len()).unwrap_or(i64::MAX);
    if let Some(least) = rules.min_items.filter(|least| count < *least) {
        let message = format!("{place} in body should have at least {least} items");
        out.add(violation(place, ErrorType::Invalid, count.into(), message));
    }
    if let Some(most) = rules.max_items.filter(|most| count > *most) {
        out.add(too_many(place, count, most));
    }
    if rules.unique_items {
        let repeated = (1..items.len()).any(|at| items[..at].contains(&items[at]));
        if repeated {
            let message = format!("{place} in body shouldn't contain duplicates");
            out.add(violation(place, ErrorType::Invalid, "".into(), message));
        }
    }
    out.matches += 1;
    out
}

fn too_many(place: &str, count: i64, most: i64) -> Violation {
    let unit = if most == 1 { "item" } else { "items" };
    let message = format!("must have at most {most} {unit}");
    violation(place, ErrorType::TooMany, count.into(), message)
}

fn object_rules(
    schema: &Schema,
    rules: &Rules,
    place: &str,
    map: &Map<String, Value>,
    before: Option<Before<'_>>,
) -> Outcome {
    let mut out = Outcome::default();
    let count = i64::try_from(map.len()).unwrap_or(i64::MAX);
    if let Some(least) = rules.min_properties.filter(|least| count < *least) {
        let message = format!("{place} in body should have at least {least} properties");
        out.add(violation(place, ErrorType::Invalid, count.into(), message));
    }
    if let Some(most) = rules.max_properties.filter(|most| count > *most) {
        out.add(too_many(place, count, most));
    }
    let below = |name: &str| {
        let is_type = place.is_empty() && matches!(name, "kind" | "apiVersion");
        before.filter(|_| !is_type).and_then(|it| it.field(name))
    };
    let strangers = map
        .iter()
        .filter(|(name, _)| !schema.properties.contains_key(*name));
    match &schema.additional {
        Additional::Allowed(false) => {
            for (name, _) in strangers {
                let message = format!("{place}.{name} in body is a forbidden property");
                let value = Value::from(name.clone());
                out.add(violation(place, ErrorType::Invalid, value, message));
            }
        }
        Additional::Schema(additional) => {
            for (name, value) in strangers {
                let at = format!("{place}.{name}");
                out.merge(correlated(additional, &at, value, below(name)));
            }
        }
        _ => {}
    }
    for (name, property) in &schema.properties {
        if let Some(value) = map.get(name) {
            let at = if place.is_empty() {
                name.clone()
            } else {
                format!("{place}.{name}")
            };
            out.merge(correlated(property, &at, value, below(name)));
        }
    }
    for name in rules.required.iter().filter(|it| !map.contains_key(*it)) {
        let at = format!("{place}.{name}");
        out.add(violation(
            &at,
            ErrorType::Required,
            "".into(),
            String::new(),
        ));
    }
    out
}

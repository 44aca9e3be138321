//! What a job makes of pods that fail, and when it has succeeded.

use std::collections::BTreeSet;

use serde_json::Value;

use super::common;
use crate::kinds::value::{indexed, int, invalid, list, text};
use crate::{FieldError, Path, names};

type Errors = Vec<FieldError>;

/// Rules of one policy.
const RULES_MAX: usize = 20;
/// Patterns of conditions in one rule.
const PATTERNS_MAX: usize = 20;
/// Exit codes in one rule.
const CODES_MAX: usize = 255;

/// A required choice, with upstream's words for none.
fn choice(holder: &Value, name: &str, known: &[&str], path: &Path, errors: &mut Errors) {
    let (value, at) = (text(holder, name), path.child(name));
    if value.is_empty() {
        errors.push(FieldError::required(
            &at,
            format!("valid values: {}", quoted(known)),
        ));
    } else if !known.contains(&value) {
        errors.push(FieldError::not_supported(&at, value, known));
    }
}

/// A list as Go's `%q` prints it.
fn quoted(known: &[&str]) -> String {
    let quoted: Vec<String> = known.iter().map(|value| format!("{value:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

fn too_many(count: usize, max: usize, at: &Path, errors: &mut Errors) {
    if count > max {
        errors.push(FieldError::too_many(at, count, max));
    }
}

/// `validatePodFailurePolicy`.
pub(super) fn failure(spec: &Value, path: &Path, errors: &mut Errors) {
    let policy = &spec["podFailurePolicy"];
    if !policy.is_object() {
        return;
    }
    let path = path.child("podFailurePolicy");
    too_many(
        list(policy, "rules").len(),
        RULES_MAX,
        &path.child("rules"),
        errors,
    );
    let pod = &spec["template"]["spec"];
    let containers: BTreeSet<&str> = list(pod, "containers")
        .iter()
        .chain(list(pod, "initContainers"))
        .map(|container| text(container, "name"))
        .collect();
    for (at, rule) in indexed(policy, "rules", &path) {
        if rule["action"] == "FailIndex" {
            if spec["backoffLimitPerIndex"].is_null() {
                errors.push(FieldError::invalid(
                    &at.child("action"),
                    "FailIndex",
                    "requires the backoffLimitPerIndex to be set",
                ));
            }
        } else {
            let known = ["Count", "FailIndex", "FailJob", "Ignore"];
            choice(rule, "action", &known, &at, errors);
        }
        let codes = rule["onExitCodes"].is_object();
        if codes {
            exit_codes(
                &rule["onExitCodes"],
                &at.child("onExitCodes"),
                &containers,
                errors,
            );
        }
        let conditions = !list(rule, "onPodConditions").is_empty();
        let at_all = at.child("onPodConditions");
        too_many(
            list(rule, "onPodConditions").len(),
            PATTERNS_MAX,
            &at_all,
            errors,
        );
        for (at, pattern) in indexed(rule, "onPodConditions", &at) {
            let kind = text(pattern, "type");
            errors.extend(invalid(
                &at.child("type"),
                kind,
                names::qualified_name(kind),
            ));
            choice(
                pattern,
                "status",
                &["False", "True", "Unknown"],
                &at,
                errors,
            );
        }
        if codes == conditions {
            let message = if codes {
                "specifying both OnExitCodes and OnPodConditions is not supported"
            } else {
                "specifying one of OnExitCodes and OnPodConditions is required"
            };
            errors.push(FieldError::omitted(&at, message));
        }
    }
}

fn exit_codes(codes: &Value, path: &Path, containers: &BTreeSet<&str>, errors: &mut Errors) {
    choice(codes, "operator", &["In", "NotIn"], path, errors);
    if let Some(name) = codes["containerName"].as_str()
        && !containers.contains(name)
    {
        errors.push(FieldError::invalid(
            &path.child("containerName"),
            name,
            "must be one of the container or initContainer names in the pod template",
        ));
    }
    let at = path.child("values");
    let values: Vec<i64> = list(codes, "values")
        .iter()
        .filter_map(Value::as_i64)
        .collect();
    if values.is_empty() {
        errors.push(FieldError::invalid(
            &at,
            codes["values"].clone(),
            "at least one value is required",
        ));
    } else {
        too_many(values.len(), CODES_MAX, &at, errors);
    }
    let mut seen = BTreeSet::new();
    for (index, value) in values.iter().enumerate() {
        let at = at.index(index);
        if *value == 0 && codes["operator"] == "In" {
            errors.push(FieldError::invalid(
                &at,
                0,
                "must not be 0 for the In operator",
            ));
        }
        if !seen.insert(value) {
            errors.push(FieldError::duplicate(&at, *value));
        }
    }
    if !values.is_sorted() {
        errors.push(FieldError::invalid(
            &at,
            codes["values"].clone(),
            "must be ordered",
        ));
    }
}

/// `validateSuccessPolicy`, of a job with indexes.
pub(super) fn success(spec: &Value, path: &Path, errors: &mut Errors) {
    let policy = &spec["successPolicy"];
    let at_rules = path.child("rules");
    let count = list(policy, "rules").len();
    if count == 0 {
        errors.push(FieldError::required(
            &at_rules,
            "at least one rules must be specified when the successPolicy is specified",
        ));
    }
    too_many(count, RULES_MAX, &at_rules, errors);
    let completions = int(spec, "completions");
    for (at, rule) in indexed(policy, "rules", path) {
        let indexes = rule["succeededIndexes"].as_str();
        let needed = rule["succeededCount"].as_i64();
        if indexes.is_none() && needed.is_none() {
            errors.push(FieldError::required(
                &at,
                "at least one of succeededCount or succeededIndexes must be specified",
            ));
        }
        let mut total = 0;
        if let Some(indexes) = indexes {
            match count_indexes(indexes, completions) {
                Ok(count) => total = count,
                Err(why) => errors.push(FieldError::invalid(
                    &at.child("succeededIndexes"),
                    indexes,
                    format!("error parsing succeededIndexes: {why}"),
                )),
            }
        }
        let Some(needed) = needed else { continue };
        errors.extend(common::nonnegative(rule, "succeededCount", &at));
        let at = at.child("succeededCount");
        if needed > completions {
            errors.push(FieldError::invalid(
                &at,
                needed,
                format!("must be less than or equal to {completions} (the number of specified completions)"),
            ));
        }
        if indexes.is_some() && needed > total {
            errors.push(FieldError::invalid(
                &at,
                needed,
                format!("must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"),
            ));
        }
    }
}

/// How many indexes a text such as `1,3-5` names: `validateIndexesFormat`.
pub(super) fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    let mut last: Option<i64> = None;
    let mut total = 0;
    for interval in text.split(',') {
        let limits: Vec<&str> = interval.split('-').collect();
        if limits.len() > 2 {
            return Err(format!(
                "the fragment {interval:?} violates the requirement that an index interval can have at most two parts separated by '-'"
            ));
        }
        let number = |text: &str| {
            text.parse::<i64>()
                .map_err(|_| format!("cannot convert string to integer for index: {text:?}"))
        };
        let first = number(limits[0])?;
        if first >= completions {
            return Err(format!("too large index: {:?}", limits[0]));
        }
        if last.is_some_and(|last| last >= first) {
            let last = last.unwrap_or_default();
            return Err(format!(
                "non-increasing order, previous: {last}, current: {first}"
            ));
        }
        let mut end = first;
        if let Some(text) = limits.get(1) {
            end = number(text)?;
            if end >= completions {
                return Err(format!("too large index: {text:?}"));
            }
            if first >= end {
                return Err(format!(
                    "non-increasing order, previous: {first}, current: {end}"
                ));
            }
        }
        total += end - first + 1;
        last = Some(end);
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes() {
        assert_eq!(count_indexes("0,2-4", 5), Ok(4));
        assert_eq!(
            count_indexes("x", 5),
            Err("cannot convert string to integer for index: \"x\"".to_owned())
        );
        assert_eq!(
            count_indexes("3,1", 5),
            Err("non-increasing order, previous: 3, current: 1".to_owned())
        );
        assert_eq!(
            count_indexes("7", 5),
            Err("too large index: \"7\"".to_owned())
        );
    }
}

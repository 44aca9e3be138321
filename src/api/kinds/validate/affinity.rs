//! Where pods want to run: affinities and spread constraints.

use serde_json::Value;

use super::common;
use crate::kinds::value::{indexed, int, invalid, list, text};
use crate::{FieldError, Path, meta, names};

type Errors = Vec<FieldError>;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// `validateAffinity`.
pub(super) fn affinity(affinity: &Value, at: &Path, errors: &mut Errors) {
    let node = &affinity["nodeAffinity"];
    let at_node = at.child("nodeAffinity");
    if node[REQUIRED].is_object() {
        node_selector(&node[REQUIRED], &at_node.child(REQUIRED), errors);
    }
    for (at, term) in indexed(node, PREFERRED, &at_node) {
        weight(term, &at, errors);
        node_selector_term(&term["preference"], false, &at.child("preference"), errors);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let at = at.child(kind);
        for (at, term) in indexed(&affinity[kind], REQUIRED, &at) {
            pod_term(term, &at, errors);
        }
        for (at, term) in indexed(&affinity[kind], PREFERRED, &at) {
            weight(term, &at, errors);
            pod_term(
                &term["podAffinityTerm"],
                &at.child("podAffinityTerm"),
                errors,
            );
        }
    }
}

fn weight(term: &Value, at: &Path, errors: &mut Errors) {
    let weight = int(term, "weight");
    if !(1..=100).contains(&weight) {
        errors.push(FieldError::invalid(
            &at.child("weight"),
            weight,
            "must be in the range 1-100",
        ));
    }
}

/// `ValidateNodeSelector`.
pub(super) fn node_selector(selector: &Value, at: &Path, errors: &mut Errors) {
    if list(selector, "nodeSelectorTerms").is_empty() {
        errors.push(FieldError::required(
            &at.child("nodeSelectorTerms"),
            "must have at least one node selector term",
        ));
    }
    for (at, term) in indexed(selector, "nodeSelectorTerms", at) {
        node_selector_term(term, true, &at, errors);
    }
}

fn node_selector_term(term: &Value, check_values: bool, at: &Path, errors: &mut Errors) {
    for (at, rule) in indexed(term, "matchExpressions", at) {
        let values = list(rule, "values");
        match text(rule, "operator") {
            "In" | "NotIn" if values.is_empty() => errors.push(FieldError::required(
                &at.child("values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "In" | "NotIn" => {}
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.push(FieldError::forbidden(
                    &at.child("values"),
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                ));
            }
            "Exists" | "DoesNotExist" => {}
            "Gt" | "Lt" if values.len() != 1 => errors.push(FieldError::required(
                &at.child("values"),
                "must be specified single value when `operator` is 'Lt' or 'Gt'",
            )),
            "Gt" | "Lt" => {}
            other => errors.push(FieldError::invalid(
                &at.child("operator"),
                other,
                "not a valid selector operator",
            )),
        }
        errors.extend(meta::label_name(text(rule, "key"), &at.child("key")));
        for (index, value) in values.iter().enumerate().filter(|_| check_values) {
            let value = value.as_str().unwrap_or_default();
            errors.extend(invalid(
                &at.child("values").index(index),
                value,
                names::label_value(value),
            ));
        }
    }
    for (at, rule) in indexed(term, "matchFields", at) {
        let values = list(rule, "values");
        match text(rule, "operator") {
            "In" | "NotIn" => {
                if values.len() != 1 {
                    errors.push(FieldError::required(
                        &at.child("values"),
                        "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
                    ));
                }
            }
            other => errors.push(FieldError::invalid(
                &at.child("operator"),
                other,
                "not a valid selector operator",
            )),
        }
        if text(rule, "key") == "metadata.name" {
            for (index, value) in values.iter().enumerate() {
                let value = value.as_str().unwrap_or_default();
                errors.extend(invalid(
                    &at.child("values").index(index),
                    value,
                    names::dns_subdomain(value),
                ));
            }
        } else {
            errors.push(FieldError::invalid(
                &at.child("key"),
                text(rule, "key"),
                "not a valid field selector key",
            ));
        }
    }
}

/// `validatePodAffinityTerm`.
fn pod_term(term: &Value, at: &Path, errors: &mut Errors) {
    for name in ["labelSelector", "namespaceSelector"] {
        errors.extend(common::label_selector(&term[name], &at.child(name)));
    }
    for namespace in list(term, "namespaces").iter().filter_map(Value::as_str) {
        errors.extend(invalid(
            &at.child("namespace"),
            namespace,
            names::dns_label(namespace),
        ));
    }
    label_keys(term, at, errors);
    let key = text(term, "topologyKey");
    if key.is_empty() {
        errors.push(FieldError::required(
            &at.child("topologyKey"),
            "can not be empty",
        ));
    }
    errors.extend(meta::label_name(key, &at.child("topologyKey")));
}

fn label_keys(term: &Value, at: &Path, errors: &mut Errors) {
    for name in ["matchLabelKeys", "mismatchLabelKeys"] {
        if list(term, name).is_empty() {
            continue;
        }
        let at = at.child(name);
        if !term["labelSelector"].is_object() {
            errors.push(FieldError::forbidden(
                &at,
                "must not be specified when labelSelector is not set",
            ));
            continue;
        }
        for (index, key) in list(term, name).iter().enumerate() {
            errors.extend(meta::label_name(
                key.as_str().unwrap_or_default(),
                &at.index(index),
            ));
        }
    }
}

/// `validateTopologySpreadConstraints`.
pub(super) fn spread_constraints(spec: &Value, path: &Path, errors: &mut Errors) {
    let all = list(spec, "topologySpreadConstraints");
    for (index, (at, constraint)) in indexed(spec, "topologySpreadConstraints", path).enumerate() {
        let skew = int(constraint, "maxSkew");
        if skew <= 0 {
            errors.push(FieldError::invalid(
                &at.child("maxSkew"),
                skew,
                "must be greater than zero",
            ));
        }
        let key = text(constraint, "topologyKey");
        if key.is_empty() {
            errors.push(FieldError::required(
                &at.child("topologyKey"),
                "can not be empty",
            ));
        }
        let action = text(constraint, "whenUnsatisfiable");
        let known = ["DoNotSchedule", "ScheduleAnyway"];
        if !known.contains(&action) {
            errors.push(FieldError::not_supported(
                &at.child("whenUnsatisfiable"),
                action,
                &known,
            ));
        }
        let again = all[index + 1..].iter().any(|other| {
            text(other, "topologyKey") == key && text(other, "whenUnsatisfiable") == action
        });
        if again {
            errors.push(FieldError::duplicate(
                &at.child("{topologyKey, whenUnsatisfiable}"),
                format!("{{{key}, {action}}}"),
            ));
        }
        if let Some(domains) = constraint["minDomains"].as_i64() {
            if domains <= 0 {
                errors.push(FieldError::invalid(
                    &at.child("minDomains"),
                    domains,
                    "must be greater than zero",
                ));
            }
            if action != "DoNotSchedule" {
                errors.push(FieldError::invalid(
                    &at.child("minDomains"),
                    domains,
                    format!(
                        "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"
                    ),
                ));
            }
        }
        for name in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            if let Some(policy) = constraint[name].as_str()
                && !matches!(policy, "Honor" | "Ignore")
            {
                errors.push(FieldError::not_supported(
                    &at.child(name),
                    policy,
                    &["Honor", "Ignore"],
                ));
            }
        }
        label_keys(constraint, &at, errors);
        errors.extend(common::label_selector(
            &constraint["labelSelector"],
            &at.child("labelSelector"),
        ));
    }
}

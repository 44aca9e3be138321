//! Horizontal pod autoscalers, judged in the form of `autoscaling/v2`.

use serde_json::Value;

use super::common;
use crate::kinds::value::{indexed, int, invalid, list, text};
use crate::{FieldError, GroupVersion, Path, names};

type Errors = Vec<FieldError>;

const TYPES: &[&str] = &[
    "ContainerResource",
    "External",
    "Object",
    "Pods",
    "Resource",
];

/// `ValidateHorizontalPodAutoscaler`.
pub(in crate::kinds) fn autoscaler(scaler: &Value) -> Errors {
    let (spec, path) = (&scaler["spec"], Path::new("spec"));
    let mut errors = Vec::new();
    let (min, max) = (spec["minReplicas"].as_i64(), int(spec, "maxReplicas"));
    if let Some(min) = min.filter(|min| *min < 1) {
        errors.push(FieldError::invalid(
            &path.child("minReplicas"),
            min,
            "must be greater than or equal to 1",
        ));
    }
    let at = path.child("maxReplicas");
    if max == 0 {
        errors.push(FieldError::required(&at, "must be set and greater than 0"));
    } else if max < 0 {
        errors.push(FieldError::invalid(
            &at,
            max,
            "must be greater than or equal to 1",
        ));
    }
    if min.is_some_and(|min| max < min) {
        errors.push(FieldError::invalid(
            &at,
            max,
            "must be greater than or equal to `minReplicas`",
        ));
    }
    reference(
        &spec["scaleTargetRef"],
        false,
        &path.child("scaleTargetRef"),
        &mut errors,
    );
    for (at, metric) in indexed(spec, "metrics", &path) {
        self::metric(metric, &at, &mut errors);
    }
    for direction in ["scaleUp", "scaleDown"] {
        let at = path.child("behavior").child(direction);
        rules(&spec["behavior"][direction], &at, &mut errors);
    }
    errors
}

/// `ValidateCrossVersionObjectReference`.
fn reference(reference: &Value, any_group: bool, at: &Path, errors: &mut Errors) {
    for name in ["kind", "name"] {
        let value = text(reference, name);
        if value.is_empty() {
            errors.push(FieldError::required(&at.child(name), ""));
        } else {
            errors.extend(invalid(
                &at.child(name),
                value,
                names::path_segment(value, false),
            ));
        }
    }
    let version = text(reference, "apiVersion");
    let core = text(reference, "kind") == "ReplicationController";
    let parsed = GroupVersion::parse(version);
    let wrong = match &parsed {
        None => Some(format!("unexpected GroupVersion string: {version}")),
        Some(parsed) if parsed.group.is_empty() && !core && !any_group => {
            Some("apiVersion must specify API group".to_owned())
        }
        Some(_) => None,
    };
    if let Some(message) = wrong {
        errors.push(FieldError::invalid(
            &at.child("apiVersion"),
            version,
            message,
        ));
    }
}

fn metric(metric: &Value, at: &Path, errors: &mut Errors) {
    let kind = text(metric, "type");
    if kind.is_empty() {
        errors.push(FieldError::required(
            &at.child("type"),
            "must specify a metric source type",
        ));
    }
    if !TYPES.contains(&kind) {
        errors.push(FieldError::not_supported(&at.child("type"), kind, TYPES));
    }
    let fields = [
        ("Object", "object"),
        ("External", "external"),
        ("Pods", "pods"),
        ("Resource", "resource"),
        ("ContainerResource", "containerResource"),
    ];
    let mut present = Vec::new();
    for (_, field) in fields {
        let source = &metric[field];
        if source.is_object() {
            present.push(field);
            if present.len() == 1 {
                self::source(source, field, &at.child(field), errors);
            }
        }
    }
    match fields.iter().find(|(name, _)| *name == kind) {
        Some((_, field)) => {
            if !metric[*field].is_object() {
                errors.push(FieldError::required(
                    &at.child(field),
                    "must populate information for the given metric source",
                ));
            }
            if present.len() != 1 {
                for other in present.iter().filter(|other| *other != field) {
                    errors.push(FieldError::forbidden(
                        &at.child(other),
                        "must populate the given metric source only",
                    ));
                }
            }
        }
        None => errors.push(FieldError::not_supported(&at.child("type"), kind, TYPES)),
    }
}

fn source(source: &Value, kind: &str, at: &Path, errors: &mut Errors) {
    let target = &source["target"];
    let at_target = at.child("target");
    if matches!(kind, "resource" | "containerResource") {
        if text(source, "name").is_empty() {
            errors.push(FieldError::required(
                &at.child("name"),
                "must specify a resource name",
            ));
        }
        if kind == "containerResource" {
            let name = text(source, "name");
            if !name.is_empty() {
                errors.extend(common::container_resource_name(name, &at.child("name")));
            }
            let (at, container) = (at.child("container"), text(source, "container"));
            if container.is_empty() {
                errors.push(FieldError::required(&at, "must specify a container"));
            } else {
                errors.extend(invalid(&at, container, names::dns_label(container)));
            }
        }
    } else {
        if kind == "object" {
            reference(
                &source["describedObject"],
                true,
                &at.child("describedObject"),
                errors,
            );
        }
        let name = text(&source["metric"], "name");
        let at = at.child("metric").child("name");
        if name.is_empty() {
            errors.push(FieldError::required(&at, "must specify a metric name"));
        } else {
            errors.extend(invalid(&at, name, names::path_segment(name, false)));
        }
    }
    match text(target, "type") {
        "Utilization" | "Value" | "AverageValue" => {}
        kind => {
            let at = at_target.child("type");
            if kind.is_empty() {
                errors.push(FieldError::required(
                    &at,
                    "must specify a metric target type",
                ));
            }
            errors.push(FieldError::invalid(
                &at,
                kind,
                "must be either Utilization, Value, or AverageValue",
            ));
        }
    }
    for name in ["value", "averageValue"] {
        if !target[name].is_null() && common::quantity(&target[name]).sign() <= 0 {
            errors.push(FieldError::invalid(
                &at_target.child(name),
                text(target, name),
                "must be positive",
            ));
        }
    }
    let utilization = target["averageUtilization"].as_i64();
    if let Some(percent) = utilization.filter(|percent| *percent < 1) {
        errors.push(FieldError::invalid(
            &at_target.child("averageUtilization"),
            percent,
            "must be greater than 0",
        ));
    }
    let average = !target["averageValue"].is_null();
    if matches!(kind, "resource" | "containerResource") {
        if utilization.is_none() && !average {
            errors.push(FieldError::required(
                &at_target.child("averageUtilization"),
                "must set either a target raw value or a target utilization",
            ));
        }
        if utilization.is_some() && average {
            errors.push(FieldError::forbidden(
                &at_target.child("averageValue"),
                "may not set both a target raw value and a target utilization",
            ));
        }
    } else if kind == "pods" && !average {
        errors.push(FieldError::required(
            &at_target.child("averageValue"),
            "must specify a positive target averageValue",
        ));
    } else if kind != "pods" && target["value"].is_null() && !average {
        errors.push(FieldError::required(
            &at_target.child("averageValue"),
            if kind == "object" {
                "must set either a target value or averageValue"
            } else {
                "must set either a target value for metric or a per-pod target"
            },
        ));
    }
    if kind == "external" && average && !target["value"].is_null() {
        errors.push(FieldError::forbidden(
            &at_target.child("value"),
            "may not set both a target value for metric and a per-pod target",
        ));
    }
}

fn rules(rules: &Value, at: &Path, errors: &mut Errors) {
    if !rules.is_object() {
        return;
    }
    if let Some(seconds) = rules["stabilizationWindowSeconds"].as_i64() {
        let at = at.child("stabilizationWindowSeconds");
        if seconds < 0 {
            errors.push(FieldError::invalid(
                &at,
                seconds,
                "must be greater than or equal to zero",
            ));
        }
        if seconds > 3600 {
            errors.push(FieldError::invalid(
                &at,
                seconds,
                "must be less than or equal to 3600",
            ));
        }
    }
    if let Some(policy) = rules["selectPolicy"].as_str()
        && !matches!(policy, "Disabled" | "Max" | "Min")
    {
        errors.push(FieldError::not_supported(
            &at.child("selectPolicy"),
            policy,
            &["Disabled", "Max", "Min"],
        ));
    }
    if list(rules, "policies").is_empty() {
        errors.push(FieldError::required(
            &at.child("policies"),
            "must specify at least one Policy",
        ));
    }
    for (at, policy) in indexed(rules, "policies", at) {
        let kind = text(policy, "type");
        if !matches!(kind, "Percent" | "Pods") {
            errors.push(FieldError::not_supported(
                &at.child("type"),
                kind,
                &["Percent", "Pods"],
            ));
        }
        for name in ["value", "periodSeconds"] {
            let value = int(policy, name);
            if value <= 0 {
                errors.push(FieldError::invalid(
                    &at.child(name),
                    value,
                    "must be greater than zero",
                ));
            } else if name == "periodSeconds" && value > 1800 {
                errors.push(FieldError::invalid(
                    &at.child(name),
                    value,
                    "must be less than or equal to 1800",
                ));
            }
        }
    }
}

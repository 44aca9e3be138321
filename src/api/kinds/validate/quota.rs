//! Limit ranges and resource quotas.

use std::collections::BTreeSet;

use serde_json::Value;

use super::common;
use crate::kinds::value::{entries, indexed, list, text};
use crate::{FieldError, Path, Quantity, names};

type Errors = Vec<FieldError>;

/// `ValidateLimitRange`.
pub(in crate::kinds) fn limit_range(range: &Value) -> Errors {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (at, limit) in indexed(&range["spec"], "limits", &Path::new("spec")) {
        let kind = text(limit, "type");
        let wrong = names::qualified_name(kind);
        let at_type = at.child("type");
        if !wrong.is_empty() {
            errors.extend(crate::kinds::value::invalid(&at_type, kind, wrong));
        } else if !kind.contains('/')
            && !matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim")
        {
            errors.push(FieldError::invalid(
                &at_type,
                kind,
                "must be a standard limit type or fully qualified",
            ));
        }
        if !seen.insert(kind) {
            errors.push(FieldError::duplicate(&at_type, kind));
        }
        amounts(limit, kind, &at, &mut errors);
    }
    errors
}

fn amounts(limit: &Value, kind: &str, at: &Path, errors: &mut Errors) {
    let mut keys = BTreeSet::new();
    for field in [
        "max",
        "min",
        "default",
        "defaultRequest",
        "maxLimitRequestRatio",
    ] {
        if kind == "Pod" && field.starts_with("default") {
            if entries(limit, field).next().is_some() {
                errors.push(FieldError::forbidden(
                    &at.child(field),
                    "may not be specified when `type` is 'Pod'",
                ));
            }
            continue;
        }
        for (name, _) in entries(limit, field) {
            let at = at.child(field).key(name);
            errors.extend(match kind {
                "Pod" | "Container" => common::container_resource_name(name, &at),
                _ => common::resource_name(name, &at),
            });
            keys.insert(name.as_str());
        }
    }
    if kind == "PersistentVolumeClaim"
        && limit["min"]["storage"].is_null()
        && limit["max"]["storage"].is_null()
    {
        errors.push(FieldError::required(
            &at.child("limits"),
            "either minimum or maximum storage value is required, but neither was provided",
        ));
    }
    for key in keys {
        let of = |field: &str| -> Option<Quantity> { limit[field][key].as_str()?.parse().ok() };
        let (min, max) = (of("min"), of("max"));
        let (default, request) = (of("default"), of("defaultRequest"));
        let mut above = |low: &Option<Quantity>,
                         high: &Option<Quantity>,
                         field: &str,
                         shown: &Option<Quantity>,
                         words: (&str, &str)| {
            if let (Some(low), Some(high), Some(shown)) = (low, high, shown)
                && low > high
            {
                errors.push(FieldError::invalid(
                    &at.child(field).key(key),
                    shown.to_string(),
                    format!("{} {low} is greater than {} {high}", words.0, words.1),
                ));
            }
        };
        above(&min, &max, "min", &min, ("min value", "max value"));
        above(
            &min,
            &request,
            "defaultRequest",
            &request,
            ("min value", "default request value"),
        );
        above(
            &request,
            &max,
            "defaultRequest",
            &request,
            ("default request value", "max value"),
        );
        above(
            &request,
            &default,
            "defaultRequest",
            &request,
            ("default request value", "default limit value"),
        );
        above(
            &min,
            &default,
            "default",
            &min,
            ("min value", "default value"),
        );
        above(
            &default,
            &max,
            "default",
            &max,
            ("default value", "max value"),
        );
        if let Some(ratio) = of("maxLimitRequestRatio") {
            let at = at.child("maxLimitRequestRatio").key(key);
            if ratio < Quantity::from_integer(1, ratio.format()) {
                errors.push(FieldError::invalid(
                    &at,
                    ratio.to_string(),
                    format!("ratio {ratio} is less than 1"),
                ));
            }
            if let (Some(min), Some(max)) = (&min, &max) {
                let limit = max.as_f64() / min.as_f64();
                if ratio.as_f64() > limit {
                    errors.push(FieldError::invalid(
                        &at,
                        ratio.to_string(),
                        format!("ratio {ratio} is greater than max/min = {limit:.6}"),
                    ));
                }
            }
        }
    }
}

const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

/// `ValidateResourceQuota`.
pub(in crate::kinds) fn resource_quota(quota: &Value) -> Errors {
    let path = Path::new("spec");
    let spec = &quota["spec"];
    let mut errors = Vec::new();
    for (name, value) in entries(spec, "hard") {
        let at = path.child("hard").key(name);
        errors.extend(quota_name(name, &at));
        errors.extend(common::resource_quantity(name, value, &at));
    }
    let scopes = list(spec, "scopes");
    let at = path.child("scopes");
    for scope in scopes.iter().filter_map(Value::as_str) {
        if !SCOPES.contains(&scope) {
            errors.push(FieldError::invalid(
                &at,
                spec["scopes"].clone(),
                "unsupported scope",
            ));
        }
    }
    let has = |name: &str| scopes.iter().any(|scope| scope == name);
    if (has("BestEffort") && has("NotBestEffort")) || (has("Terminating") && has("NotTerminating"))
    {
        errors.push(FieldError::invalid(
            &at,
            spec["scopes"].clone(),
            "conflicting scopes",
        ));
    }
    scope_selector(spec, &path, &mut errors);
    errors
}

/// `validateScopedResourceSelectorRequirement`.
fn scope_selector(spec: &Value, path: &Path, errors: &mut Errors) {
    let selector = &spec["scopeSelector"];
    let at = path.child("scopeSelector").child("matchExpressions");
    for expression in list(selector, "matchExpressions") {
        let (scope, operator) = (text(expression, "scopeName"), text(expression, "operator"));
        if !SCOPES.contains(&scope) {
            errors.push(FieldError::invalid(
                &at.child("scopeName"),
                scope,
                "unsupported scope",
            ));
        }
        let at_operator = at.child("operator");
        if SCOPES.contains(&scope) && scope != "PriorityClass" && operator != "Exists" {
            errors.push(FieldError::invalid(
                &at_operator,
                operator,
                "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
            ));
        }
        let values = !list(expression, "values").is_empty();
        match operator {
            "In" | "NotIn" if !values => errors.push(FieldError::required(
                &at.child("values"),
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            )),
            "Exists" | "DoesNotExist" if values => errors.push(FieldError::invalid(
                &at.child("values"),
                expression["values"].clone(),
                "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errors.push(FieldError::invalid(
                &at_operator,
                operator,
                "not a valid selector operator",
            )),
        }
    }
}

/// `ValidateResourceQuotaUpdate`.
pub(in crate::kinds) fn resource_quota_update(new: &Value, old: &Value) -> Errors {
    let mut errors = resource_quota(new);
    let scopes = |quota: &Value| -> std::collections::BTreeSet<String> {
        list(&quota["spec"], "scopes")
            .iter()
            .filter_map(|scope| scope.as_str().map(str::to_owned))
            .collect()
    };
    if scopes(new) != scopes(old) {
        errors.push(crate::meta::immutable(
            &Path::new("spec").child("scopes"),
            new["spec"]["scopes"].clone(),
        ));
    }
    errors
}

/// `ValidateResourceQuotaResourceName`.
fn quota_name(name: &str, at: &Path) -> Errors {
    let mut errors = common::resource_name(name, at);
    if !name.contains('/') && !common::is_standard(name) {
        errors.push(FieldError::invalid(
            at,
            name,
            "must be a standard resource for quota",
        ));
    }
    errors
}

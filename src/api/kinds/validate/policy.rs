//! Pod disruption budgets.

use serde_json::Value;

use super::{apps, common};
use crate::{FieldError, Path};

/// `ValidatePodDisruptionBudget`.
pub(in crate::kinds) fn budget(budget: &Value) -> Vec<FieldError> {
    let (spec, path) = (&budget["spec"], Path::new("spec"));
    let mut errors = Vec::new();
    if !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null() {
        errors.push(FieldError::invalid(
            &path,
            spec.clone(),
            "minAvailable and maxUnavailable cannot be both set",
        ));
    }
    for name in ["minAvailable", "maxUnavailable"] {
        if !spec[name].is_null() {
            errors.extend(apps::int_or_percent(spec, name, &path));
            errors.extend(apps::at_most_all(spec, name, &path));
        }
    }
    errors.extend(common::label_selector(
        &spec["selector"],
        &path.child("selector"),
    ));
    if let Some(policy) = spec["unhealthyPodEvictionPolicy"].as_str()
        && !matches!(policy, "AlwaysAllow" | "IfHealthyBudget")
    {
        errors.push(FieldError::not_supported(
            &path.child("unhealthyPodEvictionPolicy"),
            policy,
            &["AlwaysAllow", "IfHealthyBudget"],
        ));
    }
    errors
}

//! Scopes: which of the objects of a resource a quota is about.

use serde_json::Value;

use super::{Evaluator, claim, pod};

/// `v1.ScopedResourceSelectorRequirement`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// Such as `Terminating` or `PriorityClass`.
    pub scope: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// For `In` and `NotIn`.
    pub values: Vec<String>,
}

/// Everything the spec of a quota asks of objects, plain scopes first.
pub fn requirements(spec: &Value) -> Vec<Requirement> {
    let plain = spec["scopes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|scope| Requirement {
            scope: scope.as_str().unwrap_or("").to_owned(),
            operator: "Exists".to_owned(),
            values: Vec::new(),
        });
    let selected = spec["scopeSelector"]["matchExpressions"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|wanted| Requirement {
            scope: wanted["scopeName"].as_str().unwrap_or("").to_owned(),
            operator: wanted["operator"].as_str().unwrap_or("").to_owned(),
            values: wanted["values"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|value| value.as_str().map(str::to_owned))
                .collect(),
        });
    plain.chain(selected).collect()
}

/// Whether an object is in a scope.
pub(super) fn contains(evaluator: &Evaluator, wanted: &Requirement, object: &Value) -> bool {
    match (evaluator, wanted.scope.as_str()) {
        (Evaluator::Pods, "Terminating") => pod::is_terminating(object),
        (Evaluator::Pods, "NotTerminating") => !pod::is_terminating(object),
        (Evaluator::Pods, "BestEffort") => pod::is_best_effort(object),
        (Evaluator::Pods, "NotBestEffort") => !pod::is_best_effort(object),
        (Evaluator::Pods, "PriorityClass") => {
            let class = object["spec"]["priorityClassName"].as_str().unwrap_or("");
            let classes: Vec<&str> = Some(class)
                .filter(|class| !class.is_empty())
                .into_iter()
                .collect();
            selects(wanted, &classes)
        }
        (Evaluator::Pods, "CrossNamespacePodAffinity") => pod::looks_across_namespaces(object),
        (Evaluator::Claims, "VolumeAttributesClass") => {
            let classes: Vec<&str> = claim::attribute_classes(object).into_iter().collect();
            selects(wanted, &classes)
        }
        _ => false,
    }
}

/// Whether one of the names an object goes by is wanted. Nothing is not in any
/// list, and so in every list's complement.
fn selects(wanted: &Requirement, names: &[&str]) -> bool {
    let listed = |name: &str| wanted.values.iter().any(|value| value == name);
    match wanted.operator.as_str() {
        "In" => names.iter().any(|name| listed(name)),
        "NotIn" => names.is_empty() || names.iter().any(|name| !listed(name)),
        "Exists" => !names.is_empty(),
        "DoesNotExist" => names.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_by_scope() {
        let quick = json!({ "spec": { "activeDeadlineSeconds": 5, "priorityClassName": "high" } });
        let plain = json!({ "spec": { "containers": [
            { "name": "a", "resources": { "requests": { "cpu": "1" } } },
        ] } });
        let cases = [
            (json!({ "scopes": ["Terminating"] }), true, false),
            (json!({ "scopes": ["NotTerminating"] }), false, true),
            (json!({ "scopes": ["BestEffort"] }), true, false),
            (
                json!({ "scopes": ["NotBestEffort", "NotTerminating"] }),
                false,
                true,
            ),
            (json!({ "scopes": ["PriorityClass"] }), true, false),
            (
                json!({ "scopeSelector": { "matchExpressions": [
                    { "scopeName": "PriorityClass", "operator": "NotIn", "values": ["high"] },
                ] } }),
                false,
                true,
            ),
            (
                json!({ "scopeSelector": { "matchExpressions": [
                    { "scopeName": "PriorityClass", "operator": "In", "values": ["low", "high"] },
                ] } }),
                true,
                false,
            ),
            (
                json!({ "scopes": ["CrossNamespacePodAffinity"] }),
                false,
                false,
            ),
        ];
        for (spec, first, second) in cases {
            let quota = json!({ "spec": spec });
            assert_eq!(Evaluator::Pods.in_scopes(&quota, &quick), first, "{spec}");
            assert_eq!(Evaluator::Pods.in_scopes(&quota, &plain), second, "{spec}");
        }
    }

    #[test]
    fn only_pods_and_claims_have_scopes() {
        let quota = json!({ "spec": { "scopes": ["Terminating"] } });
        assert!(!Evaluator::Services.in_scopes(&quota, &json!({})));
        assert!(Evaluator::Services.in_scopes(&json!({ "spec": {} }), &json!({})));
    }
}

//! Whether pods may go to nodes: selectors, affinity, taints.

use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};

use crate::labels::selects_map;

/// Whether a node meets a pod's node selector and required node affinity.
pub fn selects_node(spec: &PodSpec, node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    let selector = spec.node_selector.as_ref();
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| {
            affinity
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        });
    selector.is_none_or(|selector| selects_map(selector, labels))
        && required.is_none_or(|required| {
            required
                .node_selector_terms
                .iter()
                .any(|term| meets_term(term, node))
        })
}

/// Whether a node meets one term; a term without requirements meets nothing.
pub fn meets_term(term: &NodeSelectorTerm, node: &Node) -> bool {
    let by_label = term.match_expressions.as_deref().unwrap_or_default();
    let by_field = term.match_fields.as_deref().unwrap_or_default();
    let name = node.metadata.name.as_deref();
    let label = |key: &str| node.metadata.labels.as_ref()?.get(key).map(String::as_str);
    !(by_label.is_empty() && by_field.is_empty())
        && by_label
            .iter()
            .all(|wanted| meets(wanted, label(&wanted.key)))
        && by_field
            .iter()
            .all(|wanted| wanted.key == "metadata.name" && meets(wanted, name))
}

fn meets(wanted: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = wanted.values.as_deref().unwrap_or_default();
    let among = |value: &str| values.iter().any(|known| known == value);
    let number = |text: &str| text.parse::<i64>().ok();
    let bound = values.first().and_then(|text| number(text));
    match wanted.operator.as_str() {
        "In" => value.is_some_and(among),
        "NotIn" => !value.is_some_and(among),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => value
            .and_then(number)
            .zip(bound)
            .is_some_and(|(value, bound)| value > bound),
        "Lt" => value
            .and_then(number)
            .zip(bound)
            .is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

/// Whether a toleration covers a taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if !(effect.is_empty() || effect == taint.effect) || !(key.is_empty() || key == taint.key) {
        return false;
    }
    let value = toleration.value.as_deref().unwrap_or_default();
    let tainted = taint.value.as_deref().unwrap_or_default();
    let numbers = || Some((tainted.parse::<i64>().ok()?, value.parse::<i64>().ok()?));
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => value == tainted,
        "Exists" => true,
        "Lt" => numbers().is_some_and(|(tainted, value)| tainted < value),
        "Gt" => numbers().is_some_and(|(tainted, value)| tainted > value),
        _ => false,
    }
}

/// The taints of a node with one of these effects that nothing tolerates.
pub fn untolerated<'a>(
    tolerations: &'a [Toleration],
    node: &'a Node,
    effects: &'a [&str],
) -> impl Iterator<Item = &'a Taint> {
    let taints = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default();
    taints
        .iter()
        .filter(|taint| effects.contains(&taint.effect.as_str()))
        .filter(|taint| {
            !tolerations
                .iter()
                .any(|toleration| tolerates(toleration, taint))
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use serde_json::json;

    use super::*;

    #[test]
    fn tolerations_cover_by_key_value_and_effect() {
        let taint: Taint =
            serde_json::from_value(json!({"key": "k", "value": "v", "effect": "NoSchedule"}))
                .unwrap();
        let cases = [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "k", "operator": "Exists"}), true),
            (json!({"key": "k", "value": "v"}), true),
            (json!({"key": "k", "value": "w"}), false),
            (json!({"key": "x", "operator": "Exists"}), false),
            (
                json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}),
                false,
            ),
        ];
        for (toleration, covered) in cases {
            let text = toleration.to_string();
            let toleration: Toleration = serde_json::from_value(toleration).unwrap();
            assert_eq!(tolerates(&toleration, &taint), covered, "{text}");
        }
    }

    #[test]
    fn terms_are_alternatives_and_requirements_are_not() {
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "n", "labels": {"a": "5"}}}))
                .unwrap();
        let check = |terms: serde_json::Value, met: bool| {
            let spec: PodSpec = serde_json::from_value(json!({"containers": [], "affinity":
                {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                    {"nodeSelectorTerms": terms}}}}))
            .unwrap();
            assert_eq!(selects_node(&spec, &node), met, "{terms}");
        };
        let a = |operator: &str, value: &str| json!({"key": "a", "operator": operator, "values": [value]});
        check(json!([{}]), false);
        check(
            json!([{"matchExpressions": [a("Gt", "4"), a("Lt", "6")]}]),
            true,
        );
        check(
            json!([{"matchExpressions": [a("Gt", "4"), a("Lt", "5")]}]),
            false,
        );
        check(
            json!([{"matchExpressions": [a("In", "1")]}, {"matchFields":
            [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]),
            true,
        );
    }
}

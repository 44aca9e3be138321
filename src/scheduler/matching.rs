//! Whether nodes meet selectors, and pods tolerate taints.

use client::labels::selects_map;
use k8s_openapi::api::core::v1::{
    NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};

use crate::snapshot::{NodeInfo, PodInfo};

/// Whether a node meets the pod's node selector and required node affinity.
pub(crate) fn node_affinity(pod: &PodInfo, node: &NodeInfo) -> bool {
    let Some(spec) = pod.spec() else {
        return true;
    };
    let selected = spec
        .node_selector
        .as_ref()
        .is_none_or(|selector| selects_map(selector, node.labels()));
    let required = pod
        .affinity()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| {
            affinity
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        });
    selected
        && required.is_none_or(|required| {
            required
                .node_selector_terms
                .iter()
                .any(|term| node_term(term, node))
        })
}

/// Whether a node meets one term; a term without requirements meets nothing.
pub(crate) fn node_term(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let labels = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let name = node.node.metadata.name.as_deref();
    !(labels.is_empty() && fields.is_empty())
        && labels
            .iter()
            .all(|wanted| requirement(wanted, node.label(&wanted.key)))
        && fields
            .iter()
            .all(|wanted| wanted.key == "metadata.name" && requirement(wanted, name))
}

fn requirement(wanted: &NodeSelectorRequirement, value: Option<&str>) -> bool {
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

fn tolerations(spec: Option<&PodSpec>) -> &[Toleration] {
    spec.and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default()
}

/// Whether a toleration covers a taint.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
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

/// Whether some taint with one of these effects keeps the pod away.
pub(crate) fn is_repelled(pod: &PodInfo, node: &NodeInfo, effects: &[&str]) -> bool {
    count_untolerated(pod, node, effects) > 0
}

/// Taints with one of these effects that the pod does not tolerate.
pub(crate) fn count_untolerated(pod: &PodInfo, node: &NodeInfo, effects: &[&str]) -> usize {
    let tolerations = tolerations(pod.spec());
    node.taints()
        .iter()
        .filter(|taint| effects.contains(&taint.effect.as_str()))
        .filter(|taint| {
            !tolerations
                .iter()
                .any(|toleration| tolerates(toleration, taint))
        })
        .count()
}

/// Whether the pod tolerates a node that is marked unschedulable.
pub(crate) fn tolerates_unschedulable(pod: &PodInfo) -> bool {
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    tolerations(pod.spec())
        .iter()
        .any(|toleration| tolerates(toleration, &taint))
}

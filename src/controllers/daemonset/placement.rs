//! Which nodes want a pod of a set, and the pod made for one.

use client::placement::{selects_node, untolerated};
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec};
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration,
};

use crate::history::REVISION_LABEL;
use crate::pods::{from_template, node_name};

const GENERATION_ANNOTATION: &str = "deprecated.daemonset.template.generation";
const GENERATION_LABEL: &str = "pod-template-generation";

/// Node troubles a daemon's pods stay through.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

fn add_tolerations(spec: &mut PodSpec) {
    let network = ("node.kubernetes.io/network-unavailable", "NoSchedule");
    let host = (spec.host_network == Some(true)).then_some(network);
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in TOLERATED.into_iter().chain(host) {
        let fresh = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        if !tolerations.contains(&fresh) {
            tolerations.push(fresh);
        }
    }
}

/// Whether the node should run a pod of the set, and whether one that is
/// there may stay.
pub(super) fn wanted(spec: &DaemonSetSpec, node: &Node) -> (bool, bool) {
    let Some(mut pod) = spec.template.spec.clone() else {
        return (false, false);
    };
    add_tolerations(&mut pod);
    let name = node.metadata.name.as_deref();
    let pinned = pod.node_name.as_deref().filter(|wanted| !wanted.is_empty());
    if pinned.is_some_and(|wanted| Some(wanted) != name) || !selects_node(&pod, node) {
        return (false, false);
    }
    let tolerations = pod.tolerations.as_deref().unwrap_or_default();
    let repelled = |effects: &[&str]| untolerated(tolerations, node, effects).next().is_some();
    (
        !repelled(&["NoSchedule", "NoExecute"]),
        !repelled(&["NoExecute"]),
    )
}

/// The node a daemon's pod is on, or is meant for.
pub(super) fn node_of(pod: &Pod) -> &str {
    let placed = node_name(pod);
    if !placed.is_empty() {
        return placed;
    }
    pod.spec
        .as_ref()
        .and_then(|spec| spec.affinity.as_ref()?.node_affinity.as_ref())
        .and_then(|affinity| {
            affinity
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        })
        .into_iter()
        .flat_map(|required| &required.node_selector_terms)
        .flat_map(|term| term.match_fields.iter().flatten())
        .filter(|field| field.key == "metadata.name" && field.operator == "In")
        .find_map(|field| field.values.as_ref()?.first())
        .map_or("", String::as_str)
}

/// A pod of the set for one node.
pub(super) fn make(set: &DaemonSet, spec: &DaemonSetSpec, node: &str, hash: &str) -> Pod {
    let mut pod = from_template(set, &spec.template);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(REVISION_LABEL.to_owned(), hash.to_owned());
    let annotations = set.metadata.annotations.as_ref();
    if let Some(generation) = annotations.and_then(|known| known.get(GENERATION_ANNOTATION)) {
        labels.insert(GENERATION_LABEL.to_owned(), generation.clone());
    }
    if let Some(spec) = &mut pod.spec {
        add_tolerations(spec);
        let pin = NodeSelectorTerm {
            match_fields: Some(vec![NodeSelectorRequirement {
                key: "metadata.name".to_owned(),
                operator: "In".to_owned(),
                values: Some(vec![node.to_owned()]),
            }]),
            match_expressions: None,
        };
        // The node was judged by the set's own affinity already.
        spec.affinity
            .get_or_insert_default()
            .node_affinity
            .get_or_insert_default()
            .required_during_scheduling_ignored_during_execution = Some(NodeSelector {
            node_selector_terms: vec![pin],
        });
    }
    pod
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn judges_nodes_by_taints_and_selectors() {
        let check = |template: Value, node: Value, expected: (bool, bool)| {
            let mut pod = json!({"containers": []});
            pod.as_object_mut()
                .unwrap()
                .extend(template.as_object().unwrap().clone());
            let spec = DaemonSetSpec {
                template: serde_json::from_value(json!({"spec": pod})).unwrap(),
                ..DaemonSetSpec::default()
            };
            let text = node.to_string();
            let node: Node = serde_json::from_value(node).unwrap();
            assert_eq!(wanted(&spec, &node), expected, "{text}");
        };
        let tainted = |key: &str, effect: &str| json!({"metadata": {"name": "n"}, "spec": {"taints": [{"key": key, "effect": effect}]}});
        check(json!({}), json!({"metadata": {"name": "n"}}), (true, true));
        check(json!({}), tainted("k", "NoSchedule"), (false, true));
        check(json!({}), tainted("k", "NoExecute"), (false, false));
        check(
            json!({}),
            tainted("node.kubernetes.io/unreachable", "NoExecute"),
            (true, true),
        );
        check(
            json!({"nodeSelector": {"a": "b"}}),
            json!({"metadata": {"name": "n"}}),
            (false, false),
        );
        check(
            json!({"nodeName": "other"}),
            json!({"metadata": {"name": "n"}}),
            (false, false),
        );
    }

    #[test]
    fn a_pod_is_pinned_to_its_node() {
        let spec = DaemonSetSpec {
            template: serde_json::from_value(json!({"spec": {"containers": []}})).unwrap(),
            ..DaemonSetSpec::default()
        };
        let pod = make(&DaemonSet::default(), &spec, "edge-1", "h");
        assert_eq!(node_of(&pod), "edge-1");
    }
}

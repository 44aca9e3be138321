//! Whether nodes meet selectors, and pods tolerate taints.

use client::placement::{meets_term, selects_node, tolerates, untolerated};
use k8s_openapi::api::core::v1::{NodeSelectorTerm, PodSpec, Taint, Toleration};

use crate::snapshot::{NodeInfo, PodInfo};

/// Whether a node meets the pod's node selector and required node affinity.
pub(crate) fn node_affinity(pod: &PodInfo, node: &NodeInfo) -> bool {
    pod.spec().is_none_or(|spec| selects_node(spec, &node.node))
}

/// Whether a node meets one term.
pub(crate) fn node_term(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    meets_term(term, &node.node)
}

fn tolerations(spec: Option<&PodSpec>) -> &[Toleration] {
    spec.and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default()
}

/// Whether some taint with one of these effects keeps the pod away.
pub(crate) fn is_repelled(pod: &PodInfo, node: &NodeInfo, effects: &[&str]) -> bool {
    untolerated(tolerations(pod.spec()), &node.node, effects)
        .next()
        .is_some()
}

/// Taints with one of these effects that the pod does not tolerate.
pub(crate) fn count_untolerated(pod: &PodInfo, node: &NodeInfo, effects: &[&str]) -> usize {
    untolerated(tolerations(pod.spec()), &node.node, effects).count()
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

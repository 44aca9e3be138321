//! The next steps of a rolling update: pure.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::hash_of;
use crate::pods::{availability, created, is_terminating};

/// What a node has of the set.
#[derive(Debug)]
pub(super) struct OnNode {
    node: String,
    old: Option<Arc<Pod>>,
    new: Option<Arc<Pod>>,
    old_available: bool,
    new_available: bool,
    surplus: Vec<Arc<Pod>>,
    ending: bool,
}

/// What to do next.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Remove this pod.
    Delete(Arc<Pod>),
    /// Make a pod for this node beside the one it has.
    Create(String),
}

impl OnNode {
    /// Sorts the pods of a node: the oldest of each version counts, the rest
    /// are too many.
    pub(super) fn new(
        node: String,
        running: &[Arc<Pod>],
        all: &[Arc<Pod>],
        hash: &str,
        min_ready_seconds: i32,
        now: Timestamp,
    ) -> Self {
        let mut by_age = running.to_vec();
        // A pod that already runs on the node goes before one that is to come.
        by_age.sort_by_key(|pod| (crate::pods::node_name(pod).is_empty(), created(pod)));
        let is_new = |pod: &Arc<Pod>| hash_of(pod).is_some_and(|known| known == hash);
        let (new, old): (Vec<_>, Vec<_>) = by_age.into_iter().partition(is_new);
        let available = |pod: Option<&Arc<Pod>>| {
            pod.is_some_and(|pod| availability(pod, min_ready_seconds, now).is_ok())
        };
        let surplus = new
            .iter()
            .skip(1)
            .chain(old.iter().skip(1))
            .cloned()
            .collect();
        Self {
            node,
            old_available: available(old.first()),
            new_available: available(new.first()),
            old: old.first().cloned(),
            new: new.first().cloned(),
            surplus,
            ending: all.iter().any(|pod| is_terminating(pod)),
        }
    }
}

/// Removes what is too many, and replaces old pods as far as the limits
/// allow. `missing` nodes have no pod at all and count as unavailable.
pub(super) fn plan(
    nodes: &[OnNode],
    replaces: bool,
    max_unavailable: i32,
    max_surge: i32,
    missing: usize,
) -> Vec<Step> {
    let mut steps: Vec<Step> = nodes
        .iter()
        .flat_map(|node| node.surplus.iter().cloned().map(Step::Delete))
        .collect();
    if !replaces {
        // Two versions on one node only stand side by side in an update.
        let doubled = nodes.iter().filter(|node| node.old.is_some());
        steps.extend(
            doubled
                .filter_map(|node| node.new.clone())
                .map(Step::Delete),
        );
        return steps;
    }
    if max_surge > 0 {
        let mut surging = 0;
        for node in nodes {
            match (&node.old, &node.new) {
                (Some(old), Some(_)) if node.new_available => steps.push(Step::Delete(old.clone())),
                (Some(_), Some(_)) => surging += 1,
                // What does not work anyway needs no stand-in.
                (Some(old), None) if !node.old_available => steps.push(Step::Delete(old.clone())),
                _ => {}
            }
        }
        for node in nodes.iter().filter(|node| {
            node.old.is_some() && node.new.is_none() && node.old_available && !node.ending
        }) {
            if surging >= max_surge {
                break;
            }
            surging += 1;
            steps.push(Step::Create(node.node.clone()));
        }
        return steps;
    }
    let mut unavailable = i32::try_from(missing).unwrap_or(i32::MAX);
    let mut candidates = Vec::new();
    for node in nodes {
        match (&node.old, &node.new) {
            (Some(old), Some(_)) => steps.push(Step::Delete(old.clone())),
            (Some(old), None) if node.old_available => candidates.push(old),
            (Some(old), None) => {
                unavailable += 1;
                steps.push(Step::Delete(old.clone()));
            }
            (None, Some(_)) if !node.new_available => unavailable += 1,
            _ => {}
        }
    }
    let room = usize::try_from(max_unavailable - unavailable).unwrap_or(0);
    steps.extend(candidates.into_iter().take(room).cloned().map(Step::Delete));
    steps
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use serde_json::json;

    use super::*;

    fn pod(name: &str, hash: &str, ready: bool) -> Arc<Pod> {
        let status = if ready { "True" } else { "False" };
        let pod = json!({
            "metadata": {"name": name, "labels": {"controller-revision-hash": hash}},
            "spec": {"nodeName": "n", "containers": []},
            "status": {"conditions": [{"type": "Ready", "status": status}]},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn on(name: &str, pods: &[Arc<Pod>]) -> OnNode {
        OnNode::new(name.to_owned(), pods, pods, "new", 0, Timestamp::UNIX_EPOCH)
    }

    fn names(steps: &[Step]) -> Vec<String> {
        let name = |step: &Step| match step {
            Step::Delete(pod) => format!("-{}", pod.metadata.name.as_deref().unwrap_or_default()),
            Step::Create(node) => format!("+{node}"),
        };
        steps.iter().map(name).collect()
    }

    #[test]
    fn replaces_within_its_limits() {
        let nodes = || {
            vec![
                on("1", &[pod("a", "old", true)]),
                on("2", &[pod("b", "old", false)]),
                on("3", &[pod("c", "old", true)]),
                on("4", &[pod("d", "new", true)]),
            ]
        };
        // The broken one goes in any case and uses the allowance up.
        assert_eq!(names(&plan(&nodes(), true, 1, 0, 0)), ["-b"]);
        assert_eq!(names(&plan(&nodes(), true, 2, 0, 0)), ["-b", "-a"]);
        assert_eq!(names(&plan(&nodes(), true, 2, 0, 1)), ["-b"]);
        assert_eq!(names(&plan(&nodes(), true, 0, 1, 0)), ["-b", "+1"]);
        assert!(plan(&nodes(), false, 1, 0, 0).is_empty());
    }

    #[test]
    fn an_old_pod_goes_once_its_successor_is_available() {
        let both = |ready| vec![on("1", &[pod("a", "old", true), pod("b", "new", ready)])];
        assert!(plan(&both(false), true, 0, 1, 0).is_empty());
        assert_eq!(names(&plan(&both(true), true, 0, 1, 0)), ["-a"]);
    }
}

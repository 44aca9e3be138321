//! The taints a node's conditions ask for: pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    (
        "NetworkUnavailable",
        "node.kubernetes.io/network-unavailable",
    ),
];

pub(super) fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a str> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|condition| condition.type_ == kind)
        .map(|condition| condition.status.as_str())
}

/// The taints the node should have instead of those it has; `None` if those
/// are right. Taints that are not ours stay as they are.
pub(super) fn wanted(node: &Node, now: Timestamp) -> Option<Vec<Taint>> {
    let mut keys: Vec<(&str, &str)> = Vec::new();
    match condition(node, "Ready") {
        Some("False") => keys.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
        Some("Unknown") => keys.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
        Some(_) => {}
        // Admission taints a new node not-ready; it stays so until it speaks.
        None => return unschedulable_only(node, now),
    }
    for (kind, key) in PRESSURES {
        if condition(node, kind) == Some("True") {
            keys.push((key, "NoSchedule"));
        }
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        keys.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let owned = |key: &str| {
        [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&key)
            || PRESSURES.iter().any(|(_, pressure)| *pressure == key)
    };
    replace(node, &keys, owned, now)
}

fn unschedulable_only(node: &Node, now: Timestamp) -> Option<Vec<Taint>> {
    let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    let keys: &[(&str, &str)] = if unschedulable {
        &[(UNSCHEDULABLE, "NoSchedule")]
    } else {
        &[]
    };
    replace(node, keys, |key| key == UNSCHEDULABLE, now)
}

fn replace(
    node: &Node,
    wanted: &[(&str, &str)],
    owned: impl Fn(&str) -> bool,
    now: Timestamp,
) -> Option<Vec<Taint>> {
    let known = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default();
    let asked = |taint: &Taint| wanted.contains(&(taint.key.as_str(), taint.effect.as_str()));
    let mut taints: Vec<Taint> = known
        .iter()
        .filter(|taint| asked(taint) || !owned(&taint.key))
        .cloned()
        .collect();
    let mut changed = taints.len() < known.len();
    for (key, effect) in wanted {
        if !taints
            .iter()
            .any(|taint| taint.key == *key && taint.effect == *effect)
        {
            changed = true;
            taints.push(Taint {
                key: (*key).to_owned(),
                effect: (*effect).to_owned(),
                time_added: (*effect == "NoExecute").then_some(Time(now)),
                value: None,
            });
        }
    }
    changed.then_some(taints)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use serde_json::json;

    use super::*;

    fn check(ready: &str, taints: serde_json::Value, expected: Option<&[&str]>) {
        let node = json!({
            "metadata": {"name": "n"},
            "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        });
        let node: Node = serde_json::from_value(node).unwrap();
        let after = wanted(&node, Timestamp::UNIX_EPOCH).map(|taints| {
            taints
                .iter()
                .map(|t| format!("{}:{}", t.key, t.effect))
                .collect::<Vec<_>>()
        });
        let expected = expected.map(|list| list.iter().map(|&text| text.to_owned()).collect());
        assert_eq!(after, expected, "{ready}");
    }

    #[test]
    fn follow_the_ready_condition() {
        let own = json!({"key": "k", "effect": "NoSchedule"});
        let unreachable = json!({"key": UNREACHABLE, "effect": "NoExecute"});
        check("True", json!([own]), None);
        check("True", json!([own, unreachable]), Some(&["k:NoSchedule"]));
        check(
            "Unknown",
            json!([unreachable]),
            Some(&[
                "node.kubernetes.io/unreachable:NoExecute",
                "node.kubernetes.io/unreachable:NoSchedule",
            ]),
        );
        check(
            "False",
            json!([own]),
            Some(&[
                "k:NoSchedule",
                "node.kubernetes.io/not-ready:NoSchedule",
                "node.kubernetes.io/not-ready:NoExecute",
            ]),
        );
    }
}

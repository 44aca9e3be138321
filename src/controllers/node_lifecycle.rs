//! Node health: taints that follow a node's conditions, and `Unknown` for a
//! node whose kubelet has fallen silent.
//!
//! A node's Lease is its heartbeat. The taints keep the scheduler away
//! (`NoSchedule`); evicting what runs there (`NoExecute`) is not done here.

use std::sync::Arc;
use std::time::Duration;

use client::api::{Patch, PatchParams};
use client::{Action, Api, Informer, NamespacedName};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use serde_json::json;

use crate::context::{Context, run};
use crate::error::{During, Result};

const NAME: &str = "node-controller";
/// A node is unknown when nothing was heard of it for this long.
const GRACE: Duration = Duration::from_secs(50);
const LEASES: &str = "kube-node-lease";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

pub(crate) fn register(context: &Context) {
    let client = context.client(NAME);
    let nodes = context.informers.of::<Node>();
    let leases = context.informers.of::<Lease>();
    let controller = context.controller(NAME);
    controller.watch(&nodes, |node| vec![NamespacedName::of(node)]);
    controller.watch(&leases, |lease| {
        let key = NamespacedName::of(lease);
        if key.namespace == LEASES {
            vec![NamespacedName::new("", key.name)]
        } else {
            Vec::new()
        }
    });
    let state = Arc::new((Api::<Node>::all(client), nodes, leases));
    run(controller, 1, move |key| {
        let state = state.clone();
        async move {
            let (api, nodes, leases) = &*state;
            reconcile(api, nodes, leases, &key).await
        }
    });
}

async fn reconcile(
    api: &Api<Node>,
    nodes: &Informer<Node>,
    leases: &Informer<Lease>,
    key: &NamespacedName,
) -> Result<Action> {
    let Some(node) = nodes.get(key) else {
        return Ok(Action::Done);
    };
    let lease = leases.get(&NamespacedName::new(LEASES, &key.name));
    let now = Timestamp::now();
    let heard = last_heard(&node, lease.as_deref());
    let silent = heard.is_some_and(|at| now.duration_since(at).unsigned_abs() > GRACE && at < now);
    if silent && let Some(conditions) = unknown(&node, now) {
        let patch = json!({ "status": { "conditions": conditions } });
        api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch))
            .await
            .during(|| format!("marking node {} as unknown", key.name))?;
    }
    if let Some(taints) = plan_taints(&node, silent) {
        let patch = json!({
            "metadata": { "resourceVersion": node.metadata.resource_version },
            "spec": { "taints": taints },
        });
        api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .during(|| format!("tainting node {}", key.name))?;
    }
    match heard {
        // One wake-up when the node would fall silent; a heartbeat moves it.
        Some(at) if !silent => {
            let age = Duration::try_from(now.duration_since(at)).unwrap_or_default();
            Ok(Action::After(
                GRACE.saturating_sub(age) + Duration::from_secs(1),
            ))
        }
        _ => Ok(Action::Done),
    }
}

/// The latest sign of life: the lease's renewal, a condition's heartbeat, or
/// the node's creation.
fn last_heard(node: &Node, lease: Option<&Lease>) -> Option<Timestamp> {
    let renewed = lease
        .and_then(|lease| lease.spec.as_ref())
        .and_then(|spec| spec.renew_time.as_ref())
        .map(|time| time.0);
    let heartbeat = conditions(node)
        .iter()
        .find(|condition| condition.type_ == "Ready")
        .and_then(|condition| condition.last_heartbeat_time.as_ref())
        .map(|time| time.0);
    let created = node.metadata.creation_timestamp.as_ref().map(|time| time.0);
    renewed.max(heartbeat).max(created)
}

fn conditions(node: &Node) -> &[NodeCondition] {
    node.status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default()
}

/// The conditions of a silent node, where they do not say `Unknown` yet.
fn unknown(node: &Node, now: Timestamp) -> Option<Vec<serde_json::Value>> {
    let now = base::time::rfc3339(now);
    let changed: Vec<_> = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"]
        .into_iter()
        .filter_map(|kind| {
            let known = conditions(node)
                .iter()
                .find(|condition| condition.type_ == kind);
            if known.is_some_and(|condition| condition.status == "Unknown") {
                return None;
            }
            let (reason, message) = match known {
                Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
                None => (
                    "NodeStatusNeverUpdated",
                    "Kubelet never posted node status.",
                ),
            };
            Some(json!({
                "type": kind,
                "status": "Unknown",
                "reason": reason,
                "message": message,
                "lastTransitionTime": now,
            }))
        })
        .collect();
    (!changed.is_empty()).then_some(changed)
}

/// The taints a node should have, if they differ from what it has.
fn plan_taints(node: &Node, silent: bool) -> Option<Vec<Taint>> {
    let own = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.clone())
        .unwrap_or_default();
    let status = |kind: &str| {
        conditions(node)
            .iter()
            .find(|condition| condition.type_ == kind)
            .map(|condition| condition.status.as_str())
    };
    let ready = if silent {
        Some("Unknown")
    } else {
        status("Ready")
    };
    let wanted = [
        (NOT_READY, ready == Some("False") || ready.is_none()),
        (UNREACHABLE, ready == Some("Unknown")),
        (
            "node.kubernetes.io/memory-pressure",
            status("MemoryPressure") == Some("True"),
        ),
        (
            "node.kubernetes.io/disk-pressure",
            status("DiskPressure") == Some("True"),
        ),
        (
            "node.kubernetes.io/pid-pressure",
            status("PIDPressure") == Some("True"),
        ),
        (
            "node.kubernetes.io/network-unavailable",
            status("NetworkUnavailable") == Some("True"),
        ),
        (
            UNSCHEDULABLE,
            node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true),
        ),
    ];
    let mut taints = own.clone();
    taints.retain(|taint| {
        taint.effect != "NoSchedule"
            || wanted
                .iter()
                .all(|(key, wanted)| taint.key != *key || *wanted)
    });
    for (key, wanted) in wanted {
        let has = taints
            .iter()
            .any(|taint| taint.key == key && taint.effect == "NoSchedule");
        if wanted && !has {
            taints.push(Taint {
                key: key.to_owned(),
                effect: "NoSchedule".to_owned(),
                ..Taint::default()
            });
        }
    }
    (taints != own).then_some(taints)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(ready: &str, taints: serde_json::Value) -> Node {
        serde_json::from_value(json!({
            "metadata": { "name": "n" },
            "spec": { "taints": taints },
            "status": { "conditions": [{ "type": "Ready", "status": ready }] },
        }))
        .expect("a node")
    }

    fn check(node: &Node, silent: bool, expected: Option<&[&str]>) {
        let taints = plan_taints(node, silent);
        let keys = taints.as_ref().map(|taints| {
            taints
                .iter()
                .map(|taint| taint.key.as_str())
                .collect::<Vec<_>>()
        });
        assert_eq!(keys.as_deref(), expected);
    }

    #[test]
    fn taints_follow_conditions() {
        let not_ready = json!([{ "key": NOT_READY, "effect": "NoSchedule" }]);
        let foreign = json!([{ "key": "mine", "effect": "NoSchedule" }]);
        check(&node("True", not_ready.clone()), false, Some(&[]));
        check(&node("True", json!([])), false, None);
        check(&node("False", not_ready), false, None);
        check(
            &node("False", foreign.clone()),
            false,
            Some(&["mine", NOT_READY]),
        );
        check(&node("True", foreign), true, Some(&["mine", UNREACHABLE]));
    }
}

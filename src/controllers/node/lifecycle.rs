//! Notices nodes that have fallen silent, and taints nodes by their condition.
//!
//! A node speaks through its lease, or its status. The time of a heartbeat is
//! when it was seen here, so that clocks need not agree; each node is looked
//! at when its grace is over, not at each of its heartbeats.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::api::{Patch, PatchParams};
use client::{Action, Api, Client, EventRecorder, EventType, Informer, NamespacedName, Observed};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use super::taints;
use crate::context::{Context, run};
use crate::error::{During, Result, ignore_not_found};
use crate::pods::{is_ready, node_name};

const NAME: &str = "node-controller";
/// How long a node may be silent.
const GRACE: Duration = Duration::from_secs(50);

pub(super) fn register(context: &Context) {
    let state = Arc::new(Lifecycle {
        client: context.client(NAME),
        nodes: context.informers.of(),
        leases: context.informers.of(),
        pods: context.informers.of(),
        recorder: context.recorder(NAME),
        heard: Mutex::default(),
    });
    let controller = context.controller("node-lifecycle-controller");
    controller.needs(&state.leases).needs(&state.pods);
    controller.watch_changes(&state.nodes, |change| match change {
        Observed::Applied { new, .. } => vec![NamespacedName::of(new)],
        Observed::Deleted(node) => vec![NamespacedName::of(node)],
    });
    run(controller, 2, move |key| {
        let state = state.clone();
        async move { state.reconcile(&key).await }
    });
}

/// A node's last sign of life, and when it was first seen.
struct Heard {
    sign: (Option<Timestamp>, Option<Timestamp>),
    at: Instant,
}

struct Lifecycle {
    client: Client,
    nodes: Informer<Node>,
    leases: Informer<Lease>,
    pods: Informer<Pod>,
    recorder: EventRecorder,
    heard: Mutex<HashMap<String, Heard>>,
}

impl Lifecycle {
    async fn reconcile(&self, key: &NamespacedName) -> Result<Action> {
        let Some(node) = self.nodes.get(key) else {
            self.heard.lock().remove(&key.name);
            return Ok(Action::Done);
        };
        let silent_for = self.listen(&node, &key.name);
        if silent_for >= GRACE && taints::condition(&node, "Ready") != Some("Unknown") {
            self.give_up(&node, &key.name).await?;
            // The event of that write goes on from here.
            return Ok(Action::After(GRACE));
        }
        if taints::condition(&node, "Ready").is_some_and(|status| status != "True") {
            self.mark_pods(&key.name).await?;
        }
        if let Some(taints) = taints::wanted(&node, Timestamp::now()) {
            let patch = json!({
                "metadata": {"resourceVersion": node.metadata.resource_version},
                "spec": {"taints": taints},
            });
            let api = Api::<Node>::all(self.client.clone());
            let outcome = api
                .patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))
                .await;
            ignore_not_found(outcome).during(|| format!("tainting node {key}"))?;
        }
        let left = GRACE.saturating_sub(silent_for);
        Ok(Action::After(left.max(Duration::from_secs(1))))
    }

    /// How long the node has been silent.
    fn listen(&self, node: &Node, name: &str) -> Duration {
        let lease = self
            .leases
            .get(&NamespacedName::new("kube-node-lease", name));
        let renewed = lease
            .and_then(|lease| lease.spec.as_ref()?.renew_time.clone())
            .map(|time| time.0);
        let conditions = node
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_ref());
        let posted = conditions
            .into_iter()
            .flatten()
            .find(|condition| condition.type_ == "Ready")
            .and_then(|condition| condition.last_heartbeat_time.as_ref())
            .map(|time| time.0);
        let sign = (renewed, posted);
        let mut heard = self.heard.lock();
        let known = heard.entry(name.to_owned()).or_insert_with(|| Heard {
            sign,
            at: Instant::now(),
        });
        if known.sign != sign {
            *known = Heard {
                sign,
                at: Instant::now(),
            };
        }
        known.at.elapsed()
    }

    /// Says that nothing is known of the node any more.
    async fn give_up(&self, node: &Node, name: &str) -> Result<()> {
        let now = base::time::rfc3339(Timestamp::now());
        let known = node
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_deref());
        let known = known.unwrap_or_default();
        let created = node.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let mut conditions = Vec::new();
        for kind in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
            let current = known.iter().find(|condition| condition.type_ == kind);
            let (reason, message) = match current {
                Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
                None => (
                    "NodeStatusNeverUpdated",
                    "Kubelet never posted node status.",
                ),
            };
            let heartbeat = current
                .and_then(|condition| condition.last_heartbeat_time.as_ref())
                .map(|time| time.0)
                .or(created)
                .map(base::time::rfc3339);
            let since = match current {
                Some(condition) if condition.status == "Unknown" => condition
                    .last_transition_time
                    .as_ref()
                    .map(|time| base::time::rfc3339(time.0)),
                _ => Some(now.clone()),
            };
            conditions.push(json!({
                "type": kind,
                "status": "Unknown",
                "reason": reason,
                "message": message,
                "lastHeartbeatTime": heartbeat,
                "lastTransitionTime": since,
            }));
        }
        self.recorder.event(
            node,
            EventType::Normal,
            "NodeNotReady",
            format!("Node {name} status is now: NodeNotReady"),
        );
        let patch = Patch::Strategic(json!({"status": {"conditions": conditions}}));
        let api = Api::<Node>::all(self.client.clone());
        ignore_not_found(
            api.patch_status(name, &PatchParams::default(), &patch)
                .await,
        )
        .during(|| format!("updating the status of node {name}"))
    }

    /// Takes the node's pods out of service: their kubelet cannot.
    async fn mark_pods(&self, node: &str) -> Result<()> {
        for pod in self
            .pods
            .filter(|pod| node_name(pod) == node && is_ready(pod))
        {
            let key = NamespacedName::of(&*pod);
            self.recorder.event(
                &*pod,
                EventType::Warning,
                "NodeNotReady",
                "Node is not ready",
            );
            let patch = Patch::Strategic(json!({"status": {"conditions": [{
                "type": "Ready",
                "status": "False",
                "lastTransitionTime": base::time::rfc3339(Timestamp::now()),
            }]}}));
            let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
            ignore_not_found(
                api.patch_status(&key.name, &PatchParams::default(), &patch)
                    .await,
            )
            .during(|| format!("updating the status of pod {key}"))?;
        }
        Ok(())
    }
}

//! Removes pods from nodes with a NoExecute taint they do not tolerate, at
//! once or when the shortest of their tolerations is over.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::api::{Patch, PatchParams};
use client::placement::{tolerates, untolerated};
use client::{Action, Api, Client, EventRecorder, EventType, Informer, NamespacedName, Observed};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use crate::context::{Context, run};
use crate::error::{During, Result, ignore_not_found};
use crate::pods::{self, is_finished, is_terminating, node_name};

const NAME: &str = "taint-eviction-controller";

pub(super) fn register(context: &Context) {
    let state = Arc::new(Eviction {
        client: context.client("node-controller"),
        nodes: context.informers.of(),
        pods: context.informers.of(),
        recorder: context.recorder(NAME),
        since: Mutex::default(),
    });
    let controller = context.controller(NAME);
    controller.watch_changes(&state.pods, |change| match change {
        Observed::Applied { old, new } => {
            let moved = old.is_none_or(|old| {
                node_name(old) != node_name(new)
                    || old.spec.as_ref().map(|spec| &spec.tolerations)
                        != new.spec.as_ref().map(|spec| &spec.tolerations)
            });
            moved.then(|| NamespacedName::of(new)).into_iter().collect()
        }
        Observed::Deleted(pod) => vec![NamespacedName::of(pod)],
    });
    let pods = state.pods.clone();
    controller.watch_changes(&state.nodes, move |change| match change {
        Observed::Applied { old, new } => {
            let same = old.is_some_and(|old| taints(old) == taints(new));
            if same || old.is_none() && taints(new).is_empty() {
                return Vec::new();
            }
            let name = new.metadata.name.as_deref().unwrap_or_default();
            let here = pods.filter(|pod| node_name(pod) == name);
            here.iter().map(|pod| NamespacedName::of(&**pod)).collect()
        }
        Observed::Deleted(_) => Vec::new(),
    });
    run(controller, 4, move |key| {
        let state = state.clone();
        async move { state.reconcile(&key).await }
    });
}

fn taints(node: &Node) -> Vec<&Taint> {
    let taints = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default();
    taints
        .iter()
        .filter(|taint| taint.effect == "NoExecute")
        .collect()
}

struct Eviction {
    client: Client,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    recorder: EventRecorder,
    /// Since when pods have been on a node with a taint they tolerate only
    /// for a while.
    since: Mutex<HashMap<NamespacedName, Instant>>,
}

/// How long a pod may stay: `None` for ever.
fn patience(pod: &Pod, node: &Node) -> Option<Duration> {
    let spec = pod.spec.as_ref();
    let tolerations = spec
        .and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default();
    if untolerated(tolerations, node, &["NoExecute"])
        .next()
        .is_some()
    {
        return Some(Duration::ZERO);
    }
    let taints = taints(node);
    tolerations
        .iter()
        .filter(|toleration| taints.iter().any(|taint| tolerates(toleration, taint)))
        .filter_map(|toleration| toleration.toleration_seconds)
        .min()
        .map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

impl Eviction {
    async fn reconcile(&self, key: &NamespacedName) -> Result<Action> {
        let pod = self
            .pods
            .get(key)
            .filter(|pod| !is_terminating(pod) && !is_finished(pod));
        let on = pod.and_then(|pod| {
            let node = self.nodes.get(&NamespacedName::new("", node_name(&pod)))?;
            Some((pod, node))
        });
        let Some((pod, patience)) = on
            .and_then(|(pod, node)| Some((patience(&pod, &node)?, pod)))
            .map(|(patience, pod)| (pod, patience))
        else {
            if self.since.lock().remove(key).is_some()
                && let Some(pod) = self.pods.get(key).filter(|pod| !is_terminating(pod))
            {
                let text = format!("Cancelling deletion of Pod {key}");
                self.recorder
                    .event(&*pod, EventType::Normal, "TaintManagerEviction", text);
            }
            return Ok(Action::Done);
        };
        let waited = self
            .since
            .lock()
            .entry(key.clone())
            .or_insert_with(Instant::now)
            .elapsed();
        if waited < patience {
            return Ok(Action::After(patience - waited));
        }
        let text = format!("Marking for deletion Pod {key}");
        self.recorder
            .event(&*pod, EventType::Normal, "TaintManagerEviction", text);
        let patch = Patch::Strategic(json!({"status": {"conditions": [{
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
            "lastTransitionTime": base::time::rfc3339(Timestamp::now()),
        }]}}));
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        ignore_not_found(
            api.patch_status(&key.name, &PatchParams::default(), &patch)
                .await,
        )
        .during(|| format!("updating the status of pod {key}"))?;
        pods::delete(&self.client, &pod)
            .await
            .during(|| format!("evicting pod {key}"))?;
        self.since.lock().remove(key);
        Ok(Action::Done)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_shortest_toleration_counts() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n"}, "spec":
            {"taints": [{"key": "k", "effect": "NoExecute"}]}}))
        .unwrap();
        let check = |tolerations: serde_json::Value, expected: Option<u64>| {
            let text = tolerations.to_string();
            let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec":
                {"containers": [], "tolerations": tolerations}}))
            .unwrap();
            assert_eq!(
                patience(&pod, &node),
                expected.map(Duration::from_secs),
                "{text}"
            );
        };
        let with =
            |seconds: i64| json!({"key": "k", "operator": "Exists", "tolerationSeconds": seconds});
        check(json!([]), Some(0));
        check(json!([{"key": "k", "operator": "Exists"}]), None);
        check(json!([with(20), with(5)]), Some(5));
        check(json!([{"key": "x", "operator": "Exists"}]), Some(0));
    }
}

//! Removes pods nobody else will: ended ones beyond a number, those of nodes
//! that no longer exist, and those deleted before they had a node.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::api::{DeleteParams, Patch, PatchParams, Preconditions};
use client::{Action, Api, Client, Informer, NamespacedName, Observed};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use crate::context::{Context, run};
use crate::error::{During, Result, ignore_not_found};
use crate::pods::{created, is_finished, is_terminating, node_name};

const NAME: &str = "pod-garbage-collector";
/// How long a node may be missing before its pods are: it may be on its way.
const QUARANTINE: Duration = Duration::from_secs(40);
/// How often ended pods are counted at most.
const COUNT_EVERY: Duration = Duration::from_secs(20);

pub(crate) fn register(context: &Context) {
    let state = Arc::new(PodGc {
        client: context.client(NAME),
        pods: context.informers.of(),
        nodes: context.informers.of(),
        threshold: context.config.terminated_pod_threshold,
        missing: Mutex::default(),
    });
    let controller = context.controller(NAME);
    // The empty key stands for the count of ended pods.
    controller.watch_changes(&state.pods, |change| match change {
        Observed::Applied { old, new } => {
            let ended = is_finished(new) && !old.is_some_and(is_finished);
            let mut keys = vec![NamespacedName::of(new)];
            keys.extend(ended.then(NamespacedName::default));
            keys
        }
        Observed::Deleted(_) => Vec::new(),
    });
    let pods = state.pods.clone();
    controller.watch_changes(&state.nodes, move |change| match change {
        Observed::Applied { .. } => Vec::new(),
        Observed::Deleted(node) => {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            let on_it = pods.filter(|pod| node_name(pod) == name);
            on_it.iter().map(|pod| NamespacedName::of(&**pod)).collect()
        }
    });
    run(controller, 2, move |key| {
        let state = state.clone();
        async move {
            if key == NamespacedName::default() {
                state.count().await
            } else {
                state.reconcile(&key).await
            }
        }
    });
}

struct PodGc {
    client: Client,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    threshold: usize,
    /// Since when nodes that pods name have been missing.
    missing: Mutex<HashMap<String, Instant>>,
}

impl PodGc {
    async fn reconcile(&self, key: &NamespacedName) -> Result<Action> {
        let Some(pod) = self.pods.get(key) else {
            return Ok(Action::Done);
        };
        let node = node_name(&pod);
        if node.is_empty() {
            if is_terminating(&pod) {
                self.delete(&pod, "terminating pod without a node").await?;
            }
            return Ok(Action::Done);
        }
        if self.nodes.get(&NamespacedName::new("", node)).is_some() {
            self.missing.lock().remove(node);
            return Ok(Action::Done);
        }
        let api = Api::<Node>::all(self.client.clone());
        let live = api
            .get_opt(node)
            .await
            .during(|| format!("reading node {node}"))?;
        if live.is_some() {
            self.missing.lock().remove(node);
            return Ok(Action::Done);
        }
        let missing_for = self
            .missing
            .lock()
            .entry(node.to_owned())
            .or_insert_with(Instant::now)
            .elapsed();
        if missing_for < QUARANTINE {
            return Ok(Action::After(QUARANTINE - missing_for));
        }
        self.disrupt(&pod).await?;
        self.delete(&pod, "orphaned pod").await?;
        Ok(Action::Done)
    }

    /// Says on the pod why it ends, and that it has.
    async fn disrupt(&self, pod: &Pod) -> Result<()> {
        let key = NamespacedName::of(pod);
        let mut status = json!({"conditions": [{
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByPodGC",
            "message": "PodGC: node no longer exists",
            "lastTransitionTime": base::time::rfc3339(Timestamp::now()),
        }]});
        if !is_finished(pod) {
            status["phase"] = json!("Failed");
        }
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        let patch = Patch::Strategic(json!({"status": status}));
        ignore_not_found(
            api.patch_status(&key.name, &PatchParams::default(), &patch)
                .await,
        )
        .during(|| format!("updating the status of pod {key}"))
    }

    async fn delete(&self, pod: &Pod, why: &str) -> Result<()> {
        let key = NamespacedName::of(pod);
        tracing::info!(pod = %key, "removing {why}");
        let parameters = DeleteParams::default()
            .grace_period(0)
            .preconditions(Preconditions {
                uid: pod.metadata.uid.clone(),
                resource_version: None,
            });
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        ignore_not_found(api.delete(&key.name, &parameters).await)
            .during(|| format!("deleting {why} {key}"))
    }

    /// Deletes the oldest ended pods beyond the threshold.
    async fn count(&self) -> Result<Action> {
        if self.threshold == 0 {
            return Ok(Action::Done);
        }
        let mut ended = self
            .pods
            .filter(|pod| is_finished(pod) && !is_terminating(pod));
        if ended.len() <= self.threshold {
            return Ok(Action::Done);
        }
        ended.sort_by_key(|pod| created(pod));
        for pod in &ended[..ended.len() - self.threshold] {
            self.delete(pod, "ended pod").await?;
        }
        Ok(Action::After(COUNT_EVERY))
    }
}

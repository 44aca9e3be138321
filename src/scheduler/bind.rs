//! What the scheduler writes: bindings, conditions, preemptions.

use std::sync::Arc;
use std::time::Duration;

use client::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use client::{Api, Client, EventRecorder, EventType, Informer, NamespacedName};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use serde_json::{Value, json};

use crate::filter::claims;
use crate::preempt::Preemption;
use crate::snapshot::PodInfo;

/// How long a pod's volumes may take to be bound to its node.
const VOLUMES_WITHIN: Duration = Duration::from_secs(600);

/// How a binding ended.
pub(crate) struct Bound {
    pub(crate) key: NamespacedName,
    pub(crate) node: String,
    pub(crate) outcome: Result<(), BindError>,
}

/// Why a pod could not be bound.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    #[error("binding rejected: {}", refusal(.0))]
    Refused(Box<client::Error>),
    #[error("binding volumes: context deadline exceeded")]
    Volumes,
}

fn refusal(error: &client::Error) -> String {
    match error {
        client::Error::Api(status) => status.message.clone(),
        error => base::Chain(error).to_string(),
    }
}

/// Writes in the scheduler's name.
#[derive(Clone)]
pub(crate) struct Writer {
    pub(crate) client: Client,
    pub(crate) recorder: EventRecorder,
    pub(crate) claims: Informer<PersistentVolumeClaim>,
}

impl Writer {
    fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Binds a pod, after its volumes.
    pub(crate) async fn bind(self, pod: Arc<PodInfo>, node: String) -> Bound {
        let outcome = self.try_bind(&pod, &node).await;
        match &outcome {
            Ok(()) => {
                let text = format!("Successfully assigned {} to {node}", pod.key);
                self.recorder
                    .event(&*pod.pod, EventType::Normal, "Scheduled", text);
            }
            Err(BindError::Refused(error))
                if matches!(&**error, client::Error::Api(status)
                    if status.is_not_found() || status.is_conflict()) => {}
            Err(error) => {
                let text = error.to_string();
                self.recorder
                    .event(&*pod.pod, EventType::Warning, "FailedScheduling", text);
            }
        }
        Bound {
            key: pod.key.clone(),
            node,
            outcome,
        }
    }

    async fn try_bind(&self, pod: &PodInfo, node: &str) -> Result<(), BindError> {
        let claims = claims(pod, pod.spec());
        if !claims.is_empty() {
            self.bind_volumes(&claims, node).await?;
        }
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {
                "name": pod.key.name,
                "namespace": pod.key.namespace,
                "uid": pod.pod.metadata.uid,
            },
            "target": {"kind": "Node", "name": node},
        });
        let parameters = PostParams::default();
        self.pods(&pod.key.namespace)
            .create_subresource::<Value, Value>("binding", &pod.key.name, &parameters, &binding)
            .await
            .map(|_| ())
            .map_err(|error| BindError::Refused(Box::new(error)))
    }

    /// Tells provisioners the node, and waits for every claim to be bound.
    async fn bind_volumes(&self, claims: &[NamespacedName], node: &str) -> Result<(), BindError> {
        let unbound = || {
            claims.iter().filter(|claim| {
                self.claims.get(claim).is_some_and(|claim| {
                    let spec = claim.spec.as_ref();
                    spec.and_then(|spec| spec.volume_name.as_deref())
                        .unwrap_or("")
                        .is_empty()
                })
            })
        };
        for claim in unbound() {
            let api =
                Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), &claim.namespace);
            let annotations = json!({"volume.kubernetes.io/selected-node": node});
            let patch = json!({"metadata": {"annotations": annotations}});
            api.patch(&claim.name, &PatchParams::default(), &Patch::Merge(patch))
                .await
                .map_err(|error| BindError::Refused(Box::new(error)))?;
        }
        let mut changes = self.claims.subscribe();
        let bound = async {
            while unbound().next().is_some() {
                if changes.next().await.is_none() {
                    break;
                }
            }
        };
        tokio::time::timeout(VOLUMES_WITHIN, bound)
            .await
            .map_err(|_| BindError::Volumes)
    }

    /// Says on the pod why it has no node.
    pub(crate) async fn report(self, pod: Arc<PodInfo>, text: String, nominated: Option<String>) {
        self.recorder.event(
            &*pod.pod,
            EventType::Warning,
            "FailedScheduling",
            text.clone(),
        );
        let status = pod.pod.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_ref());
        let known = conditions
            .into_iter()
            .flatten()
            .find(|known| known.type_ == "PodScheduled");
        let nominated_before = status.and_then(|status| status.nominated_node_name.as_ref());
        let same = known.is_some_and(|known| {
            known.status == "False"
                && known.reason.as_deref() == Some("Unschedulable")
                && known.message.as_deref() == Some(&text)
        });
        if same && nominated_before == nominated.as_ref() {
            return;
        }
        let since = known
            .filter(|known| known.status == "False")
            .and_then(|known| known.last_transition_time.as_ref())
            .map_or_else(Timestamp::now, |time| time.0);
        let patch = json!({"status": {
            "nominatedNodeName": nominated,
            "conditions": [{
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": text,
                "lastProbeTime": null,
                "lastTransitionTime": base::time::rfc3339(since),
                "observedGeneration": pod.pod.metadata.generation,
            }],
        }});
        self.patch_status(&pod, patch).await;
    }

    async fn patch_status(&self, pod: &PodInfo, patch: Value) {
        let pods = self.pods(&pod.key.namespace);
        let parameters = PatchParams::default();
        let outcome = pods
            .patch_status(&pod.key.name, &parameters, &Patch::Strategic(patch))
            .await;
        if let Err(error) = outcome {
            tracing::debug!(pod = %pod.key, "status not written: {}", refusal(&error));
        }
    }

    /// Removes the victims, and promises their node to the preemptor.
    pub(crate) async fn carry_out(self, pod: Arc<PodInfo>, preemption: Preemption, text: String) {
        let node = &preemption.node;
        for victim in &preemption.victims {
            let patch = json!({"status": {"conditions": [{
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "PreemptionByScheduler",
                "message": "default-scheduler: preempting to accommodate a higher priority pod",
                "lastProbeTime": null,
                "lastTransitionTime": base::time::rfc3339(Timestamp::now()),
                "observedGeneration": victim.pod.metadata.generation,
            }]}});
            self.patch_status(victim, patch).await;
            let parameters = DeleteParams::default().preconditions(Preconditions {
                uid: victim.pod.metadata.uid.clone(),
                resource_version: None,
            });
            let pods = self.pods(&victim.key.namespace);
            match pods.delete(&victim.key.name, &parameters).await {
                Ok(_) => {
                    let uid = pod.pod.metadata.uid.as_deref().unwrap_or_default();
                    let text = format!("Preempted by pod {uid} on node {node}");
                    self.recorder
                        .event(&*victim.pod, EventType::Normal, "Preempted", text);
                }
                Err(error) => {
                    tracing::debug!(pod = %victim.key, "not preempted: {}", refusal(&error));
                }
            }
        }
        let node = node.clone();
        self.report(pod, text, Some(node)).await;
    }
}

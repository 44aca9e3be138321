//! Facts about pods that several controllers need, and making and removing them.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::time::Duration;

use client::api::{DeleteParams, PostParams, Preconditions};
use client::{Api, Client, EventRecorder, EventType, Resource};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::error::{is_namespace_terminating, message};
use crate::owner::controller_ref;

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

pub(crate) fn node_name(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref())
        .unwrap_or_default()
}

/// Whether the pod has ended for good.
pub(crate) fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub(crate) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Neither ended nor on its way out.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_terminating(pod)
}

pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status
        .as_ref()?
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == kind)
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Whether the pod has been ready for `min_ready_seconds`; if it is ready but
/// not yet long enough, how much is missing.
pub(crate) fn availability(
    pod: &Pod,
    min_ready_seconds: i32,
    now: Timestamp,
) -> Result<(), Option<Duration>> {
    let Some(ready) = condition(pod, "Ready").filter(|ready| ready.status == "True") else {
        return Err(None);
    };
    if min_ready_seconds <= 0 {
        return Ok(());
    }
    let Some(since) = &ready.last_transition_time else {
        return Err(None);
    };
    let due = since.0 + Duration::from_secs(u64::from(min_ready_seconds.unsigned_abs()));
    match Duration::try_from(due.duration_since(now)) {
        Ok(left) if !left.is_zero() => Err(Some(left)),
        _ => Ok(()),
    }
}

/// A pod made from a template, controlled by `owner`.
pub(crate) fn from_template<O: Resource<DynamicType = ()>>(
    owner: &O,
    template: &PodTemplateSpec,
) -> Pod {
    let name = owner.meta().name.as_deref().unwrap_or_default();
    let template_meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            namespace: owner.meta().namespace.clone(),
            generate_name: Some(format!("{name}-")),
            labels: template_meta.labels,
            annotations: template_meta.annotations,
            finalizers: template_meta.finalizers,
            owner_references: Some(vec![controller_ref(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        ..Pod::default()
    }
}

/// Creates and deletes pods on behalf of an owner, with events about it.
#[derive(Clone)]
pub(crate) struct PodControl {
    pub(crate) client: Client,
    pub(crate) recorder: EventRecorder,
}

impl PodControl {
    /// Creates `pod` for `owner`.
    pub(crate) async fn create<O: Resource<DynamicType = ()>>(
        &self,
        owner: &O,
        pod: &Pod,
    ) -> Result<Pod, client::Error> {
        let namespace = owner.meta().namespace.as_deref().unwrap_or_default();
        let api = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let outcome = api.create(&PostParams::default(), pod).await;
        match &outcome {
            Ok(created) => {
                let name = created.metadata.name.as_deref().unwrap_or_default();
                let text = format!("Created pod: {name}");
                self.recorder
                    .event(owner, EventType::Normal, "SuccessfulCreate", text);
            }
            Err(error) if is_namespace_terminating(error) => {}
            Err(error) => {
                let text = format!("Error creating: {}", message(error));
                self.recorder
                    .event(owner, EventType::Warning, "FailedCreate", text);
            }
        }
        outcome
    }

    /// Deletes `pod` for `owner`; a pod already gone counts as deleted.
    pub(crate) async fn delete<O: Resource<DynamicType = ()>>(
        &self,
        owner: &O,
        pod: &Pod,
    ) -> Result<(), client::Error> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        match delete(&self.client, pod).await {
            Ok(()) => {
                let text = format!("Deleted pod: {name}");
                self.recorder
                    .event(owner, EventType::Normal, "SuccessfulDelete", text);
                Ok(())
            }
            Err(error) => {
                let text = format!("Error deleting: {}", message(&error));
                self.recorder
                    .event(owner, EventType::Warning, "FailedDelete", text);
                Err(error)
            }
        }
    }
}

/// Deletes a pod, unless it is another of the same name by now; one already
/// gone counts as deleted.
pub(crate) async fn delete(client: &Client, pod: &Pod) -> Result<(), client::Error> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let api = Api::<Pod>::namespaced(client.clone(), namespace);
    let parameters = DeleteParams::default().preconditions(Preconditions {
        uid: pod.metadata.uid.clone(),
        resource_version: None,
    });
    match api.delete(name, &parameters).await {
        Err(client::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        outcome => outcome.map(|_| ()),
    }
}

/// Pods in the order in which a scale-down removes them, after upstream's
/// `ActivePodsWithRanks`: unassigned before assigned, pending before running,
/// not ready before ready, lower deletion cost, more neighbours of the same
/// application on the node, shorter ready, more restarts, younger.
pub(crate) fn removal_order(
    pods: &[std::sync::Arc<Pod>],
    related: &[std::sync::Arc<Pod>],
    now: Timestamp,
) -> Vec<std::sync::Arc<Pod>> {
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for pod in related.iter().filter(|pod| is_active(pod)) {
        *on_node.entry(node_name(pod)).or_default() += 1;
    }
    let neighbours = |pod: &Pod| on_node.get(node_name(pod)).copied().unwrap_or(0);
    let mut order = pods.to_vec();
    order.sort_by(|a, b| {
        node_name(a)
            .is_empty()
            .cmp(&node_name(b).is_empty())
            .reverse()
            .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
            .then_with(|| is_ready(a).cmp(&is_ready(b)))
            .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
            .then_with(|| neighbours(b).cmp(&neighbours(a)))
            .then_with(|| {
                if !is_ready(a) {
                    return Ordering::Equal;
                }
                younger_first(ready_since(a), ready_since(b), now, a, b)
            })
            .then_with(|| restarts(b).cmp(&restarts(a)))
            .then_with(|| younger_first(created(a), created(b), now, a, b))
    });
    order
}

fn phase_rank(pod: &Pod) -> u8 {
    match phase(pod) {
        "Pending" | "" => 0,
        "Unknown" => 1,
        _ => 2,
    }
}

fn deletion_cost(pod: &Pod) -> i32 {
    pod.metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get("controller.kubernetes.io/pod-deletion-cost"))
        .and_then(|cost| cost.parse().ok())
        .unwrap_or(0)
}

fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

pub(crate) fn created(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

fn restarts(pod: &Pod) -> i32 {
    let status = pod.status.as_ref();
    status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten())
        .map(|container| container.restart_count)
        .max()
        .unwrap_or(0)
}

/// Ages are compared by their binary logarithm, so that among pods of about
/// the same age the choice is spread by UID rather than always the last.
fn younger_first(
    a: Option<Timestamp>,
    b: Option<Timestamp>,
    now: Timestamp,
    pod_a: &Pod,
    pod_b: &Pod,
) -> Ordering {
    match (a, b) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(a), Some(b)) if a == b => Ordering::Equal,
        (Some(a), Some(b)) => magnitude(now, a)
            .cmp(&magnitude(now, b))
            .then_with(|| pod_a.metadata.uid.cmp(&pod_b.metadata.uid)),
    }
}

fn magnitude(now: Timestamp, since: Timestamp) -> i64 {
    let age = now.as_nanosecond() - since.as_nanosecond();
    u128::try_from(age)
        .ok()
        .and_then(u128::checked_ilog2)
        .map_or(-1, i64::from)
}

//! The status of a ReplicaSet, computed.

use std::sync::Arc;
use std::time::Duration;

use client::labels;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Failure;
use crate::count::{count, nonzero};
use crate::pods::{availability, is_ready};

const REPLICA_FAILURE: &str = "ReplicaFailure";

/// The status that fits the pods, and after how long a ready pod becomes
/// available without any other change.
pub(super) fn calculate(
    set: &ReplicaSet,
    pods: &[Arc<Pod>],
    terminating: usize,
    failure: Option<&Failure>,
    now: Timestamp,
) -> (ReplicaSetStatus, Option<Duration>) {
    let spec = set.spec.as_ref();
    let min_ready_seconds = spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let template_labels = spec
        .and_then(|spec| spec.template.as_ref()?.metadata.as_ref()?.labels.clone())
        .unwrap_or_default();
    let (mut labelled, mut ready, mut available) = (0, 0, 0);
    let mut again: Option<Duration> = None;
    for pod in pods {
        if labels::selects_map(&template_labels, pod.metadata.labels.as_ref()) {
            labelled += 1;
        }
        if is_ready(pod) {
            ready += 1;
        }
        match availability(pod, min_ready_seconds, now) {
            Ok(()) => available += 1,
            Err(Some(left)) => again = Some(again.map_or(left, |known| known.min(left))),
            Err(None) => {}
        }
    }
    let known = set.status.clone().unwrap_or_default();
    let conditions = conditions(known.conditions.unwrap_or_default(), failure, now);
    let status = ReplicaSetStatus {
        replicas: count(pods.len()),
        fully_labeled_replicas: nonzero(labelled),
        ready_replicas: nonzero(ready),
        available_replicas: nonzero(available),
        terminating_replicas: nonzero(count(terminating)),
        observed_generation: set.metadata.generation,
        conditions,
    };
    (status, again)
}

fn conditions(
    mut known: Vec<ReplicaSetCondition>,
    failure: Option<&Failure>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    match failure {
        None => known.retain(|condition| condition.type_ != REPLICA_FAILURE),
        Some(failure) if known.iter().all(|known| known.type_ != REPLICA_FAILURE) => {
            known.push(ReplicaSetCondition {
                type_: REPLICA_FAILURE.to_owned(),
                status: "True".to_owned(),
                reason: Some(failure.reason.to_owned()),
                message: Some(failure.error.user_message()),
                last_transition_time: Some(Time(now)),
            });
        }
        Some(_) => {}
    }
    (!known.is_empty()).then_some(known)
}

/// A status as [`calculate`] would write it: zero and absent are the same.
pub(super) fn normalised(status: ReplicaSetStatus) -> ReplicaSetStatus {
    let present = |count: Option<i32>| count.filter(|count| *count != 0);
    ReplicaSetStatus {
        replicas: status.replicas,
        fully_labeled_replicas: present(status.fully_labeled_replicas),
        ready_replicas: present(status.ready_replicas),
        available_replicas: present(status.available_replicas),
        terminating_replicas: present(status.terminating_replicas),
        observed_generation: status.observed_generation,
        conditions: status
            .conditions
            .filter(|conditions| !conditions.is_empty()),
    }
}

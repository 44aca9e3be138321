//! The status of a Deployment, computed.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::plan::Limits;
use crate::count::nonzero;

pub(super) const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";

pub(super) fn condition(
    kind: &str,
    status: &str,
    reason: &str,
    message: impl Into<String>,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.into()),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

pub(super) fn find<'a>(
    status: &'a DeploymentStatus,
    kind: &str,
) -> Option<&'a DeploymentCondition> {
    status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == kind)
}

/// Sets a condition, unless one of the same status and reason stands already.
pub(super) fn set(status: &mut DeploymentStatus, mut condition: DeploymentCondition) {
    if let Some(known) = find(status, &condition.type_) {
        if known.status == condition.status {
            if known.reason == condition.reason {
                return;
            }
            condition.last_transition_time = known.last_transition_time.clone();
        }
        remove(status, &condition.type_);
    }
    status.conditions.get_or_insert_default().push(condition);
}

pub(super) fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != kind);
    }
}

pub(super) fn deadline(deployment: &Deployment) -> Option<i32> {
    let spec = deployment.spec.as_ref();
    spec.and_then(|spec| spec.progress_deadline_seconds)
        .filter(|seconds| *seconds != i32::MAX)
}

/// Notes on the Progressing condition that a rollout is paused or goes on;
/// whether that changed anything.
pub(super) fn note_pause(deployment: &mut Deployment, now: Timestamp) -> bool {
    if deadline(deployment).is_none() {
        return false;
    }
    let paused = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.paused)
        .unwrap_or(false);
    let status = deployment.status.get_or_insert_default();
    let reason = find(status, PROGRESSING).and_then(|known| known.reason.as_deref());
    if reason == Some(TIMED_OUT) {
        return false;
    }
    let noted = reason == Some("DeploymentPaused");
    let fresh = match (paused, noted) {
        (true, false) => ("DeploymentPaused", "Deployment is paused"),
        (false, true) => ("DeploymentResumed", "Deployment is resumed"),
        _ => return false,
    };
    set(
        status,
        condition(PROGRESSING, "Unknown", fresh.0, fresh.1, now),
    );
    true
}

fn sum(sets: &[&ReplicaSet], number: impl Fn(&ReplicaSet) -> Option<i32>) -> i32 {
    sets.iter().filter_map(|set| number(set)).sum()
}

/// Numbers and the Available condition.
pub(super) fn calculate(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    olds: &[ReplicaSet],
    now: Timestamp,
) -> DeploymentStatus {
    let all: Vec<&ReplicaSet> = olds.iter().chain(new).collect();
    let limits = Limits::of(deployment);
    let known = deployment.status.clone().unwrap_or_default();
    let wanted = sum(&all, |set| set.spec.as_ref()?.replicas);
    let available = sum(&all, |set| set.status.as_ref()?.available_replicas);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: nonzero(sum(&all, |set| {
            set.status.as_ref().map(|status| status.replicas)
        })),
        updated_replicas: new
            .and_then(|set| set.status.as_ref())
            .and_then(|status| nonzero(status.replicas)),
        ready_replicas: nonzero(sum(&all, |set| set.status.as_ref()?.ready_replicas)),
        available_replicas: nonzero(available),
        unavailable_replicas: nonzero((wanted - available).max(0)),
        terminating_replicas: nonzero(sum(&all, |set| set.status.as_ref()?.terminating_replicas)),
        collision_count: known.collision_count,
        conditions: known.conditions,
    };
    let fresh = if available >= limits.replicas - limits.max_unavailable {
        let text = "Deployment has minimum availability.";
        condition(AVAILABLE, "True", "MinimumReplicasAvailable", text, now)
    } else {
        let text = "Deployment does not have minimum availability.";
        condition(AVAILABLE, "False", "MinimumReplicasUnavailable", text, now)
    };
    set(&mut status, fresh);
    status
}

/// Whether every pod is of the new template and available.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let replicas = Limits::of(deployment).replicas;
    status.updated_replicas.unwrap_or(0) == replicas
        && status.replicas.unwrap_or(0) == replicas
        && status.available_replicas.unwrap_or(0) == replicas
        && status.observed_generation >= deployment.metadata.generation
}

fn has_progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let old_pods = |status: &DeploymentStatus| {
        status.replicas.unwrap_or(0) - status.updated_replicas.unwrap_or(0)
    };
    new.updated_replicas > old.updated_replicas
        || old_pods(new) < old_pods(old)
        || new.ready_replicas > old.ready_replicas
        || new.available_replicas > old.available_replicas
}

fn has_timed_out(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> bool {
    let (Some(condition), Some(deadline)) = (find(status, PROGRESSING), deadline(deployment))
    else {
        return false;
    };
    match condition.reason.as_deref() {
        Some(NEW_SET_AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => condition
            .last_update_time
            .as_ref()
            .is_some_and(|since| now.as_second() - since.0.as_second() > i64::from(deadline)),
    }
}

/// Adds to `status` how the rollout goes on: the Progressing condition, and
/// what ReplicaSets failed at.
pub(super) fn note_progress(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    olds: &[ReplicaSet],
    status: &mut DeploymentStatus,
    now: Timestamp,
) {
    let old = deployment.status.clone().unwrap_or_default();
    let current = find(&old, PROGRESSING).cloned();
    let ended = status.replicas == status.updated_replicas
        && current
            .as_ref()
            .and_then(|current| current.reason.as_deref())
            == Some(NEW_SET_AVAILABLE);
    let subject = match new.and_then(|set| set.metadata.name.as_deref()) {
        Some(name) => format!("ReplicaSet {name:?}"),
        None => {
            format!(
                "Deployment {:?}",
                deployment.metadata.name.as_deref().unwrap_or_default()
            )
        }
    };
    if deadline(deployment).is_none() {
        remove(status, PROGRESSING);
    } else if !ended {
        if is_complete(deployment, status) {
            let text = format!("{subject} has successfully progressed.");
            set(
                status,
                condition(PROGRESSING, "True", NEW_SET_AVAILABLE, text, now),
            );
        } else if has_progressed(&old, status) {
            let text = format!("{subject} is progressing.");
            let mut fresh = condition(PROGRESSING, "True", "ReplicaSetUpdated", text, now);
            if let Some(current) = current {
                if current.status == "True" {
                    fresh.last_transition_time = current.last_transition_time;
                }
                remove(status, PROGRESSING);
            }
            set(status, fresh);
        } else if has_timed_out(deployment, status, now) {
            let text = format!("{subject} has timed out progressing.");
            set(
                status,
                condition(PROGRESSING, "False", TIMED_OUT, text, now),
            );
        }
    }
    match new.into_iter().chain(olds).find_map(failure) {
        Some(failure) => set(status, failure),
        None => remove(status, REPLICA_FAILURE),
    }
}

fn failure(set: &ReplicaSet) -> Option<DeploymentCondition> {
    let conditions = set.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions
        .iter()
        .find(|condition| condition.type_ == REPLICA_FAILURE)?;
    Some(DeploymentCondition {
        type_: failure.type_.clone(),
        status: failure.status.clone(),
        reason: failure.reason.clone(),
        message: failure.message.clone(),
        last_transition_time: failure.last_transition_time.clone(),
        last_update_time: failure.last_transition_time.clone(),
    })
}

/// When the progress deadline passes, if it is running.
pub(super) fn next_check(
    deployment: &Deployment,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<Duration> {
    let deadline = deadline(deployment)?;
    let current = find(status, PROGRESSING)?;
    if is_complete(deployment, status) || current.reason.as_deref() == Some(TIMED_OUT) {
        return None;
    }
    let due = current.last_update_time.as_ref()?.0.as_second() + i64::from(deadline);
    let left = u64::try_from(due - now.as_second()).unwrap_or(0);
    Some(Duration::from_secs(left + 1))
}

/// A status as [`calculate`] would write it: zero and absent are the same.
pub(super) fn normalised(status: DeploymentStatus) -> DeploymentStatus {
    let present = |count: Option<i32>| count.filter(|count| *count != 0);
    DeploymentStatus {
        available_replicas: present(status.available_replicas),
        ready_replicas: present(status.ready_replicas),
        replicas: present(status.replicas),
        terminating_replicas: present(status.terminating_replicas),
        unavailable_replicas: present(status.unavailable_replicas),
        updated_replicas: present(status.updated_replicas),
        conditions: status
            .conditions
            .filter(|conditions| !conditions.is_empty()),
        ..status
    }
}

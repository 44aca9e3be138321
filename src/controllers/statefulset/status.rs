//! The status of a StatefulSet, computed.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;

use super::{Versions, pod, strategy};
use crate::count::{count, nonzero};
use crate::history;
use crate::pods::{availability, is_ready, is_terminating, phase};

pub(super) fn calculate(
    set: &StatefulSet,
    pods: &[Arc<Pod>],
    versions: &Versions,
    collisions: i32,
    now: Timestamp,
) -> StatefulSetStatus {
    let spec = set.spec.clone().unwrap_or_default();
    let min_ready_seconds = spec.min_ready_seconds.unwrap_or(0);
    let number = |keep: &dyn Fn(&Pod) -> bool| count(pods.iter().filter(|pod| keep(pod)).count());
    let runs = |pod: &Pod| phase(pod) == "Running" && is_ready(pod);
    let (current, update) = (
        history::name(&versions.current),
        history::name(&versions.update),
    );
    let of = |pod: &Pod, name: &str| !is_terminating(pod) && pod::revision(pod) == Some(name);
    let mut status = StatefulSetStatus {
        observed_generation: set.metadata.generation,
        replicas: count(pods.len()),
        ready_replicas: nonzero(number(&runs)),
        available_replicas: Some(number(&|pod| {
            runs(pod) && availability(pod, min_ready_seconds, now).is_ok()
        })),
        current_replicas: nonzero(number(&|pod| of(pod, current))),
        updated_replicas: nonzero(number(&|pod| of(pod, update))),
        current_revision: Some(current.to_owned()),
        update_revision: Some(update.to_owned()),
        collision_count: Some(collisions),
        conditions: set
            .status
            .as_ref()
            .and_then(|status| status.conditions.clone()),
    };
    // Once everything is updated and ready, the update is what is current.
    let replicas = spec.replicas.unwrap_or(1);
    if strategy(set).0
        && status.updated_replicas.unwrap_or(0) == status.replicas
        && status.ready_replicas.unwrap_or(0) == status.replicas
        && status.replicas == replicas
    {
        status.current_replicas = status.updated_replicas;
        status.current_revision = status.update_revision.clone();
    }
    status
}

/// A status as [`calculate`] would write it: zero and absent are the same.
pub(super) fn normalised(status: StatefulSetStatus) -> StatefulSetStatus {
    let present = |count: Option<i32>| count.filter(|count| *count != 0);
    StatefulSetStatus {
        ready_replicas: present(status.ready_replicas),
        available_replicas: Some(status.available_replicas.unwrap_or(0)),
        current_replicas: present(status.current_replicas),
        updated_replicas: present(status.updated_replicas),
        collision_count: Some(status.collision_count.unwrap_or(0)),
        conditions: status
            .conditions
            .filter(|conditions| !conditions.is_empty()),
        ..status
    }
}

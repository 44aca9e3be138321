//! In-place resizes: limits of what runs follow the resources in the spec.
//!
//! The pure half: which pod this node runs, given the one that is asked for,
//! and what differs between limits. A pod that asks for more than the node has
//! goes on with what it had; that other pods leave too little is the
//! scheduler's business and not judged here.

use std::sync::Arc;

use cri::ContainerResources;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};

use super::resources::{container_resources, pod_requests};
use super::spec::{containers, init_containers};
use crate::quantity::{self, ResourceList};

/// A condition that tells how a resize stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResizeCondition {
    pub(crate) kind: &'static str,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// The pod as this node runs it. If it asks for a resize that can never fit,
/// that is the pod with the resources its status tells, and a condition.
pub(crate) fn allocate(
    pod: &Arc<Pod>,
    known: &PodStatus,
    allocatable: &ResourceList,
) -> (Arc<Pod>, Option<ResizeCondition>) {
    let statuses = || {
        let init = known.init_container_statuses.iter().flatten();
        init.chain(known.container_statuses.iter().flatten())
            .filter(|status| status.resources.is_some() && status.container_id.is_some())
    };
    let differs = |container: &Container| {
        let mut own = statuses().filter(|status| status.name == container.name);
        own.any(|status| {
            status.resources.clone().unwrap_or_default()
                != container.resources.clone().unwrap_or_default()
        })
    };
    if !containers(pod)
        .iter()
        .chain(init_containers(pod))
        .any(differs)
    {
        return (pod.clone(), None);
    }
    let lacking = ["cpu", "memory"].into_iter().find_map(|resource| {
        let capacity = allocatable.get(resource)?;
        let capacity = match resource {
            "cpu" => quantity::milli_value(capacity),
            _ => quantity::value(capacity),
        };
        let requested = pod_requests(pod, resource);
        (requested > capacity).then(|| {
            format!(
                "Node didn't have enough capacity: {resource}, requested: {requested}, capacity: {capacity}"
            )
        })
    });
    let Some(message) = lacking else {
        return (pod.clone(), None);
    };
    let mut before = (**pod).clone();
    if let Some(spec) = &mut before.spec {
        let all = spec.init_containers.iter_mut().flatten();
        for container in all.chain(&mut spec.containers) {
            if let Some(status) = statuses().find(|status| status.name == container.name) {
                container.resources.clone_from(&status.resources);
            }
        }
    }
    let condition = ResizeCondition {
        kind: "PodResizePending",
        reason: "Infeasible",
        message,
    };
    (Arc::new(before), Some(condition))
}

/// Which limits of a running container are not those it should have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) cpu: bool,
    pub(crate) memory: bool,
}

impl Changed {
    /// Compares limits; none and unlimited are the same.
    pub(crate) fn between(now: &ContainerResources, wanted: &ContainerResources) -> Self {
        let limit = |limit: Option<i64>| limit.filter(|limit| *limit > 0);
        Self {
            cpu: now.cpu_shares != wanted.cpu_shares
                || limit(now.cpu_quota) != limit(wanted.cpu_quota),
            memory: limit(now.memory_limit) != limit(wanted.memory_limit),
        }
    }

    pub(crate) fn any(self) -> bool {
        self.cpu || self.memory
    }

    /// Whether the container must start anew for this.
    fn restarts(self, container: &Container) -> bool {
        container.resize_policy.iter().flatten().any(|policy| {
            policy.restart_policy == "RestartContainer"
                && match policy.resource_name.as_str() {
                    "cpu" => self.cpu,
                    "memory" => self.memory,
                    _ => false,
                }
        })
    }
}

/// What a running container's limits should become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resize {
    /// They are right.
    None,
    /// They can be changed while it runs.
    InPlace(ContainerResources),
    /// It asks to be started anew.
    Restart,
}

/// Judges a running container by the limits it has.
pub(crate) fn judge(pod: &Pod, container: &Container, now: &ContainerResources) -> Resize {
    // Of the node's memory only the OOM score is computed, which stays.
    let wanted = container_resources(pod, container, 1);
    let changed = Changed::between(now, &wanted);
    if !changed.any() {
        return Resize::None;
    }
    if changed.restarts(container) {
        return Resize::Restart;
    }
    Resize::InPlace(explicit(&wanted))
}

/// Limits as a change of them: what is unlimited is said to be.
pub(crate) fn explicit(limits: &ContainerResources) -> ContainerResources {
    ContainerResources {
        cpu_shares: limits.cpu_shares,
        cpu_quota: Some(limits.cpu_quota.unwrap_or(-1)),
        cpu_period: limits.cpu_period,
        memory_limit: Some(limits.memory_limit.unwrap_or(-1)),
        ..ContainerResources::default()
    }
}

/// The larger of two pods' limits in each: while containers change one by one,
/// neither their old nor their new limits may be too much for the pod.
pub(crate) fn larger(a: &ContainerResources, b: &ContainerResources) -> ContainerResources {
    let most = |a: Option<i64>, b: Option<i64>| {
        let limit = |limit: Option<i64>| limit.filter(|limit| *limit > 0);
        limit(a).zip(limit(b)).map(|(a, b)| a.max(b))
    };
    ContainerResources {
        cpu_shares: a.cpu_shares.max(b.cpu_shares),
        cpu_quota: most(a.cpu_quota, b.cpu_quota),
        cpu_period: a.cpu_period.or(b.cpu_period),
        memory_limit: most(a.memory_limit, b.memory_limit),
        ..ContainerResources::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use serde_json::json;

    use super::*;

    fn pod(cpu: &str, policy: &str) -> Arc<Pod> {
        let pod = json!({ "spec": { "containers": [{
            "name": "c",
            "resources": { "requests": { "cpu": cpu }, "limits": { "memory": "64Mi" } },
            "resizePolicy": [{ "resourceName": "cpu", "restartPolicy": policy }],
        }] } });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn has(shares: u64, memory: i64) -> ContainerResources {
        ContainerResources {
            cpu_shares: Some(shares),
            memory_limit: Some(memory),
            oom_score_adj: Some(5),
            ..ContainerResources::default()
        }
    }

    #[test]
    fn running_containers_are_judged() {
        let check = |cpu: &str, policy: &str, now: &ContainerResources| {
            let pod = pod(cpu, policy);
            judge(&pod, &containers(&pod)[0], now)
        };
        let same = has(102, 64 << 20);
        assert_eq!(check("100m", "NotRequired", &same), Resize::None);
        assert_eq!(check("200m", "RestartContainer", &same), Resize::Restart);
        let Resize::InPlace(to) = check("200m", "NotRequired", &same) else {
            panic!("the CPU shares differ");
        };
        assert_eq!(
            (to.cpu_shares, to.cpu_quota, to.memory_limit),
            (Some(204), Some(-1), Some(64 << 20))
        );
        let less = has(102, 32 << 20);
        assert!(
            matches!(check("100m", "RestartContainer", &less), Resize::InPlace(_)),
            "only memory differs"
        );
    }

    #[test]
    fn what_never_fits_is_not_allocated() {
        let status = |cpu: &str| -> PodStatus {
            let status = json!({ "containerStatuses": [{
                "name": "c", "containerID": "karve://1", "image": "", "imageID": "", "ready": true,
                "restartCount": 0,
                "resources": { "requests": { "cpu": cpu }, "limits": { "memory": "64Mi" } },
            }] });
            serde_json::from_value(status).unwrap()
        };
        let node: ResourceList = serde_json::from_value(json!({ "cpu": "2" })).unwrap();
        let check = |asked: &str, has: &str| {
            let (pod, condition) = allocate(&pod(asked, "NotRequired"), &status(has), &node);
            (
                pod_requests(&pod, "cpu"),
                condition.map(|condition| condition.message),
            )
        };
        assert_eq!(check("1", "500m"), (1000, None));
        assert_eq!(check("3", "3"), (3000, None), "no resize");
        let message =
            "Node didn't have enough capacity: cpu, requested: 3000, capacity: 2000".to_owned();
        assert_eq!(check("3", "500m"), (500, Some(message)));
    }

    #[test]
    fn both_fit_into_the_larger() {
        let limits = |quota, memory| ContainerResources {
            cpu_quota: quota,
            memory_limit: memory,
            ..ContainerResources::default()
        };
        let both = larger(&limits(Some(5), Some(9)), &limits(Some(7), Some(8)));
        assert_eq!((both.cpu_quota, both.memory_limit), (Some(7), Some(9)));
        let both = larger(&limits(None, Some(9)), &limits(Some(7), Some(-1)));
        assert_eq!((both.cpu_quota, both.memory_limit), (None, None));
    }
}

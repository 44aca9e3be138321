//! The conditions of a pod that the kubelet owns.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::observed::Observed;
use super::resize::ResizeCondition;
use super::spec::{containers, init_containers, is_sidecar, spec};

const OWNED: [&str; 8] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "AllContainersRestarting",
    "PodResizePending",
    "PodResizeInProgress",
];

/// Computes the conditions: those of others as the API has them, then ours.
pub(crate) fn conditions(
    pod: &Pod,
    observed: &Observed,
    old: &PodStatus,
    status: &PodStatus,
    resize: Option<&ResizeCondition>,
    now: Timestamp,
) -> Vec<PodCondition> {
    let api = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let foreign = api.into_iter().flatten();
    let mut all: Vec<PodCondition> = foreign
        .filter(|condition| !OWNED.contains(&condition.type_.as_str()))
        .cloned()
        .collect();
    let phase = status.phase.as_deref().unwrap_or_default();
    let list = |list: &Option<Vec<ContainerStatus>>| list.clone().unwrap_or_default();
    let init = list(&status.init_container_statuses);
    let regular = list(&status.container_statuses);

    let mut own = vec![Outcome {
        kind: "PodReadyToStartContainers",
        ok: observed.ready_sandbox(pod).is_some(),
        reason: "",
        message: String::new(),
    }];
    own.push(initialized(pod, &init, &regular, phase));
    let ready_containers = containers_ready(pod, &init, &regular, phase);
    own.push(ready(pod, &ready_containers, &all));
    own.push(ready_containers);
    own.push(Outcome {
        kind: "PodScheduled",
        ok: true,
        reason: "",
        message: String::new(),
    });
    own.extend(resize.map(|resize| Outcome {
        kind: resize.kind,
        ok: true,
        reason: resize.reason,
        message: resize.message.clone(),
    }));

    let known = old.conditions.as_deref().unwrap_or_default();
    for outcome in own {
        let status = if outcome.ok { "True" } else { "False" };
        let before = known.iter().chain(api.into_iter().flatten());
        let before = before
            .clone()
            .find(|condition| condition.type_ == outcome.kind);
        let since = before
            .filter(|before| before.status == status)
            .and_then(|before| before.last_transition_time.clone())
            .unwrap_or(Time(now));
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        all.push(PodCondition {
            type_: outcome.kind.into(),
            status: status.into(),
            reason: some(outcome.reason),
            message: some(&outcome.message),
            last_transition_time: Some(since),
            observed_generation: pod.metadata.generation,
            last_probe_time: None,
        });
    }
    all
}

struct Outcome {
    kind: &'static str,
    ok: bool,
    reason: &'static str,
    message: String,
}

fn quote_list(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

fn messages(unknown: &[&str], other: &[&str], what: &str) -> String {
    let mut parts = Vec::new();
    if !unknown.is_empty() {
        parts.push(format!(
            "containers with unknown status: {}",
            quote_list(unknown)
        ));
    }
    if !other.is_empty() {
        parts.push(format!(
            "containers with {what} status: {}",
            quote_list(other)
        ));
    }
    parts.join(", ")
}

fn initialized(
    pod: &Pod,
    init: &[ContainerStatus],
    regular: &[ContainerStatus],
    phase: &str,
) -> Outcome {
    let kind = "Initialized";
    let mut unknown = Vec::new();
    let mut incomplete = Vec::new();
    for container in init_containers(pod) {
        match init.iter().find(|status| status.name == container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) => {
                let done = match is_sidecar(container) {
                    true => status.started.unwrap_or(false),
                    false => status.ready,
                };
                if !done {
                    incomplete.push(container.name.as_str());
                }
            }
        }
    }
    if phase == "Succeeded" && unknown.is_empty() {
        return Outcome {
            kind,
            ok: true,
            reason: "PodCompleted",
            message: String::new(),
        };
    }
    // Sidecars may restart once the pod has been initialised.
    let any_started = regular.iter().any(|status| {
        let state = status.state.as_ref();
        let ended = state.and_then(|state| state.terminated.as_ref());
        status.started.unwrap_or(false)
            || state.is_some_and(|state| state.running.is_some())
            || ended.is_some_and(|ended| ended.started_at.is_some())
            || status
                .last_state
                .as_ref()
                .is_some_and(|last| last.terminated.is_some())
    });
    let message = messages(&unknown, &incomplete, "incomplete");
    if message.is_empty() || any_started {
        return Outcome {
            kind,
            ok: true,
            reason: "",
            message: String::new(),
        };
    }
    Outcome {
        kind,
        ok: false,
        reason: "ContainersNotInitialized",
        message,
    }
}

fn containers_ready(
    pod: &Pod,
    init: &[ContainerStatus],
    regular: &[ContainerStatus],
    phase: &str,
) -> Outcome {
    let kind = "ContainersReady";
    let mut unknown = Vec::new();
    let mut unready = Vec::new();
    let sidecars = init_containers(pod)
        .iter()
        .filter(|container| is_sidecar(container));
    for container in sidecars.chain(containers(pod)) {
        let mut all = init.iter().chain(regular);
        match all.find(|status| status.name == container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) if !status.ready => unready.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    if phase == "Succeeded" && unknown.is_empty() {
        return Outcome {
            kind,
            ok: false,
            reason: "PodCompleted",
            message: String::new(),
        };
    }
    if phase == "Failed" {
        return Outcome {
            kind,
            ok: false,
            reason: "PodFailed",
            message: String::new(),
        };
    }
    let message = messages(&unknown, &unready, "unready");
    let ok = message.is_empty();
    Outcome {
        kind,
        ok,
        reason: if ok { "" } else { "ContainersNotReady" },
        message,
    }
}

fn ready(pod: &Pod, containers: &Outcome, conditions: &[PodCondition]) -> Outcome {
    let kind = "Ready";
    if !containers.ok {
        let message = containers.message.clone();
        return Outcome {
            kind,
            ok: false,
            reason: containers.reason,
            message,
        };
    }
    let mut parts = Vec::new();
    for gate in spec(pod).readiness_gates.iter().flatten() {
        let name = &gate.condition_type;
        match conditions.iter().find(|condition| condition.type_ == *name) {
            None => parts.push(format!(
                "corresponding condition of pod readiness gate {name:?} does not exist."
            )),
            Some(found) if found.status != "True" => parts.push(format!(
                "the status of pod readiness gate {name:?} is not \"True\", but {}",
                found.status
            )),
            Some(_) => {}
        }
    }
    let ok = parts.is_empty();
    let reason = if ok { "" } else { "ReadinessGatesNotReady" };
    Outcome {
        kind,
        ok,
        reason,
        message: parts.join(", "),
    }
}

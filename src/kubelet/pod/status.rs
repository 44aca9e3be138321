//! The status of a pod and its containers: a pure function of spec, runtime
//! state, probe verdicts and what was reported before.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cri::{ContainerState as RuntimeState, ContainerStatus as RuntimeStatus};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, ContainerUser, HostIP, LinuxContainerUser, Pod, PodIP,
    PodStatus, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::conditions::conditions;
use super::observed::{Observed, labels, should_restart};
use super::phase::phase;
use super::resize::ResizeCondition;
use super::resources::QosClass;
use super::spec::{
    as_container, containers, ephemeral_containers, init_containers, is_deleted, is_host_network,
    is_sidecar, is_terminal,
};
use crate::config::RUNTIME_NAME;
use crate::probe::{ProbeKind, Verdict, Verdicts};

/// Why a container is waiting: reason and message, by container name.
pub(crate) type WaitReasons = BTreeMap<String, (String, String)>;

/// What a status is computed from.
pub(crate) struct StatusInput<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) observed: &'a Observed,
    pub(crate) verdicts: &'a Verdicts,
    /// Why containers that should start have not.
    pub(crate) waiting: &'a WaitReasons,
    /// What ended containers said, by container id.
    pub(crate) messages: &'a BTreeMap<String, String>,
    /// The status reported before.
    pub(crate) old: &'a PodStatus,
    pub(crate) host_ips: &'a [IpAddr],
    /// The pod will run nothing any more.
    pub(crate) terminal: bool,
    /// A phase, reason and message that override what containers say.
    pub(crate) verdict: Option<(&'a str, &'a str)>,
    /// How a resize stands, if it is not done.
    pub(crate) resize: Option<&'a ResizeCondition>,
    pub(crate) now: Timestamp,
}

/// Computes the status to report.
pub(crate) fn pod_status(input: &StatusInput<'_>) -> PodStatus {
    let StatusInput {
        pod, observed, old, ..
    } = input;
    let spec = pod.spec.as_ref();
    let has_init = !init_containers(pod).is_empty();
    let list = |list: &Option<Vec<ContainerStatus>>| list.clone().unwrap_or_default();
    let regular = Kind {
        init: false,
        has_init,
    };
    let mut container_statuses = statuses(
        input,
        &list(&old.container_statuses),
        containers(pod),
        regular,
    );
    container_statuses.sort_by(|a, b| a.name.cmp(&b.name));
    let init_kind = Kind {
        init: true,
        has_init,
    };
    let mut init_statuses = statuses(
        input,
        &list(&old.init_container_statuses),
        init_containers(pod),
        init_kind,
    );
    let ephemeral: Vec<Container> = ephemeral_containers(pod).iter().map(as_container).collect();
    let mut ephemeral_statuses = statuses(
        input,
        &list(&old.ephemeral_container_statuses),
        &ephemeral,
        regular,
    );
    ephemeral_statuses.sort_by(|a, b| a.name.cmp(&b.name));
    apply_probes(input, &mut container_statuses, containers(pod));
    apply_probes(input, &mut init_statuses, init_containers(pod));
    if input.terminal {
        for status in container_statuses.iter_mut().chain(&mut init_statuses) {
            finish(status);
        }
    }

    let old_phase = old.phase.as_deref().unwrap_or_default();
    let computed = phase(pod, &init_statuses, &container_statuses, input.terminal);
    let (phase, reason, message) = if is_terminal(old_phase) {
        // A final phase stays.
        (old_phase, old.reason.clone(), old.message.clone())
    } else if let Some((reason, message)) = input.verdict {
        ("Failed", Some(reason.to_owned()), Some(message.to_owned()))
    } else if computed == old_phase {
        (computed, old.reason.clone(), old.message.clone())
    } else {
        (computed, None, None)
    };

    let mut ips: Vec<IpAddr> = observed.ips.clone();
    if is_host_network(pod) {
        ips = input.host_ips.to_vec();
    } else if ips.is_empty() && input.terminal {
        // The addresses are free again, but the pod had them.
        let known = old.pod_ips.iter().flatten();
        ips = known.filter_map(|ip| ip.ip.parse().ok()).collect();
    }
    let none_if_empty = |list: Vec<ContainerStatus>| (!list.is_empty()).then_some(list);
    let mut status = PodStatus {
        phase: Some(phase.to_owned()),
        reason,
        message,
        observed_generation: pod.metadata.generation,
        host_ip: input.host_ips.first().map(ToString::to_string),
        host_ips: Some(
            input
                .host_ips
                .iter()
                .map(|ip| HostIP { ip: ip.to_string() })
                .collect(),
        ),
        pod_ip: ips.first().map(ToString::to_string),
        pod_ips: (!ips.is_empty())
            .then(|| ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect()),
        qos_class: Some(QosClass::of(pod).as_str().into()),
        start_time: old.start_time.clone().or(Some(Time(input.now))),
        resources: spec.and_then(|spec| spec.resources.clone()),
        container_statuses: none_if_empty(container_statuses),
        init_container_statuses: none_if_empty(init_statuses),
        ephemeral_container_statuses: none_if_empty(ephemeral_statuses),
        nominated_node_name: old.nominated_node_name.clone(),
        resource_claim_statuses: old.resource_claim_statuses.clone(),
        ..PodStatus::default()
    };
    status.conditions = Some(conditions(
        pod,
        observed,
        old,
        &status,
        input.resize,
        input.now,
    ));
    status
}

#[derive(Clone, Copy)]
struct Kind {
    init: bool,
    has_init: bool,
}

fn time(nanos: i64) -> Option<Time> {
    Timestamp::from_nanosecond(i128::from(nanos)).ok().map(Time)
}

fn waiting(reason: &str, message: &str) -> ContainerState {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: some(reason),
            message: some(message),
        }),
        ..Default::default()
    }
}

fn statuses(
    input: &StatusInput<'_>,
    old: &[ContainerStatus],
    specs: &[Container],
    kind: Kind,
) -> Vec<ContainerStatus> {
    specs
        .iter()
        .map(|container| status_of(input, old, container, kind))
        .collect()
}

fn status_of(
    input: &StatusInput<'_>,
    old: &[ContainerStatus],
    container: &Container,
    kind: Kind,
) -> ContainerStatus {
    let old = old.iter().find(|status| status.name == container.name);
    let mut runs = input
        .observed
        .containers
        .iter()
        .filter(|run| run.config.name == container.name);
    let mut status = match runs.next() {
        Some(newest) => {
            let mut status = from_runtime(input, newest, container, old);
            if let Some(previous) = runs.next() {
                let state = from_runtime(input, previous, container, None).state;
                status.last_state = state.filter(|state| state.terminated.is_some());
            }
            status
        }
        None => missing(input.pod, container, old, kind),
    };
    let newest = input.observed.latest(&container.name);
    if kind.init {
        let done = newest.is_some_and(|run| super::observed::exit_code(run) == Some(0));
        if done && !is_sidecar(container) {
            return status;
        }
        let any_created = containers(input.pod)
            .iter()
            .any(|c| input.observed.latest(&c.name).is_some());
        let is_waiting = status
            .state
            .as_ref()
            .is_some_and(|state| state.waiting.is_some());
        if newest.is_none() && any_created && !is_sidecar(container) && is_waiting {
            status.state = Some(ContainerState {
                terminated: Some(ContainerStateTerminated {
                    reason: Some("Completed".into()),
                    message: Some(
                        "Unable to get init container status from container runtime and pod has \
                         been initialized, treat it as exited normally"
                            .into(),
                    ),
                    ..Default::default()
                }),
                ..Default::default()
            });
            return status;
        }
    }
    if should_restart(input.pod, container, input.observed)
        && let Some((reason, message)) = input.waiting.get(&container.name)
    {
        if status
            .state
            .as_ref()
            .is_some_and(|state| state.terminated.is_some())
        {
            status.last_state = status.state.take();
        }
        status.state = Some(waiting(reason, message));
    }
    status
}

/// A container the runtime does not know (yet, or any more).
fn missing(
    pod: &Pod,
    container: &Container,
    old: Option<&ContainerStatus>,
    kind: Kind,
) -> ContainerStatus {
    let default = if kind.has_init {
        "PodInitializing"
    } else {
        "ContainerCreating"
    };
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        state: Some(waiting(default, "")),
        volume_mounts: mounts(container),
        ..Default::default()
    };
    let Some(old) = old else { return status };
    let state = old.state.clone().unwrap_or_default();
    if state.terminated.is_some() {
        return old.clone();
    }
    status.restart_count = old.restart_count;
    status.last_state = old.last_state.clone();
    let known_end = status
        .last_state
        .as_ref()
        .is_some_and(|last| last.terminated.is_some());
    if state.running.is_some() && !known_end {
        status.last_state = Some(ContainerState {
            terminated: Some(ContainerStateTerminated {
                reason: Some("ContainerStatusUnknown".into()),
                message: Some(
                    "The container could not be located when the pod was deleted.  The container \
                     used to be Running"
                        .into(),
                ),
                exit_code: 137,
                ..Default::default()
            }),
            ..Default::default()
        });
        if !is_deleted(pod) {
            status.restart_count += 1;
        }
    }
    status
}

fn mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts = container.volume_mounts.as_ref()?;
    let status = mounts.iter().map(|mount| VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: mount.read_only.filter(|read_only| *read_only),
        recursive_read_only: mount.read_only.filter(|read_only| *read_only).map(|_| {
            match mount.recursive_read_only.as_deref() {
                Some("Enabled" | "IfPossible") => "Enabled".into(),
                _ => "Disabled".into(),
            }
        }),
        ..Default::default()
    });
    Some(status.collect())
}

fn from_runtime(
    input: &StatusInput<'_>,
    run: &RuntimeStatus,
    container: &Container,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    let id = format!("{RUNTIME_NAME}://{}", run.id);
    let annotation = |key: &str| run.config.annotations.get(key).cloned();
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: annotation(labels::IMAGE)
            .or_else(|| container.image.clone())
            .unwrap_or_default(),
        image_id: annotation(labels::IMAGE_REF).unwrap_or_else(|| run.image_id.clone()),
        container_id: Some(id.clone()),
        restart_count: i32::try_from(run.config.attempt).unwrap_or(i32::MAX),
        volume_mounts: mounts(container),
        resources: container
            .resources
            .clone()
            .or_else(|| Some(Default::default())),
        allocated_resources: container
            .resources
            .as_ref()
            .and_then(|r| r.requests.clone()),
        user: run.user.as_ref().map(|(uid, gid, groups)| ContainerUser {
            linux: Some(LinuxContainerUser {
                uid: i64::from(*uid),
                gid: i64::from(*gid),
                supplemental_groups: (!groups.is_empty())
                    .then(|| groups.iter().map(|group| i64::from(*group)).collect()),
            }),
        }),
        ..Default::default()
    };
    if let Some(old) = old {
        status.restart_count = status.restart_count.max(old.restart_count);
        // The run before may be gone from the runtime; what it left stays.
        let ended = |state: &Option<ContainerState>| {
            state.clone().filter(|state| state.terminated.is_some())
        };
        status.last_state = if old.container_id.as_ref() == Some(&id) {
            ended(&old.last_state)
        } else {
            ended(&old.state).or_else(|| ended(&old.last_state))
        };
    }
    let mut state = ContainerState::default();
    match &run.state {
        RuntimeState::Created => state.waiting = Some(ContainerStateWaiting::default()),
        RuntimeState::Running => {
            let started_at = time(run.started_at);
            state.running = Some(ContainerStateRunning { started_at });
        }
        RuntimeState::Exited {
            exit,
            oom_killed,
            message,
        } => {
            let never_ran = run.started_at == 0;
            let reason = match exit.code {
                _ if *oom_killed => "OOMKilled",
                _ if never_ran && !message.is_empty() => "StartError",
                0 => "Completed",
                _ => "Error",
            };
            let said = input.messages.get(&run.id.0).unwrap_or(message);
            state.terminated = Some(ContainerStateTerminated {
                exit_code: exit.code,
                signal: (exit.signal != 0).then_some(exit.signal),
                reason: Some(reason.into()),
                message: (!said.is_empty()).then(|| said.clone()),
                started_at: time(run.started_at),
                finished_at: time(run.finished_at),
                container_id: Some(id),
            });
        }
        RuntimeState::Unknown => {
            let was_running = old
                .and_then(|old| old.state.as_ref())
                .is_some_and(|state| state.running.is_some());
            if was_running {
                state.terminated = Some(ContainerStateTerminated {
                    reason: Some("ContainerStatusUnknown".into()),
                    message: Some(
                        "The container could not be located when the pod was terminated".into(),
                    ),
                    exit_code: 137,
                    ..Default::default()
                });
                status.restart_count += 1;
            } else {
                state.waiting = Some(ContainerStateWaiting::default());
            }
        }
    }
    status.state = Some(state);
    status
}

/// Sets `started` and `ready`.
fn apply_probes(input: &StatusInput<'_>, statuses: &mut [ContainerStatus], specs: &[Container]) {
    for status in statuses {
        let Some(spec) = specs.iter().find(|spec| spec.name == status.name) else {
            continue;
        };
        let state = status.state.clone().unwrap_or_default();
        let run = input.observed.latest(&status.name);
        let verdict = |kind| run.and_then(|run| input.verdicts.get(&run.id, kind));
        let is_init = init_containers(input.pod)
            .iter()
            .any(|init| init.name == status.name);
        let sidecar = is_init && is_sidecar(spec);
        let started = state.running.is_some()
            && match &spec.startup_probe {
                Some(_) => verdict(ProbeKind::Startup) == Some(Verdict::Success),
                // A sidecar is started once its postStart hook is through, which
                // the worker waits for before it reports it running.
                None => true,
            };
        status.started = Some(started);
        status.ready = if is_init && !sidecar {
            state.terminated.is_some_and(|ended| ended.exit_code == 0)
        } else {
            started
                && match &spec.readiness_probe {
                    Some(_) => verdict(ProbeKind::Readiness) == Some(Verdict::Success),
                    None => true,
                }
        };
    }
}

/// A container of a pod that is over cannot be waiting or running.
fn finish(status: &mut ContainerStatus) {
    status.ready = status.ready && {
        let state = status.state.as_ref();
        state.is_some_and(|s| {
            s.terminated
                .as_ref()
                .is_some_and(|ended| ended.exit_code == 0)
        })
    };
    status.started = Some(false);
    let state = status.state.get_or_insert_default();
    if state.terminated.is_some() {
        return;
    }
    let last = status.last_state.take().unwrap_or_default();
    if state.waiting.is_some() && last.terminated.is_some() {
        *state = last;
        return;
    }
    status.last_state = Some(last).filter(|last| last.terminated.is_some());
    *state = ContainerState {
        terminated: Some(ContainerStateTerminated {
            reason: Some("ContainerStatusUnknown".into()),
            message: Some("The container could not be located when the pod was terminated".into()),
            exit_code: 137,
            ..Default::default()
        }),
        ..Default::default()
    };
}

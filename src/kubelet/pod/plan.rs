//! What to do next for a pod: a pure function of its spec, of what the runtime
//! says and of what the probes found.
//!
//! The order of initialisation is walked backwards, so that a pod whose early
//! init containers were cleaned up is still known to be past them.

use cri::{ContainerId, ContainerState};
use k8s_openapi::api::core::v1::{Container, Pod};

use super::observed::{Observed, definition_changed, exit_code, should_restart};
use super::resize::{Resize, judge};
use super::spec::{
    containers, ephemeral_containers, init_containers, is_sidecar, restart_policy, restarts_after,
    restarts_on_failure,
};
use crate::probe::{ProbeKind, Verdict, Verdicts};

/// Why a container is killed; decides its grace period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KillReason {
    Unknown,
    Startup,
    Liveness,
}

/// A container to kill before anything starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kill {
    pub(crate) id: ContainerId,
    pub(crate) name: String,
    pub(crate) message: String,
    pub(crate) reason: KillReason,
}

/// What to do for a pod; indices are into its spec's lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Kill everything that runs and stop the sandbox.
    pub(crate) kill_pod: bool,
    /// Make a sandbox.
    pub(crate) create_sandbox: bool,
    /// Which sandbox of this pod it is.
    pub(crate) attempt: u32,
    pub(crate) kill: Vec<Kill>,
    pub(crate) ephemeral: Vec<usize>,
    pub(crate) init: Vec<usize>,
    pub(crate) containers: Vec<usize>,
}

impl Plan {
    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        *self
            == Self {
                attempt: self.attempt,
                ..Self::default()
            }
    }
}

/// Computes the next actions.
pub(crate) fn plan(pod: &Pod, observed: &Observed, probes: &Verdicts) -> Plan {
    if observed.ready_sandbox(pod).is_none() {
        return plan_sandbox(pod, observed);
    }
    let mut plan = Plan::default();
    for (index, container) in ephemeral_containers(pod).iter().enumerate() {
        if observed.latest(&container.name).is_none() {
            plan.ephemeral.push(index);
        }
    }
    let initialised = plan_init(pod, observed, probes, &mut plan);
    if !plan.kill_pod && initialised {
        plan_regular(pod, observed, probes, &mut plan);
    }
    plan
}

fn plan_sandbox(pod: &Pod, observed: &Observed) -> Plan {
    let attempt = observed
        .sandboxes
        .first()
        .map_or(0, |sandbox| sandbox.config.attempt + 1);
    let mut plan = Plan {
        kill_pod: true,
        create_sandbox: true,
        attempt,
        ..Plan::default()
    };
    let never = restart_policy(pod) == "Never"
        && containers(pod)
            .iter()
            .chain(init_containers(pod))
            .all(|container| {
                container.restart_policy.is_none() && container.restart_policy_rules.is_none()
            });
    if never && attempt != 0 && !observed.containers.is_empty() {
        // The sandbox of a pod that never restarts is over, and so is the pod.
        plan.create_sandbox = false;
        return plan;
    }
    let start: Vec<usize> = containers(pod)
        .iter()
        .enumerate()
        .filter(
            |(_, container)| match observed.latest(&container.name).and_then(exit_code) {
                Some(0) => restarts_after(container, pod, 0),
                _ => true,
            },
        )
        .map(|(index, _)| index)
        .collect();
    let any_created = containers(pod)
        .iter()
        .any(|c| observed.latest(&c.name).is_some());
    if start.is_empty() && any_created {
        plan.create_sandbox = false;
        return plan;
    }
    if init_containers(pod).is_empty() {
        plan.containers = start;
    } else {
        plan.init = vec![0];
    }
    plan
}

/// Plans init containers; true if regular containers may run.
fn plan_init(pod: &Pod, observed: &Observed, probes: &Verdicts, plan: &mut Plan) -> bool {
    let all = init_containers(pod);
    if all.is_empty() {
        return true;
    }
    let mut initialised = containers(pod).iter().any(|container| {
        let state = observed.latest(&container.name).map(|status| &status.state);
        matches!(
            state,
            Some(ContainerState::Created | ContainerState::Running)
        )
    });
    // Whether the container looked at has been initialised before.
    let mut previously = initialised;
    let last = all.len() - 1;
    for (index, container) in all.iter().enumerate().rev() {
        let sidecar = is_sidecar(container);
        let Some(status) = observed.latest(&container.name) else {
            if previously && sidecar {
                plan.init.push(index);
            }
            continue;
        };
        if previously && !sidecar {
            continue;
        }
        match &status.state {
            ContainerState::Created => plan.init.push(index),
            ContainerState::Running if sidecar => {
                let startup = container.startup_probe.as_ref();
                let startup = startup.map(|_| probes.get(&status.id, ProbeKind::Startup));
                match startup {
                    None | Some(Some(Verdict::Success)) => {
                        if index == last {
                            initialised = true;
                        } else if !previously {
                            plan.init.push(index + 1);
                        }
                        let message = if definition_changed(container, status) {
                            Some(("definition changed", KillReason::Unknown))
                        } else if probes.get(&status.id, ProbeKind::Liveness)
                            == Some(Verdict::Failure)
                        {
                            Some(("failed liveness probe", KillReason::Liveness))
                        } else {
                            None
                        };
                        if let Some((what, reason)) = message {
                            plan.kill
                                .push(kill_init(container, &status.id, what, reason));
                            plan.init.push(index);
                        }
                    }
                    Some(Some(Verdict::Failure)) => {
                        let what = "failed startup probe";
                        let kill = kill_init(container, &status.id, what, KillReason::Startup);
                        plan.kill.push(kill);
                        plan.init.push(index);
                    }
                    Some(_) => {}
                }
            }
            ContainerState::Running => {}
            ContainerState::Exited { .. } if sidecar => plan.init.push(index),
            ContainerState::Exited { exit, .. } if exit.code == 0 => {
                if index == last {
                    initialised = true;
                } else {
                    plan.init.push(index + 1);
                }
            }
            ContainerState::Exited { exit, .. } => {
                if !restarts_after(container, pod, exit.code) {
                    plan.kill_pod = true;
                    plan.init.clear();
                    return false;
                }
                plan.init.push(index);
            }
            ContainerState::Unknown => {
                if !sidecar && !restarts_on_failure(container, pod) {
                    plan.kill_pod = true;
                    plan.init.clear();
                    return false;
                }
                let what = "is in \"unknown\" state, try killing it before restart";
                plan.kill
                    .push(kill_init(container, &status.id, what, KillReason::Unknown));
                plan.init.push(index);
            }
        }
        previously = true;
    }
    if !previously {
        plan.init.push(0);
    }
    plan.init.reverse();
    initialised
}

fn kill_init(container: &Container, id: &ContainerId, what: &str, reason: KillReason) -> Kill {
    Kill {
        id: id.clone(),
        name: container.name.clone(),
        message: format!("Init container {} {what}", container.name),
        reason,
    }
}

fn plan_regular(pod: &Pod, observed: &Observed, probes: &Verdicts, plan: &mut Plan) {
    let mut kept = 0;
    for (index, container) in containers(pod).iter().enumerate() {
        let status = observed.latest(&container.name);
        let Some(status) = status.filter(|status| status.state == ContainerState::Running) else {
            if should_restart(pod, container, observed) {
                plan.containers.push(index);
                if let Some(status) =
                    status.filter(|status| status.state == ContainerState::Unknown)
                {
                    plan.kill.push(Kill {
                        id: status.id.clone(),
                        name: container.name.clone(),
                        message: "Container is in \"unknown\" state, try killing it before restart"
                            .into(),
                        reason: KillReason::Unknown,
                    });
                }
            }
            continue;
        };
        let failed = |kind| probes.get(&status.id, kind) == Some(Verdict::Failure);
        let (what, reason, restart) = if definition_changed(container, status) {
            ("definition changed", KillReason::Unknown, true)
        } else if judge(pod, container, &status.config.resources) == Resize::Restart {
            ("resize requires restart", KillReason::Unknown, true)
        } else if failed(ProbeKind::Liveness) {
            (
                "failed liveness probe",
                KillReason::Liveness,
                restarts_on_failure(container, pod),
            )
        } else if failed(ProbeKind::Startup) {
            (
                "failed startup probe",
                KillReason::Startup,
                restarts_on_failure(container, pod),
            )
        } else {
            kept += 1;
            continue;
        };
        let mut message = format!("Container {} {what}", container.name);
        if restart {
            message.push_str(", will be restarted");
            plan.containers.push(index);
        }
        let name = container.name.clone();
        plan.kill.push(Kill {
            id: status.id.clone(),
            name,
            message,
            reason,
        });
    }
    if kept == 0 && plan.containers.is_empty() {
        plan.kill_pod = true;
        plan.init.clear();
    }
}

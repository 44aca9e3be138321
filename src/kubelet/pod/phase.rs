//! The phase of a pod.

use k8s_openapi::api::core::v1::{Container, ContainerState, ContainerStatus, Pod};

use super::spec::{containers, init_containers, is_sidecar, restarts_after};

enum State<'a> {
    Unknown,
    Running {
        started: bool,
    },
    Ended(&'a ContainerState, i32),
    /// Waiting to run again after this exit code.
    Restarting(i32),
    Waiting,
}

fn state<'a>(statuses: &'a [ContainerStatus], container: &Container) -> State<'a> {
    let status = statuses.iter().find(|status| status.name == container.name);
    let Some((status, state)) = status.and_then(|status| Some((status, status.state.as_ref()?)))
    else {
        return State::Unknown;
    };
    if state.running.is_some() {
        return State::Running {
            started: status.started.unwrap_or(false),
        };
    }
    if let Some(ended) = &state.terminated {
        return State::Ended(state, ended.exit_code);
    }
    match status
        .last_state
        .as_ref()
        .and_then(|last| last.terminated.as_ref())
    {
        Some(ended) => State::Restarting(ended.exit_code),
        None => State::Waiting,
    }
}

/// Computes the phase. `terminal` says that nothing will be started any more.
pub(crate) fn phase(
    pod: &Pod,
    init: &[ContainerStatus],
    regular: &[ContainerStatus],
    terminal: bool,
) -> &'static str {
    let mut pending_init = 0;
    let mut pending_sidecars = 0;
    let (mut unknown, mut running, mut waiting) = (0, 0, 0);
    for container in init_containers(pod) {
        let state = state(init, container);
        if is_sidecar(container) {
            match state {
                State::Unknown => {
                    unknown += 1;
                    pending_sidecars += 1;
                }
                State::Running { started } => {
                    running += 1;
                    pending_sidecars += i32::from(!started);
                }
                State::Ended(..) | State::Restarting(_) => {}
                State::Waiting => {
                    waiting += 1;
                    pending_sidecars += 1;
                }
            }
            continue;
        }
        match state {
            State::Ended(_, code) | State::Restarting(code) => {
                if code != 0 && !restarts_after(container, pod, code) {
                    return "Failed";
                }
                pending_init += i32::from(code != 0);
            }
            State::Unknown | State::Running { .. } | State::Waiting => pending_init += 1,
        }
    }
    let (mut stopped, mut final_stops, mut succeeded) = (0, 0, 0);
    let mut any_started = false;
    for container in containers(pod) {
        match state(regular, container) {
            State::Unknown => unknown += 1,
            State::Running { .. } => {
                running += 1;
                any_started = true;
            }
            State::Ended(state, code) => {
                stopped += 1;
                final_stops += i32::from(!restarts_after(container, pod, code));
                succeeded += i32::from(code == 0);
                let started = state
                    .terminated
                    .as_ref()
                    .and_then(|ended| ended.started_at.as_ref());
                any_started |= started.is_some();
            }
            State::Restarting(code) => {
                stopped += 1;
                final_stops += i32::from(!restarts_after(container, pod, code));
                any_started = true;
            }
            State::Waiting => waiting += 1,
        }
    }
    if terminal {
        return if stopped == succeeded && stopped > 0 && pending_init == 0 {
            "Succeeded"
        } else {
            "Failed"
        };
    }
    let initialising = (pending_init > 0 || pending_sidecars > 0) && !any_started;
    if initialising || waiting > 0 {
        return "Pending";
    }
    if running > 0 && unknown == 0 {
        return "Running";
    }
    if stopped > 0 && unknown == 0 {
        if stopped != final_stops {
            return "Running";
        }
        return if stopped == succeeded {
            "Succeeded"
        } else {
            "Failed"
        };
    }
    "Pending"
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::{Value, json};

    fn statuses(states: &[(&str, &str)]) -> Vec<ContainerStatus> {
        let make = |(name, state): &(&str, &str)| {
            let (state, last): (Value, Value) = match *state {
                "run" => (json!({"running": {}}), json!({})),
                "wait" => (json!({"waiting": {}}), json!({})),
                "back-off" => (
                    json!({"waiting": {}}),
                    json!({"terminated": {"exitCode": 1}}),
                ),
                "ok" => (json!({"terminated": {"exitCode": 0}}), json!({})),
                _ => (json!({"terminated": {"exitCode": 1}}), json!({})),
            };
            serde_json::from_value(json!({"name": name, "image": "", "imageID": "",
                "ready": false, "restartCount": 0, "started": true,
                "state": state, "lastState": last}))
            .unwrap()
        };
        states.iter().map(make).collect()
    }

    #[test]
    fn phases() {
        let check =
            |policy: &str, init: &[(&str, &str)], regular: &[(&str, &str)], terminal, want| {
                let containers = |list: &[(&str, &str)]| {
                    let list = list
                        .iter()
                        .map(|(name, _)| match name.strip_prefix("side") {
                            Some(_) => json!({"name": name, "restartPolicy": "Always"}),
                            None => json!({"name": name}),
                        });
                    list.collect::<Vec<_>>()
                };
                let pod: Pod = serde_json::from_value(json!({"spec": {"restartPolicy": policy,
                "initContainers": containers(init), "containers": containers(regular)}}))
                .unwrap();
                let got = phase(&pod, &statuses(init), &statuses(regular), terminal);
                assert_eq!(got, want, "{policy} {init:?} {regular:?}");
            };
        check(
            "Always",
            &[],
            &[("a", "run"), ("b", "run")],
            false,
            "Running",
        );
        check(
            "Always",
            &[],
            &[("a", "run"), ("b", "wait")],
            false,
            "Pending",
        );
        check("Always", &[], &[("a", "fail")], false, "Running");
        check("Always", &[], &[("a", "back-off")], false, "Running");
        check("Always", &[], &[("a", "ok")], true, "Succeeded");
        check("Never", &[], &[("a", "ok")], false, "Succeeded");
        check("Never", &[], &[("a", "ok"), ("b", "fail")], false, "Failed");
        check("Never", &[], &[("a", "ok"), ("b", "run")], false, "Running");
        check("OnFailure", &[], &[("a", "ok")], false, "Succeeded");
        check("OnFailure", &[], &[("a", "fail")], false, "Running");
        check("Never", &[("i", "fail")], &[("a", "wait")], false, "Failed");
        check(
            "Always",
            &[("i", "fail")],
            &[("a", "wait")],
            false,
            "Pending",
        );
        check(
            "Always",
            &[("i", "run")],
            &[("a", "wait")],
            false,
            "Pending",
        );
        check("Never", &[("i", "ok")], &[("a", "run")], false, "Running");
        check(
            "Never",
            &[("side", "run")],
            &[("a", "ok")],
            false,
            "Running",
        );
        check(
            "Never",
            &[("side", "fail")],
            &[("a", "ok")],
            true,
            "Succeeded",
        );
    }
}

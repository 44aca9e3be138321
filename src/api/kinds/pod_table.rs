//! The row of a pod: how `kubectl get pods` sums up its containers.

use serde_json::{Value, json};

use super::table;
use super::value::{int, list, text};

/// A container that restarts on its own while others start.
fn is_sidecar(spec: &Value, name: &str) -> bool {
    list(spec, "initContainers")
        .iter()
        .any(|container| text(container, "name") == name && container["restartPolicy"] == "Always")
}

/// Restarts of containers and when the last was.
#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<i64>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count += int(status, "restartCount");
        let last = table::seconds(&status["lastState"]["terminated"]["finishedAt"]);
        self.last = self.last.max(last);
    }
}

/// Why a terminated container is: its reason, signal or exit code.
fn terminated(state: &Value) -> String {
    match (text(state, "reason"), int(state, "signal")) {
        ("", 0) => format!("ExitCode:{}", int(state, "exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn condition<'a>(pod: &'a Value, kind: &str) -> Option<&'a Value> {
    list(&pod["status"], "conditions")
        .iter()
        .find(|condition| condition["type"] == kind)
}

fn is_true(pod: &Value, kind: &str) -> bool {
    condition(pod, kind).is_some_and(|condition| condition["status"] == "True")
}

/// The cells of [`super::columns::POD`].
pub(super) fn cells(pod: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let phase = text(status, "phase");
    let mut reason = match text(status, "reason") {
        "" => phase.to_owned(),
        reason => reason.to_owned(),
    };
    if condition(pod, "PodScheduled").is_some_and(|it| it["reason"] == "SchedulingGated") {
        reason = "SchedulingGated".to_owned();
    }
    let sidecars = list(spec, "initContainers")
        .iter()
        .filter(|container| container["restartPolicy"] == "Always")
        .count();
    let total = list(spec, "containers").len() + sidecars;
    let (mut restarts, mut sidecar_restarts) = (Restarts::default(), Restarts::default());
    let mut ready = 0;
    let mut initializing = false;
    for (index, container) in list(status, "initContainerStatuses").iter().enumerate() {
        restarts.add(container);
        let sidecar = is_sidecar(spec, text(container, "name"));
        if sidecar {
            sidecar_restarts.add(container);
        }
        let state = &container["state"];
        let ended = &state["terminated"];
        let waiting = text(&state["waiting"], "reason");
        if !ended.is_null() && int(ended, "exitCode") == 0 {
            continue;
        }
        if sidecar && container["started"] == true {
            ready += usize::from(container["ready"] == true);
            continue;
        }
        reason = if !ended.is_null() {
            format!("Init:{}", terminated(ended))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{index}/{}", list(spec, "initContainers").len())
        };
        initializing = true;
        break;
    }
    if !initializing || is_true(pod, "Initialized") {
        restarts = sidecar_restarts;
        let mut running = false;
        let mut error = None;
        for container in list(status, "containerStatuses").iter().rev() {
            restarts.add(container);
            let state = &container["state"];
            let waiting = text(&state["waiting"], "reason");
            let ended = &state["terminated"];
            if !waiting.is_empty() {
                waiting.clone_into(&mut reason);
            } else if !ended.is_null() {
                reason = terminated(ended);
                if int(ended, "exitCode") != 0 {
                    error = Some(reason.clone());
                }
            } else if container["ready"] == true && !state["running"].is_null() {
                running = true;
                ready += 1;
            }
        }
        if reason == "Completed" {
            if running && is_true(pod, "Ready") {
                reason = "Running".to_owned();
            } else if let Some(error) = error {
                reason = error;
            } else if running {
                reason = "NotReady".to_owned();
            }
        }
    }
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        if status["reason"] == "NodeLost" {
            reason = "Unknown".to_owned();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            reason = "Terminating".to_owned();
        }
    }
    let restarted = match restarts.last {
        Some(last) if restarts.count != 0 => {
            format!("{} ({} ago)", restarts.count, table::duration(now - last))
        }
        _ => restarts.count.to_string(),
    };
    let some = |text: &str| match text {
        "" => "<none>".to_owned(),
        text => text.to_owned(),
    };
    let address = list(status, "podIPs")
        .first()
        .map_or("", |address| text(address, "ip"));
    let gates = list(spec, "readinessGates");
    let open = gates
        .iter()
        .filter(|gate| is_true(pod, text(gate, "conditionType")))
        .count();
    let gates = if gates.is_empty() {
        "<none>".to_owned()
    } else {
        format!("{open}/{}", gates.len())
    };
    vec![
        table::name(pod),
        format!("{ready}/{total}").into(),
        reason.into(),
        restarted.into(),
        table::age(pod, now),
        some(address).into(),
        some(text(spec, "nodeName")).into(),
        some(text(status, "nominatedNodeName")).into(),
        gates.into(),
    ]
}

/// `Completed` of a pod that has succeeded or failed.
pub(super) fn row_conditions(pod: &Value) -> Vec<Value> {
    let (reason, message) = match text(&pod["status"], "phase") {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return Vec::new(),
    };
    vec![json!({
        "type": "Completed",
        "status": "True",
        "reason": reason,
        "message": message,
    })]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: Value, want: [&str; 3]) {
        let pod = json!({
            "metadata": {"name": "p", "creationTimestamp": "1970-01-01T00:00:00Z"},
            "spec": {
                "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
                "containers": [{"name": "a"}, {"name": "b"}],
            },
            "status": status,
        });
        let cells = cells(&pod, 100);
        assert_eq!(cells[1..4], want.map(Value::from));
    }

    #[test]
    fn states() {
        check(json!({"phase": "Pending"}), ["0/3", "Pending", "0"]);
        check(
            json!({"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "restartCount": 2, "state": {"terminated": {"exitCode": 1, "reason": "Error"}},
                 "lastState": {"terminated": {"finishedAt": "1970-01-01T00:01:00Z"}}}]}),
            ["0/3", "Init:Error", "2 (40s ago)"],
        );
        check(
            json!({"phase": "Running", "containerStatuses": [
                {"name": "a", "ready": true, "state": {"running": {}}},
                {"name": "b", "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "restartCount": 3}]}),
            ["1/3", "CrashLoopBackOff", "3"],
        );
        check(
            json!({"phase": "Failed", "containerStatuses": [
                {"name": "a", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}},
                {"name": "b", "state": {"terminated": {"exitCode": 137, "signal": 9}}}]}),
            ["0/3", "Signal:9", "0"],
        );
    }
}

//! Stopping containers: hooks, order and grace.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use cri::{ContainerId, ContainerRuntime, ErrorKind};
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::hooks;
use super::observed::Observed;
use super::plan::KillReason;
use super::spec::{find_container, grace_period_seconds, init_containers, is_sidecar};
use crate::events::{Normal, Recorder, Warning};

/// A container always gets this long, in seconds.
const LEAST_GRACE: i64 = 2;

/// What is done once only, however often stopping is begun anew with less grace.
#[derive(Clone, Default)]
pub(crate) struct Progress(Arc<Mutex<HashSet<(ContainerId, Step)>>>);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    Announced,
    PreStop,
}

impl Progress {
    fn first(&self, id: &ContainerId, step: Step) -> bool {
        self.0.lock().insert((id.clone(), step))
    }
}

/// Stops containers of one pod.
#[derive(Clone, Copy)]
pub(crate) struct Killer<'a> {
    pub(crate) runtime: &'a dyn ContainerRuntime,
    pub(crate) events: &'a Recorder,
    pub(crate) pod: &'a Pod,
    pub(crate) pod_ip: Option<std::net::IpAddr>,
    pub(crate) progress: &'a Progress,
}

/// Seconds a container may take to stop.
pub(crate) fn grace_seconds(pod: &Pod, container: Option<&Container>, reason: KillReason) -> i64 {
    if let Some(seconds) = pod.metadata.deletion_grace_period_seconds {
        return seconds;
    }
    let probe = match reason {
        KillReason::Unknown => None,
        KillReason::Startup => container.and_then(|container| container.startup_probe.as_ref()),
        KillReason::Liveness => container.and_then(|container| container.liveness_probe.as_ref()),
    };
    let own = probe.and_then(|probe| probe.termination_grace_period_seconds);
    own.unwrap_or_else(|| grace_period_seconds(pod))
}

impl Killer<'_> {
    /// Stops one container.
    pub(crate) async fn kill(
        &self,
        id: &ContainerId,
        name: &str,
        message: Option<&str>,
        reason: KillReason,
        grace_override: Option<i64>,
        turn: Option<Turn>,
    ) -> cri::Result<()> {
        let container = find_container(self.pod, name);
        let grace =
            grace_override.unwrap_or_else(|| grace_seconds(self.pod, container.as_deref(), reason));
        if self.progress.first(id, Step::Announced) {
            let default = format!("Stopping container {name}");
            let message = message.unwrap_or(&default);
            self.events
                .container(self.pod, name, Normal, "Killing", message);
        }
        let seconds = |seconds: i64| Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let deadline = Instant::now() + seconds(grace);
        let hook = container.as_deref().and_then(|container| {
            Some((container, container.lifecycle.as_ref()?.pre_stop.as_ref()?))
        });
        if let Some((container, hook)) = hook
            && grace > 0
            && self.progress.first(id, Step::PreStop)
        {
            let run = hooks::run(self.runtime, self.pod, self.pod_ip, container, id, hook);
            match tokio::time::timeout_at(deadline, run).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::info!(container = name, error, "preStop hook failed");
                    self.events.container(
                        self.pod,
                        name,
                        Warning,
                        "FailedPreStopHook",
                        "PreStopHook failed",
                    );
                }
                Err(_) => tracing::info!(container = name, "preStop hook ran out of time"),
            }
        }
        if let Some(turn) = &turn {
            let _ = tokio::time::timeout_at(deadline, turn.wait()).await;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let result = self
            .runtime
            .stop_container(id, left.max(seconds(LEAST_GRACE)))
            .await;
        if let Some(turn) = turn {
            turn.done();
        }
        match result {
            Err(error) if error.kind != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Stops everything that runs, sidecars after the regular containers and
    /// in reverse order.
    pub(crate) async fn kill_all(
        &self,
        observed: &Observed,
        grace_override: Option<i64>,
    ) -> cri::Result<()> {
        let running: Vec<_> = observed
            .running()
            .map(|run| (run.id.clone(), run.config.name.clone()))
            .collect();
        let has_sidecars = init_containers(self.pod).iter().any(is_sidecar);
        let names: Vec<&str> = running.iter().map(|(_, name)| name.as_str()).collect();
        let mut turns = match has_sidecars {
            true => turns(self.pod, &names),
            false => BTreeMap::new(),
        };
        let kills = running.iter().map(|(id, name)| {
            let turn = turns.remove(name);
            self.kill(id, name, None, KillReason::Unknown, grace_override, turn)
        });
        join_all(kills).await.into_iter().collect()
    }
}

/// A container's place in the order of stopping.
pub(crate) struct Turn {
    after: Vec<watch::Receiver<bool>>,
    own: watch::Sender<bool>,
}

impl Turn {
    async fn wait(&self) {
        for after in &self.after {
            // A dropped sender means that it is over as well.
            let _ = after.clone().wait_for(|done| *done).await;
        }
    }

    fn done(self) {
        self.own.send_replace(true);
    }
}

/// Turns of the running containers: regular ones have nobody to wait for,
/// sidecars wait for all of those and for the sidecars after them.
fn turns(pod: &Pod, running: &[&str]) -> BTreeMap<String, Turn> {
    let sidecars: Vec<&str> = init_containers(pod)
        .iter()
        .filter(|container| is_sidecar(container) && running.contains(&container.name.as_str()))
        .map(|container| container.name.as_str())
        .collect();
    let senders: BTreeMap<&str, watch::Sender<bool>> = running
        .iter()
        .map(|name| (*name, watch::Sender::new(false)))
        .collect();
    let mut order: BTreeMap<&str, Vec<watch::Receiver<bool>>> = BTreeMap::new();
    for (index, sidecar) in sidecars.iter().enumerate() {
        let later = &sidecars[index + 1..];
        let waits = senders
            .iter()
            .filter(|(name, _)| !sidecars.contains(name) || later.contains(name))
            .map(|(_, sender)| sender.subscribe());
        order.insert(sidecar, waits.collect());
    }
    senders
        .into_iter()
        .map(|(name, own)| {
            let after = order.remove(name).unwrap_or_default();
            (name.to_owned(), Turn { after, own })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn graces() {
        let check = |pod: serde_json::Value, reason, want| {
            let pod: Pod = serde_json::from_value(pod).unwrap();
            let container = find_container(&pod, "c");
            assert_eq!(grace_seconds(&pod, container.as_deref(), reason), want);
        };
        let containers = json!([{"name": "c",
            "livenessProbe": {"terminationGracePeriodSeconds": 5}}]);
        let spec = json!({"terminationGracePeriodSeconds": 20, "containers": containers});
        check(json!({"spec": spec}), KillReason::Unknown, 20);
        check(json!({"spec": spec}), KillReason::Liveness, 5);
        check(json!({"spec": spec}), KillReason::Startup, 20);
        let deleted = json!({"deletionGracePeriodSeconds": 3});
        check(
            json!({"metadata": deleted, "spec": spec}),
            KillReason::Liveness,
            3,
        );
    }

    #[tokio::test]
    async fn sidecars_stop_last_and_backwards() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "initContainers": [{"name": "s1", "restartPolicy": "Always"}, {"name": "i"},
                {"name": "s2", "restartPolicy": "Always"}],
            "containers": [{"name": "a"}, {"name": "b"}]}}))
        .unwrap();
        let turns = turns(&pod, &["a", "b", "s1", "s2"]);
        let order = Mutex::new(Vec::new());
        let waits = turns.into_iter().map(|(name, turn)| {
            let order = &order;
            async move {
                turn.wait().await;
                order.lock().push(name);
                turn.done();
            }
        });
        join_all(waits).await;
        assert_eq!(*order.lock(), ["a", "b", "s2", "s1"]);
    }
}

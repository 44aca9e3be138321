//! Telling: the status of the pod, and its probes.

use std::sync::Arc;

use cri::ContainerState;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ContainerStatus;

use super::Worker;
use crate::events::container_reference;
use crate::pod::observed::labels;
use crate::pod::spec::find_container;
use crate::pod::status::{StatusInput, pod_status};
use crate::probe::{Prober, Subject, Target};

const MAX_MESSAGE: usize = 4096;
const MAX_LOG_MESSAGE: usize = 2048;
const MAX_LOG_LINES: usize = 80;

impl Worker {
    /// Computes the status and reports it if it is news.
    pub(super) fn report(&mut self, terminal: bool) {
        let verdicts = self.probes.verdicts();
        let status = pod_status(&StatusInput {
            pod: &self.pod,
            observed: &self.observed,
            verdicts: &verdicts,
            waiting: &self.waiting,
            messages: &self.messages,
            old: &self.status,
            host_ips: &self.node.config.node_ips,
            terminal,
            verdict: self
                .verdict
                .as_ref()
                .map(|(reason, message)| (reason.as_str(), message.as_str())),
            resize: self.resize.as_ref(),
            now: now_in_seconds(),
        });
        if status != *self.status {
            self.status = Arc::new(status);
            self.node.reporter.set(&self.pod, self.status.clone());
        }
        let mut view = self.view.lock();
        view.pod = self.pod.clone();
        view.status = self.status.clone();
        view.observed = Arc::new(self.observed.clone());
    }

    /// Starts probes of containers that run, ends those of others, and lets
    /// liveness and readiness probes begin once a container has started.
    pub(super) fn sync_probes(&mut self) {
        let running: Vec<_> = self
            .observed
            .running()
            .map(|run| (run.id.clone(), run.config.name.clone(), run.started_at))
            .collect();
        self.probes
            .retain(|id| running.iter().any(|(known, ..)| known == id));
        for (id, name, started_at) in &running {
            let Some(container) = find_container(&self.pod, name) else {
                continue;
            };
            let status = self.container_status(name);
            if !self.probes.has(id) {
                let adopted = self.adopted.contains(id);
                let was = |flag: fn(&ContainerStatus) -> bool| adopted && status.is_some_and(flag);
                let target = Target {
                    id: id.clone(),
                    container: Arc::new(container.clone().into_owned()),
                    pod_ip: self.pod_ips().first().copied(),
                    reference: container_reference(&self.pod, name),
                };
                let subject = Subject {
                    id,
                    container: &container,
                    started_at: *started_at,
                    was_started: was(|status| status.started.unwrap_or(false)),
                    was_ready: was(|status| status.ready),
                    prober: Prober {
                        runtime: self.node.runtime.clone(),
                        events: self.node.events.clone(),
                        target: Arc::new(target),
                    },
                };
                self.probes.start(subject);
            }
        }
    }

    pub(super) fn release_probes(&self) {
        for run in self.observed.running() {
            let status = self.container_status(&run.config.name);
            let started = status.is_some_and(|status| status.started.unwrap_or(false));
            self.probes.set_started(&run.id, started);
        }
    }

    pub(super) fn container_status(&self, name: &str) -> Option<&ContainerStatus> {
        let init = self.status.init_container_statuses.iter().flatten();
        init.chain(self.status.container_statuses.iter().flatten())
            .find(|status| status.name == name)
    }
}

/// Now, as precise as the API is.
fn now_in_seconds() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default()
}

/// What a container left to say: its message file, or the end of its log if
/// its policy falls back to that.
pub(super) fn termination_message(run: &cri::ContainerStatus) -> String {
    let ContainerState::Exited { exit, message, .. } = &run.state else {
        return String::new();
    };
    let annotation = |key: &str| run.config.annotations.get(key).map(String::as_str);
    let file = annotation(labels::TERMINATION_PATH).filter(|path| !path.is_empty());
    let said = file
        .and_then(|file| std::fs::read(file).ok())
        .unwrap_or_default();
    let start = said.len().saturating_sub(MAX_MESSAGE);
    let mut text = String::from_utf8_lossy(&said[start..]).into_owned();
    let falls_back = annotation(labels::TERMINATION_POLICY) == Some("FallbackToLogsOnError");
    if text.is_empty() && falls_back && exit.code != 0 {
        text = crate::server::log_tail(&run.log_path, MAX_LOG_LINES, MAX_LOG_MESSAGE);
    }
    if text.is_empty() {
        message.clone()
    } else {
        text
    }
}

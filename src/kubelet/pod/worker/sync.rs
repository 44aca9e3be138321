//! Running: making containers match the spec.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cri::PodSandboxId;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;
use tokio::time::Instant;

use super::{Life, Next, Worker};
use crate::events::{Normal, Warning};
use crate::pod::Nudge;
use crate::pod::env::Sources;
use crate::pod::plan::{Plan, plan};
use crate::pod::spec::{
    as_container, containers, ephemeral_containers, init_containers, is_deleted, is_sidecar,
    is_terminal, namespace, spec, uid,
};
use crate::pod::start::shown;
use crate::volumes;

impl Worker {
    /// Config maps and secrets as they are now, watched from now on.
    pub(in crate::pod) async fn sources(&mut self) -> Result<Sources, String> {
        let (maps, secrets) = volumes::references(&self.pod);
        let signals = self.signals.clone();
        let nudge: Nudge = Arc::new(move || {
            signals.volumes.store(true, Ordering::Relaxed);
            signals.wake.notify_one();
        });
        let mut sources = Sources::default();
        for name in maps {
            let handle = self.config_maps.entry(name.clone()).or_insert_with(|| {
                let handle = self.node.config_maps.acquire(namespace(&self.pod), &name);
                handle.subscribe(uid(&self.pod), nudge.clone());
                handle
            });
            sources.config_maps.insert(name, handle.get().await?);
        }
        for name in secrets {
            let handle = self.secrets.entry(name.clone()).or_insert_with(|| {
                let handle = self.node.secrets.acquire(namespace(&self.pod), &name);
                handle.subscribe(uid(&self.pod), nudge.clone());
                handle
            });
            sources.secrets.insert(name, handle.get().await?);
        }
        Ok(sources)
    }

    /// Makes volumes ready and current.
    pub(super) async fn sync_volumes(&mut self) -> Result<(), String> {
        let due = self
            .volumes
            .values()
            .filter_map(|volume| volume.refresh_at)
            .min();
        let due = due.is_some_and(|due| due <= Instant::now());
        let changed = self.signals.volumes.swap(false, Ordering::Relaxed);
        if self.volumes_ready && !due && !changed {
            return Ok(());
        }
        self.mount_images().await?;
        let sources = self.sources().await?;
        let allocatable = self.node.allocatable();
        let pod_dir = self.pod_dir();
        let context = volumes::Context {
            pod: &self.pod,
            pod_dir: &pod_dir,
            client: &self.node.client,
            sources: &sources,
            fields: self.fields(&allocatable),
            tokens: &self.tokens,
            node_name: &self.node.config.node_name,
        };
        let ready = self
            .node
            .plugins
            .set_up(&context)
            .await
            .map_err(|error| error.to_string())?;
        self.volumes = ready;
        self.volumes_ready = true;
        Ok(())
    }

    /// When the pod runs out of time.
    pub(super) fn active_deadline(&self) -> Option<Timestamp> {
        let seconds = spec(&self.pod).active_deadline_seconds?;
        let start = self.status.start_time.as_ref()?.0;
        start
            .checked_add(jiff::SignedDuration::from_secs(seconds))
            .ok()
    }

    pub(super) async fn sync(&mut self) -> Next {
        self.sync_probes();
        // Before the report: what it says of resources is true by then.
        let resized = self.sync_limits().await;
        self.report(false);
        self.release_probes();
        if let Some(refusal) = self.refusal.take() {
            self.node.events.pod(
                &self.pod,
                Warning,
                &refusal.reason,
                refusal.message.as_str(),
            );
            let message = format!("Pod was rejected: {}", refusal.message);
            self.verdict = Some((refusal.reason, message));
            self.report(false);
            self.life = Life::Terminating;
            return Next::Again;
        }
        let phase = self.status.phase.clone().unwrap_or_default();
        if is_terminal(&phase) {
            self.life = Life::Terminating;
            return Next::Again;
        }
        let deadline = self.active_deadline();
        if deadline.is_some_and(|deadline| deadline <= Timestamp::now()) {
            let message = "Pod was active on the node longer than the specified deadline";
            self.node
                .events
                .pod(&self.pod, Normal, "DeadlineExceeded", message);
            self.verdict = Some(("DeadlineExceeded".to_owned(), message.to_owned()));
            self.report(false);
            self.life = Life::Terminating;
            return Next::Again;
        }
        let mut wake = deadline.map(|deadline| after(Timestamp::now(), deadline));
        wake = earliest(wake, resized);
        if let Err(message) = self.sync_volumes().await {
            let failed_before = self.setup_backoff.updated("volumes");
            let now = Timestamp::now();
            self.setup_backoff.next("volumes", now, now);
            if failed_before.is_none() || !self.volumes_ready {
                self.node
                    .events
                    .pod(&self.pod, Warning, "FailedMount", message);
            }
            if !self.volumes_ready {
                return Next::Wait(earliest(wake, self.setup_delay("volumes")));
            }
            // Old contents are better than none; try again later.
            self.signals.volumes.store(true, Ordering::Relaxed);
            wake = earliest(wake, self.setup_delay("volumes"));
        } else {
            self.setup_backoff.reset("volumes");
        }
        let refresh = self
            .volumes
            .values()
            .filter_map(|volume| volume.refresh_at)
            .min();
        wake = earliest(wake, refresh);

        let todo = plan(&self.pod, &self.observed, &self.probes.verdicts());
        if todo.is_empty() {
            self.collect_garbage().await;
            return Next::Wait(wake);
        }
        if todo.kill_pod && !todo.create_sandbox {
            // Every container is over for good, and the phase follows.
            self.life = Life::Terminating;
            return Next::Again;
        }
        let retry = self.execute(todo).await;
        self.refresh().await;
        self.sync_probes();
        self.report(false);
        self.release_probes();
        self.collect_garbage().await;
        match retry {
            // What was started may have made more possible.
            None => match plan(&self.pod, &self.observed, &self.probes.verdicts()).is_empty() {
                true => Next::Wait(wake),
                false => Next::Again,
            },
            Some(retry) => Next::Wait(earliest(wake, Some(retry))),
        }
    }

    pub(super) fn setup_delay(&self, key: &str) -> Option<Instant> {
        let now = Timestamp::now();
        let (left, _) = self.setup_backoff.remaining(key, now, now)?;
        Some(Instant::now() + left)
    }

    /// Carries a plan out; returns when to try again if something failed.
    pub(super) async fn execute(&mut self, todo: Plan) -> Option<Instant> {
        if todo.kill_pod {
            if !self.observed.sandboxes.is_empty() {
                let message = "Pod sandbox changed, it will be killed and re-created.";
                self.node
                    .events
                    .pod(&self.pod, Normal, "SandboxChanged", message);
            }
            if let Err(error) = self.stop_everything().await {
                let message = format!("error killing pod: {}", base::Chain(&error));
                self.node
                    .events
                    .pod(&self.pod, Warning, "FailedKillPod", message);
                return Some(Instant::now() + Duration::from_secs(5));
            }
            self.remove_init_containers().await;
        }
        for kill in &todo.kill {
            let killer = self.killer();
            let why = Some(kill.message.as_str());
            let result = killer
                .kill(&kill.id, &kill.name, why, kill.reason, None, None)
                .await;
            self.track(kill.id.clone()).await;
            if let Err(error) = result {
                tracing::info!(pod = shown(&self.pod), container = kill.name,
                    error = %base::Chain(&error), "killing a container failed");
                return Some(Instant::now() + Duration::from_secs(5));
            }
        }
        if todo.create_sandbox
            && let Err(message) = self.create_sandbox(todo.attempt).await
        {
            let message = format!("Failed to create pod sandbox: {message}");
            self.node
                .events
                .pod(&self.pod, Warning, "FailedCreatePodSandBox", message);
            let now = Timestamp::now();
            self.setup_backoff.next("sandbox", now, now);
            return self.setup_delay("sandbox");
        }
        self.setup_backoff.reset("sandbox");
        let sandbox = self.observed.ready_sandbox(&self.pod)?.id.clone();
        let pod = self.pod.clone();
        let mut retry = None;
        for index in todo.ephemeral {
            let container = as_container(&ephemeral_containers(&pod)[index]);
            retry = earliest(retry, self.start(&sandbox, &container).await);
        }
        for index in todo.init {
            let container = &init_containers(&pod)[index];
            let failed = self.start(&sandbox, container).await;
            retry = earliest(retry, failed);
            if failed.is_some() && !is_sidecar(container) {
                return retry;
            }
        }
        for index in todo.containers {
            retry = earliest(retry, self.start(&sandbox, &containers(&pod)[index]).await);
        }
        retry
    }

    /// Starts a container and reports how that went; when to try again if it failed.
    pub(super) async fn start(
        &mut self,
        sandbox: &PodSandboxId,
        container: &Container,
    ) -> Option<Instant> {
        let desired = self.inbox.borrow().clone();
        if desired.is_gone() || is_deleted(desired.pod()) {
            return Some(Instant::now());
        }
        let result = self.start_container(sandbox, container).await;
        let retry = match result {
            Ok(()) => {
                self.waiting.remove(&container.name);
                None
            }
            Err(error) => {
                self.waiting
                    .insert(container.name.clone(), (error.reason.into(), error.message));
                let delay = error.retry_after.unwrap_or(Duration::from_secs(10));
                Some(Instant::now() + delay)
            }
        };
        self.refresh().await;
        self.sync_probes();
        self.report(false);
        self.release_probes();
        retry
    }
}

fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    a.into_iter().chain(b).min()
}

fn after(now: Timestamp, at: Timestamp) -> Instant {
    Instant::now() + Duration::try_from(at.duration_since(now)).unwrap_or_default()
}

//! Ending: stopping everything, then leaving nothing.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{Desired, Life, Next, Worker};
use crate::events::Warning;
use crate::pod::sandbox::log_directory;
use crate::pod::spec::is_deleted;
use crate::pod::start::shown;
use crate::volumes;

impl Worker {
    pub(super) async fn terminate(&mut self, gone: bool) -> Next {
        self.probes.stop_liveness_and_startup();
        if !gone {
            self.report(false);
        }
        // A pod that vanished has nobody to wait for it.
        let vanished = gone && !is_deleted(&self.pod);
        let grace = vanished.then_some(1);
        let before = self
            .pod
            .metadata
            .deletion_grace_period_seconds
            .unwrap_or(i64::MAX);
        let mut inbox = self.inbox.clone();
        let shorter = async {
            let found = inbox
                .wait_for(|desired| {
                    let now = desired.pod().metadata.deletion_grace_period_seconds;
                    now.is_some_and(|now| now < before)
                })
                .await
                .is_ok();
            if !found {
                std::future::pending::<()>().await;
            }
        };
        let kill = async { self.killer().kill_all(&self.observed, grace).await };
        let result = tokio::select! {
            result = kill => result,
            // Begin anew with less time; what was done once is not done again.
            () = shorter => return Next::Again,
        };
        self.refresh().await;
        let result = match result {
            Ok(()) => self.stop_sandboxes().await,
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            let message = format!("error killing pod: {}", base::Chain(&error));
            self.node
                .events
                .pod(&self.pod, Warning, "FailedKillPod", message);
            let now = Timestamp::now();
            self.setup_backoff.next("kill", now, now);
            return Next::Wait(self.setup_delay("kill"));
        }
        self.refresh().await;
        self.probes.retain(|_| false);
        self.waiting.clear();
        if !gone {
            self.report(true);
        }
        self.life = Life::Terminated;
        Next::Again
    }

    pub(super) async fn clean_up(&mut self, desired: &Desired) -> Next {
        if self.volumes_ready || self.pod_dir().exists() {
            let dir = self.pod_dir();
            let result = tokio::task::spawn_blocking(move || volumes::tear_down(&dir)).await;
            if let Ok(Err(error)) = result {
                tracing::warn!(pod = shown(&self.pod), %error, "tearing down volumes failed, \
                    trying again");
                return Next::Wait(Some(Instant::now() + Duration::from_secs(5)));
            }
            self.volumes_ready = false;
            self.volumes.clear();
            self.release_handles();
        }
        if !desired.is_gone() && !is_deleted(&self.pod) {
            return Next::Wait(None);
        }
        for id in self
            .observed
            .sandboxes
            .iter()
            .map(|s| s.id.clone())
            .collect::<Vec<_>>()
        {
            self.remove_sandbox(&id).await;
        }
        if !self.observed.sandboxes.is_empty() {
            return Next::Wait(Some(Instant::now() + Duration::from_secs(5)));
        }
        let logs = log_directory(&self.node.config.log_dir, &self.pod);
        match tokio::fs::remove_dir_all(&logs).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(path = %logs.display(), %error, "removing a pod's logs failed");
            }
            _ => {}
        }
        self.life = Life::Finished;
        if desired.is_gone() {
            return Next::Done;
        }
        self.node.reporter.delete(&self.pod);
        Next::Wait(None)
    }
}

//! Liveness, readiness and startup probes.
//!
//! Every probe of a running container is a task with a timer. It writes its
//! verdict where the pod's worker reads it and nudges the worker only when the
//! verdict changes.

mod http;
mod prober;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use base::{Shutdown, Supervisor};
use cri::ContainerId;
use k8s_openapi::api::core::v1::{Container, Probe};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Duration, Instant, MissedTickBehavior};

pub(crate) use http::{HttpTarget, http_get};
pub(crate) use prober::{Prober, Target};

/// Which of a container's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    /// The name in events.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }

    fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// What a probe found, thresholds applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Success,
    Failure,
}

/// Verdicts by container and probe; absent is not known yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdicts(BTreeMap<(ContainerId, ProbeKind), Verdict>);

impl Verdicts {
    pub(crate) fn get(&self, id: &ContainerId, kind: ProbeKind) -> Option<Verdict> {
        self.0.get(&(id.clone(), kind)).copied()
    }

    /// Records a verdict; true if it is news.
    pub(crate) fn set(&mut self, id: &ContainerId, kind: ProbeKind, verdict: Verdict) -> bool {
        self.0.insert((id.clone(), kind), verdict) != Some(verdict)
    }

    fn forget(&mut self, id: &ContainerId) {
        self.0.retain(|(known, _), _| known != id);
    }
}

struct Running {
    stop: Shutdown,
    liveness_stop: Shutdown,
    started: watch::Sender<bool>,
}

/// The probes of one pod.
pub(crate) struct Probes {
    tasks: Arc<Supervisor>,
    nudge: Arc<dyn Fn() + Send + Sync>,
    verdicts: Arc<Mutex<Verdicts>>,
    running: HashMap<ContainerId, Running>,
}

/// A container to probe.
pub(crate) struct Subject<'a> {
    pub(crate) id: &'a ContainerId,
    pub(crate) container: &'a Container,
    /// Nanoseconds since the Unix epoch.
    pub(crate) started_at: i64,
    /// It was started and ready before this process took over.
    pub(crate) was_started: bool,
    /// It was ready before this process took over.
    pub(crate) was_ready: bool,
    pub(crate) prober: Prober,
}

impl Probes {
    /// No probes yet. `nudge` is called when a verdict changes.
    pub(crate) fn new(tasks: Arc<Supervisor>, nudge: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self {
            tasks,
            nudge,
            verdicts: Arc::default(),
            running: HashMap::new(),
        }
    }

    /// The verdicts as they are now.
    pub(crate) fn verdicts(&self) -> Verdicts {
        self.verdicts.lock().clone()
    }

    /// Whether a container is probed already.
    pub(crate) fn has(&self, id: &ContainerId) -> bool {
        self.running.contains_key(id)
    }

    /// Starts the probes of a container that has just begun to run.
    pub(crate) fn start(&mut self, subject: Subject<'_>) {
        let stop = self.tasks.shutdown().child();
        let liveness_stop = stop.child();
        let started = watch::Sender::new(false);
        for kind in [
            ProbeKind::Startup,
            ProbeKind::Liveness,
            ProbeKind::Readiness,
        ] {
            let Some(probe) = kind.of(subject.container) else {
                continue;
            };
            let adopted = match kind {
                ProbeKind::Startup => subject.was_started,
                ProbeKind::Readiness => subject.was_ready,
                ProbeKind::Liveness => false,
            };
            if adopted {
                self.verdicts.lock().set(subject.id, kind, Verdict::Success);
                if kind == ProbeKind::Startup {
                    continue;
                }
            }
            let task = Task {
                kind,
                id: subject.id.clone(),
                probe: probe.clone(),
                started_at: subject.started_at,
                prober: subject.prober.clone(),
                started: started.subscribe(),
                verdicts: self.verdicts.clone(),
                nudge: self.nudge.clone(),
            };
            let stop = match kind {
                ProbeKind::Readiness => stop.clone(),
                ProbeKind::Startup | ProbeKind::Liveness => liveness_stop.clone(),
            };
            let name = format!("{} probe of {}", kind.as_str(), subject.container.name);
            self.tasks.spawn(name, |_| async move {
                stop.guard(task.run()).await;
            });
        }
        self.running.insert(
            subject.id.clone(),
            Running {
                stop,
                liveness_stop,
                started,
            },
        );
    }

    /// Says that a container has started, so that its other probes begin.
    pub(crate) fn set_started(&self, id: &ContainerId, started: bool) {
        if let Some(running) = self.running.get(id) {
            running
                .started
                .send_if_modified(|known| std::mem::replace(known, started) != started);
        }
    }

    /// Ends liveness and startup probes, as the pod is being stopped.
    pub(crate) fn stop_liveness_and_startup(&self) {
        for running in self.running.values() {
            running.liveness_stop.trigger();
        }
    }

    /// Ends the probes of every container not in `keep`.
    pub(crate) fn retain(&mut self, keep: impl Fn(&ContainerId) -> bool) {
        let verdicts = &self.verdicts;
        self.running.retain(|id, running| {
            let keep = keep(id);
            if !keep {
                running.stop.trigger();
                verdicts.lock().forget(id);
            }
            keep
        });
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.retain(|_| false);
    }
}

struct Task {
    kind: ProbeKind,
    id: ContainerId,
    probe: Probe,
    started_at: i64,
    prober: Prober,
    started: watch::Receiver<bool>,
    verdicts: Arc<Mutex<Verdicts>>,
    nudge: Arc<dyn Fn() + Send + Sync>,
}

impl Task {
    async fn run(mut self) {
        let seconds = |value: Option<i32>, default: i32| {
            Duration::from_secs(u64::try_from(value.unwrap_or(default).max(0)).unwrap_or(0))
        };
        let initial = seconds(self.probe.initial_delay_seconds, 0);
        let age = jiff::Timestamp::now().as_nanosecond() - i128::from(self.started_at);
        let age = Duration::from_nanos(u64::try_from(age.max(0)).unwrap_or(u64::MAX));
        tokio::time::sleep(initial.saturating_sub(age)).await;
        let mut ticks = tokio::time::interval(
            seconds(self.probe.period_seconds, 10).max(Duration::from_secs(1)),
        );
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let timeout = seconds(self.probe.timeout_seconds, 1).max(Duration::from_secs(1));
        let mut counter = Counter::new(&self.probe);
        loop {
            if self.kind != ProbeKind::Startup
                && self.started.wait_for(|started| *started).await.is_err()
            {
                return;
            }
            ticks.tick().await;
            let Some(outcome) = self.prober.probe(self.kind, &self.probe, timeout).await else {
                continue;
            };
            let Some(verdict) = counter.count(outcome) else {
                continue;
            };
            if self.verdicts.lock().set(&self.id, self.kind, verdict) {
                (self.nudge)();
            }
            // A failed liveness probe ends this container, and a decided startup
            // probe has nothing more to find out.
            let decided = match self.kind {
                ProbeKind::Startup => true,
                ProbeKind::Liveness => verdict == Verdict::Failure,
                ProbeKind::Readiness => false,
            };
            if decided {
                return;
            }
        }
    }
}

/// Applies the thresholds.
struct Counter {
    success_threshold: i32,
    failure_threshold: i32,
    last: Option<Verdict>,
    run: i32,
}

impl Counter {
    fn new(probe: &Probe) -> Self {
        Self {
            success_threshold: probe.success_threshold.unwrap_or(1),
            failure_threshold: probe.failure_threshold.unwrap_or(3),
            last: None,
            run: 0,
        }
    }

    /// The verdict once enough outcomes in a row agree.
    fn count(&mut self, outcome: Verdict) -> Option<Verdict> {
        if self.last == Some(outcome) {
            self.run = self.run.saturating_add(1);
        } else {
            self.last = Some(outcome);
            self.run = 1;
        }
        let threshold = match outcome {
            Verdict::Success => self.success_threshold,
            Verdict::Failure => self.failure_threshold,
        };
        (self.run >= threshold).then_some(outcome)
    }
}

/// An instant so far ahead that it stands for never.
pub(crate) fn never() -> Instant {
    Instant::now() + Duration::from_secs(365 * 24 * 3600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_count_in_a_row() {
        let probe = Probe {
            success_threshold: Some(2),
            failure_threshold: Some(3),
            ..Default::default()
        };
        let mut counter = Counter::new(&probe);
        let (ok, bad) = (Verdict::Success, Verdict::Failure);
        let outcomes = [bad, bad, ok, bad, bad, bad, bad, ok, ok];
        let got: Vec<_> = outcomes
            .into_iter()
            .map(|outcome| counter.count(outcome))
            .collect();
        let none = None;
        assert_eq!(
            got,
            [
                none,
                none,
                none,
                none,
                none,
                Some(bad),
                Some(bad),
                none,
                Some(ok)
            ]
        );
    }
}

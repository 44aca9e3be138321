//! What a Job needs, given its pods: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::Pod;

use super::indexes::{self, Indexes};
use crate::pods::{condition, created, is_finished, is_terminating, phase};

pub(super) const TRACKING: &str = "batch.kubernetes.io/job-tracking";
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
pub(super) const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";

/// How a Job is to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) success: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl End {
    fn failed(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            success: false,
            reason,
            message: message.into(),
        }
    }

    fn complete(reason: &'static str, message: &str) -> Self {
        Self {
            success: true,
            reason,
            message: message.to_owned(),
        }
    }
}

/// What the failure policy makes of a failed pod.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Count,
    Ignore,
    FailIndex,
    FailJob(String),
}

/// The pods of a Job, sorted.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    pub(super) active: Vec<Arc<Pod>>,
    pub(super) terminating: usize,
    pub(super) ready: usize,
    /// Ended pods that still hold the tracking finalizer.
    pub(super) succeeded: Vec<Arc<Pod>>,
    pub(super) failed: Vec<Arc<Pod>>,
    /// Failed pods that the policy says not to count.
    pub(super) ignored: Vec<Arc<Pod>>,
    /// Every failed pod there still is, counted or not.
    all_failed: Vec<Arc<Pod>>,
    end: Option<End>,
    failed_by_policy: BTreeSet<i32>,
}

pub(super) fn spec(job: &Job) -> JobSpec {
    job.spec.clone().unwrap_or_default()
}

pub(super) fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

pub(super) fn index_of(pod: &Pod) -> Option<i32> {
    pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok()
}

fn failures_of(pod: &Pod) -> i32 {
    let annotations = pod.metadata.annotations.as_ref();
    annotations
        .and_then(|known| known.get(FAILURES)?.parse().ok())
        .unwrap_or(0)
}

pub(super) fn is_tracked(pod: &Pod) -> bool {
    pod.metadata
        .finalizers
        .iter()
        .flatten()
        .any(|finalizer| finalizer == TRACKING)
}

/// Whether only pods that have really ended may be replaced.
fn waits_for_the_end(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some()
}

pub(super) fn sort(job: &Job, pods: &[Arc<Pod>]) -> Sorted {
    let spec = spec(job);
    let deleting = job.metadata.deletion_timestamp.is_some();
    let mut sorted = Sorted::default();
    for pod in pods {
        if is_terminating(pod) && !is_finished(pod) {
            sorted.terminating += 1;
        }
        if phase(pod) == "Succeeded" {
            if is_tracked(pod) {
                sorted.succeeded.push(pod.clone());
            }
        } else if phase(pod) == "Failed"
            || is_terminating(pod) && (!waits_for_the_end(&spec) || deleting)
        {
            let verdict = verdict(&spec, pod);
            if let Verdict::FailJob(message) = &verdict
                && sorted.end.is_none()
            {
                sorted.end = Some(End::failed("PodFailurePolicy", message.clone()));
            }
            if verdict == Verdict::FailIndex {
                sorted.failed_by_policy.extend(index_of(pod));
            }
            if verdict != Verdict::Ignore {
                sorted.all_failed.push(pod.clone());
            }
            if is_tracked(pod) {
                let list = if verdict == Verdict::Ignore {
                    &mut sorted.ignored
                } else {
                    &mut sorted.failed
                };
                list.push(pod.clone());
            }
        } else if !is_terminating(pod) {
            sorted.ready += usize::from(crate::pods::is_ready(pod));
            sorted.active.push(pod.clone());
        }
    }
    sorted
}

fn verdict(spec: &JobSpec, pod: &Pod) -> Verdict {
    if phase(pod) != "Failed" {
        return Verdict::Count;
    }
    let rules = spec
        .pod_failure_policy
        .as_ref()
        .map(|policy| policy.rules.as_slice());
    let name = format!(
        "{}/{}",
        pod.metadata.namespace.as_deref().unwrap_or_default(),
        pod.metadata.name.as_deref().unwrap_or_default()
    );
    for (number, rule) in rules.unwrap_or_default().iter().enumerate() {
        let matched = if let Some(wanted) = &rule.on_exit_codes {
            let status = pod.status.as_ref();
            let containers = status.into_iter().flat_map(|status| {
                let init = status.init_container_statuses.iter().flatten();
                init.chain(status.container_statuses.iter().flatten())
            });
            containers
                .filter(|known| {
                    wanted
                        .container_name
                        .as_ref()
                        .is_none_or(|name| *name == known.name)
                })
                .filter_map(|known| {
                    Some((
                        known.name.clone(),
                        known.state.as_ref()?.terminated.as_ref()?.exit_code,
                    ))
                })
                .find(|(_, code)| {
                    *code != 0
                        && match wanted.operator.as_str() {
                            "In" => wanted.values.contains(code),
                            _ => !wanted.values.contains(code),
                        }
                })
                .map(|(container, code)| {
                    format!("Container {container} for pod {name} failed with exit code {code}")
                })
        } else {
            let conditions = rule.on_pod_conditions.as_deref().unwrap_or_default();
            conditions
                .iter()
                .find(|wanted| {
                    condition(pod, &wanted.type_)
                        .is_some_and(|known| Some(&known.status) == wanted.status.as_ref())
                })
                .map(|wanted| format!("Pod {name} has condition {}", wanted.type_))
        };
        if let Some(what) = matched {
            return match rule.action.as_str() {
                "Ignore" => Verdict::Ignore,
                "FailIndex" => Verdict::FailIndex,
                "FailJob" => {
                    Verdict::FailJob(format!("{what} matching FailJob rule at index {number}"))
                }
                _ => Verdict::Count,
            };
        }
    }
    Verdict::Count
}

/// Totals and decisions that follow from sorted pods.
#[derive(Debug)]
pub(super) struct Outlook {
    pub(super) succeeded: i32,
    pub(super) failed: i32,
    pub(super) completed_indexes: Indexes,
    pub(super) failed_indexes: Option<Indexes>,
    pub(super) end: Option<End>,
}

/// Looks at the whole Job; `succeeded` and `failed` count all ended pods.
pub(super) fn outlook(
    job: &Job,
    sorted: &Sorted,
    succeeded: i32,
    failed: i32,
    now: Timestamp,
) -> Outlook {
    let spec = spec(job);
    let status = job.status.clone().unwrap_or_default();
    let mut completed = indexes::parse(status.completed_indexes.as_deref());
    let mut failed_indexes = spec
        .backoff_limit_per_index
        .map(|_| indexes::parse(status.failed_indexes.as_deref()));
    let mut succeeded = succeeded;
    if is_indexed(&spec) {
        let limit = spec.completions.unwrap_or(0);
        completed.extend(
            sorted
                .succeeded
                .iter()
                .filter_map(|pod| index_of(pod))
                .filter(|i| *i < limit),
        );
        succeeded = i32::try_from(completed.len()).unwrap_or(i32::MAX);
    }
    if let (Some(failed), Some(limit)) = (&mut failed_indexes, spec.backoff_limit_per_index) {
        failed.extend(sorted.failed_by_policy.iter());
        let over = sorted
            .all_failed
            .iter()
            .filter(|pod| failures_of(pod) >= limit);
        failed.extend(over.filter_map(|pod| index_of(pod)));
        failed.retain(|index| !completed.contains(index));
    }
    let mut outlook = Outlook {
        succeeded,
        failed,
        completed_indexes: completed,
        failed_indexes,
        end: sorted.end.clone(),
    };
    outlook.end = outlook
        .end
        .take()
        .or_else(|| decide(job, &spec, sorted, &outlook, now));
    outlook
}

fn decide(
    job: &Job,
    spec: &JobSpec,
    sorted: &Sorted,
    outlook: &Outlook,
    now: Timestamp,
) -> Option<End> {
    let limit = match spec.backoff_limit_per_index {
        Some(_) => spec.backoff_limit.unwrap_or(i32::MAX),
        None => spec.backoff_limit.unwrap_or(6),
    };
    let restarts_in_place = spec
        .template
        .spec
        .as_ref()
        .and_then(|pod| pod.restart_policy.as_deref())
        == Some("OnFailure");
    let restarts: i32 = sorted.active.iter().map(|pod| restarts(pod)).sum();
    if outlook.failed > limit
        || restarts_in_place
            && (if limit == 0 {
                restarts > 0
            } else {
                restarts >= limit
            })
    {
        let text = "Job has reached the specified backoff limit";
        return Some(End::failed("BackoffLimitExceeded", text));
    }
    if deadline_left(job, now).is_some_and(|left| left <= 0) {
        let text = "Job was active longer than specified deadline";
        return Some(End::failed("DeadlineExceeded", text));
    }
    if let Some(rules) = spec
        .success_policy
        .as_ref()
        .map(|policy| policy.rules.as_slice())
    {
        for (number, rule) in rules.iter().enumerate() {
            let done = match rule.succeeded_indexes.as_deref() {
                Some(wanted) => {
                    let wanted = indexes::parse(Some(wanted));
                    let hits = wanted.intersection(&outlook.completed_indexes).count();
                    let needed = rule
                        .succeeded_count
                        .and_then(|count| usize::try_from(count).ok())
                        .unwrap_or(wanted.len());
                    hits >= needed
                }
                None => rule
                    .succeeded_count
                    .is_some_and(|count| outlook.succeeded >= count),
            };
            if done {
                let text = format!("Matched rules at index {number}");
                return Some(End::complete("SuccessPolicy", &text));
            }
        }
    }
    if let Some(failed) = &outlook.failed_indexes {
        let number = i32::try_from(failed.len()).unwrap_or(i32::MAX);
        if spec.max_failed_indexes.is_some_and(|most| number > most) {
            let text = "Job has exceeded the specified maximal number of failed indexes";
            return Some(End::failed("MaxFailedIndexesExceeded", text));
        }
        if number > 0 && number + outlook.succeeded >= spec.completions.unwrap_or(0) {
            return Some(End::failed("FailedIndexes", "Job has failed indexes"));
        }
    }
    let complete = match spec.completions {
        Some(wanted) => outlook.succeeded >= wanted,
        None => outlook.succeeded > 0 && sorted.active.is_empty(),
    };
    complete.then(|| {
        End::complete(
            "CompletionsReached",
            "Reached expected number of succeeded pods",
        )
    })
}

/// Seconds until the active deadline; `None` without one, or before the start.
pub(super) fn deadline_left(job: &Job, now: Timestamp) -> Option<i64> {
    let spec = job.spec.as_ref()?;
    if spec.suspend == Some(true) {
        return None;
    }
    let started = job.status.as_ref()?.start_time.as_ref()?.0.as_second();
    Some(started + spec.active_deadline_seconds? - now.as_second())
}

fn restarts(pod: &Pod) -> i32 {
    let status = pod.status.as_ref();
    status
        .into_iter()
        .flat_map(|status| {
            let init = status.init_container_statuses.iter().flatten();
            init.chain(status.container_statuses.iter().flatten())
        })
        .map(|container| container.restart_count)
        .sum()
}

/// How many pods should run now.
pub(super) fn wanted_active(job: &Job, outlook: &Outlook, active: usize) -> usize {
    let spec = spec(job);
    let parallelism = usize::try_from(spec.parallelism.unwrap_or(1)).unwrap_or(0);
    match spec.completions {
        None if outlook.succeeded > 0 => active.min(parallelism),
        None => parallelism,
        Some(completions) => {
            let failed = outlook.failed_indexes.as_ref().map_or(0, BTreeSet::len);
            let left = usize::try_from(completions - outlook.succeeded).unwrap_or(0);
            left.saturating_sub(failed).min(parallelism)
        }
    }
}

/// The indexes to start next, each with the number of times it has failed.
pub(super) fn next_indexes(
    job: &Job,
    sorted: &Sorted,
    outlook: &Outlook,
    count: usize,
) -> Vec<(i32, i32)> {
    let running: BTreeSet<i32> = sorted
        .active
        .iter()
        .filter_map(|pod| index_of(pod))
        .collect();
    let mut failures: BTreeMap<i32, i32> = BTreeMap::new();
    for pod in &sorted.all_failed {
        if let Some(index) = index_of(pod) {
            let known = failures.entry(index).or_default();
            *known = (*known).max(failures_of(pod) + 1);
        }
    }
    (0..spec(job).completions.unwrap_or(0))
        .filter(|index| {
            !running.contains(index)
                && !outlook.completed_indexes.contains(index)
                && !outlook
                    .failed_indexes
                    .as_ref()
                    .is_some_and(|failed| failed.contains(index))
        })
        .take(count)
        .map(|index| (index, failures.get(&index).copied().unwrap_or(0)))
        .collect()
}

/// When the last pod failed, for the back-off before the next one, and how
/// many have failed since the last success.
pub(super) fn last_failure(pods: &[Arc<Pod>]) -> Option<(Timestamp, u32)> {
    let ended = |pod: &Pod| {
        let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
        let times = statuses.iter().filter_map(|known| {
            known
                .state
                .as_ref()?
                .terminated
                .as_ref()?
                .finished_at
                .clone()
        });
        times.map(|time| time.0).max()
    };
    let when = |pod: &Pod| ended(pod).or_else(|| created(pod));
    let succeeded = pods
        .iter()
        .filter(|pod| phase(pod) == "Succeeded")
        .filter_map(|p| when(p))
        .max();
    let failed: Vec<Timestamp> = pods
        .iter()
        .filter(|pod| phase(pod) == "Failed")
        .filter_map(|pod| when(pod))
        .filter(|at| succeeded.is_none_or(|succeeded| *at > succeeded))
        .collect();
    let last = failed.iter().max()?;
    Some((*last, u32::try_from(failed.len()).unwrap_or(u32::MAX)))
}

//! Runs Jobs to completion.
//!
//! Every pod carries a finalizer until it has been counted: first its UID
//! goes into the status, then the finalizer goes, then it is added up. No
//! pod is counted twice and none is lost, whoever deletes it in between.

mod indexes;
mod plan;

use std::sync::Arc;
use std::time::Duration;

use client::api::{Patch, PatchParams, PostParams};
use client::{Action, Api, Client, EventType, Informer, NamespacedName, labels};
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::context::{Context, run};
use crate::count::{count, nonzero};
use crate::error::{During, Result, ignore_not_found, is_namespace_terminating, is_not_found};
use crate::expectations::Expectations;
use crate::owner::{claim, controller_key};
use crate::pods::{self, PodControl};
use plan::{End, FAILURES, INDEX, Outlook, Sorted, TRACKING};

const NAME: &str = "job-controller";
/// Pods one run creates or deletes at most.
const BURST: usize = 500;
const FIRST_BACKOFF: Duration = Duration::from_secs(10);
const LAST_BACKOFF: Duration = Duration::from_secs(600);

pub(crate) fn register(context: &Context) {
    let client = context.client(NAME);
    let state = Arc::new(Jobs {
        jobs: context.informers.of(),
        pods: context.informers.of(),
        control: PodControl {
            client: client.clone(),
            recorder: context.recorder(NAME),
        },
        client,
        expectations: Expectations::default(),
        written: Expectations::default(),
    });
    let controller = context.controller(NAME);
    controller.watch(&state.jobs, |job| vec![NamespacedName::of(job)]);
    controller.watch(&state.pods, |pod| {
        controller_key::<Job>(&pod.metadata).into_iter().collect()
    });
    run(controller, 5, move |key| {
        let state = state.clone();
        async move { state.reconcile(&key).await }
    });
}

struct Jobs {
    client: Client,
    jobs: Informer<Job>,
    pods: Informer<Pod>,
    control: PodControl,
    expectations: Expectations,
    written: Expectations,
}

fn condition(
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> JobCondition {
    JobCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

fn find<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == kind)
}

fn holds(status: &JobStatus, kind: &str) -> bool {
    find(status, kind).is_some_and(|condition| condition.status == "True")
}

impl Jobs {
    async fn reconcile(&self, key: &NamespacedName) -> Result<Action> {
        let Some(job) = self.jobs.get(key) else {
            self.expectations.forget(key);
            self.written.forget(key);
            return self.release_orphans(key, None).await;
        };
        let spec = plan::spec(&job);
        if spec
            .managed_by
            .as_deref()
            .is_some_and(|name| name != "kubernetes.io/job-controller")
        {
            return Ok(Action::Done);
        }
        if !self.written.satisfied(key, &self.jobs) || !self.expectations.satisfied(key, &self.pods)
        {
            return Ok(Action::Done);
        }
        let known = job.status.clone().unwrap_or_default();
        if holds(&known, "Complete") || holds(&known, "Failed") {
            return self.release_orphans(key, job.metadata.uid.as_deref()).await;
        }
        let Some(selector) = &spec.selector else {
            return Ok(Action::Done);
        };
        let candidates = self.pods.in_namespace(&key.namespace);
        let claimed = claim(&self.client, &*job, candidates, |pod: &Pod| {
            labels::selects(selector, pod.metadata.labels.as_ref())
        })
        .await?;
        self.work(key, &job, &claimed).await
    }

    async fn work(&self, key: &NamespacedName, job: &Job, pods: &[Arc<Pod>]) -> Result<Action> {
        let now = Timestamp::now();
        let spec = plan::spec(job);
        let suspended = spec.suspend == Some(true);
        let mut job = job.clone();
        let mut status = job.status.take().unwrap_or_default();
        if status.start_time.is_none() && !suspended {
            status.start_time = Some(Time(now));
        }
        job.status = Some(status.clone());
        let sorted = plan::sort(&job, pods);
        let left = count_ended(&mut status, &sorted, pods);
        let succeeded = status.succeeded.unwrap_or(0) + count(left.0);
        let failed = status.failed.unwrap_or(0) + count(left.1);
        let mut outlook = plan::outlook(&job, &sorted, succeeded, failed, now);
        if let Some(target) = find(&status, "FailureTarget").or(find(&status, "SuccessCriteriaMet"))
            && target.status == "True"
        {
            outlook.end = Some(recorded(target));
        }
        let mut active = sorted.active.len();
        let mut wait = None;
        let mut created = Ok(());
        if outlook.end.is_some() || suspended {
            // Nothing goes on: the rest ends.
            if job.metadata.deletion_timestamp.is_none() {
                self.delete(key, &job, &sorted.active).await?;
                active = 0;
            }
        } else if job.metadata.deletion_timestamp.is_none() {
            match self.scale(key, &job, pods, &sorted, &outlook, now).await {
                Ok((now_active, later)) => (active, wait) = (now_active, later),
                Err(error) => created = Err(error),
            }
        }
        self.note_suspension(&job, &mut status, suspended, now);
        if suspended && holds(&status, "Suspended") {
            status.start_time = None;
        }
        status.active = nonzero(count(active));
        status.ready = Some(count(sorted.ready));
        let going = if outlook.end.is_some() || suspended {
            sorted.active.len()
        } else {
            0
        };
        status.terminating = Some(count(sorted.terminating + going));
        if plan::is_indexed(&spec) {
            let text = indexes::format(&outlook.completed_indexes);
            status.completed_indexes = (!text.is_empty()).then_some(text);
            status.succeeded = nonzero(outlook.succeeded);
        }
        if let Some(failed) = &outlook.failed_indexes {
            status.failed_indexes = Some(indexes::format(failed));
        }
        let unsettled = left.0 + left.1 + sorted.ignored.len();
        if let Some(end) = &outlook.end {
            let settled = unsettled == 0 && sorted.active.is_empty() && sorted.terminating == 0;
            self.note_end(&job, &mut status, end, settled, now);
        }
        self.write_status(key, &job, status).await?;
        for pod in sorted
            .succeeded
            .iter()
            .chain(&sorted.failed)
            .chain(&sorted.ignored)
        {
            self.release(pod).await?;
        }
        created?;
        let deadline = plan::deadline_left(&job, now)
            .filter(|_| outlook.end.is_none())
            .map(|left| Duration::from_secs(u64::try_from(left).unwrap_or(0)));
        let next = [wait, deadline].into_iter().flatten().min();
        Ok(next.map_or(Action::Done, Action::After))
    }

    /// Creates or deletes pods so that the wanted number runs; gives the
    /// number that then runs, and how long to wait before creating more.
    async fn scale(
        &self,
        key: &NamespacedName,
        job: &Job,
        pods: &[Arc<Pod>],
        sorted: &Sorted,
        outlook: &Outlook,
        now: Timestamp,
    ) -> Result<(usize, Option<Duration>)> {
        let active = sorted.active.len();
        let wanted = plan::wanted_active(job, outlook, active);
        if active > wanted {
            let order = pods::removal_order(&sorted.active, &sorted.active, now);
            let surplus = &order[..(active - wanted).min(BURST)];
            self.delete(key, job, surplus).await?;
            return Ok((wanted, None));
        }
        let waits = plan::spec(job).pod_replacement_policy.as_deref() == Some("Failed");
        let held = if waits { sorted.terminating } else { 0 };
        let missing = wanted.saturating_sub(active + held).min(BURST);
        if missing == 0 {
            return Ok((active, None));
        }
        if let Some((last, failures)) = plan::last_failure(pods) {
            let doublings = failures.saturating_sub(1).min(6);
            let backoff = (FIRST_BACKOFF * (1 << doublings)).min(LAST_BACKOFF);
            let left = Duration::try_from((last + backoff).duration_since(now)).unwrap_or_default();
            if !left.is_zero() {
                return Ok((active, Some(left)));
            }
        }
        let fresh = self.templates(job, sorted, outlook, missing);
        let mut left = &fresh[..];
        let mut batch = 1;
        while !left.is_empty() {
            let (now, later) = left.split_at(batch.min(left.len()));
            for outcome in join_all(now.iter().map(|pod| self.control.create(job, pod))).await {
                match outcome {
                    Ok(created) => self.expectations.created(key, &created),
                    Err(error) if is_namespace_terminating(&error) => return Ok((active, None)),
                    Err(error) => return Err(error).during(|| format!("creating pods of {key}")),
                }
            }
            left = later;
            batch *= 2;
        }
        Ok((active + fresh.len(), None))
    }

    fn templates(&self, job: &Job, sorted: &Sorted, outlook: &Outlook, missing: usize) -> Vec<Pod> {
        let spec = plan::spec(job);
        let mut pod = pods::from_template(job, &spec.template);
        pod.metadata
            .finalizers
            .get_or_insert_default()
            .push(TRACKING.to_owned());
        if !plan::is_indexed(&spec) {
            return vec![pod; missing];
        }
        let name = job.metadata.name.as_deref().unwrap_or_default();
        plan::next_indexes(job, sorted, outlook, missing)
            .into_iter()
            .map(|(index, failures)| {
                let mut pod = pod.clone();
                stamp_index(&mut pod, name, index);
                if spec.backoff_limit_per_index.is_some() {
                    let annotations = pod.metadata.annotations.get_or_insert_default();
                    annotations.insert(FAILURES.to_owned(), failures.to_string());
                }
                pod
            })
            .collect()
    }

    async fn delete(&self, key: &NamespacedName, job: &Job, pods: &[Arc<Pod>]) -> Result<()> {
        for (pod, outcome) in pods
            .iter()
            .zip(join_all(pods.iter().map(|pod| self.control.delete(job, pod))).await)
        {
            outcome.during(|| format!("deleting pods of {key}"))?;
            self.expectations.deleted(key, &**pod);
        }
        Ok(())
    }

    fn note_suspension(&self, job: &Job, status: &mut JobStatus, suspended: bool, now: Timestamp) {
        let noted = holds(status, "Suspended");
        let recorder = &self.control.recorder;
        let fresh = match (suspended, noted) {
            (true, false) => {
                recorder.event(job, EventType::Normal, "Suspended", "Job suspended");
                condition("Suspended", "True", "JobSuspended", "Job suspended", now)
            }
            (false, true) => {
                recorder.event(job, EventType::Normal, "Resumed", "Job resumed");
                status.start_time = Some(Time(now));
                condition("Suspended", "False", "JobResumed", "Job resumed", now)
            }
            _ => return,
        };
        let conditions = status.conditions.get_or_insert_default();
        conditions.retain(|known| known.type_ != "Suspended");
        conditions.push(fresh);
    }

    /// Says that the Job is about to end, and once nothing is left that it has.
    fn note_end(
        &self,
        job: &Job,
        status: &mut JobStatus,
        end: &End,
        settled: bool,
        now: Timestamp,
    ) {
        let (target, terminal) = if end.success {
            ("SuccessCriteriaMet", "Complete")
        } else {
            ("FailureTarget", "Failed")
        };
        if !holds(status, target) {
            let fresh = condition(target, "True", end.reason, &end.message, now);
            status.conditions.get_or_insert_default().push(fresh);
        }
        if !settled {
            return;
        }
        let fresh = condition(terminal, "True", end.reason, &end.message, now);
        status.conditions.get_or_insert_default().push(fresh);
        status.uncounted_terminated_pods = None;
        let recorder = &self.control.recorder;
        if end.success {
            status.completion_time = Some(Time(now));
            recorder.event(job, EventType::Normal, "Completed", "Job completed");
        } else {
            recorder.event(job, EventType::Warning, end.reason, end.message.clone());
        }
    }

    async fn write_status(&self, key: &NamespacedName, job: &Job, status: JobStatus) -> Result<()> {
        let informed = self
            .jobs
            .get(key)
            .and_then(|job| job.status.clone())
            .unwrap_or_default();
        if informed == status {
            return Ok(());
        }
        let fresh = Job {
            status: Some(status),
            ..job.clone()
        };
        let api = Api::<Job>::namespaced(self.client.clone(), &key.namespace);
        match api
            .replace_status(&key.name, &PostParams::default(), &fresh)
            .await
        {
            Ok(written) => {
                self.written.created(key, &written);
                Ok(())
            }
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(error).during(|| format!("updating the status of job {key}")),
        }
    }

    /// Lets a counted pod go.
    async fn release(&self, pod: &Pod) -> Result<()> {
        if !plan::is_tracked(pod) {
            return Ok(());
        }
        let key = NamespacedName::of(pod);
        let kept: Vec<&String> = pod
            .metadata
            .finalizers
            .iter()
            .flatten()
            .filter(|finalizer| *finalizer != TRACKING)
            .collect();
        let patch: Value = json!({"metadata": {
            "uid": pod.metadata.uid,
            "resourceVersion": pod.metadata.resource_version,
            "finalizers": kept,
        }});
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        let outcome = api
            .patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))
            .await;
        ignore_not_found(outcome).during(|| format!("releasing pod {key}"))
    }

    /// Lets pods go whose Job is gone or has ended.
    async fn release_orphans(&self, key: &NamespacedName, uid: Option<&str>) -> Result<Action> {
        for pod in self.pods.in_namespace(&key.namespace) {
            let owner = crate::owner::controller_of(&pod.metadata);
            let ours = controller_key::<Job>(&pod.metadata).as_ref() == Some(key)
                && owner.is_some_and(|owner| uid.is_none_or(|uid| uid == owner.uid));
            if ours {
                self.release(&pod).await?;
            }
        }
        Ok(Action::Done)
    }
}

/// Moves ended pods through the status: those that have lost their finalizer
/// are added up, those that have not are listed. Gives how many are listed.
fn count_ended(status: &mut JobStatus, sorted: &Sorted, pods: &[Arc<Pod>]) -> (usize, usize) {
    let tracked = |uid: &String| {
        pods.iter()
            .any(|pod| pod.metadata.uid.as_ref() == Some(uid) && plan::is_tracked(pod))
    };
    let listed = status.uncounted_terminated_pods.take().unwrap_or_default();
    let settle = |listed: Option<Vec<String>>, ended: &[Arc<Pod>]| {
        let (mut left, counted): (Vec<String>, Vec<String>) = listed
            .unwrap_or_default()
            .into_iter()
            .partition(|uid| tracked(uid));
        for uid in ended.iter().filter_map(|pod| pod.metadata.uid.clone()) {
            if !left.contains(&uid) {
                left.push(uid);
            }
        }
        (left, count(counted.len()))
    };
    let (succeeded, more_succeeded) = settle(listed.succeeded, &sorted.succeeded);
    let (failed, more_failed) = settle(listed.failed, &sorted.failed);
    status.succeeded = nonzero(status.succeeded.unwrap_or(0) + more_succeeded);
    status.failed = nonzero(status.failed.unwrap_or(0) + more_failed);
    let left = (succeeded.len(), failed.len());
    let list = |uids: Vec<String>| (!uids.is_empty()).then_some(uids);
    status.uncounted_terminated_pods = Some(UncountedTerminatedPods {
        succeeded: list(succeeded),
        failed: list(failed),
    });
    left
}

/// The end a condition announced earlier.
fn recorded(target: &JobCondition) -> End {
    let reason = match target.reason.as_deref() {
        Some("PodFailurePolicy") => "PodFailurePolicy",
        Some("DeadlineExceeded") => "DeadlineExceeded",
        Some("MaxFailedIndexesExceeded") => "MaxFailedIndexesExceeded",
        Some("FailedIndexes") => "FailedIndexes",
        Some("SuccessPolicy") => "SuccessPolicy",
        Some("CompletionsReached") => "CompletionsReached",
        _ => "BackoffLimitExceeded",
    };
    End {
        success: target.type_ == "SuccessCriteriaMet",
        reason,
        message: target.message.clone().unwrap_or_default(),
    }
}

/// Tells a pod its completion index: by label, annotation, name and variable.
fn stamp_index(pod: &mut Pod, job: &str, index: i32) {
    let text = index.to_string();
    let meta = &mut pod.metadata;
    meta.generate_name = Some(format!("{job}-{index}-"));
    meta.labels
        .get_or_insert_default()
        .insert(INDEX.to_owned(), text.clone());
    meta.annotations
        .get_or_insert_default()
        .insert(INDEX.to_owned(), text);
    let Some(spec) = &mut pod.spec else {
        return;
    };
    spec.hostname = Some(format!("{job}-{index}"));
    let variable: k8s_openapi::api::core::v1::EnvVar = serde_json::from_value(json!({
        "name": "JOB_COMPLETION_INDEX",
        "valueFrom": {"fieldRef": {
            "apiVersion": "v1",
            "fieldPath": format!("metadata.labels['{INDEX}']"),
        }},
    }))
    .expect("the variable is well formed");
    for container in spec
        .init_containers
        .iter_mut()
        .flatten()
        .chain(&mut spec.containers)
    {
        let variables = container.env.get_or_insert_default();
        if !variables.iter().any(|known| known.name == variable.name) {
            variables.push(variable.clone());
        }
    }
}

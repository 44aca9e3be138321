//! Starts Jobs on a schedule.

mod schedule;

use std::sync::Arc;
use std::time::Duration;

use client::api::{DeleteParams, PostParams};
use client::{Action, Api, Client, EventRecorder, EventType, Informer, NamespacedName, reference};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::context::{Context, run};
use crate::error::{
    During, Result, ignore_not_found, is_already_exists, is_namespace_terminating, is_not_found,
    message,
};
use crate::expectations::Expectations;
use crate::owner::{controller_key, controller_ref, is_controlled_by};
use schedule::Schedule;

const NAME: &str = "cronjob-controller";
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// From this many missed times on a warning is due: the clock may be wrong.
const MANY_MISSED: usize = 100;

pub(crate) fn register(context: &Context) {
    let state = Arc::new(CronJobs {
        client: context.client(NAME),
        crons: context.informers.of(),
        jobs: context.informers.of(),
        recorder: context.recorder(NAME),
        created: Expectations::default(),
        written: Expectations::default(),
    });
    let controller = context.controller(NAME);
    controller.watch(&state.crons, |cron| vec![NamespacedName::of(cron)]);
    controller.watch(&state.jobs, |job| {
        controller_key::<CronJob>(&job.metadata)
            .into_iter()
            .collect()
    });
    run(controller, 2, move |key| {
        let state = state.clone();
        async move { state.reconcile(&key).await }
    });
}

struct CronJobs {
    client: Client,
    crons: Informer<CronJob>,
    jobs: Informer<Job>,
    recorder: EventRecorder,
    created: Expectations,
    written: Expectations,
}

/// How a Job ended: `Complete` or `Failed`.
fn ended(job: &Job) -> Option<&str> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|condition| {
            matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True"
        })
        .map(|condition| condition.type_.as_str())
}

impl CronJobs {
    async fn reconcile(&self, key: &NamespacedName) -> Result<Action> {
        let Some(cron) = self.crons.get(key) else {
            self.created.forget(key);
            self.written.forget(key);
            return Ok(Action::Done);
        };
        if !self.written.satisfied(key, &self.crons) || !self.created.satisfied(key, &self.jobs) {
            return Ok(Action::Done);
        }
        let spec = cron.spec.clone();
        let mut jobs = self.jobs.in_namespace(&key.namespace);
        jobs.retain(|job| is_controlled_by(&job.metadata, &cron.metadata));
        let mut status = cron.status.clone().unwrap_or_default();
        self.settle(&cron, &jobs, &mut status);
        let next = self
            .start_due(key, &cron, &spec, &jobs, &mut status)
            .await?;
        self.write_status(key, &cron, status).await?;
        self.trim(&cron, &spec, &jobs).await?;
        Ok(next)
    }

    /// Takes ended and vanished Jobs off the list of active ones.
    fn settle(&self, cron: &CronJob, jobs: &[Arc<Job>], status: &mut CronJobStatus) {
        let active = status.active.get_or_insert_default();
        for job in jobs {
            let name = job.metadata.name.as_deref().unwrap_or_default();
            let place = active
                .iter()
                .position(|known| known.uid == job.metadata.uid);
            match (ended(job), place) {
                (Some(how), Some(place)) => {
                    active.remove(place);
                    let text = format!("Saw completed job: {name}, condition: {how}");
                    self.recorder
                        .event(cron, EventType::Normal, "SawCompletedJob", text);
                    let at = job
                        .status
                        .as_ref()
                        .and_then(|status| status.completion_time.clone());
                    if how == "Complete" && at > status.last_successful_time {
                        status.last_successful_time = at;
                    }
                }
                (None, None) if job.metadata.deletion_timestamp.is_none() => {
                    active.push(reference(&**job));
                }
                _ => {}
            }
        }
        active.retain(|known| {
            let there = jobs.iter().any(|job| job.metadata.uid == known.uid);
            if !there {
                let name = known.name.as_deref().unwrap_or_default();
                let text = format!("Active job went missing: {name}");
                self.recorder
                    .event(cron, EventType::Normal, "MissingJob", text);
            }
            there
        });
    }

    async fn start_due(
        &self,
        key: &NamespacedName,
        cron: &CronJob,
        spec: &CronJobSpec,
        jobs: &[Arc<Job>],
        status: &mut CronJobStatus,
    ) -> Result<Action> {
        if cron.metadata.deletion_timestamp.is_some() || spec.suspend == Some(true) {
            return Ok(Action::Done);
        }
        let warn = |reason: &str, text: String| {
            self.recorder.event(cron, EventType::Warning, reason, text);
        };
        let schedule = match Schedule::parse(&spec.schedule) {
            Ok(schedule) => schedule,
            Err(error) => {
                let text = format!("unparseable schedule: {:?} : {error}", spec.schedule);
                warn("UnparseableSchedule", text);
                return Ok(Action::Done);
            }
        };
        let zone = match spec.time_zone.as_deref() {
            None => TimeZone::UTC,
            Some(name) => match TimeZone::get(name) {
                Ok(zone) => zone,
                Err(error) => {
                    let text = format!("invalid timeZone: {name:?}: {error}");
                    warn("UnknownTimeZone", text);
                    return Ok(Action::Done);
                }
            },
        };
        let now = Timestamp::now();
        let wait = |schedule: &Schedule| {
            let next = schedule.next(now, &zone)?;
            Duration::try_from(next.duration_since(now)).ok()
        };
        let next = wait(&schedule).map_or(Action::Done, Action::After);
        let deadline = spec
            .starting_deadline_seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map(Duration::from_secs);
        let created = cron.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let mut earliest = status
            .last_schedule_time
            .as_ref()
            .map(|time| time.0)
            .or(created)
            .unwrap_or(now);
        if let Some(deadline) = deadline {
            earliest = earliest.max(now - deadline);
        }
        let Some((due, missed)) = last_due(&schedule, &zone, earliest, now) else {
            return Ok(next);
        };
        if missed > MANY_MISSED {
            warn(
                "TooManyMissedTimes",
                "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew"
                    .to_owned(),
            );
        }
        let policy = spec.concurrency_policy.as_deref().unwrap_or("Allow");
        let active = status.active.get_or_insert_default();
        if policy == "Forbid" && !active.is_empty() {
            let text = "Not starting job because prior execution is running and concurrency policy is Forbid";
            self.recorder
                .event(cron, EventType::Normal, "JobAlreadyActive", text);
            return Ok(next);
        }
        if policy == "Replace" {
            for job in jobs
                .iter()
                .filter(|job| active.iter().any(|known| known.uid == job.metadata.uid))
            {
                self.delete(cron, job).await?;
            }
            active.clear();
        }
        let job = make(cron, spec, due);
        let name = job.metadata.name.clone().unwrap_or_default();
        let api = Api::<Job>::namespaced(self.client.clone(), &key.namespace);
        match api.create(&PostParams::default(), &job).await {
            Ok(job) => {
                self.created.created(key, &job);
                active.push(reference(&job));
                let text = format!("Created job {name}");
                self.recorder
                    .event(cron, EventType::Normal, "SuccessfulCreate", text);
            }
            Err(error) if is_already_exists(&error) => {}
            Err(error) if is_namespace_terminating(&error) => return Ok(Action::Done),
            Err(error) => {
                warn(
                    "FailedCreate",
                    format!("Error creating job: {}", message(&error)),
                );
                return Err(error).during(|| format!("creating job {name}"));
            }
        }
        status.last_schedule_time = Some(Time(due));
        Ok(next)
    }

    async fn delete(&self, cron: &CronJob, job: &Job) -> Result<()> {
        let key = NamespacedName::of(job);
        let api = Api::<Job>::namespaced(self.client.clone(), &key.namespace);
        ignore_not_found(api.delete(&key.name, &DeleteParams::background()).await)
            .during(|| format!("deleting job {key}"))?;
        let text = format!("Deleted job {}", key.name);
        self.recorder
            .event(cron, EventType::Normal, "SuccessfulDelete", text);
        Ok(())
    }

    /// Deletes the oldest ended Jobs beyond the history limits.
    async fn trim(&self, cron: &CronJob, spec: &CronJobSpec, jobs: &[Arc<Job>]) -> Result<()> {
        let limits = [
            ("Complete", spec.successful_jobs_history_limit.unwrap_or(3)),
            ("Failed", spec.failed_jobs_history_limit.unwrap_or(1)),
        ];
        for (how, limit) in limits {
            let mut ended: Vec<&Arc<Job>> = jobs
                .iter()
                .filter(|job| ended(job) == Some(how) && job.metadata.deletion_timestamp.is_none())
                .collect();
            ended.sort_by_key(|job| {
                job.status
                    .as_ref()
                    .and_then(|status| status.start_time.clone())
            });
            let surplus = ended
                .len()
                .saturating_sub(usize::try_from(limit).unwrap_or(0));
            for job in &ended[..surplus] {
                self.delete(cron, job).await?;
            }
        }
        Ok(())
    }

    async fn write_status(
        &self,
        key: &NamespacedName,
        cron: &CronJob,
        mut status: CronJobStatus,
    ) -> Result<()> {
        let mut known = cron.status.clone().unwrap_or_default();
        for status in [&mut status, &mut known] {
            status.active = status.active.take().filter(|active| !active.is_empty());
        }
        // What an active Job is now is not what matters, but which ones are.
        let uids = |status: &CronJobStatus| -> Vec<Option<String>> {
            status
                .active
                .iter()
                .flatten()
                .map(|known| known.uid.clone())
                .collect()
        };
        if uids(&known) == uids(&status)
            && known.last_schedule_time == status.last_schedule_time
            && known.last_successful_time == status.last_successful_time
        {
            return Ok(());
        }
        let fresh = CronJob {
            status: Some(status),
            ..cron.clone()
        };
        let api = Api::<CronJob>::namespaced(self.client.clone(), &key.namespace);
        match api
            .replace_status(&key.name, &PostParams::default(), &fresh)
            .await
        {
            Ok(written) => {
                self.written.created(key, &written);
                Ok(())
            }
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(error).during(|| format!("updating the status of cron job {key}")),
        }
    }
}

/// The last time in `(earliest, now]`, and how many there were, up to one more
/// than matters.
fn last_due(
    schedule: &Schedule,
    zone: &TimeZone,
    earliest: Timestamp,
    now: Timestamp,
) -> Option<(Timestamp, usize)> {
    let mut due = None;
    let mut at = earliest;
    let mut missed = 0;
    while let Some(next) = schedule.next(at, zone).filter(|next| *next <= now) {
        missed += 1;
        due = Some(next);
        at = next;
        if missed > MANY_MISSED {
            // Far behind: the last hours, then days, tell where the end is.
            let day = Duration::from_secs(24 * 3600);
            at = at.max(now - day);
            if missed > 20 * MANY_MISSED {
                break;
            }
        }
    }
    Some((due?, missed))
}

fn make(cron: &CronJob, spec: &CronJobSpec, due: Timestamp) -> Job {
    let template = spec.job_template.metadata.clone().unwrap_or_default();
    let mut annotations = template.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED.to_owned(), base::time::rfc3339(due));
    let name = cron.metadata.name.as_deref().unwrap_or_default();
    Job {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{}", due.as_second() / 60)),
            namespace: cron.metadata.namespace.clone(),
            labels: template.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_ref(cron)]),
            ..ObjectMeta::default()
        },
        spec: spec.job_template.spec.clone(),
        status: None,
    }
}

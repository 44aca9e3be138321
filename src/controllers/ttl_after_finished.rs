//! Deletes ended Jobs once their `ttlSecondsAfterFinished` is over.

use std::sync::Arc;
use std::time::Duration;

use client::api::{DeleteParams, Preconditions};
use client::{Action, Api, NamespacedName};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;

use crate::context::{Context, run};
use crate::error::{During, ignore_not_found};

const NAME: &str = "ttl-after-finished-controller";

pub(crate) fn register(context: &Context) {
    let jobs = context.informers.of::<Job>();
    let client = context.client(NAME);
    let controller = context.controller(NAME);
    controller.watch(&jobs, |job| vec![NamespacedName::of(job)]);
    let state = Arc::new((client, jobs));
    run(controller, 2, move |key| {
        let state = state.clone();
        async move {
            let (client, jobs) = &*state;
            let now = Timestamp::now();
            if jobs.get(&key).and_then(|job| left(&job, now)).is_none() {
                return Ok(Action::Done);
            }
            // The copy may be old; the TTL may have been raised since.
            let api = Api::<Job>::namespaced(client.clone(), &key.namespace);
            let live = api
                .get_opt(&key.name)
                .await
                .during(|| format!("reading job {key}"))?;
            let Some((job, left)) = live.and_then(|job| left(&job, now).map(|left| (job, left)))
            else {
                return Ok(Action::Done);
            };
            if !left.is_zero() {
                return Ok(Action::After(left));
            }
            let parameters = DeleteParams::foreground().preconditions(Preconditions {
                uid: job.metadata.uid,
                resource_version: None,
            });
            ignore_not_found(api.delete(&key.name, &parameters).await)
                .during(|| format!("deleting ended job {key}"))?;
            Ok(Action::Done)
        }
    });
}

/// How long an ended job has left; `None` if it stays.
fn left(job: &Job, now: Timestamp) -> Option<Duration> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let ended = conditions.iter().find(|condition| {
        matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True"
    })?;
    let since = ended.last_transition_time.as_ref()?.0;
    let due = since + Duration::from_secs(u64::from(ttl.unsigned_abs()));
    Some(Duration::try_from(due.duration_since(now)).unwrap_or_default())
}

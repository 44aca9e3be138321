//! Jobs: group `batch`.

use serde_json::{Value, json};

use super::value::{blank, default, each, int, object, text, within};
use super::{Column, Context, Kind, Plan, columns, pod_defaults, table, validate};
use crate::{FieldError, meta};

pub(super) fn of(kind: &str) -> Option<&'static dyn Kind> {
    Some(match kind {
        "Job" => &Job,
        "CronJob" => &CronJob,
        _ => return None,
    })
}

/// Defaults that a cron job's template gets as well as a job.
fn job_spec(spec: &mut Value) {
    pod_defaults::template(object(spec, "template"));
    within(spec, "podFailurePolicy", |policy| {
        each(policy, "rules", |rule| {
            each(rule, "onPodConditions", |pattern| {
                default(pattern, "status", "True")
            });
        });
    });
}

struct Job;

const LEGACY_UID: &str = "controller-uid";
const UID: &str = "batch.kubernetes.io/controller-uid";
const LEGACY_NAME: &str = "job-name";
const NAME: &str = "batch.kubernetes.io/job-name";

/// `generateSelector`: the job's pods carry its uid.
fn generate_selector(job: &mut Value) {
    if job["spec"]["manualSelector"] == true {
        return;
    }
    let uid = text(&job["metadata"], "uid").to_owned();
    let name = text(&job["metadata"], "name").to_owned();
    let spec = object(job, "spec");
    let labels = object(object(object(spec, "template"), "metadata"), "labels");
    for (key, value) in [
        (LEGACY_UID, &uid),
        (UID, &uid),
        (LEGACY_NAME, &name),
        (NAME, &name),
    ] {
        default(labels, key, value.clone());
    }
    let selector = object(object(spec, "selector"), "matchLabels");
    default(selector, UID, uid);
}

impl Kind for Job {
    fn plan(&self) -> Plan {
        Plan::SPEC
    }

    fn default(&self, job: &mut Value) {
        let spec = object(job, "spec");
        job_spec(spec);
        if spec["completions"].is_null() && spec["parallelism"].is_null() {
            spec["completions"] = 1.into();
        }
        default(spec, "parallelism", 1);
        let limit = if spec["backoffLimitPerIndex"].is_null() {
            6
        } else {
            i32::MAX
        };
        default(spec, "backoffLimit", limit);
        super::value::default_absent(spec, "completionMode", "NonIndexed");
        default(spec, "suspend", false);
        let replacement = if spec["podFailurePolicy"].is_null() {
            "TerminatingOrFailed"
        } else {
            "Failed"
        };
        super::value::default_absent(spec, "podReplacementPolicy", replacement);
        default(spec, "manualSelector", false);
        let labels = pod_defaults::template_labels(spec);
        if let Some(labels) = labels
            && blank(&job["metadata"]["labels"])
        {
            meta::metadata_mut(job).insert("labels".into(), labels);
        }
        object(job, "status");
    }

    fn prepare_create(&self, job: &mut Value, _: &Context<'_>) {
        generate_selector(job);
        self.plan().create(job);
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::batch::job(object)
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> Vec<FieldError> {
        match context.subresource {
            "" => validate::batch::job_update(new, old),
            _ => Vec::new(),
        }
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![(
            "status.successful",
            int(&object["status"], "succeeded").to_string(),
        )]
    }

    fn unknown_field(&self, field: &str) -> String {
        format!("field label {field:?} not supported for Job")
    }

    fn columns(&self) -> &'static [Column] {
        columns::JOB
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let succeeded = int(status, "succeeded");
        let completions = match (spec["completions"].as_i64(), spec["parallelism"].as_i64()) {
            (Some(wanted), _) => format!("{succeeded}/{wanted}"),
            (None, Some(parallelism)) if parallelism > 1 => {
                format!("{succeeded}/1 of {parallelism}")
            }
            _ => format!("{succeeded}/1"),
        };
        let has = |kind: &str| {
            super::value::list(status, "conditions")
                .iter()
                .any(|condition| condition["type"] == kind && condition["status"] == "True")
        };
        let state = if has("Complete") {
            "Complete"
        } else if has("Failed") {
            "Failed"
        } else if !object["metadata"]["deletionTimestamp"].is_null() {
            "Terminating"
        } else if has("Suspended") {
            "Suspended"
        } else if has("FailureTarget") {
            "FailureTarget"
        } else if has("SuccessCriteriaMet") {
            "SuccessCriteriaMet"
        } else {
            "Running"
        };
        let duration = match (
            table::seconds(&status["startTime"]),
            table::seconds(&status["completionTime"]),
        ) {
            (None, _) => String::new(),
            (Some(start), None) => table::duration(now - start),
            (Some(start), Some(end)) => table::duration(end - start),
        };
        let (names, images) = table::containers(&spec["template"]["spec"]);
        vec![
            table::name(object),
            state.into(),
            completions.into(),
            duration.into(),
            table::age(object, now),
            names.into(),
            images.into(),
            table::selector(&spec["selector"]).into(),
        ]
    }
}

struct CronJob;

impl Kind for CronJob {
    fn plan(&self) -> Plan {
        Plan::SPEC
    }

    fn default(&self, job: &mut Value) {
        let spec = object(job, "spec");
        default(spec, "concurrencyPolicy", "Allow");
        default(spec, "suspend", false);
        default(spec, "successfulJobsHistoryLimit", 3);
        default(spec, "failedJobsHistoryLimit", 1);
        let template = object(spec, "jobTemplate");
        object(template, "metadata");
        job_spec(object(template, "spec"));
        object(job, "status");
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::batch::cron_job(object)
    }

    fn columns(&self) -> &'static [Column] {
        columns::CRONJOB
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let last = match table::seconds(&status["lastScheduleTime"]) {
            Some(at) => table::duration(now - at),
            None => "<none>".to_owned(),
        };
        let zone = table::or(spec, "timeZone", "<none>");
        let suspend = if spec["suspend"] == true {
            "True"
        } else {
            "False"
        };
        let template = &spec["jobTemplate"]["spec"];
        let (names, images) = table::containers(&template["template"]["spec"]);
        vec![
            table::name(object),
            spec["schedule"].clone(),
            zone.into(),
            suspend.into(),
            json!(super::value::list(status, "active").len()),
            last.into(),
            table::age(object, now),
            names.into(),
            images.into(),
            table::selector(&template["selector"]).into(),
        ]
    }
}

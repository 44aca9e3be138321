//! Jobs and cron jobs.

use serde_json::Value;

use super::{common, pod};
use crate::kinds::value::{blank, int, remove, text};
use crate::{FieldError, LabelSelector, Path, names};

type Errors = Vec<FieldError>;

const INDEXED_PARALLELISM_MAX: i64 = 100_000;

/// `validateJobSpec`: what jobs and templates of jobs share.
fn spec(spec: &Value, path: &Path) -> Errors {
    let mut errors = Vec::new();
    for name in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        errors.extend(common::nonnegative(spec, name, path));
    }
    let (completions, per_index, failed) = (
        spec["completions"].as_i64(),
        spec["backoffLimitPerIndex"].as_i64(),
        spec["maxFailedIndexes"].as_i64(),
    );
    if failed.is_some() && per_index.is_none() {
        errors.push(FieldError::required(
            &path.child("backoffLimitPerIndex"),
            "when maxFailedIndexes is specified",
        ));
    }
    if let Some(manager) = spec["managedBy"].as_str() {
        let at = path.child("managedBy");
        errors.extend(super::domain_prefixed_path(manager, &at));
        if manager.len() > 63 {
            errors.push(FieldError::too_long(&at, 63));
        }
    }
    let indexed = spec["completionMode"] == "Indexed";
    if let Some(mode) = spec["completionMode"].as_str()
        && !matches!(mode, "Indexed" | "NonIndexed")
    {
        errors.push(FieldError::not_supported(
            &path.child("completionMode"),
            mode,
            &["NonIndexed", "Indexed"],
        ));
    }
    if indexed {
        if completions.is_none() {
            errors.push(FieldError::required(
                &path.child("completions"),
                "when completion mode is Indexed",
            ));
        }
        let parallelism = int(spec, "parallelism");
        if parallelism > INDEXED_PARALLELISM_MAX {
            errors.push(FieldError::invalid(
                &path.child("parallelism"),
                parallelism,
                "must be less than or equal to 100000 when completion mode is Indexed",
            ));
        }
        if let (Some(completions), Some(failed)) = (completions, failed)
            && failed > completions
        {
            errors.push(FieldError::invalid(
                &path.child("maxFailedIndexes"),
                failed,
                "must be less than or equal to completions",
            ));
        }
    } else {
        for (name, value) in [
            ("backoffLimitPerIndex", per_index),
            ("maxFailedIndexes", failed),
        ] {
            if let Some(value) = value {
                errors.push(FieldError::invalid(
                    &path.child(name),
                    value,
                    "requires indexed completion mode",
                ));
            }
        }
    }
    super::batch_policy::failure(spec, path, &mut errors);
    if spec["successPolicy"].is_object() {
        let at = path.child("successPolicy");
        if indexed {
            super::batch_policy::success(spec, &at, &mut errors);
        } else {
            errors.push(FieldError::invalid(
                &at,
                spec["successPolicy"].clone(),
                "requires indexed completion mode",
            ));
        }
    }
    if let Some(policy) = spec["podReplacementPolicy"].as_str() {
        let at = path.child("podReplacementPolicy");
        if spec["podFailurePolicy"].is_object() {
            if policy != "Failed" {
                errors.push(FieldError::not_supported(&at, policy, &["Failed"]));
            }
        } else if !matches!(policy, "Failed" | "TerminatingOrFailed") {
            errors.push(FieldError::not_supported(
                &at,
                policy,
                &["Failed", "TerminatingOrFailed"],
            ));
        }
    }
    let at = path.child("template");
    errors.extend(pod::template(&spec["template"], &at));
    let at = at.child("spec").child("restartPolicy");
    match text(&spec["template"]["spec"], "restartPolicy") {
        "Always" | "" => errors.push(FieldError::required(
            &at,
            "valid values: \"OnFailure\", \"Never\"",
        )),
        "Never" => {}
        "OnFailure" => {
            if spec["podFailurePolicy"].is_object() {
                errors.push(FieldError::invalid(
                    &at,
                    "OnFailure",
                    "only \"Never\" is supported when podFailurePolicy is specified",
                ));
            }
        }
        other => errors.push(FieldError::not_supported(
            &at,
            other,
            &["OnFailure", "Never"],
        )),
    }
    errors
}

/// `ValidateJobSpec`.
fn job_spec(job: &Value) -> Errors {
    let path = Path::new("spec");
    let spec_value = &job["spec"];
    let mut errors = spec(spec_value, &path);
    let selector = &spec_value["selector"];
    if selector.is_null() {
        errors.push(FieldError::required(&path.child("selector"), ""));
    } else {
        errors.extend(common::label_selector(selector, &path.child("selector")));
    }
    let template = &spec_value["template"];
    if let Ok(compiled) = LabelSelector::from_object(selector)
        && !compiled.matches(&template["metadata"]["labels"])
    {
        errors.push(FieldError::invalid(
            &path.child("template").child("metadata").child("labels"),
            template["metadata"]["labels"].clone(),
            "`selector` does not match template `labels`",
        ));
    }
    errors
}

/// Labels that the server gives the pods of a job.
fn generated(job: &Value, prefixed: bool) -> Errors {
    let spec = &job["spec"];
    if spec["manualSelector"] == true || spec["selector"].is_null() {
        return Vec::new();
    }
    let mut errors = Vec::new();
    let (uid, name) = (
        text(&job["metadata"], "uid"),
        text(&job["metadata"], "name"),
    );
    let labels = &spec["template"]["metadata"]["labels"];
    let at = Path::new("spec")
        .child("template")
        .child("metadata")
        .child("labels");
    for (key, wanted) in [
        ("controller-uid", uid),
        ("job-name", name),
        ("batch.kubernetes.io/controller-uid", uid),
        ("batch.kubernetes.io/job-name", name),
    ] {
        if !prefixed && key.starts_with("batch.") {
            continue;
        }
        match labels[key].as_str() {
            None => errors.push(FieldError::required(
                &at.key(key),
                format!("must be '{wanted}'"),
            )),
            Some(value) if value != wanted => errors.push(FieldError::invalid(
                &at.key(key),
                labels.clone(),
                format!("must be '{wanted}'"),
            )),
            Some(_) => {}
        }
    }
    let expected = |key: &str| match key {
        "batch.kubernetes.io/controller-uid" | "batch.kubernetes.io/job-name" if !prefixed => None,
        "controller-uid" | "batch.kubernetes.io/controller-uid" => Some(uid),
        "job-name" | "batch.kubernetes.io/job-name" => Some(name),
        _ => None,
    };
    if let Ok(compiled) = LabelSelector::from_object(&spec["selector"])
        && !compiled.matches_with(expected)
    {
        errors.push(FieldError::invalid(
            &Path::new("spec").child("selector"),
            spec["selector"].clone(),
            "`selector` not auto-generated",
        ));
    }
    errors
}

/// `ValidateJob`.
pub(in crate::kinds) fn job(job: &Value) -> Errors {
    judged(job, true)
}

/// The rules of a job; old ones have no labels of the domain of their group.
fn judged(job: &Value, prefixed: bool) -> Errors {
    let mut errors = generated(job, prefixed);
    errors.extend(job_spec(job));
    let completions = int(&job["spec"], "completions");
    if job["spec"]["completionMode"] == "Indexed" && completions > 0 {
        let name = text(&job["metadata"], "name");
        let host = format!("{name}-{}", completions - 1);
        if !names::dns_label(&host).is_empty() {
            errors.push(FieldError::invalid(
                &Path::new("metadata").child("name"),
                name,
                format!("will not able to create pod with invalid DNS label: {host}"),
            ));
        }
    }
    errors
}

/// `ValidateJobUpdate`.
pub(in crate::kinds) fn job_update(new: &Value, old: &Value) -> Errors {
    let path = Path::new("spec");
    // The strategy judges the job, the update its specification again.
    let labels = &old["spec"]["template"]["metadata"]["labels"];
    let prefixed = ["controller-uid", "job-name"]
        .iter()
        .all(|name| labels.get(format!("batch.kubernetes.io/{name}")).is_some());
    let mut errors = judged(new, prefixed);
    errors.extend(job_spec(new));
    let (now, before) = (&new["spec"], &old["spec"]);
    let at = path.child("completions");
    if now["completionMode"] == "Indexed" {
        let changed = now["completions"] != before["completions"];
        if changed && now["completions"] != now["parallelism"] {
            errors.push(FieldError::invalid(
                &at,
                now["completions"].clone(),
                "can only be modified in tandem with spec.parallelism",
            ));
        }
    } else {
        errors.extend(common::immutable(
            &now["completions"],
            &before["completions"],
            &at,
        ));
    }
    let immutable = |name: &str, errors: &mut Errors| {
        errors.extend(common::immutable(
            &now[name],
            &before[name],
            &path.child(name),
        ));
    };
    immutable("selector", &mut errors);
    if before["suspend"] == true && int(&old["status"], "active") == 0 {
        // Where a job that has not begun runs may still change.
        let fixed = |spec: &Value| {
            let mut template = spec["template"].clone();
            remove(&mut template, "metadata");
            if let Some(spec) = template.get_mut("spec") {
                for name in ["nodeSelector", "tolerations", "schedulingGates", "affinity"] {
                    remove(spec, name);
                }
            }
            template
        };
        errors.extend(common::immutable(
            &fixed(now),
            &fixed(before),
            &path.child("template"),
        ));
    } else {
        immutable("template", &mut errors);
    }
    for name in [
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ] {
        immutable(name, &mut errors);
    }
    errors
}

/// `ValidateCronJobCreate`.
pub(in crate::kinds) fn cron_job(job: &Value) -> Errors {
    let path = Path::new("spec");
    let spec_value = &job["spec"];
    let mut errors = Vec::new();
    let schedule = text(spec_value, "schedule");
    let at = path.child("schedule");
    if schedule.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else {
        if let Err(why) = parse_schedule(schedule) {
            errors.push(FieldError::invalid(&at, schedule, why));
        }
        if schedule.contains("TZ") {
            errors.push(FieldError::invalid(
                &at,
                schedule,
                "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
            ));
        }
    }
    errors.extend(common::nonnegative(
        spec_value,
        "startingDeadlineSeconds",
        &path,
    ));
    if let Some(zone) = spec_value["timeZone"].as_str() {
        time_zone(zone, &path.child("timeZone"), &mut errors);
    }
    errors.extend(common::one_of(
        spec_value,
        "concurrencyPolicy",
        &["Allow", "Forbid", "Replace"],
        &path,
    ));
    let at = path.child("jobTemplate").child("spec");
    let template = &spec_value["jobTemplate"]["spec"];
    errors.extend(spec(template, &at));
    if !blank(&template["selector"]) {
        errors.push(FieldError::invalid(
            &at.child("selector"),
            template["selector"].clone(),
            "`selector` will be auto-generated",
        ));
    }
    if template["manualSelector"] == true {
        errors.push(FieldError::not_supported(
            &at.child("manualSelector"),
            true,
            &["nil", "false"],
        ));
    }
    for name in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        errors.extend(common::nonnegative(spec_value, name, &path));
    }
    let name = text(&job["metadata"], "name");
    let create = text(&job["metadata"], "resourceVersion").is_empty();
    if create && name.len() > names::LABEL_MAX - 11 {
        errors.push(FieldError::invalid(
            &Path::new("metadata").child("name"),
            name,
            "must be no more than 52 characters",
        ));
    }
    errors
}

fn time_zone(zone: &str, at: &Path, errors: &mut Errors) {
    if zone.is_empty() {
        errors.push(FieldError::invalid(
            at,
            zone,
            "timeZone must be nil or non-empty string",
        ));
        return;
    }
    let part = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && !part.starts_with('-')
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._+-".contains(&b))
    };
    if !zone.split('/').all(part) {
        errors.push(FieldError::invalid(
            at,
            zone,
            format!("unknown time zone {zone}"),
        ));
    } else if zone.eq_ignore_ascii_case("local") {
        errors.push(FieldError::invalid(
            at,
            zone,
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
        ));
    }
}

const FIELDS: [(&str, i64, i64, &[&str]); 5] = [
    ("minute", 0, 59, &[]),
    ("hour", 0, 23, &[]),
    ("day of month", 1, 31, &[]),
    (
        "month",
        1,
        12,
        &[
            "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
        ],
    ),
    (
        "day of week",
        0,
        6,
        &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
    ),
];

/// Parses a cron schedule, with the errors of the parser that upstream uses.
fn parse_schedule(schedule: &str) -> Result<(), String> {
    let mut text = schedule;
    for prefix in ["TZ=", "CRON_TZ="] {
        if text.starts_with(prefix) {
            text = text.split_once(' ').map_or("", |(_, rest)| rest).trim();
        }
    }
    if let Some(descriptor) = text.strip_prefix('@') {
        let known = [
            "yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly",
        ];
        if known.contains(&descriptor) || descriptor.starts_with("every ") {
            return Ok(());
        }
        return Err(format!("unrecognized descriptor: {text}"));
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != 5 {
        return Err(format!(
            "expected exactly 5 fields, found {}: [{}]",
            fields.len(),
            fields.join(" ")
        ));
    }
    for (field, (_, low, high, words)) in fields.iter().zip(FIELDS) {
        for range in field.split(',') {
            cron_range(range, low, high, words)?;
        }
    }
    Ok(())
}

fn cron_range(range: &str, low: i64, high: i64, words: &[&str]) -> Result<(), String> {
    let (span, step) = match range.split_once('/') {
        Some((_, step)) if step.contains('/') => {
            return Err(format!("too many slashes: {range}"));
        }
        Some((span, step)) => (span, Some(step)),
        None => (range, None),
    };
    let number = |text: &str| -> Result<i64, String> {
        if let Some(at) = words
            .iter()
            .position(|word| text.eq_ignore_ascii_case(word))
        {
            return Ok(at as i64 + low);
        }
        let number: i64 = text.parse().map_err(|_| {
            format!(
                "failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"
            )
        })?;
        if number < 0 {
            return Err(format!("negative number ({number}) not allowed: {text}"));
        }
        Ok(number)
    };
    let (start, end) = if span == "*" || span == "?" {
        (low, high)
    } else {
        match span.split_once('-') {
            Some((_, end)) if end.contains('-') => {
                return Err(format!("too many hyphens: {range}"));
            }
            Some((start, end)) => (number(start)?, number(end)?),
            None => {
                let start = number(span)?;
                (start, if step.is_some() { high } else { start })
            }
        }
    };
    let step = step.map_or(Ok(1), number)?;
    if start < low {
        return Err(format!(
            "beginning of range ({start}) below minimum ({low}): {range}"
        ));
    }
    if end > high {
        return Err(format!(
            "end of range ({end}) above maximum ({high}): {range}"
        ));
    }
    if start > end {
        return Err(format!(
            "beginning of range ({start}) beyond end of range ({end}): {range}"
        ));
    }
    if step == 0 {
        return Err(format!(
            "step of range should be a positive number: {range}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules() {
        for (text, want) in [
            ("*/5 * * * *", Ok(())),
            ("0 0 1 jan mon-fri", Ok(())),
            ("@hourly", Ok(())),
            (
                "a b",
                Err("expected exactly 5 fields, found 2: [a b]".to_owned()),
            ),
            (
                "61 * * * *",
                Err("end of range (61) above maximum (59): 61".to_owned()),
            ),
        ] {
            assert_eq!(parse_schedule(text), want, "{text}");
        }
    }
}

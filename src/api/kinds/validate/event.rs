//! Events, judged in the form of the core group.

use serde_json::Value;

use super::common;
use crate::kinds::value::{int, invalid, text};
use crate::meta::{self, NameRule};
use crate::{FieldError, Path, names};

type Errors = Vec<FieldError>;

/// `legacyValidateEvent`; `core` is whether the request speaks core `v1`.
fn legacy(event: &Value, core: bool) -> Errors {
    let mut errors = Vec::new();
    let namespace = text(&event["metadata"], "namespace");
    let involved = text(&event["involvedObject"], "namespace");
    let mismatch = || {
        FieldError::invalid(
            &Path::new("involvedObject").child("namespace"),
            involved,
            "does not match event.namespace",
        )
    };
    if event["eventTime"].is_null() {
        let wrong = if involved.is_empty() {
            !namespace.is_empty() && namespace != "default"
        } else {
            namespace != involved
        };
        if wrong {
            errors.push(mismatch());
        }
    } else {
        if involved.is_empty() && namespace != "default" && namespace != "kube-system" {
            errors.push(mismatch());
        }
        let at = Path::new(if core {
            "reportingComponent"
        } else {
            "reportingController"
        });
        let controller = text(event, "reportingComponent");
        if controller.is_empty() {
            errors.push(FieldError::required(&at, ""));
        }
        errors.extend(meta::label_name(controller, &at));
        for (name, limit) in [("reportingInstance", 128), ("action", 128), ("reason", 128)] {
            let at = Path::new(name);
            errors.extend(common::required(event, name, &Path::root()));
            if text(event, name).len() > limit {
                errors.push(FieldError::invalid(
                    &at,
                    "",
                    format!("can have at most {limit} characters"),
                ));
            }
        }
        if text(event, "message").len() > 1024 {
            errors.push(FieldError::invalid(
                &Path::new("message"),
                "",
                "can have at most 1024 characters",
            ));
        }
    }
    errors.extend(invalid(
        &Path::new("namespace"),
        namespace,
        names::dns_subdomain(namespace),
    ));
    errors
}

fn series(event: &Value) -> Errors {
    let mut errors = Vec::new();
    let series = &event["series"];
    if series.is_object() {
        if int(series, "count") < 2 {
            errors.push(FieldError::invalid(
                &Path::new("series.count"),
                "",
                "should be at least 2",
            ));
        }
        if series["lastObservedTime"].is_null() {
            errors.push(FieldError::required(
                &Path::new("series.lastObservedTime"),
                "",
            ));
        }
    }
    errors
}

/// `ValidateEventCreate`.
pub(in crate::kinds) fn event(event: &Value, core: bool) -> Errors {
    let mut errors = legacy(event, core);
    if core {
        return errors;
    }
    errors.extend(meta::validate(
        &event["metadata"],
        true,
        NameRule::Subdomain,
        &Path::new("metadata"),
    ));
    errors.extend(super::finalizers(event));
    errors.extend(series(event));
    if event["eventTime"].is_null() {
        errors.push(FieldError::required(&Path::new("eventTime"), ""));
    }
    let kind = text(event, "type");
    if !matches!(kind, "Normal" | "Warning") {
        errors.push(FieldError::invalid(
            &Path::new("type"),
            "",
            format!("has invalid value: {kind}"),
        ));
    }
    let set = |name: &str| match name {
        "count" => int(event, "count") != 0,
        "source" => {
            !text(&event["source"], "component").is_empty()
                || !text(&event["source"], "host").is_empty()
        }
        name => !event[name].is_null(),
    };
    for name in ["firstTimestamp", "lastTimestamp", "count", "source"] {
        if set(name) {
            errors.push(FieldError::invalid(
                &Path::new(name),
                "",
                "needs to be unset",
            ));
        }
    }
    errors
}

/// `ValidateEventUpdate`.
pub(in crate::kinds) fn event_update(new: &Value, old: &Value, core: bool) -> Errors {
    let mut errors = legacy(new, core);
    if core {
        return errors;
    }
    if !crate::kinds::value::same(&new["series"], &old["series"]) {
        errors.extend(series(new));
    }
    for (name, shown) in [
        ("involvedObject", "involvedObject"),
        ("reason", "reason"),
        ("message", "message"),
        ("source", "source"),
        ("firstTimestamp", "firstTimestamp"),
        ("lastTimestamp", "lastTimestamp"),
        ("count", "count"),
        ("reason", "reason"),
        ("type", "type"),
        ("eventTime", "eventTime"),
        ("action", "action"),
        ("related", "related"),
        ("reportingComponent", "reportingController"),
        ("reportingInstance", "reportingInstance"),
    ] {
        let mut error = common::immutable(&new[name], &old[name], &Path::new(shown));
        if let Some(error) = error
            .as_mut()
            .filter(|_| name != shown && new[name].is_null())
        {
            // No field of the type has the name shown.
            error.value = "".into();
        }
        errors.extend(error);
    }
    errors
}

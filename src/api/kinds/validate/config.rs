//! Leases, priority classes and runtime classes.

use serde_json::Value;

use super::{common, pod};
use crate::kinds::value::{int, invalid, text};
use crate::{FieldError, Path, meta, names};

type Errors = Vec<FieldError>;

/// Highest priority that users may define.
const USER_PRIORITY_MAX: i64 = 1_000_000_000;

/// `ValidateLease`.
pub(in crate::kinds) fn lease(lease: &Value) -> Errors {
    let (spec, path) = (&lease["spec"], Path::new("spec"));
    let mut errors = Vec::new();
    if let Some(seconds) = spec["leaseDurationSeconds"].as_i64()
        && seconds <= 0
    {
        errors.push(FieldError::invalid(
            &path.child("leaseDurationSeconds"),
            seconds,
            "must be greater than 0",
        ));
    }
    errors.extend(common::nonnegative(spec, "leaseTransitions", &path));
    let strategy = text(spec, "strategy");
    if !text(spec, "preferredHolder").is_empty() && strategy.is_empty() {
        errors.push(FieldError::forbidden(
            &path.child("preferredHolder"),
            "may only be specified if `strategy` is defined",
        ));
    }
    errors
}

/// `ValidatePriorityClass`.
pub(in crate::kinds) fn priority_class(class: &Value) -> Errors {
    let mut errors = Vec::new();
    let (name, value) = (text(&class["metadata"], "name"), int(class, "value"));
    if name.starts_with("system-") {
        let known = match name {
            "system-node-critical" => Some(2_000_001_000),
            "system-cluster-critical" => Some(2_000_000_000),
            _ => None,
        };
        let why = match known {
            None => Some(format!("{name} is not a known system priority class")),
            Some(wanted) if wanted != value => {
                Some(format!("value of {name} PriorityClass must be {wanted}"))
            }
            Some(_) if class["globalDefault"] == true => Some(format!(
                "globalDefault of {name} PriorityClass must be false"
            )),
            Some(_) => None,
        };
        if let Some(why) = why {
            errors.push(FieldError::forbidden(
                &Path::new("metadata").child("name"),
                format!("priority class names with 'system-' prefix are reserved for system use only. error: {why}"),
            ));
        }
    } else if value > USER_PRIORITY_MAX {
        errors.push(FieldError::forbidden(
            &Path::new("value"),
            format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}"),
        ));
    }
    errors.extend(common::one_of(
        class,
        "preemptionPolicy",
        &["PreemptLowerPriority", "Never"],
        &Path::root(),
    ));
    errors
}

/// `ValidatePriorityClassUpdate`.
pub(in crate::kinds) fn priority_class_update(new: &Value, old: &Value) -> Errors {
    let mut errors = Vec::new();
    if int(new, "value") != int(old, "value") {
        errors.push(FieldError::forbidden(
            &Path::new("value"),
            "may not be changed in an update.",
        ));
    }
    errors.extend(common::immutable(
        &new["preemptionPolicy"],
        &old["preemptionPolicy"],
        &Path::new("preemptionPolicy"),
    ));
    errors
}

/// `ValidateAPIService`.
pub(in crate::kinds) fn api_service(service: &Value) -> Errors {
    let (spec, path) = (&service["spec"], Path::new("spec"));
    let (group, version) = (text(spec, "group"), text(spec, "version"));
    let name = text(&service["metadata"], "name");
    let required = format!("{version}.{group}");
    let mut errors = Vec::new();
    if name != required {
        errors.push(FieldError::invalid(
            &Path::new("metadata").child("name"),
            name,
            format!("must be `spec.version+\".\"+spec.group`: {required:?}"),
        ));
    }
    if !group.is_empty() {
        errors.extend(invalid(
            &path.child("group"),
            group,
            names::dns_subdomain(group),
        ));
    } else if version != "v1" {
        errors.push(FieldError::required(
            &path.child("group"),
            "only v1 may have an empty group and it better be legacy kube",
        ));
    }
    errors.extend(invalid(
        &path.child("version"),
        version,
        names::dns_1035_label(version),
    ));
    for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let priority = int(spec, field);
        if !(1..=most).contains(&priority) {
            errors.push(FieldError::invalid(
                &path.child(field),
                priority,
                format!("must be positive and less than {most}"),
            ));
        }
    }
    let bundle = text(spec, "caBundle");
    let insecure = spec["insecureSkipTLSVerify"] == true;
    let reference = &spec["service"];
    if !reference.is_object() {
        if !bundle.is_empty() {
            let bytes = bundle.trim_end_matches('=').len() * 3 / 4;
            errors.push(FieldError::invalid(
                &path.child("caBundle"),
                format!("{bytes} bytes"),
                "local APIServices may not have a caBundle",
            ));
        }
        if insecure {
            errors.push(FieldError::invalid(
                &path.child("insecureSkipTLSVerify"),
                true,
                "local APIServices may not have insecureSkipTLSVerify",
            ));
        }
        return errors;
    }
    let at = path.child("service");
    for field in ["namespace", "name"] {
        errors.extend(common::required(reference, field, &at));
    }
    let port = int(reference, "port");
    let wrong = names::port_number(port);
    if !wrong.is_empty() {
        errors.push(FieldError::invalid(
            &at.child("port"),
            port,
            format!("port is not valid: {}", wrong.join(", ")),
        ));
    }
    if insecure && !bundle.is_empty() {
        errors.push(FieldError::invalid(
            &path.child("insecureSkipTLSVerify"),
            true,
            "may not be true if caBundle is present",
        ));
    }
    errors
}

/// `ValidateRuntimeClass`.
pub(in crate::kinds) fn runtime_class(class: &Value) -> Errors {
    let at = Path::new("handler");
    let handler = text(class, "handler");
    let mut errors = Vec::new();
    if handler.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else {
        errors.extend(invalid(&at, handler, names::dns_label(handler)));
    }
    common::resource_list(
        &class["overhead"]["podFixed"],
        &Path::new("overhead").child("limits"),
        &mut errors,
    );
    let scheduling = &class["scheduling"];
    if scheduling.is_object() {
        let path = Path::new("scheduling");
        errors.extend(meta::labels(
            &scheduling["nodeSelector"],
            &path.child("nodeSelector"),
        ));
        errors.extend(pod::tolerations(scheduling, &path));
    }
    errors
}

/// `ValidateRuntimeClassUpdate`.
pub(in crate::kinds) fn runtime_class_update(new: &Value, old: &Value) -> Errors {
    let mut errors = runtime_class(new);
    errors.extend(common::immutable(
        &new["handler"],
        &old["handler"],
        &Path::new("handler"),
    ));
    errors
}

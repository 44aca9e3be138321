//! Probes and hooks.

use serde_json::Value;

use super::{Errors, Pod, common};
use crate::kinds::value::{int, invalid, list, text};
use crate::{FieldError, Path, names};

pub(super) fn lifecycle(container: &Value, pod: &Pod<'_>, at: &Path, errors: &mut Errors) {
    let lifecycle = &container["lifecycle"];
    let at = at.child("lifecycle");
    for name in ["postStart", "preStop"] {
        if lifecycle[name].is_object() {
            handler(&lifecycle[name], pod, &at.child(name), errors);
        }
    }
}

pub(super) fn probes(container: &Value, pod: &Pod<'_>, at: &Path, errors: &mut Errors) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = &container[name];
        if !probe.is_object() {
            continue;
        }
        let at = at.child(name);
        handler(probe, pod, &at, errors);
        for field in [
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
        ] {
            errors.extend(common::nonnegative(probe, field, &at));
        }
        let grace = probe["terminationGracePeriodSeconds"].as_i64();
        let at_grace = at.child("terminationGracePeriodSeconds");
        if let Some(seconds) = grace.filter(|seconds| *seconds <= 0) {
            errors.push(FieldError::invalid(
                &at_grace,
                seconds,
                "must be greater than 0",
            ));
        }
        let threshold = int(probe, "successThreshold");
        if name == "readinessProbe" {
            if let Some(seconds) = grace {
                errors.push(FieldError::invalid(
                    &at_grace,
                    seconds,
                    "must not be set for readinessProbes",
                ));
            }
        } else if threshold != 1 {
            errors.push(FieldError::invalid(
                &at.child("successThreshold"),
                threshold,
                "must be 1",
            ));
        }
    }
}

/// `validateHandler`.
fn handler(handler: &Value, pod: &Pod<'_>, at: &Path, errors: &mut Errors) {
    let mut found = false;
    for kind in ["exec", "httpGet", "tcpSocket", "grpc", "sleep"] {
        let action = &handler[kind];
        if !action.is_object() {
            continue;
        }
        let at = at.child(kind);
        if found {
            errors.push(FieldError::forbidden(
                &at,
                "may not specify more than 1 handler type",
            ));
            continue;
        }
        found = true;
        match kind {
            "exec" => {
                if list(action, "command").is_empty() {
                    errors.push(FieldError::required(&at.child("command"), ""));
                }
            }
            "httpGet" => {
                errors.extend(common::required(action, "path", &at));
                errors.extend(common::port_or_name(&action["port"], &at.child("port")));
                let scheme = text(action, "scheme");
                if !matches!(scheme, "HTTP" | "HTTPS") {
                    errors.push(FieldError::not_supported(
                        &at.child("scheme"),
                        scheme,
                        &["HTTP", "HTTPS"],
                    ));
                }
                for header in list(action, "httpHeaders") {
                    let name = text(header, "name");
                    errors.extend(invalid(
                        &at.child("httpHeaders"),
                        name,
                        names::http_header(name),
                    ));
                }
            }
            "sleep" => {
                let seconds = int(action, "seconds");
                if seconds < 0 || seconds > pod.grace {
                    errors.push(FieldError::invalid(
                        &at,
                        seconds,
                        format!(
                            "must be non-negative and less than terminationGracePeriodSeconds ({})",
                            pod.grace
                        ),
                    ));
                }
            }
            _ => errors.extend(common::port_or_name(&action["port"], &at.child("port"))),
        }
    }
    if !found {
        errors.push(FieldError::required(at, "must specify a handler type"));
    }
}

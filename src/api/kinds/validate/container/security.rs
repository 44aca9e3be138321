//! What containers may do: security contexts and profiles.

use serde_json::Value;

use super::{Errors, Pod, common};
use crate::kinds::validate::windows;
use crate::kinds::value::{list, text};
use crate::{FieldError, Path, names};

/// `validateSeccompProfileField`.
pub(in crate::kinds::validate) fn seccomp(profile: &Value, at: &Path, errors: &mut Errors) {
    if !profile.is_object() {
        return;
    }
    errors.extend(match text(profile, "type") {
        "" => Some(FieldError::required(
            &at.child("type"),
            "type is required when seccompProfile is set",
        )),
        "Localhost" | "RuntimeDefault" | "Unconfined" => None,
        other => Some(FieldError::not_supported(
            &at.child("type"),
            other,
            &["Localhost", "RuntimeDefault", "Unconfined"],
        )),
    });
    local_profile(profile, at, "seccomp", errors);
}

fn local_profile(profile: &Value, at: &Path, what: &str, errors: &mut Errors) {
    let at_profile = at.child("localhostProfile");
    match (text(profile, "type"), profile["localhostProfile"].as_str()) {
        ("Localhost", None) => errors.push(FieldError::required(
            &at_profile,
            format!("must be set when {what} type is Localhost"),
        )),
        ("Localhost", Some(value)) => errors.extend(common::descending_path(value, &at_profile)),
        (_, Some(_)) => errors.push(FieldError::invalid(
            &at_profile,
            profile.clone(),
            format!("can only be set when {what} type is Localhost"),
        )),
        _ => {}
    }
}

/// `ValidateAppArmorProfileField`.
pub(in crate::kinds::validate) fn app_armor(profile: &Value, at: &Path, errors: &mut Errors) {
    if !profile.is_object() {
        return;
    }
    match (text(profile, "type"), profile["localhostProfile"].as_str()) {
        ("Localhost", None) => errors.push(FieldError::required(
            &at.child("localhostProfile"),
            "must be set when AppArmor type is Localhost",
        )),
        ("Localhost", Some(value)) if value.trim().is_empty() => {
            errors.push(FieldError::required(
                &at.child("localhostProfile"),
                "must be set when AppArmor type is Localhost",
            ));
        }
        ("Localhost", Some(_)) => {}
        ("RuntimeDefault" | "Unconfined", Some(value)) => errors.push(FieldError::invalid(
            &at.child("localhostProfile"),
            value,
            "can only be set when AppArmor type is Localhost",
        )),
        ("RuntimeDefault" | "Unconfined", None) => {}
        ("", _) => errors.push(FieldError::required(
            &at.child("type"),
            "type is required when appArmorProfile is set",
        )),
        (other, _) => errors.push(FieldError::not_supported(
            &at.child("type"),
            other,
            &["Localhost", "RuntimeDefault", "Unconfined"],
        )),
    }
}

pub(super) fn security_context(container: &Value, pod: &Pod<'_>, at: &Path, errors: &mut Errors) {
    let context = &container["securityContext"];
    if !context.is_object() {
        return;
    }
    for name in ["runAsUser", "runAsGroup"] {
        if let Some(number) = context[name].as_i64() {
            for message in names::in_range(number, 0, i32::MAX.into()) {
                errors.push(FieldError::invalid(&at.child(name), number, message));
            }
        }
    }
    if let Some(mount) = context["procMount"].as_str() {
        let at = at.child("procMount");
        if !matches!(mount, "Default" | "Unmasked") {
            errors.push(FieldError::not_supported(
                &at,
                mount,
                &["Default", "Unmasked"],
            ));
        }
        if pod.host_users && mount == "Unmasked" {
            errors.push(FieldError::invalid(
                &at,
                mount,
                "`hostUsers` must be false to use `Unmasked`",
            ));
        }
    }
    seccomp(
        &context["seccompProfile"],
        &at.child("seccompProfile"),
        errors,
    );
    if context["allowPrivilegeEscalation"] == false {
        if context["privileged"] == true {
            errors.push(FieldError::invalid(
                at,
                context.clone(),
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            ));
        }
        if list(&context["capabilities"], "add")
            .iter()
            .any(|capability| capability == "CAP_SYS_ADMIN")
        {
            errors.push(FieldError::invalid(
                at,
                context.clone(),
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            ));
        }
    }
    windows::options(context, at, errors);
    app_armor(
        &context["appArmorProfile"],
        &at.child("appArmorProfile"),
        errors,
    );
}

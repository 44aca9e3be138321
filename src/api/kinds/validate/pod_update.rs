//! Changes of pods and of their parts.

use serde_json::Value;

use super::{common, pod};
use crate::kinds::value::{blank, each, indexed, int, list, object, remove, same, text};
use crate::{FieldError, Path, names};

type Errors = Vec<FieldError>;

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// `ValidatePodUpdate`.
pub(in crate::kinds) fn pod_update(new: &Value, old: &Value) -> Errors {
    let mut errors = pod::metadata_and_spec(new);
    let path = Path::new("spec");
    let (now, before) = (&new["spec"], &old["spec"]);
    for kind in ["containers", "initContainers"] {
        if list(now, kind).len() != list(before, kind).len() {
            errors.push(FieldError::forbidden(
                &path.child(kind),
                "pod updates may not add or remove containers",
            ));
            return errors;
        }
        for (at, container) in indexed(now, kind, &path) {
            let image = text(container, "image");
            if image.is_empty() {
                errors.push(FieldError::required(&at.child("image"), ""));
            }
            if image.trim() != image {
                errors.push(FieldError::invalid(
                    &at.child("image"),
                    image,
                    "must not have leading or trailing whitespace",
                ));
            }
        }
    }
    let at = path.child("activeDeadlineSeconds");
    match (
        now["activeDeadlineSeconds"].as_i64(),
        before["activeDeadlineSeconds"].as_i64(),
    ) {
        (Some(seconds), _) if !(0..=i64::from(i32::MAX)).contains(&seconds) => {
            errors.push(FieldError::invalid(
                &at,
                seconds,
                names::range_error(0, i32::MAX.into()),
            ));
            return errors;
        }
        (Some(seconds), Some(old)) if old < seconds => {
            errors.push(FieldError::invalid(
                &at,
                seconds,
                "must be less than or equal to previous value",
            ));
            return errors;
        }
        (None, Some(_)) => errors.push(FieldError::invalid(
            &at,
            Value::Null,
            "must not update from a positive integer to nil value",
        )),
        _ => {}
    }
    tolerations(now, before, &path, &mut errors);
    scheduling_gates(now, before, &path, &mut errors);
    if same(now, before) {
        return errors;
    }
    let mut munged = now.clone();
    for kind in ["containers", "initContainers"] {
        let mut images = list(before, kind)
            .iter()
            .map(|container| container["image"].clone());
        each(&mut munged, kind, |container| {
            container["image"] = images.next().unwrap_or_default();
        });
    }
    for name in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        put_back(&mut munged, before, name);
    }
    let grace = "terminationGracePeriodSeconds";
    if int(before, grace) < 0 && int(&munged, grace) == 1 {
        put_back(&mut munged, before, grace);
    }
    if !blank(&before["schedulingGates"]) {
        gated(&mut munged, before, &path, &mut errors);
    }
    if !same(&munged, before) {
        errors.push(FieldError::forbidden(
            &path,
            format!(
                "pod updates may not change fields other than {UPDATABLE}\n{}",
                common::diff(before, &munged, "PodSpec")
            ),
        ));
    }
    errors
}

fn put_back(new: &mut Value, old: &Value, name: &str) {
    if old[name].is_null() {
        remove(new, name);
    } else {
        new[name] = old[name].clone();
    }
}

/// A pod that waits at a gate may be confined further.
fn gated(munged: &mut Value, before: &Value, path: &Path, errors: &mut Errors) {
    if !same(&munged["nodeSelector"], &before["nodeSelector"]) {
        let kept = crate::kinds::value::entries(before, "nodeSelector")
            .all(|(key, value)| munged["nodeSelector"][key] == *value);
        if !kept {
            errors.push(FieldError::invalid(
                &path.child("nodeSelector"),
                munged["nodeSelector"].clone(),
                "only additions to spec.nodeSelector are allowed (no mutations or deletions)",
            ));
        }
        put_back(munged, before, "nodeSelector");
    }
    let old = &before["affinity"]["nodeAffinity"];
    if !same(&munged["affinity"]["nodeAffinity"], old) {
        if old.is_null() {
            crate::kinds::value::within(munged, "affinity", |affinity| {
                remove(affinity, "nodeAffinity");
            });
            if blank(&munged["affinity"]) && before["affinity"].is_null() {
                remove(munged, "affinity");
            }
        } else {
            object(munged, "affinity")["nodeAffinity"] = old.clone();
        }
    }
}

fn tolerations(now: &Value, before: &Value, path: &Path, errors: &mut Errors) {
    let without_time = |toleration: &Value| {
        let mut toleration = toleration.clone();
        remove(&mut toleration, "tolerationSeconds");
        toleration
    };
    for old in list(before, "tolerations") {
        let kept = list(now, "tolerations")
            .iter()
            .any(|new| without_time(new) == without_time(old));
        if !kept {
            errors.push(FieldError::forbidden(
                &path.child("tolerations"),
                "existing toleration can not be modified except its tolerationSeconds",
            ));
            return;
        }
    }
    errors.extend(pod::tolerations(now, path));
}

fn scheduling_gates(now: &Value, before: &Value, path: &Path, errors: &mut Errors) {
    for (at, gate) in indexed(now, "schedulingGates", path) {
        if !list(before, "schedulingGates").contains(gate) {
            errors.push(FieldError::forbidden(
                &at.child("name"),
                "only deletion is allowed, but found new scheduling gate",
            ));
            let name = text(gate, "name");
            if let Some(last) = errors.last_mut() {
                last.detail =
                    format!("only deletion is allowed, but found new scheduling gate '{name}'");
            }
        }
    }
}

/// `ValidatePodEphemeralContainersUpdate`.
pub(in crate::kinds) fn ephemeral_update(new: &Value, old: &Value) -> Errors {
    let mut errors = pod::metadata_and_spec(new);
    let at = Path::new("spec").child("ephemeralContainers");
    if !old["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null() {
        return vec![FieldError::forbidden(
            &Path::new(""),
            "static pods do not support ephemeral containers",
        )];
    }
    for before in list(&old["spec"], "ephemeralContainers") {
        let name = text(before, "name");
        let now = list(&new["spec"], "ephemeralContainers")
            .iter()
            .find(|container| text(container, "name") == name);
        match now {
            None => errors.push(FieldError::forbidden(
                &at,
                format!("existing ephemeral containers {name:?} may not be removed\n"),
            )),
            Some(now) if !same(now, before) => errors.push(FieldError::forbidden(
                &at,
                format!(
                    "existing ephemeral containers {name:?} may not be changed\n{}",
                    common::diff(before, now, "EphemeralContainer")
                ),
            )),
            Some(_) => {}
        }
    }
    errors
}

/// `ValidatePodResize`.
pub(in crate::kinds) fn resize(new: &Value, old: &Value) -> Errors {
    let mut errors = pod::metadata_and_spec(new);
    let path = Path::new("spec");
    if text(&old["status"], "qosClass") != crate::kinds::pod::qos_class(&new["spec"])
        && !text(&old["status"], "qosClass").is_empty()
    {
        errors.push(FieldError::invalid(
            &path,
            crate::kinds::pod::qos_class(&new["spec"]),
            "Pod QOS Class may not change as a result of resizing",
        ));
    }
    for kind in ["containers", "initContainers"] {
        let olds = list(&old["spec"], kind);
        for ((at, now), before) in indexed(&new["spec"], kind, &path).zip(olds) {
            let at = at.child("resources");
            for field in ["limits", "requests"] {
                let (now, before) = (&now["resources"][field], &before["resources"][field]);
                let other = |map: &Value| {
                    let mut map = map.clone();
                    remove(&mut map, "cpu");
                    remove(&mut map, "memory");
                    map
                };
                if !same(&other(now), &other(before)) {
                    errors.push(FieldError::forbidden(
                        &at.child(field),
                        "only cpu and memory resources are mutable",
                    ));
                }
                for name in ["cpu", "memory"] {
                    if now[name].is_null() && !before[name].is_null() {
                        errors.push(FieldError::forbidden(
                            &at.child(field),
                            format!("resource {field} cannot be removed"),
                        ));
                    }
                }
            }
        }
    }
    errors
}

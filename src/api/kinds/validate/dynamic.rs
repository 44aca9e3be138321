//! Group `resource.k8s.io`: dynamic resource allocation.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{affinity, common};
use crate::kinds::value::{indexed, int, invalid, list, text};
use crate::{FieldError, Path, meta, names};

type Errors = Vec<FieldError>;

/// A required name of this form.
fn name(value: &str, rule: fn(&str) -> Vec<String>, at: &Path) -> Errors {
    if value.is_empty() {
        vec![FieldError::required(at, "")]
    } else {
        invalid(at, value, rule(value))
    }
}

fn exact(request: &Value, at: &Path, errors: &mut Errors) {
    errors.extend(name(
        text(request, "deviceClassName"),
        names::dns_subdomain,
        &at.child("deviceClassName"),
    ));
    let selectors = list(request, "selectors").len();
    if selectors > 32 {
        errors.push(FieldError::too_many(&at.child("selectors"), selectors, 32));
    }
    for (at, selector) in indexed(request, "selectors", at) {
        if !selector["cel"].is_object() {
            errors.push(FieldError::required(&at.child("cel"), ""));
        }
    }
    let count = int(request, "count");
    match text(request, "allocationMode") {
        "ExactCount" => {
            if count <= 0 {
                errors.push(FieldError::invalid(
                    &at.child("count"),
                    count,
                    "must be greater than zero",
                ));
            }
        }
        "All" => {
            if count != 0 {
                errors.push(FieldError::invalid(
                    &at.child("count"),
                    count,
                    "must not be specified when allocationMode is 'All'",
                ));
            }
        }
        other => errors.push(FieldError::not_supported(
            &at.child("allocationMode"),
            other,
            &["All", "ExactCount"],
        )),
    }
    for (at, toleration) in indexed(request, "tolerations", at) {
        let key = text(toleration, "key");
        if !key.is_empty() {
            errors.extend(meta::label_name(key, &at.child("key")));
        }
    }
}

/// What one driver alone understands.
fn opaque(entry: &Value, at: &Path, errors: &mut Errors) {
    let (opaque, at) = (&entry["opaque"], at.child("opaque"));
    if opaque.is_object() {
        let driver = text(opaque, "driver");
        errors.extend(name(driver, names::dns_subdomain, &at.child("driver")));
        if opaque["parameters"].is_null() {
            errors.push(FieldError::required(&at.child("parameters"), ""));
        }
    }
}

/// `validateResourceClaimSpec`.
fn claim_spec(spec: &Value, path: &Path, errors: &mut Errors) {
    let devices = &spec["devices"];
    let path = path.child("devices");
    let mut seen = BTreeSet::new();
    let requests = list(devices, "requests");
    if requests.len() > 32 {
        errors.push(FieldError::too_many(
            &path.child("requests"),
            requests.len(),
            32,
        ));
    }
    for (at, request) in indexed(devices, "requests", &path) {
        let own = text(request, "name");
        errors.extend(invalid(&at.child("name"), own, names::dns_label(own)));
        let first = list(request, "firstAvailable");
        match (first.is_empty(), request["exactly"].is_object()) {
            (true, false) => errors.push(FieldError::required(
                &at,
                "exactly one of `exactly` or `firstAvailable` is required",
            )),
            (false, true) => errors.push(FieldError::invalid(
                &at,
                Value::Null,
                "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
            )),
            (true, true) => exact(&request["exactly"], &at.child("exactly"), errors),
            (false, false) => {
                let mut seen = BTreeSet::new();
                for (at, alternative) in indexed(request, "firstAvailable", &at) {
                    let own = text(alternative, "name");
                    errors.extend(invalid(&at.child("name"), own, names::dns_label(own)));
                    exact(alternative, &at, errors);
                    if !seen.insert(own) {
                        errors.push(FieldError::duplicate(&at, own));
                    }
                }
            }
        }
        if !seen.insert(own) {
            errors.push(FieldError::duplicate(&at, own));
        }
    }
    let known = |request: &str| seen.contains(request.split('/').next().unwrap_or_default());
    for kind in ["constraints", "config"] {
        for (at, entry) in indexed(devices, kind, &path) {
            for (index, request) in list(entry, "requests").iter().enumerate() {
                let request = request.as_str().unwrap_or_default();
                if !known(request) {
                    errors.push(FieldError::invalid(
                        &at.child("requests").index(index),
                        request,
                        "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
                    ));
                }
            }
            if kind == "config" {
                opaque(entry, &at, errors);
            }
        }
    }
}

/// `ValidateResourceClaim`.
pub(in crate::kinds) fn claim(claim: &Value) -> Errors {
    let mut errors = Vec::new();
    claim_spec(&claim["spec"], &Path::new("spec"), &mut errors);
    errors
}

/// `ValidateResourceClaimUpdate`.
pub(in crate::kinds) fn claim_update(new: &Value, old: &Value) -> Errors {
    // What cannot be changed is not judged again.
    common::immutable(&new["spec"], &old["spec"], &Path::new("spec"))
        .into_iter()
        .collect()
}

/// `ValidateResourceClaimTemplate`.
pub(in crate::kinds) fn template(template: &Value) -> Errors {
    let (spec, path) = (&template["spec"], Path::new("spec"));
    let mut errors =
        super::volume_kinds::template_metadata(&spec["metadata"], &path.child("metadata"));
    claim_spec(&spec["spec"], &path.child("spec"), &mut errors);
    errors
}

/// `ValidateResourceClaimTemplateUpdate`.
pub(in crate::kinds) fn template_update(new: &Value, old: &Value) -> Errors {
    let mut errors = template(new);
    errors.extend(common::immutable(
        &new["spec"],
        &old["spec"],
        &Path::new("spec"),
    ));
    errors
}

/// `ValidateDeviceClass`.
pub(in crate::kinds) fn class(class: &Value) -> Errors {
    let path = Path::new("spec");
    let mut errors = Vec::new();
    for (at, selector) in indexed(&class["spec"], "selectors", &path) {
        if !selector["cel"].is_object() {
            errors.push(FieldError::required(&at.child("cel"), ""));
        }
    }
    for (at, entry) in indexed(&class["spec"], "config", &path) {
        opaque(entry, &at, &mut errors);
    }
    let resource = &class["spec"]["extendedResourceName"];
    if let Some(resource) = resource.as_str()
        && !common::is_extended(resource)
    {
        errors.push(FieldError::invalid(
            &path.child("extendedResourceName"),
            resource,
            "must be a valid extended resource name",
        ));
    }
    errors
}

/// `ValidateResourceSlice`.
pub(in crate::kinds) fn slice(slice: &Value) -> Errors {
    slice_spec(slice, None)
}

fn slice_spec(slice: &Value, old: Option<&Value>) -> Errors {
    let (spec, path) = (&slice["spec"], Path::new("spec"));
    let mut errors = Vec::new();
    let driver = text(spec, "driver");
    let at = path.child("driver");
    errors.extend(super::storage::driver_name_required(driver, &at));
    let pool = &spec["pool"];
    let at = path.child("pool");
    let own = text(pool, "name");
    if own.is_empty() {
        errors.push(FieldError::required(&at.child("name"), ""));
    } else {
        if own.len() > 253 {
            errors.push(FieldError::too_long(&at.child("name"), 253));
        }
        for part in own.split('/') {
            errors.extend(invalid(&at.child("name"), part, names::dns_subdomain(part)));
        }
    }
    let count = int(pool, "resourceSliceCount");
    if count <= 0 {
        errors.push(FieldError::invalid(
            &at.child("resourceSliceCount"),
            count,
            "must be greater than zero",
        ));
    }
    let generation = int(pool, "generation");
    if generation < 0 {
        errors.push(FieldError::invalid(
            &at.child("generation"),
            generation,
            "must be greater than or equal to zero",
        ));
    }
    if let Some(before) = old {
        errors.extend(common::immutable(
            &pool["name"],
            &before["pool"]["name"],
            &path.child("pool").child("name"),
        ));
        for name in ["driver", "nodeName"] {
            errors.extend(common::immutable(
                &spec[name],
                &before[name],
                &path.child(name),
            ));
        }
    }
    placement(spec, &path, &mut errors);
    let devices = list(spec, "devices").len();
    if devices > 128 {
        errors.push(FieldError::too_many(&path.child("devices"), devices, 128));
    }
    let mut seen = BTreeSet::new();
    for (at, device) in indexed(spec, "devices", &path) {
        let own = text(device, "name");
        errors.extend(invalid(&at.child("name"), own, names::dns_label(own)));
        if !seen.insert(own) {
            errors.push(FieldError::duplicate(&at, own));
        }
    }
    errors
}

/// Where the devices of a slice can be used: exactly one way of saying it.
fn placement(spec: &Value, path: &Path, errors: &mut Errors) {
    let mut set = Vec::new();
    if let Some(node) = spec["nodeName"].as_str() {
        let at = path.child("nodeName");
        if node.is_empty() {
            errors.push(FieldError::invalid(
                &at,
                node,
                "must be either unset or set to a non-empty string",
            ));
        } else {
            set.push("`nodeName`");
            errors.extend(invalid(&at, node, names::dns_subdomain(node)));
        }
    }
    if spec["nodeSelector"].is_object() {
        set.push("`nodeSelector`");
        let at = path.child("nodeSelector");
        affinity::node_selector(&spec["nodeSelector"], &at, errors);
        let terms = list(&spec["nodeSelector"], "nodeSelectorTerms");
        if terms.len() != 1 {
            errors.push(FieldError::invalid(
                &at.child("nodeSelectorTerms"),
                terms.to_vec(),
                "must have exactly one node selector term",
            ));
        }
    }
    for (name, shown) in [
        ("allNodes", "`allNodes`"),
        ("perDeviceNodeSelection", "`perDeviceNodeSelection`"),
    ] {
        match spec[name].as_bool() {
            Some(true) => set.push(shown),
            Some(false) => errors.push(FieldError::invalid(
                &path.child(name),
                false,
                "must be either unset or set to true",
            )),
            None => {}
        }
    }
    let message = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match set.len() {
        0 => errors.push(FieldError::required(path, message)),
        1 => {}
        _ => errors.push(FieldError::invalid(
            path,
            format!("{{{}}}", set.join(", ")),
            format!("{message}, but multiple fields are set"),
        )),
    }
}

/// `ValidateResourceSliceUpdate`.
pub(in crate::kinds) fn slice_update(new: &Value, old: &Value) -> Errors {
    slice_spec(new, Some(&old["spec"]))
}

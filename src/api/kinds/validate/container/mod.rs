//! Containers of a pod.

mod environment;
mod probes;
mod security;

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::common;
use crate::kinds::value::{entries, indexed, int, invalid, list, text};
use crate::{FieldError, Path, names};

use environment::environment;
pub(super) use environment::{field_reference, file_volumes, resource_reference};
use probes::{lifecycle, probes};
use security::security_context;
pub(super) use security::{app_armor, seccomp};

/// What containers need to know about their pod.
pub(super) struct Pod<'a> {
    /// Well-formed volumes by name.
    pub(super) volumes: &'a Map<String, Value>,
    /// Names of resource claims.
    pub(super) claims: &'a BTreeSet<String>,
    /// Seconds that the pod has to end.
    pub(super) grace: i64,
    /// The pod's restart policy.
    pub(super) restart_policy: &'a str,
    /// Whether users in the pod are users of the host.
    pub(super) host_users: bool,
}

type Errors = Vec<FieldError>;

/// `validateContainers`.
pub(super) fn containers(spec: &Value, pod: &Pod<'_>, path: &Path, errors: &mut Errors) {
    let at_all = path.child("containers");
    if list(spec, "containers").is_empty() {
        errors.push(FieldError::required(&at_all, ""));
        return;
    }
    let mut seen = BTreeSet::new();
    for (at, container) in indexed(spec, "containers", path) {
        common_rules(container, pod, &at, errors);
        let name = text(container, "name");
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(&at.child("name"), name));
        }
        lifecycle(container, pod, &at, errors);
        probes(container, pod, &at, errors);
        restart_policy(container, &at, errors);
    }
    host_ports(list(spec, "containers"), &at_all, errors);
}

/// `validateContainerRestartPolicy`.
fn restart_policy(container: &Value, at: &Path, errors: &mut Errors) {
    let at_policy = at.child("restartPolicy");
    let rules = list(container, "restartPolicyRules");
    match container["restartPolicy"].as_str() {
        None if rules.is_empty() => return,
        None => errors.push(FieldError::required(
            &at_policy,
            "must specify restartPolicy when restart rules are used",
        )),
        Some("Always" | "OnFailure" | "Never") => {}
        Some(policy) => errors.push(FieldError::not_supported(
            &at_policy,
            policy,
            &["Always", "Never", "OnFailure"],
        )),
    }
    if rules.len() > 20 {
        errors.push(FieldError::too_many(
            &at.child("restartPolicyRules"),
            rules.len(),
            20,
        ));
    }
    for (at, rule) in indexed(container, "restartPolicyRules", at) {
        let action = text(rule, "action");
        let known = ["Restart", "RestartAllContainers"];
        if !known.contains(&action) {
            errors.push(FieldError::not_supported(
                &at.child("action"),
                action,
                &known,
            ));
        }
        let (at, codes) = (at.child("exitCodes"), &rule["exitCodes"]);
        if !codes.is_object() {
            errors.push(FieldError::required(&at, "must be specified"));
            continue;
        }
        let operator = text(codes, "operator");
        if !matches!(operator, "In" | "NotIn") {
            errors.push(FieldError::not_supported(
                &at.child("operator"),
                operator,
                &["In", "NotIn"],
            ));
        }
        let values = list(codes, "values").len();
        if values > 255 {
            errors.push(FieldError::too_many(&at.child("values"), values, 255));
        }
    }
}

/// `validateInitContainers`.
pub(super) fn init_containers(spec: &Value, pod: &Pod<'_>, path: &Path, errors: &mut Errors) {
    let mut seen: BTreeSet<&str> = list(spec, "containers")
        .iter()
        .map(|container| text(container, "name"))
        .collect();
    for (at, container) in indexed(spec, "initContainers", path) {
        common_rules(container, pod, &at, errors);
        let policy = container["restartPolicy"].as_str();
        if policy.is_some() {
            restart_policy(container, &at, errors);
        } else if !list(container, "restartPolicyRules").is_empty() {
            errors.push(FieldError::required(
                &at.child("restartPolicy"),
                "must specify restartPolicy when restart rules are used",
            ));
        }
        let name = text(container, "name");
        if seen.contains(name) {
            errors.push(FieldError::duplicate(&at.child("name"), name));
        } else if !name.is_empty() {
            seen.insert(name);
        }
        host_ports(
            std::slice::from_ref(container),
            &path.child("initContainers"),
            errors,
        );
        if policy == Some("Always") {
            lifecycle(container, pod, &at, errors);
            probes(container, pod, &at, errors);
        } else {
            for name in [
                "lifecycle",
                "livenessProbe",
                "readinessProbe",
                "startupProbe",
            ] {
                if container[name].is_object() {
                    errors.push(FieldError::forbidden(
                        &at.child(name),
                        "may not be set for init containers without restartPolicy=Always",
                    ));
                }
            }
        }
    }
}

/// `validateEphemeralContainers`.
pub(super) fn ephemeral_containers(spec: &Value, pod: &Pod<'_>, path: &Path, errors: &mut Errors) {
    let others: BTreeSet<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|kind| list(spec, kind))
        .map(|container| text(container, "name"))
        .collect();
    let mut seen = others.clone();
    for (at, container) in indexed(spec, "ephemeralContainers", path) {
        common_rules(container, pod, &at, errors);
        let name = text(container, "name");
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(&at.child("name"), name));
        }
        let target = text(container, "targetContainerName");
        if !target.is_empty() && !others.contains(target) {
            errors.push(FieldError::not_found(
                &at.child("targetContainerName"),
                target,
            ));
        }
        // In the order of upstream's type.
        for name in [
            "ports",
            "resources",
            "resizePolicy",
            "restartPolicy",
            "restartPolicyRules",
            "livenessProbe",
            "readinessProbe",
            "startupProbe",
            "lifecycle",
        ] {
            if !crate::kinds::value::blank(&container[name]) {
                errors.push(FieldError::forbidden(
                    &at.child(name),
                    "cannot be set for an Ephemeral Container",
                ));
            }
        }
        for (at, mount) in indexed(container, "volumeMounts", &at) {
            for name in ["subPath", "subPathExpr"] {
                if !text(mount, name).is_empty() {
                    errors.push(FieldError::forbidden(
                        &at.child(name),
                        "cannot be set for an Ephemeral Container",
                    ));
                }
            }
        }
    }
}

/// Host ports that two ports of these containers want.
fn host_ports(containers: &[Value], path: &Path, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (index, container) in containers.iter().enumerate() {
        for (at, port) in indexed(container, "ports", &path.index(index)) {
            let number = int(port, "hostPort");
            if number == 0 {
                continue;
            }
            let key = format!(
                "{}/{}/{number}",
                text(port, "protocol"),
                text(port, "hostIP")
            );
            if !seen.insert(key.clone()) {
                errors.push(FieldError::duplicate(&at.child("hostPort"), key));
            }
        }
    }
}

/// `validateContainerCommon`.
fn common_rules(container: &Value, pod: &Pod<'_>, at: &Path, errors: &mut Errors) {
    let name = text(container, "name");
    if name.is_empty() {
        errors.push(FieldError::required(&at.child("name"), ""));
    } else {
        errors.extend(invalid(&at.child("name"), name, names::dns_label(name)));
    }
    errors.extend(common::required(container, "image", at));
    errors.extend(common::one_of(
        container,
        "terminationMessagePolicy",
        &["File", "FallbackToLogsOnError"],
        at,
    ));
    ports(container, at, errors);
    environment(container, at, errors);
    mounts(container, pod, at, errors);
    errors.extend(common::one_of(
        container,
        "imagePullPolicy",
        &["Always", "IfNotPresent", "Never"],
        at,
    ));
    resources(
        &container["resources"],
        pod.claims,
        &at.child("resources"),
        errors,
    );
    resize_policy(container, pod, at, errors);
    security_context(container, pod, &at.child("securityContext"), errors);
}

fn ports(container: &Value, at: &Path, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (at, port) in indexed(container, "ports", at) {
        let name = text(port, "name");
        if !name.is_empty() {
            let wrong = names::port_name(name);
            if !wrong.is_empty() {
                errors.extend(invalid(&at.child("name"), name, wrong));
            } else if !seen.insert(name) {
                errors.push(FieldError::duplicate(&at.child("name"), name));
            }
        }
        let number = int(port, "containerPort");
        if number == 0 {
            errors.push(FieldError::required(&at.child("containerPort"), ""));
        }
        for (field, number) in [
            ("containerPort", number),
            ("hostPort", int(port, "hostPort")),
        ] {
            if number != 0 {
                for message in names::port_number(number) {
                    errors.push(FieldError::invalid(&at.child(field), number, message));
                }
            }
        }
        errors.extend(common::one_of(
            port,
            "protocol",
            &["SCTP", "TCP", "UDP"],
            &at,
        ));
    }
}

fn mounts(container: &Value, pod: &Pod<'_>, at: &Path, errors: &mut Errors) {
    let devices = list(container, "volumeDevices");
    let path = at.child("volumeMounts");
    let mut seen = BTreeSet::new();
    for (at, mount) in indexed(container, "volumeMounts", at) {
        let (name, target) = (text(mount, "name"), text(mount, "mountPath"));
        errors.extend(common::required(mount, "name", &at));
        if !pod.volumes.contains_key(name) {
            errors.push(FieldError::not_found(&at.child("name"), name));
        }
        errors.extend(common::required(mount, "mountPath", &at));
        if !seen.insert(target) {
            errors.push(FieldError::invalid(
                &at.child("mountPath"),
                target,
                "must be unique",
            ));
        }
        if devices.iter().any(|device| device["name"] == name) {
            errors.push(FieldError::invalid(
                &at.child("name"),
                name,
                "must not already exist in volumeDevices",
            ));
        }
        if devices.iter().any(|device| device["devicePath"] == target) {
            errors.push(FieldError::invalid(
                &at.child("mountPath"),
                target,
                "must not already exist as a path in volumeDevices",
            ));
        }
        let (sub, expression) = (text(mount, "subPath"), text(mount, "subPathExpr"));
        if !sub.is_empty() {
            errors.extend(common::descending_path(sub, &path.child("subPath")));
        }
        if !expression.is_empty() {
            if !sub.is_empty() {
                errors.push(FieldError::invalid(
                    &at.child("subPathExpr"),
                    expression,
                    "subPathExpr and subPath are mutually exclusive",
                ));
            }
            errors.extend(common::descending_path(
                expression,
                &path.child("subPathExpr"),
            ));
        }
        if let Some(propagation) = mount["mountPropagation"].as_str() {
            let at = path.child("mountPropagation");
            let known = ["Bidirectional", "HostToContainer", "None"];
            if !known.contains(&propagation) {
                errors.push(FieldError::not_supported(&at, propagation, &known));
            }
            if propagation == "Bidirectional" && container["securityContext"]["privileged"] != true
            {
                errors.push(FieldError::forbidden(
                    &at,
                    "Bidirectional mount propagation is available only to privileged containers",
                ));
            }
        }
        if let Some(recursive) = mount["recursiveReadOnly"].as_str() {
            let at = path.child("recursiveReadOnly");
            match recursive {
                "Disabled" => {}
                "Enabled" | "IfPossible" => {
                    if mount["readOnly"] != true {
                        errors.push(FieldError::forbidden(
                            &at,
                            "may only be specified when readOnly is true",
                        ));
                    }
                    if !matches!(mount["mountPropagation"].as_str(), None | Some("None")) {
                        errors.push(FieldError::forbidden(
                            &at,
                            "may only be specified when mountPropagation is None or not specified",
                        ));
                    }
                }
                other => errors.push(FieldError::not_supported(
                    &at,
                    other,
                    &["Disabled", "Enabled", "IfPossible"],
                )),
            }
        }
    }
    let mut seen = BTreeSet::new();
    for (at, device) in indexed(container, "volumeDevices", at) {
        let (name, target) = (text(device, "name"), text(device, "devicePath"));
        errors.extend(common::required(device, "name", &at));
        match pod.volumes.get(name) {
            None => errors.push(FieldError::not_found(&at.child("name"), name)),
            Some(volume)
                if volume["persistentVolumeClaim"].is_null() && volume["ephemeral"].is_null() =>
            {
                errors.push(FieldError::invalid(
                    &at.child("name"),
                    name,
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
                ));
            }
            Some(_) => {}
        }
        errors.extend(common::required(device, "devicePath", &at));
        if !seen.insert(target) {
            errors.push(FieldError::invalid(
                &at.child("devicePath"),
                target,
                "must be unique",
            ));
        }
        if common::no_backsteps(target, &at).is_some() {
            errors.push(FieldError::invalid(
                &at.child("devicePath"),
                target,
                "can not contain backsteps ('..')",
            ));
        }
        let mounts = list(container, "volumeMounts");
        if mounts.iter().any(|mount| mount["name"] == name) {
            errors.push(FieldError::invalid(
                &at.child("name"),
                name,
                "must not already exist in volumeMounts",
            ));
        }
        if mounts.iter().any(|mount| mount["mountPath"] == target) {
            errors.push(FieldError::invalid(
                &at.child("devicePath"),
                target,
                "must not already exist as a path in volumeMounts",
            ));
        }
    }
}

/// `validateResourceRequirements` of a container.
pub(super) fn resources(
    resources: &Value,
    claims: &BTreeSet<String>,
    at: &Path,
    errors: &mut Errors,
) {
    let (limits_at, requests_at) = (at.child("limits"), at.child("requests"));
    let (mut compute, mut pages) = (false, false);
    let mut note = |name: &str| {
        compute |= matches!(name, "cpu" | "memory");
        pages |= name.starts_with("hugepages-");
    };
    let overcommits = |name: &str| common::is_native(name) && !name.starts_with("hugepages-");
    for (name, value) in entries(resources, "limits") {
        let at = limits_at.key(name);
        errors.extend(common::container_resource_name(name, &at));
        errors.extend(common::resource_quantity(name, value, &at));
        errors.extend(broken_page(name, value, &at));
        note(name);
    }
    for (name, value) in entries(resources, "requests") {
        let at = requests_at.key(name);
        errors.extend(common::container_resource_name(name, &at));
        errors.extend(common::resource_quantity(name, value, &at));
        let broken = broken_page(name, value, &at);
        note(name);
        let request = common::quantity(value);
        let limit = &resources["limits"][name];
        if limit.is_null() {
            if !overcommits(name) {
                errors.push(FieldError::required(
                    &limits_at,
                    "Limit must be set for non overcommitable resources",
                ));
            }
            errors.extend(broken);
            continue;
        }
        let limit = common::quantity(limit);
        let relation = if request != limit && !overcommits(name) {
            "equal to"
        } else if request > limit {
            "less than or equal to"
        } else {
            errors.extend(broken);
            continue;
        };
        errors.push(FieldError::invalid(
            &requests_at,
            request.to_string(),
            format!("must be {relation} {name} limit of {limit}"),
        ));
        errors.extend(broken);
    }
    if pages && !compute {
        errors.push(FieldError::forbidden(at, "HugePages require cpu or memory"));
    }
    claim_names(resources, claims, at, errors);
}

/// `validateResourceClaimNames`.
pub(super) fn claim_names(
    resources: &Value,
    claims: &BTreeSet<String>,
    at: &Path,
    errors: &mut Errors,
) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for (at, claim) in indexed(resources, "claims", at) {
        let (name, request) = (text(claim, "name"), text(claim, "request"));
        if name.is_empty() {
            errors.push(FieldError::required(&at, ""));
            continue;
        }
        if seen.contains(name) {
            errors.push(FieldError::duplicate(&at, name));
        } else {
            let mut key = name.to_owned();
            if !request.is_empty() {
                errors.extend(invalid(
                    &at.child("request"),
                    request,
                    names::dns_label(request),
                ));
                key = format!("{name}/{request}");
            }
            let part = format!("{name}/");
            if seen.contains(&key) {
                errors.push(FieldError::duplicate(&at, key.as_str()));
            } else if request.is_empty() {
                let overlaps = seen.iter().filter(|known| known.starts_with(&part));
                errors.extend(overlaps.map(|_| FieldError::duplicate(&at, name)));
            }
            seen.insert(key);
        }
        if !claims.contains(name) {
            let mut error = FieldError::not_found(&at, name);
            let known: Vec<&str> = claims.iter().map(String::as_str).collect();
            error.detail = "must be one of the names in pod.spec.resourceClaims".to_owned();
            if known.is_empty() {
                error.detail.push_str(" which is empty");
            } else {
                error.detail.push_str(&format!(": {}", known.join(", ")));
            }
            errors.push(error);
        }
    }
}

/// An amount of huge pages that is no whole number of pages.
fn broken_page(name: &str, value: &Value, at: &Path) -> Option<FieldError> {
    let page: crate::Quantity = name.strip_prefix("hugepages-")?.parse().ok()?;
    let amount = common::quantity(value);
    let (page, bytes) = (page.value(), amount.value());
    (page > 0 && bytes % page != 0).then(|| {
        let why = format!("{amount} is not positive integer multiple of {name}");
        FieldError::invalid(at, amount.to_string(), why)
    })
}

/// `validateResizePolicy`.
fn resize_policy(container: &Value, pod: &Pod<'_>, at: &Path, errors: &mut Errors) {
    let path = at.child("resizePolicy");
    let mut seen = BTreeSet::new();
    for (at, policy) in indexed(container, "resizePolicy", at) {
        let (name, restart) = (text(policy, "resourceName"), text(policy, "restartPolicy"));
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(&at, name));
        }
        let restarts = ["NotRequired", "RestartContainer"];
        for (value, known) in [(name, ["cpu", "memory"]), (restart, restarts)] {
            if value.is_empty() {
                errors.push(FieldError::required(&path, ""));
            } else if !known.contains(&value) {
                errors.push(FieldError::not_supported(&path, value, &known));
            }
        }
        if pod.restart_policy == "Never" && restart != "NotRequired" {
            errors.push(FieldError::invalid(
                &path,
                restart,
                "must be 'NotRequired' when pod `restartPolicy` is 'Never'",
            ));
        }
    }
}

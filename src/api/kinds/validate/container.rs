//! Containers of a pod.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::common;
use crate::kinds::value::{entries, indexed, int, invalid, list, text};
use crate::{FieldError, Path, meta, names};

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

const ENVIRONMENT_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

const VOLUME_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];

const CONTAINER_RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// `validateObjectFieldSelector`.
pub(super) fn field_reference(reference: &Value, volume: bool, at: &Path, errors: &mut Errors) {
    let (version, field) = (text(reference, "apiVersion"), text(reference, "fieldPath"));
    for (name, value) in [("apiVersion", version), ("fieldPath", field)] {
        if value.is_empty() {
            errors.push(FieldError::required(&at.child(name), ""));
            return;
        }
    }
    let at_field = at.child("fieldPath");
    let unknown = |label: &str| {
        FieldError::invalid(
            &at_field,
            field,
            format!("error converting fieldPath: field label not supported: {label}"),
        )
    };
    if version != "v1" {
        errors.push(FieldError::invalid(
            &at_field,
            field,
            format!("error converting fieldPath: unsupported pod version: {version}"),
        ));
        return;
    }
    let subscript = field
        .split_once("['")
        .and_then(|(path, rest)| Some((path, rest.strip_suffix("']")?)));
    if let Some((path, key)) = subscript {
        match path {
            "metadata.annotations" => {
                errors.extend(meta::label_name(&key.to_lowercase(), at));
            }
            "metadata.labels" => errors.extend(meta::label_name(key, at)),
            _ => errors.push(unknown(field)),
        }
        return;
    }
    let convertible = ENVIRONMENT_FIELDS.contains(&field)
        || VOLUME_FIELDS.contains(&field)
        || matches!(
            field,
            "spec.restartPolicy" | "spec.schedulerName" | "status.phase" | "spec.host"
        );
    let known = if volume {
        VOLUME_FIELDS
    } else {
        ENVIRONMENT_FIELDS
    };
    if !convertible {
        errors.push(unknown(field));
    } else if !known.contains(&field) {
        errors.push(FieldError::not_supported(&at_field, field, known));
    }
}

/// `validateContainerResourceFieldSelector`.
pub(super) fn resource_reference(reference: &Value, volume: bool, at: &Path, errors: &mut Errors) {
    if volume && text(reference, "containerName").is_empty() {
        errors.push(FieldError::required(&at.child("containerName"), ""));
        return;
    }
    let resource = text(reference, "resource");
    if resource.is_empty() {
        errors.push(FieldError::required(&at.child("resource"), ""));
    } else if !CONTAINER_RESOURCES.contains(&resource)
        && !resource.starts_with("limits.hugepages-")
        && !resource.starts_with("requests.hugepages-")
    {
        errors.push(FieldError::not_supported(
            &at.child("resource"),
            resource,
            CONTAINER_RESOURCES,
        ));
    }
}

fn environment(container: &Value, at: &Path, errors: &mut Errors) {
    for (at, variable) in indexed(container, "env", at) {
        let name = text(variable, "name");
        if name.is_empty() {
            errors.push(FieldError::required(&at.child("name"), ""));
        } else {
            errors.extend(invalid(&at.child("name"), name, names::env_var(name)));
        }
        let source = &variable["valueFrom"];
        if !source.is_object() {
            continue;
        }
        let at = at.child("valueFrom");
        let mut count = 0;
        if source["fieldRef"].is_object() {
            count += 1;
            field_reference(&source["fieldRef"], false, &at.child("fieldRef"), errors);
        }
        if source["resourceFieldRef"].is_object() {
            count += 1;
            resource_reference(
                &source["resourceFieldRef"],
                false,
                &at.child("resourceFieldRef"),
                errors,
            );
        }
        for kind in ["configMapKeyRef", "secretKeyRef"] {
            let reference = &source[kind];
            if !reference.is_object() {
                continue;
            }
            count += 1;
            let at = at.child(kind);
            let name = text(reference, "name");
            errors.extend(invalid(&at.child("name"), name, names::dns_subdomain(name)));
            let key = text(reference, "key");
            if key.is_empty() {
                errors.push(FieldError::required(&at.child("key"), ""));
            } else {
                errors.extend(invalid(&at.child("key"), key, names::config_map_key(key)));
            }
        }
        if source["fileKeyRef"].is_object() {
            count += 1;
            file_key(&source["fileKeyRef"], &at.child("fileKeyRef"), errors);
        }
        let message = if count == 0 {
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        } else if !text(variable, "value").is_empty() {
            "may not be specified when `value` is not empty"
        } else if count > 1 {
            "may not have more than one field specified at a time"
        } else {
            continue;
        };
        errors.push(FieldError::invalid(&at, "", message));
    }
    let path = at.child("envFrom");
    for (at, source) in indexed(container, "envFrom", at) {
        let prefix = text(source, "prefix");
        if !prefix.is_empty() {
            errors.extend(invalid(&at.child("prefix"), prefix, names::env_var(prefix)));
        }
        let mut count = 0;
        for kind in ["configMapRef", "secretRef"] {
            if source[kind].is_object() {
                count += 1;
                let at = at.child(kind).child("name");
                match text(&source[kind], "name") {
                    "" => errors.push(FieldError::required(&at, "")),
                    // Upstream takes the name for the beginning of one.
                    name => errors.extend(invalid(
                        &at,
                        name,
                        crate::meta::NameRule::Subdomain.check(name, true),
                    )),
                }
            }
        }
        if count != 1 {
            let message = if count == 0 {
                "must specify one of: `configMapRef` or `secretRef`"
            } else {
                "may not have more than one field specified at a time"
            };
            errors.push(FieldError::invalid(&path, "", message));
        }
    }
}

/// `validateFileKeySelector`.
fn file_key(reference: &Value, at: &Path, errors: &mut Errors) {
    let field = |name: &str| (at.child(name), text(reference, name));
    match field("key") {
        (at, "") => errors.push(FieldError::required(&at, "")),
        (at, key) => errors.extend(invalid(&at, key, names::env_var(key))),
    }
    match field("volumeName") {
        (at, "") => errors.push(FieldError::required(&at, "")),
        (at, name) => errors.extend(invalid(&at, name, names::dns_label(name))),
    }
    match field("path") {
        (at, "") => errors.push(FieldError::required(&at, "")),
        (at, path) => errors.extend(common::no_backsteps(path, &at)),
    }
}

/// `validateFileKeyRefVolumes`: files of variables lie in empty directories.
pub(super) fn file_volumes(spec: &Value, path: &Path, errors: &mut Errors) {
    for kind in ["initContainers", "containers", "ephemeralContainers"] {
        for (at, container) in indexed(spec, kind, path) {
            for (at, variable) in indexed(container, "env", &at) {
                let reference = &variable["valueFrom"]["fileKeyRef"];
                if !reference.is_object() {
                    continue;
                }
                let name = text(reference, "volumeName");
                let at = at
                    .child("valueFrom")
                    .child("fileKeyRef")
                    .child("volumeName");
                let volumes = list(spec, "volumes");
                match volumes.iter().rfind(|volume| text(volume, "name") == name) {
                    None => errors.push(FieldError::not_found(&at, name)),
                    Some(volume) if !volume["emptyDir"].is_object() => {
                        errors.push(FieldError::invalid(
                            &at,
                            name,
                            "referenced volume must be of type emptyDir",
                        ));
                    }
                    Some(_) => {}
                }
            }
        }
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

/// `validateSeccompProfileField`.
pub(super) fn seccomp(profile: &Value, at: &Path, errors: &mut Errors) {
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
pub(super) fn app_armor(profile: &Value, at: &Path, errors: &mut Errors) {
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

fn security_context(container: &Value, pod: &Pod<'_>, at: &Path, errors: &mut Errors) {
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
    super::windows::options(context, at, errors);
    app_armor(
        &context["appArmorProfile"],
        &at.child("appArmorProfile"),
        errors,
    );
}

fn lifecycle(container: &Value, pod: &Pod<'_>, at: &Path, errors: &mut Errors) {
    let lifecycle = &container["lifecycle"];
    let at = at.child("lifecycle");
    for name in ["postStart", "preStop"] {
        if lifecycle[name].is_object() {
            handler(&lifecycle[name], pod, &at.child(name), errors);
        }
    }
}

fn probes(container: &Value, pod: &Pod<'_>, at: &Path, errors: &mut Errors) {
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

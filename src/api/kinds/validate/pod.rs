//! Pods and pod templates: `ValidatePodSpec` and what it calls.

use std::collections::BTreeSet;

use serde_json::Value;

use super::container::{self, Pod as Holder};
use super::{common, volume_source};
use crate::kinds::value::{blank, indexed, int, invalid, list, text};
use crate::{FieldError, Path, meta, names};

/// A pod about to be created.
pub(in crate::kinds) fn pod(pod: &Value) -> Vec<FieldError> {
    let path = Path::new("spec");
    let mut errors = metadata_and_spec(pod);
    let spec = &pod["spec"];
    if !blank(&spec["ephemeralContainers"]) {
        errors.push(FieldError::forbidden(
            &path.child("ephemeralContainers"),
            "cannot be set on create",
        ));
    }
    if !text(spec, "nodeName").is_empty() && !blank(&spec["schedulingGates"]) {
        errors.push(FieldError::forbidden(
            &path.child("nodeName"),
            "cannot be set until all schedulingGates have been cleared",
        ));
    }
    errors
}

/// What holds of a pod on every write.
pub(super) fn metadata_and_spec(pod: &Value) -> Vec<FieldError> {
    let path = Path::new("spec");
    let spec_value = &pod["spec"];
    let mut errors = spec(spec_value, text(&pod["metadata"], "name"), true, &path);
    if text(spec_value, "serviceAccountName").is_empty() {
        for (at, volume) in indexed(spec_value, "volumes", &path) {
            let at = at.child("projected");
            for (at, source) in indexed(&volume["projected"], "sources", &at) {
                if source["serviceAccountToken"].is_object() {
                    errors.push(FieldError::forbidden(
                        &at.child("serviceAccountToken"),
                        "must not be specified when serviceAccountName is not set",
                    ));
                }
            }
        }
    }
    for kind in ["containers", "initContainers"] {
        for (at, container) in indexed(spec_value, kind, &path) {
            let image = text(container, "image");
            if image.trim() != image {
                errors.push(FieldError::invalid(
                    &at.child("image"),
                    image,
                    "must not have leading or trailing whitespace",
                ));
            }
        }
    }
    errors
}

/// `ValidatePodTemplateSpec`.
pub(in crate::kinds) fn template(template: &Value, path: &Path) -> Vec<FieldError> {
    let metadata = &template["metadata"];
    let mut errors = meta::labels(&metadata["labels"], &path.child("labels"));
    errors.extend(meta::annotations(
        &metadata["annotations"],
        &path.child("annotations"),
    ));
    let at = path.child("spec");
    errors.extend(spec(&template["spec"], "", false, &at));
    if !blank(&template["spec"]["ephemeralContainers"]) {
        errors.push(FieldError::forbidden(
            &at.child("ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        ));
    }
    errors
}

/// `ValidatePodSpec`. `name` is the pod's, empty for a template.
fn spec(spec: &Value, name: &str, is_pod: bool, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if spec["terminationGracePeriodSeconds"].is_null() {
        errors.push(FieldError::required(
            &path.child("terminationGracePeriodSeconds"),
            "",
        ));
    }
    let volumes = volume_source::volumes(spec, name, &path.child("volumes"), &mut errors);
    let claims = resource_claims(spec, path, &mut errors);
    pod_resources(spec, &claims, path, &mut errors);
    let holder = Holder {
        volumes: &volumes,
        claims: &claims,
        grace: int(spec, "terminationGracePeriodSeconds"),
        restart_policy: text(spec, "restartPolicy"),
        host_users: spec["hostUsers"] != false,
    };
    container::containers(spec, &holder, path, &mut errors);
    container::init_containers(spec, &holder, path, &mut errors);
    container::ephemeral_containers(spec, &holder, path, &mut errors);
    if spec["hostNetwork"] == true {
        for (at, container) in indexed(spec, "containers", path) {
            for (at, port) in indexed(container, "ports", &at) {
                let (host, own) = (int(port, "hostPort"), int(port, "containerPort"));
                if (is_pod || host != 0) && host != own {
                    errors.push(FieldError::invalid(
                        &at.child("hostPort"),
                        host,
                        "must match `containerPort` when `hostNetwork` is true",
                    ));
                }
            }
        }
    }
    errors.extend(common::one_of(
        spec,
        "restartPolicy",
        &["Always", "OnFailure", "Never"],
        path,
    ));
    errors.extend(common::one_of(
        spec,
        "dnsPolicy",
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
        path,
    ));
    errors.extend(meta::labels(
        &spec["nodeSelector"],
        &path.child("nodeSelector"),
    ));
    security_context(spec, &path.child("securityContext"), &mut errors);
    super::affinity::affinity(&spec["affinity"], &path.child("affinity"), &mut errors);
    dns_config(spec, &path.child("dnsConfig"), &mut errors);
    for (at, gate) in indexed(spec, "readinessGates", path) {
        let kind = text(gate, "conditionType");
        errors.extend(invalid(
            &at.child("conditionType"),
            kind,
            names::qualified_name(kind),
        ));
    }
    let mut seen = BTreeSet::new();
    for (at, gate) in indexed(spec, "schedulingGates", path) {
        let name = text(gate, "name");
        errors.extend(invalid(&at, name, names::qualified_name(name)));
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(&at, name));
        }
    }
    super::affinity::spread_constraints(spec, path, &mut errors);
    super::windows::host_processes(spec, path, &mut errors);
    host_users(spec, path, &mut errors);
    hostname_override(spec, path, &mut errors);
    let check = |name: &str, rule: fn(&str) -> Vec<String>, errors: &mut Vec<FieldError>| {
        let value = text(spec, name);
        if !value.is_empty() {
            errors.extend(invalid(&path.child(name), value, rule(value)));
        }
    };
    check("serviceAccountName", names::dns_subdomain, &mut errors);
    check("nodeName", names::dns_subdomain, &mut errors);
    if let Some(seconds) = spec["activeDeadlineSeconds"].as_i64()
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        errors.push(FieldError::invalid(
            &path.child("activeDeadlineSeconds"),
            seconds,
            names::range_error(1, i32::MAX.into()),
        ));
    }
    check("hostname", names::dns_label, &mut errors);
    check("subdomain", names::dns_label, &mut errors);
    errors.extend(tolerations(spec, path));
    for (at, alias) in indexed(spec, "hostAliases", path) {
        errors.extend(common::ip(text(alias, "ip"), &at.child("ip")));
        for (index, host) in list(alias, "hostnames").iter().enumerate() {
            let host = host.as_str().unwrap_or_default();
            errors.extend(invalid(
                &at.child("hostnames").index(index),
                host,
                names::dns_subdomain(host),
            ));
        }
    }
    check("priorityClassName", names::dns_subdomain, &mut errors);
    if let Some(class) = spec["runtimeClassName"].as_str() {
        errors.extend(invalid(
            &path.child("runtimeClassName"),
            class,
            names::dns_subdomain(class),
        ));
    }
    if !spec["preemptionPolicy"].is_null() {
        errors.extend(common::one_of(
            spec,
            "preemptionPolicy",
            &["PreemptLowerPriority", "Never"],
            path,
        ));
    }
    if spec["overhead"].is_object() {
        // Judged as the limits of a container, which its paths show.
        let at = path.child("overhead").child("limits");
        common::resource_list(&spec["overhead"], &at, &mut errors);
    }
    operating_system(spec, path, &mut errors);
    container::file_volumes(spec, path, &mut errors);
    errors
}

/// `validatePodResources`: what the pod as a whole may ask for.
fn pod_resources(
    spec: &Value,
    claims: &BTreeSet<String>,
    path: &Path,
    errors: &mut Vec<FieldError>,
) {
    let resources = &spec["resources"];
    if !resources.is_object() {
        return;
    }
    let at = path.child("resources");
    if spec["os"]["name"] == "windows" {
        errors.push(FieldError::forbidden(
            &at,
            "may not be set for a windows pod",
        ));
        return;
    }
    if !resources["claims"].is_null() {
        errors.push(FieldError::forbidden(
            &at.child("claims"),
            "claims may not be set for Resources at pod-level",
        ));
    }
    for kind in ["limits", "requests"] {
        for (name, value) in crate::kinds::value::entries(resources, kind) {
            let at = at.child(kind).key(name);
            let wrong = common::resource_name(name, &at);
            let supported = matches!(&**name, "cpu" | "memory") || name.starts_with("hugepages-");
            if !wrong.is_empty() {
                errors.extend(wrong);
            } else if !supported {
                errors.push(FieldError::not_supported(
                    &at,
                    name.as_str(),
                    &["cpu", "hugepages-", "memory"],
                ));
            }
            errors.extend(common::resource_quantity(name, value, &at));
            let (request, limit) = (&resources["requests"][name], &resources["limits"][name]);
            if kind == "requests" && !limit.is_null() {
                let (request, limit) = (common::quantity(request), common::quantity(limit));
                if request > limit {
                    errors.push(FieldError::invalid(
                        &path.child("resources").child("requests"),
                        request.to_string(),
                        format!("must be less than or equal to {name} limit of {limit}"),
                    ));
                }
            }
        }
    }
    container::claim_names(resources, claims, &at, errors);
}

/// Names of the pod's resource claims.
fn resource_claims(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    for (at, claim) in indexed(spec, "resourceClaims", path) {
        let name = text(claim, "name");
        if name.is_empty() {
            errors.push(FieldError::required(&at.child("name"), ""));
        } else if !seen.insert(name.to_owned()) {
            errors.push(FieldError::duplicate(&at.child("name"), name));
        } else {
            errors.extend(invalid(&at.child("name"), name, names::dns_label(name)));
        }
        let (one, template) = (
            claim["resourceClaimName"].as_str(),
            claim["resourceClaimTemplateName"].as_str(),
        );
        let both =
            "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
        match (one, template) {
            (Some(_), Some(_)) => errors.push(FieldError::invalid(&at, claim.clone(), both)),
            (None, None) => errors.push(FieldError::invalid(
                &at,
                claim.clone(),
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            )),
            _ => {}
        }
        for (field, value) in [
            ("resourceClaimName", one),
            ("resourceClaimTemplateName", template),
        ] {
            if let Some(value) = value {
                errors.extend(invalid(
                    &at.child(field),
                    value,
                    names::dns_subdomain(value),
                ));
            }
        }
    }
    seen
}

fn id(value: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    if let Some(number) = value.as_i64() {
        for message in names::in_range(number, 0, i32::MAX.into()) {
            errors.push(FieldError::invalid(path, number, message));
        }
    }
}

fn security_context(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let context = &spec["securityContext"];
    for name in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(&context[name], &path.child(name), errors);
    }
    for (index, group) in list(context, "supplementalGroups").iter().enumerate() {
        id(
            group,
            &path.child("supplementalGroups").index(index),
            errors,
        );
    }
    if spec["shareProcessNamespace"] == true && spec["hostPID"] == true {
        errors.push(FieldError::invalid(
            &path.child("shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        ));
    }
    let mut seen = BTreeSet::new();
    for (at, sysctl) in indexed(context, "sysctls", path) {
        let name = text(sysctl, "name");
        if name.is_empty() {
            errors.push(FieldError::required(&at.child("name"), ""));
        } else if !valid_sysctl(name) {
            errors.push(FieldError::invalid(
                &at.child("name"),
                name,
                "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
            ));
        } else if !seen.insert(name) {
            errors.push(FieldError::duplicate(&at.child("name"), name));
        }
    }
    if let Some(policy) = context["fsGroupChangePolicy"].as_str()
        && !matches!(policy, "OnRootMismatch" | "Always")
    {
        errors.push(FieldError::not_supported(
            &path.child("fsGroupChangePolicy"),
            policy,
            &["Always", "OnRootMismatch"],
        ));
    }
    container::seccomp(
        &context["seccompProfile"],
        &path.child("seccompProfile"),
        errors,
    );
    super::windows::options(context, path, errors);
    container::app_armor(
        &context["appArmorProfile"],
        &path.child("appArmorProfile"),
        errors,
    );
    if let Some(policy) = context["supplementalGroupsPolicy"].as_str()
        && !matches!(policy, "Merge" | "Strict")
    {
        errors.push(FieldError::not_supported(
            &path.child("supplementalGroupsPolicy"),
            policy,
            &["Merge", "Strict"],
        ));
    }
    if let Some(policy) = context["seLinuxChangePolicy"].as_str()
        && policy != "Recursive"
    {
        errors.push(FieldError::not_supported(
            &path.child("seLinuxChangePolicy"),
            policy,
            &["Recursive"],
        ));
    }
}

fn valid_sysctl(name: &str) -> bool {
    let part = |part: &str| {
        let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = part.as_bytes();
        matches!((bytes.first(), bytes.last()), (Some(a), Some(b)) if edge(*a) && edge(*b))
            && bytes.iter().all(|b| edge(*b) || b"-_".contains(b))
    };
    name.len() <= 253 && name.split(['.', '/']).all(part)
}

fn dns_config(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let config = &spec["dnsConfig"];
    if spec["dnsPolicy"] == "None" {
        if !config.is_object() {
            errors.push(FieldError::required(
                path,
                "must provide `dnsConfig` when `dnsPolicy` is None",
            ));
            return;
        }
        if list(config, "nameservers").is_empty() {
            errors.push(FieldError::required(
                &path.child("nameservers"),
                "must provide at least one DNS nameserver when `dnsPolicy` is None",
            ));
            return;
        }
    }
    let at = path.child("nameservers");
    if list(config, "nameservers").len() > 3 {
        errors.push(FieldError::invalid(
            &at,
            config["nameservers"].clone(),
            "must not have more than 3 nameservers",
        ));
    }
    for (index, server) in list(config, "nameservers").iter().enumerate() {
        errors.extend(common::ip(
            server.as_str().unwrap_or_default(),
            &at.index(index),
        ));
    }
    let at = path.child("searches");
    let searches: Vec<&str> = list(config, "searches")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    if searches.len() > 32 {
        errors.push(FieldError::invalid(
            &at,
            config["searches"].clone(),
            "must not have more than 32 search paths",
        ));
    }
    if searches.join(" ").len() > 2048 {
        errors.push(FieldError::invalid(
            &at,
            config["searches"].clone(),
            "must not have more than 2048 characters (including spaces) in the search list",
        ));
    }
    for (index, search) in searches.iter().enumerate() {
        if *search != "." {
            let search = search.strip_suffix('.').unwrap_or(search);
            errors.extend(invalid(
                &at.index(index),
                search,
                names::dns_subdomain_underscore(search),
            ));
        }
    }
    for (at, option) in indexed(config, "options", path) {
        if text(option, "name").is_empty() {
            errors.push(FieldError::required(&at, "must not be empty"));
        }
    }
}

fn host_users(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    if spec["hostUsers"] != false {
        return;
    }
    for (field, name) in [
        ("hostNetwork", "hostNetwork"),
        ("hostPID", "HostPID"),
        ("hostIPC", "HostIPC"),
    ] {
        if spec[field] == true {
            errors.push(FieldError::forbidden(
                &path.child(name),
                "when `hostUsers` is false",
            ));
        }
    }
}

fn hostname_override(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let Some(name) = spec["hostnameOverride"].as_str() else {
        return;
    };
    let at = path.child("hostnameOverride");
    for (field, message) in [
        (
            "setHostnameAsFQDN",
            "may not be specified when setHostnameAsFQDN is true",
        ),
        (
            "hostNetwork",
            "may not be specified when hostNetwork is true",
        ),
    ] {
        if spec[field] == true {
            errors.push(FieldError::forbidden(&at, message));
        }
    }
    if name.len() > 64 {
        errors.push(FieldError::too_long(&at, 64));
    }
    errors.extend(invalid(&at, name, names::dns_subdomain(name)));
}

/// `ValidateTolerations`.
pub(super) fn tolerations(spec: &Value, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (at, toleration) in indexed(spec, "tolerations", path) {
        let (key, operator) = (text(toleration, "key"), text(toleration, "operator"));
        let (value, effect) = (text(toleration, "value"), text(toleration, "effect"));
        if !key.is_empty() {
            errors.extend(meta::label_name(key, &at.child("key")));
        } else if operator != "Exists" {
            errors.push(FieldError::invalid(
                &at.child("operator"),
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            ));
        }
        if !toleration["tolerationSeconds"].is_null() && effect != "NoExecute" {
            errors.push(FieldError::invalid(
                &at.child("effect"),
                effect,
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            ));
        }
        let at_operator = at.child("operator");
        match operator {
            "Equal" | "" => {
                let wrong = names::label_value(value);
                if !wrong.is_empty() {
                    errors.push(FieldError::invalid(&at_operator, value, wrong.join(";")));
                }
            }
            "Exists" if !value.is_empty() => errors.push(FieldError::invalid(
                &at_operator,
                value,
                "value must be empty when `operator` is 'Exists'",
            )),
            "Exists" => {}
            "Lt" | "Gt" => errors.push(FieldError::not_supported(
                &at_operator,
                operator,
                &["Equal", "Exists", "Lt", "Gt"],
            )),
            _ => errors.push(FieldError::not_supported(
                &at_operator,
                operator,
                &["Equal", "Exists"],
            )),
        }
        if !effect.is_empty() {
            errors.extend(common::one_of(
                toleration,
                "effect",
                &["NoSchedule", "PreferNoSchedule", "NoExecute"],
                &at,
            ));
        }
    }
    errors
}

fn operating_system(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let system = &spec["os"];
    if !system.is_object() {
        return;
    }
    let at = path.child("os");
    match text(system, "name") {
        "" => errors.push(FieldError::required(&at.child("name"), "")),
        "linux" => {
            for (holder, path) in std::iter::once((spec, path.clone())).chain(
                ["containers", "initContainers", "ephemeralContainers"]
                    .into_iter()
                    .flat_map(|kind| indexed(spec, kind, path).map(|(at, it)| (it, at))),
            ) {
                if !holder["securityContext"]["windowsOptions"].is_null() {
                    errors.push(FieldError::forbidden(
                        &path.child("securityContext").child("windowsOptions"),
                        "windows options cannot be set for a linux pod",
                    ));
                }
            }
        }
        "windows" => {}
        other => errors.push(FieldError::not_supported(&at, other, &["linux", "windows"])),
    }
}

//! Status of a pod, as those that run it report it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use super::common;
use crate::kinds::value::{blank, indexed, int, invalid, list, text};
use crate::{ErrorType, FieldError, Path, names};

type Errors = Vec<FieldError>;

/// Longest message about the health of a resource.
const MESSAGE_MAX: usize = 1024;

/// `ValidatePodStatusUpdate`.
pub(in crate::kinds) fn status_update(new: &Value, old: &Value) -> Errors {
    let mut errors = Vec::new();
    let path = Path::new("status");
    let (spec, now, before) = (&new["spec"], &new["status"], &old["status"]);
    conditions(now, &path, &mut errors);
    let (node, at) = (
        text(now, "nominatedNodeName"),
        path.child("nominatedNodeName"),
    );
    if !node.is_empty() && node != text(before, "nominatedNodeName") {
        errors.extend(invalid(&at, node, names::dns_subdomain(node)));
        if !text(&old["spec"], "nodeName").is_empty() {
            errors.push(FieldError::forbidden(
                &at,
                "may not be set on pods that are already bound to a node",
            ));
        }
    }
    errors.extend(generation(now, &path));
    if text(now, "qosClass") != text(before, "qosClass") {
        errors.push(FieldError::invalid(
            &path.child("qosClass"),
            text(now, "qosClass"),
            "field is immutable",
        ));
    }
    transitions(now, before, spec, &path, &mut errors);
    claims(now, spec, &path, &mut errors);
    addresses(now, before, "podIPs", &path, &mut errors);
    let first = list(now, "hostIPs").first().map(|host| text(host, "ip"));
    if let Some(first) = first.filter(|first| *first != text(now, "hostIP")) {
        errors.push(FieldError::invalid(
            &path.child("hostIPs").index(0).child("ip"),
            first,
            "must be equal to `hostIP`",
        ));
    }
    addresses(now, before, "hostIPs", &path, &mut errors);
    for kind in STATUSES {
        for (at, status) in indexed(now, kind.0, &path) {
            user(status, spec, &at.child("user").child("linux"), &mut errors);
        }
    }
    for kind in &STATUSES[..2] {
        for (at, status) in indexed(now, kind.0, &path) {
            health(status, list(spec, kind.1), &at, &mut errors);
        }
    }
    for (at, status) in indexed(now, "ephemeralContainerStatuses", &path) {
        if !list(status, "allocatedResourcesStatus").is_empty() {
            errors.push(FieldError::forbidden(
                &at.child("allocatedResourcesStatus"),
                "must not be specified in container status",
            ));
        }
    }
    errors
}

/// Lists of statuses, and of the containers they tell of.
const STATUSES: &[(&str, &str)] = &[
    ("containerStatuses", "containers"),
    ("initContainerStatuses", "initContainers"),
    ("ephemeralContainerStatuses", "ephemeralContainers"),
];

fn generation(holder: &Value, at: &Path) -> Option<FieldError> {
    let number = int(holder, "observedGeneration");
    (number < 0).then(|| {
        FieldError::invalid(
            &at.child("observedGeneration"),
            number,
            "must be a non-negative integer",
        )
    })
}

/// `validatePodConditions`.
fn conditions(status: &Value, path: &Path, errors: &mut Errors) {
    for (at, condition) in indexed(status, "conditions", path) {
        errors.extend(generation(condition, &at));
        let kind = text(condition, "type");
        if !matches!(kind, "PodScheduled" | "Ready" | "Initialized") {
            errors.extend(invalid(
                &at.child("Type"),
                kind,
                names::qualified_name(kind),
            ));
        }
    }
}

/// A container that has ended and shall not start again stays ended.
fn transitions(now: &Value, before: &Value, spec: &Value, path: &Path, errors: &mut Errors) {
    let all_restart = ["initContainers", "containers"]
        .iter()
        .flat_map(|kind| list(spec, kind))
        .flat_map(|container| list(container, "restartPolicyRules"))
        .any(|rule| rule["action"] == "RestartAllContainers");
    for (kind, containers) in STATUSES {
        let ephemeral = *kind == "ephemeralContainerStatuses";
        if all_restart && !ephemeral {
            continue;
        }
        for (at, was) in indexed(before, kind, path) {
            let ended = &was["state"]["terminated"];
            let known = list(now, kind)
                .iter()
                .find(|status| status["name"] == was["name"]);
            let Some(status) = known.filter(|_| ended.is_object()) else {
                continue;
            };
            let restarts = list(spec, containers)
                .iter()
                .find(|container| container["name"] == was["name"])
                .is_some_and(|container| restarts(container, spec, int(ended, "exitCode")));
            if status["state"]["terminated"].is_null() && (ephemeral || !restarts) {
                errors.push(FieldError::forbidden(
                    &at.child("state"),
                    "may not be transitioned to non-terminated state",
                ));
            }
        }
    }
}

/// `ContainerShouldRestart`: whether a container that ended so starts again.
fn restarts(container: &Value, pod: &Value, code: i64) -> bool {
    let policy = container["restartPolicy"].as_str();
    let matched = list(container, "restartPolicyRules").iter().any(|rule| {
        let codes = &rule["exitCodes"];
        let named = list(codes, "values").iter().any(|value| *value == code);
        match text(codes, "operator") {
            "In" => named,
            "NotIn" => !named,
            _ => false,
        }
    });
    if policy.is_some() && matched {
        return true;
    }
    match policy.unwrap_or_else(|| text(pod, "restartPolicy")) {
        "Never" => false,
        "OnFailure" => code != 0,
        _ => true,
    }
}

/// `validatePodResourceClaimStatuses` and
/// `validatePodExtendedResourceClaimStatus`.
fn claims(status: &Value, spec: &Value, path: &Path, errors: &mut Errors) {
    let claim_name = |at: &Path, name: &str| invalid(at, name, names::dns_subdomain(name));
    let mut seen = BTreeSet::new();
    for (at, claim) in indexed(status, "resourceClaimStatuses", path) {
        let (name, at_name) = (text(claim, "name"), at.child("name"));
        if !list(spec, "resourceClaims")
            .iter()
            .any(|known| known["name"] == name)
        {
            errors.push(FieldError::invalid(
                &at_name,
                name,
                "must match the name of an entry in `spec.resourceClaims`",
            ));
        }
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(&at_name, name));
        }
        if let Some(name) = claim["resourceClaimName"].as_str() {
            errors.extend(claim_name(&at.child("resourceClaimName"), name));
        }
    }
    let extended = &status["extendedResourceClaimStatus"];
    if !extended.is_object() {
        return;
    }
    let path = path.child("extendedResourceClaimStatus");
    if list(extended, "requestMappings").is_empty() {
        errors.push(FieldError::required(
            &path.child("requestMappings"),
            "at least one request mapping is required",
        ));
    }
    let mut seen = BTreeSet::new();
    for (at, mapping) in indexed(extended, "requestMappings", &path) {
        let key = ["containerName", "resourceName", "requestName"].map(|name| text(mapping, name));
        let [container, resource, request] = key;
        let holder = ["containers", "initContainers"]
            .iter()
            .flat_map(|kind| list(spec, kind))
            .find(|known| known["name"] == container);
        match holder {
            Some(holder) if holder["resources"]["requests"][resource].is_null() => {
                errors.push(FieldError::invalid(
                    &at.child("resourceName"),
                    resource,
                    "must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests",
                ));
            }
            Some(_) => {}
            None => errors.push(FieldError::invalid(
                &at.child("containerName"),
                container,
                "must match the name of an entry in spec.initContainers.name or spec.containers.name",
            )),
        }
        errors.extend(invalid(
            &path.child("requestName"),
            request,
            names::dns_label(request),
        ));
        if !seen.insert(key) {
            for (name, value) in ["containerName", "resourceName", "requestName"]
                .iter()
                .zip(key)
            {
                errors.push(FieldError::duplicate(&at.child(name), value));
            }
        }
    }
    let at = path.child("resourceClaimName");
    match text(extended, "resourceClaimName") {
        "" => errors.push(FieldError::required(&at, "")),
        name => errors.extend(claim_name(&at, name)),
    }
}

/// `validatePodIPs` and `validateHostIPs`: addresses, of each family one.
fn addresses(now: &Value, before: &Value, name: &str, path: &Path, errors: &mut Errors) {
    let all = list(now, name);
    for (at, entry) in indexed(now, name, path) {
        let kept = list(before, name)
            .iter()
            .any(|known| text(known, "ip") == text(entry, "ip"));
        if !kept {
            errors.extend(common::ip(text(entry, "ip"), &at));
        }
    }
    if all.len() < 2 {
        return;
    }
    let at = path.child(name);
    let mut families = BTreeSet::new();
    for (index, entry) in all.iter().enumerate() {
        let Some(address) = common::parse_ip(text(entry, "ip")) else {
            let why = format!(
                "failed to check for dual stack with error:invalid IP[{index}]: {}",
                text(entry, "ip")
            );
            errors.push(FieldError::new(ErrorType::Internal, &at, "", why));
            families.clear();
            break;
        };
        families.insert(matches!(address, IpAddr::V6(_)));
    }
    if families.len() < 2 || all.len() > 2 {
        errors.push(FieldError::invalid(
            &at,
            now[name].clone(),
            "may specify no more than one IP for each IP family",
        ));
    }
}

/// `validateContainerStatusUsers`.
fn user(status: &Value, spec: &Value, at: &Path, errors: &mut Errors) {
    let user = &status["user"]["linux"];
    if !user.is_object() {
        return;
    }
    match spec["os"]["name"].as_str() {
        Some("windows") => {
            errors.push(FieldError::forbidden(at, "cannot be set for a windows pod"));
        }
        None | Some("linux") => {
            let groups = list(user, "supplementalGroups").iter().enumerate();
            let groups =
                groups.map(|(index, id)| (at.child("supplementalGroups").index(index), id));
            let own = ["uid", "gid"].map(|name| (at.child(name), &user[name]));
            for (at, id) in own.into_iter().chain(groups) {
                let id = id.as_i64().unwrap_or_default();
                for message in names::in_range(id, 0, i32::MAX.into()) {
                    errors.push(FieldError::invalid(&at, id, message));
                }
            }
        }
        Some(_) => {}
    }
}

/// `validateContainerStatusAllocatedResourcesStatus`.
fn health(status: &Value, containers: &[Value], at: &Path, errors: &mut Errors) {
    let container = containers
        .iter()
        .find(|container| container["name"] == status["name"]);
    for (at, resource) in indexed(status, "allocatedResourcesStatus", at) {
        let name = text(resource, "name");
        if let Some(container) = container {
            let (found, message) = if name.starts_with("claim:") {
                let found = list(&container["resources"], "claims").iter().any(|claim| {
                    let request = text(claim, "request");
                    let slash = if request.is_empty() { "" } else { "/" };
                    name == format!("claim:{}{slash}{request}", text(claim, "name"))
                });
                (
                    found,
                    "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty",
                )
            } else {
                (
                    !blank(&container["resources"]["requests"][name]),
                    "must match one of the container's resource requests",
                )
            };
            if !found {
                errors.push(FieldError::invalid(&at.child("name"), name, message));
            }
        }
        let mut seen = BTreeSet::new();
        for (at, device) in indexed(resource, "resources", &at) {
            errors.extend(match text(device, "health") {
                "Healthy" | "Unhealthy" | "Unknown" => None,
                other => Some(FieldError::not_supported(
                    &at.child("health"),
                    other,
                    &["Healthy", "Unhealthy", "Unknown"],
                )),
            });
            errors.extend(match device["message"].as_str() {
                Some("") => Some(FieldError::required(
                    &at.child("message"),
                    "must be non-empty if specified",
                )),
                Some(long) if long.len() > MESSAGE_MAX => {
                    Some(FieldError::too_long(&at.child("message"), MESSAGE_MAX))
                }
                _ => None,
            });
            let id = text(device, "resourceID");
            if !seen.insert(id) {
                errors.push(FieldError::duplicate(&at.child("resourceID"), id));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(status: Value, expected: &[&str]) {
        let spec = json!({
            "restartPolicy": "OnFailure",
            "containers": [{"name": "a"}, {"name": "b", "restartPolicy": "Never"}],
        });
        let ended = |name: &str| json!({"name": name, "state": {"terminated": {"exitCode": 1}}});
        let old = json!({"spec": spec, "status": {
            "qosClass": "Burstable",
            "podIPs": [{"ip": "kept"}],
            "containerStatuses": [ended("a"), ended("b")],
        }});
        let mut new = old.clone();
        for (name, value) in status.as_object().into_iter().flatten() {
            new["status"][name] = value.clone();
        }
        let errors = status_update(&new, &old);
        let found: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(found, expected, "{status}");
    }

    #[test]
    fn statuses() {
        check(json!({}), &[]);
        check(
            json!({"conditions": [{"type": "Ready"}, {"type": "example.com/up", "observedGeneration": -1}]}),
            &[
                "status.conditions[1].observedGeneration: Invalid value: -1: must be a non-negative integer",
            ],
        );
        check(
            json!({"qosClass": "Guaranteed"}),
            &["status.qosClass: Invalid value: \"Guaranteed\": field is immutable"],
        );
        check(
            json!({"containerStatuses": [{"name": "b"}, {"name": "a"}]}),
            &[
                "status.containerStatuses[1].state: Forbidden: may not be transitioned to non-terminated state",
            ],
        );
        check(
            json!({"hostIP": "10.0.0.1", "hostIPs": [{"ip": "10.0.0.2"}]}),
            &["status.hostIPs[0].ip: Invalid value: \"10.0.0.2\": must be equal to `hostIP`"],
        );
        check(
            json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}),
            &[],
        );
        check(
            json!({"resourceClaimStatuses": [{"name": "x"}]}),
            &[
                "status.resourceClaimStatuses[0].name: Invalid value: \"x\": must match the name of an entry in `spec.resourceClaims`",
            ],
        );
    }
}

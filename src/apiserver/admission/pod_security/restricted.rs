//! The rules the restricted level has beyond the baseline.

use std::collections::BTreeSet;

use serde_json::Value;

use super::baseline::seccomp_of;
use super::checks::{
    Violation, containers, has_user_namespace, listed, name, names_of, plural, quoted, quoted_set,
    setters,
};

fn is_windows(pod: &Value) -> bool {
    pod["spec"]["os"]["name"] == "windows"
}

fn violation(reason: &str, detail: String) -> Option<Violation> {
    Some((reason.to_owned(), detail))
}

pub(super) fn privilege_escalation(pod: &Value) -> Option<Violation> {
    let names = names_of(pod, |container| {
        container["securityContext"]["allowPrivilegeEscalation"] != false
    });
    if names.is_empty() {
        return None;
    }
    violation(
        "allowPrivilegeEscalation != false",
        format!(
            "{} must set securityContext.allowPrivilegeEscalation=false",
            listed(&names)
        ),
    )
}

pub(super) fn privilege_escalation_1_25(pod: &Value) -> Option<Violation> {
    if is_windows(pod) {
        return None;
    }
    privilege_escalation(pod)
}

pub(super) fn capabilities(pod: &Value) -> Option<Violation> {
    let each = |container: &Value, field: &str| -> Vec<String> {
        container["securityContext"]["capabilities"][field]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|capability| capability.as_str().map(str::to_owned))
            .collect()
    };
    let keeping = names_of(pod, |container| {
        !each(container, "drop")
            .iter()
            .any(|dropped| dropped == "ALL")
    });
    let mut added = BTreeSet::new();
    let adding = names_of(pod, |container| {
        let forbidden: Vec<String> = each(container, "add")
            .into_iter()
            .filter(|capability| capability != "NET_BIND_SERVICE")
            .collect();
        let bad = !forbidden.is_empty();
        added.extend(forbidden);
        bad
    });
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!(
            "{} must set securityContext.capabilities.drop=[\"ALL\"]",
            listed(&keeping)
        ));
    }
    if !adding.is_empty() {
        details.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            listed(&adding),
            quoted_set(&added)
        ));
    }
    if details.is_empty() {
        return None;
    }
    violation("unrestricted capabilities", details.join("; "))
}

pub(super) fn capabilities_1_25(pod: &Value) -> Option<Violation> {
    if is_windows(pod) {
        return None;
    }
    capabilities(pod)
}

const ALLOWED_VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

const FORBIDDEN_VOLUMES: [&str; 21] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "gitRepo",
    "nfs",
    "iscsi",
    "glusterfs",
    "rbd",
    "flexVolume",
    "cinder",
    "cephfs",
    "flocker",
    "fc",
    "azureFile",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "portworxVolume",
    "scaleIO",
    "storageos",
];

pub(super) fn volumes(pod: &Value) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let names: Vec<&str> = pod["spec"]["volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|volume| !ALLOWED_VOLUMES.iter().any(|kind| volume[kind].is_object()))
        .map(|volume| {
            let kind = FORBIDDEN_VOLUMES
                .iter()
                .find(|kind| volume[**kind].is_object())
                .unwrap_or(&"unknown");
            kinds.insert((*kind).to_owned());
            name(volume)
        })
        .collect();
    if names.is_empty() {
        return None;
    }
    violation(
        "restricted volume types",
        format!(
            "{} {} {} {} {}",
            plural(names.len(), "volume", "volumes"),
            quoted(&names),
            plural(names.len(), "uses", "use"),
            plural(
                kinds.len(),
                "restricted volume type",
                "restricted volume types"
            ),
            quoted_set(&kinds)
        ),
    )
}

pub(super) fn run_as_non_root(pod: &Value) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    let of = |context: &Value| context["runAsNonRoot"].as_bool();
    let whole = of(&pod["spec"]["securityContext"]);
    let bad = names_of(pod, |container| {
        of(&container["securityContext"]) == Some(false)
    });
    if let Some(who) = setters(whole == Some(false), &bad) {
        return violation(
            REASON,
            format!("{who} must not set securityContext.runAsNonRoot=false"),
        );
    }
    let silent = names_of(pod, |container| of(&container["securityContext"]).is_none());
    if whole == Some(true) || silent.is_empty() {
        return None;
    }
    violation(
        REASON,
        format!(
            "pod or {} must set securityContext.runAsNonRoot=true",
            listed(&silent)
        ),
    )
}

pub(super) fn run_as_non_root_1_35(pod: &Value) -> Option<Violation> {
    if has_user_namespace(pod) {
        return None;
    }
    run_as_non_root(pod)
}

pub(super) fn run_as_user(pod: &Value) -> Option<Violation> {
    let bad = |context: &Value| context["runAsUser"] == 0;
    let names = names_of(pod, |container| bad(&container["securityContext"]));
    let who = setters(bad(&pod["spec"]["securityContext"]), &names)?;
    violation("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

pub(super) fn run_as_user_1_35(pod: &Value) -> Option<Violation> {
    if has_user_namespace(pod) {
        return None;
    }
    run_as_user(pod)
}

pub(super) fn seccomp(pod: &Value) -> Option<Violation> {
    let whole = seccomp_of(&pod["spec"]["securityContext"]);
    if let Some(violation) = super::baseline::seccomp(pod) {
        return Some(violation);
    }
    let silent: Vec<&str> = containers(pod)
        .filter(|container| seccomp_of(&container["securityContext"]).is_none())
        .map(name)
        .collect();
    if whole.is_some() || silent.is_empty() {
        return None;
    }
    violation(
        "seccompProfile",
        format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
             \"Localhost\"",
            listed(&silent)
        ),
    )
}

pub(super) fn seccomp_1_25(pod: &Value) -> Option<Violation> {
    if is_windows(pod) {
        return None;
    }
    seccomp(pod)
}

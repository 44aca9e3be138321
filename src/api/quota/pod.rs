//! What a pod asks of a node, and what of that a quota counts.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{ResourceList, list, number};

/// What is counted of pods, beside prefixed names.
const COUNTED: [&str; 11] = [
    "count/pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
];
/// Where these are limited, every container has to say what it needs.
const REQUIRED: [&str; 6] = [
    "cpu",
    "memory",
    "requests.cpu",
    "requests.memory",
    "limits.cpu",
    "limits.memory",
];
/// Resources of device classes that pods ask for like any other.
const IMPLICIT: &str = "deviceclass.resource.kubernetes.io/";

/// Which column of `resources` is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `requests`.
    Requests,
    /// `limits`.
    Limits,
}

impl Side {
    fn field(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Limits => "limits",
        }
    }
}

/// What the amounts of a pod are taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// What is wished for alone.
    Spec,
    /// What the kubelet has given, too, and the overhead of the runtime class.
    Effective,
}

/// What a pod's containers come to: the sum of those that run side by side, or
/// more if one that runs before them needs more. What the pod says for itself
/// as a whole comes first.
pub fn totals(pod: &Value, side: Side, basis: Basis) -> ResourceList {
    let spec = &pod["spec"];
    let mut running = ResourceList::new();
    for container in items(spec, "containers") {
        list::add(
            &mut running,
            &of_container(pod, container, side, basis, true),
        );
    }
    let (mut sidecars, mut most) = (ResourceList::new(), ResourceList::new());
    for container in items(spec, "initContainers") {
        let stays = container["restartPolicy"] == "Always";
        let own = of_container(pod, container, side, basis, stays);
        let mut now = own.clone();
        if stays {
            list::add(&mut running, &own);
            list::add(&mut sidecars, &own);
            now.clone_from(&sidecars);
        } else {
            list::add(&mut now, &sidecars);
        }
        list::raise(&mut most, &now);
    }
    list::raise(&mut running, &most);
    for (name, quantity) in list::parse(&spec["resources"][side.field()]) {
        if matches!(name.as_str(), "cpu" | "memory")
            || (basis == Basis::Effective && name.starts_with("hugepages-"))
        {
            running.insert(name, quantity);
        }
    }
    if basis == Basis::Effective {
        let mut overhead = list::parse(&spec["overhead"]);
        if side == Side::Limits {
            overhead.retain(|name, _| running.get(name).is_some_and(|known| !known.is_zero()));
        }
        list::add(&mut running, &overhead);
    }
    running
}

fn items<'a>(object: &'a Value, field: &str) -> &'a [Value] {
    object[field].as_array().map_or(&[], Vec::as_slice)
}

fn of_container(
    pod: &Value,
    container: &Value,
    side: Side,
    basis: Basis,
    resizes: bool,
) -> ResourceList {
    let mut wished = list::parse(&container["resources"][side.field()]);
    if basis == Basis::Spec || !resizes {
        return wished;
    }
    let status = ["containerStatuses", "initContainerStatuses"]
        .iter()
        .flat_map(|field| items(&pod["status"], field))
        .find(|status| status["name"] == container["name"]);
    let Some(status) = status.filter(|status| status["resources"].is_object()) else {
        return wished;
    };
    let infeasible = items(&pod["status"], "conditions")
        .iter()
        .find(|condition| condition["type"] == "PodResizePending")
        .is_some_and(|condition| condition["reason"] == "Infeasible");
    if infeasible {
        wished.clear();
    }
    list::raise(
        &mut wished,
        &list::parse(&status["resources"][side.field()]),
    );
    if side == Side::Requests {
        list::raise(&mut wished, &list::parse(&status["allocatedResources"]));
    }
    wished
}

/// Whether a quota counts this name by pods.
pub(super) fn counts(name: &str) -> bool {
    COUNTED.contains(&name)
        || name.starts_with("hugepages-")
        || name.starts_with("requests.hugepages-")
        || is_extended_request(name)
}

/// `requests.example.com/gpu`.
fn is_extended_request(name: &str) -> bool {
    name.strip_prefix("requests.")
        .is_some_and(|asked| !is_native(name) || asked.starts_with(IMPLICIT))
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Requests and limits under the names quotas have for them.
fn compute(requests: &ResourceList, limits: &ResourceList) -> ResourceList {
    let mut used = ResourceList::from([("pods".to_owned(), number(1))]);
    for (name, quantity) in requests {
        match name.as_str() {
            "cpu" | "memory" | "ephemeral-storage" => {
                used.insert(name.clone(), quantity.clone());
            }
            name if name.starts_with("hugepages-") => {
                used.insert(name.to_owned(), quantity.clone());
            }
            name if is_native(name) && !name.starts_with(IMPLICIT) => continue,
            name if name.starts_with("requests.") => continue,
            _ => {}
        }
        used.insert(format!("requests.{name}"), quantity.clone());
    }
    for (name, quantity) in limits {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            used.insert(format!("limits.{name}"), quantity.clone());
        }
    }
    used
}

pub(super) fn usage(pod: &Value, now: Timestamp) -> ResourceList {
    let mut used = ResourceList::new();
    if is_charged(pod, now) {
        used = compute(
            &totals(pod, Side::Requests, Basis::Effective),
            &totals(pod, Side::Limits, Basis::Effective),
        );
    }
    used.insert("count/pods".to_owned(), number(1));
    used
}

/// Whether a pod still holds what it asked for: not once it has ended, nor
/// when it should have been gone for as long as it was given to go.
fn is_charged(pod: &Value, now: Timestamp) -> bool {
    if matches!(
        pod["status"]["phase"].as_str(),
        Some("Failed" | "Succeeded")
    ) {
        return false;
    }
    let metadata = &pod["metadata"];
    let gone = metadata["deletionTimestamp"]
        .as_str()
        .and_then(|text| text.parse::<Timestamp>().ok());
    match (gone, metadata["deletionGracePeriodSeconds"].as_i64()) {
        (Some(at), Some(grace)) => at
            .checked_add(SignedDuration::from_secs(grace))
            .is_ok_and(|end| now <= end),
        _ => true,
    }
}

/// Whether a pod ends by itself after a time.
pub(super) fn is_terminating(pod: &Value) -> bool {
    pod["spec"]["activeDeadlineSeconds"]
        .as_i64()
        .is_some_and(|seconds| seconds >= 0)
}

pub(super) fn is_best_effort(pod: &Value) -> bool {
    match pod["status"]["qosClass"].as_str() {
        Some(class) if !class.is_empty() => class == "BestEffort",
        _ => crate::kinds::qos_class(&pod["spec"]) == "BestEffort",
    }
}

/// Whether a pod wants to be near, or far from, pods of other namespaces.
pub(super) fn looks_across_namespaces(pod: &Value) -> bool {
    let across = |term: &Value| {
        !items(term, "namespaces").is_empty() || !term["namespaceSelector"].is_null()
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let rules = &pod["spec"]["affinity"][*kind];
        items(rules, "requiredDuringSchedulingIgnoredDuringExecution")
            .iter()
            .any(across)
            || items(rules, "preferredDuringSchedulingIgnoredDuringExecution")
                .iter()
                .any(|weighted| across(&weighted["podAffinityTerm"]))
    })
}

pub(super) fn check(limited: &[&str], pod: &Value) -> Result<(), String> {
    let whole = &pod["spec"]["resources"];
    let is_whole =
        |name: &String| matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-");
    if ["requests", "limits"].iter().any(|side| {
        whole[*side]
            .as_object()
            .is_some_and(|amounts| amounts.keys().any(is_whole))
    }) {
        return Ok(());
    }
    let required: BTreeSet<&str> = limited
        .iter()
        .copied()
        .filter(|name| REQUIRED.contains(name))
        .collect();
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let spec = &pod["spec"];
    for container in items(spec, "containers")
        .iter()
        .chain(items(spec, "initContainers"))
    {
        let said = compute(
            &list::parse(&container["resources"]["requests"]),
            &list::parse(&container["resources"]["limits"]),
        );
        for name in &required {
            if !said.contains_key(*name) {
                let container = container["name"].as_str().unwrap_or("");
                missing.entry(name).or_default().insert(container);
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let parts: Vec<String> = missing
        .iter()
        .map(|(name, containers)| {
            let containers: Vec<&str> = containers.iter().copied().collect();
            format!("{name} for: {}", containers.join(","))
        })
        .collect();
    Err(format!("must specify {}", parts.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn container(name: &str, cpu: &str) -> Value {
        json!({ "name": name, "resources": { "requests": { "cpu": cpu }, "limits": { "cpu": cpu } } })
    }

    #[test]
    fn totals_of_containers_that_run_before_and_beside() {
        let mut sidecar = container("s", "100m");
        sidecar["restartPolicy"] = "Always".into();
        let pod = json!({ "spec": {
            "containers": [container("a", "200m"), container("b", "300m")],
            "initContainers": [sidecar, container("i", "1")],
            "overhead": { "cpu": "10m" },
        }});
        let total = |basis| totals(&pod, Side::Requests, basis)["cpu"].to_string();
        assert_eq!(total(Basis::Spec), "1100m");
        assert_eq!(total(Basis::Effective), "1110m");
        let mut whole = pod.clone();
        whole["spec"]["resources"] = json!({ "requests": { "cpu": "3" } });
        assert_eq!(
            totals(&whole, Side::Requests, Basis::Spec)["cpu"].to_string(),
            "3"
        );
    }

    #[test]
    fn a_resize_counts_from_both_ends() {
        let how = Basis::Effective;
        let mut pod = json!({
            "spec": { "containers": [container("a", "1")] },
            "status": { "containerStatuses": [{
                "name": "a",
                "resources": { "requests": { "cpu": "2" } },
                "allocatedResources": { "cpu": "3" },
            }] },
        });
        assert_eq!(totals(&pod, Side::Requests, how)["cpu"].to_string(), "3");
        assert_eq!(totals(&pod, Side::Limits, how)["cpu"].to_string(), "1");
        pod["status"]["conditions"] =
            json!([{ "type": "PodResizePending", "reason": "Infeasible" }]);
        pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "9".into();
        assert_eq!(totals(&pod, Side::Requests, how)["cpu"].to_string(), "3");
    }

    #[test]
    fn usage_under_the_names_of_quotas() {
        let pod = json!({ "spec": { "containers": [{ "name": "a", "resources": {
            "requests": { "cpu": "1", "memory": "1Gi", "hugepages-2Mi": "2Mi", "example.com/gpu": "2" },
            "limits": { "memory": "2Gi" },
        } }] } });
        assert_eq!(
            list::to_value(&usage(&pod, Timestamp::UNIX_EPOCH)),
            json!({
                "count/pods": "1", "pods": "1",
                "cpu": "1", "requests.cpu": "1",
                "memory": "1Gi", "requests.memory": "1Gi", "limits.memory": "2Gi",
                "hugepages-2Mi": "2Mi", "requests.hugepages-2Mi": "2Mi",
                "requests.example.com/gpu": "2",
            })
        );
        let mut ended = pod.clone();
        ended["status"]["phase"] = "Failed".into();
        assert_eq!(
            list::to_value(&usage(&ended, Timestamp::UNIX_EPOCH)),
            json!({ "count/pods": "1" })
        );
    }

    #[test]
    fn what_is_limited_must_be_said() {
        let pod = json!({ "spec": {
            "containers": [container("b", "1"), { "name": "a" }],
            "initContainers": [{ "name": "c" }],
        } });
        let said = check(&["limits.cpu", "requests.memory", "pods"], &pod);
        assert_eq!(
            said,
            Err("must specify limits.cpu for: a,c; requests.memory for: a,b,c".to_owned())
        );
        assert_eq!(check(&["pods"], &pod), Ok(()));
    }
}

//! `Pod`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::value::{at, blank, each, int, list, object, remove, restore, same, text};
use super::{Column, Context, Kind, Plan, columns, pod_defaults, pod_table, validate};
use crate::{FieldError, Quantity, meta, names};

/// `v1` `Pod`.
pub(super) struct Pod;

/// Fields that a write of `status` cannot set.
const STATUS_KEEPS: &[&[&str]] = &[
    &["spec"],
    &["metadata", "deletionTimestamp"],
    &["metadata", "ownerReferences"],
];

/// Lists of statuses of containers.
const STATUSES: [&str; 3] = [
    "containerStatuses",
    "initContainerStatuses",
    "ephemeralContainerStatuses",
];

impl Kind for Pod {
    fn plan(&self) -> Plan {
        Plan {
            status_keeps: STATUS_KEEPS,
            ..Plan::SPEC
        }
    }

    fn default(&self, pod: &mut Value) {
        pod_defaults::pod(pod);
        same_addresses(object(pod, "status"));
    }

    fn prepare_create(&self, pod: &mut Value, context: &Context<'_>) {
        meta::set_generation(pod, 1);
        pod["status"] = json!({ "phase": "Pending", "qosClass": qos_class(&pod["spec"]) });
        if !blank(&pod["spec"]["schedulingGates"]) {
            pod["status"]["conditions"] = json!([{
                "type": "PodScheduled",
                "status": "False",
                "lastProbeTime": null,
                "lastTransitionTime": context.now,
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
            }]);
        }
        merge_label_keys(pod);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, context: &Context<'_>) {
        match context.subresource {
            "status" => {
                restore(new, old, &["spec"]);
                restore(new, old, &["metadata", "ownerReferences"]);
                if text(&new["status"], "qosClass").is_empty() {
                    restore(new, old, &["status", "qosClass"]);
                }
                keep_observed_generations(new, old);
                // Behind a gate that is off, as are digests of image volumes.
                remove(
                    object(new, "status"),
                    "nodeAllocatableResourceClaimStatuses",
                );
                for kind in STATUSES {
                    each(object(new, "status"), kind, |status| {
                        each(status, "volumeMounts", |mount| {
                            remove(mount, "volumeStatus")
                        });
                    });
                }
            }
            "ephemeralcontainers" => {
                let containers = new["spec"]["ephemeralContainers"].clone();
                restore(new, old, &["spec"]);
                restore(new, old, &["status"]);
                if blank(&containers) {
                    remove(object(new, "spec"), "ephemeralContainers");
                } else {
                    object(new, "spec")["ephemeralContainers"] = containers;
                }
                raise_generation(new, old);
            }
            "resize" => {
                keep_only_resources(new, old);
                restore(new, old, &["status"]);
                raise_generation(new, old);
            }
            _ => {
                restore(new, old, &["status"]);
                raise_generation(new, old);
            }
        }
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::pod::pod(object)
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> Vec<FieldError> {
        match context.subresource {
            "" => validate::pod_update::pod_update(new, old),
            "ephemeralcontainers" => validate::pod_update::ephemeral_update(new, old),
            "resize" => validate::pod_update::resize(new, old),
            _ => validate::pod_status::status_update(new, old),
        }
    }

    fn warnings(&self, new: &Value, old: Option<&Value>, context: &Context<'_>) -> Vec<String> {
        if old.is_some() || !context.subresource.is_empty() {
            return Vec::new();
        }
        let mut out = Vec::new();
        let wrong = names::dns_label(text(&new["metadata"], "name"));
        if !wrong.is_empty() {
            out.push(format!(
                "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{}]",
                wrong.join(" ")
            ));
        }
        out
    }

    fn selectable_fields(&self, pod: &Value) -> Vec<(&'static str, String)> {
        let (spec, status) = (&pod["spec"], &pod["status"]);
        let address = match text(status, "podIP") {
            "" => list(status, "podIPs")
                .first()
                .map_or("", |address| text(address, "ip")),
            address => address,
        };
        vec![
            ("spec.nodeName", text(spec, "nodeName").to_owned()),
            ("spec.restartPolicy", text(spec, "restartPolicy").to_owned()),
            ("spec.schedulerName", text(spec, "schedulerName").to_owned()),
            (
                "spec.serviceAccountName",
                text(spec, "serviceAccountName").to_owned(),
            ),
            (
                "spec.hostNetwork",
                (spec["hostNetwork"] == true).to_string(),
            ),
            ("status.phase", text(status, "phase").to_owned()),
            ("status.podIP", address.to_owned()),
            (
                "status.nominatedNodeName",
                text(status, "nominatedNodeName").to_owned(),
            ),
        ]
    }

    fn columns(&self) -> &'static [Column] {
        columns::POD
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        pod_table::cells(object, now)
    }

    fn row_conditions(&self, object: &Value) -> Vec<Value> {
        pod_table::row_conditions(object)
    }
}

/// The one address and the list of addresses say the same; the one has the
/// last word.
fn same_addresses(status: &mut Value) {
    let first = text(&status["podIPs"][0], "ip").to_owned();
    let own = text(status, "podIP").to_owned();
    if own.is_empty() {
        if !first.is_empty() {
            status["podIP"] = first.into();
        }
    } else if own != first {
        status["podIPs"] = json!([{ "ip": own }]);
    }
}

fn raise_generation(new: &mut Value, old: &Value) {
    if !same(at(new, &["spec"]), at(old, &["spec"])) {
        meta::set_generation(new, meta::generation(old) + 1);
    }
}

/// Generations that a status write does not know stay.
fn keep_observed_generations(new: &mut Value, old: &Value) {
    let old = &old["status"];
    let status = object(new, "status");
    if int(status, "observedGeneration") == 0 && int(old, "observedGeneration") != 0 {
        status["observedGeneration"] = old["observedGeneration"].clone();
    }
    each(status, "conditions", |condition| {
        if int(condition, "observedGeneration") == 0
            && let Some(known) = list(old, "conditions")
                .iter()
                .find(|known| known["type"] == condition["type"])
            && int(known, "observedGeneration") != 0
        {
            condition["observedGeneration"] = known["observedGeneration"].clone();
        }
    });
}

/// A resize changes resources and their policies of containers, nothing else.
fn keep_only_resources(new: &mut Value, old: &Value) {
    let wanted = new["spec"].clone();
    restore(new, old, &["spec"]);
    for kind in ["containers", "initContainers"] {
        each(object(new, "spec"), kind, |container| {
            let source = list(&wanted, kind)
                .iter()
                .find(|source| source["name"] == container["name"]);
            let Some(source) = source else { return };
            for name in ["resources", "resizePolicy"] {
                if source[name].is_null() {
                    remove(container, name);
                } else {
                    container[name] = source[name].clone();
                }
            }
        });
    }
    if !wanted["resources"].is_null() {
        object(new, "spec")["resources"] = wanted["resources"].clone();
    }
}

/// `matchLabelKeys` of affinity terms and spread constraints become selector
/// requirements with the pod's own values.
fn merge_label_keys(pod: &mut Value) {
    let labels = pod["metadata"]["labels"].clone();
    let merge = |term: &mut Value| {
        if !term["labelSelector"].is_object() {
            return;
        }
        for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
            let keys: Vec<String> = list(term, field)
                .iter()
                .filter_map(|key| key.as_str().map(str::to_owned))
                .collect();
            for key in keys {
                if let Some(value) = labels[&key].as_str() {
                    let selector = object(term, "labelSelector");
                    if selector["matchExpressions"].is_null() {
                        selector["matchExpressions"] = json!([]);
                    }
                    if let Some(list) = selector["matchExpressions"].as_array_mut() {
                        list.push(json!({ "key": key, "operator": operator, "values": [value] }));
                    }
                }
            }
        }
    };
    let spec = object(pod, "spec");
    for kind in ["podAffinity", "podAntiAffinity"] {
        super::value::within(spec, "affinity", |affinity| {
            super::value::within(affinity, kind, |affinity| {
                each(
                    affinity,
                    "requiredDuringSchedulingIgnoredDuringExecution",
                    merge,
                );
                each(
                    affinity,
                    "preferredDuringSchedulingIgnoredDuringExecution",
                    |term| super::value::within(term, "podAffinityTerm", merge),
                );
            });
        });
    }
    each(spec, "topologySpreadConstraints", merge);
}

/// Requests and limits that decide the class of service.
type Amounts = BTreeMap<String, Quantity>;

fn add(sums: &mut Amounts, resources: &Value, name: &str) -> usize {
    let mut found = 0;
    for kind in ["cpu", "memory"] {
        let quantity = resources[name][kind]
            .as_str()
            .and_then(|text| text.parse::<Quantity>().ok())
            .filter(|quantity| quantity.sign() > 0);
        if let Some(quantity) = quantity {
            found += 1;
            sums.entry(kind.to_owned()).or_default().add(&quantity);
        }
    }
    found
}

/// `ComputePodQOS`: `Guaranteed`, `Burstable` or `BestEffort`.
pub(crate) fn qos_class(spec: &Value) -> &'static str {
    let (mut requests, mut limits) = (Amounts::new(), Amounts::new());
    let mut guaranteed = true;
    let own = &spec["resources"];
    if own.is_object() {
        add(&mut requests, own, "requests");
        if !blank(&own["limits"]) && add(&mut limits, own, "limits") < 2 {
            guaranteed = false;
        }
    } else {
        for container in list(spec, "containers")
            .iter()
            .chain(list(spec, "initContainers"))
        {
            add(&mut requests, &container["resources"], "requests");
            if add(&mut limits, &container["resources"], "limits") < 2 {
                guaranteed = false;
            }
        }
    }
    if requests.is_empty() && limits.is_empty() {
        "BestEffort"
    } else if guaranteed && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

/// What the containers of a pod request together: the sum of those that run
/// side by side, or the largest of those that run before them.
pub(super) fn total_requests(spec: &Value) -> Vec<(String, Quantity)> {
    let of = |container: &Value| -> Amounts {
        container["resources"]["requests"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.parse().ok()?)))
            .collect()
    };
    let sum = |into: &mut Amounts, amounts: &Amounts| {
        for (name, quantity) in amounts {
            into.entry(name.clone()).or_default().add(quantity);
        }
    };
    let mut running = Amounts::new();
    for container in list(spec, "containers") {
        sum(&mut running, &of(container));
    }
    let (mut sidecars, mut largest) = (Amounts::new(), Amounts::new());
    for container in list(spec, "initContainers") {
        let mut now = of(container);
        if container["restartPolicy"] == "Always" {
            sum(&mut running, &now);
            sum(&mut sidecars, &now);
            now = sidecars.clone();
        } else {
            sum(&mut now, &sidecars);
        }
        for (name, quantity) in now {
            let known = largest.entry(name).or_default();
            if *known < quantity {
                *known = quantity;
            }
        }
    }
    for (name, quantity) in largest {
        let known = running.entry(name).or_default();
        if *known < quantity {
            *known = quantity;
        }
    }
    running.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        let class = |resources: Value| {
            qos_class(&json!({"containers": [{"name": "a", "resources": resources}]}))
        };
        assert_eq!(class(json!({})), "BestEffort");
        assert_eq!(class(json!({"requests": {"cpu": "1"}})), "Burstable");
        let both = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(
            class(json!({"requests": both, "limits": both})),
            "Guaranteed"
        );
    }

    #[test]
    fn requests_of_sidecars_and_init_containers() {
        let request = |cpu: &str| json!({"requests": {"cpu": cpu}});
        let spec = json!({
            "containers": [{"resources": request("1")}],
            "initContainers": [
                {"restartPolicy": "Always", "resources": request("500m")},
                {"resources": request("3")},
            ],
        });
        let total = total_requests(&spec);
        assert_eq!(total.len(), 1);
        assert_eq!(total[0].1.to_string(), "3500m");
    }
}

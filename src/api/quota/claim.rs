//! Persistent volume claims and resource claims.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{PER_DEVICE_CLASS, PER_STORAGE_CLASS, ResourceList, list, number};
use crate::Quantity;

/// What "all devices" of a class is at most, and so counts as.
const ALL_DEVICES: usize = 32;
/// Names the storage class of old claims.
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// The storage class of a claim or volume; empty if it has none.
pub(crate) fn storage_class(claim: &Value) -> &str {
    claim["metadata"]["annotations"][OLD_CLASS]
        .as_str()
        .or_else(|| claim["spec"]["storageClassName"].as_str())
        .unwrap_or("")
}

pub(super) fn usage(claim: &Value) -> ResourceList {
    let mut used = ResourceList::new();
    let class = storage_class(claim);
    let mut charge = |name: &str, amount: Quantity| {
        if !class.is_empty() {
            used.insert(format!("{class}{PER_STORAGE_CLASS}{name}"), amount.clone());
        }
        used.insert(name.to_owned(), amount);
    };
    charge("persistentvolumeclaims", number(1));
    let asked = list::parse(&claim["spec"]["resources"]["requests"]).remove("storage");
    if let Some(mut storage) = asked {
        let given = list::parse(&claim["status"]["allocatedResources"]).remove("storage");
        if let Some(given) = given.filter(|given| *given > storage) {
            storage = given;
        }
        storage.round_up(0);
        charge("requests.storage", storage);
    }
    used.insert("count/persistentvolumeclaims".to_owned(), number(1));
    used
}

/// Whether a change of a claim's status changes what it uses.
pub(super) fn needs_recount(new: &Value, old: &Value) -> bool {
    let allocated = |claim: &Value| claim["status"]["allocatedResources"]["storage"].clone();
    allocated(new) != allocated(old) || attribute_classes(new) != attribute_classes(old)
}

/// Every volume attributes class a claim has, had or is getting.
pub(super) fn attribute_classes(claim: &Value) -> BTreeSet<&str> {
    [
        &claim["spec"]["volumeAttributesClassName"],
        &claim["status"]["currentVolumeAttributesClassName"],
        &claim["status"]["modifyVolumeStatus"]["targetVolumeAttributesClassName"],
    ]
    .into_iter()
    .filter_map(Value::as_str)
    .filter(|name| !name.is_empty())
    .collect()
}

/// What a resource claim uses: for alternatives, the worst of each class.
pub(super) fn devices(claim: &Value) -> ResourceList {
    let mut used =
        ResourceList::from([("count/resourceclaims.resource.k8s.io".to_owned(), number(1))]);
    let one = |request: &Value| {
        let class = request["deviceClassName"].as_str().unwrap_or("");
        let count = match request["allocationMode"].as_str() {
            Some("ExactCount") => request["count"]
                .as_u64()
                .and_then(|count| usize::try_from(count).ok())
                .unwrap_or(0),
            Some("All") => ALL_DEVICES,
            _ => 0,
        };
        ResourceList::from([(format!("{class}{PER_DEVICE_CLASS}"), number(count))])
    };
    for request in claim["spec"]["devices"]["requests"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let mut worst = ResourceList::new();
        match request["firstAvailable"].as_array() {
            Some(alternatives) if !alternatives.is_empty() => {
                for alternative in alternatives {
                    list::raise(&mut worst, &one(alternative));
                }
            }
            _ if request["exactly"].is_object() => worst = one(&request["exactly"]),
            _ => {}
        }
        list::add(&mut used, &worst);
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn storage_is_charged_to_its_class_too() {
        let claim = json!({ "spec": {
            "storageClassName": "gold",
            "resources": { "requests": { "storage": "1.5" } },
        }});
        assert_eq!(
            list::to_value(&usage(&claim)),
            json!({
                "count/persistentvolumeclaims": "1",
                "persistentvolumeclaims": "1",
                "requests.storage": "2",
                "gold.storageclass.storage.k8s.io/persistentvolumeclaims": "1",
                "gold.storageclass.storage.k8s.io/requests.storage": "2",
            })
        );
    }

    #[test]
    fn of_alternatives_the_worst_counts() {
        let claim = json!({ "spec": { "devices": { "requests": [
            { "firstAvailable": [
                { "deviceClassName": "a", "allocationMode": "ExactCount", "count": 2 },
                { "deviceClassName": "a", "allocationMode": "ExactCount", "count": 5 },
            ] },
            { "exactly": { "deviceClassName": "a", "allocationMode": "ExactCount", "count": 1 } },
        ]}}});
        let used = devices(&claim);
        assert_eq!(used["a.deviceclass.resource.k8s.io/devices"].value(), 6);
    }
}

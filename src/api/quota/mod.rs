//! What objects use of resource quotas, and which quotas count them.
//!
//! An [`Evaluator`] knows one resource: which names of a quota it counts, what
//! an object uses of them, and which scopes an object is in. Admission charges
//! quotas by it before an object is stored; the quota controller adds up by the
//! same rules what is there, so that both come to the same sums.

mod claim;
pub mod list;
pub mod pod;
mod scope;

pub use list::ResourceList;
pub use scope::requirements;

use jiff::Timestamp;
use serde_json::Value;

use crate::{GroupResource, Quantity};

/// Ends the names under which devices of a class are counted.
const PER_DEVICE_CLASS: &str = ".deviceclass.resource.k8s.io/devices";
/// Parts the storage class from what is counted of it.
const PER_STORAGE_CLASS: &str = ".storageclass.storage.k8s.io/";

/// How one resource is counted: `quota.Evaluator`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evaluator {
    /// Pods: requests, limits and their number.
    Pods,
    /// Services, with their node ports and load balancers.
    Services,
    /// Persistent volume claims and the storage they ask for.
    Claims,
    /// Resource claims and the devices they ask for.
    DeviceClaims,
    /// Anything else, by the names its number goes by.
    Count(Vec<String>),
}

/// `count/pods` or `count/deployments.apps`.
pub fn count_name(resource: &GroupResource) -> String {
    if resource.group.is_empty() {
        format!("count/{}", resource.resource)
    } else {
        format!("count/{}.{}", resource.resource, resource.group)
    }
}

impl Evaluator {
    /// The evaluator of a resource. Every resource has one.
    pub fn of(resource: &GroupResource) -> Self {
        match (resource.group.as_str(), resource.resource.as_str()) {
            ("", "pods") => Self::Pods,
            ("", "services") => Self::Services,
            ("", "persistentvolumeclaims") => Self::Claims,
            ("resource.k8s.io", "resourceclaims") => Self::DeviceClaims,
            (
                "",
                name @ ("configmaps" | "resourcequotas" | "replicationcontrollers" | "secrets"),
            ) => Self::Count(vec![count_name(resource), name.to_owned()]),
            _ => Self::Count(vec![count_name(resource)]),
        }
    }

    /// The resource whose objects a name of a quota counts; `None` if nothing
    /// counts them.
    pub fn resource_of(name: &str) -> Option<GroupResource> {
        let resource = |group: &str, resource: &str| {
            Some(GroupResource {
                group: group.to_owned(),
                resource: resource.to_owned(),
            })
        };
        if let Some(counted) = name.strip_prefix("count/") {
            let (plural, group) = counted.split_once('.').unwrap_or((counted, ""));
            return resource(group, plural);
        }
        for (group, plural, evaluator) in [
            ("", "services", Self::Services),
            ("", "persistentvolumeclaims", Self::Claims),
            ("resource.k8s.io", "resourceclaims", Self::DeviceClaims),
            ("", "pods", Self::Pods),
        ] {
            if evaluator.counts(name) {
                return resource(group, plural);
            }
        }
        matches!(
            name,
            "configmaps" | "resourcequotas" | "replicationcontrollers" | "secrets"
        )
        .then(|| resource("", name))
        .flatten()
    }

    /// Whether this evaluator counts what a quota names.
    pub fn counts(&self, name: &str) -> bool {
        match self {
            Self::Pods => pod::counts(name),
            Self::Services => matches!(
                name,
                "count/services" | "services" | "services.nodeports" | "services.loadbalancers"
            ),
            Self::Claims => {
                let plain =
                    |name: &str| matches!(name, "persistentvolumeclaims" | "requests.storage");
                name == "count/persistentvolumeclaims"
                    || plain(name)
                    || name
                        .split_once(PER_STORAGE_CLASS)
                        .is_some_and(|(_, counted)| plain(counted))
            }
            Self::DeviceClaims => {
                name == "count/resourceclaims.resource.k8s.io" || name.ends_with(PER_DEVICE_CLASS)
            }
            Self::Count(names) => names.iter().any(|own| own == name),
        }
    }

    /// Whether a write can change what is used. `old` is the object before an
    /// update.
    pub fn handles(&self, subresource: &str, new: &Value, old: Option<&Value>) -> bool {
        match (self, subresource, old) {
            (Self::Pods, "", Some(old)) => pod::is_terminating(old) != pod::is_terminating(new),
            (Self::Pods, "resize", Some(_)) => true,
            (Self::Claims, "status", Some(old)) => claim::needs_recount(new, old),
            (Self::Services | Self::Claims | Self::DeviceClaims, "", _) => true,
            (_, "", None) => true,
            _ => false,
        }
    }

    /// Whether an object is in every scope of a quota.
    pub fn in_scopes(&self, quota: &Value, object: &Value) -> bool {
        requirements(&quota["spec"])
            .iter()
            .all(|wanted| scope::contains(self, wanted, object))
    }

    /// Whether a quota counts an object: it limits something this evaluator
    /// counts, and the object is in its scopes.
    pub fn matches(&self, quota: &Value, object: &Value) -> bool {
        quota["status"]["hard"]
            .as_object()
            .is_some_and(|hard| hard.keys().any(|name| self.counts(name)))
            && self.in_scopes(quota, object)
    }

    /// What an object must say of itself where these names are limited.
    ///
    /// # Errors
    ///
    /// `must specify limits.cpu for: a,b; …` when a pod leaves out what is limited.
    pub fn check(&self, limited: &[&str], object: &Value) -> Result<(), String> {
        match self {
            Self::Pods => pod::check(limited, object),
            _ => Ok(()),
        }
    }

    /// What an object uses.
    pub fn usage(&self, object: &Value, now: Timestamp) -> ResourceList {
        match self {
            Self::Pods => pod::usage(object, now),
            Self::Services => service(object),
            Self::Claims => claim::usage(object),
            Self::DeviceClaims => claim::devices(object),
            Self::Count(names) => names.iter().map(|name| (name.clone(), number(1))).collect(),
        }
    }
}

/// A whole number, as quotas count things.
pub fn number(count: usize) -> Quantity {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    Quantity::from_integer(count, crate::quantity::Format::DecimalSi)
}

fn service(service: &Value) -> ResourceList {
    let spec = &service["spec"];
    let ports = spec["ports"].as_array().map_or(&[][..], Vec::as_slice);
    let (mut node_ports, mut balancers) = (0, 0);
    match spec["type"].as_str() {
        Some("NodePort") => node_ports = ports.len(),
        Some("LoadBalancer") => {
            balancers = 1;
            node_ports = if spec["allocateLoadBalancerNodePorts"] == false {
                let given = |port: &&Value| port["nodePort"].as_u64().is_some_and(|port| port != 0);
                ports.iter().filter(given).count()
            } else {
                ports.len()
            };
        }
        _ => {}
    }
    ResourceList::from([
        ("count/services".to_owned(), number(1)),
        ("services".to_owned(), number(1)),
        ("services.loadbalancers".to_owned(), number(balancers)),
        ("services.nodeports".to_owned(), number(node_ports)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn resource(group: &str, resource: &str) -> GroupResource {
        GroupResource {
            group: group.to_owned(),
            resource: resource.to_owned(),
        }
    }

    fn used(group: &str, plural: &str, object: &Value) -> Value {
        let usage = Evaluator::of(&resource(group, plural)).usage(object, Timestamp::UNIX_EPOCH);
        list::to_value(&usage)
    }

    #[test]
    fn names_belong_to_resources() {
        for (name, group, plural) in [
            ("pods", "", "pods"),
            ("count/pods", "", "pods"),
            ("requests.cpu", "", "pods"),
            ("limits.memory", "", "pods"),
            ("hugepages-2Mi", "", "pods"),
            ("requests.example.com/gpu", "", "pods"),
            ("services.nodeports", "", "services"),
            ("requests.storage", "", "persistentvolumeclaims"),
            (
                "gold.storageclass.storage.k8s.io/requests.storage",
                "",
                "persistentvolumeclaims",
            ),
            ("secrets", "", "secrets"),
            ("count/secrets", "", "secrets"),
            ("count/deployments.apps", "apps", "deployments"),
            ("count/widgets.example.com", "example.com", "widgets"),
            (
                "gpu.deviceclass.resource.k8s.io/devices",
                "resource.k8s.io",
                "resourceclaims",
            ),
        ] {
            assert_eq!(
                Evaluator::resource_of(name),
                Some(resource(group, plural)),
                "{name}"
            );
            assert!(
                Evaluator::of(&resource(group, plural)).counts(name),
                "{name}"
            );
        }
        assert_eq!(Evaluator::resource_of("bananas"), None);
    }

    #[test]
    fn services_by_type() {
        let of = |spec: Value| {
            used("", "services", &json!({ "spec": spec }))["services.nodeports"].clone()
        };
        let ports = json!([{ "port": 1 }, { "port": 2, "nodePort": 30000 }]);
        assert_eq!(of(json!({ "type": "ClusterIP", "ports": ports })), "0");
        assert_eq!(of(json!({ "type": "NodePort", "ports": ports })), "2");
        assert_eq!(of(json!({ "type": "LoadBalancer", "ports": ports })), "2");
        let few = json!({ "type": "LoadBalancer", "ports": ports, "allocateLoadBalancerNodePorts": false });
        assert_eq!(of(few), "1");
    }

    #[test]
    fn others_count_as_one() {
        assert_eq!(
            used("", "secrets", &json!({})),
            json!({ "count/secrets": "1", "secrets": "1" })
        );
        assert_eq!(
            used("apps", "deployments", &json!({})),
            json!({ "count/deployments.apps": "1" })
        );
    }
}

//! What pods ask for and what nodes have.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity::{milli, units};

type Quantities = BTreeMap<String, Quantity>;

/// Amounts of resources: CPU in thousandths of a core, all else in units.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources(BTreeMap<String, i64>);

impl Resources {
    fn of(quantities: Option<&Quantities>) -> Self {
        let mut amounts = BTreeMap::new();
        for (name, quantity) in quantities.into_iter().flatten() {
            let amount = if name == "cpu" {
                milli(&quantity.0)
            } else {
                units(&quantity.0)
            };
            amounts.insert(name.clone(), amount.unwrap_or(0));
        }
        Self(amounts)
    }

    /// What a node offers to pods.
    pub(crate) fn allocatable(quantities: Option<&Quantities>) -> Self {
        Self::of(quantities)
    }

    /// The amount of one resource; zero if it is not named.
    pub fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Every resource named, with its amount.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        self.0.iter().map(|(name, amount)| (name.as_str(), *amount))
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let sum = self.0.entry(name.clone()).or_default();
            *sum = sum.saturating_add(*amount);
        }
    }

    pub(crate) fn subtract(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let rest = self.0.entry(name.clone()).or_default();
            *rest = rest.saturating_sub(*amount);
        }
    }

    fn raise(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let most = self.0.entry(name.clone()).or_default();
            *most = (*most).max(*amount);
        }
    }
}

fn requests(container: &Container) -> Resources {
    let resources = container.resources.as_ref();
    Resources::of(resources.and_then(|resources| resources.requests.as_ref()))
}

/// What a pod asks for in all: its containers and sidecars together, or its
/// hungriest init container beside the sidecars started before it, whichever
/// is more; pod-level requests instead where they are given; and its overhead.
pub fn pod_requests(pod: &Pod) -> Resources {
    pod.spec.as_ref().map(spec_requests).unwrap_or_default()
}

fn spec_requests(spec: &PodSpec) -> Resources {
    let mut total = Resources::default();
    for container in &spec.containers {
        total.add(&requests(container));
    }
    let mut sidecars = Resources::default();
    let mut starting = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let wanted = requests(container);
        if container.restart_policy.as_deref() == Some("Always") {
            total.add(&wanted);
            sidecars.add(&wanted);
            starting.raise(&sidecars);
        } else {
            let mut wanted = wanted;
            wanted.add(&sidecars);
            starting.raise(&wanted);
        }
    }
    total.raise(&starting);
    let pod_level = spec
        .resources
        .as_ref()
        .and_then(|resources| resources.requests.as_ref());
    total.0.extend(Resources::of(pod_level).0);
    total.add(&Resources::of(spec.overhead.as_ref()));
    total
}

/// Whether a resource is one that a node must name to have any of it, other
/// than those every node has.
pub(crate) fn is_extended(name: &str) -> bool {
    !matches!(name, "cpu" | "memory" | "ephemeral-storage" | "pods")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn check(spec: &str, cpu: i64) {
        let spec: PodSpec = serde_json::from_str(spec).unwrap();
        assert_eq!(spec_requests(&spec).get("cpu"), cpu, "{spec:?}");
    }

    #[test]
    fn adds_containers_and_takes_the_most_of_init_containers() {
        let c = |cpu: &str, more: &str| {
            format!(r#"{{"name":"c","resources":{{"requests":{{"cpu":"{cpu}"}}}}{more}}}"#)
        };
        let sidecar = r#","restartPolicy":"Always""#;
        check(
            &format!(r#"{{"containers":[{},{}]}}"#, c("1", ""), c("500m", "")),
            1500,
        );
        let spec = format!(
            r#"{{"containers":[{}],"initContainers":[{}]}}"#,
            c("1", ""),
            c("2", "")
        );
        check(&spec, 2000);
        let spec = format!(
            r#"{{"containers":[{}],"initContainers":[{},{}],"overhead":{{"cpu":"100m"}}}}"#,
            c("1", ""),
            c("500m", sidecar),
            c("800m", "")
        );
        check(&spec, 1600);
        let spec = format!(
            r#"{{"containers":[{}],"resources":{{"requests":{{"cpu":"3"}}}}}}"#,
            c("1", "")
        );
        check(&spec, 3000);
    }
}

//! Whether a new pod can run here at all, whoever bound it.
//!
//! The scheduler has looked already, but pods can be bound without it. One
//! that does not fit is refused for good: it fails, and its owner makes another.

use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod};

use super::resources::pod_requests;
use super::spec::{containers, init_containers, is_sidecar};
use crate::quantity::{self, ResourceList};

/// Why a pod cannot run here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// Resources that are counted, and what lacking them is called.
const RESOURCES: [(&str, &str); 3] = [
    ("cpu", "OutOfcpu"),
    ("memory", "OutOfmemory"),
    ("ephemeral-storage", "OutOfephemeral-storage"),
];

/// Judges a pod beside those that run here; `None` if it fits.
pub(crate) fn refuse<'a>(
    pod: &Pod,
    others: impl Iterator<Item = &'a Pod> + Clone,
    allocatable: &ResourceList,
) -> Option<Refusal> {
    let capacity = |resource: &str| {
        let capacity = allocatable.get(resource)?;
        Some(match resource {
            "cpu" => quantity::milli_value(capacity),
            _ => quantity::value(capacity),
        })
    };
    let lacking = |resource: &str, requested: i64, used: i64| {
        let capacity = capacity(resource)?;
        (requested > 0 && requested > capacity - used).then(|| {
            format!(
                "Node didn't have enough resource: {resource}, requested: {requested}, used: \
                 {used}, capacity: {capacity}"
            )
        })
    };
    let count = i64::try_from(others.clone().count()).unwrap_or(i64::MAX);
    if let Some(message) = lacking("pods", 1, count) {
        return Some(Refusal {
            reason: "OutOfpods".to_owned(),
            message,
        });
    }
    for (resource, reason) in RESOURCES {
        let used = others.clone().map(|pod| pod_requests(pod, resource)).sum();
        if let Some(message) = lacking(resource, pod_requests(pod, resource), used) {
            return Some(Refusal {
                reason: reason.to_owned(),
                message,
            });
        }
    }
    let taken = others.flat_map(host_ports);
    let collides = host_ports(pod).any(|own| taken.clone().any(|other| conflicts(own, other)));
    collides.then(|| Refusal {
        reason: "NodePorts".to_owned(),
        message: "Predicate NodePorts failed: node(s) didn't have free ports for the requested \
                  pod ports"
            .to_owned(),
    })
}

fn host_ports(pod: &Pod) -> impl Iterator<Item = &ContainerPort> + Clone {
    let sidecars = init_containers(pod).iter().filter(|c| is_sidecar(c));
    let all = containers(pod).iter().chain(sidecars);
    all.flat_map(|container: &Container| container.ports.iter().flatten())
        .filter(|port| port.host_port.is_some_and(|port| port > 0))
}

fn conflicts(a: &ContainerPort, b: &ContainerPort) -> bool {
    let protocol = |port: &ContainerPort| port.protocol.clone().unwrap_or_else(|| "TCP".into());
    let address = |port: &ContainerPort| {
        let address = port.host_ip.clone().unwrap_or_default();
        (!matches!(address.as_str(), "" | "0.0.0.0" | "::")).then_some(address)
    };
    a.host_port == b.host_port
        && protocol(a) == protocol(b)
        && match (address(a), address(b)) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use serde_json::{Value, json};

    use super::*;

    fn pod(cpu: &str, port: &Value) -> Pod {
        let pod = json!({ "spec": { "containers": [{
            "name": "c", "resources": { "requests": { "cpu": cpu } }, "ports": [port],
        }] } });
        serde_json::from_value(pod).unwrap()
    }

    fn check(pod: &Pod, others: &[Pod]) -> Option<String> {
        let node = json!({ "cpu": "2", "pods": "2" });
        let node: ResourceList = serde_json::from_value(node).unwrap();
        refuse(pod, others.iter(), &node).map(|refusal| refusal.reason)
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let plain = json!({ "containerPort": 1 });
        let said = |reason: &str| Some(reason.to_owned());
        let one = pod("1", &plain);
        assert_eq!(check(&one, &[]), None);
        assert_eq!(check(&one, &[pod("1", &plain)]), None);
        assert_eq!(check(&one, &[pod("1500m", &plain)]), said("OutOfcpu"));
        assert_eq!(check(&pod("3", &plain), &[]), said("OutOfcpu"));
        let none = pod("0", &plain);
        assert_eq!(check(&none, &[pod("5", &plain)]), None, "it asks for none");
        assert_eq!(
            check(&none, &[none.clone(), none.clone()]),
            said("OutOfpods")
        );
    }

    #[test]
    fn ports_of_the_node_are_taken_once() {
        let on = |port: u16, ip: &str, protocol: &str| {
            let port = json!({
                "containerPort": 1, "hostPort": port, "hostIP": ip, "protocol": protocol
            });
            pod("0", &port)
        };
        let refused = |a: &Pod, b: &Pod| check(a, std::slice::from_ref(b)).is_some();
        let any = on(80, "", "TCP");
        assert!(refused(&any, &any));
        assert!(refused(&any, &on(80, "10.0.0.1", "TCP")));
        assert!(!refused(&any, &on(80, "", "UDP")));
        assert!(!refused(&any, &on(81, "", "TCP")));
        assert!(!refused(
            &on(80, "10.0.0.2", "TCP"),
            &on(80, "10.0.0.1", "TCP")
        ));
    }
}

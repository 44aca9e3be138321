//! The cluster as the scheduler sees it: nodes with the pods on them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use client::NamespacedName;
use client::labels::Labels;
use k8s_openapi::api::core::v1::{
    Affinity, Node, PersistentVolume, PersistentVolumeClaim, Pod, PodAffinityTerm, PodSpec,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::resources::{Resources, pod_requests};

/// A port of a node that a pod takes for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort {
    ip: String,
    protocol: String,
    port: i32,
}

impl HostPort {
    pub(crate) fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip == "0.0.0.0" || ip == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || any(&self.ip) || any(&other.ip))
    }
}

/// A pod with what the scheduler works out of it once.
#[derive(Clone, Debug)]
pub struct PodInfo {
    pub(crate) pod: Arc<Pod>,
    pub(crate) key: NamespacedName,
    pub(crate) requests: Resources,
    pub(crate) ports: Vec<HostPort>,
    pub(crate) priority: i32,
}

impl PodInfo {
    /// Works a pod out.
    pub fn new(pod: Arc<Pod>) -> Self {
        let requests = pod_requests(&pod);
        let spec = pod.spec.as_ref();
        let containers = spec.into_iter().flat_map(|spec| {
            let sidecars = spec
                .init_containers
                .iter()
                .flatten()
                .filter(|container| container.restart_policy.as_deref() == Some("Always"));
            spec.containers.iter().chain(sidecars)
        });
        let ports = containers
            .flat_map(|container| container.ports.iter().flatten())
            .filter_map(|port| {
                Some(HostPort {
                    port: port.host_port.filter(|port| *port > 0)?,
                    ip: port
                        .host_ip
                        .clone()
                        .filter(|ip| !ip.is_empty())
                        .unwrap_or("0.0.0.0".into()),
                    protocol: port.protocol.clone().unwrap_or("TCP".into()),
                })
            })
            .collect();
        let priority = spec.and_then(|spec| spec.priority).unwrap_or(0);
        Self {
            key: NamespacedName::of(&*pod),
            pod,
            requests,
            ports,
            priority,
        }
    }

    pub(crate) fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_ref()
    }

    pub(crate) fn labels(&self) -> Option<&Labels> {
        self.pod.metadata.labels.as_ref()
    }

    pub(crate) fn affinity(&self) -> Option<&Affinity> {
        self.spec()?.affinity.as_ref()
    }

    pub(crate) fn is_terminating(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    pub(crate) fn required_affinity(&self) -> &[PodAffinityTerm] {
        self.affinity()
            .and_then(|affinity| affinity.pod_affinity.as_ref())
            .and_then(|terms| {
                terms
                    .required_during_scheduling_ignored_during_execution
                    .as_deref()
            })
            .unwrap_or_default()
    }

    pub(crate) fn required_anti_affinity(&self) -> &[PodAffinityTerm] {
        self.affinity()
            .and_then(|affinity| affinity.pod_anti_affinity.as_ref())
            .and_then(|terms| {
                terms
                    .required_during_scheduling_ignored_during_execution
                    .as_deref()
            })
            .unwrap_or_default()
    }
}

/// A node and everything placed on it.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    pub(crate) node: Arc<Node>,
    pub(crate) allocatable: Resources,
    pub(crate) requested: Resources,
    pub(crate) pods: BTreeMap<NamespacedName, Arc<PodInfo>>,
}

impl NodeInfo {
    /// A node with nothing on it.
    pub fn new(node: Arc<Node>) -> Self {
        let status = node.status.as_ref();
        let allocatable =
            status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
        Self {
            allocatable: Resources::allocatable(allocatable),
            node,
            requested: Resources::default(),
            pods: BTreeMap::new(),
        }
    }

    pub(crate) fn update(&mut self, node: Arc<Node>) {
        let fresh = Self::new(node);
        self.node = fresh.node;
        self.allocatable = fresh.allocatable;
    }

    pub(crate) fn add(&mut self, pod: Arc<PodInfo>) {
        self.remove(&pod.key);
        self.requested.add(&pod.requests);
        self.pods.insert(pod.key.clone(), pod);
    }

    pub(crate) fn remove(&mut self, key: &NamespacedName) {
        if let Some(pod) = self.pods.remove(key) {
            self.requested.subtract(&pod.requests);
        }
    }

    pub(crate) fn labels(&self) -> Option<&Labels> {
        self.node.metadata.labels.as_ref()
    }

    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.labels()?.get(key).map(String::as_str)
    }

    /// What pods have asked this node for.
    pub fn requested(&self) -> &Resources {
        &self.requested
    }

    /// What this node has to give.
    pub fn allocatable(&self) -> &Resources {
        &self.allocatable
    }
}

/// Everything a decision depends on.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub(crate) nodes: BTreeMap<String, NodeInfo>,
    /// Pods promised a node by preemption, by node.
    pub(crate) nominated: HashMap<String, Vec<Arc<PodInfo>>>,
    pub(crate) namespaces: HashMap<String, Labels>,
    pub(crate) budgets: Vec<Arc<PodDisruptionBudget>>,
    pub(crate) claims: HashMap<NamespacedName, Arc<PersistentVolumeClaim>>,
    pub(crate) volumes: HashMap<String, Arc<PersistentVolume>>,
    /// Names of storage classes that bind once a pod is placed.
    pub(crate) waiting_classes: Vec<String>,
}

impl Snapshot {
    /// Adds a node, or replaces one and keeps its pods.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        match self.nodes.get_mut(&name) {
            Some(info) => info.update(node),
            None => {
                self.nodes.insert(name, NodeInfo::new(node));
            }
        }
    }

    /// Puts a pod on a node this snapshot knows; nothing otherwise.
    pub fn place(&mut self, node: &str, pod: Arc<PodInfo>) {
        if let Some(info) = self.nodes.get_mut(node) {
            info.add(pod);
        }
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.get(name)
    }
}

//! Which nodes a pod can go to, and why not to the others.

use k8s_openapi::api::core::v1::{PersistentVolume, PodSpec};

use crate::affinity::{self, Affinities};
use crate::matching::{is_repelled, node_affinity, node_term, tolerates_unschedulable};
use crate::resources::is_extended;
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};
use crate::spread::{self, Spread};

/// Why a node will not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The rules it breaks, in upstream's words.
    pub reasons: Vec<String>,
    /// Whether removing pods from the node could change that.
    pub resolvable: bool,
}

impl Rejection {
    fn for_good(reason: &str) -> Self {
        Self {
            reasons: vec![reason.to_owned()],
            resolvable: false,
        }
    }

    fn for_now(reason: &str) -> Self {
        Self {
            reasons: vec![reason.to_owned()],
            resolvable: true,
        }
    }
}

/// The rules of one scheduling cycle, with everything counted that does not
/// depend on the node.
pub(crate) struct Filter<'a> {
    snapshot: &'a Snapshot,
    pod: &'a PodInfo,
    affinities: Affinities,
    spread: Spread<'a>,
}

impl<'a> Filter<'a> {
    pub(crate) fn new(snapshot: &'a Snapshot, pod: &'a PodInfo) -> Self {
        Self {
            affinities: Affinities::count(snapshot, pod),
            spread: Spread::count(snapshot, pod, "DoNotSchedule"),
            snapshot,
            pod,
        }
    }

    pub(crate) fn affinities(&self) -> &Affinities {
        &self.affinities
    }

    /// Why `node` will not do, by the first rule it breaks.
    pub(crate) fn rejection(&self, node: &NodeInfo) -> Option<Rejection> {
        let pod = self.pod;
        let spec = pod.spec();
        if node.node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true)
            && !tolerates_unschedulable(pod)
        {
            return Some(Rejection::for_good("node(s) were unschedulable"));
        }
        let wanted = spec
            .and_then(|spec| spec.node_name.as_deref())
            .filter(|name| !name.is_empty());
        if wanted.is_some_and(|name| node.node.metadata.name.as_deref() != Some(name)) {
            return Some(Rejection::for_good(
                "node(s) didn't match the requested node name",
            ));
        }
        if is_repelled(pod, node, &["NoSchedule", "NoExecute"]) {
            return Some(Rejection::for_good("node(s) had untolerated taint(s)"));
        }
        if !node_affinity(pod, node) {
            return Some(Rejection::for_good(
                "node(s) didn't match Pod's node affinity/selector",
            ));
        }
        let promised = self.promised(node);
        if ports_conflict(pod, node, &promised) {
            let reason = "node(s) didn't have free ports for the requested pod ports";
            return Some(Rejection::for_now(reason));
        }
        if let Some(rejection) = insufficient(pod, node, &promised) {
            return Some(rejection);
        }
        if let Some(reason) = self.volume_conflict(spec, node) {
            return Some(Rejection::for_good(reason));
        }
        match self.spread.rejection(node) {
            Some(spread::NO_LABEL) => return Some(Rejection::for_good(spread::NO_LABEL)),
            Some(reason) => return Some(Rejection::for_now(reason)),
            None => {}
        }
        match self.affinities.rejection(node) {
            Some(affinity::NOT_AFFINE) => Some(Rejection::for_good(affinity::NOT_AFFINE)),
            Some(reason) => Some(Rejection::for_now(reason)),
            None => None,
        }
    }

    /// Pods that were promised this node and matter at least as much.
    fn promised(&self, node: &NodeInfo) -> Vec<&PodInfo> {
        let name = node.node.metadata.name.as_deref().unwrap_or_default();
        let nominated = self.snapshot.nominated.get(name);
        nominated
            .into_iter()
            .flatten()
            .map(AsRef::as_ref)
            .filter(|other| {
                other.priority >= self.pod.priority
                    && other.key != self.pod.key
                    && !node.pods.contains_key(&other.key)
            })
            .collect()
    }

    fn volume_conflict(&self, spec: Option<&PodSpec>, node: &NodeInfo) -> Option<&'static str> {
        for claim in claims(self.pod, spec) {
            let Some(claim) = self.snapshot.claims.get(&claim) else {
                continue;
            };
            let name = claim
                .spec
                .as_ref()
                .and_then(|spec| spec.volume_name.as_deref());
            let Some(name) = name.filter(|name| !name.is_empty()) else {
                continue;
            };
            match self.snapshot.volumes.get(name) {
                None => {
                    return Some(
                        "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
                    );
                }
                Some(volume) if !reaches(volume, node) => {
                    return Some("node(s) didn't match PersistentVolume's node affinity");
                }
                Some(volume) if !same_zone(volume, node) => {
                    return Some("node(s) had no available volume zone");
                }
                Some(_) => {}
            }
        }
        None
    }
}

/// What keeps a pod from any node at all, before any node is looked at.
pub(crate) fn unmet(snapshot: &Snapshot, pod: &PodInfo) -> Option<String> {
    for key in claims(pod, pod.spec()) {
        let Some(claim) = snapshot.claims.get(&key) else {
            return Some(format!("persistentvolumeclaim {:?} not found", key.name));
        };
        if claim.metadata.deletion_timestamp.is_some() {
            return Some(format!(
                "persistentvolumeclaim {:?} is being deleted",
                key.name
            ));
        }
        let spec = claim.spec.as_ref();
        let bound = spec
            .and_then(|spec| spec.volume_name.as_ref())
            .is_some_and(|name| !name.is_empty());
        let class = spec
            .and_then(|spec| spec.storage_class_name.clone())
            .unwrap_or_default();
        if !bound && !snapshot.waiting_classes.contains(&class) {
            return Some("pod has unbound immediate PersistentVolumeClaims".to_owned());
        }
    }
    None
}

/// The claims a pod's volumes name, generic ephemeral ones included.
pub(crate) fn claims(pod: &PodInfo, spec: Option<&PodSpec>) -> Vec<client::NamespacedName> {
    let volumes = spec
        .and_then(|spec| spec.volumes.as_deref())
        .unwrap_or_default();
    volumes
        .iter()
        .filter_map(
            |volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
                (Some(source), _) => Some(source.claim_name.clone()),
                (None, Some(_)) => Some(format!("{}-{}", pod.key.name, volume.name)),
                (None, None) => None,
            },
        )
        .map(|name| client::NamespacedName::new(&pod.key.namespace, name))
        .collect()
}

fn reaches(volume: &PersistentVolume, node: &NodeInfo) -> bool {
    let required = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.node_affinity.as_ref())
        .and_then(|affinity| affinity.required.as_ref());
    required.is_none_or(|required| {
        required
            .node_selector_terms
            .iter()
            .any(|term| node_term(term, node))
    })
}

fn same_zone(volume: &PersistentVolume, node: &NodeInfo) -> bool {
    [
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
    ]
    .iter()
    .all(|key| {
        let labels = volume.metadata.labels.as_ref();
        labels
            .and_then(|labels| labels.get(*key))
            .is_none_or(|zones| zones.split("__").any(|zone| node.label(key) == Some(zone)))
    })
}

fn ports_conflict(pod: &PodInfo, node: &NodeInfo, promised: &[&PodInfo]) -> bool {
    let placed = node.pods.values().map(AsRef::as_ref);
    !pod.ports.is_empty()
        && placed
            .chain(promised.iter().copied())
            .flat_map(|other| &other.ports)
            .any(|taken| pod.ports.iter().any(|port| port.conflicts(taken)))
}

fn insufficient(pod: &PodInfo, node: &NodeInfo, promised: &[&PodInfo]) -> Option<Rejection> {
    let mut reasons = Vec::new();
    let mut resolvable = true;
    let pods = i64::try_from(node.pods.len() + promised.len()).unwrap_or(i64::MAX);
    if pods >= node.allocatable.get("pods") {
        reasons.push("Too many pods".to_owned());
    }
    for (name, wanted) in pod.requests.iter() {
        if wanted == 0 || name == "pods" || (is_extended(name) && wanted <= 0) {
            continue;
        }
        let taken: i64 = promised.iter().map(|other| other.requests.get(name)).sum();
        let total = node.allocatable.get(name);
        if wanted > total - node.requested.get(name) - taken {
            reasons.push(format!("Insufficient {name}"));
        }
        // More than the node has at all: no removal of pods helps.
        resolvable &= wanted <= total;
    }
    (!reasons.is_empty()).then_some(Rejection {
        reasons,
        resolvable,
    })
}

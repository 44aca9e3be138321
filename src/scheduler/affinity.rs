//! Affinity and anti-affinity between pods.
//!
//! What existing pods mean for the incoming one is counted once for a cycle,
//! by topology value; a node then only looks its own values up.

use std::collections::HashMap;

use client::labels;
use k8s_openapi::api::core::v1::PodAffinityTerm;

use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

pub(crate) const NOT_AFFINE: &str = "node(s) didn't match pod affinity rules";
pub(crate) const ANTI_AFFINE: &str = "node(s) didn't match pod anti-affinity rules";
pub(crate) const EXISTING_ANTI_AFFINE: &str =
    "node(s) didn't satisfy existing pods anti-affinity rules";

/// Whether a term of a pod in `home` selects `candidate`.
fn selects(snapshot: &Snapshot, term: &PodAffinityTerm, home: &str, candidate: &PodInfo) -> bool {
    let namespace = &candidate.key.namespace;
    let listed = term.namespaces.as_deref().unwrap_or_default();
    let in_namespace = match &term.namespace_selector {
        Some(selector) => {
            listed.contains(namespace)
                || labels::selects(selector, snapshot.namespaces.get(namespace))
        }
        None if listed.is_empty() => namespace == home,
        None => listed.contains(namespace),
    };
    in_namespace
        && term
            .label_selector
            .as_ref()
            .is_some_and(|selector| labels::selects(selector, candidate.labels()))
}

/// Values of a topology key and how many pods count there.
type Counts = HashMap<String, usize>;

/// What the pods of a snapshot mean for one incoming pod.
pub(crate) struct Affinities {
    wanted: Vec<(String, Counts)>,
    starts_its_own_group: bool,
    unwanted: Vec<(String, Counts)>,
    /// Topologies whose pods do not want this one, by key and value.
    refused: HashMap<(String, String), ()>,
    /// Preferences, both ways, by topology key and value.
    preferred: HashMap<(String, String), i64>,
}

impl Affinities {
    pub(crate) fn count(snapshot: &Snapshot, pod: &PodInfo) -> Self {
        let home = &pod.key.namespace;
        let empty = |terms: &[PodAffinityTerm]| {
            terms
                .iter()
                .map(|term| (term.topology_key.clone(), Counts::new()))
                .collect()
        };
        let mut found = Self {
            wanted: empty(pod.required_affinity()),
            unwanted: empty(pod.required_anti_affinity()),
            starts_its_own_group: false,
            refused: HashMap::new(),
            preferred: HashMap::new(),
        };
        let own = pod.affinity();
        let likes = own
            .and_then(|own| own.pod_affinity.as_ref())
            .and_then(|own| {
                own.preferred_during_scheduling_ignored_during_execution
                    .as_deref()
            })
            .unwrap_or_default();
        let dislikes = own
            .and_then(|own| own.pod_anti_affinity.as_ref())
            .and_then(|own| {
                own.preferred_during_scheduling_ignored_during_execution
                    .as_deref()
            })
            .unwrap_or_default();
        let mut any_wanted = false;
        for node in snapshot.nodes.values() {
            for other in node.pods.values() {
                // A pod has to match every term for any of them to count.
                let terms = pod.required_affinity();
                if !terms.is_empty()
                    && terms
                        .iter()
                        .all(|term| selects(snapshot, term, home, other))
                {
                    for (key, counts) in &mut found.wanted {
                        if let Some(value) = node.label(key) {
                            *counts.entry(value.to_owned()).or_default() += 1;
                            any_wanted = true;
                        }
                    }
                }
                for (term, (key, counts)) in
                    pod.required_anti_affinity().iter().zip(&mut found.unwanted)
                {
                    if let Some(value) = node.label(key)
                        && selects(snapshot, term, home, other)
                    {
                        *counts.entry(value.to_owned()).or_default() += 1;
                    }
                }
                found.count_theirs(snapshot, node, other, pod);
                for preference in likes {
                    let weight = i64::from(preference.weight);
                    let term = &preference.pod_affinity_term;
                    found.prefer(snapshot, node, term, home, other, weight);
                }
                for preference in dislikes {
                    let weight = -i64::from(preference.weight);
                    let term = &preference.pod_affinity_term;
                    found.prefer(snapshot, node, term, home, other, weight);
                }
            }
        }
        // The first pod of a group that wants its own kind has nobody to join.
        found.starts_its_own_group = !any_wanted
            && pod
                .required_affinity()
                .iter()
                .all(|term| selects(snapshot, term, home, pod));
        found
    }

    fn prefer(
        &mut self,
        snapshot: &Snapshot,
        node: &NodeInfo,
        term: &PodAffinityTerm,
        home: &str,
        candidate: &PodInfo,
        weight: i64,
    ) {
        if let Some(value) = node.label(&term.topology_key)
            && selects(snapshot, term, home, candidate)
        {
            let topology = (term.topology_key.clone(), value.to_owned());
            *self.preferred.entry(topology).or_default() += weight;
        }
    }

    /// What an existing pod's own terms say about the incoming one.
    fn count_theirs(
        &mut self,
        snapshot: &Snapshot,
        node: &NodeInfo,
        other: &PodInfo,
        pod: &PodInfo,
    ) {
        let Some(theirs) = other.affinity() else {
            return;
        };
        let home = &other.key.namespace;
        for term in other.required_anti_affinity() {
            if let Some(value) = node.label(&term.topology_key)
                && selects(snapshot, term, home, pod)
            {
                self.refused
                    .insert((term.topology_key.clone(), value.to_owned()), ());
            }
        }
        // Upstream's hardPodAffinityWeight.
        for term in other.required_affinity() {
            self.prefer(snapshot, node, term, home, pod, 1);
        }
        let likes = theirs.pod_affinity.as_ref();
        for preference in likes
            .and_then(|terms| {
                terms
                    .preferred_during_scheduling_ignored_during_execution
                    .as_ref()
            })
            .into_iter()
            .flatten()
        {
            let weight = i64::from(preference.weight);
            self.prefer(
                snapshot,
                node,
                &preference.pod_affinity_term,
                home,
                pod,
                weight,
            );
        }
        let dislikes = theirs.pod_anti_affinity.as_ref();
        for preference in dislikes
            .and_then(|terms| {
                terms
                    .preferred_during_scheduling_ignored_during_execution
                    .as_ref()
            })
            .into_iter()
            .flatten()
        {
            let weight = -i64::from(preference.weight);
            self.prefer(
                snapshot,
                node,
                &preference.pod_affinity_term,
                home,
                pod,
                weight,
            );
        }
    }

    /// Why the node will not do; the first rule it breaks.
    pub(crate) fn rejection(&self, node: &NodeInfo) -> Option<&'static str> {
        let at = |key: &str, counts: &Counts| {
            node.label(key)
                .is_some_and(|value| counts.contains_key(value))
        };
        let affine = self.wanted.iter().all(|(key, counts)| at(key, counts));
        let may_start = self.starts_its_own_group
            && self.wanted.iter().all(|(key, _)| node.label(key).is_some());
        if !affine && !may_start {
            return Some(NOT_AFFINE);
        }
        if self.unwanted.iter().any(|(key, counts)| at(key, counts)) {
            return Some(ANTI_AFFINE);
        }
        let refused = self
            .refused
            .keys()
            .any(|(key, value)| node.label(key) == Some(value));
        refused.then_some(EXISTING_ANTI_AFFINE)
    }

    /// The sum of preferences for the node, not normalised.
    pub(crate) fn preference(&self, node: &NodeInfo) -> i64 {
        self.preferred
            .iter()
            .filter(|((key, value), _)| node.label(key) == Some(value))
            .map(|(_, weight)| weight)
            .sum()
    }
}

//! Topology spread constraints, and the spreading every set of pods gets.

use std::collections::BTreeMap;

use client::labels::{self, Labels};
use k8s_openapi::api::core::v1::TopologySpreadConstraint;

use crate::matching::{is_repelled, node_affinity};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

pub(crate) const SKEWED: &str = "node(s) didn't match pod topology spread constraints";
pub(crate) const NO_LABEL: &str =
    "node(s) didn't match pod topology spread constraints (missing required label)";

/// One constraint with the pods counted in each domain.
struct Counted<'a> {
    constraint: &'a TopologySpreadConstraint,
    domains: BTreeMap<String, i64>,
    counts_itself: bool,
}

/// The constraints of one kind of an incoming pod.
pub(crate) struct Spread<'a>(Vec<Counted<'a>>);

impl<'a> Spread<'a> {
    /// Counts for the constraints with this `whenUnsatisfiable`.
    pub(crate) fn count(snapshot: &Snapshot, pod: &'a PodInfo, when: &str) -> Self {
        let constraints = pod
            .spec()
            .and_then(|spec| spec.topology_spread_constraints.as_deref())
            .unwrap_or_default();
        let wanted: Vec<&TopologySpreadConstraint> = constraints
            .iter()
            .filter(|constraint| constraint.when_unsatisfiable == when)
            .collect();
        let counted = wanted
            .iter()
            .map(|constraint| Self::count_one(snapshot, pod, constraint, &wanted))
            .collect();
        Self(counted)
    }

    fn count_one(
        snapshot: &Snapshot,
        pod: &PodInfo,
        constraint: &'a TopologySpreadConstraint,
        all: &[&TopologySpreadConstraint],
    ) -> Counted<'a> {
        let mut domains = BTreeMap::new();
        for node in snapshot.nodes.values() {
            if !counts(pod, node, constraint)
                || !all
                    .iter()
                    .all(|other| node.label(&other.topology_key).is_some())
            {
                continue;
            }
            let Some(value) = node.label(&constraint.topology_key) else {
                continue;
            };
            let matching = node
                .pods
                .values()
                .filter(|other| other.key.namespace == pod.key.namespace)
                .filter(|other| !other.is_terminating())
                .filter(|other| selects(pod, constraint, other.labels()))
                .count();
            *domains.entry(value.to_owned()).or_default() +=
                i64::try_from(matching).unwrap_or(i64::MAX);
        }
        let counts_itself = selects(pod, constraint, pod.labels());
        Counted {
            constraint,
            domains,
            counts_itself,
        }
    }

    /// Why the node will not do.
    pub(crate) fn rejection(&self, node: &NodeInfo) -> Option<&'static str> {
        for counted in &self.0 {
            let Some(value) = node.label(&counted.constraint.topology_key) else {
                return Some(NO_LABEL);
            };
            let fewest = counted.domains.values().min().copied().unwrap_or(0);
            let enough_domains = counted
                .constraint
                .min_domains
                .is_none_or(|least| counted.domains.len() >= usize::try_from(least).unwrap_or(0));
            let fewest = if enough_domains { fewest } else { 0 };
            let here = counted.domains.get(value).copied().unwrap_or(0);
            let skew = here + i64::from(counted.counts_itself) - fewest;
            if skew > i64::from(counted.constraint.max_skew) {
                return Some(SKEWED);
            }
        }
        None
    }

    /// How crowded the node's domains are; more is worse. `None` for a node
    /// without the labels.
    pub(crate) fn crowding(&self, node: &NodeInfo) -> Option<f64> {
        let mut sum = 0.0;
        for counted in &self.0 {
            let value = node.label(&counted.constraint.topology_key)?;
            let here = counted.domains.get(value).copied().unwrap_or(0);
            #[expect(clippy::cast_precision_loss, reason = "numbers of pods and of domains")]
            let (here, weight) = (here as f64, ((counted.domains.len() + 2) as f64).ln());
            sum += here * weight + f64::from(counted.constraint.max_skew - 1);
        }
        Some(sum)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn counts(pod: &PodInfo, node: &NodeInfo, constraint: &TopologySpreadConstraint) -> bool {
    let honours_affinity = constraint.node_affinity_policy.as_deref() != Some("Ignore");
    let honours_taints = constraint.node_taints_policy.as_deref() == Some("Honor");
    (!honours_affinity || node_affinity(pod, node))
        && (!honours_taints || !is_repelled(pod, node, &["NoSchedule", "NoExecute"]))
}

/// Whether the constraint of `pod` counts a pod with these labels. An absent
/// selector counts nothing.
fn selects(pod: &PodInfo, constraint: &TopologySpreadConstraint, other: Option<&Labels>) -> bool {
    let Some(selector) = constraint.label_selector.as_ref() else {
        return false;
    };
    let same = constraint.match_label_keys.iter().flatten().all(|key| {
        match pod.labels().and_then(|own| own.get(key)) {
            Some(value) => other.and_then(|other| other.get(key)) == Some(value),
            None => true,
        }
    });
    same && labels::selects(selector, other)
}

/// Pods of the same controller on a node: what upstream's default
/// constraints spread.
pub(crate) fn siblings(pod: &PodInfo, node: &NodeInfo) -> usize {
    let owner = |info: &PodInfo| {
        let owners = info.pod.metadata.owner_references.as_ref();
        owners
            .into_iter()
            .flatten()
            .find(|owner| owner.controller == Some(true))
            .map(|owner| owner.uid.clone())
    };
    let Some(own) = owner(pod) else {
        return 0;
    };
    node.pods
        .values()
        .filter(|other| owner(other).as_ref() == Some(&own))
        .count()
}

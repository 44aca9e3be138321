//! Which pods to remove so that a more important one fits.

use std::cmp::Reverse;
use std::sync::Arc;

use client::labels;
use jiff::Timestamp;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::filter::{Filter, Rejection};
use crate::schedule::{FitError, NodeName, histogram};
use crate::snapshot::{PodInfo, Snapshot};

/// A node and the pods that have to leave it.
#[derive(Clone, Debug)]
pub(crate) struct Preemption {
    pub(crate) node: NodeName,
    pub(crate) victims: Vec<Arc<PodInfo>>,
    violations: usize,
}

/// The least harmful preemption that makes `pod` fit, or why there is none.
pub(crate) fn preempt(
    snapshot: &Snapshot,
    pod: &PodInfo,
    error: &FitError,
) -> Result<Preemption, String> {
    if pod
        .spec()
        .and_then(|spec| spec.preemption_policy.as_deref())
        == Some("Never")
    {
        return Err("not eligible due to preemptionPolicy=Never.".to_owned());
    }
    if waits_for_victims(snapshot, pod) {
        return Err("not eligible due to a terminating pod on the nominated node.".to_owned());
    }
    let mut reasons = Vec::new();
    let mut candidates = Vec::new();
    for (node, rejection) in &error.rejections {
        if !rejection.resolvable {
            reasons.push("Preemption is not helpful for scheduling".to_owned());
            continue;
        }
        match victims(snapshot, pod, node) {
            Ok(preemption) => candidates.push(preemption),
            Err(more) => reasons.extend(more),
        }
    }
    candidates.into_iter().min_by_key(harm).ok_or_else(|| {
        format!(
            "0/{} nodes are available: {}.",
            error.nodes,
            histogram(&reasons)
        )
    })
}

/// Whether pods are already leaving the node this pod was promised.
fn waits_for_victims(snapshot: &Snapshot, pod: &PodInfo) -> bool {
    let status = pod.pod.status.as_ref();
    status
        .and_then(|status| status.nominated_node_name.as_ref())
        .and_then(|node| snapshot.nodes.get(node))
        .is_some_and(|node| {
            node.pods.values().any(|other| {
                other.is_terminating() && other.priority < pod.priority && was_preempted(other)
            })
        })
}

fn was_preempted(pod: &PodInfo) -> bool {
    pod.pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| {
            condition.type_ == "DisruptionTarget"
                && condition.reason.as_deref() == Some("PreemptionByScheduler")
        })
}

/// The pods of lower priority that have to go, after sparing as many as
/// possible: first those whose budget would be violated, then by importance.
fn victims(snapshot: &Snapshot, pod: &PodInfo, node: &NodeName) -> Result<Preemption, Vec<String>> {
    let none = || vec!["No preemption victims found for incoming pod".to_owned()];
    let info = snapshot.nodes.get(node).ok_or_else(none)?;
    let mut lower: Vec<Arc<PodInfo>> = info
        .pods
        .values()
        .filter(|other| other.priority < pod.priority)
        .cloned()
        .collect();
    if lower.is_empty() {
        return Err(none());
    }
    let mut trial = snapshot.clone();
    let fits = |trial: &Snapshot| -> Result<(), Rejection> {
        let node = trial
            .nodes
            .get(node)
            .expect("the trial has the snapshot's nodes");
        Filter::new(trial, pod).rejection(node).map_or(Ok(()), Err)
    };
    let place = |trial: &mut Snapshot, other: &Arc<PodInfo>, back: bool| {
        let node = trial
            .nodes
            .get_mut(node)
            .expect("the trial has the snapshot's nodes");
        if back {
            node.add(other.clone());
        } else {
            node.remove(&other.key);
        }
    };
    for other in &lower {
        place(&mut trial, other, false);
    }
    fits(&trial).map_err(|rejection| rejection.reasons)?;
    lower.sort_by_key(|other| (Reverse(other.priority), started(other)));
    let (violating, others) = by_budgets(snapshot, &lower);
    let mut victims = Vec::new();
    let mut violations = 0;
    for (other, violates) in violating
        .iter()
        .map(|other| (other, true))
        .chain(others.iter().map(|other| (other, false)))
    {
        place(&mut trial, other, true);
        if fits(&trial).is_err() {
            place(&mut trial, other, false);
            violations += usize::from(violates);
            victims.push(other.clone());
        }
    }
    victims.sort_by_key(|other| (Reverse(other.priority), started(other)));
    Ok(Preemption {
        node: node.clone(),
        victims,
        violations,
    })
}

fn started(pod: &PodInfo) -> Option<Timestamp> {
    pod.pod
        .status
        .as_ref()?
        .start_time
        .as_ref()
        .map(|time| time.0)
}

/// Splits pods into those whose removal a budget no longer allows, and others.
fn by_budgets(
    snapshot: &Snapshot,
    pods: &[Arc<PodInfo>],
) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let allowed = |budget: &PodDisruptionBudget| {
        budget
            .status
            .as_ref()
            .and_then(|status| status.disruptions_allowed)
            .unwrap_or(0)
    };
    let mut left: Vec<i32> = snapshot
        .budgets
        .iter()
        .map(|budget| allowed(budget))
        .collect();
    pods.iter().cloned().partition(|pod| {
        let mut violates = false;
        for (budget, left) in snapshot.budgets.iter().zip(&mut left) {
            let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            let covers = budget.metadata.namespace.as_deref() == Some(&pod.key.namespace)
                && pod.labels().is_some_and(|labels| !labels.is_empty())
                && selector.is_some_and(|selector| labels::selects(selector, pod.labels()));
            if covers {
                *left -= 1;
                violates |= *left < 0;
            }
        }
        violates
    })
}

/// How much a preemption hurts: violated budgets, the most important victim,
/// all of them together, how many; then the node whose most important victims
/// have run the shortest.
fn harm(preemption: &Preemption) -> (usize, i32, i64, usize, Reverse<Option<Timestamp>>) {
    let victims = &preemption.victims;
    let highest = victims
        .iter()
        .map(|victim| victim.priority)
        .max()
        .unwrap_or(i32::MIN);
    let sum = victims
        .iter()
        .map(|victim| i64::from(victim.priority) + i64::from(i32::MAX) + 1)
        .sum();
    let earliest = victims
        .iter()
        .filter(|victim| victim.priority == highest)
        .filter_map(|v| started(v))
        .min();
    (
        preemption.violations,
        highest,
        sum,
        victims.len(),
        Reverse(earliest),
    )
}

//! The decision itself: from a snapshot and a pod to a node.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::filter::{Filter, Rejection, unmet};
use crate::score::points;
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

/// The name of a node.
pub type NodeName = String;

/// Why no node will do. Its text is what the event and the condition say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FitError {
    /// How many nodes there are.
    pub nodes: usize,
    /// What keeps the pod from all of them, if that is decided without them.
    pub unmet: Option<String>,
    /// What each node lacks.
    pub rejections: BTreeMap<NodeName, Rejection>,
    /// What came of looking for pods to remove.
    pub preemption: Option<String>,
}

impl fmt::Display for FitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 && self.unmet.is_none() {
            return f.write_str("no nodes available to schedule pods");
        }
        write!(f, "0/{} nodes are available:", self.nodes)?;
        let reasons = self
            .rejections
            .values()
            .flat_map(|rejection| &rejection.reasons);
        match (&self.unmet, histogram(reasons)) {
            (Some(unmet), _) => write!(f, " {unmet}.")?,
            (None, text) if !text.is_empty() => write!(f, " {text}.")?,
            _ => {}
        }
        match &self.preemption {
            Some(preemption) => write!(f, " preemption: {preemption}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for FitError {}

/// `2 Insufficient cpu, 1 Too many pods`, sorted as text.
pub(crate) fn histogram<'a>(reasons: impl IntoIterator<Item = &'a String>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    let mut parts: Vec<String> = counts
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    parts.sort();
    parts.join(", ")
}

/// The node a pod should go to.
///
/// Pure: the same snapshot and pod give the same node. Nodes of equal merit
/// are told apart by the pod's name, so that pods do not all go to the first.
///
/// # Errors
///
/// When no node will do, with the reasons of each.
pub fn schedule(snapshot: &Snapshot, pod: &PodInfo) -> Result<NodeName, FitError> {
    let mut error = FitError {
        nodes: snapshot.nodes.len(),
        unmet: None,
        rejections: BTreeMap::new(),
        preemption: None,
    };
    if let Some(unmet) = unmet(snapshot, pod) {
        error.unmet = Some(unmet);
        return Err(error);
    }
    let filter = Filter::new(snapshot, pod);
    let mut possible: Vec<(&String, &NodeInfo)> = Vec::new();
    for (name, node) in &snapshot.nodes {
        match filter.rejection(node) {
            None => possible.push((name, node)),
            Some(rejection) => {
                error.rejections.insert(name.clone(), rejection);
            }
        }
    }
    // A node preempted for this pod is taken as soon as it fits.
    let status = pod.pod.status.as_ref();
    if let Some(promised) = status.and_then(|status| status.nominated_node_name.as_ref())
        && possible.iter().any(|(name, _)| *name == promised)
    {
        return Ok(promised.clone());
    }
    match possible[..] {
        [] => Err(error),
        [(name, _)] => Ok(name.clone()),
        _ => {
            let nodes: Vec<&NodeInfo> = possible.iter().map(|(_, node)| *node).collect();
            let points = points(snapshot, pod, filter.affinities(), &nodes);
            let best = points.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let winners: Vec<&String> = possible
                .iter()
                .zip(&points)
                .filter(|(_, points)| best - **points < 1e-9)
                .map(|((name, _), _)| *name)
                .collect();
            let mut hasher = DefaultHasher::new();
            pod.key.hash(&mut hasher);
            pod.pod.metadata.uid.hash(&mut hasher);
            let turn = usize::try_from(hasher.finish() % winners.len() as u64).unwrap_or(0);
            Ok(winners[turn].clone())
        }
    }
}

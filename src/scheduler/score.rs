//! Which of the possible nodes is the best.
//!
//! Every rule gives 0 to 100 points; rules that compare nodes with each other
//! are normalised over the possible ones. The weights are upstream's.

use crate::affinity::Affinities;
use crate::matching::{count_untolerated, node_term};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};
use crate::spread::{Spread, siblings};

/// What a container without requests is taken to ask for.
const DEFAULT_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// Points of each node, in the order given.
pub(crate) fn points(
    snapshot: &Snapshot,
    pod: &PodInfo,
    affinities: &Affinities,
    nodes: &[&NodeInfo],
) -> Vec<f64> {
    let taints = inverted(each(nodes, &|node| {
        number(count_untolerated(pod, node, &["PreferNoSchedule"]))
    }));
    let affinity = normalised(each(nodes, &|node| preferred_affinity(pod, node)));
    let neighbours = normalised(each(nodes, &|node| {
        #[expect(clippy::cast_precision_loss, reason = "sums of weights up to 100")]
        let preference = affinities.preference(node) as f64;
        preference
    }));
    let spread = spread_points(snapshot, pod, nodes);
    let free = each(nodes, &|node| least_allocated(pod, node));
    let balance = each(nodes, &|node| balanced(pod, node));
    let images = each(nodes, &|node| image_locality(snapshot, pod, node));
    (0..nodes.len())
        .map(|index| {
            3.0 * taints[index]
                + 2.0 * affinity[index]
                + 2.0 * spread[index]
                + 2.0 * neighbours[index]
                + free[index]
                + balance[index]
                + images[index]
        })
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "numbers of things on a node")]
fn number(count: usize) -> f64 {
    count as f64
}

fn each(nodes: &[&NodeInfo], rule: &dyn Fn(&NodeInfo) -> f64) -> Vec<f64> {
    nodes.iter().map(|node| rule(node)).collect()
}

/// Scales to 0..=100 between the least and the most.
fn normalised(values: Vec<f64>) -> Vec<f64> {
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    if most <= least {
        return vec![0.0; values.len()];
    }
    values
        .into_iter()
        .map(|value| 100.0 * (value - least) / (most - least))
        .collect()
}

/// As [`normalised`], with the least as the best; all equal are all best.
fn inverted(values: Vec<f64>) -> Vec<f64> {
    let most = values.iter().copied().fold(0.0, f64::max);
    let scale = |value: f64| {
        if most == 0.0 {
            100.0
        } else {
            100.0 * (most - value) / most
        }
    };
    values.into_iter().map(scale).collect()
}

fn preferred_affinity(pod: &PodInfo, node: &NodeInfo) -> f64 {
    let preferences = pod
        .affinity()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| {
            affinity
                .preferred_during_scheduling_ignored_during_execution
                .as_ref()
        });
    preferences
        .into_iter()
        .flatten()
        .filter(|preference| node_term(&preference.preference, node))
        .map(|preference| f64::from(preference.weight))
        .sum()
}

fn spread_points(snapshot: &Snapshot, pod: &PodInfo, nodes: &[&NodeInfo]) -> Vec<f64> {
    let soft = Spread::count(snapshot, pod, "ScheduleAnyway");
    if soft.is_empty() {
        return inverted(each(nodes, &|node| number(siblings(pod, node))));
    }
    let crowding: Vec<Option<f64>> = nodes.iter().map(|node| soft.crowding(node)).collect();
    let worst = crowding.iter().flatten().copied().fold(0.0, f64::max);
    inverted(
        crowding
            .into_iter()
            .map(|crowding| crowding.unwrap_or(worst))
            .collect(),
    )
}

/// The resources that balance and emptiness are judged by: what the node has,
/// and what would be asked of it with the pod.
fn shares(pod: &PodInfo, node: &NodeInfo) -> [Option<f64>; 2] {
    [("cpu", DEFAULT_CPU), ("memory", DEFAULT_MEMORY)].map(|(name, default)| {
        let own = |info: &PodInfo| match info.requests.get(name) {
            0 => default,
            amount => amount,
        };
        let total = node.allocatable.get(name);
        let asked: i64 = node.pods.values().map(|other| own(other)).sum::<i64>() + own(pod);
        #[expect(clippy::cast_precision_loss, reason = "a share of a node's resources")]
        (total > 0).then(|| (asked as f64 / total as f64).min(1.0))
    })
}

fn least_allocated(pod: &PodInfo, node: &NodeInfo) -> f64 {
    let shares = shares(pod, node);
    let known = number(shares.iter().flatten().count());
    if known == 0.0 {
        return 0.0;
    }
    100.0
        * shares
            .iter()
            .flatten()
            .map(|share| 1.0 - share)
            .sum::<f64>()
        / known
}

fn balanced(pod: &PodInfo, node: &NodeInfo) -> f64 {
    match shares(pod, node) {
        [Some(cpu), Some(memory)] => 100.0 * (1.0 - (cpu - memory).abs() / 2.0),
        _ => 100.0,
    }
}

/// Upstream's thresholds: images below 23 MiB do not matter, nor does more
/// than 1000 MiB for each container.
fn image_locality(snapshot: &Snapshot, pod: &PodInfo, node: &NodeInfo) -> f64 {
    const MEBIBYTE: f64 = 1024.0 * 1024.0;
    let Some(spec) = pod.spec() else {
        return 0.0;
    };
    let containers = number(spec.containers.len().max(1));
    let total = number(snapshot.nodes.len().max(1));
    let mut sum = 0.0;
    for container in &spec.containers {
        let image = container.image.as_deref().unwrap_or_default();
        let Some(size) = image_size(node, image) else {
            continue;
        };
        let having = snapshot
            .nodes
            .values()
            .filter(|other| image_size(other, image).is_some())
            .count();
        #[expect(clippy::cast_precision_loss, reason = "a size in bytes")]
        let size = size as f64;
        sum += size * number(having) / total;
    }
    let (least, most) = (23.0 * MEBIBYTE, 1000.0 * MEBIBYTE * containers);
    100.0 * (sum.clamp(least, most) - least) / (most - least)
}

fn image_size(node: &NodeInfo, image: &str) -> Option<i64> {
    let tagged = |name: &String| name == image || *name == format!("{image}:latest");
    let images = node.node.status.as_ref()?.images.as_ref()?;
    let found = images
        .iter()
        .find(|known| known.names.iter().flatten().any(tagged))?;
    found.size_bytes
}

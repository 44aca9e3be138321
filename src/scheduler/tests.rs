//! Decisions on small clusters.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::preempt::preempt;
use crate::{PodInfo, Snapshot, schedule};

fn node(name: &str, cpu: &str, more: Value) -> Arc<Node> {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}},
    });
    merge(&mut node, more);
    Arc::new(serde_json::from_value(node).unwrap())
}

fn pod(name: &str, cpu: &str, more: Value) -> Arc<PodInfo> {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default", "labels": {"app": "a"}},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
    });
    merge(&mut pod, more);
    let pod: Pod = serde_json::from_value(pod).unwrap();
    Arc::new(PodInfo::new(Arc::new(pod)))
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn cluster(nodes: impl IntoIterator<Item = Arc<Node>>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for node in nodes {
        snapshot.set_node(node);
    }
    snapshot
}

fn refusal(snapshot: &Snapshot, pod: &PodInfo) -> String {
    let mut error = schedule(snapshot, pod).unwrap_err();
    error.preemption = preempt(snapshot, pod, &error).err();
    error.to_string()
}

#[test]
fn says_why_nothing_fits() {
    let one = || vec![node("a", "1", json!({}))];
    let tainted = json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
    let cordoned = json!({"spec": {"unschedulable": true}});
    let cases = [
        (vec![], json!({}), "no nodes available to schedule pods"),
        (
            one(),
            json!({"spec": {"containers": [
                {"name": "c", "resources": {"requests": {"cpu": "900m"}}},
                {"name": "d", "resources": {"requests": {"cpu": "600m"}}}]}}),
            "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: \
             1 Preemption is not helpful for scheduling.",
        ),
        (
            vec![node("a", "1", tainted), node("b", "1", cordoned)],
            json!({}),
            "0/2 nodes are available: 1 node(s) had untolerated taint(s), \
             1 node(s) were unschedulable. preemption: 0/2 nodes are available: \
             2 Preemption is not helpful for scheduling.",
        ),
        (
            one(),
            json!({"spec": {"nodeSelector": {"disk": "ssd"}}}),
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. \
             preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
        ),
        (
            one(),
            json!({"spec": {"volumes": [
                {"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}}),
            "0/1 nodes are available: persistentvolumeclaim \"data\" not found.",
        ),
    ];
    for (nodes, more, text) in cases {
        let mut error =
            schedule(&cluster(nodes.clone()), &pod("p", "100m", more.clone())).unwrap_err();
        if error.unmet.is_none() && error.nodes > 0 {
            let snapshot = cluster(nodes);
            error.preemption = preempt(&snapshot, &pod("p", "100m", more), &error).err();
        }
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn a_full_node_without_victims_says_so() {
    let mut snapshot = cluster([node("a", "1", json!({}))]);
    snapshot.place("a", pod("x", "800m", json!({})));
    assert_eq!(
        refusal(&snapshot, &pod("p", "500m", json!({}))),
        "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: \
         1 No preemption victims found for incoming pod."
    );
}

#[test]
fn preempts_as_little_as_possible() {
    let mut snapshot = cluster([node("a", "1", json!({})), node("b", "1", json!({}))]);
    let at = |priority: i32| json!({"spec": {"priority": priority}});
    for (node, name, cpu, priority) in [
        ("a", "a1", "400m", 1),
        ("a", "a2", "400m", 5),
        ("b", "b1", "900m", 7),
    ] {
        snapshot.place(node, pod(name, cpu, at(priority)));
    }
    let preemptor = pod("p", "500m", at(10));
    let error = schedule(&snapshot, &preemptor).unwrap_err();
    let preemption = preempt(&snapshot, &preemptor, &error).unwrap();
    let victims: Vec<_> = preemption
        .victims
        .iter()
        .map(|pod| pod.key.name.as_str())
        .collect();
    assert_eq!((preemption.node.as_str(), victims), ("a", vec!["a1"]));
}

#[test]
fn pods_of_a_set_spread() {
    let mut snapshot = cluster([
        node("a", "4", json!({})),
        node("b", "4", json!({})),
        node("c", "4", json!({})),
    ]);
    let owned = json!({"metadata": {"ownerReferences": [{"apiVersion": "apps/v1",
        "kind": "ReplicaSet", "name": "r", "uid": "u", "controller": true}]}});
    let mut used = Vec::new();
    for name in ["1", "2", "3"] {
        let pod = pod(name, "100m", owned.clone());
        let node = schedule(&snapshot, &pod).unwrap();
        snapshot.place(&node, pod);
        used.push(node);
    }
    used.sort();
    assert_eq!(used, ["a", "b", "c"]);
}

#[test]
fn host_ports_and_anti_affinity_keep_pods_apart() {
    let port = json!({"spec": {"containers": [{"name": "c", "ports":
        [{"containerPort": 80, "hostPort": 80}]}]}});
    let apart = json!({"spec": {"affinity": {"podAntiAffinity":
        {"requiredDuringSchedulingIgnoredDuringExecution": [{
            "topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": {"app": "a"}}}]}}}});
    let cases = [
        (
            port,
            "node(s) didn't have free ports for the requested pod ports",
        ),
        (apart, "node(s) didn't match pod anti-affinity rules"),
    ];
    for (more, reason) in cases {
        let mut snapshot = cluster([node("a", "4", json!({})), node("b", "4", json!({}))]);
        for name in ["1", "2"] {
            let pod = pod(name, "100m", more.clone());
            let node = schedule(&snapshot, &pod).unwrap();
            snapshot.place(&node, pod);
        }
        let text = schedule(&snapshot, &pod("3", "100m", more))
            .unwrap_err()
            .to_string();
        assert_eq!(text, format!("0/2 nodes are available: 2 {reason}."));
    }
}

#[test]
fn affinity_brings_pods_together_and_the_first_may_start() {
    let together = json!({"spec": {"affinity": {"podAffinity":
        {"requiredDuringSchedulingIgnoredDuringExecution": [{
            "topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": {"app": "a"}}}]}}}});
    let mut snapshot = cluster([node("a", "4", json!({})), node("b", "4", json!({}))]);
    let first = pod("1", "100m", together.clone());
    let chosen = schedule(&snapshot, &first).unwrap();
    snapshot.place(&chosen, first);
    for name in ["2", "3", "4"] {
        let next = pod(name, "100m", together.clone());
        assert_eq!(schedule(&snapshot, &next).unwrap(), chosen);
        snapshot.place(&chosen, next);
    }
}

#[test]
fn skew_is_bounded() {
    let spread = json!({"spec": {"topologySpreadConstraints": [{
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "a"}}}]}});
    let cordoned = json!({"spec": {"unschedulable": true}});
    let mut snapshot = cluster([node("a", "4", json!({})), node("b", "4", cordoned)]);
    let first = pod("1", "100m", spread.clone());
    assert_eq!(schedule(&snapshot, &first).unwrap(), "a");
    snapshot.place("a", first);
    let text = schedule(&snapshot, &pod("2", "100m", spread))
        .unwrap_err()
        .to_string();
    assert_eq!(
        text,
        "0/2 nodes are available: 1 node(s) didn't match pod topology spread constraints, \
         1 node(s) were unschedulable."
    );
}

proptest! {
    /// Whatever arrives in whatever order, no node is asked for more than it has.
    #[test]
    fn never_overcommits(
        nodes in prop::collection::vec(1..8_u32, 1..5),
        pods in prop::collection::vec((1..3000_u32, 0..4_i32), 1..60),
    ) {
        let mut snapshot = cluster(
            nodes.iter().enumerate().map(|(i, cpu)| node(&i.to_string(), &cpu.to_string(), json!({}))),
        );
        for (index, (cpu, priority)) in pods.into_iter().enumerate() {
            let more = json!({"spec": {"priority": priority}});
            let pod = pod(&index.to_string(), &format!("{cpu}m"), more);
            match schedule(&snapshot, &pod) {
                Ok(node) => snapshot.place(&node, pod),
                Err(error) => {
                    if let Ok(preemption) = preempt(&snapshot, &pod, &error) {
                        prop_assert!(preemption.victims.iter().all(|v| v.priority < pod.priority));
                        prop_assert!(!preemption.victims.is_empty());
                        let node = snapshot.nodes.get_mut(&preemption.node).unwrap();
                        for victim in &preemption.victims {
                            node.remove(&victim.key);
                        }
                        prop_assert!(schedule(&snapshot, &pod).is_ok());
                    }
                }
            }
            for node in snapshot.nodes.values() {
                prop_assert!(node.requested().get("cpu") <= node.allocatable().get("cpu"));
            }
        }
    }
}

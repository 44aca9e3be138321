//! One pod of each DaemonSet on each node that wants it.
//!
//! Pods are pinned to their node by affinity and placed by the scheduler like
//! any other; node troubles that other pods flee from they tolerate.

mod placement;
mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;

use client::api::PostParams;
use client::{Action, Api, Client, EventType, Informer, NamespacedName, Observed, labels};
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};

use crate::context::{Context, run};
use crate::count::{nonzero, scaled};
use crate::error::{During, Result, is_namespace_terminating, is_not_found};
use crate::expectations::Expectations;
use crate::history::{self, REVISION_LABEL};
use crate::owner::{claim, controller_key, controller_of};
use crate::pods::{self, PodControl, is_finished, is_ready, is_terminating, phase};
use plan::{OnNode, Step};

const NAME: &str = "daemonset-controller";
/// Pods one run creates or deletes at most.
const BURST: usize = 250;

pub(crate) fn register(context: &Context) {
    let client = context.client("daemon-set-controller");
    let state = Arc::new(DaemonSets {
        sets: context.informers.of(),
        pods: context.informers.of(),
        nodes: context.informers.of(),
        revisions: context.informers.of(),
        control: PodControl {
            client: client.clone(),
            recorder: context.recorder(NAME),
        },
        client,
        expectations: Expectations::default(),
        written: Expectations::default(),
    });
    let controller = context.controller(NAME);
    controller.needs(&state.revisions);
    controller.watch(&state.sets, |set| vec![NamespacedName::of(set)]);
    let sets = state.sets.clone();
    controller.watch(&state.pods, move |pod| match controller_of(&pod.metadata) {
        Some(_) => controller_key::<DaemonSet>(&pod.metadata)
            .into_iter()
            .collect(),
        None => {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let sets = sets.in_namespace(namespace);
            let adopting = sets.iter().filter(|set| selects(set, pod));
            adopting.map(|set| NamespacedName::of(&**set)).collect()
        }
    });
    let sets = state.sets.clone();
    controller.watch_changes(&state.nodes, move |change| {
        // Heartbeats move no pods.
        if let Observed::Applied {
            old: Some(old),
            new,
        } = &change
            && old.metadata.labels == new.metadata.labels
            && old.spec == new.spec
        {
            return Vec::new();
        }
        sets.list()
            .iter()
            .map(|set| NamespacedName::of(&**set))
            .collect()
    });
    run(controller, 2, move |key| {
        let state = state.clone();
        async move { state.reconcile(&key).await }
    });
}

fn selects(set: &DaemonSet, pod: &Pod) -> bool {
    set.spec.as_ref().is_some_and(|spec| {
        !labels::selects_everything(&spec.selector)
            && labels::selects(&spec.selector, pod.metadata.labels.as_ref())
    })
}

struct DaemonSets {
    client: Client,
    sets: Informer<DaemonSet>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    revisions: Informer<ControllerRevision>,
    control: PodControl,
    expectations: Expectations,
    written: Expectations,
}

/// The pods of a set by the node they are on or meant for.
type ByNode = BTreeMap<String, Vec<Arc<Pod>>>;

impl DaemonSets {
    async fn reconcile(&self, key: &NamespacedName) -> Result<Action> {
        let Some(set) = self.sets.get(key) else {
            self.expectations.forget(key);
            self.written.forget(key);
            return Ok(Action::Done);
        };
        let spec = set.spec.clone().unwrap_or_default();
        if labels::selects_everything(&spec.selector) {
            let text = "This daemon set is selecting all pods. A non-empty selector is required.";
            let recorder = &self.control.recorder;
            recorder.event(&*set, EventType::Warning, "SelectingAll", text);
            return Ok(Action::Done);
        }
        if set.metadata.deletion_timestamp.is_some() || !self.written.satisfied(key, &self.sets) {
            return Ok(Action::Done);
        }
        let mut history = history::load(&self.client, &*set, &self.revisions, |revision| {
            labels::selects(&spec.selector, revision.metadata.labels.as_ref())
        })
        .await?;
        let known = set.status.clone().unwrap_or_default();
        let mut collisions = known.collision_count.unwrap_or(0);
        let revision = history
            .current(
                &self.client,
                &*set,
                &spec.template,
                &mut collisions,
                REVISION_LABEL,
            )
            .await?;
        let labels = revision.metadata.labels.as_ref();
        let hash = labels
            .and_then(|labels| labels.get(REVISION_LABEL))
            .cloned()
            .unwrap_or_default();
        let candidates = self.pods.in_namespace(&key.namespace);
        let claimed = claim(&self.client, &*set, candidates, |pod: &Pod| {
            selects(&set, pod)
        })
        .await?;
        let mut by_node = ByNode::new();
        for pod in &claimed {
            by_node
                .entry(placement::node_of(pod).to_owned())
                .or_default()
                .push(pod.clone());
        }
        let outcome = if self.expectations.satisfied(key, &self.pods) {
            self.step(key, &set, &spec, &by_node, &hash).await
        } else {
            Ok(())
        };
        let again = self
            .write_status(key, &set, &spec, &by_node, &hash, collisions)
            .await?;
        let live = |revision: &ControllerRevision| {
            let labels = revision.metadata.labels.as_ref();
            let name = labels.and_then(|labels| labels.get(REVISION_LABEL));
            name == Some(&hash) || claimed.iter().any(|pod| hash_of(pod) == name)
        };
        history
            .trim(&self.client, spec.revision_history_limit, live)
            .await?;
        outcome?;
        Ok(again.map_or(Action::Done, Action::After))
    }

    async fn step(
        &self,
        key: &NamespacedName,
        set: &DaemonSet,
        spec: &DaemonSetSpec,
        by_node: &ByNode,
        hash: &str,
    ) -> Result<()> {
        let nodes = self.nodes.list();
        let now = Timestamp::now();
        let min_ready_seconds = spec.min_ready_seconds.unwrap_or(0);
        let mut create = Vec::new();
        let mut delete: Vec<Arc<Pod>> = Vec::new();
        let mut rolling: Vec<OnNode> = Vec::new();
        let mut desired = 0;
        for node in &nodes {
            let name = node.metadata.name.clone().unwrap_or_default();
            let here = by_node.get(&name).map(Vec::as_slice).unwrap_or_default();
            let (should_run, may_stay) = placement::wanted(spec, node);
            desired += i32::from(should_run);
            let mut running = Vec::new();
            for pod in here.iter().filter(|pod| !is_terminating(pod)) {
                if is_finished(pod) && may_stay {
                    self.note_ended(set, pod, &name);
                    delete.push(pod.clone());
                } else {
                    running.push(pod.clone());
                }
            }
            if !may_stay {
                delete.extend(running);
            } else if should_run && here.is_empty() {
                create.push(name);
            } else if !running.is_empty() {
                rolling.push(OnNode::new(
                    name,
                    &running,
                    here,
                    hash,
                    min_ready_seconds,
                    now,
                ));
            }
        }
        // Pods meant for nodes that are gone are the pod garbage collector's
        // once they ran; those that never did are ours.
        for (name, pods) in by_node {
            if !nodes
                .iter()
                .any(|node| node.metadata.name.as_deref() == Some(name))
            {
                let idle = pods
                    .iter()
                    .filter(|pod| pods::node_name(pod).is_empty() && !is_terminating(pod));
                delete.extend(idle.cloned());
            }
        }
        let strategy = spec.update_strategy.clone().unwrap_or_default();
        let replaces = strategy.type_.as_deref() != Some("OnDelete");
        let limits = strategy.rolling_update.unwrap_or_default();
        let surge = scaled(limits.max_surge.as_ref(), desired, true);
        let mut unavailable = match &limits.max_unavailable {
            None if surge == 0 => 1,
            unavailable => scaled(unavailable.as_ref(), desired, true),
        };
        if surge == 0 && unavailable == 0 {
            unavailable = 1;
        }
        let missing = create.len();
        for step in plan::plan(&rolling, replaces, unavailable, surge, missing) {
            match step {
                Step::Delete(pod) => delete.push(pod),
                Step::Create(node) => create.push(node),
            }
        }
        self.delete(key, set, &delete).await?;
        self.create(key, set, spec, &create, hash).await
    }

    fn note_ended(&self, set: &DaemonSet, pod: &Pod, node: &str) {
        let key = NamespacedName::of(pod);
        let recorder = &self.control.recorder;
        if phase(pod) == "Failed" {
            let text = format!("Found failed daemon pod {key} on node {node}, will try to kill it");
            recorder.event(set, EventType::Warning, "FailedDaemonPod", text);
        } else {
            let text =
                format!("Found succeeded daemon pod {key} on node {node}, will try to delete it");
            recorder.event(set, EventType::Normal, "SucceededDaemonPod", text);
        }
    }

    async fn delete(&self, key: &NamespacedName, set: &DaemonSet, all: &[Arc<Pod>]) -> Result<()> {
        let some = &all[..all.len().min(BURST)];
        for (pod, outcome) in some
            .iter()
            .zip(join_all(some.iter().map(|pod| self.control.delete(set, pod))).await)
        {
            outcome.during(|| format!("deleting pods of {key}"))?;
            self.expectations.deleted(key, &**pod);
        }
        Ok(())
    }

    async fn create(
        &self,
        key: &NamespacedName,
        set: &DaemonSet,
        spec: &DaemonSetSpec,
        nodes: &[String],
        hash: &str,
    ) -> Result<()> {
        let mut left = &nodes[..nodes.len().min(BURST)];
        let mut batch = 1;
        while !left.is_empty() {
            let (now, later) = left.split_at(batch.min(left.len()));
            let made: Vec<Pod> = now
                .iter()
                .map(|node| placement::make(set, spec, node, hash))
                .collect();
            for outcome in join_all(made.iter().map(|pod| self.control.create(set, pod))).await {
                match outcome {
                    Ok(created) => self.expectations.created(key, &created),
                    Err(error) if is_namespace_terminating(&error) => return Ok(()),
                    Err(error) => return Err(error).during(|| format!("creating pods of {key}")),
                }
            }
            left = later;
            batch *= 2;
        }
        Ok(())
    }

    async fn write_status(
        &self,
        key: &NamespacedName,
        set: &DaemonSet,
        spec: &DaemonSetSpec,
        by_node: &ByNode,
        hash: &str,
        collisions: i32,
    ) -> Result<Option<std::time::Duration>> {
        let now = Timestamp::now();
        let min_ready_seconds = spec.min_ready_seconds.unwrap_or(0);
        let (mut desired, mut current, mut misplaced) = (0, 0, 0);
        let (mut ready, mut available, mut updated) = (0, 0, 0);
        let mut again: Option<std::time::Duration> = None;
        for node in self.nodes.list() {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            let pods = by_node.get(name).map(Vec::as_slice).unwrap_or_default();
            let (should_run, _) = placement::wanted(spec, &node);
            if !should_run {
                misplaced += i32::from(!pods.is_empty());
                continue;
            }
            desired += 1;
            if pods.is_empty() {
                continue;
            }
            current += 1;
            let mut oldest_first = pods.to_vec();
            oldest_first.sort_by_key(|pod| pods::created(pod));
            let ready_pod = oldest_first
                .iter()
                .find(|pod| is_ready(pod) && !is_terminating(pod));
            if let Some(pod) = ready_pod {
                ready += 1;
                match pods::availability(pod, min_ready_seconds, now) {
                    Ok(()) => available += 1,
                    Err(Some(left)) => again = Some(again.map_or(left, |known| known.min(left))),
                    Err(None) => {}
                }
            }
            let is_updated = |pod: &Arc<Pod>| hash_of(pod).is_some_and(|known| known == hash);
            updated += i32::from(oldest_first.iter().any(is_updated));
        }
        let fresh = DaemonSetStatus {
            desired_number_scheduled: desired,
            current_number_scheduled: current,
            number_misscheduled: misplaced,
            number_ready: ready,
            number_available: nonzero(available),
            number_unavailable: nonzero(desired - available),
            updated_number_scheduled: nonzero(updated),
            observed_generation: set.metadata.generation,
            collision_count: nonzero(collisions),
            conditions: set
                .status
                .as_ref()
                .and_then(|status| status.conditions.clone()),
        };
        if normalised(set.status.clone().unwrap_or_default()) == fresh {
            return Ok(again);
        }
        let api = Api::<DaemonSet>::namespaced(self.client.clone(), &key.namespace);
        let object = DaemonSet {
            status: Some(fresh),
            ..set.clone()
        };
        match api
            .replace_status(&key.name, &PostParams::default(), &object)
            .await
        {
            Ok(written) => self.written.created(key, &written),
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(error).during(|| format!("updating the status of {key}")),
        }
        Ok(again)
    }
}

fn hash_of(pod: &Pod) -> Option<&String> {
    pod.metadata.labels.as_ref()?.get(REVISION_LABEL)
}

fn normalised(status: DaemonSetStatus) -> DaemonSetStatus {
    let present = |count: Option<i32>| count.filter(|count| *count != 0);
    DaemonSetStatus {
        number_available: present(status.number_available),
        number_unavailable: present(status.number_unavailable),
        updated_number_scheduled: present(status.updated_number_scheduled),
        collision_count: present(status.collision_count),
        ..status
    }
}

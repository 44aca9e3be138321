//! Keeps StatefulSets: pods with names, places and claims that stay.
//!
//! One change at a time unless the set is `Parallel`: pods are created in
//! order, each once the one before it is available, removed from the end, and
//! updated from the end down to the partition.

mod pod;
mod status;

use std::sync::Arc;
use std::time::Duration;

use client::api::PostParams;
use client::{Action, Api, Client, EventRecorder, EventType, Informer, NamespacedName, labels};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

use crate::context::{Context, run};
use crate::count::scaled;
use crate::error::{
    During, Result, is_already_exists, is_namespace_terminating, is_not_found, message,
};
use crate::expectations::Expectations;
use crate::history;
use crate::owner::{claim, controller_key, controller_of};
use crate::pods::{self, availability, is_finished, is_terminating, phase};

const NAME: &str = "statefulset-controller";
const HASH_LABEL: &str = "controller.kubernetes.io/hash";

pub(crate) fn register(context: &Context) {
    let state = Arc::new(StatefulSets {
        client: context.client(NAME),
        sets: context.informers.of(),
        pods: context.informers.of(),
        claims: context.informers.of(),
        revisions: context.informers.of(),
        recorder: context.recorder(NAME),
        expectations: Expectations::default(),
        written: Expectations::default(),
    });
    let controller = context.controller(NAME);
    controller.needs(&state.revisions).needs(&state.claims);
    controller.watch(&state.sets, |set| vec![NamespacedName::of(set)]);
    let sets = state.sets.clone();
    controller.watch(&state.pods, move |pod| match controller_of(&pod.metadata) {
        Some(_) => controller_key::<StatefulSet>(&pod.metadata)
            .into_iter()
            .collect(),
        None => {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let sets = sets.in_namespace(namespace);
            let adopting = sets.iter().filter(|set| selects(set, pod));
            adopting.map(|set| NamespacedName::of(&**set)).collect()
        }
    });
    run(controller, 5, move |key| {
        let state = state.clone();
        async move { state.reconcile(&key).await }
    });
}

fn spec(set: &StatefulSet) -> StatefulSetSpec {
    set.spec.clone().unwrap_or_default()
}

fn selects(set: &StatefulSet, pod: &Pod) -> bool {
    set.spec.as_ref().is_some_and(|spec| {
        !labels::selects_everything(&spec.selector)
            && labels::selects(&spec.selector, pod.metadata.labels.as_ref())
            && pod::ordinal(set, pod).is_some()
    })
}

struct StatefulSets {
    client: Client,
    sets: Informer<StatefulSet>,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    revisions: Informer<ControllerRevision>,
    recorder: EventRecorder,
    expectations: Expectations,
    written: Expectations,
}

/// The revisions a set is between.
struct Versions {
    current: ControllerRevision,
    update: ControllerRevision,
}

impl StatefulSets {
    async fn reconcile(&self, key: &NamespacedName) -> Result<Action> {
        let Some(set) = self.sets.get(key) else {
            self.expectations.forget(key);
            self.written.forget(key);
            return Ok(Action::Done);
        };
        let wanted = spec(&set);
        if labels::selects_everything(&wanted.selector)
            || !self.written.satisfied(key, &self.sets)
            || !self.expectations.satisfied(key, &self.pods)
        {
            return Ok(Action::Done);
        }
        let mut history = history::load(&self.client, &*set, &self.revisions, |revision| {
            labels::selects(&wanted.selector, revision.metadata.labels.as_ref())
        })
        .await?;
        let candidates = self.pods.in_namespace(&key.namespace);
        let claimed = claim(&self.client, &*set, candidates, |pod: &Pod| {
            selects(&set, pod)
        })
        .await?;
        let known = set.status.clone().unwrap_or_default();
        let mut collisions = known.collision_count.unwrap_or(0);
        let update = history
            .current(
                &self.client,
                &*set,
                &wanted.template,
                &mut collisions,
                HASH_LABEL,
            )
            .await?;
        let current = known
            .current_revision
            .as_deref()
            .and_then(|name| history.get(name))
            .cloned();
        let versions = Versions {
            current: current.unwrap_or_else(|| update.clone()),
            update,
        };
        let outcome = if set.metadata.deletion_timestamp.is_none() {
            self.step(key, &set, &claimed, &versions).await
        } else {
            Ok(None)
        };
        let now = Timestamp::now();
        let fresh = status::calculate(&set, &claimed, &versions, collisions, now);
        if status::normalised(known) != fresh {
            let api = Api::<StatefulSet>::namespaced(self.client.clone(), &key.namespace);
            let updated = StatefulSet {
                status: Some(fresh),
                ..(*set).clone()
            };
            match api
                .replace_status(&key.name, &PostParams::default(), &updated)
                .await
            {
                Ok(written) => self.written.created(key, &written),
                Err(error) if is_not_found(&error) => {}
                Err(error) => return Err(error).during(|| format!("updating the status of {key}")),
            }
        }
        let live = |revision: &ControllerRevision| {
            let name = history::name(revision);
            [&versions.current, &versions.update]
                .iter()
                .any(|live| history::name(live) == name)
                || claimed.iter().any(|pod| pod::revision(pod) == Some(name))
        };
        history
            .trim(&self.client, wanted.revision_history_limit, live)
            .await?;
        Ok(outcome?.map_or(Action::Done, Action::After))
    }

    /// Takes the next step, or several if the set is parallel. Gives how long
    /// until a ready pod is available, if that is what is waited for.
    async fn step(
        &self,
        key: &NamespacedName,
        set: &StatefulSet,
        claimed: &[Arc<Pod>],
        versions: &Versions,
    ) -> Result<Option<Duration>> {
        let wanted = spec(set);
        let one_by_one = wanted.pod_management_policy.as_deref() != Some("Parallel");
        let start = wanted
            .ordinals
            .as_ref()
            .and_then(|ordinals| ordinals.start)
            .unwrap_or(0);
        let end = start + wanted.replicas.unwrap_or(1);
        let min_ready_seconds = wanted.min_ready_seconds.unwrap_or(0);
        let now = Timestamp::now();
        let mut slots: Vec<(i32, Option<Arc<Pod>>)> = (start..end).map(|o| (o, None)).collect();
        let mut condemned: Vec<(i32, Arc<Pod>)> = Vec::new();
        for pod in claimed {
            match pod::ordinal(set, pod) {
                Some(ordinal) if ordinal >= start && ordinal < end => {
                    let place = usize::try_from(ordinal - start).unwrap_or(0);
                    slots[place].1 = Some(pod.clone());
                }
                Some(ordinal) => condemned.push((ordinal, pod.clone())),
                None => {}
            }
        }
        condemned.sort_by_key(|(ordinal, _)| std::cmp::Reverse(*ordinal));
        let is_healthy = |pod: &Pod| {
            phase(pod) == "Running" && availability(pod, min_ready_seconds, now).is_ok()
        };
        let mut wait: Option<Duration> = None;
        for (ordinal, slot) in &mut slots {
            match slot {
                Some(pod) if is_finished(pod) => {
                    if !is_terminating(pod) {
                        let what = if phase(pod) == "Failed" {
                            "failed"
                        } else {
                            "terminated"
                        };
                        let reason = if phase(pod) == "Failed" {
                            "RecreatingFailedPod"
                        } else {
                            "RecreatingTerminatedPod"
                        };
                        let name = pod.metadata.name.as_deref().unwrap_or_default();
                        let text = format!("StatefulSet {key} is recreating {what} Pod {name}");
                        self.recorder.event(set, EventType::Warning, reason, text);
                        self.delete(key, set, pod).await?;
                    }
                    if one_by_one {
                        return Ok(None);
                    }
                }
                Some(pod) if is_terminating(pod) => {
                    if one_by_one {
                        return Ok(None);
                    }
                }
                Some(pod) => {
                    self.make_claims(set, *ordinal).await?;
                    let state = availability(pod, min_ready_seconds, now);
                    if state.is_err() || phase(pod) != "Running" {
                        if let Err(Some(left)) = state {
                            wait = Some(wait.map_or(left, |known| known.min(left)));
                        }
                        // Even a broken pod of an old revision is waited for:
                        // whoever broke it mends or deletes it.
                        if one_by_one {
                            return Ok(wait);
                        }
                    }
                }
                None => {
                    self.create(key, set, *ordinal, start, versions).await?;
                    if one_by_one {
                        return Ok(None);
                    }
                }
            }
        }
        let kept = slots
            .iter()
            .filter_map(|(ordinal, slot)| Some((*ordinal, slot.as_ref()?)));
        let first_broken = kept
            .chain(condemned.iter().map(|(ordinal, pod)| (*ordinal, pod)))
            .filter(|(_, pod)| !is_healthy(pod))
            .map(|(ordinal, _)| ordinal)
            .min();
        for (ordinal, pod) in &condemned {
            if is_terminating(pod) {
                if one_by_one {
                    return Ok(None);
                }
                continue;
            }
            // Only the first broken pod of all is removed as it is; any other
            // waits for it, so that a failing set does not vanish unseen.
            if one_by_one && !is_healthy(pod) && first_broken != Some(*ordinal) {
                return Ok(wait);
            }
            self.delete(key, set, pod).await?;
            if one_by_one {
                return Ok(None);
            }
        }
        self.update(key, set, &slots, start, versions, min_ready_seconds)
            .await?;
        Ok(wait)
    }

    /// Replaces pods of old revisions, from the last down to the partition.
    async fn update(
        &self,
        key: &NamespacedName,
        set: &StatefulSet,
        slots: &[(i32, Option<Arc<Pod>>)],
        start: i32,
        versions: &Versions,
        min_ready_seconds: i32,
    ) -> Result<()> {
        let (rolling, partition) = strategy(set);
        if !rolling {
            return Ok(());
        }
        let now = Timestamp::now();
        let most = max_unavailable(set);
        let is_down = |pod: &Pod| {
            is_terminating(pod)
                || phase(pod) != "Running"
                || availability(pod, min_ready_seconds, now).is_err()
        };
        let target = history::name(&versions.update);
        let mut unavailable = 0;
        for (ordinal, slot) in slots.iter().rev() {
            if *ordinal < start + partition || unavailable >= most {
                break;
            }
            match slot {
                Some(pod) if !is_terminating(pod) && pod::revision(pod) != Some(target) => {
                    self.delete(key, set, pod).await?;
                    unavailable += 1;
                }
                Some(pod) if is_down(pod) => unavailable += 1,
                Some(_) => {}
                None => unavailable += 1,
            }
        }
        Ok(())
    }

    async fn create(
        &self,
        key: &NamespacedName,
        set: &StatefulSet,
        ordinal: i32,
        start: i32,
        versions: &Versions,
    ) -> Result<()> {
        self.make_claims(set, ordinal).await?;
        let (rolling, partition) = strategy(set);
        let version = if rolling && ordinal < start + partition {
            &versions.current
        } else {
            &versions.update
        };
        let template = history::template(version).unwrap_or_else(|| spec(set).template);
        let fresh = pod::make(set, &template, ordinal, history::name(version));
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        let name = fresh.metadata.name.clone().unwrap_or_default();
        match api.create(&PostParams::default(), &fresh).await {
            Ok(created) => {
                self.expectations.created(key, &created);
                let text = format!("create Pod {name} in StatefulSet {} successful", key.name);
                self.recorder
                    .event(set, EventType::Normal, "SuccessfulCreate", text);
                Ok(())
            }
            Err(error) if is_namespace_terminating(&error) => Ok(()),
            Err(error) => {
                let why = message(&error);
                let text = format!(
                    "create Pod {name} in StatefulSet {} failed error: {why}",
                    key.name
                );
                self.recorder
                    .event(set, EventType::Warning, "FailedCreate", text);
                Err(error).during(|| format!("creating pod {name}"))
            }
        }
    }

    async fn make_claims(&self, set: &StatefulSet, ordinal: i32) -> Result<()> {
        for claim in pod::claims(set, ordinal) {
            let key = NamespacedName::of(&claim);
            if self.claims.get(&key).is_some() {
                continue;
            }
            let api = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), &key.namespace);
            match api.create(&PostParams::default(), &claim).await {
                Ok(_) => {
                    let name = set.metadata.name.as_deref().unwrap_or_default();
                    let text = format!(
                        "create Claim {} Pod {name}-{ordinal} in StatefulSet {name} success",
                        key.name
                    );
                    self.recorder
                        .event(set, EventType::Normal, "SuccessfulCreate", text);
                }
                Err(error) if is_already_exists(&error) || is_namespace_terminating(&error) => {}
                Err(error) => return Err(error).during(|| format!("creating claim {key}")),
            }
        }
        Ok(())
    }

    async fn delete(&self, key: &NamespacedName, set: &StatefulSet, pod: &Pod) -> Result<()> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let quiet = pods::delete(&self.client, pod).await;
        match quiet {
            Ok(()) => {
                self.expectations.deleted(key, pod);
                let text = format!("delete Pod {name} in StatefulSet {} successful", key.name);
                self.recorder
                    .event(set, EventType::Normal, "SuccessfulDelete", text);
                Ok(())
            }
            Err(error) => {
                let why = message(&error);
                let text = format!(
                    "delete Pod {name} in StatefulSet {} failed error: {why}",
                    key.name
                );
                self.recorder
                    .event(set, EventType::Warning, "FailedDelete", text);
                Err(error).during(|| format!("deleting pod {name}"))
            }
        }
    }
}

/// Whether pods are replaced when the template changes, and below which
/// ordinal (from the start) they are not.
fn strategy(set: &StatefulSet) -> (bool, i32) {
    let strategy = spec(set).update_strategy.unwrap_or_default();
    let rolling = strategy.type_.as_deref() != Some("OnDelete");
    let partition = strategy
        .rolling_update
        .and_then(|rolling| rolling.partition)
        .unwrap_or(0);
    (rolling, partition)
}

fn max_unavailable(set: &StatefulSet) -> i32 {
    let wanted = spec(set);
    let rolling = wanted
        .update_strategy
        .and_then(|strategy| strategy.rolling_update);
    let most = rolling.and_then(|rolling| rolling.max_unavailable);
    most.map_or(1, |most| {
        scaled(Some(&most), wanted.replicas.unwrap_or(1), true).max(1)
    })
}

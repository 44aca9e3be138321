//! How many pods a PodDisruptionBudget lets evictions take.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use client::api::PostParams;
use client::{Action, Api, Client, EventRecorder, EventType, Informer, NamespacedName, labels};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::context::{Context, run};
use crate::count::{count, scaled};
use crate::error::{During, Result, is_not_found};
use crate::owner::{controller_key, controller_of};
use crate::pods::{is_finished, is_ready, is_terminating};

const NAME: &str = "disruption-controller";
/// How long a pod that an eviction took may still be there.
const DELETION_WITHIN: Duration = Duration::from_secs(120);

pub(crate) fn register(context: &Context) {
    let state = Arc::new(Disruption {
        client: context.client(NAME),
        budgets: context.informers.of(),
        pods: context.informers.of(),
        deployments: context.informers.of(),
        replica_sets: context.informers.of(),
        stateful_sets: context.informers.of(),
        replication_controllers: context.informers.of(),
        recorder: context.recorder("controllermanager"),
    });
    let controller = context.controller(NAME);
    controller.watch(&state.budgets, |budget| vec![NamespacedName::of(budget)]);
    let budgets = state.budgets.clone();
    controller.watch(&state.pods, move |pod| {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let covering = budgets.in_namespace(namespace);
        let covering = covering.iter().filter(|budget| covers(budget, pod));
        covering
            .map(|budget| NamespacedName::of(&**budget))
            .collect()
    });
    // A changed size changes what a percentage means.
    let everything = |budgets: Informer<PodDisruptionBudget>| {
        move |namespace: Option<&str>| -> Vec<NamespacedName> {
            let budgets = budgets.in_namespace(namespace.unwrap_or_default());
            budgets
                .iter()
                .map(|budget| NamespacedName::of(&**budget))
                .collect()
        }
    };
    let all = everything(state.budgets.clone());
    controller.watch(&state.deployments, move |object| {
        all(object.metadata.namespace.as_deref())
    });
    let all = everything(state.budgets.clone());
    controller.watch(&state.replica_sets, move |object| {
        all(object.metadata.namespace.as_deref())
    });
    let all = everything(state.budgets.clone());
    controller.watch(&state.stateful_sets, move |object| {
        all(object.metadata.namespace.as_deref())
    });
    let all = everything(state.budgets.clone());
    controller.watch(&state.replication_controllers, move |object| {
        all(object.metadata.namespace.as_deref())
    });
    run(controller, 2, move |key| {
        let state = state.clone();
        async move { state.reconcile(&key).await }
    });
}

/// Whether a budget covers a pod; one without a selector covers nothing.
fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| labels::selects(selector, pod.metadata.labels.as_ref()))
}

struct Disruption {
    client: Client,
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    deployments: Informer<Deployment>,
    replica_sets: Informer<ReplicaSet>,
    stateful_sets: Informer<StatefulSet>,
    replication_controllers: Informer<ReplicationController>,
    recorder: EventRecorder,
}

impl Disruption {
    async fn reconcile(&self, key: &NamespacedName) -> Result<Action> {
        let Some(budget) = self.budgets.get(key) else {
            return Ok(Action::Done);
        };
        let mut pods = self.pods.in_namespace(&key.namespace);
        pods.retain(|pod| covers(&budget, pod) && !is_finished(pod));
        if pods.is_empty() {
            let recorder = &self.recorder;
            recorder.event(
                &*budget,
                EventType::Normal,
                "NoPods",
                "No matching pods found",
            );
        }
        let now = Timestamp::now();
        let known = budget.status.clone().unwrap_or_default();
        let (disrupted, again) = disrupted(&pods, &known, now);
        let healthy = pods
            .iter()
            .filter(|pod| !is_terminating(pod) && is_ready(pod))
            .filter(|pod| !disrupted.contains_key(pod.metadata.name.as_deref().unwrap_or_default()))
            .count();
        let (expected, desired) = self.expectation(&budget, &pods);
        let healthy = count(healthy);
        let allowed = if expected <= 0 {
            0
        } else {
            (healthy - desired).max(0)
        };
        let conditions = conditions(&known, allowed, budget.metadata.generation, now);
        let fresh = PodDisruptionBudgetStatus {
            current_healthy: Some(healthy),
            desired_healthy: Some(desired),
            disruptions_allowed: Some(allowed),
            expected_pods: Some(expected),
            disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
            observed_generation: budget.metadata.generation,
            conditions: Some(conditions),
        };
        if normalised(known) != fresh {
            let api = Api::<PodDisruptionBudget>::namespaced(self.client.clone(), &key.namespace);
            let object = PodDisruptionBudget {
                status: Some(fresh),
                ..(*budget).clone()
            };
            match api
                .replace_status(&key.name, &PostParams::default(), &object)
                .await
            {
                Err(error) if !is_not_found(&error) => {
                    return Err(error).during(|| format!("updating the status of budget {key}"));
                }
                _ => {}
            }
        }
        Ok(again.map_or(Action::Done, Action::After))
    }

    /// How many pods there should be, and how many of them have to stay.
    fn expectation(&self, budget: &PodDisruptionBudget, pods: &[Arc<Pod>]) -> (i32, i32) {
        let spec = budget.spec.clone().unwrap_or_default();
        if let Some(most) = &spec.max_unavailable {
            let expected = self.scale(pods);
            return (
                expected,
                (expected - scaled(Some(most), expected, true)).max(0),
            );
        }
        match &spec.min_available {
            Some(IntOrString::Int(least)) => (count(pods.len()), *least),
            Some(percent) => {
                let expected = self.scale(pods);
                (expected, scaled(Some(percent), expected, true))
            }
            None => (0, 0),
        }
    }

    /// The sizes of everything that controls these pods, together.
    fn scale(&self, pods: &[Arc<Pod>]) -> i32 {
        let mut sizes: HashMap<String, i32> = HashMap::new();
        for pod in pods {
            if let Some((uid, size)) = self.size_of(pod) {
                sizes.insert(uid, size);
            }
        }
        sizes.values().sum()
    }

    fn size_of(&self, pod: &Pod) -> Option<(String, i32)> {
        let meta = &pod.metadata;
        let uid = controller_of(meta)?.uid.clone();
        if let Some(key) = controller_key::<ReplicaSet>(meta) {
            let set = self.replica_sets.get(&key)?;
            if let Some(key) = controller_key::<Deployment>(&set.metadata)
                && let Some(deployment) = self.deployments.get(&key)
            {
                let size = deployment
                    .spec
                    .as_ref()
                    .and_then(|spec| spec.replicas)
                    .unwrap_or(1);
                return Some((deployment.metadata.uid.clone()?, size));
            }
            return Some((
                uid,
                set.spec
                    .as_ref()
                    .and_then(|spec| spec.replicas)
                    .unwrap_or(1),
            ));
        }
        if let Some(key) = controller_key::<StatefulSet>(meta) {
            let set = self.stateful_sets.get(&key)?;
            return Some((
                uid,
                set.spec
                    .as_ref()
                    .and_then(|spec| spec.replicas)
                    .unwrap_or(1),
            ));
        }
        let key = controller_key::<ReplicationController>(meta)?;
        let set = self.replication_controllers.get(&key)?;
        Some((
            uid,
            set.spec
                .as_ref()
                .and_then(|spec| spec.replicas)
                .unwrap_or(1),
        ))
    }
}

/// Pods that evictions took and that are not gone yet, and when the first of
/// them should have been.
fn disrupted(
    pods: &[Arc<Pod>],
    known: &PodDisruptionBudgetStatus,
    now: Timestamp,
) -> (BTreeMap<String, Time>, Option<Duration>) {
    let mut kept = BTreeMap::new();
    let mut again: Option<Duration> = None;
    for (name, at) in known.disrupted_pods.iter().flatten() {
        let there = pods
            .iter()
            .any(|pod| pod.metadata.name.as_ref() == Some(name) && !is_terminating(pod));
        let left = Duration::try_from((at.0 + DELETION_WITHIN).duration_since(now));
        if let (true, Ok(left)) = (there, left) {
            kept.insert(name.clone(), at.clone());
            again = Some(again.map_or(left, |known| known.min(left)));
        }
    }
    (kept, again)
}

fn conditions(
    known: &PodDisruptionBudgetStatus,
    allowed: i32,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let mut conditions = known.conditions.clone().unwrap_or_default();
    let (status, reason) = if allowed > 0 {
        ("True", "SufficientPods")
    } else {
        ("False", "InsufficientPods")
    };
    let current = conditions
        .iter()
        .find(|condition| condition.type_ == "DisruptionAllowed");
    let since = current
        .filter(|current| current.status == status)
        .map_or(Time(now), |current| current.last_transition_time.clone());
    let fresh = Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: String::new(),
        observed_generation: generation,
        last_transition_time: since,
    };
    conditions.retain(|condition| condition.type_ != "DisruptionAllowed");
    conditions.push(fresh);
    conditions
}

fn normalised(status: PodDisruptionBudgetStatus) -> PodDisruptionBudgetStatus {
    let zero = |count: Option<i32>| Some(count.unwrap_or(0));
    PodDisruptionBudgetStatus {
        current_healthy: zero(status.current_healthy),
        desired_healthy: zero(status.desired_healthy),
        disruptions_allowed: zero(status.disruptions_allowed),
        expected_pods: zero(status.expected_pods),
        disrupted_pods: status.disrupted_pods.filter(|pods| !pods.is_empty()),
        ..status
    }
}

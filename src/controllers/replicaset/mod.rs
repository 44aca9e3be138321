//! Keeps the number of pods of ReplicaSets and ReplicationControllers.
//!
//! A ReplicationController is the same thing with a map for a selector:
//! [`Flavor`] turns it into the ReplicaSet it amounts to, and the rest is one
//! engine. Pods are created in batches that double from one, so that a pod
//! the API server refuses costs one request rather than hundreds.

mod status;

use std::sync::Arc;

use client::api::PostParams;
use client::core::NamespaceResourceScope;
use client::{Action, Api, Client, Informer, NamespacedName, Resource, Watched, labels};
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus,
};
use k8s_openapi::api::core::v1::{
    Pod, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::context::{Context, run};
use crate::error::{During, Error, Result, is_namespace_terminating, is_not_found};
use crate::expectations::Expectations;
use crate::owner::{claim, controller_key, controller_of};
use crate::pods::{self, PodControl};

/// Pods one run creates or deletes at most.
const BURST: usize = 500;

/// What differs between the two kinds.
pub(crate) trait Flavor:
    Watched + Resource<Scope = NamespaceResourceScope> + serde::Serialize
{
    /// The ReplicaSet this object amounts to.
    fn as_replica_set(&self) -> ReplicaSet;
    /// This object with the status of such a ReplicaSet.
    fn with_status(&self, status: ReplicaSetStatus) -> Self;
}

impl Flavor for ReplicaSet {
    fn as_replica_set(&self) -> ReplicaSet {
        self.clone()
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        Self {
            status: Some(status),
            ..self.clone()
        }
    }
}

impl Flavor for ReplicationController {
    fn as_replica_set(&self) -> ReplicaSet {
        let spec = self.spec.clone().unwrap_or_default();
        let status = self.status.clone().unwrap_or_default();
        let conditions = status.conditions.map(|conditions| {
            let convert = |condition: ReplicationControllerCondition| ReplicaSetCondition {
                last_transition_time: condition.last_transition_time,
                message: condition.message,
                reason: condition.reason,
                status: condition.status,
                type_: condition.type_,
            };
            conditions.into_iter().map(convert).collect()
        });
        ReplicaSet {
            metadata: self.metadata.clone(),
            spec: Some(ReplicaSetSpec {
                min_ready_seconds: spec.min_ready_seconds,
                replicas: spec.replicas,
                selector: LabelSelector {
                    match_labels: spec.selector,
                    match_expressions: None,
                },
                template: spec.template,
            }),
            status: Some(ReplicaSetStatus {
                available_replicas: status.available_replicas,
                conditions,
                fully_labeled_replicas: status.fully_labeled_replicas,
                observed_generation: status.observed_generation,
                ready_replicas: status.ready_replicas,
                replicas: status.replicas,
                terminating_replicas: None,
            }),
        }
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        let conditions = status.conditions.map(|conditions| {
            let convert = |condition: ReplicaSetCondition| ReplicationControllerCondition {
                last_transition_time: condition.last_transition_time,
                message: condition.message,
                reason: condition.reason,
                status: condition.status,
                type_: condition.type_,
            };
            conditions.into_iter().map(convert).collect()
        });
        let status = ReplicationControllerStatus {
            available_replicas: status.available_replicas,
            conditions,
            fully_labeled_replicas: status.fully_labeled_replicas,
            observed_generation: status.observed_generation,
            ready_replicas: status.ready_replicas,
            replicas: status.replicas,
        };
        Self {
            status: Some(status),
            ..self.clone()
        }
    }
}

pub(crate) fn register_replica_sets(context: &Context) {
    register::<ReplicaSet>(context, "replicaset-controller");
}

pub(crate) fn register_replication_controllers(context: &Context) {
    register::<ReplicationController>(context, "replication-controller");
}

fn register<K: Flavor>(context: &Context, name: &'static str) {
    let client = context.client(name);
    let engine = Arc::new(Engine::<K> {
        sets: context.informers.of(),
        pods: context.informers.of(),
        control: PodControl {
            client: client.clone(),
            recorder: context.recorder(name),
        },
        client,
        expectations: Expectations::default(),
        written: Expectations::default(),
    });
    let controller = context.controller(name);
    controller.watch(&engine.sets, |set| vec![NamespacedName::of(set)]);
    let sets = engine.sets.clone();
    controller.watch(&engine.pods, move |pod| {
        match controller_of(&pod.metadata) {
            Some(_) => controller_key::<K>(&pod.metadata).into_iter().collect(),
            None => selecting(&sets, pod),
        }
    });
    run(controller, 5, move |key| {
        let engine = engine.clone();
        async move { engine.reconcile(&key).await }
    });
}

/// The sets that may want to adopt an orphan.
fn selecting<K: Flavor>(sets: &Informer<K>, pod: &Pod) -> Vec<NamespacedName> {
    if pods::is_terminating(pod) {
        return Vec::new();
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    sets.in_namespace(namespace)
        .iter()
        .filter(|set| selects(&set.as_replica_set(), pod))
        .map(|set| NamespacedName::of(&**set))
        .collect()
}

fn selects(set: &ReplicaSet, pod: &Pod) -> bool {
    set.spec.as_ref().is_some_and(|spec| {
        !labels::selects_everything(&spec.selector)
            && labels::selects(&spec.selector, pod.metadata.labels.as_ref())
    })
}

struct Engine<K> {
    client: Client,
    sets: Informer<K>,
    pods: Informer<Pod>,
    control: PodControl,
    expectations: Expectations,
    written: Expectations,
}

impl<K: Flavor> Engine<K> {
    async fn reconcile(&self, key: &NamespacedName) -> Result<Action> {
        let Some(object) = self.sets.get(key) else {
            self.expectations.forget(key);
            self.written.forget(key);
            return Ok(Action::Done);
        };
        // The event of our own last status runs the key again.
        if !self.written.satisfied(key, &self.sets) {
            return Ok(Action::Done);
        }
        let set = object.as_replica_set();
        let caught_up = self.expectations.satisfied(key, &self.pods);
        let mine = self.pods.in_namespace(&key.namespace);
        let (terminating, candidates): (Vec<_>, Vec<_>) = mine
            .into_iter()
            .filter(|pod| !pods::is_finished(pod))
            .partition(|pod| pods::is_terminating(pod));
        let claimed = claim(&self.client, &*object, candidates, |pod: &Pod| {
            selects(&set, pod)
        })
        .await?;
        let managed = if caught_up && set.metadata.deletion_timestamp.is_none() {
            self.manage(key, &*object, &set, &claimed).await
        } else {
            Ok(())
        };
        let terminating = terminating
            .iter()
            .filter(|pod| crate::owner::is_controlled_by(&pod.metadata, &set.metadata))
            .count();
        let now = Timestamp::now();
        let (status, again) =
            status::calculate(&set, &claimed, terminating, managed.as_ref().err(), now);
        self.write_status(key, &*object, &set, status).await?;
        managed.map_err(|failure| failure.error)?;
        Ok(again.map_or(Action::Done, Action::After))
    }

    async fn manage(
        &self,
        key: &NamespacedName,
        object: &K,
        set: &ReplicaSet,
        claimed: &[Arc<Pod>],
    ) -> Result<(), Failure> {
        let spec = set.spec.clone().unwrap_or_default();
        let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
        if claimed.len() < wanted {
            let missing = (wanted - claimed.len()).min(BURST);
            let pod = pods::from_template(object, &spec.template.unwrap_or_default());
            self.create(key, object, &pod, missing)
                .await
                .map_err(|error| Failure {
                    reason: "FailedCreate",
                    error,
                })
        } else if claimed.len() > wanted {
            let surplus = (claimed.len() - wanted).min(BURST);
            let related = self.related(set, claimed);
            let order = pods::removal_order(claimed, &related, Timestamp::now());
            self.delete(key, object, &order[..surplus])
                .await
                .map_err(|error| Failure {
                    reason: "FailedDelete",
                    error,
                })
        } else {
            Ok(())
        }
    }

    async fn create(
        &self,
        key: &NamespacedName,
        object: &K,
        pod: &Pod,
        count: usize,
    ) -> Result<()> {
        let mut left = count;
        let mut batch = 1;
        while left > 0 {
            let size = batch.min(left);
            let outcomes = join_all((0..size).map(|_| self.control.create(object, pod))).await;
            let mut failure = None;
            for outcome in outcomes {
                match outcome {
                    Ok(created) => self.expectations.created(key, &created),
                    Err(error) => failure = Some(error),
                }
            }
            match failure {
                // Nothing will come of it; the namespace takes the set along.
                Some(error) if is_namespace_terminating(&error) => return Ok(()),
                Some(error) => return Err(error).during(|| format!("creating pods of {key}")),
                None => {}
            }
            left -= size;
            batch *= 2;
        }
        Ok(())
    }

    async fn delete(&self, key: &NamespacedName, object: &K, surplus: &[Arc<Pod>]) -> Result<()> {
        let deletions = surplus.iter().map(|pod| async move {
            let outcome = self.control.delete(object, pod).await;
            if outcome.is_ok() {
                self.expectations.deleted(key, &**pod);
            }
            outcome
        });
        for outcome in join_all(deletions).await {
            outcome.during(|| format!("deleting pods of {key}"))?;
        }
        Ok(())
    }

    /// The pods of every set that has the same controller, such as all
    /// revisions of a Deployment: they share nodes and load.
    fn related(&self, set: &ReplicaSet, claimed: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        let Some(controller) = controller_of(&set.metadata) else {
            return claimed.to_vec();
        };
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let siblings: Vec<Option<String>> = self
            .sets
            .in_namespace(namespace)
            .iter()
            .filter(|other| {
                controller_of(other.meta()).is_some_and(|other| other.uid == controller.uid)
            })
            .map(|other| other.meta().uid.clone())
            .collect();
        self.pods
            .in_namespace(namespace)
            .into_iter()
            .filter(|pod| {
                controller_of(&pod.metadata)
                    .is_some_and(|owner| siblings.contains(&Some(owner.uid.clone())))
            })
            .collect()
    }

    async fn write_status(
        &self,
        key: &NamespacedName,
        object: &K,
        set: &ReplicaSet,
        status: ReplicaSetStatus,
    ) -> Result<()> {
        let known = status::normalised(set.status.clone().unwrap_or_default());
        if known == status {
            return Ok(());
        }
        let api = Api::<K>::namespaced(self.client.clone(), &key.namespace);
        let fresh = object.with_status(status);
        match api
            .replace_status(&key.name, &PostParams::default(), &fresh)
            .await
        {
            Ok(written) => {
                self.written.created(key, &written);
                Ok(())
            }
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(error).during(|| format!("updating the status of {key}")),
        }
    }
}

/// Why the number of pods could not be made right.
struct Failure {
    reason: &'static str,
    error: Error,
}

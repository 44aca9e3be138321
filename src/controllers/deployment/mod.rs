//! Rolls Deployments out: one ReplicaSet for each revision of the template,
//! scaled up and down within the limits of the strategy.
//!
//! [`plan`] decides sizes, [`revision`] tells the sets apart, [`status`]
//! computes conditions; [`rollout`] carries the decisions out.

mod plan;
mod revision;
mod rollout;
mod status;

use std::sync::Arc;

use client::{
    Action, Client, EventRecorder, EventType, Informer, NamespacedName, Observed, labels,
};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;

use crate::context::{Context, run};
use crate::error::Result;
use crate::expectations::Expectations;
use crate::owner::{claim, controller_key, controller_of};
use rollout::Rollout;

const NAME: &str = "deployment-controller";

pub(crate) fn register(context: &Context) {
    let state = Arc::new(Deployments {
        client: context.client(NAME),
        deployments: context.informers.of(),
        sets: context.informers.of(),
        pods: context.informers.of(),
        recorder: context.recorder(NAME),
        written_sets: Expectations::default(),
        written: Expectations::default(),
    });
    let controller = context.controller(NAME);
    controller.watch(&state.deployments, |deployment| {
        vec![NamespacedName::of(deployment)]
    });
    let deployments = state.deployments.clone();
    controller.watch(&state.sets, move |set| match controller_of(&set.metadata) {
        Some(_) => controller_key::<Deployment>(&set.metadata)
            .into_iter()
            .collect(),
        None => selecting(&deployments, set),
    });
    let watched = state.clone();
    controller.watch_changes(&state.pods, move |change| match change {
        // Recreate waits for the last old pod to be gone.
        Observed::Deleted(pod) => watched.recreating(pod).into_iter().collect(),
        Observed::Applied { .. } => Vec::new(),
    });
    run(controller, 5, move |key| {
        let state = state.clone();
        async move { state.reconcile(&key).await }
    });
}

fn selecting(deployments: &Informer<Deployment>, set: &ReplicaSet) -> Vec<NamespacedName> {
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    deployments
        .in_namespace(namespace)
        .iter()
        .filter(|deployment| selects(deployment, set))
        .map(|deployment| NamespacedName::of(&**deployment))
        .collect()
}

fn selects(deployment: &Deployment, set: &ReplicaSet) -> bool {
    deployment.spec.as_ref().is_some_and(|spec| {
        !labels::selects_everything(&spec.selector)
            && labels::selects(&spec.selector, set.metadata.labels.as_ref())
    })
}

struct Deployments {
    client: Client,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    recorder: EventRecorder,
    written_sets: Expectations,
    written: Expectations,
}

impl Deployments {
    fn recreating(&self, pod: &Pod) -> Option<NamespacedName> {
        let set = self
            .sets
            .get(&controller_key::<ReplicaSet>(&pod.metadata)?)?;
        let key = controller_key::<Deployment>(&set.metadata)?;
        self.deployments
            .get(&key)
            .filter(|deployment| plan::is_recreate(deployment))?;
        Some(key)
    }

    async fn reconcile(&self, key: &NamespacedName) -> Result<Action> {
        let Some(deployment) = self.deployments.get(key) else {
            self.written_sets.forget(key);
            self.written.forget(key);
            return Ok(Action::Done);
        };
        // Acting on what our own last writes replaced would only conflict; the
        // events of those writes run the key again.
        if !self.written.satisfied(key, &self.deployments)
            || !self.written_sets.satisfied(key, &self.sets)
        {
            return Ok(Action::Done);
        }
        let Some(spec) = deployment.spec.as_ref() else {
            return Ok(Action::Done);
        };
        if labels::selects_everything(&spec.selector) {
            let text = "This deployment is selecting all pods. A non-empty selector is required.";
            self.recorder
                .event(&*deployment, EventType::Warning, "SelectingAll", text);
            return Ok(Action::Done);
        }
        let candidates = self.sets.in_namespace(&key.namespace);
        let claimed = claim(
            &self.client,
            &*deployment,
            candidates,
            |set: &ReplicaSet| selects(&deployment, set),
        )
        .await?;
        let mut sets: Vec<ReplicaSet> = claimed.iter().map(|set| (**set).clone()).collect();
        sets.sort_by(by_age);
        let mut rollout = Rollout::new(self, key, &deployment, sets);
        let spec = rollout.spec();
        let paused = spec.paused.unwrap_or(false);
        if deployment.metadata.deletion_timestamp.is_some() {
            rollout.sync_revision(false).await?;
            return rollout.write_numbers().await;
        }
        status::note_pause(&mut rollout.deployment, Timestamp::now());
        if paused {
            return rollout.scale_only(true).await;
        }
        if rollout.rollback_target().is_some() {
            return rollout.roll_back().await;
        }
        rollout.sync_revision(false).await?;
        if rollout.was_scaled() {
            return rollout.scale_only(false).await;
        }
        if plan::is_recreate(&rollout.deployment) {
            rollout.recreate().await
        } else {
            rollout.roll().await
        }
    }
}

/// Oldest first; names decide between sets of the same second.
fn by_age(a: &ReplicaSet, b: &ReplicaSet) -> std::cmp::Ordering {
    let created = |set: &ReplicaSet| set.metadata.creation_timestamp.clone();
    created(a)
        .cmp(&created(b))
        .then_with(|| a.metadata.name.cmp(&b.metadata.name))
}

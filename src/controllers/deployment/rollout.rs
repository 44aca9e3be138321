//! One run over one Deployment: carries plans out and writes the status.

use client::api::{DeleteParams, PostParams, Preconditions};
use client::{Action, Api, EventType, NamespacedName};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::plan::{self, Limits, Size, Step};
use super::{Deployments, by_age, revision, status};
use crate::error::{
    During, Error, Result, ignore_not_found, is_already_exists, is_namespace_terminating, message,
};
use crate::owner::{controller_ref, is_controlled_by};
use crate::pods;

/// The working copy of a Deployment and its ReplicaSets during one run.
pub(super) struct Rollout<'a> {
    controller: &'a Deployments,
    key: &'a NamespacedName,
    /// As the informer has it.
    original: &'a Deployment,
    /// With the conditions and annotations this run adds.
    pub(super) deployment: Deployment,
    limits: Limits,
    new: Option<ReplicaSet>,
    /// Oldest first.
    olds: Vec<ReplicaSet>,
}

fn replicas(set: &ReplicaSet) -> i32 {
    set.spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1)
}

fn available(set: &ReplicaSet) -> i32 {
    set.status
        .as_ref()
        .and_then(|status| status.available_replicas)
        .unwrap_or(0)
}

fn name(set: &ReplicaSet) -> &str {
    set.metadata.name.as_deref().unwrap_or_default()
}

fn size(set: &ReplicaSet) -> Size {
    Size {
        replicas: replicas(set),
        available: available(set),
        max_before: revision::max_before(set),
    }
}

impl<'a> Rollout<'a> {
    pub(super) fn new(
        controller: &'a Deployments,
        key: &'a NamespacedName,
        original: &'a Deployment,
        mut sets: Vec<ReplicaSet>,
    ) -> Self {
        let new = revision::find_new(original, &sets).map(|index| sets.remove(index));
        Self {
            controller,
            key,
            original,
            deployment: original.clone(),
            limits: Limits::of(original),
            new,
            olds: sets,
        }
    }

    pub(super) fn spec(&self) -> &DeploymentSpec {
        self.deployment
            .spec
            .as_ref()
            .expect("a run starts with a spec")
    }

    fn api(&self) -> Api<Deployment> {
        Api::namespaced(self.controller.client.clone(), &self.key.namespace)
    }

    fn sets(&self) -> Api<ReplicaSet> {
        Api::namespaced(self.controller.client.clone(), &self.key.namespace)
    }

    fn condition(&mut self, state: &str, reason: &str, text: String) {
        let fresh = status::condition(status::PROGRESSING, state, reason, text, Timestamp::now());
        status::set(self.deployment.status.get_or_insert_default(), fresh);
    }

    /// Numbers the new set, the Deployment with it, and creates the set if
    /// `create` says so and there is none.
    pub(super) async fn sync_revision(&mut self, create: bool) -> Result<()> {
        let number = revision::highest(&self.olds) + 1;
        let has_deadline = status::deadline(&self.deployment).is_some();
        if let Some(mut set) = self.new.take() {
            let changed = revision::annotate(&self.deployment, &mut set, number);
            let min_ready_seconds = self.spec().min_ready_seconds;
            let spec = set.spec.get_or_insert_default();
            if changed || spec.min_ready_seconds.unwrap_or(0) != min_ready_seconds.unwrap_or(0) {
                spec.min_ready_seconds = min_ready_seconds;
                set = self.replace(set).await?;
            }
            let known = self.deployment.status.get_or_insert_default();
            if has_deadline && status::find(known, status::PROGRESSING).is_none() {
                let text = format!("Found new replica set {:?}", name(&set));
                self.condition("True", "FoundNewReplicaSet", text);
            }
            self.number(revision::of(&set));
            self.new = Some(set);
        } else if create {
            let set = self.create(number, has_deadline).await?;
            self.number(number);
            self.new = Some(set);
        }
        Ok(())
    }

    fn number(&mut self, revision: i64) {
        let annotations = self.deployment.metadata.annotations.get_or_insert_default();
        annotations.insert(revision::REVISION.to_owned(), revision.to_string());
    }

    async fn create(&mut self, number: i64, has_deadline: bool) -> Result<ReplicaSet> {
        let collisions = self
            .deployment
            .status
            .as_ref()
            .and_then(|status| status.collision_count);
        let spec = self.spec();
        let mut template = spec.template.clone();
        let hash = revision::hash(&template, collisions);
        let labels = template
            .metadata
            .get_or_insert_default()
            .labels
            .get_or_insert_default();
        labels.insert(revision::HASH_LABEL.to_owned(), hash.clone());
        let labels = labels.clone();
        let mut selector = spec.selector.clone();
        selector
            .match_labels
            .get_or_insert_default()
            .insert(revision::HASH_LABEL.to_owned(), hash.clone());
        let total = self.olds.iter().map(replicas).sum();
        let size = if plan::is_recreate(&self.deployment) {
            self.limits.replicas
        } else {
            plan::new_size(self.limits, 0, total)
        };
        let mut set = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(set_name(&self.key.name, &hash)),
                namespace: Some(self.key.namespace.clone()),
                labels: Some(labels),
                owner_references: Some(vec![controller_ref(self.original)]),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec {
                min_ready_seconds: spec.min_ready_seconds,
                replicas: Some(size),
                selector,
                template: Some(template),
            }),
            status: None,
        };
        revision::annotate(&self.deployment, &mut set, number);
        revision::note_scale(&mut set, self.limits);
        match self.sets().create(&PostParams::default(), &set).await {
            Ok(created) => {
                self.controller.written_sets.created(self.key, &created);
                if size > 0 {
                    self.event_scaled("up", &created, 0, size);
                }
                if has_deadline {
                    let text = format!("Created new replica set {:?}", name(&created));
                    self.condition("True", "NewReplicaSetCreated", text);
                }
                Ok(created)
            }
            Err(error) if is_already_exists(&error) => self.resolve_collision(set, error).await,
            Err(error) => {
                let action = format!("creating replica set {}", name(&set));
                if !is_namespace_terminating(&error) {
                    let set = name(&set);
                    let text = format!(
                        "Failed to create new replica set {set:?}: {}",
                        message(&error)
                    );
                    let recorder = &self.controller.recorder;
                    let reason = "ReplicaSetCreateError";
                    recorder.event(self.original, EventType::Warning, reason, text.clone());
                    if has_deadline {
                        self.condition("False", reason, text);
                        self.write_current().await?;
                    }
                }
                Err(error).during(|| action)
            }
        }
    }

    /// A set of the new set's name exists: it is ours from before the informer
    /// saw it, or another template has the same hash.
    async fn resolve_collision(
        &mut self,
        wanted: ReplicaSet,
        error: client::Error,
    ) -> Result<ReplicaSet> {
        let existing = self
            .sets()
            .get(name(&wanted))
            .await
            .during(|| format!("reading replica set {}", name(&wanted)))?;
        let ours = is_controlled_by(&existing.metadata, &self.original.metadata)
            && revision::find_new(&self.deployment, std::slice::from_ref(&existing)).is_some();
        if ours {
            return Ok(existing);
        }
        let known = self.deployment.status.get_or_insert_default();
        known.collision_count = Some(known.collision_count.unwrap_or(0) + 1);
        self.write_current().await?;
        Err(error).during(|| format!("creating replica set {}", name(&wanted)))
    }

    async fn replace(&self, set: ReplicaSet) -> Result<ReplicaSet> {
        let outcome = self
            .sets()
            .replace(name(&set), &PostParams::default(), &set)
            .await;
        let written = outcome.during(|| format!("updating replica set {}", name(&set)))?;
        self.controller.written_sets.created(self.key, &written);
        Ok(written)
    }

    fn event_scaled(&self, way: &str, set: &ReplicaSet, from: i32, to: i32) {
        let text = format!("Scaled {way} replica set {} from {from} to {to}", name(set));
        let recorder = &self.controller.recorder;
        recorder.event(self.original, EventType::Normal, "ScalingReplicaSet", text);
    }

    /// Gives a set this size and notes the Deployment's on it.
    async fn scale(&self, mut set: ReplicaSet, to: i32) -> Result<ReplicaSet> {
        let from = replicas(&set);
        let noted = revision::note_scale(&mut set, self.limits);
        if from == to && !noted {
            return Ok(set);
        }
        set.spec.get_or_insert_default().replicas = Some(to);
        let set = self.replace(set).await?;
        if from != to {
            self.event_scaled(if from < to { "up" } else { "down" }, &set, from, to);
        }
        Ok(set)
    }

    /// The rolling strategy.
    pub(super) async fn roll(mut self) -> Result<Action> {
        self.sync_revision(true).await?;
        let olds: Vec<Size> = self.olds.iter().map(size).collect();
        match plan::rolling(
            self.limits,
            self.new.as_ref().map(size).unwrap_or_default(),
            &olds,
        ) {
            Step::New(to) => {
                if let Some(set) = self.new.take() {
                    self.new = Some(self.scale(set, to).await?);
                }
            }
            Step::Old(sizes) => {
                for (index, to) in sizes {
                    self.olds[index] = self.scale(self.olds[index].clone(), to).await?;
                }
            }
            Step::Nothing => self.clean_up_if_complete().await?,
        }
        self.write_progress().await
    }

    /// The recreate strategy: nothing new before everything old is gone.
    pub(super) async fn recreate(mut self) -> Result<Action> {
        let mut scaled_down = false;
        for index in 0..self.olds.len() {
            if replicas(&self.olds[index]) != 0 {
                self.olds[index] = self.scale(self.olds[index].clone(), 0).await?;
                scaled_down = true;
            }
        }
        if scaled_down || self.old_pods_remain() {
            return self.write_progress().await;
        }
        self.sync_revision(true).await?;
        if let Some(set) = self.new.take() {
            self.new = Some(self.scale(set, self.limits.replicas).await?);
        }
        self.clean_up_if_complete().await?;
        self.write_progress().await
    }

    fn old_pods_remain(&self) -> bool {
        self.olds.iter().any(|set| {
            set.status
                .as_ref()
                .is_some_and(|status| status.replicas > 0)
        }) || self
            .controller
            .pods
            .in_namespace(&self.key.namespace)
            .iter()
            .any(|pod| {
                !pods::is_finished(pod)
                    && self
                        .olds
                        .iter()
                        .any(|set| is_controlled_by(&pod.metadata, &set.metadata))
            })
    }

    /// Whether the Deployment's size changed since its active sets were scaled.
    pub(super) fn was_scaled(&self) -> bool {
        self.olds
            .iter()
            .chain(&self.new)
            .filter(|set| replicas(set) > 0)
            .filter_map(revision::desired_before)
            .any(|desired| desired != self.limits.replicas)
    }

    /// Only makes the total fit, and leaves the rollout where it is.
    pub(super) async fn scale_only(mut self, paused: bool) -> Result<Action> {
        self.sync_revision(false).await?;
        self.scale_all().await?;
        if paused && self.rollback_target().is_none() {
            self.clean_up().await?;
        }
        self.write_numbers().await
    }

    async fn scale_all(&mut self) -> Result<()> {
        let wanted = self.limits.replicas;
        let mut all: Vec<ReplicaSet> = self.olds.drain(..).collect();
        let new_index = self.new.take().map(|new| {
            all.push(new);
            all.len() - 1
        });
        let active: Vec<usize> = (0..all.len())
            .filter(|&index| replicas(&all[index]) > 0)
            .collect();
        let sizes: Vec<(usize, i32)> = match active[..] {
            // Without an active set the newest one takes it all.
            [] => {
                let newest = new_index.or_else(|| all.len().checked_sub(1));
                newest.map(|index| (index, wanted)).into_iter().collect()
            }
            [only] => vec![(only, wanted)],
            _ if new_index.is_some_and(|index| is_saturated(&all[index], wanted)) => active
                .iter()
                .filter(|&&index| Some(index) != new_index)
                .map(|&index| (index, 0))
                .collect(),
            _ if plan::is_recreate(&self.deployment) => Vec::new(),
            _ => self.proportional(&all, active),
        };
        for (index, to) in sizes {
            if replicas(&all[index]) != to || revision::desired_before(&all[index]) != Some(wanted)
            {
                all[index] = self.scale(all[index].clone(), to).await?;
            }
        }
        self.new = new_index.map(|index| all.remove(index));
        self.olds = all;
        Ok(())
    }

    fn proportional(&self, all: &[ReplicaSet], mut active: Vec<usize>) -> Vec<(usize, i32)> {
        let total: i32 = active.iter().map(|&index| replicas(&all[index])).sum();
        let growing = self.limits.ceiling() > total;
        active.sort_by(|&a, &b| {
            let (a, b) = (&all[a], &all[b]);
            let age = if growing { by_age(b, a) } else { by_age(a, b) };
            replicas(b).cmp(&replicas(a)).then(age)
        });
        let sizes: Vec<Size> = active.iter().map(|&index| size(&all[index])).collect();
        let known = self
            .original
            .status
            .as_ref()
            .and_then(|status| status.replicas)
            .unwrap_or(0);
        let planned = plan::proportional(self.limits, &sizes, known);
        active.into_iter().zip(planned).collect()
    }

    pub(super) fn rollback_target(&self) -> Option<i64> {
        let annotations = self.deployment.metadata.annotations.as_ref()?;
        annotations.get(revision::ROLLBACK_TO)?.parse().ok()
    }

    /// Puts the template of the revision an annotation asks for back in place.
    pub(super) async fn roll_back(mut self) -> Result<Action> {
        self.sync_revision(true).await?;
        let recorder = &self.controller.recorder;
        let all: Vec<&ReplicaSet> = self.olds.iter().chain(&self.new).collect();
        let target = match self.rollback_target() {
            Some(0) | None => revision::last(all.iter().copied()),
            Some(target) => target,
        };
        let name = &self.key.name;
        let mut fresh = self.deployment.clone();
        let found = all
            .iter()
            .find(|set| target != 0 && revision::of(set) == target);
        match found.and_then(|set| Some((set, set.spec.as_ref()?.template.as_ref()?))) {
            None => {
                let text = if target == 0 {
                    "Unable to find last revision."
                } else {
                    "Unable to find the revision to rollback to."
                };
                let reason = "DeploymentRollbackRevisionNotFound";
                recorder.event(self.original, EventType::Warning, reason, text);
            }
            Some((_, template))
                if revision::without_hash(template)
                    == revision::without_hash(&self.spec().template) =>
            {
                let text = format!(
                    "The rollback revision contains the same template as current deployment {name:?}"
                );
                let reason = "DeploymentRollbackTemplateUnchanged";
                recorder.event(self.original, EventType::Warning, reason, text);
            }
            Some((set, template)) => {
                fresh.spec.get_or_insert_default().template = revision::without_hash(template);
                fresh.metadata.annotations = Some(revision::rolled_back(&fresh, set));
                let text = format!("Rolled back deployment {name:?} to revision {target}");
                recorder.event(self.original, EventType::Normal, "DeploymentRollback", text);
            }
        }
        if let Some(annotations) = &mut fresh.metadata.annotations {
            annotations.remove(revision::ROLLBACK_TO);
        }
        let outcome = self
            .api()
            .replace(name, &PostParams::default(), &fresh)
            .await;
        let written = outcome.during(|| format!("rolling back deployment {}", self.key))?;
        self.controller.written.created(self.key, &written);
        Ok(Action::Done)
    }

    async fn clean_up_if_complete(&self) -> Result<()> {
        let known = self.deployment.status.clone().unwrap_or_default();
        if status::is_complete(&self.deployment, &known) {
            self.clean_up().await?;
        }
        Ok(())
    }

    /// Deletes the oldest empty sets beyond the history limit.
    async fn clean_up(&self) -> Result<()> {
        let limit = match self.spec().revision_history_limit {
            None | Some(i32::MAX) => return Ok(()),
            Some(limit) => usize::try_from(limit).unwrap_or(0),
        };
        let mut olds: Vec<&ReplicaSet> = self
            .olds
            .iter()
            .filter(|set| set.metadata.deletion_timestamp.is_none())
            .collect();
        olds.sort_by_key(|set| revision::of(set));
        let surplus = olds.len().saturating_sub(limit);
        for set in &olds[..surplus] {
            let known = set.status.as_ref();
            let is_idle = replicas(set) == 0
                && known.is_none_or(|status| status.replicas == 0)
                && known.and_then(|status| status.observed_generation) >= set.metadata.generation;
            if is_idle {
                let parameters = DeleteParams::background().preconditions(Preconditions {
                    uid: set.metadata.uid.clone(),
                    resource_version: None,
                });
                let outcome = self.sets().delete(name(set), &parameters).await;
                ignore_not_found(outcome)
                    .during(|| format!("deleting old replica set {}", name(set)))?;
            }
        }
        Ok(())
    }

    /// Writes numbers and availability, and leaves progress as it is.
    pub(super) async fn write_numbers(mut self) -> Result<Action> {
        let now = Timestamp::now();
        let fresh = status::calculate(&self.deployment, self.new.as_ref(), &self.olds, now);
        self.deployment.status = Some(fresh);
        self.write_current().await?;
        Ok(Action::Done)
    }

    async fn write_progress(mut self) -> Result<Action> {
        let now = Timestamp::now();
        let new = self.new.as_ref();
        let mut fresh = status::calculate(&self.deployment, new, &self.olds, now);
        status::note_progress(&self.deployment, new, &self.olds, &mut fresh, now);
        let next = status::next_check(&self.deployment, &fresh, now);
        self.deployment.status = Some(fresh);
        self.write_current().await?;
        Ok(next.map_or(Action::Done, Action::After))
    }

    /// Writes status and annotations if this run changed them.
    async fn write_current(&mut self) -> Result<()> {
        let known = self.original.status.clone().unwrap_or_default();
        let fresh = status::normalised(self.deployment.status.clone().unwrap_or_default());
        let annotations = |deployment: &Deployment| {
            deployment
                .metadata
                .annotations
                .clone()
                .filter(|known| !known.is_empty())
        };
        if status::normalised(known) == fresh
            && annotations(self.original) == annotations(&self.deployment)
        {
            return Ok(());
        }
        self.deployment.status = Some(fresh);
        let parameters = PostParams::default();
        let outcome = self
            .api()
            .replace_status(&self.key.name, &parameters, &self.deployment)
            .await;
        match outcome {
            Ok(written) => {
                self.controller.written.created(self.key, &written);
                self.deployment.metadata.resource_version = written.metadata.resource_version;
                Ok(())
            }
            Err(client::Error::Api(refused)) if refused.is_not_found() => {
                Err(Error::Unmet(format!("deployment {} is gone", self.key)))
            }
            Err(error) => Err(error).during(|| format!("updating the status of {}", self.key)),
        }
    }
}

/// Whether the new set is as large as it should be, and was meant to be.
fn is_saturated(new: &ReplicaSet, wanted: i32) -> bool {
    replicas(new) == wanted
        && available(new) == wanted
        && revision::desired_before(new) == Some(wanted)
}

fn set_name(deployment: &str, hash: &str) -> String {
    let mut end = deployment.len().min(253 - 1 - hash.len());
    while !deployment.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}-{hash}", &deployment[..end])
}

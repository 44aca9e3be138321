//! DELETE: grace periods, finalizers, propagation, collections.

use std::sync::Arc;

use api::{FieldError, GroupKind, GroupResource, Path, Status};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::commit::Commit;
use super::strategy::Dependents;
use super::{Call, ListOptions, Registry};
use crate::admission::Operation;
use crate::cache::{Entry, Filter};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
const ATTEMPTS: u32 = 32;

/// `metav1.DeleteOptions`.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    pub grace_period: Option<i64>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub orphan_dependents: Option<bool>,
    pub propagation_policy: Option<String>,
}

impl DeleteOptions {
    /// Reads and checks an options object.
    pub(crate) fn parse(value: &Value) -> Result<Self, Status> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let options = Self {
            grace_period: value["gracePeriodSeconds"].as_i64(),
            uid: text(&value["preconditions"]["uid"]),
            resource_version: text(&value["preconditions"]["resourceVersion"]),
            orphan_dependents: value["orphanDependents"].as_bool(),
            propagation_policy: text(&value["propagationPolicy"]),
        };
        let mut errors = Vec::new();
        let path = Path::new("propagationPolicy");
        if options.orphan_dependents.is_some() && options.propagation_policy.is_some() {
            errors.push(FieldError::invalid(
                &path,
                value["propagationPolicy"].clone(),
                "orphanDependents and deletionPropagation cannot be both set",
            ));
        }
        if let Some(policy) = &options.propagation_policy
            && !matches!(policy.as_str(), "Foreground" | "Background" | "Orphan")
        {
            errors.push(FieldError::not_supported(
                &path,
                policy.clone(),
                &["Foreground", "Background", "Orphan", "nil"],
            ));
        }
        errors.extend(
            value["dryRun"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|value| *value != "All")
                .map(|_| {
                    FieldError::not_supported(
                        &Path::new("dryRun"),
                        value["dryRun"].clone(),
                        &["All"],
                    )
                }),
        );
        if errors.is_empty() {
            return Ok(options);
        }
        let kind = GroupKind {
            group: "meta.k8s.io".into(),
            kind: "DeleteOptions".into(),
        };
        Err(Status::invalid(&kind, "", &errors))
    }
}

/// What a delete came to.
pub(crate) enum Deleted {
    /// Gone, or marked so and waiting: the object, for the answer.
    Object { entry: Arc<Entry>, gone: bool },
    /// Gone: what the answering `Status` says.
    Status(Value),
}

enum Step {
    /// Nothing to write; a shorter grace period is pending already.
    Pending,
    /// Write this object; and delete it at once afterwards, if so.
    Mark { object: Value, then_delete: bool },
    /// Delete now.
    Delete,
}

impl Registry {
    /// Deletes the object the call names.
    pub(crate) async fn delete(
        &self,
        call: &Call,
        options: &DeleteOptions,
    ) -> Result<Deleted, Status> {
        let resource = &call.resource;
        let key = resource.key(&call.namespace, &call.name);
        let mut current = self.read_any(resource, &key).await?;
        if current.is_none() {
            current = self.fetch(resource, &key).await?;
        }
        for _ in 0..ATTEMPTS {
            let Some(entry) = current else {
                return Err(resource.not_found(&call.name));
            };
            match self.delete_once(call, options, &key, &entry).await {
                Ok(Ok(deleted)) => return Ok(deleted),
                Ok(Err(latest)) => current = latest,
                Err(status) => {
                    let latest = self.fetch(resource, &key).await?;
                    if latest.as_ref().map(|latest| latest.revision) == Some(entry.revision) {
                        return Err(status);
                    }
                    current = latest;
                }
            }
        }
        Err(Status::conflict(
            &resource.group_resource,
            &call.name,
            super::update::MODIFIED,
        ))
    }

    /// One try; the inner error is the newer object to try again on.
    async fn delete_once(
        &self,
        call: &Call,
        options: &DeleteOptions,
        key: &str,
        entry: &Arc<Entry>,
    ) -> Result<Result<Deleted, Option<Arc<Entry>>>, Status> {
        let resource = &call.resource;
        let old = entry.value();
        check_preconditions(call, options, &old)?;
        let kind = resource.gvk(&call.version);
        let mut review = call.review(Operation::Delete, &kind, Value::Null, Some(&old));
        let chain = self.chain();
        call.warn(chain.mutate(&mut review, self).await?);
        call.warn(chain.validate(&review, self).await?);
        let none = store::LeaseId::default();
        match plan(call, options, &old) {
            Step::Pending => match self.newer(call, key, entry).await? {
                Some(latest) => Ok(Err(latest)),
                None => Ok(Ok(self.answer(call, entry.clone(), false))),
            },
            Step::Mark {
                object,
                then_delete,
            } => {
                let stored = self.encode(call, &object)?;
                if call.dry_run {
                    let entry = self.unstored(call, key, &stored, entry.revision)?;
                    return Ok(Ok(Deleted::Object {
                        entry,
                        gone: then_delete,
                    }));
                }
                let revision = if resource.codec.same(&entry.bytes, &stored) {
                    if let Some(latest) = self.newer(call, key, entry).await? {
                        return Ok(Err(latest));
                    }
                    entry.revision
                } else {
                    match self
                        .commit(resource, key, entry.revision, Some(stored.clone()), none)
                        .await?
                    {
                        Commit::Done(revision) => revision,
                        Commit::Conflict(latest) => return Ok(Err(latest)),
                    }
                };
                let marked = self.written(call, key, &stored, revision)?;
                if !then_delete {
                    return Ok(Ok(Deleted::Object {
                        entry: marked,
                        gone: false,
                    }));
                }
                match self.commit(resource, key, revision, None, none).await? {
                    Commit::Done(_) => {
                        self.after_delete(call, &old).await;
                        Ok(Ok(self.answer(call, marked, true)))
                    }
                    Commit::Conflict(None) => Ok(Ok(self.answer(call, marked, true))),
                    Commit::Conflict(latest) => Ok(Err(latest)),
                }
            }
            Step::Delete => {
                if call.dry_run {
                    return Ok(Ok(self.answer(call, entry.clone(), true)));
                }
                match self
                    .commit(resource, key, entry.revision, None, none)
                    .await?
                {
                    Commit::Done(revision) => {
                        self.after_delete(call, &old).await;
                        let last = Arc::new(entry.at(&resource.codec, revision));
                        Ok(Ok(self.answer(call, last, true)))
                    }
                    Commit::Conflict(latest) => Ok(Err(latest)),
                }
            }
        }
    }

    fn answer(&self, call: &Call, entry: Arc<Entry>, gone: bool) -> Deleted {
        let resource = &call.resource;
        if resource.strategy.returns_deleted {
            return Deleted::Object { entry, gone };
        }
        let value = entry.value();
        let mut details = json!({
            "name": entry.name(),
            "kind": resource.group_resource.resource,
            "uid": value["metadata"]["uid"],
        });
        if !resource.group_resource.group.is_empty() {
            details["group"] = resource.group_resource.group.clone().into();
        }
        Deleted::Status(details)
    }

    /// Deletes every object a list selects; answers with the list as it was.
    pub(crate) async fn delete_collection(
        &self,
        call: &Call,
        filter: &Filter,
        list: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<super::ListResult, Status> {
        let selected = self.list(&call.resource, filter, list).await?;
        for entry in &selected.entries {
            let one = Call {
                resource: call.resource.clone(),
                version: call.version.clone(),
                subresource: String::new(),
                namespace: if call.resource.namespaced {
                    entry.namespace().to_owned()
                } else {
                    String::new()
                },
                name: entry.name().to_owned(),
                user: call.user.clone(),
                dry_run: call.dry_run,
                manager: call.manager.clone(),
                field_validation: String::new(),
                options: call.options.clone(),
                warnings: parking_lot::Mutex::default(),
                empties: parking_lot::Mutex::default(),
            };
            match self.delete(&one, options).await {
                Ok(_) => {}
                Err(status) if status.code == 404 => {}
                Err(status) => return Err(status),
            }
        }
        Ok(selected)
    }
}

fn check_preconditions(call: &Call, options: &DeleteOptions, object: &Value) -> Result<(), Status> {
    // Upstream names the kind here, not the resource.
    let named = GroupResource {
        group: call.resource.storage_group().to_owned(),
        resource: call.resource.kind.kind.clone(),
    };
    for (wanted, field, label, may) in [
        (&options.uid, "uid", "UID", "deleted and then recreated"),
        (
            &options.resource_version,
            "resourceVersion",
            "ResourceVersion",
            "modified",
        ),
    ] {
        let actual = object["metadata"][field].as_str().unwrap_or_default();
        if let Some(wanted) = wanted
            && wanted != actual
        {
            return Err(Status::conflict(
                &named,
                &call.name,
                &format!(
                    "the {label} in the precondition ({wanted}) does not match the {label} in \
                     record ({actual}). The object might have been {may}"
                ),
            ));
        }
    }
    Ok(())
}

/// Decides what a delete does to an object: `rest.BeforeDelete` and what the
/// generic store makes of it.
/// A definition waits until its instances are gone.
fn definition_step(mut object: Value, now: Timestamp) -> Step {
    object["metadata"]["deletionTimestamp"] = base::time::rfc3339(now).into();
    let metadata = api::meta::metadata_mut(&mut object);
    let finalizers = metadata.entry("finalizers").or_insert_with(|| json!([]));
    if let Some(finalizers) = finalizers.as_array_mut()
        && !finalizers.iter().any(|it| it == crate::custom::FINALIZER)
    {
        finalizers.push(crate::custom::FINALIZER.into());
    }
    crate::custom::set_condition(
        &mut object["status"],
        "Terminating",
        "True",
        "InstanceDeletionPending",
        "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
    );
    Step::Mark {
        object,
        then_delete: false,
    }
}

fn plan(call: &Call, options: &DeleteOptions, old: &Value) -> Step {
    let now = Timestamp::now();
    let mut object = old.clone();
    if call
        .resource
        .is("apiextensions.k8s.io", "customresourcedefinitions")
        && old["metadata"]["deletionTimestamp"].is_null()
    {
        return definition_step(object, now);
    }
    let asked = options
        .grace_period
        .map(|seconds| if seconds < 0 { 1 } else { seconds });
    let mut grace = None;
    if call.resource.is("", "pods") {
        match pod_grace(old, asked, now) {
            PodGrace::Pending => return Step::Pending,
            PodGrace::Now => {}
            PodGrace::Mark { seconds, at, bump } => {
                object["metadata"]["deletionTimestamp"] = base::time::rfc3339(at).into();
                object["metadata"]["deletionGracePeriodSeconds"] = seconds.into();
                if bump {
                    bump_generation(&mut object);
                }
                grace = Some(seconds);
            }
        }
    }
    if call.resource.is("", "namespaces") {
        return namespace_step(object, options, call, now);
    }
    set_finalizers(call, options, &mut object);
    let pending = has_items(&object["metadata"]["finalizers"]);
    match grace {
        Some(seconds) => Step::Mark {
            object,
            then_delete: seconds == 0 && !pending,
        },
        None if pending => {
            mark_deleting(&mut object, now);
            Step::Mark {
                object,
                then_delete: false,
            }
        }
        None => Step::Delete,
    }
}

/// A namespace goes through `Terminating`; the namespace controller empties
/// it and then removes its finalizer.
fn namespace_step(mut object: Value, options: &DeleteOptions, call: &Call, now: Timestamp) -> Step {
    let first = object["metadata"]["deletionTimestamp"].is_null();
    if first {
        object["metadata"]["deletionTimestamp"] = base::time::rfc3339(now).into();
    }
    if !object["status"].is_object() {
        object["status"] = json!({});
    }
    object["status"]["phase"] = "Terminating".into();
    if first {
        set_finalizers(call, options, &mut object);
    }
    if first
        || has_items(&object["spec"]["finalizers"])
        || has_items(&object["metadata"]["finalizers"])
    {
        let then_delete = !has_items(&object["spec"]["finalizers"])
            && !has_items(&object["metadata"]["finalizers"]);
        return Step::Mark {
            object,
            then_delete,
        };
    }
    Step::Delete
}

enum PodGrace {
    /// The pod is going already, no later than asked.
    Pending,
    /// No grace left: the ordinary path.
    Now,
    Mark {
        seconds: i64,
        at: Timestamp,
        bump: bool,
    },
}

fn pod_grace(pod: &Value, asked: Option<i64>, now: Timestamp) -> PodGrace {
    let metadata = &pod["metadata"];
    if let Some(at) = metadata["deletionTimestamp"].as_str() {
        let pending = metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        if pending == 0 {
            return PodGrace::Now;
        }
        let Some(asked) = asked else {
            return PodGrace::Pending;
        };
        if asked >= pending {
            return PodGrace::Pending;
        }
        let at: Timestamp = at.parse().unwrap_or(now);
        let sooner = at - SignedDuration::from_secs(pending - asked);
        let (at, seconds) = if sooner < now {
            (now, if asked == 0 { 0 } else { 1 })
        } else {
            (sooner, asked)
        };
        return PodGrace::Mark {
            seconds,
            at,
            bump: false,
        };
    }
    let mut seconds = asked
        .or_else(|| pod["spec"]["terminationGracePeriodSeconds"].as_i64())
        .unwrap_or(0);
    let unscheduled = pod["spec"]["nodeName"]
        .as_str()
        .unwrap_or_default()
        .is_empty();
    let ended = matches!(
        pod["status"]["phase"].as_str(),
        Some("Failed" | "Succeeded")
    );
    if unscheduled || ended {
        seconds = 0;
    }
    if seconds < 0 {
        seconds = 1;
    }
    PodGrace::Mark {
        seconds,
        at: now + SignedDuration::from_secs(seconds),
        bump: true,
    }
}

fn mark_deleting(object: &mut Value, now: Timestamp) {
    let known = object["metadata"]["deletionTimestamp"]
        .as_str()
        .and_then(|text| text.parse::<Timestamp>().ok());
    if known.is_none() {
        bump_generation(object);
    }
    if known.is_none_or(|at| at > now) {
        object["metadata"]["deletionTimestamp"] = base::time::rfc3339(now).into();
    }
    object["metadata"]["deletionGracePeriodSeconds"] = 0.into();
}

fn bump_generation(object: &mut Value) {
    let generation = api::meta::generation(object);
    if generation > 0 {
        api::meta::set_generation(object, generation + 1);
    }
}

/// Adds or removes the finalizers that make the garbage collector orphan or
/// delete dependents first.
fn set_finalizers(call: &Call, options: &DeleteOptions, object: &mut Value) {
    if call.resource.strategy.dependents == Dependents::Unsupported {
        return;
    }
    let current: Vec<String> = object["metadata"]["finalizers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|value| value.as_str().map(str::to_owned))
        .collect();
    let has = |name: &str| current.iter().any(|own| own == name);
    let policy = options.propagation_policy.as_deref();
    let orphan = match (options.orphan_dependents, policy) {
        (Some(orphan), _) => orphan,
        (None, Some(policy)) => policy == "Orphan",
        (None, None) if has(ORPHAN) => true,
        (None, None) if has(FOREGROUND) => false,
        (None, None) => call.resource.strategy.dependents == Dependents::Orphan,
    };
    let foreground = match (options.orphan_dependents, policy) {
        (Some(_), _) => false,
        (None, Some(policy)) => policy == "Foreground",
        (None, None) => has(FOREGROUND) && !has(ORPHAN),
    };
    let mut wanted: Vec<String> = current
        .iter()
        .filter(|name| !matches!(name.as_str(), ORPHAN | FOREGROUND))
        .cloned()
        .collect();
    if orphan {
        wanted.push(ORPHAN.to_owned());
    }
    if foreground {
        wanted.push(FOREGROUND.to_owned());
    }
    let same = wanted.len() == current.len() && wanted.iter().all(|name| has(name));
    if same {
        return;
    }
    let metadata = api::meta::metadata_mut(object);
    if wanted.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".into(), wanted.into());
    }
}

fn has_items(value: &Value) -> bool {
    value.as_array().is_some_and(|items| !items.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_keep_their_grace() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let running = json!({
            "metadata": {}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30},
        });
        let seconds = |pod: &Value, asked| match pod_grace(pod, asked, now) {
            PodGrace::Mark { seconds, .. } => Some(seconds),
            PodGrace::Pending | PodGrace::Now => None,
        };
        assert_eq!(seconds(&running, None), Some(30));
        assert_eq!(seconds(&running, Some(5)), Some(5));
        assert_eq!(seconds(&running, Some(0)), Some(0));
        let mut unscheduled = running.clone();
        unscheduled["spec"]["nodeName"] = "".into();
        assert_eq!(seconds(&unscheduled, None), Some(0));
        let mut going = running;
        going["metadata"] = json!({
            "deletionTimestamp": "2026-01-01T00:00:20Z", "deletionGracePeriodSeconds": 30,
        });
        assert!(matches!(pod_grace(&going, None, now), PodGrace::Pending));
        assert!(matches!(
            pod_grace(&going, Some(60), now),
            PodGrace::Pending
        ));
        assert_eq!(seconds(&going, Some(15)), Some(15));
        assert_eq!(seconds(&going, Some(5)), Some(1));
        assert_eq!(seconds(&going, Some(0)), Some(0));
    }
}

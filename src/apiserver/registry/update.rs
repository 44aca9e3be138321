//! PUT and PATCH: a change of an object, retried when somebody is faster.

use std::sync::Arc;

use api::{FieldError, GroupKind, Path, Status, meta};
use bytes::Bytes;
use serde_json::Value;

use super::commit::Commit;
use super::create::name_of;
use super::{Call, Registry, now};
use crate::admission::Operation;
use crate::cache::Entry;

/// Why an update with a stale resource version fails.
pub(crate) const MODIFIED: &str = "the object has been modified; please apply your changes to the \
                                   latest version and try again";
/// How often a change is tried again on a newer object before the client is told.
const ATTEMPTS: u32 = 32;

/// How the new object comes about, in the storage version.
pub(crate) trait Change: Send + Sync {
    /// The new object from the current one; `None` when there is none.
    fn apply(&self, call: &Call, current: Option<&Value>) -> Result<Value, Status>;

    /// Whether the change may create the object, beside what its strategy says.
    fn creates(&self) -> bool {
        false
    }

    /// Whether the change is the server's own doing, past strategy,
    /// validation and admission.
    fn is_internal(&self) -> bool {
        false
    }

    /// The whole new object, where the client sent it.
    fn whole(&self) -> Option<&Value> {
        None
    }

    /// Whether field ownership is part of the change already.
    fn manages_fields(&self) -> bool {
        false
    }
}

/// The whole new object, as PUT sends it.
pub(crate) struct Replace(pub Value);

impl Change for Replace {
    fn apply(&self, _call: &Call, _current: Option<&Value>) -> Result<Value, Status> {
        Ok(self.0.clone())
    }

    fn whole(&self) -> Option<&Value> {
        Some(&self.0)
    }
}

/// What an update came to.
pub(crate) struct Updated {
    pub entry: Arc<Entry>,
    /// The object did not exist before.
    pub created: bool,
}

enum Attempt {
    Done(Updated),
    Retry(Option<Arc<Entry>>),
}

impl Registry {
    /// Changes the object the call names.
    pub(crate) async fn update(&self, call: &Call, change: &dyn Change) -> Result<Updated, Status> {
        let resource = &call.resource;
        if let Some(whole) = change.whole() {
            check_name(call, whole)?;
        }
        let key = resource.key(&call.namespace, &call.name);
        let mut current = self.read_any(resource, &key).await?;
        let mut fresh = false;
        for _ in 0..ATTEMPTS {
            match self.update_once(call, change, &key, current.as_ref()).await {
                Ok(Attempt::Done(updated)) => return Ok(updated),
                Ok(Attempt::Retry(latest)) => {
                    current = latest;
                    fresh = true;
                }
                // The cache may have been behind: what failed on an old object
                // is tried once more on the one in the store.
                Err(status) => {
                    let latest = if fresh {
                        return Err(status);
                    } else {
                        self.fetch(resource, &key).await?
                    };
                    let same = latest.as_ref().map(|entry| entry.revision)
                        == current.as_ref().map(|entry| entry.revision);
                    if same {
                        return Err(status);
                    }
                    current = latest;
                    fresh = true;
                }
            }
        }
        Err(Status::conflict(
            &resource.group_resource,
            &call.name,
            MODIFIED,
        ))
    }

    async fn update_once(
        &self,
        call: &Call,
        change: &dyn Change,
        key: &str,
        current: Option<&Arc<Entry>>,
    ) -> Result<Attempt, Status> {
        let resource = &call.resource;
        let Some(current) = current else {
            if !(resource.strategy.create_on_update || change.creates())
                || !(call.subresource.is_empty() || change.creates())
            {
                return Err(resource.not_found(&call.name));
            }
            return self.create_by_update(call, change).await;
        };
        let kind = resource.gvk(&call.version);
        let old = match &resource.custom {
            Some(_) => self
                .engine
                .in_request_version(resource, &call.version, current.value()),
            None => current.value(),
        };
        let now = now();
        let mut new = change.apply(call, Some(&old))?;
        if change.is_internal() {
            let stored = self.encode(call, &new)?;
            return self.store_update(call, key, current, stored).await;
        }
        meta::match_namespace(&mut new, self.object_namespace(call))?;
        check_name(call, &new)?;
        let uid = change.whole().and_then(|it| it["metadata"]["uid"].as_str());
        if let Some(uid) = uid
            && !uid.is_empty()
            && old["metadata"]["uid"] != uid
        {
            return Err(wrong_uid(call, key, uid, &old));
        }
        if !change.manages_fields() {
            self.engine.manage(call, &old, &mut new, &now);
        }
        let chain = self.chain();
        let mut review = call.review(Operation::Update, &kind, new, Some(&old));
        call.warn(chain.mutate(&mut review, self).await?);
        let mut new = review.object;
        self.check_version(call, &mut new, current.revision)?;
        let hold = self.begin_update(call, &mut new, &old).await?;
        meta::restore_generation(&mut new, &old);
        let context = call.context(&now);
        resource.rules.prepare_update(&mut new, &old, &context);
        meta::prepare_update(&mut new, &old);
        let mut errors = api::kinds::validate_update(
            &*resource.rules,
            &new,
            &old,
            resource.namespaced,
            &context,
        );
        if resource.is("apiextensions.k8s.io", "customresourcedefinitions")
            && call.subresource.is_empty()
            && errors.is_empty()
        {
            errors = crate::custom::rule_errors(&new, Some(&old));
        }
        if !errors.is_empty() {
            return Err(self.invalid(call, &name_of(&new), errors));
        }
        call.warn(resource.rules.warnings(&new, Some(&old), &context));
        self.engine.settle_times(&mut new, &old);
        let review = call.review(Operation::Update, &kind, new, Some(&old));
        call.warn(chain.validate(&review, self).await?);
        let new = review.object;
        let stored = self.encode(call, &new)?;
        if deletes(call, &new, &old) {
            let entry = self.unstored(call, key, &stored, current.revision)?;
            if call.dry_run {
                return Ok(done(entry));
            }
            let none = store::LeaseId::default();
            return Ok(
                match self
                    .commit(resource, key, current.revision, None, none)
                    .await?
                {
                    Commit::Done(_) => {
                        hold.keep();
                        self.after_delete(call, &old).await;
                        done(entry)
                    }
                    Commit::Conflict(latest) => Attempt::Retry(latest),
                },
            );
        }
        match self.store_update(call, key, current, stored).await? {
            Attempt::Done(updated) => {
                if !call.dry_run {
                    hold.keep();
                }
                Ok(Attempt::Done(updated))
            }
            retry => Ok(retry),
        }
    }

    /// Writes the changed bytes, unless nothing has changed.
    async fn store_update(
        &self,
        call: &Call,
        key: &str,
        current: &Arc<Entry>,
        stored: Bytes,
    ) -> Result<Attempt, Status> {
        let resource = &call.resource;
        if resource.codec.same(&current.bytes, &stored) {
            // Nothing to write, provided that this is the latest version.
            return Ok(match self.newer(call, key, current).await? {
                Some(latest) => Attempt::Retry(latest),
                None => done(current.clone()),
            });
        }
        if call.dry_run {
            return Ok(done(self.unstored(call, key, &stored, current.revision)?));
        }
        let lease = self.lease_for(resource).await?;
        match self
            .commit(resource, key, current.revision, Some(stored.clone()), lease)
            .await?
        {
            Commit::Done(revision) => Ok(done(self.written(call, key, &stored, revision)?)),
            Commit::Conflict(latest) => Ok(Attempt::Retry(latest)),
        }
    }

    /// What the store has now, if that is not `known` any more.
    pub(super) async fn newer(
        &self,
        call: &Call,
        key: &str,
        known: &Entry,
    ) -> Result<Option<Option<Arc<Entry>>>, Status> {
        let latest = self.fetch(&call.resource, key).await?;
        let same = latest.as_ref().map(|entry| entry.revision) == Some(known.revision);
        Ok((!same).then_some(latest))
    }

    async fn create_by_update(&self, call: &Call, change: &dyn Change) -> Result<Attempt, Status> {
        let kind = call.resource.gvk(&call.version);
        let mut new = change.apply(call, None)?;
        if let Some(uid) = new["metadata"]["uid"]
            .as_str()
            .filter(|uid| !uid.is_empty())
        {
            let why = if change.creates() {
                format!(
                    "uid mismatch: the provided object specified uid {uid}, and no existing \
                     object was found"
                )
            } else {
                format!("Precondition failed: UID in precondition: {uid}, UID in object meta: ")
            };
            return Err(Status::conflict(
                &call.resource.group_resource,
                &call.name,
                &why,
            ));
        }
        meta::match_namespace(&mut new, self.object_namespace(call))?;
        check_name(call, &new)?;
        if !change.manages_fields() {
            self.engine.manage(call, &Value::Null, &mut new, &now());
        }
        let mut review = call.review(Operation::Create, &kind, new, None);
        call.warn(self.chain().mutate(&mut review, self).await?);
        let mut object = review.object;
        meta::metadata_mut(&mut object).remove("resourceVersion");
        match self.insert(call, object).await {
            Ok(entry) => Ok(Attempt::Done(Updated {
                entry,
                created: true,
            })),
            Err(status) if status.reason == api::Reason::AlreadyExists => {
                let key = call.resource.key(&call.namespace, &call.name);
                Ok(Attempt::Retry(self.fetch(&call.resource, &key).await?))
            }
            Err(status) => Err(status),
        }
    }

    /// Optimistic concurrency: the version the client saw must be the current one.
    fn check_version(&self, call: &Call, new: &mut Value, current: u64) -> Result<(), Status> {
        let resource = &call.resource;
        let given = new["metadata"]["resourceVersion"]
            .as_str()
            .unwrap_or_default();
        let given: u64 = match given {
            "" => 0,
            text => text.parse().map_err(|_| {
                // Upstream fails on it, and says no more than that.
                let why = format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
                Status {
                    code: 500,
                    ..Status::new(api::Reason::Unknown, why)
                }
            })?,
        };
        if given == 0 {
            if resource.strategy.must_be_conditional {
                let named = GroupKind {
                    group: resource.group_resource.group.clone(),
                    kind: resource.group_resource.resource.clone(),
                };
                return Err(Status::invalid(
                    &named,
                    &call.name,
                    &[FieldError::invalid(
                        &Path::new("metadata").child("resourceVersion"),
                        0,
                        "must be specified for an update",
                    )],
                ));
            }
            meta::metadata_mut(new).insert("resourceVersion".into(), current.to_string().into());
        } else if given != current {
            return Err(Status::conflict(
                &resource.group_resource,
                &call.name,
                MODIFIED,
            ));
        }
        Ok(())
    }
}

fn done(entry: Arc<Entry>) -> Attempt {
    Attempt::Done(Updated {
        entry,
        created: false,
    })
}

/// What upstream's storage says of a uid that is not the object's.
fn wrong_uid(call: &Call, key: &str, uid: &str, old: &Value) -> Status {
    let resource = &call.resource;
    let place = match (
        &*resource.group_resource.group,
        &*resource.group_resource.resource,
    ) {
        ("", "endpoints") => "services/endpoints",
        ("", "services") => "services/specs",
        ("", "nodes") => "minions",
        ("", "replicationcontrollers") => "controllers",
        ("networking.k8s.io", "ingresses") => "ingress",
        ("apiregistration.k8s.io", "apiservices") => "apiregistration.k8s.io/apiservices",
        (_, plural) => plural,
    };
    let actual = old["metadata"]["uid"].as_str().unwrap_or_default();
    Status::conflict(
        &resource.group_resource,
        &call.name,
        &format!(
            "StorageError: invalid object, Code: 4, Key: /registry/{place}/{key}, \
             ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: \
             {uid}, UID in object meta: {actual}"
        ),
    )
}

fn check_name(call: &Call, object: &Value) -> Result<(), Status> {
    let name = name_of(object);
    if name.is_empty() {
        return Err(Status::bad_request(format!(
            "the name of the object ({} based on URL) was undeterminable: name must be provided",
            call.name
        )));
    }
    if name != call.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.name
        )));
    }
    Ok(())
}

/// Whether this update removed the last thing that held back a deletion.
fn deletes(call: &Call, new: &Value, old: &Value) -> bool {
    let empty = |value: &Value| value.as_array().is_none_or(Vec::is_empty);
    empty(&new["metadata"]["finalizers"])
        && !old["metadata"]["deletionTimestamp"].is_null()
        && old["metadata"]["deletionGracePeriodSeconds"]
            .as_i64()
            .unwrap_or(0)
            == 0
        && (!call.resource.is("", "namespaces") || empty(&new["spec"]["finalizers"]))
}

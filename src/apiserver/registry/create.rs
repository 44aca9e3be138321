//! POST: a new object.

use std::sync::Arc;

use api::{Reason, Status, meta};
use bytes::Bytes;
use serde_json::Value;

use super::commit::Commit;
use super::{Call, Registry, now};
use crate::admission::Operation;
use crate::cache::Entry;

/// Names tried for one `generateName`.
const NAME_ATTEMPTS: u32 = 8;

/// A created object, as it is stored.
pub(crate) type Created = Arc<Entry>;

impl Registry {
    /// Creates an object that has been decoded and defaulted, in the storage
    /// version.
    pub(crate) async fn create(&self, call: &Call, mut object: Value) -> Result<Created, Status> {
        meta::wipe_system_fields(&mut object);
        meta::match_namespace(&mut object, self.object_namespace(call))?;
        let generates = generates_name(&object);
        let mut attempt = 1;
        loop {
            // Only a name that was drawn is drawn again.
            let object = if generates {
                object.clone()
            } else {
                object.take()
            };
            match self.create_once(call, object).await {
                Err(status)
                    if generates
                        && status.reason == Reason::AlreadyExists
                        && attempt < NAME_ATTEMPTS =>
                {
                    attempt += 1;
                }
                Err(mut status) if generates && status.reason == Reason::AlreadyExists => {
                    status.message.push_str(
                        ", the server was not able to generate a unique name for the object",
                    );
                    if let Some(details) = &mut status.details {
                        details.insert("retryAfterSeconds".into(), 1.into());
                    }
                    return Err(status);
                }
                other => return other,
            }
        }
    }

    async fn create_once(&self, call: &Call, mut object: Value) -> Result<Created, Status> {
        let kind = call.resource.gvk(&call.version);
        self.engine.manage(call, &Value::Null, &mut object, &now());
        let chain = self.chain();
        let mut review = call.review(Operation::Create, &kind, object, None);
        call.warn(chain.mutate(&mut review, self).await?);
        self.insert(call, review.object).await
    }

    /// Creates an object that mutating admission has seen.
    pub(super) async fn insert(&self, call: &Call, mut object: Value) -> Result<Created, Status> {
        let resource = &call.resource;
        let kind = resource.gvk(&call.version);
        let now = now();
        let uid = uuid::Uuid::new_v4().to_string();
        meta::fill_create(&mut object, &uid, &now);
        if generates_name(&object) {
            let prefix = object["metadata"]["generateName"]
                .as_str()
                .unwrap_or_default();
            let name = meta::generate_name(prefix, |below| fastrand::usize(..below));
            object["metadata"]["name"] = name.into();
        }
        let hold = self.begin_create(call, &mut object).await?;
        let context = call.context(&now);
        resource.rules.prepare_create(&mut object, &context);
        let name = name_of(&object);
        let mut errors =
            api::kinds::validate_create(&*resource.rules, &object, resource.namespaced, &context);
        if resource.is("apiextensions.k8s.io", "customresourcedefinitions") && errors.is_empty() {
            errors = crate::custom::rule_errors(&object, None);
        }
        if !errors.is_empty() {
            return Err(self.invalid(call, &name, errors));
        }
        call.warn(resource.rules.warnings(&object, None, &context));
        let review = call.review(Operation::Create, &kind, object, None);
        call.warn(self.chain().validate(&review, self).await?);
        let object = review.object;
        let key = resource.key(&call.namespace, &name);
        let stored = self.encode(call, &object)?;
        let preset: u64 = object["metadata"]["resourceVersion"]
            .as_str()
            .and_then(|version| version.parse().ok())
            .unwrap_or(0);
        if call.dry_run {
            if self.fetch(resource, &key).await?.is_some() {
                return Err(Status::already_exists(&resource.group_resource, &name));
            }
            return self.unstored(call, &key, &stored, preset);
        }
        if preset != 0 {
            return Err(Status {
                code: 500,
                ..Status::new(
                    Reason::Unknown,
                    "resourceVersion should not be set on objects to be created",
                )
            });
        }
        let lease = self.lease_for(resource).await?;
        match self
            .commit(resource, &key, 0, Some(stored.clone()), lease)
            .await?
        {
            Commit::Done(revision) => {
                hold.keep();
                self.written(call, &key, &stored, revision)
            }
            Commit::Conflict(there) => {
                let mut status = Status::already_exists(&resource.group_resource, &name);
                if there
                    .is_some_and(|there| !there.value()["metadata"]["deletionTimestamp"].is_null())
                {
                    status.message = format!("object is being deleted: {}", status.message);
                }
                Err(status)
            }
        }
    }

    /// 422 with values printed as upstream's types print them.
    pub(super) fn invalid(
        &self,
        call: &Call,
        name: &str,
        mut errors: Vec<api::FieldError>,
    ) -> Status {
        let resource = &call.resource;
        let stored = api::GroupVersion::parse(resource.codec.api_version()).unwrap_or_default();
        let gvk = api::GroupVersionKind::new(stored.group, stored.version, &*resource.kind.kind);
        if let Some(ty) = self.engine.scheme.type_of(&gvk) {
            api::golang::print(&mut errors, ty, &call.empties.lock());
        }
        Status::invalid(&api::kinds::error_kind(&resource.kind), name, &errors)
    }

    /// Runs admission on an object that will not be stored; returns it.
    pub(crate) async fn review_only(
        &self,
        call: &Call,
        operation: Operation,
        kind: &api::GroupVersionKind,
        object: Value,
    ) -> Result<Value, Status> {
        let chain = self.chain();
        let mut review = call.review(operation, kind, object, None);
        call.warn(chain.mutate(&mut review, self).await?);
        call.warn(chain.validate(&review, self).await?);
        Ok(review.object)
    }

    /// The entry of bytes that were just written: the cache's, unless somebody
    /// has changed it since.
    pub(super) fn written(
        &self,
        call: &Call,
        key: &str,
        stored: &[u8],
        revision: u64,
    ) -> Result<Arc<Entry>, Status> {
        match self.hub.written(&call.resource.prefix, key, revision) {
            Some(entry) => Ok(entry),
            None => self.unstored(call, key, stored, revision),
        }
    }

    /// The entry of bytes that would have been written.
    pub(super) fn unstored(
        &self,
        call: &Call,
        key: &str,
        stored: &[u8],
        revision: u64,
    ) -> Result<Arc<Entry>, Status> {
        Entry::new(&call.resource.codec, key.into(), stored, revision)
            .map(Arc::new)
            .ok_or_else(|| Status::internal("an encoded object is not JSON"))
    }

    /// The stored bytes of an object; 413 when they are too many.
    pub(super) fn encode(&self, call: &Call, object: &Value) -> Result<Bytes, Status> {
        const MAX: usize = 2 * 1024 * 1024 * 3 / 4;
        let mut forgotten = None;
        if let Some(custom) = &call.resource.custom {
            forgotten = Some(custom.definition.to_storage(object));
        }
        let ty = api::GroupVersion::parse(object["apiVersion"].as_str().unwrap_or_default())
            .map(|gv| {
                let kind = object["kind"].as_str().unwrap_or_default();
                api::GroupVersionKind::new(gv.group, gv.version, kind)
            })
            .and_then(|gvk| api::Scheme::builtin().type_of(&gvk));
        if let Some(ty) = ty
            && api::decode::forgets(object, ty)
        {
            api::decode::persisted(forgotten.insert(object.clone()), ty);
        }
        let stored = call
            .resource
            .codec
            .encode(forgotten.as_ref().unwrap_or(object));
        if stored.len() > MAX {
            return Err(Status::new(
                Reason::RequestEntityTooLarge,
                format!(
                    "Request entity too large: limit is {MAX}; the object has {} bytes",
                    stored.len()
                ),
            ));
        }
        Ok(stored.into())
    }

    /// The namespace an object of this call must be in.
    pub(super) fn object_namespace<'a>(&self, call: &'a Call) -> &'a str {
        if call.resource.namespaced {
            &call.namespace
        } else {
            ""
        }
    }
}

fn generates_name(object: &Value) -> bool {
    let text = |field: &str| {
        object["metadata"][field]
            .as_str()
            .is_some_and(|text| !text.is_empty())
    };
    text("generateName") && !text("name")
}

pub(super) fn name_of(object: &Value) -> String {
    object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

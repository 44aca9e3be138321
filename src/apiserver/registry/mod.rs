//! The registry: what every resource can do, driven by data.
//!
//! There are no handlers per kind. A [`Resource`] says where its objects live
//! and which rules they obey; create, read, update and delete are written
//! once. What upstream does in a kind's own storage (allocating addresses,
//! moving a pod to a node) hooks in at [`hooks`].

mod commit;
mod create;
mod delete;
mod hooks;
mod list;
mod quota;
mod read;
mod resource;
mod strategy;
mod update;
mod watch;

pub(crate) use commit::store_error;
pub(crate) use delete::{DeleteOptions, Deleted};
pub(crate) use list::{ListOptions, ListResult, VersionMatch};
pub(crate) use resource::{Resource, Rules};
pub(crate) use update::{Change, Replace};
pub(crate) use watch::{Frame, WatchOptions};

use std::collections::HashMap;
use std::sync::Arc;

use api::{GroupResource, Status};
use parking_lot::{Mutex, RwLock};
use serde_json::Value;

use crate::access::User;
use crate::admission::{Chain, Operation, Review};
use crate::alloc::Allocators;
use crate::cache::{Cache, Hub};
use crate::custom::{Custom, Documents};
use crate::engine::{Engine, Served};

/// Everything about one call that the layers below HTTP need.
pub(crate) struct Call {
    pub resource: Arc<Resource>,
    /// Version the client speaks.
    pub version: String,
    pub subresource: String,
    pub namespace: String,
    /// Name in the URL; empty on create.
    pub name: String,
    pub user: Arc<User>,
    pub dry_run: bool,
    /// Who owns the fields that are written.
    pub manager: String,
    /// `Ignore`, `Warn` or `Strict`.
    pub field_validation: String,
    /// The options object that admission sees.
    pub options: Value,
    /// `Warning:` headers collected on the way.
    pub warnings: Mutex<Vec<String>>,
    /// Paths of lists and maps that the body has, empty.
    pub empties: Mutex<Vec<String>>,
}

impl Call {
    pub(crate) fn warn(&self, warnings: impl IntoIterator<Item = String>) {
        let mut known = self.warnings.lock();
        for warning in warnings {
            if !known.contains(&warning) {
                known.push(warning);
            }
        }
    }

    /// What the kind's rules may know.
    pub(crate) fn context<'a>(&'a self, now: &'a str) -> api::kinds::Context<'a> {
        api::kinds::Context {
            version: &self.version,
            // Scaling is a change of the object itself.
            subresource: match self.subresource.as_str() {
                "scale" => "",
                other => other,
            },
            user: &self.user.name,
            groups: &self.user.groups,
            user_uid: &self.user.uid,
            extra: Some(&self.user.extra),
            now,
        }
    }

    /// This call for admission.
    pub(crate) fn review<'a>(
        &'a self,
        operation: Operation,
        kind: &'a api::GroupVersionKind,
        object: Value,
        old: Option<&'a Value>,
    ) -> Review<'a> {
        Review {
            operation,
            kind,
            resource: &self.resource.group_resource,
            version: &self.version,
            subresource: &self.subresource,
            namespace: &self.namespace,
            name: &self.name,
            object,
            old,
            options: &self.options,
            user: &self.user,
            dry_run: self.dry_run,
        }
    }
}

/// All resources and the machinery under them.
pub(crate) struct Registry {
    pub(crate) hub: Arc<Hub>,
    pub(crate) engine: Engine,
    pub(crate) admission: RwLock<Chain>,
    pub(crate) allocators: Allocators,
    resources: RwLock<HashMap<GroupResource, Arc<Resource>>>,
    parsed: read::Parsed,
    pub(crate) documents: Documents,
}

impl Registry {
    pub(crate) fn new(hub: Arc<Hub>, engine: Engine, allocators: Allocators) -> Self {
        let resources = engine
            .resources()
            .into_iter()
            .map(|resource| (resource.group_resource.clone(), Arc::new(resource)))
            .collect();
        Self {
            hub,
            engine,
            admission: RwLock::default(),
            allocators,
            resources: RwLock::new(resources),
            parsed: read::Parsed::default(),
            documents: Documents::default(),
        }
    }

    /// The resource of a group and plural name.
    pub(crate) fn resource(&self, group: &str, resource: &str) -> Option<Arc<Resource>> {
        self.resources
            .read()
            .get(&GroupResource {
                group: group.to_owned(),
                resource: resource.to_owned(),
            })
            .cloned()
    }

    /// Serves a custom resource. Where what its objects look like `changed`,
    /// watches of the earlier one end.
    pub(crate) fn install(&self, resource: Resource, changed: bool) {
        let resource = Arc::new(resource);
        let key = resource.group_resource.clone();
        self.resources.write().insert(key, resource.clone());
        if changed {
            self.hub.forget(&resource.prefix);
        }
        self.documents.forget();
    }

    /// Serves a custom resource no more.
    pub(crate) fn uninstall(&self, group: &str, resource: &str) {
        let key = GroupResource {
            group: group.to_owned(),
            resource: resource.to_owned(),
        };
        let before = self.resources.write().remove(&key);
        if let Some(before) = before {
            self.hub.forget(&before.prefix);
        }
        self.documents.forget();
    }

    /// Every custom resource that is served, in the order of groups and names.
    pub(crate) fn customs(&self) -> Vec<Arc<Custom>> {
        let mut customs: Vec<Arc<Custom>> = self
            .resources
            .read()
            .values()
            .filter_map(|resource| resource.custom.clone())
            .collect();
        customs.sort_by(|a, b| {
            let key = |it: &Custom| (it.definition.group.clone(), it.definition.plural.clone());
            key(a).cmp(&key(b))
        });
        customs
    }

    /// What is served under this name, if anything.
    pub(crate) fn served(&self, group: &str, version: &str, resource: &str) -> Option<Served> {
        self.engine.served(group, version, resource).or_else(|| {
            self.resource(group, resource)?
                .custom
                .as_ref()?
                .served(version)
        })
    }

    /// The loaded cache of a resource.
    pub(crate) async fn cache(&self, resource: &Resource) -> Result<Arc<Cache>, Status> {
        self.hub
            .cache(&resource.prefix, || {
                Cache::new(
                    resource.prefix.clone(),
                    resource.codec.clone(),
                    resource.rules.clone(),
                    self.hub.fan_out().clone(),
                )
            })
            .await
            .map_err(|error| store_error(&error))
    }

    fn chain(&self) -> Chain {
        self.admission.read().clone()
    }
}

/// Now, as `metav1.Time`.
pub(crate) fn now() -> String {
    base::time::rfc3339(jiff::Timestamp::now())
}

//! Admission: plugins that change or reject writes after authorisation.
//!
//! A [`Plugin`] sees a [`Review`]: the operation, old and new object and the
//! user, and may read other objects through [`Reader`]. Mutating plugins run
//! in order before validation, validating ones after it.

mod defaults;
mod namespace;
mod pods;
mod rbac;
mod runtime_class;
mod service_account;

use std::sync::Arc;

use api::{GroupResource, GroupVersionKind, Status};
use async_trait::async_trait;
use serde_json::Value;

use crate::access::User;

pub use defaults::{
    DefaultIngressClass, DefaultStorageClass, StorageObjectInUseProtection, TaintNodesByCondition,
};
pub use namespace::NamespaceLifecycle;
pub use pods::{DefaultTolerationSeconds, Priority};
pub use rbac::RbacEscalation;
pub use runtime_class::RuntimeClass;
pub use service_account::ServiceAccount;

/// The plugins that are on by default, in upstream's order. `rbac` says what
/// a user may grant; without it nothing is checked.
pub fn default_plugins(rbac: Option<Arc<crate::access::Rbac>>) -> Vec<Arc<dyn Plugin>> {
    let mut plugins: Vec<Arc<dyn Plugin>> = vec![
        Arc::new(NamespaceLifecycle),
        Arc::new(ServiceAccount),
        Arc::new(TaintNodesByCondition),
        Arc::new(Priority),
        Arc::new(DefaultTolerationSeconds),
        Arc::new(DefaultStorageClass),
        Arc::new(StorageObjectInUseProtection),
        Arc::new(RuntimeClass),
        Arc::new(DefaultIngressClass),
    ];
    plugins.extend(rbac.map(|rbac| Arc::new(RbacEscalation::new(rbac)) as Arc<dyn Plugin>));
    plugins
}

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A new object.
    Create,
    /// A change, patch included.
    Update,
    /// A deletion; there is no new object.
    Delete,
    /// A connect subresource (exec, proxy, …); the object holds the options.
    Connect,
}

/// `admission.Attributes`: one write under review.
#[derive(Clone, Debug)]
pub struct Review<'a> {
    /// What is being done.
    pub operation: Operation,
    /// Kind in the request's version.
    pub kind: &'a GroupVersionKind,
    /// Resource.
    pub resource: &'a GroupResource,
    /// Version of the request.
    pub version: &'a str,
    /// Subresource; empty for the object itself.
    pub subresource: &'a str,
    /// Namespace; empty for cluster-scoped objects.
    pub namespace: &'a str,
    /// Name; empty for a create with `generateName`.
    pub name: &'a str,
    /// The new object; `Null` on delete.
    pub object: Value,
    /// The object as it is stored; `None` on create.
    pub old: Option<&'a Value>,
    /// Create, update, patch or delete options, as an object.
    pub options: &'a Value,
    /// Who.
    pub user: &'a User,
    /// Nothing will be stored: plugins must have no side effects.
    pub dry_run: bool,
}

impl Review<'_> {
    /// 403 in the words of `admission.NewForbidden`: `pods "x" is forbidden: why`.
    pub fn forbidden(&self, why: &str) -> Status {
        let name = if self.name.is_empty() {
            self.object["metadata"]["name"].as_str().unwrap_or("")
        } else {
            self.name
        };
        let name = match name {
            "" => self.object["metadata"]["generateName"]
                .as_str()
                .unwrap_or("Unknown/errors"),
            name => name,
        };
        Status::forbidden(self.resource, name, why)
    }
}

/// Read access to stored objects, in their storage version.
#[async_trait]
pub trait Reader: Send + Sync {
    /// An object, as far as this server has seen the store (at most some
    /// milliseconds old). `fresh` waits until everything acknowledged before
    /// the call is seen.
    async fn get(
        &self,
        resource: &GroupResource,
        namespace: &str,
        name: &str,
        fresh: bool,
    ) -> Result<Option<Arc<Value>>, Status>;

    /// All objects of a namespace; of all namespaces when it is empty.
    async fn list(
        &self,
        resource: &GroupResource,
        namespace: &str,
    ) -> Result<Vec<Arc<Value>>, Status>;

    /// A number that grows whenever an object of this resource changes: what
    /// is derived from [`Reader::list`] stays right while it stands.
    async fn generation(&self, resource: &GroupResource) -> Result<u64, Status>;
}

/// An admission plugin. Its name is upstream's.
#[async_trait]
pub trait Plugin: Send + Sync {
    /// Such as `NamespaceLifecycle`.
    fn name(&self) -> &'static str;

    /// Whether this plugin wants to see writes of a resource at all. Asked
    /// before each call, so it must be cheap.
    fn handles(&self, operation: Operation, resource: &GroupResource, subresource: &str) -> bool;

    /// Changes [`Review::object`], or rejects. Returned strings become
    /// `Warning:` headers.
    async fn mutate(
        &self,
        _review: &mut Review<'_>,
        _reader: &dyn Reader,
    ) -> Result<Vec<String>, Status> {
        Ok(Vec::new())
    }

    /// Accepts or rejects.
    async fn validate(
        &self,
        _review: &Review<'_>,
        _reader: &dyn Reader,
    ) -> Result<Vec<String>, Status> {
        Ok(Vec::new())
    }
}

/// The plugins, in order.
#[derive(Clone, Default)]
pub struct Chain(Vec<Arc<dyn Plugin>>);

impl Chain {
    /// These plugins, in this order.
    pub fn new(plugins: Vec<Arc<dyn Plugin>>) -> Self {
        Self(plugins)
    }

    /// Runs every mutating plugin.
    pub(crate) async fn mutate(
        &self,
        review: &mut Review<'_>,
        reader: &dyn Reader,
    ) -> Result<Vec<String>, Status> {
        let mut warnings = Vec::new();
        for plugin in &self.0 {
            if plugin.handles(review.operation, review.resource, review.subresource) {
                warnings.extend(plugin.mutate(review, reader).await?);
            }
        }
        Ok(warnings)
    }

    /// Runs every validating plugin.
    pub(crate) async fn validate(
        &self,
        review: &Review<'_>,
        reader: &dyn Reader,
    ) -> Result<Vec<String>, Status> {
        let mut warnings = Vec::new();
        for plugin in &self.0 {
            if plugin.handles(review.operation, review.resource, review.subresource) {
                warnings.extend(plugin.validate(review, reader).await?);
            }
        }
        Ok(warnings)
    }
}

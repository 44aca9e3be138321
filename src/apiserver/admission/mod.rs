//! Admission: plugins that change or reject writes after authorisation.
//!
//! A [`Plugin`] sees a [`Review`]: the operation, old and new object and the
//! user, and may read other objects through [`Reader`]. Mutating plugins run
//! in order before validation, validating ones after it.

mod certificates;
mod defaults;
mod limit_ranger;
mod namespace;
mod node_restriction;
mod placement;
mod pod_security;
mod pods;
mod quota;
mod rbac;
mod runtime_class;
mod service_account;

use std::sync::Arc;

use api::{GroupResource, GroupVersionKind, Status};
use async_trait::async_trait;
use serde_json::Value;

use crate::access::{Authorizer, User};

pub use certificates::{CertificateApproval, CertificateSigning, CertificateSubjectRestriction};
pub use defaults::{
    DefaultIngressClass, DefaultStorageClass, StorageObjectInUseProtection, TaintNodesByCondition,
};
pub use limit_ranger::LimitRanger;
pub use namespace::NamespaceLifecycle;
pub use node_restriction::NodeRestriction;
pub use placement::{PersistentVolumeClaimResize, PodResizeValidator, PodTopologyLabels};
pub use pod_security::PodSecurity;
pub use pods::{DefaultTolerationSeconds, Priority};
pub use quota::{Quotas, ResourceQuota};
pub use rbac::RbacEscalation;
pub use runtime_class::RuntimeClass;
pub use service_account::ServiceAccount;

/// The plugins that are on by default, in upstream's order, but for
/// [`ResourceQuota`], which comes after all others. `rbac` says what a user may
/// grant, `authorizers` what they may do.
pub fn default_plugins(
    rbac: Arc<crate::access::Rbac>,
    authorizers: &[Arc<dyn Authorizer>],
) -> Vec<Arc<dyn Plugin>> {
    let authorizers = || authorizers.to_vec();
    vec![
        Arc::new(NamespaceLifecycle),
        Arc::new(LimitRanger),
        Arc::new(ServiceAccount),
        Arc::new(NodeRestriction::new(authorizers())),
        Arc::new(TaintNodesByCondition),
        Arc::new(PodSecurity),
        Arc::new(Priority),
        Arc::new(DefaultTolerationSeconds),
        Arc::new(DefaultStorageClass),
        Arc::new(StorageObjectInUseProtection),
        Arc::new(PersistentVolumeClaimResize),
        Arc::new(RuntimeClass),
        Arc::new(CertificateApproval::new(authorizers())),
        Arc::new(CertificateSigning::new(authorizers())),
        Arc::new(CertificateSubjectRestriction),
        Arc::new(DefaultIngressClass),
        Arc::new(PodTopologyLabels),
        Arc::new(PodResizeValidator),
        Arc::new(RbacEscalation::new(rbac)),
    ]
}

/// Whether this is a resource of the core group.
pub(crate) fn is_core(resource: &GroupResource, name: &str) -> bool {
    resource.group.is_empty() && resource.resource == name
}

/// Several errors as Go's `NewAggregate` prints them; `None` if there are none.
pub(crate) fn aggregate(errors: Vec<String>) -> Option<String> {
    let mut unique: Vec<String> = Vec::new();
    for error in errors {
        if !unique.contains(&error) {
            unique.push(error);
        }
    }
    match unique.len() {
        0 => None,
        1 => unique.pop(),
        _ => Some(format!("[{}]", unique.join(", "))),
    }
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
    /// The name in the URL, or else in the object; empty while it is still to
    /// be generated.
    pub fn object_name(&self) -> &str {
        match self.name {
            "" => self.object["metadata"]["name"].as_str().unwrap_or(""),
            name => name,
        }
    }

    /// 403 in the words of `admission.NewForbidden`: `pods "x" is forbidden: why`.
    pub fn forbidden(&self, why: &str) -> Status {
        let name = match self.object_name() {
            "" => self.object["metadata"]["generateName"]
                .as_str()
                .filter(|name| !name.is_empty())
                .unwrap_or("Unknown"),
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

    /// The objects of [`Reader::list`] in which a field, given by its path, is
    /// this text.
    async fn select(
        &self,
        resource: &GroupResource,
        namespace: &str,
        field: &str,
        text: &str,
    ) -> Result<Vec<Arc<Value>>, Status> {
        let mut objects = self.list(resource, namespace).await?;
        objects.retain(|object| {
            let value = field.split('.').fold(&**object, |value, name| &value[name]);
            value == text
        });
        Ok(objects)
    }

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

#[cfg(test)]
pub(crate) mod tests_support {
    //! A reader of an empty store.

    use super::*;

    pub(crate) struct Empty;

    #[async_trait]
    impl Reader for Empty {
        async fn get(
            &self,
            _: &GroupResource,
            _: &str,
            _: &str,
            _: bool,
        ) -> Result<Option<Arc<Value>>, Status> {
            Ok(None)
        }

        async fn list(&self, _: &GroupResource, _: &str) -> Result<Vec<Arc<Value>>, Status> {
            Ok(Vec::new())
        }

        async fn generation(&self, _: &GroupResource) -> Result<u64, Status> {
            Ok(0)
        }
    }
}

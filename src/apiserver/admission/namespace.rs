//! `NamespaceLifecycle`: nothing is made in a namespace that is absent or on its way out.

use api::{GroupResource, Status};
use async_trait::async_trait;
use serde_json::json;

use super::{Operation, Plugin, Reader, Review};

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// The plugin.
#[derive(Debug, Default)]
pub struct NamespaceLifecycle;

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, _subresource: &str) -> bool {
        match operation {
            Operation::Create => resource.group != "authorization.k8s.io",
            Operation::Delete => is_namespaces(resource),
            Operation::Update | Operation::Connect => false,
        }
    }

    async fn mutate(
        &self,
        review: &mut Review<'_>,
        reader: &dyn Reader,
    ) -> Result<Vec<String>, Status> {
        check(review, reader).await?;
        Ok(Vec::new())
    }

    async fn validate(
        &self,
        review: &Review<'_>,
        reader: &dyn Reader,
    ) -> Result<Vec<String>, Status> {
        // Deletions have no mutating phase; creations were checked in theirs.
        if review.operation == Operation::Delete {
            check(review, reader).await?;
        }
        Ok(Vec::new())
    }
}

async fn check(review: &Review<'_>, reader: &dyn Reader) -> Result<(), Status> {
    if is_namespaces(review.resource) {
        if review.operation == Operation::Delete && IMMORTAL.contains(&review.name) {
            return Err(Status::forbidden(
                review.resource,
                review.name,
                "this namespace may not be deleted",
            ));
        }
        return Ok(());
    }
    if review.namespace.is_empty() || review.operation != Operation::Create {
        return Ok(());
    }
    let namespaces = GroupResource {
        group: String::new(),
        resource: "namespaces".into(),
    };
    // What was acknowledged before this request began is seen: a namespace
    // that somebody has just made, or has just begun to delete.
    let namespace = reader
        .get(&namespaces, "", review.namespace, true)
        .await?
        .ok_or_else(|| Status::not_found(&namespaces, review.namespace))?;
    if namespace["status"]["phase"] != "Terminating" {
        return Ok(());
    }
    let name = review.namespace;
    let mut status = review.forbidden(&format!(
        "unable to create new content in namespace {name} because it is being terminated"
    ));
    status.details.get_or_insert_default().insert(
        "causes".into(),
        json!([{
            "reason": "NamespaceTerminating",
            "message": format!("namespace {name} is being terminated"),
            "field": "metadata.namespace",
        }]),
    );
    Err(status)
}

fn is_namespaces(resource: &GroupResource) -> bool {
    resource.group.is_empty() && resource.resource == "namespaces"
}

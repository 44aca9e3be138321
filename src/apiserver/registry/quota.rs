//! Charging resource quotas.

use std::sync::Arc;

use api::{GroupResource, Status};
use async_trait::async_trait;
use serde_json::Value;

use super::Registry;
use super::commit::Commit;
use crate::admission::{Quotas, Reader};

#[async_trait]
impl Quotas for Registry {
    async fn quotas(&self, namespace: &str, fresh: bool) -> Result<Vec<Arc<Value>>, Status> {
        if fresh {
            self.catch_up().await?;
        }
        let resource = GroupResource {
            group: String::new(),
            resource: "resourcequotas".to_owned(),
        };
        Reader::list(self, &resource, namespace).await
    }

    async fn charge(&self, quota: &Value, used: Value) -> Result<bool, Status> {
        let resource = self
            .resource("", "resourcequotas")
            .ok_or_else(|| Status::internal("no resource resourcequotas"))?;
        let text = |field: &str| quota["metadata"][field].as_str().unwrap_or_default();
        let key = resource.key(text("namespace"), text("name"));
        let revision = text("resourceVersion").parse().map_err(Status::internal)?;
        let mut charged = quota.clone();
        charged["status"]["used"] = used;
        let stored = resource.codec.encode(&charged);
        let lease = store::LeaseId::default();
        let commit = self
            .commit(&resource, &key, revision, Some(stored.into()), lease)
            .await?;
        Ok(matches!(commit, Commit::Done(_)))
    }
}

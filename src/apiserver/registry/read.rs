//! Reading single objects, and parsed objects for the server's own use.

use std::collections::HashMap;
use std::sync::Arc;

use api::{GroupResource, Reason, Status};
use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{Registry, Resource, store_error};
use crate::admission::Reader;
use crate::cache::{Entry, Filter, TooLarge};

/// Trees of objects that the server itself looks at again and again
/// (namespaces, quotas, roles), by their key. Bounded by being emptied.
#[derive(Default)]
pub(crate) struct Parsed(Mutex<HashMap<ParsedKey, (u64, Arc<Value>)>>);

/// The resource, by address, and the key below it.
type ParsedKey = (usize, Arc<str>);

const PARSED_MAX: usize = 4096;

impl Parsed {
    fn of(&self, cache: usize, entry: &Entry) -> Arc<Value> {
        let key = (cache, entry.key.clone());
        if let Some((revision, value)) = self.0.lock().get(&key)
            && *revision == entry.revision
        {
            return value.clone();
        }
        let value = Arc::new(entry.value());
        let mut parsed = self.0.lock();
        if parsed.len() >= PARSED_MAX {
            parsed.clear();
        }
        parsed.insert(key, (entry.revision, value.clone()));
        value
    }
}

impl Registry {
    /// Waits until the caches hold everything acknowledged before this call.
    pub(crate) async fn catch_up(&self) -> Result<u64, Status> {
        let revision = self
            .hub
            .store()
            .revision()
            .await
            .map_err(|error| store_error(&error))?;
        self.hub
            .reach(revision.0)
            .await
            .map_err(|late| too_large(&late))?;
        Ok(revision.0)
    }

    /// Waits until the caches hold a revision; 504 if that takes too long.
    pub(crate) async fn reach(&self, revision: u64) -> Result<(), Status> {
        self.hub
            .reach(revision)
            .await
            .map_err(|late| too_large(&late))
    }

    /// The current object of a key, as GET returns it without a version.
    pub(crate) async fn read(
        &self,
        resource: &Resource,
        key: &str,
    ) -> Result<Option<Arc<Entry>>, Status> {
        let cache = self.cache(resource).await?;
        self.catch_up().await?;
        Ok(cache.get(key))
    }

    /// The object of a key as the cache has it, without waiting.
    pub(crate) async fn read_any(
        &self,
        resource: &Resource,
        key: &str,
    ) -> Result<Option<Arc<Entry>>, Status> {
        Ok(self.cache(resource).await?.get(key))
    }

    fn known(&self, resource: &GroupResource) -> Result<Arc<Resource>, Status> {
        self.resource(&resource.group, &resource.resource)
            .ok_or_else(|| Status::internal(format!("no resource {resource}")))
    }
}

/// 504 for a resource version that has not happened.
pub(crate) fn too_large(late: &TooLarge) -> Status {
    Status::new(
        Reason::Timeout,
        format!(
            "Timeout: Too large resource version: {}, current: {}",
            late.wanted, late.current
        ),
    )
    .with_details(json!({
        "causes": [{
            "reason": "ResourceVersionTooLarge",
            "message": "Too large resource version",
        }],
        "retryAfterSeconds": 1,
    }))
}

#[async_trait]
impl Reader for Registry {
    async fn get(
        &self,
        resource: &GroupResource,
        namespace: &str,
        name: &str,
        fresh: bool,
    ) -> Result<Option<Arc<Value>>, Status> {
        let resource = self.known(resource)?;
        let cache = self.cache(&resource).await?;
        if fresh {
            self.catch_up().await?;
        }
        let entry = cache.get(&resource.key(namespace, name));
        let id = Arc::as_ptr(&resource) as usize;
        Ok(entry.map(|entry| self.parsed.of(id, &entry)))
    }

    async fn list(
        &self,
        resource: &GroupResource,
        namespace: &str,
    ) -> Result<Vec<Arc<Value>>, Status> {
        let resource = self.known(resource)?;
        let cache = self.cache(&resource).await?;
        let filter = Filter {
            namespace: namespace.to_owned(),
            ..Filter::default()
        };
        let id = Arc::as_ptr(&resource) as usize;
        let (entries, ..) = cache.list(&filter, "", 0);
        Ok(entries
            .iter()
            .map(|entry| self.parsed.of(id, entry))
            .collect())
    }

    async fn select(
        &self,
        resource: &GroupResource,
        namespace: &str,
        field: &str,
        text: &str,
    ) -> Result<Vec<Arc<Value>>, Status> {
        let resource = self.known(resource)?;
        let cache = self.cache(&resource).await?;
        let filter = Filter {
            namespace: namespace.to_owned(),
            fields: api::FieldSelector::parse(&format!("{field}={text}"))
                .map_err(Status::internal)?,
            ..Filter::default()
        };
        let id = Arc::as_ptr(&resource) as usize;
        let (entries, ..) = cache.list(&filter, "", 0);
        Ok(entries
            .iter()
            .map(|entry| self.parsed.of(id, entry))
            .collect())
    }

    async fn generation(&self, resource: &GroupResource) -> Result<u64, Status> {
        let resource = self.known(resource)?;
        Ok(self.cache(&resource).await?.changed())
    }
}

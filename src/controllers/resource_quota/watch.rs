//! Watches of what quotas name, metadata only, begun when a quota first names
//! a resource and ended when none does any more.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;

use api::GroupResource;
use api::quota::Evaluator;
use base::{Shutdown, Supervisor};
use client::core::{ApiResource, DynamicObject, PartialObjectMeta};
use client::runtime::WatchStreamExt;
use client::runtime::watcher::{self, Event};
use client::{Api, Client, Enqueue, Informer, NamespacedName};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ResourceQuota;
use parking_lot::Mutex;

use crate::discover;

pub(super) struct Watches {
    client: Client,
    tasks: Arc<Supervisor>,
    quotas: Informer<ResourceQuota>,
    enqueue: Enqueue,
    running: Mutex<HashMap<GroupResource, (ApiResource, Shutdown)>>,
}

impl Watches {
    pub(super) fn new(
        client: Client,
        tasks: Arc<Supervisor>,
        quotas: Informer<ResourceQuota>,
        enqueue: Enqueue,
    ) -> Self {
        Self {
            client,
            tasks,
            quotas,
            enqueue,
            running: Mutex::default(),
        }
    }

    /// How a resource is served, watched from now on; `None` if it is not.
    pub(super) async fn find(
        &self,
        wanted: &GroupResource,
    ) -> Result<Option<ApiResource>, client::Error> {
        if wanted.group.is_empty()
            && let Some(kind) = match wanted.resource.as_str() {
                "pods" => Some("Pod"),
                "services" => Some("Service"),
                "persistentvolumeclaims" => Some("PersistentVolumeClaim"),
                _ => None,
            }
        {
            // Their informers tell of changes.
            return Ok(Some(ApiResource {
                group: String::new(),
                version: "v1".to_owned(),
                api_version: "v1".to_owned(),
                kind: kind.to_owned(),
                plural: wanted.resource.clone(),
            }));
        }
        if let Some((served, _)) = self.running.lock().get(wanted) {
            return Ok(Some(served.clone()));
        }
        let found = discover::resources(&self.client).await?;
        let Some(found) = found.into_iter().find(|found| {
            found.namespaced
                && found.supports("list")
                && found.resource.group == wanted.group
                && found.resource.plural == wanted.resource
        }) else {
            return Ok(None);
        };
        let served = found.resource.clone();
        let mut running = self.running.lock();
        if found.supports("watch") && !running.contains_key(wanted) {
            let stop = self.tasks.shutdown().child();
            running.insert(wanted.clone(), (served.clone(), stop.clone()));
            let api = Api::all_with(self.client.clone(), &served);
            let (quotas, enqueue) = (self.quotas.clone(), self.enqueue.clone());
            self.tasks
                .spawn(format!("quota watch {wanted}"), move |_| async move {
                    stop.guard(follow(api, quotas, enqueue)).await;
                });
        }
        Ok(Some(served))
    }

    /// Ends the watches of what no quota names.
    pub(super) fn drop_unused(&self) {
        let mut running = self.running.lock();
        if running.is_empty() {
            return;
        }
        let quotas = self.quotas.list();
        running.retain(|resource, (_, stop)| {
            let evaluator = Evaluator::of(resource);
            let named = quotas.iter().any(|quota| {
                let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
                hard.into_iter()
                    .flatten()
                    .any(|(name, _)| evaluator.counts(name))
            });
            if !named {
                stop.trigger();
            }
            named
        });
    }
}

/// Runs the quotas of a namespace when an object of it goes.
async fn follow(
    api: Api<PartialObjectMeta<DynamicObject>>,
    quotas: Informer<ResourceQuota>,
    enqueue: Enqueue,
) {
    let config = watcher::Config::default().any_semantic();
    let mut events = pin!(watcher::watcher(api, config).default_backoff());
    while let Some(event) = events.next().await {
        let concerned = match event {
            // Something may have gone while nobody watched.
            Ok(Event::InitDone) => quotas.list(),
            Ok(Event::Delete(object)) => {
                quotas.in_namespace(object.metadata.namespace.as_deref().unwrap_or_default())
            }
            Ok(_) => continue,
            Err(error) => {
                tracing::debug!(error = %base::Chain(&error), "watch of a counted resource");
                continue;
            }
        };
        for quota in concerned {
            enqueue.add(NamespacedName::of(&*quota));
        }
    }
}

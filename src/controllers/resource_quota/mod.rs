//! Adds up what a namespace uses of its ResourceQuotas.
//!
//! Admission charges a quota before it lets an object in; this loop gives back
//! what objects free when they go, end or shrink, and counts anew when a quota
//! is made or its limits change. It counts by lists that are as fresh as the
//! store, never by informers, whose lag would undo charges of a moment ago; a
//! charge whose object is not stored yet can still be missed, which is why a
//! count that gave something back is soon repeated.

mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::GroupResource;
use api::quota::{Evaluator, ResourceList, list};
use client::core::ApiResource;
use client::{Action, Client, Informer, NamespacedName, Observed, Watched};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use serde::Serialize;
use serde_json::{Value, json};

use crate::context::{Context, run};
use crate::error::{During, Result, is_not_found};
use watch::Watches;

const NAME: &str = "resourcequota-controller";
/// Everything is counted anew this often: what was charged for writes that
/// failed afterwards has no other way back.
const RESYNC: Duration = Duration::from_secs(5 * 60);
/// A count that gave something back is repeated after this long.
const AGAIN: Duration = Duration::from_secs(10);
/// A resource that is not served (yet) is looked for again after this long.
const UNSERVED: Duration = Duration::from_secs(30);

pub(crate) fn register(context: &Context) {
    let controller = context.controller(NAME);
    let client = context.client(NAME);
    let quotas = context.informers.of::<ResourceQuota>();
    controller.watch_changes(&quotas, |change| match change {
        // What others write into the status is theirs to know.
        Observed::Applied {
            old: Some(old),
            new,
        } if hard(old) == hard(new) && is_counted(new) => Vec::new(),
        Observed::Applied { new, .. } => vec![NamespacedName::of(new)],
        Observed::Deleted(_) => Vec::new(),
    });
    follow::<Pod>(context, &controller, &quotas, "pods");
    follow::<Service>(context, &controller, &quotas, "services");
    follow::<PersistentVolumeClaim>(context, &controller, &quotas, "persistentvolumeclaims");
    let state = Arc::new(Quotas {
        watches: Watches::new(
            client.clone(),
            context.tasks.clone(),
            quotas.clone(),
            controller.enqueue(),
        ),
        client,
        quotas,
    });
    run(controller, 2, move |key| {
        let state = state.clone();
        async move { state.reconcile(&key).await }
    });
}

fn hard(quota: &ResourceQuota) -> Option<&BTreeMap<String, Quantity>> {
    quota.spec.as_ref()?.hard.as_ref()
}

type Quantity = k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Whether the status has a number for everything that is limited.
fn is_counted(quota: &ResourceQuota) -> bool {
    let status = quota.status.as_ref();
    let used = status.and_then(|status| status.used.as_ref());
    status.and_then(|status| status.hard.as_ref()) == hard(quota)
        && hard(quota)
            .into_iter()
            .flatten()
            .all(|(name, _)| used.is_some_and(|used| used.contains_key(name)))
}

/// Runs the quotas of a namespace when an object of it goes, or uses less.
fn follow<K: Watched + Serialize>(
    context: &Context,
    controller: &client::Controller,
    quotas: &Informer<ResourceQuota>,
    plural: &'static str,
) {
    let informer = context.informers.of::<K>();
    let quotas = quotas.clone();
    controller.needs(&quotas);
    controller.watch_changes(&informer, move |change| {
        let object = match &change {
            Observed::Applied { old: None, .. } => return Vec::new(),
            Observed::Applied { new, .. } => *new,
            Observed::Deleted(old) => *old,
        };
        let namespace = object.meta().namespace.as_deref().unwrap_or_default();
        let concerned = quotas.in_namespace(namespace);
        if concerned.is_empty() {
            return Vec::new();
        }
        if let Observed::Applied {
            old: Some(old),
            new,
        } = change
            && !frees(&resource("", plural), old, new)
        {
            return Vec::new();
        }
        concerned
            .iter()
            .map(|quota| NamespacedName::of(&**quota))
            .collect()
    });
}

/// Whether a change leaves less in use, or moves an object to other scopes.
fn frees<K: Serialize>(resource: &GroupResource, old: &K, new: &K) -> bool {
    let (Ok(old), Ok(new)) = (serde_json::to_value(old), serde_json::to_value(new)) else {
        return true;
    };
    let evaluator = Evaluator::of(resource);
    let now = Timestamp::now();
    let less = list::growth(&evaluator.usage(&old, now), &evaluator.usage(&new, now));
    less.values().any(|amount| !amount.is_zero())
        || (evaluator != Evaluator::Services
            && evaluator.handles("", &new, Some(&old))
            && old["spec"] != new["spec"])
}

fn resource(group: &str, plural: &str) -> GroupResource {
    GroupResource {
        group: group.to_owned(),
        resource: plural.to_owned(),
    }
}

struct Quotas {
    client: Client,
    quotas: Informer<ResourceQuota>,
    watches: Watches,
}

impl Quotas {
    async fn reconcile(&self, key: &NamespacedName) -> Result<Action> {
        let Some(quota) = self.quotas.get(key) else {
            self.watches.drop_unused();
            return Ok(Action::Done);
        };
        let quota = serde_json::to_value(&*quota).unwrap_or_default();
        let hard = list::parse(&quota["spec"]["hard"]);
        let known = list::parse(&quota["status"]["used"]);
        let mut used: ResourceList = known.clone();
        used.retain(|name, _| hard.contains_key(name));
        let mut names: BTreeMap<GroupResource, Vec<&String>> = BTreeMap::new();
        for name in hard.keys() {
            if let Some(resource) = Evaluator::resource_of(name) {
                names.entry(resource).or_default().push(name);
            }
        }
        let mut after = RESYNC;
        for (resource, names) in names {
            let Some(served) = self
                .watches
                .find(&resource)
                .await
                .during(|| format!("finding {resource}, which quota {key} limits"))?
            else {
                after = UNSERVED;
                continue;
            };
            let usage = self
                .usage(&quota, &resource, &served, &key.namespace)
                .await
                .during(|| format!("counting {resource} for quota {key}"))?;
            for name in names {
                let amount = usage.get(name).cloned().unwrap_or_default();
                used.insert(name.clone(), amount);
            }
        }
        self.watches.drop_unused();
        if list::growth(&known, &used)
            .values()
            .any(|less| !less.is_zero())
        {
            after = after.min(AGAIN);
        }
        let settled = !quota["status"]["hard"].is_null() || hard.is_empty();
        if settled && list::parse(&quota["status"]["hard"]) == hard && known == used {
            return Ok(Action::After(after));
        }
        let mut fresh = quota;
        fresh["apiVersion"] = "v1".into();
        fresh["kind"] = "ResourceQuota".into();
        fresh["status"] = json!({ "hard": list::to_value(&hard), "used": list::to_value(&used) });
        let path = format!(
            "/api/v1/namespaces/{}/resourcequotas/{}/status",
            key.namespace, key.name
        );
        match self.send("PUT", &path, &fresh).await {
            Err(error) if !is_not_found(&error) => {
                Err(error).during(|| format!("updating the status of quota {key}"))
            }
            _ => Ok(Action::After(after)),
        }
    }

    async fn send(&self, method: &str, path: &str, body: &Value) -> Result<Value, client::Error> {
        let bytes = match body {
            Value::Null => Vec::new(),
            body => serde_json::to_vec(body).map_err(client::Error::SerdeError)?,
        };
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/json")
            .body(bytes)
            .map_err(client::Error::HttpError)?;
        self.client.request(request).await
    }

    /// What the objects of one resource use of what this quota is about.
    async fn usage(
        &self,
        quota: &Value,
        resource: &GroupResource,
        served: &ApiResource,
        namespace: &str,
    ) -> Result<ResourceList, client::Error> {
        let evaluator = Evaluator::of(resource);
        let root = match served.group.as_str() {
            "" => format!("/api/{}", served.version),
            group => format!("/apis/{group}/{}", served.version),
        };
        let path = format!("{root}/namespaces/{namespace}/{}", served.plural);
        let now = Timestamp::now();
        if let Evaluator::Count(names) = &evaluator {
            let one = self
                .send("GET", &format!("{path}?limit=1"), &Value::Null)
                .await?;
            let mut count = 0;
            if evaluator.in_scopes(quota, &Value::Null) {
                count = one["items"].as_array().map_or(0, Vec::len);
                let more = one["metadata"]["remainingItemCount"].as_u64().unwrap_or(0);
                count += usize::try_from(more).unwrap_or(usize::MAX);
            }
            return Ok(names
                .iter()
                .map(|name| (name.clone(), api::quota::number(count)))
                .collect());
        }
        let all = self.send("GET", &path, &Value::Null).await?;
        let mut used = ResourceList::new();
        for object in all["items"].as_array().into_iter().flatten() {
            if evaluator.in_scopes(quota, object) {
                list::add(&mut used, &evaluator.usage(object, now));
            }
        }
        Ok(used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_frees_something() {
        let pods = resource("", "pods");
        let pod = |phase: &str, deadline: Value, cpu: &str| {
            json!({
                "spec": {
                    "activeDeadlineSeconds": deadline,
                    "containers": [{ "name": "a", "resources": { "requests": { "cpu": cpu } } }],
                },
                "status": { "phase": phase },
            })
        };
        let running = pod("Running", Value::Null, "1");
        for (new, expected) in [
            (pod("Running", Value::Null, "1"), false),
            (pod("Running", Value::Null, "2"), false),
            (pod("Running", Value::Null, "500m"), true),
            (pod("Succeeded", Value::Null, "1"), true),
            (pod("Running", 5.into(), "1"), true),
        ] {
            assert_eq!(frees(&pods, &running, &new), expected, "{new}");
        }
        let services = resource("", "services");
        let service = |kind: &str| json!({ "spec": { "type": kind, "ports": [{ "port": 1 }] } });
        assert!(frees(
            &services,
            &service("NodePort"),
            &service("ClusterIP")
        ));
        assert!(!frees(
            &services,
            &service("ClusterIP"),
            &service("NodePort")
        ));
    }
}

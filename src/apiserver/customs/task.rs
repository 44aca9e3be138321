//! Keeps what is served in step with the definitions.

use std::collections::HashMap;
use std::sync::Arc;

use api::{Status, meta};
use base::Shutdown;
use futures::StreamExt;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::task::JoinSet;

use super::names;
use crate::access::User;
use crate::cache::Filter;
use crate::registry::{
    Call, Change, DeleteOptions, ListOptions, Registry, Resource, WatchOptions, now,
};

const GROUP: &str = "apiextensions.k8s.io";
const PLURAL: &str = "customresourcedefinitions";
/// Holds a definition until its objects are gone.
const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// A call of the server's own.
fn call(resource: &Arc<Resource>, namespace: &str, name: &str, version: &str) -> Call {
    Call {
        resource: resource.clone(),
        version: version.to_owned(),
        subresource: String::new(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        user: Arc::new(User::new("system:apiserver", &["system:masters"])),
        dry_run: false,
        manager: "kube-apiserver".to_owned(),
        field_validation: "Ignore".to_owned(),
        options: Value::Null,
        warnings: Mutex::default(),
        empties: Mutex::default(),
    }
}

/// The first step of deleting a definition: its objects go before it.
pub(crate) fn mark_deleted(object: &mut Value, now: &str) {
    let metadata = meta::metadata_mut(object);
    metadata.insert("deletionTimestamp".to_owned(), now.into());
    metadata.insert("deletionGracePeriodSeconds".to_owned(), 0.into());
    let mut finalizers = metadata
        .get("finalizers")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    if !finalizers.iter().any(|it| it == CLEANUP) {
        finalizers.push(CLEANUP.into());
    }
    metadata.insert("finalizers".to_owned(), finalizers.into());
    names::set_condition(
        &mut object["status"],
        "Terminating",
        "True",
        "InstanceDeletionPending",
        "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
        now,
    );
}

/// A change of the status by the server itself.
struct Write<F>(F);

impl<F: Fn(&Value) -> Value + Send + Sync> Change for Write<F> {
    fn apply(&self, call: &Call, current: Option<&Value>) -> Result<Value, Status> {
        let current = current.ok_or_else(|| call.resource.not_found(&call.name))?;
        let mut new = current.clone();
        new["status"] = (self.0)(current);
        Ok(new)
    }

    fn is_internal(&self) -> bool {
        true
    }
}

/// Takes the finalizer away.
struct Release;

impl Change for Release {
    fn apply(&self, call: &Call, current: Option<&Value>) -> Result<Value, Status> {
        let current = current.ok_or_else(|| call.resource.not_found(&call.name))?;
        let mut new = current.clone();
        if let Some(finalizers) = new["metadata"]["finalizers"].as_array_mut() {
            finalizers.retain(|it| it != CLEANUP);
        }
        Ok(new)
    }

    fn manages_fields(&self) -> bool {
        true
    }
}

fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn is_held(object: &Value) -> bool {
    let finalizers = object["metadata"]["finalizers"].as_array();
    !object["metadata"]["deletionTimestamp"].is_null()
        && finalizers.is_some_and(|all| all.iter().any(|it| it == CLEANUP))
}

fn definitions(registry: &Registry) -> Result<Arc<Resource>, Status> {
    let known = registry.resource(GROUP, PLURAL);
    known.ok_or_else(|| Status::internal("there are no definitions of custom resources"))
}

/// Brings what is served, and the status of definitions, in line with the
/// definitions that there are. Returns those that wait for their objects to go.
pub(crate) async fn serve_all(registry: &Registry) -> Result<Vec<Value>, Status> {
    let resource = definitions(registry)?;
    let listed = registry
        .list(&resource, &Filter::default(), &ListOptions::default())
        .await?;
    let mut all: Vec<Value> = listed.entries.iter().map(|it| it.value()).collect();
    let names: Vec<&str> = all.iter().map(name_of).collect();
    for prefix in registry.customs.retain(&names) {
        registry.hub.forget(&prefix);
    }
    // The oldest comes first to a name.
    let mut order: Vec<usize> = (0..all.len()).collect();
    let age = |it: &Value| {
        let created = it["metadata"]["creationTimestamp"].as_str();
        (
            !names::is_established(it),
            created.unwrap_or_default().to_owned(),
        )
    };
    order.sort_by_key(|at| age(&all[*at]));
    for at in order {
        let now = now();
        let others: Vec<&Value> = all.iter().collect();
        let status = names::status(&all[at], &others, &now);
        let changed = status != all[at]["status"];
        all[at]["status"] = status;
        let object = &all[at];
        if names::is_established(object)
            && let Some(prefix) = registry.customs.serve(object)
        {
            registry.hub.forget(&prefix);
        }
        if changed {
            let call = call(&resource, "", name_of(object), "v1");
            let wanted = object["status"].clone();
            let set = Write(move |current: &Value| {
                let mut status = current["status"].clone();
                for field in ["acceptedNames", "conditions"] {
                    status[field] = wanted[field].clone();
                }
                status
            });
            match registry.update(&call, &set).await {
                Ok(_) => {}
                Err(status) if status.code == 404 => {}
                Err(status) => return Err(status),
            }
        }
    }
    all.retain(is_held);
    Ok(all)
}

/// Runs until shutdown, woken by changes of definitions.
pub(crate) async fn run(registry: Arc<Registry>, stop: Shutdown) {
    let mut cleaning: HashMap<String, ()> = HashMap::new();
    let mut tasks: JoinSet<String> = JoinSet::new();
    while !stop.is_triggered() {
        let Ok(resource) = definitions(&registry) else {
            return;
        };
        let watched = registry
            .watch(&resource, Filter::default(), &WatchOptions::default())
            .await;
        let mut events = match watched {
            Ok(events) => Box::pin(events),
            Err(status) => {
                tracing::warn!(error = %status.message, "watching definitions of custom resources");
                return;
            }
        };
        loop {
            match serve_all(&registry).await {
                Ok(held) => {
                    for object in held {
                        let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
                        if cleaning.insert(uid.to_owned(), ()).is_none() {
                            tasks.spawn(clean(registry.clone(), object));
                        }
                    }
                }
                Err(status) => {
                    tracing::warn!(error = %status.message, "definitions of custom resources");
                }
            }
            tokio::select! {
                () = stop.triggered() => return,
                event = events.next() => if event.is_none() { break },
                Some(done) = tasks.join_next() => {
                    if let Ok(uid) = done {
                        cleaning.remove(&uid);
                    }
                }
            }
        }
    }
}

/// Removes the objects of a definition, then lets it go. Returns its UID.
async fn clean(registry: Arc<Registry>, object: Value) -> String {
    let uid = object["metadata"]["uid"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    if let Err(status) = clean_up(&registry, &object).await {
        tracing::warn!(
            name = name_of(&object), error = %status.message,
            "removing the objects of a custom resource"
        );
    }
    uid
}

async fn set_terminating(
    registry: &Registry,
    name: &str,
    (value, reason, message): (&'static str, &'static str, &'static str),
) -> Result<(), Status> {
    let call = call(&definitions(registry)?, "", name, "v1");
    let set = Write(move |current: &Value| {
        let mut status = current["status"].clone();
        names::set_condition(&mut status, "Terminating", value, reason, message, &now());
        status
    });
    registry.update(&call, &set).await.map(|_| ())
}

async fn clean_up(registry: &Registry, object: &Value) -> Result<(), Status> {
    let name = name_of(object);
    let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
    let group = text(&object["spec"], "group");
    let plural = text(&object["status"]["acceptedNames"], "plural");
    set_terminating(
        registry,
        name,
        (
            "True",
            "InstanceDeletionInProgress",
            "CustomResource deletion is in progress",
        ),
    )
    .await?;
    if let Some(resource) = registry.customs.resource(&group, &plural) {
        loop {
            // The watch begins first: what goes after the list is seen.
            let mut events = Box::pin(
                registry
                    .watch(&resource, Filter::default(), &WatchOptions::default())
                    .await?,
            );
            let everything = registry
                .list(&resource, &Filter::default(), &ListOptions::default())
                .await?;
            if everything.entries.is_empty() {
                break;
            }
            for entry in everything.entries {
                let version = &resource.storage_version;
                let call = call(&resource, entry.namespace(), entry.name(), version);
                match registry.delete(&call, &DeleteOptions::default()).await {
                    Ok(_) => {}
                    Err(status) if status.code == 404 => {}
                    Err(status) => return Err(status),
                }
            }
            loop {
                let left = registry
                    .list(&resource, &Filter::default(), &ListOptions::default())
                    .await?;
                if left.entries.is_empty() || events.next().await.is_none() {
                    break;
                }
            }
        }
    }
    set_terminating(
        registry,
        name,
        (
            "False",
            "InstanceDeletionCompleted",
            "removed all instances",
        ),
    )
    .await?;
    let call = call(&definitions(registry)?, "", name, "v1");
    match registry.update(&call, &Release).await {
        Ok(_) => Ok(()),
        Err(status) if status.code == 404 => Ok(()),
        Err(status) => Err(status),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_deleted_definition_waits_for_its_objects() {
        let mut object = json!({ "metadata": { "name": "a.b" }, "status": {} });
        assert!(!is_held(&object));
        mark_deleted(&mut object, "2026-01-01T00:00:00Z");
        assert!(is_held(&object));
        assert_eq!(object["metadata"]["finalizers"], json!([CLEANUP]));
        let pending = names::condition(&object, "Terminating").expect("it");
        assert_eq!(pending["reason"], "InstanceDeletionPending");
    }
}

//! What is done to one object.

use std::time::Duration;

use client::api::{DeleteParams, Patch, PatchParams, Preconditions};
use client::core::{DynamicObject, PartialObjectMeta};
use client::{Action, Api};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::{Value, json};

use super::Collector;
use super::graph::{FOREGROUND, Node, ORPHAN, Uid};
use crate::discover::Discovered;
use crate::error::{During, Error, Result, is_conflict, is_not_found};

/// How long to wait for the first list of a resource that does not arrive.
const SYNC: Duration = Duration::from_secs(30);
/// When to look again after the object changed under a write.
const AFTER_CONFLICT: Duration = Duration::from_millis(20);

/// What has become of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// It is there.
    Solid,
    /// It is gone.
    Absent,
    /// It is being deleted and waits for its dependents.
    Waiting,
}

impl Collector {
    pub(super) async fn reconcile(&self, uid: &Uid) -> Result<Action> {
        let mut unsynced = self.unsynced.subscribe();
        // The sender lives in `self`; a list that never comes must not stop
        // everything else.
        let _ = tokio::time::timeout(SYNC, unsynced.wait_for(|unsynced| *unsynced == 0)).await;
        let outcome = self.collect(uid).await;
        match outcome {
            Err(error) if error.is_conflict() => Ok(Action::After(AFTER_CONFLICT)),
            outcome => outcome,
        }
    }

    async fn collect(&self, uid: &Uid) -> Result<Action> {
        let Some(node) = self.graph.lock().get(uid).cloned() else {
            return Ok(Action::Done);
        };
        if node.deleting && !node.foreground && !node.orphaning {
            return Ok(Action::Done);
        }
        let key = format!("{} {}", node.resource.dotted(), node.name);
        let namespace = node.namespace.as_deref();
        let fetched = self
            .metadata(&node.resource, namespace)
            .get_opt(&node.name)
            .await
            .during(|| format!("reading {key}"))?
            .filter(|live| live.metadata.uid.as_ref() == Some(uid));
        let Some(live) = fetched else {
            let affected = self.graph.lock().remove(uid);
            self.run(affected);
            return Ok(Action::Done);
        };
        if node.orphaning {
            return self.orphan(uid, &node, &live.metadata).await;
        }
        if node.foreground {
            return self.finish_foreground(uid, &node, &live.metadata).await;
        }
        self.collect_garbage(uid, &node, &live.metadata, &key).await
    }

    fn metadata(
        &self,
        found: &Discovered,
        namespace: Option<&str>,
    ) -> Api<PartialObjectMeta<DynamicObject>> {
        match namespace.filter(|_| found.namespaced) {
            Some(namespace) => {
                Api::namespaced_with(self.client.clone(), namespace, &found.resource)
            }
            None => Api::all_with(self.client.clone(), &found.resource),
        }
    }

    fn objects(&self, found: &Discovered, namespace: Option<&str>) -> Api<DynamicObject> {
        match namespace.filter(|_| found.namespaced) {
            Some(namespace) => {
                Api::namespaced_with(self.client.clone(), namespace, &found.resource)
            }
            None => Api::all_with(self.client.clone(), &found.resource),
        }
    }

    /// Deletes an object whose owners are all gone or waiting for it, or drops
    /// the references to those that are gone.
    async fn collect_garbage(
        &self,
        uid: &Uid,
        node: &Node,
        live: &ObjectMeta,
        key: &str,
    ) -> Result<Action> {
        let owners = live.owner_references.as_deref().unwrap_or_default();
        if owners.is_empty() || live.deletion_timestamp.is_some() {
            return Ok(Action::Done);
        }
        let mut states = Vec::with_capacity(owners.len());
        for owner in owners {
            states.push(self.state_of(owner, live).await?);
        }
        if states.contains(&Owner::Solid) {
            let kept: Vec<&OwnerReference> = owners
                .iter()
                .zip(&states)
                .filter(|(_, state)| **state == Owner::Solid)
                .map(|(owner, _)| owner)
                .collect();
            if kept.len() < owners.len() {
                self.patch(node, live, json!({"ownerReferences": kept}))
                    .await?;
            }
            return Ok(Action::Done);
        }
        let dependents = self.graph.lock().dependents_of(uid);
        let parameters = if states.contains(&Owner::Waiting) && !dependents.is_empty() {
            self.unblock_circle(node, live, &dependents).await?;
            DeleteParams::foreground()
        } else if holds(live, ORPHAN) {
            DeleteParams::orphan()
        } else if holds(live, FOREGROUND) {
            DeleteParams::foreground()
        } else {
            DeleteParams::background()
        };
        // Should it be adopted meanwhile, its version has changed.
        let parameters = parameters.preconditions(Preconditions {
            uid: Some(uid.clone()),
            resource_version: live.resource_version.clone(),
        });
        let api = self.objects(&node.resource, node.namespace.as_deref());
        match api.delete(&node.name, &parameters).await {
            Ok(_) => Ok(Action::Done),
            Err(error) if is_not_found(&error) => Ok(Action::Done),
            Err(error) if is_conflict(&error) => Ok(Action::After(AFTER_CONFLICT)),
            Err(error) => Err(error).during(|| format!("deleting {key}")),
        }
    }

    /// Objects that wait for each other would wait for ever: the one about to
    /// be deleted stops blocking its owners.
    async fn unblock_circle(
        &self,
        node: &Node,
        live: &ObjectMeta,
        dependents: &[Uid],
    ) -> Result<()> {
        let circular = {
            let graph = self.graph.lock();
            dependents
                .iter()
                .any(|uid| graph.get(uid).is_some_and(|node| node.foreground))
        };
        if !circular {
            return Ok(());
        }
        let mut owners = live.owner_references.clone().unwrap_or_default();
        for owner in &mut owners {
            owner.block_owner_deletion = Some(false);
        }
        self.patch(node, live, json!({"ownerReferences": owners}))
            .await
    }

    async fn state_of(&self, owner: &OwnerReference, child: &ObjectMeta) -> Result<Owner> {
        let known = self.graph.lock().get(&owner.uid).map(|node| {
            let reachable = node.namespace.is_none() || node.namespace == child.namespace;
            (node.foreground, reachable)
        });
        if let Some((foreground, true)) = known {
            return Ok(if foreground {
                Owner::Waiting
            } else {
                Owner::Solid
            });
        }
        let Some(found) = self.resource_of(&owner.api_version, &owner.kind) else {
            return Err(Error::Unmet(format!(
                "no resource serves owner {} {} of {}",
                owner.api_version,
                owner.kind,
                child.name.as_deref().unwrap_or_default()
            )));
        };
        if found.namespaced && child.namespace.is_none() {
            // Nobody can tell which object is meant: better to leave it alone.
            return Ok(Owner::Solid);
        }
        let fetched = self
            .metadata(&found, child.namespace.as_deref())
            .get_opt(&owner.name)
            .await
            .during(|| format!("reading owner {} {}", owner.kind, owner.name))?;
        Ok(match fetched {
            Some(live) if live.metadata.uid.as_ref() == Some(&owner.uid) => {
                let waiting =
                    live.metadata.deletion_timestamp.is_some() && holds(&live.metadata, FOREGROUND);
                if waiting {
                    Owner::Waiting
                } else {
                    Owner::Solid
                }
            }
            _ => Owner::Absent,
        })
    }

    /// Lets an owner go once nothing blocks it.
    async fn finish_foreground(&self, uid: &Uid, node: &Node, live: &ObjectMeta) -> Result<Action> {
        let blocking = self.graph.lock().blocking(uid);
        if blocking.is_empty() {
            self.drop_finalizer(node, live, FOREGROUND).await?;
            return Ok(Action::Done);
        }
        let waiting: Vec<Uid> = {
            let graph = self.graph.lock();
            let goes = |uid: &Uid| graph.get(uid).is_some_and(|node| !node.deleting);
            blocking.into_iter().filter(goes).collect()
        };
        self.run(waiting);
        Ok(Action::Done)
    }

    /// Parts an object from its dependents, then lets it go.
    async fn orphan(&self, uid: &Uid, node: &Node, live: &ObjectMeta) -> Result<Action> {
        let dependents: Vec<Node> = {
            let graph = self.graph.lock();
            graph
                .dependents_of(uid)
                .iter()
                .filter_map(|uid| graph.get(uid).cloned())
                .collect()
        };
        for dependent in &dependents {
            let namespace = dependent.namespace.as_deref();
            let fetched = self
                .metadata(&dependent.resource, namespace)
                .get_opt(&dependent.name)
                .await
                .during(|| format!("reading dependent {}", dependent.name))?;
            let Some(child) = fetched else {
                continue;
            };
            let mut owners = child.metadata.owner_references.clone().unwrap_or_default();
            let before = owners.len();
            owners.retain(|owner| owner.uid != *uid);
            if owners.len() < before {
                let owners = json!({"ownerReferences": owners});
                self.patch(dependent, &child.metadata, owners).await?;
            }
        }
        self.drop_finalizer(node, live, ORPHAN).await?;
        Ok(Action::Done)
    }

    async fn drop_finalizer(&self, node: &Node, live: &ObjectMeta, finalizer: &str) -> Result<()> {
        if !holds(live, finalizer) {
            return Ok(());
        }
        let kept: Vec<&String> = live
            .finalizers
            .iter()
            .flatten()
            .filter(|known| *known != finalizer)
            .collect();
        self.patch(node, live, json!({"finalizers": kept})).await
    }

    /// Changes metadata, provided the object is still the one that was read.
    async fn patch(&self, node: &Node, live: &ObjectMeta, mut metadata: Value) -> Result<()> {
        metadata["uid"] = json!(live.uid);
        metadata["resourceVersion"] = json!(live.resource_version);
        let api = self.objects(&node.resource, node.namespace.as_deref());
        let patch = Patch::Merge(json!({"metadata": metadata}));
        match api.patch(&node.name, &PatchParams::default(), &patch).await {
            Err(error) if !is_not_found(&error) => {
                Err(error).during(|| format!("changing {} {}", node.resource.dotted(), node.name))
            }
            _ => Ok(()),
        }
    }
}

fn holds(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers
        .iter()
        .flatten()
        .any(|known| known == finalizer)
}

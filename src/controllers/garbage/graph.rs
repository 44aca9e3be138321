//! Who owns whom, as far as the watches have told.
//!
//! Nodes hold only what decisions need; dependents are kept by the owner's
//! UID whether or not the owner has been seen, so that the order in which
//! watches deliver does not matter.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::discover::Discovered;

pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";

/// An object's UID: it tells an object from a later one of the same name.
pub(super) type Uid = String;

/// An object in the graph.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) resource: Arc<Discovered>,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) owners: Vec<OwnerReference>,
    pub(super) deleting: bool,
    /// Being deleted, and waiting for its dependents to go first.
    pub(super) foreground: bool,
    /// Being deleted, and to be parted from its dependents first.
    pub(super) orphaning: bool,
}

/// The ownership graph.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: HashMap<Uid, Node>,
    dependents: HashMap<Uid, HashSet<Uid>>,
}

impl Graph {
    pub(super) fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// Takes over an object as it is now; names the objects to look at.
    pub(super) fn apply(&mut self, resource: &Arc<Discovered>, meta: &ObjectMeta) -> Vec<Uid> {
        let Some(uid) = meta.uid.clone() else {
            return Vec::new();
        };
        let holds = |finalizer: &str| {
            meta.finalizers
                .iter()
                .flatten()
                .any(|known| known == finalizer)
        };
        let deleting = meta.deletion_timestamp.is_some();
        let node = Node {
            resource: resource.clone(),
            namespace: meta.namespace.clone(),
            name: meta.name.clone().unwrap_or_default(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            deleting,
            foreground: deleting && holds(FOREGROUND),
            orphaning: deleting && holds(ORPHAN),
        };
        let mut affected = Vec::new();
        let orphaned = node
            .owners
            .iter()
            .any(|owner| !self.nodes.contains_key(&owner.uid));
        let left_alone = !node.owners.is_empty()
            && node.owners.iter().any(|owner| {
                self.nodes
                    .get(&owner.uid)
                    .is_some_and(|owner| owner.foreground)
            });
        if orphaned || left_alone || node.foreground || node.orphaning {
            affected.push(uid.clone());
        }
        for owner in &node.owners {
            self.dependents
                .entry(owner.uid.clone())
                .or_default()
                .insert(uid.clone());
        }
        let began = node.foreground;
        let old = self.nodes.insert(uid.clone(), node);
        let old_owners = old
            .as_ref()
            .map(|old| old.owners.clone())
            .unwrap_or_default();
        let new_owners = &self.nodes[&uid].owners.clone();
        for owner in &old_owners {
            let now = new_owners.iter().find(|now| now.uid == owner.uid);
            if now.is_none()
                && let Some(dependents) = self.dependents.get_mut(&owner.uid)
            {
                dependents.remove(&uid);
            }
            // It may no longer stand in the way of its owner's end.
            if now != Some(owner)
                && self
                    .nodes
                    .get(&owner.uid)
                    .is_some_and(|owner| owner.foreground)
            {
                affected.push(owner.uid.clone());
            }
        }
        if began && !old.is_some_and(|old| old.foreground) {
            affected.extend(self.dependents_of(&uid));
        }
        affected
    }

    /// Drops an object that is gone; names the objects to look at: those it
    /// owned, and owners that waited for it.
    pub(super) fn remove(&mut self, uid: &str) -> Vec<Uid> {
        let mut affected: Vec<Uid> = self.dependents_of(uid);
        if let Some(node) = self.nodes.remove(uid) {
            for owner in node.owners {
                if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                    dependents.remove(uid);
                    if dependents.is_empty() {
                        self.dependents.remove(&owner.uid);
                    }
                }
                if self
                    .nodes
                    .get(&owner.uid)
                    .is_some_and(|owner| owner.foreground)
                {
                    affected.push(owner.uid);
                }
            }
        }
        affected
    }

    pub(super) fn dependents_of(&self, uid: &str) -> Vec<Uid> {
        self.dependents
            .get(uid)
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }

    /// The dependents that say their owner must not go before them.
    pub(super) fn blocking(&self, uid: &str) -> Vec<Uid> {
        let blocks = |dependent: &Uid| {
            self.nodes.get(dependent).is_some_and(|node| {
                node.owners
                    .iter()
                    .any(|owner| owner.uid == uid && owner.block_owner_deletion == Some(true))
            })
        };
        self.dependents_of(uid).into_iter().filter(blocks).collect()
    }

    /// UIDs of a resource that are not among `seen`.
    pub(super) fn missing(&self, resource: &Arc<Discovered>, seen: &HashSet<Uid>) -> Vec<Uid> {
        let is_missing = |(uid, node): &(&Uid, &Node)| {
            Arc::ptr_eq(&node.resource, resource) && !seen.contains(*uid)
        };
        self.nodes
            .iter()
            .filter(is_missing)
            .map(|(uid, _)| uid.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use client::core::{ApiResource, GroupVersionKind};
    use serde_json::json;

    use super::*;

    fn resource() -> Arc<Discovered> {
        let kind = GroupVersionKind::gvk("", "v1", "Pod");
        Arc::new(Discovered {
            resource: ApiResource::from_gvk(&kind),
            namespaced: true,
            verbs: Vec::new(),
        })
    }

    fn object(uid: &str, owners: &[&str], more: serde_json::Value) -> ObjectMeta {
        let owners: Vec<_> = owners
            .iter()
            .map(|uid| {
                json!({"apiVersion": "v1", "kind": "Pod", "name": uid, "uid": uid,
                    "blockOwnerDeletion": true})
            })
            .collect();
        let mut meta = json!({"uid": uid, "name": uid, "ownerReferences": owners});
        for (key, value) in more.as_object().unwrap() {
            meta[key] = value.clone();
        }
        serde_json::from_value(meta).unwrap()
    }

    #[test]
    fn names_what_a_change_concerns() {
        let (mut graph, resource) = (Graph::default(), resource());
        // An owner not seen yet has to be asked for.
        assert_eq!(
            graph.apply(&resource, &object("pod", &["set"], json!({}))),
            ["pod"]
        );
        assert!(
            graph
                .apply(&resource, &object("set", &[], json!({})))
                .is_empty()
        );
        assert!(
            graph
                .apply(&resource, &object("pod", &["set"], json!({})))
                .is_empty()
        );
        assert_eq!(graph.blocking("set"), ["pod"]);
        let ending = json!({"deletionTimestamp": "2026-01-01T00:00:00Z",
            "finalizers": [FOREGROUND]});
        assert_eq!(
            graph.apply(&resource, &object("set", &[], ending)),
            ["set", "pod"]
        );
        assert_eq!(graph.remove("pod"), ["set"]);
        assert!(graph.blocking("set").is_empty());
        assert!(graph.remove("set").is_empty());
    }

    #[test]
    fn the_end_of_an_owner_concerns_its_dependents() {
        let (mut graph, resource) = (Graph::default(), resource());
        graph.apply(&resource, &object("set", &[], json!({})));
        graph.apply(&resource, &object("pod", &["set"], json!({})));
        assert_eq!(graph.remove("set"), ["pod"]);
        // Parted from its owner, it is not concerned any more.
        graph.apply(&resource, &object("pod", &[], json!({})));
        assert!(graph.dependents_of("set").is_empty());
    }
}

//! Custom resources: which there are, and what becomes of their definitions.
//!
//! [`Customs`] holds what is served. [`run`] keeps it in step with the
//! `CustomResourceDefinition`s: it accepts names, establishes definitions,
//! and removes the objects of those that are deleted.

mod names;
mod rules;
mod task;

pub(crate) use rules::{expression_errors, validate_update};
pub(crate) use task::{mark_deleted, run, serve_all};

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api::custom::{Definition, compare_versions};
use api::{GroupVersion, GroupVersionKind, Verbs};
use parking_lot::{Mutex, RwLock};
use serde_json::{Value, json};

use self::rules::CustomRules;
use crate::engine::Served;
use crate::registry::Resource;

type Key = (String, String);

/// Custom resources that are served, by group and plural name.
#[derive(Default)]
pub(crate) struct Customs {
    served: RwLock<BTreeMap<Key, Custom>>,
    rules: Mutex<HashMap<Key, &'static CustomRules>>,
}

#[derive(Clone)]
struct Custom {
    /// The definition as it is served: UID, generation, whether it is going.
    stamp: String,
    resource: Arc<Resource>,
    definition: Arc<Definition>,
    terminating: bool,
}

const VERBS: [&str; 8] = [
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "create",
    "update",
    "watch",
];
const VERBS_OF_TERMINATING: [&str; 5] = ["delete", "deletecollection", "get", "list", "watch"];

impl Custom {
    fn verbs(&self) -> &'static [&'static str] {
        match self.terminating {
            true => &VERBS_OF_TERMINATING,
            false => &VERBS,
        }
    }

    /// What discovery says of a version: the resource, then its subresources.
    fn discovered(&self, version: &str) -> Vec<Value> {
        let it = &self.definition;
        let Some(of) = it.version(version).filter(|of| of.served) else {
            return Vec::new();
        };
        let stored = GroupVersionKind::new(&*it.group, &*it.storage_version, &*it.kind);
        let mut value = json!({
            "name": it.plural,
            "singularName": it.singular,
            "namespaced": it.namespaced,
            "kind": it.kind,
            "verbs": self.verbs(),
            "storageVersionHash": api::storage_version_hash(&stored),
        });
        if !it.short_names.is_empty() {
            value["shortNames"] = json!(it.short_names);
        }
        if !it.categories.is_empty() {
            value["categories"] = json!(it.categories);
        }
        let mut all = vec![value];
        if of.has_status {
            all.push(json!({
                "name": format!("{}/status", it.plural),
                "singularName": "",
                "namespaced": it.namespaced,
                "kind": it.kind,
                "verbs": ["get", "patch", "update"],
            }));
        }
        all
    }
}

impl Customs {
    /// Serves a definition from now on. Returns the prefix of the objects whose
    /// cache is out of date.
    fn serve(&self, object: &Value) -> Option<String> {
        let definition = Arc::new(Definition::new(object)?);
        let terminating = !object["metadata"]["deletionTimestamp"].is_null();
        let stamp = format!(
            "{} {} {terminating} {}",
            definition.uid, object["metadata"]["generation"], object["status"]["acceptedNames"]
        );
        let key = (definition.group.clone(), definition.plural.clone());
        if self
            .served
            .read()
            .get(&key)
            .is_some_and(|it| it.stamp == stamp)
        {
            return None;
        }
        let rules =
            *self.rules.lock().entry(key.clone()).or_insert_with(|| {
                Box::leak(Box::new(CustomRules::new(definition.clone(), object)))
            });
        rules.set(definition.clone(), object);
        let storage = GroupVersion::new(&*definition.group, &*definition.storage_version);
        let mut resource = Resource::new(
            &definition.group,
            &definition.plural,
            &definition.kind,
            definition.namespaced,
            &storage,
        );
        resource.rules = rules;
        resource.is_builtin = false;
        resource.custom = Some(definition.clone());
        let prefix = resource.prefix.clone();
        let custom = Custom {
            stamp,
            resource: Arc::new(resource),
            definition,
            terminating,
        };
        self.served.write().insert(key, custom);
        Some(prefix)
    }

    /// Keeps serving only the definitions of these names; returns the prefixes
    /// of those that are gone.
    fn retain(&self, names: &[&str]) -> Vec<String> {
        let mut gone = Vec::new();
        self.served.write().retain(|_, it| {
            let stays = names.contains(&&*it.definition.name);
            if !stays {
                gone.push(it.resource.prefix.clone());
            }
            stays
        });
        gone
    }

    fn get(&self, group: &str, plural: &str) -> Option<Custom> {
        let key = (group.to_owned(), plural.to_owned());
        self.served.read().get(&key).cloned()
    }

    /// The resource of a group and plural name.
    pub(crate) fn resource(&self, group: &str, plural: &str) -> Option<Arc<Resource>> {
        self.get(group, plural).map(|it| it.resource)
    }

    /// Whether the definition of a resource is being deleted.
    pub(crate) fn is_terminating(&self, group: &str, plural: &str) -> bool {
        self.get(group, plural).is_some_and(|it| it.terminating)
    }

    /// What is served under this name, if anything.
    pub(crate) fn served(&self, group: &str, version: &str, plural: &str) -> Option<Served> {
        let it = self.get(group, plural)?;
        let of = it.definition.version(version).filter(|of| of.served)?;
        let part = |name: &str| (name.to_owned(), Verbs::new(["get", "patch", "update"]));
        Some(Served {
            gvk: it.definition.gvk(version),
            namespaced: it.definition.namespaced,
            verbs: Verbs::new(VERBS),
            subresources: of.has_status.then(|| part("status")).into_iter().collect(),
            is_stored: true,
        })
    }

    /// Groups with the versions that are served, the preferred one first.
    pub(crate) fn groups(&self) -> BTreeMap<String, Vec<String>> {
        let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for it in self.served.read().values() {
            let versions = groups.entry(it.definition.group.clone()).or_default();
            for version in it.definition.served() {
                if !versions.contains(&version.name) {
                    versions.push(version.name.clone());
                }
            }
        }
        for versions in groups.values_mut() {
            versions.sort_by(|a, b| compare_versions(b, a));
        }
        groups
    }

    /// What discovery says of a group and version.
    pub(crate) fn discovered(&self, group: &str, version: &str) -> Vec<Value> {
        let served = self.served.read();
        let of_group = served.values().filter(|it| it.definition.group == group);
        of_group.flat_map(|it| it.discovered(version)).collect()
    }

    /// The same for aggregated discovery.
    pub(crate) fn aggregated(&self, group: &str, version: &str) -> Vec<Value> {
        let mut all: Vec<Value> = Vec::new();
        for it in self.discovered(group, version) {
            let kind = json!({ "group": group, "version": version, "kind": it["kind"] });
            let name = it["name"].as_str().unwrap_or_default();
            if let (Some((_, part)), Some(last)) = (name.split_once('/'), all.last_mut()) {
                let part = json!({
                    "subresource": part, "responseKind": kind, "verbs": it["verbs"],
                });
                match last["subresources"].as_array_mut() {
                    Some(parts) => parts.push(part),
                    None => last["subresources"] = json!([part]),
                }
                continue;
            }
            let mut value = json!({
                "resource": name,
                "responseKind": kind,
                "scope": if it["namespaced"] == true { "Namespaced" } else { "Cluster" },
                "singularResource": it["singularName"],
                "verbs": it["verbs"],
            });
            for list in ["shortNames", "categories"] {
                if it[list].is_array() {
                    value[list] = it[list].clone();
                }
            }
            all.push(value);
        }
        all
    }
}

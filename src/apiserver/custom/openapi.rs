//! What discovery and OpenAPI say of custom resources.

use std::sync::Arc;

use api::openapi;
use api::schema::OwnedType;
use api::{GroupVersionKind, Resource, Scheme, Subresource, Verbs};
use parking_lot::Mutex;
use serde_json::Value;

use super::Custom;
use crate::registry::Registry;

/// The custom resources of the moment, as discovery and OpenAPI show them.
/// Made when somebody asks after a change.
#[derive(Debug, Default)]
pub(crate) struct Documents(Mutex<Option<Arc<Published>>>);

/// Every served version of every custom resource.
#[derive(Debug, Default)]
pub(crate) struct Published {
    pub resources: Vec<openapi::Custom>,
    /// Tells one state of the definitions from another.
    pub salt: String,
}

impl Documents {
    /// The definitions have changed.
    pub(crate) fn forget(&self) {
        *self.0.lock() = None;
    }

    /// What there is now.
    pub(crate) fn published(&self, registry: &Registry) -> Arc<Published> {
        if let Some(known) = &*self.0.lock() {
            return known.clone();
        }
        let customs = registry.customs();
        let published = Arc::new(Published::new(&customs));
        *self.0.lock() = Some(published.clone());
        published
    }
}

impl Published {
    fn new(customs: &[Arc<Custom>]) -> Self {
        let mut resources = Vec::new();
        let mut salt = String::new();
        for custom in customs {
            let definition = &custom.definition;
            salt.push_str(&definition.uid);
            salt.push_str(&custom.source["metadata"]["resourceVersion"].to_string());
            for version in definition.served() {
                let Some(served) = custom.served(&version.name) else {
                    continue;
                };
                resources.push(openapi::Custom {
                    resource: resource(custom, &version.name, served.verbs, &served.subresources),
                    list_kind: definition.list_kind.clone(),
                    schema: schema(&custom.source, &version.name),
                    preserves_unknown: definition.preserves_unknown,
                    selectable: version
                        .selectable
                        .iter()
                        .map(|(name, _)| name.clone())
                        .collect(),
                });
            }
        }
        // Groups by name, versions by stability, resources by name.
        resources.sort_by(|a, b| {
            let (a, b) = (&a.resource, &b.resource);
            let versions = api::custom::compare_versions(&b.gvk.version, &a.gvk.version);
            a.gvk
                .group
                .cmp(&b.gvk.group)
                .then(versions)
                .then(a.plural.cmp(&b.plural))
        });
        Self { resources, salt }
    }

    /// The resources of a group and version.
    pub(crate) fn of<'a>(
        &'a self,
        group: &'a str,
        version: &'a str,
    ) -> impl Iterator<Item = &'a openapi::Custom> {
        self.resources
            .iter()
            .filter(move |it| it.resource.gvk.group == group && it.resource.gvk.version == version)
    }
}

fn schema(definition: &Value, version: &str) -> Value {
    let versions = definition["spec"]["versions"].as_array();
    let found = versions
        .into_iter()
        .flatten()
        .find(|it| it["name"] == version);
    found.map_or(Value::Null, |it| it["schema"]["openAPIV3Schema"].clone())
}

fn resource(
    custom: &Custom,
    version: &str,
    verbs: Verbs,
    subresources: &[(String, Verbs)],
) -> Resource {
    let definition = &custom.definition;
    let gvk = definition.gvk(version);
    let any = Scheme::builtin()
        .schema()
        .named("meta/v1", "PartialObjectMetadata");
    let mut subresources: Vec<Subresource> = subresources
        .iter()
        .map(|(name, verbs)| {
            let foreign = name == "scale";
            Subresource {
                name: name.clone(),
                gvk: if foreign {
                    GroupVersionKind::new("autoscaling", "v1", "Scale")
                } else {
                    gvk.clone()
                },
                verbs: *verbs,
                foreign,
            }
        })
        .collect();
    subresources.sort_by(|a, b| a.name.cmp(&b.name));
    Resource {
        plural: definition.plural.clone(),
        singular: definition.singular.clone(),
        namespaced: definition.namespaced,
        short_names: definition.short_names.clone(),
        categories: definition.categories.clone(),
        verbs,
        subresources,
        storage: Some(api::GroupVersion::new(
            &*definition.group,
            &*definition.storage_version,
        )),
        schema: OwnedType::builtin(any.expect("the table has the types of meta/v1")),
        served_by_default: true,
        gvk,
    }
}

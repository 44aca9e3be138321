//! What the registry knows about one resource.

use std::sync::Arc;

use api::custom::Definition;
use api::kinds::Kind;
use api::{GroupKind, GroupResource, GroupVersionKind, Status};

use super::strategy::Strategy;
use crate::cache::{Codec, prefix};

/// A resource with its own storage.
pub(crate) struct Resource {
    pub group_resource: GroupResource,
    pub kind: GroupKind,
    pub namespaced: bool,
    /// Version objects are stored in.
    pub storage_version: String,
    /// Where they live: `/registry/GROUP/RESOURCE/`.
    pub prefix: String,
    pub codec: Arc<Codec>,
    pub rules: &'static dyn Kind,
    pub strategy: Strategy,
    /// Items of its lists leave out kind and version, as typed ones do.
    pub is_builtin: bool,
    /// The definition of a custom resource.
    pub custom: Option<Arc<Definition>>,
}

impl Resource {
    pub(crate) fn new(
        group: &str,
        resource: &str,
        kind: &str,
        namespaced: bool,
        storage: &api::GroupVersion,
    ) -> Self {
        let group_resource = GroupResource {
            group: group.to_owned(),
            resource: resource.to_owned(),
        };
        let kind = GroupKind {
            group: group.to_owned(),
            kind: kind.to_owned(),
        };
        Self {
            strategy: super::strategy::of(&group_resource.to_string()),
            prefix: prefix(&storage.group, resource),
            codec: Arc::new(Codec::new(&kind.kind, &storage.to_string())),
            rules: api::kinds::of(&kind),
            storage_version: if storage.group == group {
                storage.version.clone()
            } else {
                // Stored as another group's: every version is converted.
                format!("{}/{}", storage.group, storage.version)
            },
            is_builtin: true,
            custom: None,
            group_resource,
            kind,
            namespaced,
        }
    }

    /// The key below [`Resource::prefix`].
    pub(crate) fn key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced {
            format!("{namespace}/{name}")
        } else {
            name.to_owned()
        }
    }

    pub(crate) fn full_key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    pub(crate) fn gvk(&self, version: &str) -> GroupVersionKind {
        GroupVersionKind::new(&*self.kind.group, version, &*self.kind.kind)
    }

    /// Group its objects are stored as.
    pub(crate) fn storage_group(&self) -> &str {
        self.codec
            .api_version()
            .split_once('/')
            .map_or("", |(group, _)| group)
    }

    pub(crate) fn not_found(&self, name: &str) -> Status {
        Status::not_found(&self.group_resource, name)
    }

    pub(crate) fn is(&self, group: &str, resource: &str) -> bool {
        self.group_resource.group == group && self.group_resource.resource == resource
    }
}

//! What the registry knows about one resource.

use std::sync::Arc;

use api::kinds::Kind;
use api::{GroupKind, GroupResource, GroupVersionKind, Status};

use super::strategy::Strategy;
use crate::cache::{Codec, prefix};
use crate::custom::{Custom, CustomKind};

/// The rules of a kind: those of the program, or those of a definition.
#[derive(Clone)]
pub(crate) enum Rules {
    Builtin(&'static dyn Kind),
    Custom(CustomKind),
}

impl std::ops::Deref for Rules {
    type Target = dyn Kind;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Builtin(rules) => *rules,
            Self::Custom(rules) => rules,
        }
    }
}

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
    pub rules: Rules,
    pub strategy: Strategy,
    /// Items of its lists leave out kind and version, as typed ones do.
    pub is_builtin: bool,
    /// What defines it, unless the program does.
    pub custom: Option<Arc<Custom>>,
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
            rules: Rules::Builtin(api::kinds::of(&kind)),
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

    /// The resource of a definition.
    pub(crate) fn custom(custom: Arc<Custom>) -> Self {
        let definition = &custom.definition;
        let group_resource = GroupResource {
            group: definition.group.clone(),
            resource: definition.plural.clone(),
        };
        let storage = definition.api_version(&definition.storage_version);
        Self {
            strategy: super::strategy::of(""),
            prefix: prefix(&definition.group, &definition.plural),
            codec: Arc::new(Codec::custom(&definition.kind, &storage, custom.clone())),
            rules: Rules::Custom(CustomKind(custom.clone())),
            storage_version: definition.storage_version.clone(),
            is_builtin: false,
            kind: GroupKind {
                group: definition.group.clone(),
                kind: definition.kind.clone(),
            },
            namespaced: definition.namespaced,
            group_resource,
            custom: Some(custom),
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

    /// Kind of its lists.
    pub(crate) fn list_kind(&self) -> String {
        match &self.custom {
            Some(custom) => custom.definition.list_kind.clone(),
            None => format!("{}List", self.kind.kind),
        }
    }

    pub(crate) fn not_found(&self, name: &str) -> Status {
        Status::not_found(&self.group_resource, name)
    }

    pub(crate) fn is(&self, group: &str, resource: &str) -> bool {
        self.group_resource.group == group && self.group_resource.resource == resource
    }
}

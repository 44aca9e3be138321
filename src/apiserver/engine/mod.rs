//! The API server's use of the `api` crate: decoding, defaults, conversion,
//! patches, field ownership, representations.
//!
//! Requests speak any served version; everything below works on the version
//! an object is stored in, and this module goes between the two.

mod custom;
mod decode;
mod patch;

pub(crate) use patch::Patch;

use std::collections::HashMap;

use api::managed::{self, Node};
use api::{GroupVersionKind, Scheme, Status, TypeRef};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::registry::{Call, Resource};

/// What one group and version serves under one plural name.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub gvk: GroupVersionKind,
    pub namespaced: bool,
    pub verbs: api::Verbs,
    pub subresources: Vec<(String, api::Verbs)>,
    pub is_stored: bool,
}

impl Served {
    pub(crate) fn has_subresource(&self, name: &str) -> bool {
        self.subresources.iter().any(|(own, _)| own == name)
    }

    /// Whether a verb of the resource or a subresource is served.
    pub(crate) fn allows(&self, subresource: &str, verb: &str) -> bool {
        if subresource.is_empty() {
            return self.verbs.contains(verb);
        }
        self.subresources
            .iter()
            .any(|(own, verbs)| own == subresource && verbs.contains(verb))
    }
}

/// The engines, bound to a scheme.
pub(crate) struct Engine {
    pub scheme: &'static Scheme,
    served: HashMap<(String, String, String), Served>,
}

impl Engine {
    pub(crate) fn new(scheme: &'static Scheme) -> Self {
        let served = scheme
            .resources()
            .iter()
            .filter(|resource| resource.served_by_default)
            .map(|resource| {
                let key = (
                    resource.gvk.group.clone(),
                    resource.gvk.version.clone(),
                    resource.plural.clone(),
                );
                let served = Served {
                    gvk: resource.gvk.clone(),
                    namespaced: resource.namespaced,
                    verbs: resource.verbs,
                    subresources: resource
                        .subresources
                        .iter()
                        .map(|subresource| (subresource.name.clone(), subresource.verbs))
                        .collect(),
                    is_stored: resource.storage.is_some(),
                };
                (key, served)
            })
            .collect();
        Self { scheme, served }
    }

    /// Every resource that stores objects.
    pub(crate) fn resources(&self) -> Vec<Resource> {
        let mut known: Vec<Resource> = Vec::new();
        for resource in self.scheme.resources() {
            let Some(storage) = &resource.storage else {
                continue;
            };
            let seen = known.iter().any(|it| {
                it.group_resource.group == resource.gvk.group
                    && it.group_resource.resource == resource.plural
            });
            if resource.served_by_default && !seen {
                known.push(Resource::new(
                    &resource.gvk.group,
                    &resource.plural,
                    &resource.gvk.kind,
                    resource.namespaced,
                    storage,
                ));
            }
        }
        known
    }

    /// What is served under this name, if anything.
    pub(crate) fn served(&self, group: &str, version: &str, resource: &str) -> Option<Served> {
        self.served
            .get(&(group.to_owned(), version.to_owned(), resource.to_owned()))
            .cloned()
    }

    /// The type of a resource's objects in a version.
    pub(crate) fn type_of(&self, gvk: &GroupVersionKind) -> Result<TypeRef<'static>, Status> {
        self.scheme
            .type_of(gvk)
            .ok_or_else(|| Status::internal(format!("no type for {}", gvk.kind)))
    }

    /// Records who wrote which fields. `live` is `Null` on create.
    pub(crate) fn manage(&self, call: &Call, live: &Value, new: &mut Value, now: &str) {
        let resource = &call.resource;
        if let Some(definition) = custom::definition(call) {
            self.manage_custom(call, definition, live, new, now);
            return;
        }
        let gvk = resource.gvk(&call.version);
        let Some(ty) = self.scheme.type_of(&gvk) else {
            return;
        };
        let api_version = gvk.group_version().to_string();
        let live = (!live.is_null())
            .then(|| self.in_request_version(resource, &call.version, live.clone()));
        let mut object = self.in_request_version(resource, &call.version, new.take());
        managed::update(
            &Node::from(ty),
            live.as_ref(),
            &mut object,
            &self.write(call, &api_version, now),
            &|object, version| self.in_version(&gvk, object, version),
        );
        *new = self.in_storage_version(resource, &call.version, object);
    }

    /// Records who wrote the fields of an object that is answered, not stored.
    pub(crate) fn manage_answered(&self, call: &Call, gvk: &GroupVersionKind, object: &mut Value) {
        let Some(ty) = self.scheme.type_of(gvk) else {
            return;
        };
        let now = crate::registry::now();
        let write = managed::Write {
            api_version: &gvk.group_version().to_string(),
            manager: &call.manager,
            subresource: &call.subresource,
            now: &now,
            reset: &[],
        };
        managed::update(&Node::from(ty), None, object, &write, &|object, version| {
            self.in_version(gvk, object, version)
        });
    }

    pub(crate) fn write<'a>(
        &self,
        call: &'a Call,
        api_version: &'a str,
        now: &'a str,
    ) -> managed::Write<'a> {
        managed::Write {
            api_version,
            manager: &call.manager,
            subresource: &call.subresource,
            now,
            reset: match custom::definition(call) {
                Some(definition) => definition.reset_fields(&call.version, &call.subresource),
                None => call.resource.rules.reset_fields(&call.subresource),
            },
        }
    }

    /// An object in another version of its group, with the type.
    pub(crate) fn in_version(
        &self,
        gvk: &GroupVersionKind,
        object: &Value,
        version: &str,
    ) -> Option<(Value, Node<'static>)> {
        let wanted = api::GroupVersion::parse(version)?;
        let gvk = GroupVersionKind::new(wanted.group, wanted.version, &*gvk.kind);
        let ty = self.scheme.type_of(&gvk)?;
        let mut object = object.clone();
        let from = object["apiVersion"].as_str().unwrap_or(version).to_owned();
        if from != version {
            api::kinds::convert(&mut object, &from, version);
        }
        Some((object, Node::from(ty)))
    }

    /// Puts ownership times back when nothing else changed.
    pub(crate) fn settle_times(&self, new: &mut Value, old: &Value) {
        managed::ignore_timestamps(new, old);
    }

    /// An object of the storage version in the version of a request.
    pub(crate) fn in_request_version(
        &self,
        resource: &Resource,
        version: &str,
        mut object: Value,
    ) -> Value {
        if let Some(custom) = &resource.custom {
            custom.definition.convert(version, &mut object);
            return object;
        }
        if version != resource.storage_version {
            let gvk = resource.gvk(version);
            let to = gvk.group_version().to_string();
            api::kinds::convert(&mut object, resource.codec.api_version(), &to);
            object["apiVersion"] = to.into();
        }
        object
    }

    /// An object of a request's version in the storage version.
    pub(crate) fn in_storage_version(
        &self,
        resource: &Resource,
        version: &str,
        mut object: Value,
    ) -> Value {
        // Custom objects are judged in the version they are written in.
        if resource.custom.is_none() && version != resource.storage_version {
            let from = resource.gvk(version).group_version().to_string();
            let to = resource.codec.api_version();
            api::kinds::convert(&mut object, &from, to);
            object["apiVersion"] = to.into();
        }
        object
    }

    /// The protobuf form of an object or list.
    pub(crate) fn to_protobuf(&self, object: &Value) -> Result<Bytes, Status> {
        let text = |field: &str| object[field].as_str().unwrap_or_default();
        let ty = api::GroupVersion::parse(text("apiVersion"))
            .map(|version| GroupVersionKind::new(version.group, version.version, text("kind")))
            .and_then(|gvk| self.type_of_any(&gvk));
        match ty {
            Some(ty) => Ok(api::proto::encode_object(object, ty).into()),
            None => Err(Status::internal(format!(
                "{} cannot be written as protobuf",
                text("kind")
            ))),
        }
    }

    /// The type of any kind, those of `meta.k8s.io` among them.
    fn type_of_any(&self, gvk: &GroupVersionKind) -> Option<TypeRef<'static>> {
        if gvk.group == "meta.k8s.io" {
            return self.scheme.schema().named("meta/v1", &gvk.kind);
        }
        self.scheme.type_of(gvk)
    }

    /// A protobuf watch frame with its length.
    pub(crate) fn protobuf_frame(&self, kind: &str, object: &Value) -> Option<Bytes> {
        let object = self.to_protobuf(object).ok()?;
        Some(api::proto::watch_frame(kind, &object).into())
    }

    /// A nearly empty object as Go would write it, for bookmarks.
    pub(crate) fn zeroed(&self, gvk: &GroupVersionKind, mut object: Value) -> Value {
        // What is no pointer is there even if it is empty.
        let ty = self.scheme.type_of(gvk).and_then(api::TypeRef::as_struct);
        for field in ty
            .into_iter()
            .flat_map(|ty| ty.fields().collect::<Vec<_>>())
        {
            let name = field.name();
            let wanted = !field.omitempty() && !field.is_pointer() && !field.omitzero();
            if matches!(name, "kind" | "apiVersion" | "metadata") || object.get(name).is_some() {
                continue;
            }
            if matches!(field.ty().shape(), api::Shape::Struct(_))
                && (wanted || !field.is_pointer())
            {
                object[name] = json!({});
            }
        }
        object
    }
}

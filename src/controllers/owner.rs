//! Owner references: who controls what, adoption and release.

use std::fmt::Debug;
use std::sync::Arc;

use client::api::{Patch, PatchParams};
use client::core::NamespaceResourceScope;
use client::{Api, Client, NamespacedName, Resource, Watched};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::json;

use crate::error::{During, Error, Result, is_invalid, is_not_found};

/// The owner reference with `controller: true`, if there is one.
pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true))
}

/// Whether `meta` is controlled by the object with this UID.
pub(crate) fn is_controlled_by(meta: &ObjectMeta, owner: &ObjectMeta) -> bool {
    owner.uid.is_some() && controller_of(meta).map(|owner| &owner.uid) == owner.uid.as_ref()
}

/// The reference by which `owner` controls what it creates.
pub(crate) fn controller_ref<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    let meta = owner.meta();
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The key of the `K` that controls an object, if a `K` does.
pub(crate) fn controller_key<K: Resource<DynamicType = ()>>(
    meta: &ObjectMeta,
) -> Option<NamespacedName> {
    let owner = controller_of(meta)?;
    let group = owner
        .api_version
        .rsplit_once('/')
        .map_or("", |(group, _)| group);
    (owner.kind == K::kind(&()) && group == K::group(&()))
        .then(|| NamespacedName::new(meta.namespace.clone().unwrap_or_default(), &owner.name))
}

/// The objects of `candidates` that `owner` controls, after adopting orphans
/// its selector selects and releasing what it no longer selects.
///
/// Before the first adoption the owner is read from the API server: an owner
/// that is being deleted, or was replaced by another of the same name, adopts
/// nothing.
pub(crate) async fn claim<O, K>(
    client: &Client,
    owner: &O,
    candidates: Vec<Arc<K>>,
    selects: impl Fn(&K) -> bool,
) -> Result<Vec<Arc<K>>>
where
    O: Watched + Resource<Scope = NamespaceResourceScope>,
    K: Watched + Resource<Scope = NamespaceResourceScope>,
{
    let meta = owner.meta();
    let deleting = meta.deletion_timestamp.is_some();
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let api = Api::<K>::namespaced(client.clone(), namespace);
    let mut adopter_checked = false;
    let mut claimed = Vec::new();
    for candidate in candidates {
        let matches = selects(&candidate);
        match controller_of(candidate.meta()) {
            Some(controller) if Some(&controller.uid) != meta.uid.as_ref() => {}
            Some(_) if matches => claimed.push(candidate),
            Some(_) => {
                if !deleting {
                    release(&api, owner, &*candidate).await?;
                }
            }
            None => {
                if deleting || !matches || candidate.meta().deletion_timestamp.is_some() {
                    continue;
                }
                if !adopter_checked {
                    check_adopter(client, owner).await?;
                    adopter_checked = true;
                }
                claimed.extend(adopt(&api, owner, &*candidate).await?.map(Arc::new));
            }
        }
    }
    Ok(claimed)
}

async fn check_adopter<O>(client: &Client, owner: &O) -> Result<()>
where
    O: Watched + Resource<Scope = NamespaceResourceScope>,
{
    let key = NamespacedName::of(owner);
    let api = Api::<O>::namespaced(client.clone(), &key.namespace);
    let fresh = api
        .get(&key.name)
        .await
        .during(|| format!("reading {key}"))?;
    if fresh.meta().uid != owner.meta().uid {
        return Err(Error::Unmet(format!("{key} is not the object it was")));
    }
    if fresh.meta().deletion_timestamp.is_some() {
        return Err(Error::Unmet(format!("{key} has just been deleted")));
    }
    Ok(())
}

async fn adopt<O, K>(api: &Api<K>, owner: &O, object: &K) -> Result<Option<K>>
where
    O: Resource<DynamicType = ()>,
    K: Watched + Debug,
{
    let key = NamespacedName::of(object);
    let patch = json!({"metadata": {
        "ownerReferences": [controller_ref(owner)],
        "uid": object.meta().uid,
    }});
    match api
        .patch(&key.name, &PatchParams::default(), &Patch::Strategic(patch))
        .await
    {
        Ok(adopted) => Ok(Some(adopted)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error).during(|| format!("adopting {key}")),
    }
}

async fn release<O, K>(api: &Api<K>, owner: &O, object: &K) -> Result<()>
where
    O: Resource<DynamicType = ()>,
    K: Watched + Debug,
{
    let key = NamespacedName::of(object);
    let patch = json!({"metadata": {
        "ownerReferences": [{"$patch": "delete", "uid": owner.meta().uid}],
        "uid": object.meta().uid,
    }});
    match api
        .patch(&key.name, &PatchParams::default(), &Patch::Strategic(patch))
        .await
    {
        // Invalid: it has another UID by now, so it is not the one to release.
        Err(error) if !is_not_found(&error) && !is_invalid(&error) => {
            Err(error).during(|| format!("releasing {key}"))
        }
        _ => Ok(()),
    }
}

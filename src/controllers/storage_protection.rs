//! Keeps volumes, claims and volume attributes classes that are in use from
//! going away: each carries a finalizer from its creation on, and these loops
//! take it off once a deleted object is not used any more.
//!
//! Three loops of upstream's in one module, for they differ only in what "used"
//! means: a claim by pods that were given a node, a volume by the claim it is
//! bound to, a class by claims and volumes that name it.

use std::fmt::Debug;
use std::sync::Arc;

use client::api::{ListParams, PostParams};
use client::{Action, Api, Client, Informer, NamespacedName};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::context::{Context, run};
use crate::error::{During, Result, ignore_not_found};

const CLAIMS: &str = "pvc-protection-controller";
const VOLUMES: &str = "pv-protection-controller";
const CLASSES: &str = "volumeattributesclass-protection-controller";

const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";
const CLASS_FINALIZER: &str = "kubernetes.io/vac-protection";

/// The phase of a volume that a claim uses.
const BOUND: &str = "Bound";

pub(crate) fn register(context: &Context) {
    register_claims(context);
    register_volumes(context);
    register_classes(context);
}

/// What is to be done about an object's finalizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protection {
    /// It is there, or not needed any more.
    Settled,
    /// The object is older than the admission plugin that adds it.
    Missing,
    /// The object was deleted and waits for this finalizer.
    Releasable,
}

fn protection(meta: &ObjectMeta, finalizer: &str) -> Protection {
    let protected = meta.finalizers.iter().flatten().any(|own| own == finalizer);
    match (meta.deletion_timestamp.is_some(), protected) {
        (true, true) => Protection::Releasable,
        (false, false) => Protection::Missing,
        _ => Protection::Settled,
    }
}

/// The key of an object this loop has something to do about.
fn candidate<K: client::Resource>(object: &K, finalizer: &str) -> Vec<NamespacedName> {
    match protection(object.meta(), finalizer) {
        Protection::Settled => Vec::new(),
        Protection::Missing | Protection::Releasable => vec![NamespacedName::of(object)],
    }
}

/// Adds or removes the finalizer and writes the object.
async fn write<K>(api: &Api<K>, object: &K, finalizer: &str) -> Result<Action>
where
    K: client::Resource<DynamicType = ()>
        + Clone
        + Debug
        + serde::Serialize
        + serde::de::DeserializeOwned,
{
    let mut object = object.clone();
    let what = || format!("{} {}", K::kind(&()), NamespacedName::of(&object));
    let (name, said) = (NamespacedName::of(&object).name, what());
    let finalizers = object.meta_mut().finalizers.get_or_insert_default();
    match finalizers.iter().position(|own| own == finalizer) {
        Some(at) => drop(finalizers.remove(at)),
        None => finalizers.push(finalizer.to_owned()),
    }
    ignore_not_found(api.replace(&name, &PostParams::default(), &object).await)
        .during(|| format!("changing finalizer {finalizer} of {said}"))?;
    Ok(Action::Done)
}

fn register_claims(context: &Context) {
    let pods = context.informers.of::<Pod>();
    let claims = context.informers.of::<PersistentVolumeClaim>();
    let client = context.client(CLAIMS);
    let controller = context.controller(CLAIMS);
    controller.watch(&claims, |claim| candidate(claim, CLAIM_FINALIZER));
    let known = claims.clone();
    controller.watch(&pods, move |pod| {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        volumes(pod)
            .filter_map(|volume| claim_name(pod, volume))
            .map(|name| NamespacedName::new(namespace, name))
            // Most pods come and go with none of their claims deleted.
            .filter(|key| {
                let claim = known.get(key);
                claim.is_some_and(|claim| !candidate(&*claim, CLAIM_FINALIZER).is_empty())
            })
            .collect()
    });
    let state = Arc::new((client, pods, claims));
    run(controller, 2, move |key| {
        let state = state.clone();
        async move {
            let (client, pods, claims) = &*state;
            protect_claim(client, pods, claims, &key).await
        }
    });
}

async fn protect_claim(
    client: &Client,
    pods: &Informer<Pod>,
    claims: &Informer<PersistentVolumeClaim>,
    key: &NamespacedName,
) -> Result<Action> {
    let Some(claim) = claims.get(key) else {
        return Ok(Action::Done);
    };
    match protection(&claim.metadata, CLAIM_FINALIZER) {
        Protection::Settled => return Ok(Action::Done),
        Protection::Missing => {}
        Protection::Releasable => {
            let known = pods.in_namespace(&key.namespace);
            if known.iter().any(|pod| uses_claim(pod, &claim)) {
                return Ok(Action::Done);
            }
            // A pod that is not known here yet may use it: the API knows all.
            let live = namespaced::<Pod>(client, &key.namespace)
                .list(&ListParams::default())
                .await
                .during(|| format!("listing the pods of namespace {}", key.namespace))?;
            if live.items.iter().any(|pod| uses_claim(pod, &claim)) {
                return Ok(Action::Done);
            }
        }
    }
    write(
        &namespaced(client, &key.namespace),
        &*claim,
        CLAIM_FINALIZER,
    )
    .await
}

fn namespaced<K>(client: &Client, namespace: &str) -> Api<K>
where
    K: client::Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    Api::namespaced(client.clone(), namespace)
}

fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    let spec = pod.spec.as_ref();
    spec.into_iter()
        .flat_map(|spec| spec.volumes.iter().flatten())
}

/// The claim behind a volume: a named one, or the pod's own.
fn claim_name(pod: &Pod, volume: &Volume) -> Option<String> {
    if let Some(source) = &volume.persistent_volume_claim {
        return Some(source.claim_name.clone());
    }
    volume.ephemeral.as_ref()?;
    let pod = pod.metadata.name.as_deref().unwrap_or_default();
    Some(format!("{pod}-{}", volume.name))
}

/// Whether a pod keeps a claim. One without a node does not: no kubelet starts
/// a pod with a deleted claim.
fn uses_claim(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    if node.is_none_or(str::is_empty) {
        return false;
    }
    let meta = &pod.metadata;
    // Such a pod waits for its own finalizers only, perhaps for this claim.
    let is_shut_down =
        meta.deletion_timestamp.is_some() && meta.deletion_grace_period_seconds == Some(0);
    let owned = || {
        let mut owners = claim.metadata.owner_references.iter().flatten();
        owners.any(|owner| owner.controller == Some(true) && Some(&owner.uid) == meta.uid.as_ref())
    };
    volumes(pod).any(|volume| {
        claim_name(pod, volume) == claim.metadata.name
            && (volume.ephemeral.is_none() || (!is_shut_down && owned()))
    })
}

fn register_volumes(context: &Context) {
    let volumes = context.informers.of::<PersistentVolume>();
    let api = Api::<PersistentVolume>::all(context.client(VOLUMES));
    let controller = context.controller(VOLUMES);
    controller.watch(&volumes, |volume| candidate(volume, VOLUME_FINALIZER));
    let state = Arc::new((api, volumes));
    run(controller, 1, move |key| {
        let state = state.clone();
        async move {
            let (api, volumes) = &*state;
            let Some(volume) = volumes.get(&key) else {
                return Ok(Action::Done);
            };
            let phase = volume.status.as_ref().and_then(|it| it.phase.as_deref());
            match protection(&volume.metadata, VOLUME_FINALIZER) {
                Protection::Settled => Ok(Action::Done),
                Protection::Releasable if phase == Some(BOUND) => Ok(Action::Done),
                Protection::Releasable | Protection::Missing => {
                    write(api, &*volume, VOLUME_FINALIZER).await
                }
            }
        }
    });
}

fn register_classes(context: &Context) {
    let classes = context.informers.of::<VolumeAttributesClass>();
    let claims = context.informers.of::<PersistentVolumeClaim>();
    let volumes = context.informers.of::<PersistentVolume>();
    let api = Api::<VolumeAttributesClass>::all(context.client(CLASSES));
    let controller = context.controller(CLASSES);
    let key = |name: &str| NamespacedName::new("", name);
    controller.watch(&classes, |class| candidate(class, CLASS_FINALIZER));
    controller.watch(&claims, move |claim| {
        classes_of_claim(claim).map(key).collect()
    });
    controller.watch(&volumes, move |volume| {
        class_of_volume(volume).map(key).collect()
    });
    let state = Arc::new((api, classes, claims, volumes));
    run(controller, 1, move |key| {
        let state = state.clone();
        async move {
            let (api, classes, claims, volumes) = &*state;
            let Some(class) = classes.get(&key) else {
                return Ok(Action::Done);
            };
            match protection(&class.metadata, CLASS_FINALIZER) {
                Protection::Settled => return Ok(Action::Done),
                Protection::Missing => {}
                Protection::Releasable => {
                    let name = key.name.as_str();
                    let named = |claim: &_| classes_of_claim(claim).any(|own| own == name);
                    let named_there = |volume: &_| class_of_volume(volume).any(|own| own == name);
                    if !claims.filter(named).is_empty() || !volumes.filter(named_there).is_empty() {
                        return Ok(Action::Done);
                    }
                }
            }
            write(api, &*class, CLASS_FINALIZER).await
        }
    });
}

/// The classes a claim asks for, has, or is on its way to.
fn classes_of_claim(claim: &PersistentVolumeClaim) -> impl Iterator<Item = &str> {
    let spec = claim.spec.as_ref();
    let status = claim.status.as_ref();
    let modify = status.and_then(|status| status.modify_volume_status.as_ref());
    [
        spec.and_then(|spec| spec.volume_attributes_class_name.as_deref()),
        status.and_then(|status| status.current_volume_attributes_class_name.as_deref()),
        modify.and_then(|modify| modify.target_volume_attributes_class_name.as_deref()),
    ]
    .into_iter()
    .flatten()
    .filter(|name| !name.is_empty())
}

fn class_of_volume(volume: &PersistentVolume) -> impl Iterator<Item = &str> {
    let spec = volume.spec.as_ref();
    let name = spec.and_then(|spec| spec.volume_attributes_class_name.as_deref());
    name.into_iter().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn finalizers() {
        let check =
            |meta: Value| protection(&serde_json::from_value(meta).unwrap(), CLAIM_FINALIZER);
        let deleted = "2026-01-01T00:00:00Z";
        assert_eq!(check(json!({})), Protection::Missing);
        assert_eq!(
            check(json!({ "finalizers": [CLAIM_FINALIZER] })),
            Protection::Settled
        );
        assert_eq!(
            check(json!({ "deletionTimestamp": deleted, "finalizers": ["other"] })),
            Protection::Settled
        );
        assert_eq!(
            check(json!({ "deletionTimestamp": deleted, "finalizers": ["x", CLAIM_FINALIZER] })),
            Protection::Releasable
        );
    }

    fn uses(volume: Value, node: &str, deletion: Value, owner: &str) -> bool {
        let mut meta = json!({ "name": "pod", "namespace": "n", "uid": "1" });
        for (name, value) in deletion.as_object().into_iter().flatten() {
            meta[name] = value.clone();
        }
        let pod = json!({
            "metadata": meta,
            "spec": { "nodeName": node, "containers": [], "volumes": [volume] },
        });
        let claim = json!({ "metadata": { "name": "pod-v", "ownerReferences": [
            { "apiVersion": "v1", "kind": "Pod", "name": "pod", "uid": owner, "controller": true }
        ] } });
        uses_claim(
            &serde_json::from_value(pod).unwrap(),
            &serde_json::from_value(claim).unwrap(),
        )
    }

    #[test]
    fn pods_use_claims() {
        let named = || json!({ "name": "x", "persistentVolumeClaim": { "claimName": "pod-v" } });
        let other = || json!({ "name": "x", "persistentVolumeClaim": { "claimName": "other" } });
        let own = || json!({ "name": "v", "ephemeral": {} });
        let gone = || {
            json!({
                "deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0
            })
        };
        assert!(uses(named(), "node", json!({}), "2"));
        assert!(uses(named(), "node", gone(), "2"));
        assert!(!uses(named(), "", json!({}), "2"), "a pod without a node");
        assert!(!uses(other(), "node", json!({}), "2"));
        assert!(uses(own(), "node", json!({}), "1"));
        assert!(!uses(own(), "node", json!({}), "2"), "someone else's claim");
        assert!(!uses(own(), "node", gone(), "1"), "a pod that is shut down");
    }
}

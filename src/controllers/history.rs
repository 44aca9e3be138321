//! Revisions of DaemonSets and StatefulSets, kept as ControllerRevisions.

use client::api::{DeleteParams, PostParams};
use client::core::NamespaceResourceScope;
use client::{Api, Client, Informer, NamespacedName, Resource, Watched};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use crate::error::{During, Result, ignore_not_found, is_already_exists};
use crate::owner::{claim, controller_ref, is_controlled_by};

/// The label of a pod that names its revision.
pub(crate) const REVISION_LABEL: &str = "controller-revision-hash";
/// How often another name is tried when the wanted one is taken.
const COLLISIONS: i32 = 20;

/// The revisions of one owner, oldest first.
pub(crate) struct History {
    pub(crate) revisions: Vec<ControllerRevision>,
}

/// The template as a revision keeps it: a patch that puts it back.
fn data(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).expect("a pod template is plain data");
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}})
}

/// The template a revision keeps.
pub(crate) fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let data = revision.data.as_ref()?;
    let mut template = data.0.get("spec")?.get("template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

pub(crate) fn name(revision: &ControllerRevision) -> &str {
    revision.metadata.name.as_deref().unwrap_or_default()
}

/// The revisions an owner has, after adoption.
pub(crate) async fn load<O>(
    client: &Client,
    owner: &O,
    informer: &Informer<ControllerRevision>,
    selects: impl Fn(&ControllerRevision) -> bool,
) -> Result<History>
where
    O: Watched + Resource<Scope = NamespaceResourceScope>,
{
    let namespace = owner.meta().namespace.clone().unwrap_or_default();
    let claimed = claim(client, owner, informer.in_namespace(&namespace), selects).await?;
    let mut revisions: Vec<ControllerRevision> = claimed
        .iter()
        .map(|revision| (**revision).clone())
        .collect();
    revisions.sort_by(|a, b| (a.revision, name(a)).cmp(&(b.revision, name(b))));
    Ok(History { revisions })
}

impl History {
    pub(crate) fn get(&self, wanted: &str) -> Option<&ControllerRevision> {
        self.revisions
            .iter()
            .find(|revision| name(revision) == wanted)
    }

    /// The revision of the owner's template as it is, made or renumbered so
    /// that it is the newest.
    pub(crate) async fn current<O>(
        &mut self,
        client: &Client,
        owner: &O,
        template: &PodTemplateSpec,
        collisions: &mut i32,
        label: &str,
    ) -> Result<ControllerRevision>
    where
        O: Resource<DynamicType = ()>,
    {
        let key = NamespacedName::of(owner);
        let api = Api::<ControllerRevision>::namespaced(client.clone(), &key.namespace);
        let wanted = data(template);
        let next = self.revisions.last().map_or(0, |newest| newest.revision) + 1;
        let same = |revision: &ControllerRevision| {
            revision.data.as_ref().is_some_and(|data| data.0 == wanted)
                || self::template(revision).as_ref() == Some(template)
        };
        if let Some(place) = self.revisions.iter().rposition(same) {
            let mut revision = self.revisions.remove(place);
            if place < self.revisions.len() {
                revision.revision = next;
                let outcome = api
                    .replace(name(&revision), &PostParams::default(), &revision)
                    .await;
                revision = outcome.during(|| format!("renumbering a revision of {key}"))?;
            }
            self.revisions.push(revision.clone());
            return Ok(revision);
        }
        let bytes = serde_json::to_vec(&wanted).expect("a revision is plain data");
        for _ in 0..COLLISIONS {
            let mut bytes = bytes.clone();
            if *collisions > 0 {
                bytes.extend_from_slice(&collisions.to_le_bytes());
            }
            let hash = crate::hash::safe_encode(crate::hash::fnv32a(&bytes));
            let mut labels = template
                .metadata
                .as_ref()
                .and_then(|meta| meta.labels.clone())
                .unwrap_or_default();
            labels.insert(label.to_owned(), hash.clone());
            let fresh = ControllerRevision {
                metadata: ObjectMeta {
                    name: Some(format!("{}-{hash}", key.name)),
                    namespace: Some(key.namespace.clone()),
                    labels: Some(labels),
                    annotations: owner.meta().annotations.clone(),
                    owner_references: Some(vec![controller_ref(owner)]),
                    ..ObjectMeta::default()
                },
                data: Some(RawExtension(wanted.clone())),
                revision: next,
            };
            match api.create(&PostParams::default(), &fresh).await {
                Ok(created) => {
                    self.revisions.push(created.clone());
                    return Ok(created);
                }
                Err(error) if is_already_exists(&error) => {
                    let existing = api
                        .get(name(&fresh))
                        .await
                        .during(|| format!("reading a revision of {key}"))?;
                    if is_controlled_by(&existing.metadata, owner.meta()) && same(&existing) {
                        self.revisions.push(existing.clone());
                        return Ok(existing);
                    }
                    *collisions += 1;
                }
                Err(error) => return Err(error).during(|| format!("creating a revision of {key}")),
            }
        }
        Err(crate::error::Error::Unmet(format!(
            "no free name for a revision of {key}"
        )))
    }

    /// Deletes the oldest revisions beyond `limit` that `live` does not name.
    pub(crate) async fn trim(
        &self,
        client: &Client,
        limit: Option<i32>,
        live: impl Fn(&ControllerRevision) -> bool,
    ) -> Result<()> {
        let limit = usize::try_from(limit.unwrap_or(10)).unwrap_or(0);
        let idle: Vec<&ControllerRevision> = self
            .revisions
            .iter()
            .filter(|revision| !live(revision))
            .collect();
        for revision in &idle[..idle.len().saturating_sub(limit)] {
            let namespace = revision.metadata.namespace.as_deref().unwrap_or_default();
            let api = Api::<ControllerRevision>::namespaced(client.clone(), namespace);
            ignore_not_found(api.delete(name(revision), &DeleteParams::default()).await)
                .during(|| format!("deleting revision {}", name(revision)))?;
        }
        Ok(())
    }
}

//! `persistentVolumeClaim`: volumes bound to a claim that are a path of this node.

use async_trait::async_trait;
use client::api::Api;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Volume};

use super::directory::{host_path, own};
use super::{Context, Plugin, Ready};
use crate::pod::{name, namespace};

/// Claims and generic ephemeral volumes, which own a claim named `POD-VOLUME`.
pub(super) struct Claim;

#[async_trait]
impl Plugin for Claim {
    fn handles(&self, volume: &Volume) -> bool {
        volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some()
    }

    async fn set_up(&self, context: &Context<'_>, volume: &Volume) -> Result<Ready, String> {
        let source = volume.persistent_volume_claim.as_ref();
        let claim = match source {
            Some(source) => source.claim_name.clone(),
            None => format!("{}-{}", name(context.pod), volume.name),
        };
        let claims: Api<PersistentVolumeClaim> =
            Api::namespaced(context.client.clone(), namespace(context.pod));
        let found = claims
            .get_opt(&claim)
            .await
            .map_err(|error| base::Chain(&error).to_string())?;
        let found = found.ok_or_else(|| format!("persistentvolumeclaim {claim:?} not found"))?;
        let bound = found.status.and_then(|status| status.phase).as_deref() == Some("Bound");
        let volume_name = found
            .spec
            .and_then(|spec| spec.volume_name)
            .unwrap_or_default();
        if !bound || volume_name.is_empty() {
            return Err(format!("persistentvolumeclaim {claim:?} is not bound"));
        }
        let volumes: Api<PersistentVolume> = Api::all(context.client.clone());
        let spec = volumes
            .get(&volume_name)
            .await
            .map_err(|error| base::Chain(&error).to_string())?
            .spec
            .ok_or_else(|| format!("persistentvolume {volume_name:?} has no spec"))?;
        let ready = if let Some(local) = spec.local {
            let ready = host_path(local.path.into(), "Directory".into()).await?;
            if let Some(group) = context.fs_group() {
                let dir = ready.path.clone();
                super::blocking(move || own(&dir, 0o2775, Some(group))).await?;
            }
            ready
        } else if let Some(path) = spec.host_path {
            host_path(path.path.into(), path.type_.unwrap_or_default()).await?
        } else {
            return Err(format!(
                "persistentvolume {volume_name:?} is neither local nor hostPath, the kinds node {} \
                 can mount",
                context.node_name
            ));
        };
        let read_only = source.and_then(|source| source.read_only).unwrap_or(false);
        Ok(Ready { read_only, ..ready })
    }
}

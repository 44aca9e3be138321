//! `image`: the files of an image, read-only.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;

use super::{Context, Plugin, Ready, blocking, is_mount_point};

/// Where an image volume of a pod is kept.
pub(crate) fn folder(pod_dir: &Path, volume: &Volume) -> PathBuf {
    let volumes = pod_dir.join("volumes");
    volumes.join("kubernetes.io~image").join(&volume.name)
}

/// An image's files. The pod's worker has pulled and mounted it before, for
/// that needs the pod's pull secrets and back-off.
pub(super) struct Image;

#[async_trait]
impl Plugin for Image {
    fn handles(&self, volume: &Volume) -> bool {
        volume.image.is_some()
    }

    async fn set_up(&self, context: &Context<'_>, volume: &Volume) -> Result<Ready, String> {
        let path = folder(context.pod_dir, volume).join("rootfs");
        let looked_at = path.clone();
        let mounted = blocking(move || {
            is_mount_point(&looked_at).map_err(|error| format!("looking at {looked_at:?}: {error}"))
        });
        if !mounted.await? {
            return Err(format!("the image is not mounted on {}", path.display()));
        }
        Ok(Ready {
            read_only: true,
            ..Ready::at(path)
        })
    }
}

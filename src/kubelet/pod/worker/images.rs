//! Images that are volumes: pulled and mounted before containers are made.

use k8s_openapi::api::core::v1::Container;

use super::Worker;
use crate::pod::spec::image_volumes;
use crate::volumes::image_folder;

impl Worker {
    /// Mounts every image volume that is not mounted yet.
    pub(super) async fn mount_images(&mut self) -> Result<(), String> {
        let pod = self.pod.clone();
        let node = self.node.clone();
        for volume in image_volumes(&pod) {
            let Some(source) = &volume.image else {
                continue;
            };
            let dir = image_folder(&self.pod_dir(), volume);
            if self.volumes.contains_key(&volume.name) {
                continue;
            }
            let explain = |message: String| {
                let name = &volume.name;
                format!("MountVolume.SetUp failed for volume {name:?} : {message}")
            };
            // What is pulled for a container is pulled for a volume the same way.
            let container = Container {
                image: source.reference.clone(),
                image_pull_policy: source.pull_policy.clone(),
                ..Container::default()
            };
            let secrets = self.pull_secrets().await;
            let image = node
                .puller
                .ensure(&pod, &container, &secrets, &mut self.pulls, &node.events)
                .await
                .map_err(|error| explain(format!("{}: {}", error.reason, error.message)))?;
            let mounted = node.images.mount_image(&image.id, &dir).await;
            mounted.map_err(|error| explain(base::Chain(&error).to_string()))?;
        }
        Ok(())
    }
}

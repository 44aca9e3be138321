//! Removing images nobody uses once the disk gets full.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use base::Shutdown;
use cri::{Image, ImageService};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::config::ImageGc;
use crate::events::{Recorder, Warning, node_reference};
use crate::pod::{Pods, image_volumes};

/// How often disk usage is looked at.
const INTERVAL: Duration = Duration::from_secs(300);

/// Collects unused images.
pub(crate) struct ImageCollector {
    pub(crate) images: Arc<dyn ImageService>,
    pub(crate) pods: Arc<Pods>,
    pub(crate) limits: ImageGc,
    pub(crate) events: Recorder,
    pub(crate) node: String,
    pub(crate) changed: Arc<Notify>,
}

impl ImageCollector {
    /// Looks now and then until stopped.
    pub(crate) async fn run(self, stop: Shutdown) {
        // When an image was last seen in use, or first seen at all.
        let mut last_used: BTreeMap<String, Instant> = BTreeMap::new();
        let mut ticks = tokio::time::interval(INTERVAL);
        while stop.guard(ticks.tick()).await.is_some() {
            match stop.guard(self.collect(&mut last_used)).await {
                None => return,
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    let message = base::Chain(&error).to_string();
                    tracing::warn!(message, "collecting unused images failed");
                    let node = node_reference(&self.node);
                    self.events.record(&node, Warning, "ImageGCFailed", message);
                }
            }
        }
    }

    async fn collect(&self, last_used: &mut BTreeMap<String, Instant>) -> cri::Result<()> {
        let now = Instant::now();
        let images = self.images.list_images().await?;
        let used = self.used().await?;
        last_used.retain(|id, _| images.iter().any(|image| image.id == *id));
        for image in &images {
            let seen = last_used.entry(image.id.clone()).or_insert(now);
            if used.contains(&image.id) {
                *seen = now;
            }
        }
        let disk = self.images.image_fs_usage().await?;
        let share = |bytes: u64| bytes as f64 / disk.capacity_bytes.max(1) as f64;
        let taken = disk.capacity_bytes.saturating_sub(disk.available_bytes);
        if share(taken) < self.limits.high_threshold {
            return Ok(());
        }
        let aim = (disk.capacity_bytes as f64 * self.limits.low_threshold) as u64;
        let wanted = taken.saturating_sub(aim);
        let mut freed = 0;
        for image in choose(
            &images,
            &used,
            last_used,
            now,
            self.limits.minimum_age,
            wanted,
        ) {
            let names = image.repo_tags.iter().chain(&image.repo_digests);
            let mut names: Vec<&String> = names.collect();
            if names.is_empty() {
                names.push(&image.id);
            }
            for name in names {
                self.images.remove_image(name).await?;
            }
            freed += image.size;
        }
        self.changed.notify_one();
        if freed < wanted {
            let message = format!(
                "Failed to garbage collect required amount of images. Attempted to free {wanted} \
                 bytes, but only found {freed} bytes eligible to free."
            );
            let node = node_reference(&self.node);
            self.events
                .record(&node, Warning, "FreeDiskSpaceFailed", message);
        }
        Ok(())
    }

    /// Ids of images some container was made from.
    /// Ids of the images that containers run or volumes are made of.
    async fn used(&self) -> cri::Result<BTreeSet<String>> {
        let mut used = BTreeSet::new();
        for view in self.pods.views() {
            let runs = view.observed.containers.iter();
            used.extend(runs.map(|run| run.image_id.clone()));
            for source in image_volumes(&view.pod).filter_map(|volume| volume.image.as_ref()) {
                let reference = source.reference.as_deref().unwrap_or_default();
                let image = self.images.image_status(reference).await?;
                used.extend(image.map(|image| image.id));
            }
        }
        Ok(used)
    }
}

/// Unused images, the longest unused first, until they make up `wanted` bytes.
fn choose<'a>(
    images: &'a [Image],
    used: &BTreeSet<String>,
    last_used: &BTreeMap<String, Instant>,
    now: Instant,
    minimum_age: Duration,
    wanted: u64,
) -> Vec<&'a Image> {
    let mut unused: Vec<(Instant, &Image)> = images
        .iter()
        .filter(|image| !image.pinned && !used.contains(&image.id))
        .filter_map(|image| Some((*last_used.get(&image.id)?, image)))
        .filter(|(seen, _)| now.duration_since(*seen) >= minimum_age)
        .collect();
    unused.sort_by_key(|(seen, image)| (*seen, image.id.as_str()));
    let mut freed = 0;
    let mut chosen = Vec::new();
    for (_, image) in unused {
        if freed >= wanted {
            break;
        }
        freed += image.size;
        chosen.push(image);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chooses_the_longest_unused() {
        let image = |id: &str, pinned| Image {
            id: id.into(),
            repo_tags: vec![],
            repo_digests: vec![],
            size: 10,
            uid: None,
            username: String::new(),
            pinned,
        };
        let images = [
            image("old", false),
            image("older", false),
            image("used", false),
            image("pin", true),
        ];
        let start = Instant::now();
        let now = start + Duration::from_secs(1000);
        let last_used = [("old", 20), ("older", 10), ("used", 0), ("pin", 0)]
            .map(|(id, second)| (id.to_owned(), start + Duration::from_secs(second)))
            .into();
        let used = ["used".to_owned()].into();
        let check = |age, wanted, want: &[&str]| {
            let age = Duration::from_secs(age);
            let got = choose(&images, &used, &last_used, now, age, wanted);
            let got: Vec<&str> = got.iter().map(|image| image.id.as_str()).collect();
            assert_eq!(got, want);
        };
        check(100, 100, &["older", "old"]);
        check(100, 5, &["older"]);
        check(985, 100, &["older"]);
        check(2000, 100, &[]);
        check(100, 0, &[]);
    }
}

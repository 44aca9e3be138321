//! Volumes of pods on this node.
//!
//! Each kind of volume is a [`Plugin`]: setting a volume up is idempotent, and
//! doing it again brings its contents up to date. State lies under
//! `ROOT/pods/UID/volumes/PLUGIN/NAME`, as other node agents lay it out.

mod atomic;
mod claim;
mod content;
mod directory;
mod image;
mod mounts;
mod token;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use client::Client;
use k8s_openapi::api::core::v1::{Pod, Volume};
use rustix::mount::{UnmountFlags, unmount};
use tokio::time::Instant;

pub(crate) use image::folder as image_folder;
pub(crate) use mounts::{MountInput, container_mounts};
pub(crate) use token::Tokens;

use crate::pod::{FieldContext, Sources, spec};

/// What volumes are set up from.
pub(crate) struct Context<'a> {
    pub(crate) pod: &'a Pod,
    /// `ROOT/pods/UID`.
    pub(crate) pod_dir: &'a Path,
    pub(crate) client: &'a Client,
    pub(crate) sources: &'a Sources,
    pub(crate) fields: FieldContext<'a>,
    pub(crate) tokens: &'a Tokens,
    pub(crate) node_name: &'a str,
}

impl Context<'_> {
    /// Group that owns the pod's volumes.
    fn fs_group(&self) -> Option<u32> {
        let group = spec(self.pod).security_context.as_ref()?.fs_group?;
        u32::try_from(group).ok()
    }

    /// Folder of a volume of a plugin such as `kubernetes.io/empty-dir`.
    fn dir(&self, plugin: &str, volume: &Volume) -> PathBuf {
        self.pod_dir
            .join("volumes")
            .join(plugin.replace('/', "~"))
            .join(&volume.name)
    }
}

/// A kind of volume.
#[async_trait]
pub(crate) trait Plugin: Send + Sync {
    /// Whether this plugin is the one for a volume.
    fn handles(&self, volume: &Volume) -> bool;

    /// Makes the volume ready and its contents current; idempotent.
    async fn set_up(&self, context: &Context<'_>, volume: &Volume) -> Result<Ready, String>;
}

/// A volume containers can mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ready {
    /// Path on the node.
    pub(crate) path: PathBuf,
    /// Mounted read-only whatever the container says.
    pub(crate) read_only: bool,
    /// When its contents must be looked at again though nothing changed.
    pub(crate) refresh_at: Option<Instant>,
}

impl Ready {
    fn at(path: PathBuf) -> Self {
        Self {
            path,
            read_only: false,
            refresh_at: None,
        }
    }
}

/// Volumes of a pod by name.
pub(crate) type ReadyVolumes = BTreeMap<String, Ready>;

/// A volume that could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {reason}")]
pub(crate) struct SetUpError {
    pub(crate) volume: String,
    pub(crate) reason: String,
}

/// Every kind of volume this node knows.
#[derive(Clone)]
pub(crate) struct Plugins(Arc<Vec<Box<dyn Plugin>>>);

impl Default for Plugins {
    fn default() -> Self {
        Self(Arc::new(vec![
            Box::new(directory::EmptyDir),
            Box::new(directory::HostPath),
            Box::new(content::Content),
            Box::new(claim::Claim),
            Box::new(image::Image),
        ]))
    }
}

impl Plugins {
    /// Sets every volume of a pod up, or brings it up to date.
    pub(crate) async fn set_up(&self, context: &Context<'_>) -> Result<ReadyVolumes, SetUpError> {
        let mut ready = ReadyVolumes::new();
        for volume in spec(context.pod).volumes.iter().flatten() {
            let fail = |reason| SetUpError {
                volume: volume.name.clone(),
                reason,
            };
            let plugin = self.0.iter().find(|plugin| plugin.handles(volume));
            let plugin = plugin.ok_or_else(|| {
                fail(
                    "no volume plugin matched: this kind of volume is not supported on this node"
                        .into(),
                )
            })?;
            let result = plugin.set_up(context, volume).await.map_err(fail)?;
            ready.insert(volume.name.clone(), result);
        }
        Ok(ready)
    }
}

/// Names of config maps and secrets a pod refers to anywhere.
pub(crate) fn references(pod: &Pod) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    let spec = spec(pod);
    for volume in spec.volumes.iter().flatten() {
        maps.extend(volume.config_map.iter().map(|source| source.name.clone()));
        secrets.extend(
            volume
                .secret
                .iter()
                .filter_map(|source| source.secret_name.clone()),
        );
        let sources = volume
            .projected
            .iter()
            .flat_map(|source| source.sources.iter().flatten());
        for source in sources {
            maps.extend(source.config_map.iter().map(|source| source.name.clone()));
            secrets.extend(source.secret.iter().map(|source| source.name.clone()));
        }
    }
    let regular = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let env = regular
        .clone()
        .flat_map(|c| c.env.iter().flatten())
        .chain(ephemeral.clone().flat_map(|c| c.env.iter().flatten()));
    for from in env.filter_map(|variable| variable.value_from.as_ref()) {
        maps.extend(
            from.config_map_key_ref
                .iter()
                .map(|reference| reference.name.clone()),
        );
        secrets.extend(
            from.secret_key_ref
                .iter()
                .map(|reference| reference.name.clone()),
        );
    }
    let env_from = regular
        .flat_map(|c| c.env_from.iter().flatten())
        .chain(ephemeral.flat_map(|c| c.env_from.iter().flatten()));
    for from in env_from {
        maps.extend(
            from.config_map_ref
                .iter()
                .map(|reference| reference.name.clone()),
        );
        secrets.extend(
            from.secret_ref
                .iter()
                .map(|reference| reference.name.clone()),
        );
    }
    (maps, secrets)
}

/// Unmounts whatever is mounted under a pod's folder, then removes it. Blocks.
pub(crate) fn tear_down(pod_dir: &Path) -> std::io::Result<()> {
    let mut points: Vec<PathBuf> = mount_points()?
        .into_iter()
        .filter(|point| point.starts_with(pod_dir) && point != pod_dir)
        .collect();
    // The deepest first, and of those at one place the newest first.
    points.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    for point in points {
        unmount(&point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    }
    match std::fs::remove_dir_all(pod_dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Every mount point of this process's mount namespace.
fn mount_points() -> std::io::Result<Vec<PathBuf>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape)
        .collect())
}

/// Resolves the octal escapes of mount tables.
fn unescape(field: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let bytes = field.as_bytes();
    let mut path = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = field.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\');
        match octal.and_then(|octal| u8::from_str_radix(octal, 8).ok()) {
            Some(byte) => {
                path.push(byte);
                at += 4;
            }
            None => {
                path.push(bytes[at]);
                at += 1;
            }
        }
    }
    std::ffi::OsString::from_vec(path).into()
}

/// Whether something is mounted exactly here.
fn is_mount_point(path: &Path) -> std::io::Result<bool> {
    Ok(mount_points()?.iter().any(|point| point == path))
}

/// Runs blocking file work off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unescapes_mount_tables() {
        let check = |field: &str, want: &str| assert_eq!(unescape(field), Path::new(want));
        check("/a", "/a");
        check("/a\\040b", "/a b");
        check("/a\\134", "/a\\");
        check("/a\\9", "/a\\9");
    }
}

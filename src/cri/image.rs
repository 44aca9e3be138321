//! Images: pull, import, list, remove.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::Result;

/// An image on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Image id: the digest of its config, `sha256:…`.
    pub id: String,
    /// Names with tags, fully qualified: `docker.io/library/nginx:1.27`.
    pub repo_tags: Vec<String>,
    /// Names with manifest digests: `docker.io/library/nginx@sha256:…`.
    pub repo_digests: Vec<String>,
    /// Bytes of its unpacked layers on disk.
    pub size: u64,
    /// Numeric user the image runs as, when its config names a number.
    pub uid: Option<i64>,
    /// User name the image runs as, when its config names one that is not a number.
    pub username: String,
    /// Never removed by garbage collection.
    pub pinned: bool,
}

/// Credentials for one registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryAuth {
    /// User name; empty with a token.
    pub username: String,
    /// Password.
    pub password: String,
    /// Bearer token sent as it is.
    pub registry_token: String,
}

/// How far a pull has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// Bytes received so far.
    pub received: u64,
    /// Bytes in all, once the manifest is known.
    pub total: Option<u64>,
}

/// Space an image or container file system takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FsUsage {
    /// Bytes used by images or containers.
    pub used_bytes: u64,
    /// Inodes used by them.
    pub inodes_used: u64,
    /// Bytes of the file system beneath.
    pub capacity_bytes: u64,
    /// Bytes free on it.
    pub available_bytes: u64,
    /// Inodes of the file system beneath.
    pub inodes: u64,
    /// Inodes free on it.
    pub inodes_free: u64,
}

/// Stores images and brings them to the node.
///
/// Image references are normalised as containerd does: `nginx` means
/// `docker.io/library/nginx:latest`.
#[async_trait]
pub trait ImageService: Send + Sync {
    /// The image a reference, an id or a digest names; `None` if absent.
    async fn image_status(&self, reference: &str) -> Result<Option<Image>>;

    /// Every image on the node.
    async fn list_images(&self) -> Result<Vec<Image>>;

    /// Pulls an image, trying each credential in turn (none first when the
    /// list is empty), checking every digest. Returns once it is unpacked.
    async fn pull_image(
        &self,
        reference: &str,
        auth: &[RegistryAuth],
        progress: watch::Sender<PullProgress>,
    ) -> Result<Image>;

    /// Imports every image of a docker or OCI archive (plain, gzip or zstd).
    async fn import(&self, archive: &Path) -> Result<Vec<Image>>;

    /// Removes a name, and the image with its layers once no name is left.
    async fn remove_image(&self, reference: &str) -> Result<()>;

    /// Mounts the files of the image that a reference or id names in a folder
    /// of its own below `dir`, and gives its path. Idempotent. Writes below it
    /// do not reach the image; unmounting and removing `dir` is the caller's.
    async fn mount_image(&self, reference: &str, dir: &Path) -> Result<PathBuf>;

    /// Space the images take.
    async fn image_fs_usage(&self) -> Result<FsUsage>;
}

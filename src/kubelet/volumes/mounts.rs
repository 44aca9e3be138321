//! What a container mounts: its volumes, parts of them, and the files the
//! kubelet keeps for it.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cri::{Mount, MountPropagation};
use k8s_openapi::api::core::v1::{Container, VolumeMount};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat2};

use super::{ReadyVolumes, is_mount_point};
use crate::pod::expand;

/// What mounts are made from.
pub(crate) struct MountInput<'a> {
    pub(crate) pod_dir: &'a Path,
    pub(crate) container: &'a Container,
    pub(crate) volumes: &'a ReadyVolumes,
    pub(crate) env: &'a [(String, String)],
    /// The managed hosts file, unless the container brings its own.
    pub(crate) hosts_file: Option<&'a Path>,
    pub(crate) read_only_root: bool,
}

/// The mounts of a container, sub paths bound safely. Blocks.
pub(crate) fn container_mounts(input: &MountInput<'_>) -> Result<Vec<Mount>, String> {
    let mut mounts = Vec::new();
    let mut own_hosts = false;
    for (index, mount) in input.container.volume_mounts.iter().flatten().enumerate() {
        own_hosts |= mount.mount_path == "/etc/hosts";
        mounts.push(volume_mount(input, index, mount)?);
    }
    if let Some(hosts) = input.hosts_file.filter(|_| !own_hosts) {
        mounts.push(Mount {
            host_path: hosts.to_owned(),
            container_path: "/etc/hosts".into(),
            readonly: input.read_only_root,
            ..Default::default()
        });
    }
    Ok(mounts)
}

fn volume_mount(
    input: &MountInput<'_>,
    index: usize,
    mount: &VolumeMount,
) -> Result<Mount, String> {
    let volume = input.volumes.get(&mount.name);
    let volume = volume.ok_or_else(|| {
        format!(
            "volume {:?} of container {:?} is not mounted",
            mount.name, input.container.name
        )
    })?;
    let sub_path = match mount
        .sub_path_expr
        .as_deref()
        .filter(|text| !text.is_empty())
    {
        Some(text) => {
            let missing = std::cell::Cell::new(false);
            let text = expand(text, |name| {
                let value = input.env.iter().find(|(known, _)| known == name);
                missing.set(missing.get() || value.is_none());
                value.map(|(_, value)| value.clone())
            });
            if missing.get() {
                return Err(format!(
                    "missing value for a variable of subPathExpr {text:?}"
                ));
            }
            text
        }
        None => mount.sub_path.clone().unwrap_or_default(),
    };
    let host_path = if sub_path.is_empty() {
        volume.path.clone()
    } else {
        bind_sub_path(input, index, mount, &volume.path, &sub_path)?
    };
    let container_path = Path::new("/").join(&mount.mount_path);
    let readonly = mount.read_only.unwrap_or(false) || volume.read_only;
    Ok(Mount {
        host_path,
        container_path,
        readonly,
        recursive_readonly: readonly
            && matches!(
                mount.recursive_read_only.as_deref(),
                Some("Enabled" | "IfPossible")
            ),
        propagation: match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => MountPropagation::HostToContainer,
            Some("Bidirectional") => MountPropagation::Bidirectional,
            _ => MountPropagation::Private,
        },
    })
}

/// Binds what a sub path names to a place of our own, so that the container
/// cannot swap it for a link that leads out of the volume.
fn bind_sub_path(
    input: &MountInput<'_>,
    index: usize,
    mount: &VolumeMount,
    volume: &Path,
    sub_path: &str,
) -> Result<PathBuf, String> {
    let explain = |error: &dyn std::fmt::Display| {
        format!(
            "failed to prepare subPath {sub_path:?} of volume {:?}: {error}",
            mount.name
        )
    };
    if sub_path.starts_with('/') || sub_path.split('/').any(|part| part == "..") {
        return Err(explain(&"must be a relative path without '..'"));
    }
    let opened = open_beneath(volume, sub_path).map_err(|error| explain(&error))?;
    let target = input
        .pod_dir
        .join("volume-subpaths")
        .join(&mount.name)
        .join(&input.container.name)
        .join(index.to_string());
    let source = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
    let is_dir = fs::metadata(&source)
        .map_err(|error| explain(&error))?
        .is_dir();
    if is_mount_point(&target).map_err(|error| explain(&error))? {
        // A restarted container gets the volume as it is now.
        rustix::mount::unmount(&target, rustix::mount::UnmountFlags::DETACH)
            .map_err(|error| explain(&error))?;
    }
    let parent = target.parent().unwrap_or(&target);
    fs::create_dir_all(parent).map_err(|error| explain(&error))?;
    let made = match is_dir {
        true => fs::create_dir_all(&target),
        false => fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&target)
            .map(drop),
    };
    made.map_err(|error| explain(&error))?;
    rustix::mount::mount_bind_recursive(&source, &target).map_err(|error| explain(&error))?;
    Ok(target)
}

/// Opens a path that lies beneath `root` whatever its links say, making
/// folders that are missing with the root's permissions.
fn open_beneath(root: &Path, path: &str) -> std::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let base = openat2(CWD, root, flags, Mode::empty(), ResolveFlags::empty())?;
    match openat2(&base, path, flags, Mode::empty(), resolve) {
        Err(rustix::io::Errno::NOENT) => {}
        result => return Ok(result?),
    }
    let mode = Mode::from_raw_mode(fs::metadata(root)?.permissions().mode() & 0o7777);
    let mut dir = base;
    for part in path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
    {
        let open = |dir: &OwnedFd| openat2(dir, part, flags, Mode::empty(), resolve);
        let next = match open(&dir) {
            Err(rustix::io::Errno::NOENT) => {
                match mkdirat(&dir, part, mode) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                let made = open(&dir)?;
                // The umask took bits away that the volume grants.
                let path = PathBuf::from(format!("/proc/self/fd/{}", made.as_raw_fd()));
                fs::set_permissions(path, fs::Permissions::from_mode(mode.as_raw_mode()))?;
                made
            }
            result => result?,
        };
        dir = next;
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn opens_only_beneath() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("out")).unwrap();
        fs::create_dir(root.path().join("in")).unwrap();
        std::os::unix::fs::symlink("in", root.path().join("link")).unwrap();
        let check = |path: &str, want: bool| {
            assert_eq!(open_beneath(root.path(), path).is_ok(), want, "{path}");
        };
        check("in", true);
        check("link", true);
        check("in/new/deep", true);
        check("out", false);
        check("out/secret", false);
        check("..", false);
        assert!(root.path().join("in/new/deep").is_dir());
    }
}

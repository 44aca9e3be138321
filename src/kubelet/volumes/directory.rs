//! `emptyDir` and `hostPath`.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;
use rustix::mount::MountFlags;

use super::{Context, Plugin, Ready, blocking, is_mount_point};
use crate::quantity;

/// Mounts a tmpfs here unless one is. Blocks.
pub(super) fn mount_tmpfs(dir: &Path, size: Option<i64>) -> Result<(), String> {
    let explain = |error: &dyn std::fmt::Display| format!("mounting tmpfs on {dir:?}: {error}");
    fs::create_dir_all(dir).map_err(|error| explain(&error))?;
    if is_mount_point(dir).map_err(|error| explain(&error))? {
        return Ok(());
    }
    let size = size
        .filter(|size| *size > 0)
        .map(|size| format!("size={size}"));
    let options = CString::new(size.unwrap_or_default()).map_err(|error| explain(&error))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("tmpfs", dir, "tmpfs", flags, options.as_c_str())
        .map_err(|error| explain(&error))
}

/// Gives a folder its mode, and its group with the set-group-id bit.
pub(super) fn own(dir: &Path, mode: u32, group: Option<u32>) -> Result<(), String> {
    let explain = |error: std::io::Error| format!("setting the owner of {dir:?}: {error}");
    let mode = match group {
        Some(group) => {
            chown(dir, None, Some(group)).map_err(explain)?;
            mode | 0o2000
        }
        None => mode,
    };
    fs::set_permissions(dir, fs::Permissions::from_mode(mode)).map_err(explain)
}

/// A folder that lives as long as the pod, on disk or in memory.
pub(super) struct EmptyDir;

#[async_trait]
impl Plugin for EmptyDir {
    fn handles(&self, volume: &Volume) -> bool {
        volume.empty_dir.is_some()
    }

    async fn set_up(&self, context: &Context<'_>, volume: &Volume) -> Result<Ready, String> {
        let Some(source) = volume.empty_dir.clone() else {
            return Err("the volume is not an emptyDir".into());
        };
        let dir = context.dir("kubernetes.io/empty-dir", volume);
        let group = context.fs_group();
        let memory_limit = crate::pod::pod_limits(context.pod, "memory");
        blocking(move || {
            let size = source
                .size_limit
                .as_ref()
                .map(quantity::value)
                .filter(|size| *size > 0);
            match source.medium.as_deref().unwrap_or_default() {
                "" if dir.is_dir() => return Ok(Ready::at(dir)),
                "" => fs::create_dir_all(&dir)
                    .map_err(|error| format!("creating {dir:?}: {error}"))?,
                "Memory" if is_mount_point(&dir).unwrap_or(false) => return Ok(Ready::at(dir)),
                "Memory" => {
                    let limit = Some(memory_limit).filter(|limit| *limit > 0);
                    let size = size.into_iter().chain(limit).min();
                    mount_tmpfs(&dir, size)?;
                }
                medium => return Err(format!("unknown storage medium {medium:?}")),
            }
            own(&dir, 0o777, group)?;
            Ok(Ready::at(dir))
        })
        .await
    }
}

/// A path of the node.
pub(super) struct HostPath;

#[async_trait]
impl Plugin for HostPath {
    fn handles(&self, volume: &Volume) -> bool {
        volume.host_path.is_some()
    }

    async fn set_up(&self, _: &Context<'_>, volume: &Volume) -> Result<Ready, String> {
        let Some(source) = volume.host_path.clone() else {
            return Err("the volume is not a hostPath".into());
        };
        let kind = source.type_.unwrap_or_default();
        host_path(PathBuf::from(source.path), kind).await
    }
}

/// A path of the node, checked for its type.
pub(super) async fn host_path(path: PathBuf, kind: String) -> Result<Ready, String> {
    blocking(move || {
        check_type(&path, &kind)?;
        Ok(Ready::at(path))
    })
    .await
}

fn check_type(path: &Path, kind: &str) -> Result<(), String> {
    let shown = path.display();
    let make = |result: std::io::Result<()>| {
        result.map_err(|error| format!("hostPath type check failed: creating {shown}: {error}"))
    };
    match kind {
        "DirectoryOrCreate" if !path.exists() => {
            make(fs::create_dir_all(path))?;
            make(fs::set_permissions(path, fs::Permissions::from_mode(0o755)))?;
        }
        "FileOrCreate" if !path.exists() => {
            make(fs::File::create(path).map(drop))?;
            make(fs::set_permissions(path, fs::Permissions::from_mode(0o644)))?;
        }
        _ => {}
    }
    let found = fs::metadata(path).ok().map(|metadata| metadata.file_type());
    let is = |test: fn(&fs::FileType) -> bool| found.as_ref().is_some_and(test);
    let (fits, what) = match kind {
        "" => (true, ""),
        "Directory" | "DirectoryOrCreate" => (is(fs::FileType::is_dir), "a directory"),
        "File" | "FileOrCreate" => (is(fs::FileType::is_file), "a file"),
        "Socket" => (is(|found| found.is_socket()), "a socket file"),
        "CharDevice" => (is(|found| found.is_char_device()), "a character device"),
        "BlockDevice" => (is(|found| found.is_block_device()), "a block device"),
        other => return Err(format!("unknown hostPath type {other:?}")),
    };
    match fits {
        true => Ok(()),
        false => Err(format!("hostPath type check failed: {shown} is not {what}")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn checks_host_path_types() {
        let dir = tempfile::tempdir().unwrap();
        let check = |name: &str, kind: &str, want: Result<(), &str>| {
            let path = dir.path().join(name);
            let want = want.map_err(|what| {
                format!(
                    "hostPath type check failed: {} is not {what}",
                    path.display()
                )
            });
            assert_eq!(check_type(&path, kind), want, "{name} {kind}");
        };
        check("none", "", Ok(()));
        check("none", "Directory", Err("a directory"));
        check("d", "DirectoryOrCreate", Ok(()));
        check("d", "File", Err("a file"));
        check("f", "FileOrCreate", Ok(()));
        check("f", "File", Ok(()));
        check("f", "Socket", Err("a socket file"));
        check("f", "BlockDevice", Err("a block device"));
        assert!(check_type(dir.path(), "Odd").is_err());
    }
}

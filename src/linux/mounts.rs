//! Mounts: overlay, tmpfs, bind, and letting go of everything below a folder.

use std::io::{Error, Result};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use rustix::fd::AsFd;
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};

/// An overlay to mount: lower folders from top to bottom, a writable one above.
#[derive(Clone, Debug)]
pub struct Overlay {
    /// Read-only folders, the topmost first; all of them in one folder if the
    /// kernel is older than 6.7 and there are more than a few dozen.
    pub lower: Vec<PathBuf>,
    /// Folder that takes the changes.
    pub upper: PathBuf,
    /// Empty folder on the file system of `upper`.
    pub work: PathBuf,
    /// Mount point.
    pub target: PathBuf,
}

impl Overlay {
    /// Mounts it. Device nodes in the layers do not work through the mount.
    ///
    /// Layers are handed over one by one where the kernel can (6.7); before
    /// that as one string, relative to their folder, which must fit a page.
    pub fn mount(&self) -> Result<()> {
        match self.mount_by_layer() {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
            other => return Ok(other?),
        }
        let job = self.clone();
        std::thread::Builder::new()
            .name("overlay".into())
            .spawn(move || job.mount_in_one())?
            .join()
            .map_err(|_| Error::other("the thread that mounts panicked"))?
    }

    fn mount_by_layer(&self) -> rustix::io::Result<()> {
        use rustix::mount as m;
        let fs = m::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        m::fsconfig_set_string(fs.as_fd(), "source", "overlay")?;
        for layer in &self.lower {
            m::fsconfig_set_string(fs.as_fd(), "lowerdir+", layer.as_path())?;
        }
        m::fsconfig_set_string(fs.as_fd(), "upperdir", self.upper.as_path())?;
        m::fsconfig_set_string(fs.as_fd(), "workdir", self.work.as_path())?;
        m::fsconfig_create(fs.as_fd())?;
        let tree = m::fsmount(
            fs.as_fd(),
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::MOUNT_ATTR_NODEV,
        )?;
        m::move_mount(
            tree.as_fd(),
            "",
            rustix::fs::CWD,
            self.target.as_path(),
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
    }

    /// Runs in a thread of its own: the working folder it changes to is shared
    /// with nobody.
    fn mount_in_one(&self) -> Result<()> {
        unshare(CloneFlags::CLONE_FS)?;
        let folder = self.lower.first().and_then(|layer| layer.parent());
        if let Some(folder) = folder {
            nix::unistd::chdir(folder)?;
        }
        let mut data = b"lowerdir=".to_vec();
        for (index, layer) in self.lower.iter().enumerate() {
            let layer = folder
                .and_then(|f| layer.strip_prefix(f).ok())
                .unwrap_or(layer);
            if index > 0 {
                data.push(b':');
            }
            escape_into(&mut data, layer);
        }
        for (key, path) in [(",upperdir=", &self.upper), (",workdir=", &self.work)] {
            data.extend(key.as_bytes());
            escape_into(&mut data, path);
        }
        if data.len() >= 4096 {
            return Err(Error::new(
                std::io::ErrorKind::InvalidInput,
                format!(
                    "{} layers are more than this kernel can stack; Linux 6.7 or newer can",
                    self.lower.len()
                ),
            ));
        }
        mount(
            Some("overlay"),
            &self.target,
            Some("overlay"),
            MsFlags::MS_NODEV,
            Some(data.as_slice()),
        )?;
        Ok(())
    }
}

fn escape_into(data: &mut Vec<u8>, path: &Path) {
    for &byte in path.as_os_str().as_bytes() {
        if matches!(byte, b'\\' | b':' | b',') {
            data.push(b'\\');
        }
        data.push(byte);
    }
}

/// Mounts a tmpfs of at most `bytes` with the given permissions.
pub fn tmpfs(target: &Path, bytes: u64, mode: u32) -> Result<()> {
    let data = format!("mode={mode:o},size={bytes}");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    Ok(mount(
        Some("shm"),
        target,
        Some("tmpfs"),
        flags,
        Some(data.as_str()),
    )?)
}

/// Unmounts a path, at once for new users and for good when the last has left.
/// Not mounted or absent is fine.
pub fn detach(path: &Path) -> Result<()> {
    match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Unmounts everything at and beneath `folder`, the deepest first.
pub fn detach_beneath(folder: &Path) -> Result<()> {
    let folder = std::fs::canonicalize(folder)?;
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo")?;
    for point in mount_points(&table).into_iter().rev() {
        if point.starts_with(&folder) {
            detach(&point)?;
        }
    }
    Ok(())
}

/// Whether something is mounted exactly at `path`.
pub fn is_mount_point(path: &Path) -> Result<bool> {
    let path = std::fs::canonicalize(path)?;
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo")?;
    Ok(mount_points(&table).contains(&path))
}

/// Mount points of a `mountinfo` table, in its order.
fn mount_points(table: &str) -> Vec<PathBuf> {
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape)
        .collect()
}

/// Undoes the octal escapes of `mountinfo` (blank, tab, newline, backslash).
fn unescape(field: &str) -> PathBuf {
    let bytes = field.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = bytes
            .get(at + 1..at + 4)
            .filter(|_| bytes[at] == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) => {
                plain.push(byte);
                at += 4;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_tables_are_read() {
        let table = "22 1 0:20 / /sys rw shared:7 - sysfs sysfs rw\n\
                     30 22 0:25 / /with\\040blank\\134 rw - tmpfs tmpfs rw\n";
        assert_eq!(
            mount_points(table),
            [Path::new("/sys"), Path::new("/with blank\\")]
        );
    }
}

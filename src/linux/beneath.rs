//! Path look-ups that cannot leave a folder.
//!
//! A container image, an archive or a running container decides what the
//! symbolic links beneath its root say. [`Root`] resolves every path with
//! `openat2(RESOLVE_IN_ROOT)`: absolute links and `..` stay inside, links of
//! procfs ("magic links") are refused. What is opened is then used by file
//! descriptor, so nothing is looked up twice.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{self, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// An open folder that look-ups stay beneath.
#[derive(Debug)]
pub struct Root {
    dir: OwnedFd,
}

/// The folder of an entry, and the entry's name in it.
#[derive(Debug)]
pub struct Place {
    /// The folder, opened.
    pub dir: OwnedFd,
    /// Last component of the path.
    pub name: OsString,
}

/// Splits a path into its normal components, dropping `.` and the root; `..`
/// removes the component before it and never climbs out.
pub fn normalise(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

impl Root {
    /// Opens a folder as a root. The path itself is trusted.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
        Ok(Self {
            dir: fs::open(path, flags, Mode::empty())?,
        })
    }

    /// Opens something beneath, following links inside the root.
    pub fn open_at(&self, path: &Path, flags: OFlags, mode: Mode) -> std::io::Result<OwnedFd> {
        let path = normalise(path);
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            &path
        };
        resolve(self.dir.as_fd(), path, flags, mode)
    }

    /// Opens a regular file for reading. Anything else is refused, so that a
    /// FIFO or a device planted in its place cannot block or answer.
    pub fn open_file(&self, path: &Path) -> std::io::Result<File> {
        let fd = self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?;
        let stat = fs::fstat(&fd)?;
        if fs::FileType::from_raw_mode(stat.st_mode) != fs::FileType::RegularFile {
            return Err(std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                "not a regular file",
            ));
        }
        Ok(File::from(fd))
    }

    /// Reads a regular file of at most `limit` bytes.
    pub fn read(&self, path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open_file(path)?
            .take(limit + 1)
            .read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(std::io::Error::new(
                std::io::ErrorKind::FileTooLarge,
                format!("larger than {limit} bytes"),
            ));
        }
        Ok(bytes)
    }

    /// Opens the folder `path`, creating what is missing with `mode`.
    pub fn make_dirs(&self, path: &Path, mode: Mode) -> std::io::Result<OwnedFd> {
        let clean = normalise(path);
        let open = OFlags::DIRECTORY | OFlags::RDONLY;
        match self.open_at(&clean, open, Mode::empty()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => return other,
        }
        let mut so_far = PathBuf::new();
        let mut dir = self.open_at(Path::new("."), open, Mode::empty())?;
        for component in clean.components() {
            so_far.push(component);
            dir = match self.open_at(&so_far, open, Mode::empty()) {
                Ok(found) => found,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    let name = component.as_os_str();
                    match fs::mkdirat(&dir, name, mode) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(error.into()),
                    }
                    // `EXIST` here is a dangling link: opening it fails again.
                    self.open_at(&so_far, open, Mode::empty())?
                }
                Err(error) => return Err(error),
            };
        }
        Ok(dir)
    }

    /// The folder and name of an entry; missing folders are created with `mode`.
    /// The last component is not followed. `None` for the root itself.
    pub fn place(&self, path: &Path, mode: Mode) -> std::io::Result<Option<Place>> {
        let clean = normalise(path);
        let Some(name) = clean.file_name().map(OsStr::to_os_string) else {
            return Ok(None);
        };
        let parent = clean.parent().unwrap_or(Path::new(""));
        Ok(Some(Place {
            dir: self.make_dirs(parent, mode)?,
            name,
        }))
    }

    /// The folder and name of an entry whose folder must exist.
    pub fn find_place(&self, path: &Path) -> std::io::Result<Option<Place>> {
        let clean = normalise(path);
        let Some(name) = clean.file_name().map(OsStr::to_os_string) else {
            return Ok(None);
        };
        let parent = clean.parent().unwrap_or(Path::new(""));
        let dir = self.open_at(parent, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())?;
        Ok(Some(Place { dir, name }))
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// `openat2` within `dir`; tried again when a rename elsewhere disturbed it.
fn resolve(
    dir: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
) -> std::io::Result<OwnedFd> {
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut tries = 0;
    loop {
        match fs::openat2(dir, path, flags | OFlags::CLOEXEC, mode, how) {
            Err(Errno::AGAIN) if tries < 32 => tries += 1,
            other => return Ok(other?),
        }
    }
}

/// Removes an entry and, if it is a folder, all beneath it, without following
/// a link. Absent is fine.
pub fn remove_all(dir: BorrowedFd<'_>, name: &OsStr) -> std::io::Result<()> {
    match fs::unlinkat(dir, name, fs::AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let child = match fs::openat(dir, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    remove_contents(child.as_fd())?;
    match fs::unlinkat(dir, name, fs::AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Empties a folder.
pub fn remove_contents(dir: BorrowedFd<'_>) -> std::io::Result<()> {
    let mut names = Vec::new();
    for entry in fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(<OsString as OsStringExt>::from_vec(name.to_vec()));
        }
    }
    names
        .iter()
        .try_for_each(|name: &OsString| remove_all(dir, name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn paths_are_normalised_without_climbing() {
        for (path, clean) in [
            ("/etc/../../passwd", "passwd"),
            ("./a//b/./c", "a/b/c"),
            ("../../..", ""),
            ("/", ""),
        ] {
            assert_eq!(normalise(Path::new(path)), Path::new(clean), "{path}");
        }
    }

    #[test]
    fn links_stay_inside() {
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("root");
        std::fs::create_dir_all(inner.join("etc")).unwrap();
        std::fs::write(outer.path().join("secret"), "host").unwrap();
        std::fs::write(inner.join("secret"), "container").unwrap();
        std::os::unix::fs::symlink("../../secret", inner.join("etc/up")).unwrap();
        std::os::unix::fs::symlink("/secret", inner.join("etc/absolute")).unwrap();
        std::os::unix::fs::symlink("/proc/self/root/etc", inner.join("magic")).unwrap();
        let root = Root::open(&inner).unwrap();
        for path in ["etc/up", "etc/absolute", "/secret", "../secret"] {
            assert_eq!(
                root.read(Path::new(path), 100).unwrap(),
                b"container",
                "{path}"
            );
        }
        assert!(root.read(Path::new("magic/hostname"), 100).is_err());
        assert!(root.read(Path::new("etc/up"), 3).is_err());
        let place = root
            .place(Path::new("a/b/c"), Mode::from_raw_mode(0o755))
            .unwrap()
            .unwrap();
        assert_eq!(place.name, "c");
        assert!(inner.join("a/b").is_dir());
        assert!(root.place(Path::new("/.."), Mode::RWXU).unwrap().is_none());
    }

    #[test]
    fn removes_trees_but_not_what_links_name() {
        let outer = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(outer.path().join("tree/a/b")).unwrap();
        std::fs::write(outer.path().join("kept"), "x").unwrap();
        std::os::unix::fs::symlink(outer.path(), outer.path().join("tree/a/link")).unwrap();
        let root = Root::open(outer.path()).unwrap();
        remove_all(root.as_fd(), OsStr::new("tree")).unwrap();
        remove_all(root.as_fd(), OsStr::new("tree")).unwrap();
        assert!(outer.path().join("kept").exists());
        assert!(!outer.path().join("tree").exists());
    }
}

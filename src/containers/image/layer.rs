//! Unpacking a layer into a folder that overlayfs can stack.
//!
//! The layer is hostile until proven otherwise: every path is resolved beneath
//! the folder, `..` is refused, extended attributes that steer overlayfs are
//! dropped, and whiteouts become what overlayfs calls them. The folder lies
//! beneath one that only root may enter, so set-user-id files and device nodes
//! in it reach nobody but containers, whose root is mounted `nodev`.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use ::tar::EntryType;
use linux::beneath::{Root, remove_all};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::tar::{self, Head};
use crate::error::{Context, invalid};

/// An unpacked layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    /// Bytes of its files.
    pub(crate) bytes: u64,
    /// Files, folders and links.
    pub(crate) inodes: u64,
}

/// Free space that must remain on the disk.
const SPARE_BYTES: u64 = 64 << 20;
/// How much may be written between looks at the free space.
const CHECK_EVERY: u64 = 32 << 20;
const DIR_MODE: Mode = Mode::from_raw_mode(0o755);

/// Hashes what is read through it.
pub(crate) struct Hashing<R> {
    inner: R,
    hash: Sha256,
    pub(crate) count: u64,
}

impl<R: Read> Hashing<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            count: 0,
        }
    }

    /// Reads on to the end and returns the digest of everything.
    pub(crate) fn finish(mut self) -> std::io::Result<(String, u64)> {
        std::io::copy(&mut self, &mut std::io::sink())?;
        Ok((
            format!("sha256:{}", super::hex(&self.hash.finalize())),
            self.count,
        ))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        self.count += count as u64;
        Ok(count)
    }
}

/// The plain bytes of a stream that may be gzip or zstd, told by its first bytes.
pub(crate) fn decompress<'a>(stream: impl Read + 'a) -> std::io::Result<Box<dyn Read + 'a>> {
    let mut stream = BufReader::with_capacity(64 << 10, stream);
    let mut magic = Vec::with_capacity(4);
    stream.by_ref().take(4).read_to_end(&mut magic)?;
    let whole = std::io::Cursor::new(magic.clone()).chain(stream);
    Ok(match magic.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::stream::read::Decoder::new(whole)?),
        _ => Box::new(whole),
    })
}

/// Unpacks a possibly compressed layer into the empty folder `dest`, checking
/// that its uncompressed digest is `diff_id`.
pub(crate) fn unpack(stream: impl Read, diff_id: &str, dest: &Path) -> cri::Result<Size> {
    let plain = decompress(stream).context(|| "reading the layer".into())?;
    let mut plain = Hashing::new(plain);
    let size = unpack_tar(&mut plain, dest)?;
    let (digest, _) = plain
        .finish()
        .context(|| "reading the layer to its end".into())?;
    if digest != diff_id {
        return Err(invalid(format!(
            "the layer's digest is {digest}, its image says {diff_id}"
        )));
    }
    Ok(size)
}

fn unpack_tar(stream: impl Read, dest: &Path) -> cri::Result<Size> {
    let root = Root::open(dest).context(|| format!("opening {}", dest.display()))?;
    let mut unpacker = Unpacker {
        root,
        dest,
        dirs: Vec::new(),
        size: Size::default(),
        until_check: 0,
    };
    let mut archive = ::tar::Archive::new(BufReader::with_capacity(64 << 10, stream));
    let entries = archive.entries().context(|| "reading the layer".into())?;
    tar::each(entries, |head, data| {
        let path = head.path.clone();
        unpacker.apply(head, data).map_err(|error| {
            let kind = match error.kind() {
                // Not found: a folder on its way is a link to nothing.
                std::io::ErrorKind::InvalidData
                | std::io::ErrorKind::InvalidInput
                | std::io::ErrorKind::NotADirectory
                | std::io::ErrorKind::NotFound => cri::ErrorKind::Invalid,
                _ => cri::ErrorKind::Internal,
            };
            cri::Error::with_source(
                kind,
                format!("unpacking {:?} of a layer", path.to_string_lossy()),
                error,
            )
        })
    })?;
    unpacker.set_dir_times();
    Ok(unpacker.size)
}

struct Unpacker<'a> {
    root: Root,
    dest: &'a Path,
    /// Folders whose times are set last, since filling a folder changes them.
    dirs: Vec<(PathBuf, i64)>,
    size: Size,
    until_check: u64,
}

impl Unpacker<'_> {
    fn apply(&mut self, head: Head, data: &mut impl Read) -> std::io::Result<()> {
        if head.path.components().any(|c| c == Component::ParentDir) {
            return Err(bad("its path climbs with '..'"));
        }
        let Some(place) = self.root.place(&head.path, DIR_MODE)? else {
            // The root folder itself.
            if head.kind == EntryType::Directory {
                set_owner_and_mode(self.root.as_fd(), &head)?;
            }
            return Ok(());
        };
        let (dir, name) = (place.dir.as_fd(), place.name.as_os_str());
        if let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") {
            return self.whiteout(dir, hidden);
        }
        self.size.inodes += 1;
        let covered = clear(dir, name, head.kind == EntryType::Directory)?;
        match head.kind {
            EntryType::Directory => return self.directory(dir, name, head, covered),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                if head.kind == EntryType::GNUSparse {
                    return Err(bad("sparse entries are not supported"));
                }
                return self.file(dir, name, &head, data);
            }
            EntryType::Link => {
                let target = head
                    .link
                    .as_deref()
                    .ok_or_else(|| bad("a link to nothing"))?;
                let target = self
                    .root
                    .find_place(target)
                    .map_err(|error| explain(error, "the file it links to"))?
                    .ok_or_else(|| bad("a link to the root"))?;
                rustix::fs::linkat(&target.dir, &target.name, dir, name, AtFlags::empty())
                    .map_err(|error| explain(error.into(), "the file it links to"))?;
                self.size.inodes -= 1;
                return Ok(());
            }
            EntryType::Symlink => {
                let target = head
                    .link
                    .as_deref()
                    .ok_or_else(|| bad("a link to nothing"))?;
                rustix::fs::symlinkat(target, dir, name)?;
            }
            EntryType::Fifo => make_node(dir, name, FileType::Fifo, &head)?,
            EntryType::Char => make_node(dir, name, FileType::CharacterDevice, &head)?,
            EntryType::Block => make_node(dir, name, FileType::BlockDevice, &head)?,
            other => return Err(bad(&format!("entries of type {other:?} are not supported"))),
        }
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        let (uid, gid) = owner(&head);
        rustix::fs::chownat(dir, name, Some(uid), Some(gid), nofollow)?;
        if head.kind != EntryType::Symlink {
            rustix::fs::chmodat(dir, name, Mode::from_raw_mode(head.mode), AtFlags::empty())?;
        }
        rustix::fs::utimensat(dir, name, &times(head.mtime), nofollow)?;
        Ok(())
    }

    fn directory(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        head: Head,
        covered: Covered,
    ) -> std::io::Result<()> {
        if covered != Covered::Directory {
            rustix::fs::mkdirat(dir, name, DIR_MODE)?;
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let made = rustix::fs::openat(dir, name, flags, Mode::empty())?;
        set_owner_and_mode(made.as_fd(), &head)?;
        set_xattrs(made.as_fd(), &head)?;
        if covered == Covered::Whiteout {
            set_opaque(made.as_fd())?;
        }
        self.dirs.push((head.path, head.mtime));
        Ok(())
    }

    fn file(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        head: &Head,
        data: &mut impl Read,
    ) -> std::io::Result<()> {
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(
            dir,
            name,
            flags,
            Mode::RUSR | Mode::WUSR,
        )?);
        let mut buffer = vec![0; 64 << 10];
        let mut written = 0;
        loop {
            let count = data.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            self.reserve(count as u64)?;
            file.write_all(&buffer[..count])?;
            written += count as u64;
        }
        if written != head.size {
            return Err(bad("the archive ends within it"));
        }
        self.size.bytes += written;
        set_owner_and_mode(file.as_fd(), head)?;
        set_xattrs(file.as_fd(), head)?;
        rustix::fs::futimens(&file, &times(head.mtime))?;
        Ok(())
    }

    /// Refuses to fill the disk to the brim.
    fn reserve(&mut self, bytes: u64) -> std::io::Result<()> {
        if let Some(left) = self.until_check.checked_sub(bytes) {
            self.until_check = left;
            return Ok(());
        }
        let disk = rustix::fs::fstatvfs(&self.root)?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < SPARE_BYTES + CHECK_EVERY {
            return Err(std::io::Error::new(
                std::io::ErrorKind::StorageFull,
                format!("the disk of {} is full", self.dest.display()),
            ));
        }
        self.until_check = CHECK_EVERY;
        Ok(())
    }

    /// A whiteout hides what lower layers have; what this layer has stays.
    fn whiteout(&mut self, dir: BorrowedFd<'_>, hidden: &[u8]) -> std::io::Result<()> {
        if hidden == b".wh..opq" {
            return set_opaque(dir);
        }
        if hidden.starts_with(b".wh.") {
            // Bookkeeping of aufs.
            return Ok(());
        }
        let name = OsStr::from_bytes(hidden);
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(bad("a whiteout of nothing"));
        }
        self.size.inodes += 1;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        match rustix::fs::openat(dir, name, flags, Mode::empty()) {
            Ok(own) => set_opaque(own.as_fd()),
            Err(Errno::NOENT) => Ok(rustix::fs::mknodat(
                dir,
                name,
                FileType::CharacterDevice,
                Mode::empty(),
                0,
            )?),
            Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Best effort: a wrong time of a folder breaks nothing.
    fn set_dir_times(&self) {
        for (path, mtime) in self.dirs.iter().rev() {
            let flags = OFlags::DIRECTORY | OFlags::RDONLY;
            if let Ok(dir) = self.root.open_at(path, flags, Mode::empty()) {
                let _ = rustix::fs::futimens(dir, &times(*mtime));
            }
        }
    }
}

/// What an entry was in the way of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Covered {
    Nothing,
    Directory,
    Whiteout,
}

/// Makes room for an entry; a folder in the way of a folder stays.
fn clear(dir: BorrowedFd<'_>, name: &OsStr, for_dir: bool) -> std::io::Result<Covered> {
    let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(Covered::Nothing),
        other => other?,
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory if for_dir => Ok(Covered::Directory),
        FileType::CharacterDevice if stat.st_rdev == 0 => {
            remove_all(dir, name)?;
            Ok(Covered::Whiteout)
        }
        _ => {
            remove_all(dir, name)?;
            Ok(Covered::Nothing)
        }
    }
}

fn make_node(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    kind: FileType,
    head: &Head,
) -> std::io::Result<()> {
    let (major, minor) = head.device;
    let device = if kind == FileType::Fifo {
        0
    } else {
        rustix::fs::makedev(major, minor)
    };
    if kind == FileType::CharacterDevice && device == 0 {
        return Err(bad(
            "a character device 0:0, which overlayfs takes for a whiteout",
        ));
    }
    Ok(rustix::fs::mknodat(
        dir,
        name,
        kind,
        Mode::RUSR | Mode::WUSR,
        device,
    )?)
}

fn owner(head: &Head) -> (rustix::fs::Uid, rustix::fs::Gid) {
    (
        rustix::fs::Uid::from_raw(head.uid),
        rustix::fs::Gid::from_raw(head.gid),
    )
}

/// Owner first: changing it clears set-user-id.
fn set_owner_and_mode(file: BorrowedFd<'_>, head: &Head) -> std::io::Result<()> {
    let (uid, gid) = owner(head);
    rustix::fs::fchown(file, Some(uid), Some(gid))?;
    Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(head.mode))?)
}

/// File capabilities and user attributes. `trusted.overlay.*` would let a layer
/// redirect look-ups, so nothing else is taken.
fn set_xattrs(file: BorrowedFd<'_>, head: &Head) -> std::io::Result<()> {
    for (name, value) in &head.xattrs {
        if name == "security.capability" || name.starts_with("user.") {
            match rustix::fs::fsetxattr(file, name.as_str(), value, XattrFlags::empty()) {
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(error) => return Err(explain(error.into(), &format!("attribute {name}"))),
            }
        }
    }
    Ok(())
}

fn set_opaque(dir: BorrowedFd<'_>) -> std::io::Result<()> {
    Ok(rustix::fs::fsetxattr(
        dir,
        "trusted.overlay.opaque",
        b"y",
        XattrFlags::empty(),
    )?)
}

fn times(mtime: i64) -> Timestamps {
    let at = Timespec {
        tv_sec: mtime,
        tv_nsec: 0,
    };
    Timestamps {
        last_access: at,
        last_modification: at,
    }
}

fn bad(reason: &str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, reason.to_owned())
}

fn explain(error: std::io::Error, what: &str) -> std::io::Error {
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => std::io::ErrorKind::InvalidData,
        other => other,
    };
    std::io::Error::new(kind, format!("{what}: {error}"))
}

/// Writes a layer's pages to disk before its image is announced.
pub(crate) fn sync(folder: &Path) -> cri::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(CWD, folder, flags, Mode::empty());
    dir.and_then(rustix::fs::syncfs)
        .context(|| format!("syncing {}", folder.display()))
}

/// Name of a fresh folder or file beside others.
pub(crate) fn fresh_name() -> OsString {
    uuid::Uuid::new_v4().simple().to_string().into()
}

//! An image archive with random access to its entries.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ::tar::EntryType;
use linux::beneath::normalise;

use super::{layer, tar};
use crate::error::{Context, at, invalid, not_found};

/// Most entries of an archive: layers, configs and manifests of many images.
const MAX_ENTRIES: usize = 100_000;
/// Links followed from one entry; docker's old form has one.
const MAX_LINKS: usize = 4;

/// Where an archive's entries are. A compressed archive is first written out
/// plain, since entries are needed in an order of their own.
#[derive(Debug)]
pub(crate) struct Archive {
    file: File,
    entries: BTreeMap<PathBuf, Found>,
}

#[derive(Debug)]
enum Found {
    Bytes { offset: u64, size: u64 },
    Link(PathBuf),
}

impl Archive {
    /// Opens an archive; `scratch` is a folder for the plain copy, which is
    /// unlinked at once.
    pub(crate) fn open(path: &Path, scratch: &Path) -> cri::Result<Self> {
        let mut file = at(File::open(path), "opening", path)?;
        let kind = at(file.metadata(), "reading", path)?.file_type();
        if !kind.is_file() {
            return Err(invalid(format!("{} is not a regular file", path.display())));
        }
        let mut magic = [0; 4];
        let count = at(file.read_at(&mut magic, 0), "reading", path)?;
        let compressed = matches!(&magic[..count], [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd]);
        if compressed {
            let mut plain = at(tempfile::tempfile_in(scratch), "writing in", scratch)?;
            let mut stream = at(layer::decompress(&file), "reading", path)?;
            at(
                std::io::copy(&mut stream, &mut plain),
                "decompressing",
                path,
            )?;
            drop(stream);
            file = plain;
        }
        at(file.seek(SeekFrom::Start(0)), "reading", path)?;
        let entries = index(&file)?;
        Ok(Self { file, entries })
    }

    /// Whether there is a regular entry of that name.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.find(name).is_ok()
    }

    /// A small entry, whole.
    pub(crate) fn read(&self, name: &str, limit: u64) -> cri::Result<Vec<u8>> {
        let mut reader = self.reader(name)?;
        if reader.left > limit {
            return Err(invalid(format!(
                "{name} in the archive is larger than {limit} bytes"
            )));
        }
        let mut bytes = Vec::new();
        reader
            .read_to_end(&mut bytes)
            .context(|| format!("reading {name} of the archive"))?;
        Ok(bytes)
    }

    /// A reader over an entry's bytes.
    pub(crate) fn reader(&self, name: &str) -> cri::Result<EntryReader<'_>> {
        let (offset, size) = self.find(name)?;
        Ok(EntryReader {
            file: &self.file,
            offset,
            left: size,
        })
    }

    fn find(&self, name: &str) -> cri::Result<(u64, u64)> {
        let mut path = normalise(Path::new(name));
        for _ in 0..=MAX_LINKS {
            match self.entries.get(&path) {
                Some(Found::Bytes { offset, size }) => return Ok((*offset, *size)),
                Some(Found::Link(target)) => path.clone_from(target),
                None => break,
            }
        }
        Err(not_found(format!("the archive has no {name:?}")))
    }
}

fn index(file: &File) -> cri::Result<BTreeMap<PathBuf, Found>> {
    let mut found = BTreeMap::new();
    let mut archive = ::tar::Archive::new(BufReader::new(file));
    let entries = archive
        .entries_with_seek()
        .context(|| "reading the archive".into())?;
    let length = file
        .metadata()
        .context(|| "reading the archive".into())?
        .len();
    tar::each(entries, |head, entry| {
        if found.len() >= MAX_ENTRIES {
            return Err(invalid(format!(
                "the archive has more than {MAX_ENTRIES} entries"
            )));
        }
        let path = normalise(&head.path);
        let offset = entry.raw_file_position();
        match head.kind {
            EntryType::Regular | EntryType::Continuous => {
                if offset.checked_add(head.size).is_none_or(|end| end > length) {
                    return Err(invalid(format!(
                        "the archive ends within {}",
                        path.display()
                    )));
                }
                found.insert(
                    path,
                    Found::Bytes {
                        offset,
                        size: head.size,
                    },
                );
            }
            EntryType::Symlink | EntryType::Link => {
                let target = head.link.unwrap_or_default();
                // A symbolic link is relative to its folder, a hard link to the root.
                let base = match path.parent() {
                    Some(parent) if head.kind == EntryType::Symlink => parent,
                    _ => Path::new(""),
                };
                let target = normalise(&base.join(target));
                found.insert(path, Found::Link(target));
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(found)
}

/// Reads one entry by position, leaving the file's own cursor alone.
pub(crate) struct EntryReader<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Read for EntryReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let count = self.file.read_at(&mut buffer[..most], self.offset)?;
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

//! Tar streams from strangers, read with bounds.
//!
//! The `tar` crate reads extension headers (long names, PAX records) into
//! memory whole; an archive may claim gigabytes for them. Here entries are
//! taken raw and the extensions applied under a limit.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Error, ErrorKind, Read, Result};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use tar::{Entries, Entry, EntryType};

/// Most bytes of one extension header.
const MAX_EXTENSION: u64 = 1 << 20;

/// Header fields of one entry, extensions applied.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) path: PathBuf,
    pub(crate) link: Option<PathBuf>,
    pub(crate) kind: EntryType,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since the epoch.
    pub(crate) mtime: i64,
    /// Device number, for device nodes.
    pub(crate) device: (u32, u32),
    pub(crate) size: u64,
    pub(crate) xattrs: BTreeMap<String, Vec<u8>>,
}

/// Calls `visit` with every entry; its reader gives the entry's bytes.
pub(crate) fn each<R: Read>(
    entries: Entries<'_, R>,
    mut visit: impl FnMut(Head, &mut Entry<'_, R>) -> cri::Result<()>,
) -> cri::Result<()> {
    let mut pending = Extensions::default();
    for entry in entries.raw(true) {
        let mut entry = entry.map_err(damaged)?;
        match entry.header().entry_type() {
            EntryType::GNULongName => pending.name = Some(name(&mut entry).map_err(damaged)?),
            EntryType::GNULongLink => pending.link = Some(name(&mut entry).map_err(damaged)?),
            EntryType::XHeader => {
                pending.pax =
                    parse_pax(&extension(&mut entry).map_err(damaged)?).map_err(damaged)?;
            }
            EntryType::XGlobalHeader => {}
            _ => {
                let head = std::mem::take(&mut pending)
                    .apply(&entry)
                    .map_err(damaged)?;
                visit(head, &mut entry)?;
            }
        }
    }
    Ok(())
}

fn damaged(error: Error) -> cri::Error {
    cri::Error::with_source(cri::ErrorKind::Invalid, "the tar stream is damaged", error)
}

#[derive(Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: BTreeMap<String, Vec<u8>>,
}

impl Extensions {
    fn apply<R: Read>(mut self, entry: &Entry<'_, R>) -> Result<Head> {
        let header = entry.header();
        let size = header.entry_size()?;
        if self.number("size")?.is_some_and(|pax| pax != size as i64) {
            return Err(invalid("an entry of 8 GiB or more in PAX form"));
        }
        if self.pax.keys().any(|key| key.starts_with("GNU.sparse.")) {
            return Err(invalid("a sparse entry"));
        }
        let path = self
            .pax
            .remove("path")
            .or(self.name.take())
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = self
            .pax
            .remove("linkpath")
            .or(self.link.take())
            .or_else(|| header.link_name_bytes().map(|name| name.into_owned()));
        let id = |pax: Option<i64>, own: Result<u64>| -> Result<u32> {
            let wide = match pax {
                Some(value) => u64::try_from(value).map_err(|_| invalid("a negative owner"))?,
                None => own?,
            };
            u32::try_from(wide).map_err(|_| invalid("an owner beyond 32 bits"))
        };
        Ok(Head {
            path: to_path(path)?,
            link: link.map(to_path).transpose()?,
            kind: header.entry_type(),
            mode: header.mode()? & 0o7777,
            uid: id(self.number("uid")?, header.uid())?,
            gid: id(self.number("gid")?, header.gid())?,
            mtime: match self.number("mtime")? {
                Some(seconds) => seconds,
                None => i64::try_from(header.mtime()?).unwrap_or(0),
            },
            device: (
                header.device_major().ok().flatten().unwrap_or(0),
                header.device_minor().ok().flatten().unwrap_or(0),
            ),
            size,
            xattrs: self
                .pax
                .into_iter()
                .filter_map(|(key, value)| {
                    Some((key.strip_prefix("SCHILY.xattr.")?.to_owned(), value))
                })
                .collect(),
        })
    }

    /// A whole number, fraction dropped.
    fn number(&self, key: &str) -> Result<Option<i64>> {
        self.pax
            .get(key)
            .map(|value| {
                let text = std::str::from_utf8(value).map_err(|_| invalid("a PAX number"))?;
                let whole = text.split('.').next().unwrap_or(text);
                whole.parse().map_err(|_| invalid("a PAX number"))
            })
            .transpose()
    }
}

fn invalid(what: &str) -> Error {
    Error::new(
        ErrorKind::InvalidData,
        format!("{what} is not supported or not valid"),
    )
}

fn extension<R: Read>(entry: &mut Entry<'_, R>) -> Result<Vec<u8>> {
    if entry.header().entry_size()? > MAX_EXTENSION {
        return Err(invalid("an extension header of more than a megabyte"));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn name<R: Read>(entry: &mut Entry<'_, R>) -> Result<Vec<u8>> {
    let mut bytes = extension(entry)?;
    if let Some(end) = bytes.iter().position(|&b| b == 0) {
        bytes.truncate(end);
    }
    Ok(bytes)
}

fn to_path(bytes: Vec<u8>) -> Result<PathBuf> {
    if bytes.len() > 4096 || bytes.contains(&0) {
        return Err(invalid(
            "a name of more than 4096 bytes or with a zero byte",
        ));
    }
    Ok(OsString::from_vec(bytes).into())
}

/// Records of `LENGTH KEY=VALUE\n`, the length counting the whole record.
fn parse_pax(mut bytes: &[u8]) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut records = BTreeMap::new();
    let bad = || invalid("a PAX record");
    while !bytes.is_empty() {
        let blank = bytes
            .iter()
            .take(20)
            .position(|&b| b == b' ')
            .ok_or_else(bad)?;
        let length: usize = std::str::from_utf8(&bytes[..blank])
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(bad)?;
        let record = bytes.get(blank + 1..length).ok_or_else(bad)?;
        let record = record.strip_suffix(b"\n").ok_or_else(bad)?;
        let equals = record.iter().position(|&b| b == b'=').ok_or_else(bad)?;
        let key = String::from_utf8(record[..equals].to_vec()).map_err(|_| bad())?;
        records.insert(key, record[equals + 1..].to_vec());
        bytes = &bytes[length..];
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pax_records() {
        let records = parse_pax(b"11 path=abc\n20 mtime=1700000000.5\n").unwrap_err();
        assert_eq!(records.kind(), ErrorKind::InvalidData);
        let records = parse_pax(b"12 path=abc\n22 mtime=1700000000.5\n").unwrap();
        assert_eq!(records["path"], b"abc");
        assert_eq!(records["mtime"], b"1700000000.5");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let _ = parse_pax(&bytes);
            let mut archive = ::tar::Archive::new(bytes.as_slice());
            let _ = each(archive.entries().unwrap(), |_, _| Ok(()));
        }
    }
}

//! Writing the files of a volume so that a reader sees all of a change or none.
//!
//! Files live in a folder named by its time; `..data` is a link to it that is
//! swapped by a rename, and every visible name is a link through `..data`:
//!
//! ```text
//! ..2026_01_31_12_00_00.1/user
//! ..data -> ..2026_01_31_12_00_00.1
//! user -> ..data/user
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;

/// A file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) data: Vec<u8>,
    /// Permission bits.
    pub(crate) mode: u32,
    /// Owner, where it is not root.
    pub(crate) owner: Option<u32>,
}

/// The files of a volume by path.
pub(crate) type Payload = BTreeMap<String, File>;

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// Makes `dir` hold exactly `payload`, owned by `group` if given; true if
/// anything had to change.
pub(crate) fn write(dir: &Path, payload: &Payload, group: Option<u32>) -> io::Result<bool> {
    for path in payload.keys() {
        check_path(path)?;
    }
    let old = fs::read_link(dir.join(DATA)).ok();
    if let Some(old) = &old
        && is_same(&dir.join(old), payload)
    {
        link_names(dir, payload)?;
        return Ok(false);
    }
    let fresh = fresh_name(dir);
    let data = dir.join(&fresh);
    fs::create_dir(&data)?;
    own_dir(&data, group)?;
    for (path, file) in payload {
        let target = data.join(path);
        if let Some(parent) = target.parent() {
            make_dirs(&data, parent, group)?;
        }
        fs::write(&target, &file.data)?;
        if file.owner.is_some() || group.is_some() {
            std::os::unix::fs::chown(&target, file.owner, group)?;
        }
        fs::set_permissions(&target, fs::Permissions::from_mode(file.mode & 0o7777))?;
    }
    let link = dir.join(NEW_DATA);
    match fs::remove_file(&link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(&fresh, &link)?;
    fs::rename(&link, dir.join(DATA))?;
    link_names(dir, payload)?;
    if let Some(old) = old {
        fs::remove_dir_all(dir.join(old))?;
    }
    Ok(true)
}

fn check_path(path: &str) -> io::Result<()> {
    let invalid = |what: &str| {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("invalid path {path:?}: {what}"),
        ))
    };
    if path.is_empty() {
        return invalid("must not be empty");
    }
    if path.starts_with("..") {
        return invalid("must not start with '..'");
    }
    let plain = Path::new(path)
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if !plain || path.starts_with('/') {
        return invalid("must be a relative path without '..'");
    }
    Ok(())
}

fn fresh_name(dir: &Path) -> PathBuf {
    let now = Timestamp::now();
    let stem = now.strftime("..%Y_%m_%d_%H_%M_%S").to_string();
    (0_u32..)
        .map(|number| PathBuf::from(format!("{stem}.{:09}{number}", now.subsec_nanosecond())))
        .find(|name| !dir.join(name).exists())
        .expect("one of four billion names is free")
}

fn own_dir(dir: &Path, group: Option<u32>) -> io::Result<()> {
    let mode = match group {
        Some(group) => {
            std::os::unix::fs::chown(dir, None, Some(group))?;
            0o2775
        }
        None => 0o755,
    };
    fs::set_permissions(dir, fs::Permissions::from_mode(mode))
}

fn make_dirs(root: &Path, dir: &Path, group: Option<u32>) -> io::Result<()> {
    if dir == root || dir.exists() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        make_dirs(root, parent, group)?;
    }
    fs::create_dir(dir)?;
    own_dir(dir, group)
}

fn is_same(data: &Path, payload: &Payload) -> bool {
    let mut paths = BTreeSet::new();
    if collect(data, data, &mut paths).is_err() || paths.len() != payload.len() {
        return false;
    }
    payload.iter().all(|(path, file)| {
        let target = data.join(path);
        let mode = fs::metadata(&target).map(|metadata| metadata.mode() & 0o7777);
        mode.is_ok_and(|mode| mode == file.mode & 0o7777)
            && fs::read(&target).is_ok_and(|data| data == file.data)
    })
}

fn collect(root: &Path, dir: &Path, into: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(root, &entry.path(), into)?;
        } else {
            let path = entry.path();
            into.insert(
                path.strip_prefix(root)
                    .map(Path::to_path_buf)
                    .unwrap_or(path),
            );
        }
    }
    Ok(())
}

/// Makes the visible names those of the payload.
fn link_names(dir: &Path, payload: &Payload) -> io::Result<()> {
    let tops: BTreeSet<&str> = payload
        .keys()
        .map(|path| path.split('/').next().unwrap_or(path))
        .collect();
    for top in &tops {
        let link = dir.join(top);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(top), &link)?;
        }
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let stale = name
            .to_str()
            .is_none_or(|name| !name.starts_with("..") && !tops.contains(name));
        if stale && entry.file_type()?.is_symlink() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    fn file(data: &str, mode: u32) -> File {
        File {
            data: data.into(),
            mode,
            owner: None,
        }
    }

    #[test]
    fn swaps_all_files_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let first = Payload::from([
            ("a".into(), file("1", 0o644)),
            ("d/b".into(), file("2", 0o400)),
        ]);
        assert!(write(dir.path(), &first, None).unwrap());
        assert!(!write(dir.path(), &first, None).unwrap(), "nothing changed");
        assert_eq!(fs::read_to_string(dir.path().join("d/b")).unwrap(), "2");
        let mode = fs::metadata(dir.path().join("d/b")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o400);
        assert_eq!(
            fs::read_link(dir.path().join("a")).unwrap(),
            Path::new("..data/a")
        );
        let before = fs::read_link(dir.path().join(DATA)).unwrap();

        let second = Payload::from([("a".into(), file("3", 0o600))]);
        assert!(write(dir.path(), &second, None).unwrap());
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "3");
        assert!(fs::symlink_metadata(dir.path().join("d")).is_err());
        assert!(!dir.path().join(before).exists());
    }

    #[test]
    fn refuses_paths_that_leave() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["", "..", "../a", "..a", "/a", "a/../b", "./a/.."] {
            let payload = Payload::from([(path.to_owned(), file("", 0o644))]);
            assert!(write(dir.path(), &payload, None).is_err(), "{path}");
        }
    }

    proptest! {
        #[test]
        fn shows_exactly_the_last_payload(
            versions in prop::collection::vec(
                prop::collection::btree_map("[a-c](/[a-c]x)?", "[a-z]{0,4}", 0..4), 1..4)
        ) {
            let dir = tempfile::tempdir().unwrap();
            for version in &versions {
                // A name cannot be a file and a folder at once.
                let clash = version.keys().any(|path| {
                    version.keys().any(|other| other.starts_with(&format!("{path}/")))
                });
                if clash {
                    continue;
                }
                let payload: Payload =
                    version.iter().map(|(path, data)| (path.clone(), file(data, 0o644))).collect();
                write(dir.path(), &payload, None).unwrap();
                for (path, data) in version {
                    prop_assert_eq!(&fs::read_to_string(dir.path().join(path)).unwrap(), data);
                }
                let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
                let visible = names.filter(|name| !name.to_string_lossy().starts_with("..")).count();
                let tops: BTreeSet<_> =
                    version.keys().map(|path| path.split('/').next().unwrap()).collect();
                prop_assert_eq!(visible, tops.len());
            }
        }
    }
}

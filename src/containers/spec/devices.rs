//! Device nodes and the rules that let them be used.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use linux::devices::Allowed;
use serde_json::{Value, json};

use crate::error::{at, invalid};

/// Nodes to make in the container, and cgroup rules in order.
#[derive(Debug)]
pub(super) struct Devices {
    pub(super) nodes: Vec<Value>,
    pub(super) rules: Vec<Value>,
}

/// Those of the configuration; folders stand for the devices in them.
pub(super) fn given(list: &[(PathBuf, PathBuf, String)]) -> cri::Result<Devices> {
    let mut devices = Devices {
        nodes: Vec::new(),
        rules: vec![json!({ "allow": false, "access": "rwm" })],
    };
    for (host, container, access) in list {
        if access.is_empty() || !access.bytes().all(|b| matches!(b, b'r' | b'w' | b'm')) {
            return Err(invalid(format!(
                "device {}: permissions {access:?} are not of r, w and m",
                host.display()
            )));
        }
        let found = at(std::fs::canonicalize(host), "looking up device", host)?;
        if found.is_dir() {
            for entry in at(std::fs::read_dir(&found), "listing", &found)? {
                let entry = at(entry, "listing", &found)?;
                devices.add(&entry.path(), &container.join(entry.file_name()), access);
            }
        } else if !devices.add(&found, container, access) {
            return Err(invalid(format!("{} is not a device node", host.display())));
        }
    }
    Ok(devices)
}

/// Every device of the node, for privileged containers.
pub(super) fn all() -> Devices {
    let mut devices = Devices {
        nodes: Vec::new(),
        rules: vec![json!({ "allow": true, "access": "rwm" })],
    };
    let mut folders = vec![PathBuf::from("/dev")];
    while let Some(folder) = folders.pop() {
        // What vanishes while it is listed is not there to be given.
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            // These are mounts of the container's own.
            let own = [
                "pts",
                "ptmx",
                "shm",
                "fd",
                "mqueue",
                ".lxc",
                ".lxd-mounts",
                ".udev",
            ];
            if own.iter().any(|name| path == Path::new("/dev").join(name))
                || path == Path::new("/dev/console")
            {
                continue;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            } else if entry.file_type().is_ok_and(|kind| !kind.is_symlink()) {
                devices.add(&path, &path, "rwm");
            }
        }
    }
    devices.rules.truncate(1);
    devices
}

/// What the rules of a specification allow, for hierarchies without a devices
/// controller; `None` is everything. Every container may use the devices that
/// programs take for granted, and make nodes it cannot open.
pub(crate) fn allowed(spec: &Value) -> Option<Vec<Allowed>> {
    let rules = spec["linux"]["resources"]["devices"].as_array()?;
    let given = rules.iter().filter(|rule| rule["allow"] == true);
    if given.clone().any(|rule| rule["type"].is_null()) {
        return None;
    }
    let number = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
    let rule = |block, major, minor, access: &str| Allowed {
        block,
        major,
        minor,
        read: access.contains('r'),
        write: access.contains('w'),
        mknod: access.contains('m'),
    };
    let mut list = vec![rule(false, None, None, "m"), rule(true, None, None, "m")];
    for (major, minor) in [
        (1, Some(3)),
        (1, Some(5)),
        (1, Some(7)),
        (1, Some(8)),
        (1, Some(9)),
        (5, Some(0)),
        (5, Some(2)),
        (136, None),
    ] {
        list.push(rule(false, Some(major), minor, "rwm"));
    }
    list.extend(given.map(|given| {
        let access = given["access"].as_str().unwrap_or_default();
        rule(
            given["type"] == "b",
            number(&given["major"]),
            number(&given["minor"]),
            access,
        )
    }));
    Some(list)
}

impl Devices {
    fn add(&mut self, host: &Path, container: &Path, access: &str) -> bool {
        let Ok(stat) = std::fs::symlink_metadata(host) else {
            return false;
        };
        let kind = match stat.file_type() {
            kind if kind.is_char_device() => "c",
            kind if kind.is_block_device() => "b",
            _ => return false,
        };
        let (major, minor) = (
            rustix::fs::major(stat.rdev()),
            rustix::fs::minor(stat.rdev()),
        );
        self.nodes.push(json!({
            "path": container,
            "type": kind,
            "major": major,
            "minor": minor,
            "fileMode": stat.mode() & 0o7777,
            "uid": stat.uid(),
            "gid": stat.gid(),
        }));
        self.rules.push(json!({
            "allow": true, "type": kind, "major": major, "minor": minor, "access": access,
        }));
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn rules_become_a_list() {
        let spec = |rules| json!({ "linux": { "resources": { "devices": rules } } });
        let null = (
            PathBuf::from("/dev/null"),
            PathBuf::from("/dev/x"),
            "rw".to_owned(),
        );
        let devices = given(&[null]).unwrap();
        assert_eq!(devices.nodes[0]["path"], "/dev/x");
        let list = allowed(&spec(devices.rules)).unwrap();
        let last = list.last().unwrap();
        assert_eq!(
            (last.major, last.minor, last.mknod),
            (Some(1), Some(3), false)
        );
        assert_eq!(allowed(&spec(all().rules)), None);
        assert!(given(&[("/tmp/none".into(), "/dev/x".into(), "rw".into())]).is_err());
        assert!(given(&[("/dev/null".into(), "/dev/x".into(), "x".into())]).is_err());
    }
}

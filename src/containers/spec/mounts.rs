//! What is mounted in a container, and where.

use std::path::{Path, PathBuf};

use cri::{Mount, MountPropagation};
use linux::beneath::normalise;
use linux::cgroup::Cgroups;
use serde_json::{Value, json};

use super::Input;
use crate::error::{at, invalid};

/// The mounts in order, and how the root passes mounts on.
pub(super) struct Mounts {
    pub(super) list: Vec<Value>,
    pub(super) propagation: &'static str,
}

pub(super) fn mounts(input: &Input<'_>) -> cri::Result<Mounts> {
    let config = input.config;
    let privileged = config.security.privileged;
    let mut own: Vec<(PathBuf, &Mount)> = config
        .mounts
        .iter()
        .map(|mount| (Path::new("/").join(normalise(&mount.container_path)), mount))
        .collect();
    // Parents before what lies beneath them, else in the order given.
    own.sort_by_key(|(path, _)| path.components().count());

    let mut list: Vec<Value> = defaults(input, privileged)
        .into_iter()
        .filter(|mount| {
            !own.iter()
                .any(|(path, _)| mount["destination"] == json!(path))
        })
        .collect();
    for (path, mount) in &own {
        list.push(bind(path, mount)?);
    }
    let shared = config
        .mounts
        .iter()
        .any(|m| m.propagation == MountPropagation::Bidirectional);
    Ok(Mounts {
        list,
        propagation: if shared { "shared" } else { "slave" },
    })
}

fn defaults(input: &Input<'_>, privileged: bool) -> Vec<Value> {
    let sys = if privileged { "rw" } else { "ro" };
    let mount = |kind: &str, to: &str, options: &[&str]| json!({ "type": kind, "source": kind, "destination": to, "options": options });
    let mut list = vec![
        mount("proc", "/proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "tmpfs",
            "/dev",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "devpts",
            "/dev/pts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount("mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]),
        mount("sysfs", "/sys", &["nosuid", "noexec", "nodev", sys]),
    ];
    list.extend(cgroup_mounts(input, privileged));
    let rw = ["rbind", "rw"];
    // With a read-only root these stay writable only through their own mounts.
    let files = if input.config.security.readonly_rootfs {
        ["rbind", "ro"]
    } else {
        rw
    };
    for (source, to, options) in [
        (&input.paths.shm, "/dev/shm", rw),
        (&input.paths.hostname_file, "/etc/hostname", files),
        (&input.paths.resolv_conf, "/etc/resolv.conf", files),
    ] {
        list.push(json!({
            "type": "bind", "source": source, "destination": to, "options": options,
        }));
    }
    list
}

/// On v2 the hierarchy as the container's own cgroup namespace shows it; on v1
/// its own cgroup of each controller.
fn cgroup_mounts(input: &Input<'_>, privileged: bool) -> Vec<Value> {
    let access = if privileged { "rw" } else { "ro" };
    match input.cgroups {
        Cgroups::V2(_) => vec![json!({
            "type": "cgroup",
            "source": "cgroup",
            "destination": "/sys/fs/cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", access],
        })],
        Cgroups::V1(_) => {
            let mut list = vec![json!({
                "type": "tmpfs",
                "source": "tmpfs",
                "destination": "/sys/fs/cgroup",
                "options": ["nosuid", "noexec", "nodev", "mode=755", "size=64k"],
            })];
            for (_, folder) in input.cgroups.folders(input.cgroup) {
                // The name of the mount point: `cpu,cpuacct` when mounted together.
                let depth = normalise(input.cgroup).components().count();
                let Some(name) = folder.ancestors().nth(depth).and_then(Path::file_name) else {
                    continue;
                };
                list.push(json!({
                    "type": "bind",
                    "source": folder,
                    "destination": Path::new("/sys/fs/cgroup").join(name),
                    "options": ["rbind", "nosuid", "noexec", "nodev", access],
                }));
            }
            list
        }
    }
}

fn bind(path: &Path, mount: &Mount) -> cri::Result<Value> {
    if path == Path::new("/") {
        return Err(invalid("a mount cannot replace the root of a container"));
    }
    if !mount.host_path.is_absolute() {
        return Err(invalid(format!(
            "mount source {} is not absolute",
            mount.host_path.display()
        )));
    }
    if !mount.host_path.exists() {
        at(
            std::fs::create_dir_all(&mount.host_path),
            "creating",
            &mount.host_path,
        )?;
    }
    let source = at(
        std::fs::canonicalize(&mount.host_path),
        "resolving",
        &mount.host_path,
    )?;
    let mut options = vec!["rbind"];
    options.push(match mount.propagation {
        MountPropagation::Private => "rprivate",
        MountPropagation::HostToContainer => "rslave",
        MountPropagation::Bidirectional => "rshared",
    });
    options.push(if mount.readonly { "ro" } else { "rw" });
    if mount.readonly && mount.recursive_readonly {
        options.push("rro");
    }
    Ok(json!({ "type": "bind", "source": source, "destination": path, "options": options }))
}

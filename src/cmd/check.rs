//! Whether this machine can run a node: `karve check`, and at every start.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

/// One thing a node needs.
struct Need {
    what: &'static str,
    /// What is missing and what to do about it; `None` if it is there.
    problem: Option<String>,
}

/// What the kernel says of itself; read once, judged without I/O.
#[derive(Debug, Default)]
struct Facts {
    root: bool,
    filesystems: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    /// Controllers of cgroup v1 hierarchies that are mounted.
    cgroup_v1: BTreeSet<String>,
    /// Controllers of the v2 hierarchy, wherever it is mounted.
    cgroup_v2: BTreeSet<String>,
    netfilter: bool,
    seccomp: bool,
}

/// `karve check`: prints every need and fails if one is not met.
pub(crate) fn run() -> Result<()> {
    let needs = judge(&Facts::read());
    for need in &needs {
        match &need.problem {
            None => println!("ok       {}", need.what),
            Some(problem) => println!("missing  {}: {problem}", need.what),
        }
    }
    match needs.iter().filter(|need| need.problem.is_some()).count() {
        0 => Ok(()),
        missing => bail!(
            "{missing} of {} things a node needs are missing",
            needs.len()
        ),
    }
}

/// Fails with everything that is missing for a node.
pub(crate) fn node() -> Result<()> {
    let problems: Vec<String> = judge(&Facts::read())
        .into_iter()
        .filter_map(|need| {
            need.problem
                .map(|problem| format!("{}: {problem}", need.what))
        })
        .collect();
    if problems.is_empty() {
        return Ok(());
    }
    bail!(
        "this machine cannot run a node (run the control plane alone with --disable-agent):\n  {}",
        problems.join("\n  ")
    );
}

fn judge(facts: &Facts) -> Vec<Need> {
    let need = |what, met: bool, problem: &str| Need {
        what,
        problem: (!met).then(|| problem.to_owned()),
    };
    let has_cgroup = |name: &str| facts.cgroup_v1.contains(name) || facts.cgroup_v2.contains(name);
    let controllers: Vec<&str> = ["cpu", "memory", "pids"]
        .into_iter()
        .filter(|name| !has_cgroup(name))
        .collect();
    vec![
        need("root", facts.root, "pods need namespaces, mounts and cgroups; run karve as root (sudo)"),
        need(
            "overlayfs",
            facts.filesystems.contains("overlay"),
            "the kernel has no overlay file system; load it with `modprobe overlay`, or build the kernel with CONFIG_OVERLAY_FS",
        ),
        Need {
            what: "cgroup controllers",
            problem: (!controllers.is_empty()).then(|| {
                format!(
                    "{} not mounted or not enabled; mount cgroup2 at /sys/fs/cgroup, and on a Raspberry Pi add `cgroup_enable=memory` to the kernel command line",
                    controllers.join(", ")
                )
            }),
        },
        need(
            "namespaces",
            ["ipc", "mnt", "net", "pid", "uts"].iter().all(|name| facts.namespaces.contains(*name)),
            "the kernel lacks ipc, mnt, net, pid or uts namespaces (CONFIG_NAMESPACES and its parts)",
        ),
        need(
            "nf_tables",
            facts.netfilter,
            "the kernel answers no netfilter requests; load it with `modprobe nf_tables`, or build the kernel with CONFIG_NF_TABLES",
        ),
        need(
            "seccomp",
            facts.seccomp,
            "the kernel has no seccomp filters; build it with CONFIG_SECCOMP_FILTER",
        ),
    ]
}

impl Facts {
    fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let mounts = text("/proc/mounts");
        let mut facts = Self {
            root: nix::unistd::geteuid().is_root(),
            filesystems: filesystems(&text("/proc/filesystems")),
            namespaces: names("/proc/self/ns"),
            netfilter: netfilter(),
            seccomp: Path::new("/proc/sys/kernel/seccomp/actions_avail").exists(),
            ..Self::default()
        };
        for line in mounts.lines() {
            let mut fields = line.split(' ').skip(1);
            let (Some(target), Some(kind), Some(options)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            match kind {
                "cgroup" => facts
                    .cgroup_v1
                    .extend(options.split(',').map(str::to_owned)),
                "cgroup2" => facts.cgroup_v2.extend(
                    text(&format!("{target}/cgroup.controllers"))
                        .split_whitespace()
                        .map(str::to_owned),
                ),
                _ => {}
            }
        }
        facts
    }
}

fn filesystems(table: &str) -> BTreeSet<String> {
    table
        .lines()
        .filter_map(|line| line.split_whitespace().last())
        .map(str::to_owned)
        .collect()
}

fn names(folder: &str) -> BTreeSet<String> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}

/// A netfilter netlink socket can only be had where the protocol is known.
fn netfilter() -> bool {
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
    socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )
    .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn complete() -> Facts {
        Facts {
            root: true,
            filesystems: filesystems("nodev\ttmpfs\n\text4\nnodev\toverlay\n"),
            namespaces: set(&["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"]),
            cgroup_v1: set(&["rw", "cpu", "memory"]),
            cgroup_v2: set(&["pids"]),
            netfilter: true,
            seccomp: true,
        }
    }

    fn missing(facts: &Facts) -> Vec<&'static str> {
        judge(facts)
            .into_iter()
            .filter(|need| need.problem.is_some())
            .map(|need| need.what)
            .collect()
    }

    #[test]
    fn a_complete_machine_lacks_nothing() {
        assert_eq!(missing(&complete()), Vec::<&str>::new());
    }

    #[test]
    fn each_lack_is_named() {
        assert_eq!(
            missing(&Facts {
                root: false,
                ..complete()
            }),
            ["root"]
        );
        assert_eq!(
            missing(&Facts {
                filesystems: set(&["ext4"]),
                ..complete()
            }),
            ["overlayfs"]
        );
        assert_eq!(
            missing(&Facts {
                cgroup_v1: set(&["cpu"]),
                ..complete()
            }),
            ["cgroup controllers"]
        );
        assert_eq!(
            missing(&Facts {
                namespaces: set(&["mnt"]),
                ..complete()
            }),
            ["namespaces"]
        );
        assert_eq!(
            missing(&Facts {
                netfilter: false,
                ..complete()
            }),
            ["nf_tables"]
        );
        assert_eq!(
            missing(&Facts {
                seccomp: false,
                ..complete()
            }),
            ["seccomp"]
        );
    }
}

//! Control groups, v1 (also beside an unused v2) and v2, behind one interface.
//!
//! A cgroup is named by one path, the same in every hierarchy, relative to
//! each hierarchy's mount point. [`Cgroups`] creates, limits, measures, kills
//! and removes them; which version the machine runs shows nowhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The cgroup hierarchies of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cgroups {
    /// Controllers on v1 hierarchies, by controller name.
    V1(BTreeMap<String, PathBuf>),
    /// Everything on the unified hierarchy mounted here.
    V2(PathBuf),
}

/// Limits of a cgroup; absent ones are left as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// CPU shares on the v1 scale, 2 to 262144.
    pub cpu_shares: Option<u64>,
    /// CPU quota in microseconds a period; negative is none.
    pub cpu_quota: Option<i64>,
    /// CPU period in microseconds.
    pub cpu_period: Option<u64>,
    /// Memory in bytes; negative is unlimited.
    pub memory: Option<i64>,
    /// Memory in bytes past which reclaim slows the cgroup down (v2).
    pub memory_high: Option<i64>,
    /// Processes; 0 and negative are unlimited.
    pub pids: Option<i64>,
    /// Huge pages: page size such as `2MB` to bytes.
    pub hugepages: BTreeMap<String, u64>,
    /// Processors, such as `0-3,7`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes.
    pub cpuset_mems: Option<String>,
}

/// What a cgroup and everything beneath it use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time in nanoseconds.
    pub cpu_ns: u64,
    /// Memory in bytes, page cache included.
    pub memory: u64,
    /// Inactive page cache in bytes.
    pub inactive_file: u64,
    /// Anonymous memory in bytes.
    pub anonymous: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Major page faults.
    pub major_page_faults: u64,
    /// Processes.
    pub pids: u64,
}

impl Cgroups {
    /// Reads what is mounted. v2 counts when no controller is on v1.
    pub fn detect() -> Result<Self> {
        Self::from_mountinfo(&std::fs::read_to_string("/proc/thread-self/mountinfo")?).ok_or_else(
            || {
                Error::new(
                    ErrorKind::Unsupported,
                    "no cgroup hierarchy is mounted; mount cgroup2 at /sys/fs/cgroup",
                )
            },
        )
    }

    fn from_mountinfo(table: &str) -> Option<Self> {
        let (mut v1, mut v2) = (BTreeMap::new(), None);
        for line in table.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let mut left = left.split(' ');
            let (Some(root), Some(point)) = (left.nth(3), left.next()) else {
                continue;
            };
            let mut right = right.split(' ');
            let (Some(kind), _, Some(options)) = (right.next(), right.next(), right.next()) else {
                continue;
            };
            if root.starts_with("/..") {
                continue;
            }
            match kind {
                "cgroup" => {
                    for option in options.split(',') {
                        if !matches!(
                            option,
                            "rw" | "ro" | "xattr" | "clone_children" | "noprefix"
                        ) && !option.contains('=')
                        {
                            v1.entry(option.to_owned())
                                .or_insert_with(|| PathBuf::from(point));
                        }
                    }
                }
                "cgroup2" if v2.is_none() => v2 = Some(PathBuf::from(point)),
                _ => {}
            }
        }
        if v1.is_empty() {
            v2.map(Self::V2)
        } else {
            Some(Self::V1(v1))
        }
    }

    /// Whether this is the unified hierarchy.
    pub fn is_v2(&self) -> bool {
        matches!(self, Self::V2(_))
    }

    /// Where `cgroup` is, in each hierarchy: controller names and folder.
    pub fn folders(&self, cgroup: &Path) -> Vec<(Vec<&str>, PathBuf)> {
        match self {
            Self::V2(mount) => vec![(Vec::new(), beneath(mount, cgroup))],
            Self::V1(controllers) => {
                let mut by_mount: BTreeMap<&Path, Vec<&str>> = BTreeMap::new();
                for (name, mount) in controllers {
                    by_mount.entry(mount).or_default().push(name);
                }
                by_mount
                    .into_iter()
                    .map(|(m, names)| (names, beneath(m, cgroup)))
                    .collect()
            }
        }
    }

    fn controller(&self, name: &str, cgroup: &Path) -> Option<PathBuf> {
        match self {
            Self::V2(mount) => Some(beneath(mount, cgroup)),
            Self::V1(controllers) => controllers.get(name).map(|mount| beneath(mount, cgroup)),
        }
    }

    /// Creates a cgroup and those above it. Existing is fine.
    pub fn create(&self, cgroup: &Path) -> Result<()> {
        match self {
            Self::V1(_) => {
                for (names, folder) in self.folders(cgroup) {
                    if names.contains(&"cpuset") {
                        let mount = &folder.ancestors().nth(depth(cgroup)).unwrap_or(&folder);
                        create_cpusets(mount, cgroup)?;
                    } else {
                        create_dirs(&folder)?;
                    }
                }
                Ok(())
            }
            Self::V2(mount) => {
                let mut folder = mount.clone();
                for component in crate::beneath::normalise(cgroup).components() {
                    let available = std::fs::read_to_string(folder.join("cgroup.controllers"))
                        .map_err(|error| at(error, &folder))?;
                    for controller in available.split_whitespace() {
                        // One that cannot be handed down (a real-time task
                        // holds `cpu`, say) must not keep the others back.
                        let _ = std::fs::write(
                            folder.join("cgroup.subtree_control"),
                            format!("+{controller}"),
                        );
                    }
                    folder.push(component);
                    create_dirs(&folder)?;
                }
                Ok(())
            }
        }
    }

    /// Whether the cgroup is there.
    pub fn exists(&self, cgroup: &Path) -> bool {
        self.folders(cgroup)
            .iter()
            .any(|(_, folder)| folder.is_dir())
    }

    /// Changes limits.
    pub fn apply(&self, cgroup: &Path, limits: &Limits) -> Result<()> {
        let files = match self {
            Self::V1(_) => limits.v1_files(),
            Self::V2(_) => limits.v2_files(),
        };
        for (controller, file, value) in files {
            let Some(folder) = self.controller(controller, cgroup) else {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("this kernel has no {controller} cgroup controller"),
                ));
            };
            let path = folder.join(&file);
            std::fs::write(&path, &value).map_err(|error| {
                Error::new(
                    error.kind(),
                    format!("writing {value} to {}: {error}", path.display()),
                )
            })?;
        }
        Ok(())
    }

    /// Moves a process in.
    pub fn add(&self, cgroup: &Path, pid: i32) -> Result<()> {
        for (_, folder) in self.folders(cgroup) {
            let path = folder.join("cgroup.procs");
            std::fs::write(&path, pid.to_string()).map_err(|error| at(error, &path))?;
        }
        Ok(())
    }

    /// Processes in the cgroup and beneath it.
    pub fn processes(&self, cgroup: &Path) -> Result<BTreeSet<i32>> {
        let mut pids = BTreeSet::new();
        for (_, folder) in self.folders(cgroup) {
            each_folder(&folder, &mut |folder| {
                match std::fs::read_to_string(folder.join("cgroup.procs")) {
                    Ok(text) => pids.extend(text.lines().filter_map(|l| l.parse::<i32>().ok())),
                    Err(error) if gone(&error) => {}
                    Err(error) => return Err(at(error, folder)),
                }
                Ok(())
            })?;
        }
        Ok(pids)
    }

    /// Kills every process in it and beneath it. Absent is fine.
    pub fn kill(&self, cgroup: &Path) -> Result<()> {
        if let Self::V2(mount) = self {
            match std::fs::write(beneath(mount, cgroup).join("cgroup.kill"), "1") {
                Ok(()) => return Ok(()),
                // Kernels before 5.14 have no such file.
                Err(error) if gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        // Frozen, nothing can fork away between look and kill.
        self.freeze(cgroup, true);
        let killed = self.kill_until_none_is_new(cgroup);
        self.freeze(cgroup, false);
        killed
    }

    fn kill_until_none_is_new(&self, cgroup: &Path) -> Result<()> {
        let mut seen = BTreeSet::new();
        loop {
            let now = self.processes(cgroup)?;
            if now.is_subset(&seen) {
                return Ok(());
            }
            for pid in now.difference(&seen).filter_map(|&pid| Pid::from_raw(pid)) {
                // It may have ended since; that is what is wanted.
                let _ = kill_process(pid, Signal::KILL);
            }
            seen.extend(now);
        }
    }

    /// Best effort: a kernel without the freezer still kills, only less at once.
    fn freeze(&self, cgroup: &Path, frozen: bool) {
        let Some(folder) = self.controller("freezer", cgroup) else {
            return;
        };
        let (file, value) = match (self, frozen) {
            (Self::V1(_), true) => ("freezer.state", "FROZEN"),
            (Self::V1(_), false) => ("freezer.state", "THAWED"),
            (Self::V2(_), true) => ("cgroup.freeze", "1"),
            (Self::V2(_), false) => ("cgroup.freeze", "0"),
        };
        let _ = std::fs::write(folder.join(file), value);
    }

    /// Removes the cgroup with those beneath it, whose processes must be dead
    /// or dying: waits up to `patience` for the last to be reaped. Blocks.
    pub fn remove(&self, cgroup: &Path, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        for (_, folder) in self.folders(cgroup) {
            let mut pause = Duration::from_millis(1);
            loop {
                match remove_tree(&folder) {
                    Err(error)
                        if error.kind() == ErrorKind::ResourceBusy && Instant::now() < deadline =>
                    {
                        std::thread::sleep(pause);
                        pause = (pause * 2).min(Duration::from_millis(50));
                    }
                    other => break other?,
                }
            }
        }
        Ok(())
    }

    /// Removes a cgroup, and those above it up to `root` excluded, as far as
    /// they are empty.
    pub fn remove_empty_parents(&self, cgroup: &Path, root: &Path) {
        for parent in cgroup
            .ancestors()
            .skip(1)
            .take_while(|p| p.starts_with(root) && *p != root)
        {
            for (_, folder) in self.folders(parent) {
                // Not empty: another pod lives there.
                let _ = std::fs::remove_dir(folder);
            }
        }
    }

    /// How often the kernel killed something in it for want of memory.
    pub fn oom_kills(&self, cgroup: &Path) -> u64 {
        let file = match self {
            Self::V1(_) => "memory.oom_control",
            Self::V2(_) => "memory.events",
        };
        self.controller("memory", cgroup)
            .and_then(|folder| std::fs::read_to_string(folder.join(file)).ok())
            .and_then(|text| field(&text, "oom_kill"))
            .unwrap_or(0)
    }

    /// What it uses.
    pub fn usage(&self, cgroup: &Path) -> Result<Usage> {
        let number = |controller: &str, file: &str| -> Result<u64> {
            let Some(folder) = self.controller(controller, cgroup) else {
                return Ok(0);
            };
            let path = folder.join(file);
            let text = std::fs::read_to_string(&path).map_err(|error| at(error, &path))?;
            Ok(text.trim().parse().unwrap_or(0))
        };
        let text = |controller: &str, file: &str| -> String {
            self.controller(controller, cgroup)
                .and_then(|folder| std::fs::read_to_string(folder.join(file)).ok())
                .unwrap_or_default()
        };
        let memory = text("memory", "memory.stat");
        let stat = |name| field(&memory, name).unwrap_or(0);
        Ok(match self {
            Self::V1(_) => Usage {
                cpu_ns: number("cpuacct", "cpuacct.usage")?,
                memory: number("memory", "memory.usage_in_bytes")?,
                inactive_file: stat("total_inactive_file"),
                anonymous: stat("total_rss"),
                page_faults: stat("total_pgfault"),
                major_page_faults: stat("total_pgmajfault"),
                pids: number("pids", "pids.current")?,
            },
            Self::V2(_) => Usage {
                cpu_ns: field(&text("cpu", "cpu.stat"), "usage_usec").unwrap_or(0) * 1000,
                memory: number("memory", "memory.current")?,
                inactive_file: stat("inactive_file"),
                anonymous: stat("anon"),
                page_faults: stat("pgfault"),
                major_page_faults: stat("pgmajfault"),
                pids: number("pids", "pids.current")?,
            },
        })
    }
}

type FileValue = (&'static str, String, String);

impl Limits {
    fn v1_files(&self) -> Vec<FileValue> {
        let mut files: Vec<FileValue> = Vec::new();
        let mut set = |controller, file: &str, value: Option<String>| {
            files.extend(value.map(|value| (controller, file.to_owned(), value)));
        };
        set(
            "cpu",
            "cpu.shares",
            self.cpu_shares.map(|n| n.clamp(2, 262_144).to_string()),
        );
        set(
            "cpu",
            "cpu.cfs_period_us",
            self.cpu_period.filter(|&n| n > 0).map(|n| n.to_string()),
        );
        set(
            "cpu",
            "cpu.cfs_quota_us",
            self.cpu_quota
                .filter(|&n| n != 0)
                .map(|n| n.max(-1).to_string()),
        );
        set(
            "memory",
            "memory.limit_in_bytes",
            self.memory
                .filter(|&n| n != 0)
                .map(|n| n.max(-1).to_string()),
        );
        set("pids", "pids.max", self.pids.map(max_or_number));
        set(
            "cpuset",
            "cpuset.cpus",
            self.cpuset_cpus.clone().filter(|s| !s.is_empty()),
        );
        set(
            "cpuset",
            "cpuset.mems",
            self.cpuset_mems.clone().filter(|s| !s.is_empty()),
        );
        for (size, bytes) in &self.hugepages {
            set(
                "hugetlb",
                &format!("hugetlb.{size}.limit_in_bytes"),
                Some(bytes.to_string()),
            );
        }
        files
    }

    fn v2_files(&self) -> Vec<FileValue> {
        let mut files: Vec<FileValue> = Vec::new();
        let mut set = |controller, file: &str, value: Option<String>| {
            files.extend(value.map(|value| (controller, file.to_owned(), value)));
        };
        set(
            "cpu",
            "cpu.weight",
            self.cpu_shares.map(|shares| cpu_weight(shares).to_string()),
        );
        if self.cpu_quota.is_some_and(|n| n != 0) || self.cpu_period.is_some_and(|n| n > 0) {
            let quota = self
                .cpu_quota
                .filter(|&n| n > 0)
                .map_or("max".into(), |n| n.to_string());
            let period = self.cpu_period.filter(|&n| n > 0).unwrap_or(100_000);
            set("cpu", "cpu.max", Some(format!("{quota} {period}")));
        }
        set(
            "memory",
            "memory.max",
            self.memory.filter(|&n| n != 0).map(max_or_number),
        );
        set(
            "memory",
            "memory.high",
            self.memory_high.filter(|&n| n != 0).map(max_or_number),
        );
        set("pids", "pids.max", self.pids.map(max_or_number));
        set(
            "cpuset",
            "cpuset.cpus",
            self.cpuset_cpus.clone().filter(|s| !s.is_empty()),
        );
        set(
            "cpuset",
            "cpuset.mems",
            self.cpuset_mems.clone().filter(|s| !s.is_empty()),
        );
        for (size, bytes) in &self.hugepages {
            set(
                "hugetlb",
                &format!("hugetlb.{size}.max"),
                Some(bytes.to_string()),
            );
        }
        files
    }
}

fn max_or_number(number: i64) -> String {
    if number > 0 {
        number.to_string()
    } else {
        "max".into()
    }
}

/// The v2 weight (1 to 10000) for v1 shares (2 to 262144), as Kubernetes maps them.
pub fn cpu_weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn beneath(mount: &Path, cgroup: &Path) -> PathBuf {
    mount.join(crate::beneath::normalise(cgroup))
}

fn depth(cgroup: &Path) -> usize {
    crate::beneath::normalise(cgroup).components().count()
}

/// A new v1 cpuset is empty, and an empty one takes no process: each level
/// starts with what is above it.
fn create_cpusets(mount: &Path, cgroup: &Path) -> Result<()> {
    let mut folder = mount.to_path_buf();
    for component in crate::beneath::normalise(cgroup).components() {
        let parent = folder.clone();
        folder.push(component);
        create_dirs(&folder)?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let path = folder.join(file);
            let own = std::fs::read_to_string(&path).map_err(|error| at(error, &path))?;
            if own.trim().is_empty() {
                let above = std::fs::read_to_string(parent.join(file))?;
                std::fs::write(&path, above.trim()).map_err(|error| at(error, &path))?;
            }
        }
    }
    Ok(())
}

fn create_dirs(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| at(error, folder))
}

fn remove_tree(folder: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if gone(&error) => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match std::fs::remove_dir(folder) {
        Err(error) if !gone(&error) => Err(at(error, folder)),
        _ => Ok(()),
    }
}

fn each_folder(folder: &Path, visit: &mut impl FnMut(&Path) -> Result<()>) -> Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if gone(&error) => return Ok(()),
        other => other?,
    };
    visit(folder)?;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            each_folder(&entry.path(), visit)?;
        }
    }
    Ok(())
}

/// The number after `name` in lines of `name number`.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        line.strip_prefix(name)?
            .strip_prefix(' ')?
            .trim()
            .parse()
            .ok()
    })
}

/// Absent, or removed between opening and reading (`ENODEV`).
fn gone(error: &Error) -> bool {
    error.kind() == ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

fn at(error: Error, path: &Path) -> Error {
    Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn hierarchies_are_told_apart() {
        let hybrid = "30 29 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      31 29 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                      32 29 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let Some(Cgroups::V1(v1)) = Cgroups::from_mountinfo(hybrid) else {
            panic!("not v1")
        };
        assert_eq!(v1.keys().collect::<Vec<_>>(), ["cpu", "cpuacct"]);
        let unified = "32 29 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(
            Cgroups::from_mountinfo(unified),
            Some(Cgroups::V2(PathBuf::from("/sys/fs/cgroup")))
        );
        assert_eq!(
            Cgroups::from_mountinfo("1 2 0:3 / / rw - ext4 /dev/sda rw"),
            None
        );
    }

    #[test]
    fn limits_become_files() {
        let limits = Limits {
            cpu_shares: Some(1024),
            cpu_quota: Some(-1),
            cpu_period: Some(100_000),
            memory: Some(1 << 20),
            pids: Some(0),
            ..Limits::default()
        };
        let v2: Vec<String> = limits
            .v2_files()
            .into_iter()
            .map(|(_, f, v)| format!("{f}={v}"))
            .collect();
        assert_eq!(
            v2,
            [
                "cpu.weight=39",
                "cpu.max=max 100000",
                "memory.max=1048576",
                "pids.max=max"
            ]
        );
        let v1: Vec<String> = limits
            .v1_files()
            .into_iter()
            .map(|(_, f, v)| format!("{f}={v}"))
            .collect();
        assert_eq!(
            v1,
            [
                "cpu.shares=1024",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=-1",
                "memory.limit_in_bytes=1048576",
                "pids.max=max"
            ]
        );
    }

    #[test]
    fn weights_cover_the_scale() {
        for (shares, weight) in [
            (0, 1),
            (2, 1),
            (1024, 39),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ] {
            assert_eq!(cpu_weight(shares), weight, "{shares}");
        }
    }
}

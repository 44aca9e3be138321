//! What the machine is and has.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use k8s_openapi::api::core::v1::NodeSystemInfo;

use crate::config::{Config, KUBELET_VERSION, RUNTIME_NAME};

/// Facts that do not change while the machine is up.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) cpus: u64,
    /// Bytes.
    pub(crate) memory: u64,
    /// Bytes of the file system that holds the kubelet's state.
    pub(crate) storage: u64,
    /// Huge page size in kibibytes to bytes reserved in all.
    pub(crate) huge_pages: BTreeMap<u64, u64>,
    /// Lowest `oom_score_adj` this process may give to a container.
    pub(crate) least_oom_score: i32,
    pub(crate) info: NodeSystemInfo,
}

/// What the machine uses now.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Nanoseconds since the Unix epoch.
    pub(crate) boot_time: i64,
    pub(crate) cpu_usage_ns: u64,
    /// Bytes.
    pub(crate) memory_available: u64,
    /// Bytes.
    pub(crate) memory_free: u64,
}

/// Which resources are short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pressure {
    pub(crate) memory: bool,
    pub(crate) disk: bool,
    pub(crate) pid: bool,
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// A field of `/proc/meminfo` in bytes.
fn meminfo(text: &str, field: &str) -> u64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kibi = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kibi.unwrap_or(0) << 10
}

fn os_image(os_release: &str) -> String {
    let line = os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.map(|name| name.trim_matches(['"', '\'']).to_owned())
        .unwrap_or_else(|| "Linux".into())
}

/// Architecture as Go names it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

impl Machine {
    /// Looks at this machine.
    pub(crate) fn detect(root_dir: &Path) -> Self {
        let mem = read("/proc/meminfo");
        let cpus = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN);
        let cpus = cpus
            .ok()
            .flatten()
            .and_then(|cpus| u64::try_from(cpus).ok())
            .unwrap_or(1);
        let storage = rustix::fs::statvfs(root_dir).map_or(0, |stat| stat.f_blocks * stat.f_frsize);
        let uname = rustix::system::uname();
        let os_release = Some(read("/etc/os-release")).filter(|text| !text.is_empty());
        let machine_id = read("/etc/machine-id");
        let system_uuid = Some(read("/sys/class/dmi/id/product_uuid")).filter(|id| !id.is_empty());
        let runtime = format!("{RUNTIME_NAME}://{}", env!("CARGO_PKG_VERSION"));
        Self {
            cpus,
            memory: meminfo(&mem, "MemTotal"),
            storage,
            huge_pages: huge_pages(Path::new("/sys/kernel/mm/hugepages")),
            least_oom_score: least_oom_score(
                &read("/proc/self/status"),
                &read("/proc/self/oom_score_adj"),
            ),
            info: NodeSystemInfo {
                architecture: architecture().into(),
                boot_id: read("/proc/sys/kernel/random/boot_id"),
                container_runtime_version: runtime,
                kernel_version: uname.release().to_string_lossy().into_owned(),
                kube_proxy_version: String::new(),
                kubelet_version: KUBELET_VERSION.into(),
                system_uuid: system_uuid.unwrap_or_else(|| machine_id.clone()),
                machine_id,
                operating_system: "linux".into(),
                os_image: os_image(&os_release.unwrap_or_else(|| read("/usr/lib/os-release"))),
                swap: Some(k8s_openapi::api::core::v1::NodeSwapStatus {
                    capacity: i64::try_from(meminfo(&mem, "SwapTotal")).ok(),
                }),
            },
        }
    }

    /// What is used now.
    pub(crate) fn usage(&self) -> Usage {
        let mem = read("/proc/meminfo");
        let stat = read("/proc/stat");
        let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
            .ok()
            .flatten();
        let tick_ns = 1_000_000_000 / u64::try_from(ticks.unwrap_or(100)).unwrap_or(100).max(1);
        let boot = stat
            .lines()
            .find_map(|line| line.strip_prefix("btime ")?.parse::<i64>().ok());
        Usage {
            boot_time: boot.unwrap_or(0).saturating_mul(1_000_000_000),
            cpu_usage_ns: busy_ticks(&stat).saturating_mul(tick_ns),
            memory_available: meminfo(&mem, "MemAvailable"),
            memory_free: meminfo(&mem, "MemFree"),
        }
    }

    /// The file system that holds the kubelet's state.
    pub(crate) fn root_fs(&self, root_dir: &Path) -> cri::FsUsage {
        let Ok(stat) = rustix::fs::statvfs(root_dir) else {
            return cri::FsUsage::default();
        };
        cri::FsUsage {
            used_bytes: (stat.f_blocks - stat.f_bfree) * stat.f_frsize,
            inodes_used: stat.f_files - stat.f_ffree,
            capacity_bytes: stat.f_blocks * stat.f_frsize,
            available_bytes: stat.f_bavail * stat.f_frsize,
            inodes: stat.f_files,
            inodes_free: stat.f_ffree,
        }
    }

    /// What is short now.
    pub(crate) fn pressure(&self, config: &Config) -> Pressure {
        let mem = read("/proc/meminfo");
        let available = meminfo(&mem, "MemAvailable");
        let disk = rustix::fs::statvfs(&config.root_dir).is_ok_and(|stat| {
            let share = |free: u64, all: u64| {
                if all == 0 {
                    1.0
                } else {
                    free as f64 / all as f64
                }
            };
            share(stat.f_bavail, stat.f_blocks) < config.eviction.nodefs_available
                || share(stat.f_favail, stat.f_files) < config.eviction.nodefs_inodes_free
        });
        let pid_max = read("/proc/sys/kernel/pid_max")
            .parse::<u64>()
            .unwrap_or(u64::MAX);
        let load = read("/proc/loadavg");
        let processes = load
            .split_whitespace()
            .nth(3)
            .and_then(|field| field.split_once('/'));
        let processes = processes
            .and_then(|(_, all)| all.parse::<u64>().ok())
            .unwrap_or(0);
        Pressure {
            memory: available < config.eviction.memory_available,
            disk,
            // The last tenth of the process ids is the node's own.
            pid: processes > pid_max - pid_max / 10,
        }
    }
}

/// Without `CAP_SYS_RESOURCE` a process may not go below its own score, and
/// neither may its children: a container would not start.
fn least_oom_score(status: &str, own: &str) -> i32 {
    const CAP_SYS_RESOURCE: u64 = 1 << 24;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    if effective.is_none_or(|effective| effective & CAP_SYS_RESOURCE != 0) {
        return -1000;
    }
    own.trim().parse().unwrap_or(0)
}

/// CPU time spent on anything, in clock ticks.
fn busy_ticks(stat: &str) -> u64 {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    let fields: Vec<u64> = line
        .iter()
        .flat_map(|line| line.split_whitespace())
        .filter_map(|f| f.parse().ok())
        .collect();
    // User, nice and system time, interrupts, and what was stolen; not idle and iowait.
    [0, 1, 2, 5, 6, 7]
        .iter()
        .filter_map(|index| fields.get(*index))
        .sum()
}

fn huge_pages(dir: &Path) -> BTreeMap<u64, u64> {
    let mut sizes = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let size = name.to_str().and_then(|name| {
            name.strip_prefix("hugepages-")?
                .strip_suffix("kB")?
                .parse::<u64>()
                .ok()
        });
        if let Some(size) = size {
            let pages = read(entry.path().join("nr_hugepages"))
                .parse::<u64>()
                .unwrap_or(0);
            sizes.insert(size, pages * (size << 10));
        }
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_tables() {
        let text = "MemTotal:       16303428 kB\nMemAvailable:    123 kB\n";
        assert_eq!(meminfo(text, "MemTotal"), 16_303_428 << 10);
        assert_eq!(meminfo(text, "MemAvailable"), 123 << 10);
        assert_eq!(meminfo(text, "SwapTotal"), 0);
        assert_eq!(busy_ticks("cpu  1 2 3 100 100 4 5 6 7 8\n"), 21);
        assert_eq!(least_oom_score("CapEff:\t000001ffffffffff", "7"), -1000);
        assert_eq!(least_oom_score("CapEff:\t000001fffeffffff", "7"), 7);
        assert_eq!(os_image("ID=x\nPRETTY_NAME=\"Debian 13\"\n"), "Debian 13");
    }
}

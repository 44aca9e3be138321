//! What containers, sandboxes and images use.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cri::{
    ContainerId, ContainerStats, FsUsage, NamespaceMode, PodSandboxId, PodSandboxStats, Result,
};
use linux::cgroup::Usage;

use super::Runtime;
use crate::error::{Context, blocking};
use crate::files::now;

impl Runtime {
    pub(super) async fn stats_of(&self, id: &ContainerId) -> Result<ContainerStats> {
        let shared = &self.shared;
        let container = shared.container(id)?;
        let dir = shared.container_dir(&container.record.sandbox, id);
        let cgroups = shared.cgroups.clone();
        let cgroup = container.record.cgroup.clone();
        blocking(move || {
            let usage = cgroups
                .usage(&cgroup)
                .context(|| format!("measuring cgroup {}", cgroup.display()))?;
            let (bytes, inodes) = disk_usage(&dir.join("upper"));
            Ok(ContainerStats {
                rootfs_used_bytes: bytes,
                rootfs_inodes_used: inodes,
                ..stats(usage)
            })
        })
        .await
    }

    pub(super) async fn sandbox_stats(&self, id: &PodSandboxId) -> Result<PodSandboxStats> {
        let shared = &self.shared;
        let sandbox = shared.sandbox(id)?;
        let cgroup = shared.pod_cgroup(id, &sandbox.record.config);
        let own_net = sandbox.record.config.network != NamespaceMode::Node && sandbox.ready;
        let net = own_net.then(|| shared.pod_run(id).join("net"));
        let cgroups = shared.cgroups.clone();
        blocking(move || {
            let usage = cgroups
                .usage(&cgroup)
                .context(|| format!("measuring cgroup {}", cgroup.display()))?;
            let table = match net {
                None => String::new(),
                Some(path) => linux::netns::run_in(&path, || {
                    std::fs::read_to_string("/proc/thread-self/net/dev")
                })
                .context(|| "entering the pod's network namespace".into())?
                .context(|| "reading the pod's interfaces".into())?,
            };
            Ok(PodSandboxStats {
                cgroup: stats(usage),
                ..interfaces(&table)
            })
        })
        .await
    }

    pub(super) fn image_usage(&self) -> Result<FsUsage> {
        let shared = &self.shared;
        let used = shared.store.usage();
        let disk = rustix::fs::statvfs(&shared.config.data_dir)
            .context(|| format!("measuring {}", shared.config.data_dir.display()))?;
        Ok(FsUsage {
            used_bytes: used.bytes,
            inodes_used: used.inodes,
            capacity_bytes: disk.f_blocks * disk.f_frsize,
            available_bytes: disk.f_bavail * disk.f_frsize,
            inodes: disk.f_files,
            inodes_free: disk.f_ffree,
        })
    }
}

fn stats(usage: Usage) -> ContainerStats {
    ContainerStats {
        at: now(),
        cpu_usage_ns: usage.cpu_ns,
        memory_usage: usage.memory,
        memory_working_set: usage.memory.saturating_sub(usage.inactive_file),
        memory_rss: usage.anonymous,
        page_faults: usage.page_faults,
        major_page_faults: usage.major_page_faults,
        pids: usage.pids,
        ..ContainerStats::default()
    }
}

/// Sums every interface but the loopback one.
fn interfaces(table: &str) -> PodSandboxStats {
    let mut sum = PodSandboxStats::default();
    for line in table.lines() {
        let Some((name, counters)) = line.split_once(':') else {
            continue;
        };
        if name.trim() == "lo" {
            continue;
        }
        let counters: Vec<u64> = counters
            .split_whitespace()
            .map(|n| n.parse().unwrap_or(0))
            .collect();
        if let [
            rx_bytes,
            _,
            rx_errors,
            _,
            _,
            _,
            _,
            _,
            tx_bytes,
            _,
            tx_errors,
            ..,
        ] = counters[..]
        {
            sum.rx_bytes += rx_bytes;
            sum.rx_errors += rx_errors;
            sum.tx_bytes += tx_bytes;
            sum.tx_errors += tx_errors;
        }
    }
    sum
}

/// Blocks and inodes beneath a folder; what vanishes meanwhile does not count.
fn disk_usage(folder: &Path) -> (u64, u64) {
    let (mut bytes, mut inodes) = (0, 0);
    let mut folders = vec![folder.to_owned()];
    let mut linked = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(stat) = entry.metadata() else { continue };
            if stat.nlink() > 1 && !stat.is_dir() && !linked.insert((stat.dev(), stat.ino())) {
                continue;
            }
            bytes += stat.blocks() * 512;
            inodes += 1;
            if stat.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    (bytes, inodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_summed() {
        let table = "Inter-|   Receive  |  Transmit\n face |bytes packets errs\n\
            lo: 9 1 1 0 0 0 0 0 9 1 1 0 0 0 0 0\n\
            eth0: 100 2 3 0 0 0 0 0 200 4 5 0 0 0 0 0\n";
        let sum = interfaces(table);
        assert_eq!(
            (sum.rx_bytes, sum.rx_errors, sum.tx_bytes, sum.tx_errors),
            (100, 3, 200, 5)
        );
    }
}

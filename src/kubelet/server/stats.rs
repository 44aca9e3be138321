//! `/stats/summary`: what the node, its pods and containers use.

use std::sync::Arc;

use cri::ContainerStats;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Server;
use super::reply::{Reply, json as json_reply};
use crate::pod::{PodView, name, namespace, uid};

/// Statistics of a pod's containers by name.
pub(super) async fn containers(
    server: &Arc<Server>,
    view: &PodView,
) -> Vec<(String, i64, ContainerStats)> {
    let mut all = Vec::new();
    for run in view.observed.running() {
        match server.shared.runtime.container_stats(&run.id).await {
            Ok(stats) => all.push((run.config.name.clone(), run.started_at, stats)),
            Err(error) => {
                tracing::debug!(container = %run.id, error = %base::Chain(&error), "statistics");
            }
        }
    }
    all
}

fn time(nanos: i64) -> String {
    let at = Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or_default();
    base::time::rfc3339(at)
}

fn cpu(stats: &ContainerStats) -> Value {
    json!({"time": time(stats.at), "usageCoreNanoSeconds": stats.cpu_usage_ns})
}

fn memory(stats: &ContainerStats) -> Value {
    json!({"time": time(stats.at), "usageBytes": stats.memory_usage,
        "workingSetBytes": stats.memory_working_set, "rssBytes": stats.memory_rss,
        "pageFaults": stats.page_faults, "majorPageFaults": stats.major_page_faults})
}

/// Answers `GET /stats/summary`.
pub(super) async fn summary(server: &Arc<Server>) -> Reply {
    let now = i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(0);
    let mut pods = Vec::new();
    for view in server.pods.views() {
        let containers: Vec<Value> = containers(server, &view)
            .await
            .iter()
            .map(|(name, started_at, stats)| {
                json!({"name": name, "startTime": time(*started_at), "cpu": cpu(stats),
                    "memory": memory(stats),
                    "rootfs": {"time": time(stats.at), "usedBytes": stats.rootfs_used_bytes,
                        "inodesUsed": stats.rootfs_inodes_used}})
            })
            .collect();
        let Some(sandbox) = view.observed.sandboxes.first() else {
            continue;
        };
        let mut pod = json!({
            "podRef": {"name": name(&view.pod), "namespace": namespace(&view.pod),
                "uid": uid(&view.pod)},
            "startTime": time(sandbox.created_at), "containers": containers});
        if let Ok(stats) = server.shared.runtime.pod_sandbox_stats(&sandbox.id).await {
            pod["cpu"] = cpu(&stats.cgroup);
            pod["memory"] = memory(&stats.cgroup);
            pod["process_stats"] = json!({"process_count": stats.cgroup.pids});
            pod["network"] = json!({"time": time(now), "name": "eth0",
                "rxBytes": stats.rx_bytes, "rxErrors": stats.rx_errors,
                "txBytes": stats.tx_bytes, "txErrors": stats.tx_errors});
        }
        pods.push(pod);
    }
    let node = server.machine.usage();
    let images = server
        .shared
        .images
        .image_fs_usage()
        .await
        .unwrap_or_default();
    let root = server.machine.root_fs(&server.shared.config.root_dir);
    json_reply(&json!({
        "node": {"nodeName": server.shared.config.node_name, "startTime": time(node.boot_time),
            "cpu": {"time": time(now), "usageCoreNanoSeconds": node.cpu_usage_ns},
            "memory": {"time": time(now), "availableBytes": node.memory_available,
                "usageBytes": server.machine.memory.saturating_sub(node.memory_free),
                "workingSetBytes": server.machine.memory.saturating_sub(node.memory_available)},
            "fs": {"time": time(now), "availableBytes": root.available_bytes,
                "capacityBytes": root.capacity_bytes, "usedBytes": root.used_bytes,
                "inodesFree": root.inodes_free, "inodes": root.inodes,
                "inodesUsed": root.inodes_used},
            "runtime": {"imageFs": {"time": time(now), "availableBytes": images.available_bytes,
                "capacityBytes": images.capacity_bytes, "usedBytes": images.used_bytes,
                "inodesFree": images.inodes_free, "inodes": images.inodes,
                "inodesUsed": images.inodes_used}}},
        "pods": pods}))
}

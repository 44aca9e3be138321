//! Metrics in the Prometheus text format.

use std::fmt::Write;
use std::sync::Arc;

use super::Server;
use super::reply::{Reply, prometheus};
use super::stats::containers;
use crate::config::KUBELET_VERSION;
use crate::pod::{name, namespace};

fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// The kubelet's own: how many pods and containers there are.
pub(super) fn own(server: &Arc<Server>) -> Reply {
    let views = server.pods.views();
    let running_pods = views
        .iter()
        .filter(|view| view.observed.running().next().is_some())
        .count();
    let running: usize = views
        .iter()
        .map(|view| view.observed.running().count())
        .sum();
    let mut out = String::new();
    family(
        &mut out,
        "kubernetes_build_info",
        "gauge",
        "Version of this kubelet.",
    );
    let _ = writeln!(
        out,
        "kubernetes_build_info{{git_version=\"{KUBELET_VERSION}\"}} 1"
    );
    family(
        &mut out,
        "kubelet_running_pods",
        "gauge",
        "Number of pods that run.",
    );
    let _ = writeln!(out, "kubelet_running_pods {running_pods}");
    family(
        &mut out,
        "kubelet_running_containers",
        "gauge",
        "Number of containers by state.",
    );
    let _ = writeln!(
        out,
        "kubelet_running_containers{{container_state=\"running\"}} {running}"
    );
    family(&mut out, "kubelet_node_name", "gauge", "The node's name.");
    let _ = writeln!(
        out,
        "kubelet_node_name{{node={:?}}} 1",
        server.shared.config.node_name
    );
    prometheus(out)
}

/// What autoscalers read: CPU time and memory of node, pods and containers.
pub(super) async fn resource(server: &Arc<Server>) -> Reply {
    let mut out = String::new();
    let mut cpu = String::new();
    let mut memory = String::new();
    let mut start = String::new();
    for view in server.pods.views() {
        let (ns, pod) = (namespace(&view.pod), name(&view.pod));
        for (container, started_at, stats) in containers(server, &view).await {
            let labels = format!("{{container=\"{container}\",namespace=\"{ns}\",pod=\"{pod}\"}}");
            let at = stats.at / 1_000_000;
            let seconds = stats.cpu_usage_ns as f64 / 1e9;
            let _ = writeln!(
                cpu,
                "container_cpu_usage_seconds_total{labels} {seconds} {at}"
            );
            let bytes = stats.memory_working_set;
            let _ = writeln!(
                memory,
                "container_memory_working_set_bytes{labels} {bytes} {at}"
            );
            let began = started_at as f64 / 1e9;
            let _ = writeln!(start, "container_start_time_seconds{labels} {began}");
        }
    }
    let node = server.machine.usage();
    family(
        &mut out,
        "container_cpu_usage_seconds_total",
        "counter",
        "CPU time in core-seconds.",
    );
    out.push_str(&cpu);
    family(
        &mut out,
        "container_memory_working_set_bytes",
        "gauge",
        "Working set in bytes.",
    );
    out.push_str(&memory);
    family(
        &mut out,
        "container_start_time_seconds",
        "gauge",
        "Start, in seconds since 1970.",
    );
    out.push_str(&start);
    family(
        &mut out,
        "node_cpu_usage_seconds_total",
        "counter",
        "CPU time in core-seconds.",
    );
    let _ = writeln!(
        out,
        "node_cpu_usage_seconds_total {}",
        node.cpu_usage_ns as f64 / 1e9
    );
    family(
        &mut out,
        "node_memory_working_set_bytes",
        "gauge",
        "Working set in bytes.",
    );
    let used = server.machine.memory.saturating_sub(node.memory_available);
    let _ = writeln!(out, "node_memory_working_set_bytes {used}");
    family(
        &mut out,
        "resource_scrape_error",
        "gauge",
        "1 if a scrape failed, otherwise 0.",
    );
    out.push_str("resource_scrape_error 0\n");
    prometheus(out)
}

/// Container figures under the names dashboards know.
pub(super) async fn cadvisor(server: &Arc<Server>) -> Reply {
    let mut out = String::new();
    let mut cpu = String::new();
    let mut usage = String::new();
    let mut working_set = String::new();
    let mut rss = String::new();
    for view in server.pods.views() {
        let (ns, pod) = (namespace(&view.pod), name(&view.pod));
        for (container, _, stats) in containers(server, &view).await {
            let labels = format!("container=\"{container}\",namespace=\"{ns}\",pod=\"{pod}\"");
            let seconds = stats.cpu_usage_ns as f64 / 1e9;
            let _ = writeln!(
                cpu,
                "container_cpu_usage_seconds_total{{{labels},cpu=\"total\"}} {seconds}"
            );
            let _ = writeln!(
                usage,
                "container_memory_usage_bytes{{{labels}}} {}",
                stats.memory_usage
            );
            let bytes = stats.memory_working_set;
            let _ = writeln!(
                working_set,
                "container_memory_working_set_bytes{{{labels}}} {bytes}"
            );
            let _ = writeln!(rss, "container_memory_rss{{{labels}}} {}", stats.memory_rss);
        }
    }
    for (name, kind, help, lines) in [
        (
            "container_cpu_usage_seconds_total",
            "counter",
            "CPU time in core-seconds.",
            cpu,
        ),
        (
            "container_memory_usage_bytes",
            "gauge",
            "Memory in use, cache included.",
            usage,
        ),
        (
            "container_memory_working_set_bytes",
            "gauge",
            "Working set in bytes.",
            working_set,
        ),
        (
            "container_memory_rss",
            "gauge",
            "Anonymous memory in bytes.",
            rss,
        ),
    ] {
        family(&mut out, name, kind, help);
        out.push_str(&lines);
    }
    prometheus(out)
}

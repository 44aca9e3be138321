//! Counters under upstream's names, in Prometheus' text form.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

const BUCKETS: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0,
    10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
];

/// What requests are told apart by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RequestLabels {
    pub verb: &'static str,
    pub group: String,
    pub version: String,
    pub resource: String,
    pub subresource: String,
    pub code: u16,
    pub dry_run: bool,
}

#[derive(Clone, Debug, Default)]
struct Series {
    count: u64,
    seconds: f64,
    buckets: [u64; BUCKETS.len()],
}

/// The server's metrics.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<RequestLabels, Series>>,
    pub in_flight_mutating: AtomicI64,
    pub in_flight_reading: AtomicI64,
    pub long_running: AtomicI64,
}

impl Metrics {
    pub(crate) fn observe(&self, labels: RequestLabels, took: Duration) {
        let seconds = took.as_secs_f64();
        let mut requests = self.requests.lock();
        let series = requests.entry(labels).or_default();
        series.count += 1;
        series.seconds += seconds;
        for (bucket, limit) in series.buckets.iter_mut().zip(BUCKETS) {
            if seconds <= *limit {
                *bucket += 1;
            }
        }
    }

    /// The exposition text; `objects` are counts of stored objects by resource.
    pub(crate) fn render(&self, version: &str, objects: &[(String, usize)]) -> String {
        let mut out = String::with_capacity(16 * 1024);
        let requests = self.requests.lock().clone();
        head(
            &mut out,
            "apiserver_request_total",
            "counter",
            "Requests by verb, dry run, group, version, resource, subresource, scope and code.",
        );
        for (labels, series) in &requests {
            line(
                &mut out,
                &format!(
                    "apiserver_request_total{{code=\"{}\",component=\"apiserver\",dry_run=\"{}\",{}}}",
                    labels.code,
                    if labels.dry_run { "All" } else { "" },
                    common(labels)
                ),
                series.count,
            );
        }
        head(
            &mut out,
            "apiserver_request_duration_seconds",
            "histogram",
            "Response latency in seconds by verb, group, version, resource and subresource.",
        );
        let mut merged: BTreeMap<RequestLabels, Series> = BTreeMap::new();
        for (mut labels, series) in requests {
            labels.code = 0;
            let sum = merged.entry(labels).or_default();
            sum.count += series.count;
            sum.seconds += series.seconds;
            for (bucket, more) in sum.buckets.iter_mut().zip(series.buckets) {
                *bucket += more;
            }
        }
        for (labels, series) in &merged {
            let common = format!("component=\"apiserver\",{}", common(labels));
            let name = "apiserver_request_duration_seconds";
            for (limit, count) in BUCKETS.iter().zip(series.buckets) {
                line(
                    &mut out,
                    &format!("{name}_bucket{{{common},le=\"{limit}\"}}"),
                    count,
                );
            }
            line(
                &mut out,
                &format!("{name}_bucket{{{common},le=\"+Inf\"}}"),
                series.count,
            );
            line(&mut out, &format!("{name}_sum{{{common}}}"), series.seconds);
            line(&mut out, &format!("{name}_count{{{common}}}"), series.count);
        }
        head(
            &mut out,
            "apiserver_current_inflight_requests",
            "gauge",
            "Requests being served, by kind.",
        );
        for (kind, value) in [
            ("mutating", &self.in_flight_mutating),
            ("readOnly", &self.in_flight_reading),
        ] {
            line(
                &mut out,
                &format!("apiserver_current_inflight_requests{{request_kind=\"{kind}\"}}"),
                value.load(Ordering::Relaxed),
            );
        }
        head(
            &mut out,
            "apiserver_longrunning_requests",
            "gauge",
            "Watches and streams being served.",
        );
        line(
            &mut out,
            "apiserver_longrunning_requests{component=\"apiserver\"}",
            self.long_running.load(Ordering::Relaxed),
        );
        head(
            &mut out,
            "apiserver_storage_objects",
            "gauge",
            "Stored objects by resource, for resources in memory.",
        );
        for (resource, count) in objects {
            line(
                &mut out,
                &format!("apiserver_storage_objects{{resource=\"{resource}\"}}"),
                count,
            );
        }
        head(
            &mut out,
            "kubernetes_build_info",
            "gauge",
            "1, labelled with the version.",
        );
        line(
            &mut out,
            &format!("kubernetes_build_info{{git_version=\"{version}\",major=\"1\",minor=\"36\"}}"),
            1,
        );
        out
    }
}

fn common(labels: &RequestLabels) -> String {
    let scope = match labels.verb {
        "LIST" | "WATCH" | "DELETECOLLECTION" => "cluster",
        _ => "resource",
    };
    format!(
        "group=\"{}\",resource=\"{}\",scope=\"{scope}\",subresource=\"{}\",verb=\"{}\",version=\"{}\"",
        labels.group, labels.resource, labels.subresource, labels.verb, labels.version
    )
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, name: &str, value: impl std::fmt::Display) {
    let _ = writeln!(out, "{name} {value}");
}

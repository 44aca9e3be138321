//! The status of the Node object: pure functions of what the machine says.

use std::collections::BTreeMap;

use cri::Image;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
    NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Map, Value, json};

use super::machine::{Machine, Pressure, architecture};
use crate::config::Config;
use crate::quantity::{self, ResourceList};

const MAX_IMAGES: usize = 50;
const MAX_IMAGE_NAMES: usize = 5;

/// Labels the node registers with.
pub(crate) fn labels(config: &Config, _: &Machine) -> BTreeMap<String, String> {
    let mut labels = config.labels.clone();
    for (key, value) in [
        ("beta.kubernetes.io/arch", architecture()),
        ("beta.kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/hostname", &config.node_name),
    ] {
        labels.insert(key.into(), value.into());
    }
    let kind = "node.kubernetes.io/instance-type";
    labels.entry(kind.into()).or_insert_with(|| "karve".into());
    labels
}

/// Everything the machine has.
pub(crate) fn capacity(config: &Config, machine: &Machine) -> ResourceList {
    let mut list = ResourceList::new();
    list.insert(
        "cpu".into(),
        quantity::of(i64::try_from(machine.cpus).unwrap_or(i64::MAX)),
    );
    list.insert("memory".into(), quantity::of_kibi(machine.memory));
    list.insert(
        "ephemeral-storage".into(),
        quantity::of_kibi(machine.storage),
    );
    list.insert("pods".into(), quantity::of(i64::from(config.max_pods)));
    for (kibi, bytes) in &machine.huge_pages {
        let size = match kibi {
            kibi if kibi % (1 << 20) == 0 => format!("{}Gi", kibi >> 20),
            kibi if kibi % (1 << 10) == 0 => format!("{}Mi", kibi >> 10),
            kibi => format!("{kibi}Ki"),
        };
        let bytes = i64::try_from(*bytes).unwrap_or(i64::MAX);
        list.insert(format!("hugepages-{size}"), quantity::of(bytes));
    }
    list
}

/// What pods may use: capacity less what is reserved and the eviction thresholds.
pub(crate) fn allocatable(config: &Config, machine: &Machine) -> ResourceList {
    let mut list = capacity(config, machine);
    let bytes = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let reserved = |name: &str| {
        let text = config.reserved.get(name).cloned().unwrap_or_default();
        k8s_openapi::apimachinery::pkg::api::resource::Quantity(text)
    };
    if let Some(cpu) = list.get_mut("cpu") {
        let left = quantity::milli_value(cpu) - quantity::milli_value(&reserved("cpu"));
        *cpu = quantity::of_milli(left.max(0));
    }
    if let Some(memory) = list.get_mut("memory") {
        let huge: u64 = machine.huge_pages.values().sum();
        let taken = bytes(config.eviction.memory_available)
            + quantity::value(&reserved("memory"))
            + bytes(huge);
        let left = (quantity::value(memory) - taken).max(0);
        *memory = quantity::of_kibi(u64::try_from(left).unwrap_or(0));
    }
    if let Some(storage) = list.get_mut("ephemeral-storage") {
        let evict = (machine.storage as f64 * config.eviction.nodefs_available) as i64;
        let left = bytes(machine.storage) - evict - quantity::value(&reserved("ephemeral-storage"));
        *storage = quantity::of(left.max(0));
    }
    list
}

/// Computes the status; what stays the same keeps its transition time.
pub(crate) fn status(
    config: &Config,
    machine: &Machine,
    images: &[Image],
    pressure: Pressure,
    old: &NodeStatus,
    now: Timestamp,
) -> NodeStatus {
    let mut addresses: Vec<NodeAddress> = config
        .node_ips
        .iter()
        .map(|ip| NodeAddress {
            type_: "InternalIP".into(),
            address: ip.to_string(),
        })
        .collect();
    addresses.push(NodeAddress {
        type_: "Hostname".into(),
        address: config.node_name.clone(),
    });
    let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    let conditions = [
        short(
            "MemoryPressure",
            pressure.memory,
            (
                "KubeletHasInsufficientMemory",
                "kubelet has insufficient memory available",
            ),
            (
                "KubeletHasSufficientMemory",
                "kubelet has sufficient memory available",
            ),
        ),
        short(
            "DiskPressure",
            pressure.disk,
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        short(
            "PIDPressure",
            pressure.pid,
            (
                "KubeletHasInsufficientPID",
                "kubelet has insufficient PID available",
            ),
            (
                "KubeletHasSufficientPID",
                "kubelet has sufficient PID available",
            ),
        ),
        (
            "Ready",
            true,
            "KubeletReady",
            "kubelet is posting ready status",
        ),
    ];
    let conditions = conditions.map(|(kind, holds, reason, message)| {
        let status = if holds { "True" } else { "False" };
        let before = old
            .conditions
            .iter()
            .flatten()
            .find(|before| before.type_ == kind);
        let since = before
            .filter(|before| before.status == status)
            .and_then(|before| before.last_transition_time.clone());
        NodeCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: Some(now.clone()),
            last_transition_time: since.or_else(|| Some(now.clone())),
        }
    });
    NodeStatus {
        addresses: Some(addresses),
        capacity: Some(capacity(config, machine)),
        allocatable: Some(allocatable(config, machine)),
        conditions: Some(conditions.into()),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint {
                port: i32::from(config.port),
            }),
        }),
        images: Some(image_list(images)).filter(|images| !images.is_empty()),
        node_info: Some(machine.info.clone()),
        features: Some(NodeFeatures {
            supplemental_groups_policy: Some(true),
        }),
        runtime_handlers: Some(vec![NodeRuntimeHandler {
            name: Some(String::new()),
            features: Some(NodeRuntimeHandlerFeatures {
                recursive_read_only_mounts: Some(true),
                user_namespaces: Some(false),
            }),
        }]),
        ..Default::default()
    }
}

type Short = (&'static str, bool, &'static str, &'static str);

fn short(
    kind: &'static str,
    holds: bool,
    bad: (&'static str, &'static str),
    good: (&'static str, &'static str),
) -> Short {
    let (reason, message) = if holds { bad } else { good };
    (kind, holds, reason, message)
}

/// The largest images.
fn image_list(images: &[Image]) -> Vec<ContainerImage> {
    let mut sorted: Vec<&Image> = images.iter().collect();
    sorted.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    let list = sorted.into_iter().take(MAX_IMAGES).map(|image| {
        let names = image.repo_digests.iter().chain(&image.repo_tags);
        ContainerImage {
            names: Some(names.take(MAX_IMAGE_NAMES).cloned().collect()),
            size_bytes: i64::try_from(image.size).ok(),
        }
    });
    list.collect()
}

/// A status without the heartbeats, which alone are no change.
fn without_heartbeats(status: &NodeStatus) -> NodeStatus {
    let mut status = status.clone();
    for condition in status.conditions.iter_mut().flatten() {
        condition.last_heartbeat_time = None;
    }
    status
}

/// The parts of a status this node writes.
fn own_fields(status: &NodeStatus) -> Map<String, Value> {
    let mut fields = match serde_json::to_value(status) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    fields.retain(|key, _| !matches!(key.as_str(), "volumesAttached" | "volumesInUse" | "phase"));
    fields
}

fn own_conditions(fields: &mut Map<String, Value>) {
    if let Some(Value::Array(conditions)) = fields.get_mut("conditions") {
        conditions.retain(|condition| {
            let kind = condition["type"].as_str().unwrap_or_default();
            matches!(
                kind,
                "MemoryPressure" | "DiskPressure" | "PIDPressure" | "Ready"
            )
        });
    }
}

/// Whether there is more to tell than a heartbeat.
pub(crate) fn differs(old: &NodeStatus, new: &NodeStatus) -> bool {
    let comparable = |status: &NodeStatus| {
        let mut fields = own_fields(&without_heartbeats(status));
        own_conditions(&mut fields);
        fields
    };
    comparable(old) != comparable(new)
}

/// The strategic merge patch from one status to another, heartbeats included.
pub(crate) fn patch(old: &NodeStatus, new: &NodeStatus) -> Value {
    let (before, mut after) = (own_fields(old), own_fields(new));
    after.retain(|key, value| key == "conditions" || before.get(key) != Some(value));
    if let Some(Value::Array(addresses)) = after.get_mut("addresses") {
        // Addresses merge by type, of which there may be two: replace them all.
        addresses.insert(0, json!({"$patch": "replace"}));
    }
    json!({"status": after})
}

/// Reasons worth an event: conditions that are not what they were.
pub(crate) fn transitions(old: &NodeStatus, new: &NodeStatus) -> Vec<&'static str> {
    let find = |status: &NodeStatus, kind: &str| {
        let mut all = status.conditions.iter().flatten();
        all.find(|condition| condition.type_ == kind)
            .map(|condition| condition.status.clone())
    };
    let names = [
        (
            "MemoryPressure",
            "NodeHasInsufficientMemory",
            "NodeHasSufficientMemory",
        ),
        (
            "DiskPressure",
            "NodeHasDiskPressure",
            "NodeHasNoDiskPressure",
        ),
        (
            "PIDPressure",
            "NodeHasInsufficientPID",
            "NodeHasSufficientPID",
        ),
        ("Ready", "NodeReady", "NodeNotReady"),
    ];
    let mut reasons = Vec::new();
    for (kind, on, off) in names {
        let (before, now) = (find(old, kind), find(new, kind));
        if before != now {
            reasons.push(if now.as_deref() == Some("True") {
                on
            } else {
                off
            });
        }
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn machine() -> Machine {
        Machine {
            cpus: 2,
            memory: 4 << 30,
            storage: 100 << 30,
            huge_pages: [(2048, 0)].into(),
            least_oom_score: -1000,
            info: Default::default(),
        }
    }

    #[test]
    fn allocatable_keeps_something_back() {
        let mut config = Config::new("n", IpAddr::from([10, 0, 0, 1]), "/tmp");
        config.reserved.insert("cpu".into(), "100m".into());
        let list = allocatable(&config, &machine());
        let check = |name: &str, want: &str| assert_eq!(list[name].0, want, "{name}");
        check("cpu", "1900m");
        check("memory", "4091904Ki");
        check("pods", "110");
        check("hugepages-2Mi", "0");
        check("ephemeral-storage", "96636764160");
    }

    #[test]
    fn heartbeats_are_no_change() {
        let config = Config::new("n", IpAddr::from([10, 0, 0, 1]), "/tmp");
        let at = |second| Timestamp::from_second(second).expect("in range");
        let make = |pressure, old: &NodeStatus, second| {
            status(&config, &machine(), &[], pressure, old, at(second))
        };
        let first = make(Pressure::default(), &NodeStatus::default(), 100);
        let second = make(Pressure::default(), &first, 200);
        assert!(differs(&NodeStatus::default(), &first));
        assert!(!differs(&first, &second));
        assert_eq!(transitions(&first, &second), Vec::<&str>::new());
        let tight = Pressure {
            memory: true,
            ..Default::default()
        };
        let third = make(tight, &second, 300);
        assert!(differs(&second, &third));
        assert_eq!(transitions(&second, &third), ["NodeHasInsufficientMemory"]);
        let patch = patch(&second, &third);
        assert!(
            patch["status"].get("addresses").is_none(),
            "only what changed is sent"
        );
        assert_eq!(patch["status"]["conditions"][0]["status"], "True");
        assert_eq!(
            patch["status"]["conditions"][3]["lastTransitionTime"],
            "1970-01-01T00:01:40Z"
        );
    }
}

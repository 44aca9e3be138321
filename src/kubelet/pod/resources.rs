//! Requests and limits in kernel terms: QoS classes, cgroup names and values,
//! OOM scores.

use std::collections::BTreeMap;

use cri::ContainerResources;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

use super::spec::{containers, init_containers, is_sidecar, spec, uid};
use crate::quantity::{self, ResourceList};

const CPU_PERIOD_US: u64 = 100_000;
const MIN_QUOTA_US: i64 = 1000;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
const GUARANTEED_OOM_SCORE: i64 = -997;
const BEST_EFFORT_OOM_SCORE: i64 = 1000;
const SYSTEM_NODE_CRITICAL: i32 = 2_000_001_000;

/// Quality of service class of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl QosClass {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    /// The class of a pod, by its pod level resources if it has them, else by
    /// its containers'.
    pub(crate) fn of(pod: &Pod) -> Self {
        let own = spec(pod).resources.as_ref().filter(|own| has_any(own));
        let all: Vec<Option<&ResourceRequirements>> = match own {
            Some(own) => vec![Some(own)],
            None => init_containers(pod)
                .iter()
                .chain(containers(pod))
                .map(|container| container.resources.as_ref())
                .collect(),
        };
        let mut any = false;
        let mut guaranteed = true;
        for resources in all {
            for resource in ["cpu", "memory"] {
                let request = amount(resources.and_then(|r| r.requests.as_ref()), resource);
                let limit = amount(resources.and_then(|r| r.limits.as_ref()), resource);
                any |= request > 0 || limit > 0;
                guaranteed &= limit > 0 && (request == 0 || request == limit);
            }
        }
        match (any, guaranteed) {
            (false, _) => Self::BestEffort,
            (true, true) => Self::Guaranteed,
            (true, false) => Self::Burstable,
        }
    }
}

fn has_any(resources: &ResourceRequirements) -> bool {
    ["cpu", "memory"].iter().any(|resource| {
        amount(resources.requests.as_ref(), resource) > 0
            || amount(resources.limits.as_ref(), resource) > 0
    })
}

/// CPU in thousandths, anything else in whole units.
fn amount(list: Option<&ResourceList>, resource: &str) -> i64 {
    let quantity = list.and_then(|list| list.get(resource));
    quantity.map_or(0, |quantity| match resource {
        "cpu" => quantity::milli_value(quantity),
        _ => quantity::value(quantity),
    })
}

/// Cgroup folder of a pod: `/kubepods/podUID` if guaranteed, else beneath its class.
pub(crate) fn cgroup_parent(pod: &Pod) -> String {
    match QosClass::of(pod) {
        QosClass::Guaranteed => format!("/kubepods/pod{}", uid(pod)),
        QosClass::Burstable => format!("/kubepods/burstable/pod{}", uid(pod)),
        QosClass::BestEffort => format!("/kubepods/besteffort/pod{}", uid(pod)),
    }
}

fn shares(milli_cpu: i64) -> u64 {
    if milli_cpu == 0 {
        return MIN_SHARES as u64;
    }
    (milli_cpu.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES) as u64
}

fn quota(milli_cpu: i64) -> i64 {
    (milli_cpu.saturating_mul(CPU_PERIOD_US as i64) / 1000).max(MIN_QUOTA_US)
}

/// Sums a resource over the pod as the scheduler does: regular containers and
/// sidecars together, or the largest moment of initialisation if that is more.
fn pod_sum(
    pod: &Pod,
    resource: &str,
    of: impl Fn(&ResourceRequirements) -> Option<&ResourceList>,
) -> i64 {
    if let Some(own) = spec(pod).resources.as_ref().and_then(&of)
        && own.contains_key(resource)
    {
        return amount(Some(own), resource);
    }
    let get = |container: &Container| amount(container.resources.as_ref().and_then(&of), resource);
    let mut sidecars = 0;
    let mut largest_init = 0;
    for container in init_containers(pod) {
        if is_sidecar(container) {
            sidecars += get(container);
            largest_init = largest_init.max(sidecars);
        } else {
            largest_init = largest_init.max(sidecars + get(container));
        }
    }
    let running: i64 = containers(pod).iter().map(get).sum::<i64>() + sidecars;
    let overhead = amount(spec(pod).overhead.as_ref(), resource);
    running.max(largest_init) + overhead
}

/// Sum of a resource's requests over the pod: CPU in thousandths.
pub(crate) fn pod_requests(pod: &Pod, resource: &str) -> i64 {
    pod_sum(pod, resource, |resources| resources.requests.as_ref())
}

/// Sum of a resource's limits over the pod: CPU in thousandths.
pub(crate) fn pod_limits(pod: &Pod, resource: &str) -> i64 {
    pod_sum(pod, resource, |resources| resources.limits.as_ref())
}

/// Limits of the pod's cgroup. CPU and memory are capped only if every
/// container (or the pod itself) declares a limit.
pub(crate) fn pod_resources(pod: &Pod) -> ContainerResources {
    let declared = |resource: &str| {
        let own = spec(pod).resources.as_ref();
        amount(own.and_then(|own| own.limits.as_ref()), resource) > 0
            || init_containers(pod)
                .iter()
                .chain(containers(pod))
                .all(|container| {
                    let resources = container.resources.as_ref();
                    amount(resources.and_then(|r| r.limits.as_ref()), resource) > 0
                })
    };
    let class = QosClass::of(pod);
    let mut result = ContainerResources {
        cpu_shares: Some(shares(match class {
            QosClass::BestEffort => 0,
            _ => pod_requests(pod, "cpu"),
        })),
        hugepage_limits: hugepage_limits(&pod_hugepages(pod)),
        ..Default::default()
    };
    if class != QosClass::BestEffort {
        if declared("cpu") {
            result.cpu_quota = Some(quota(pod_limits(pod, "cpu")));
            result.cpu_period = Some(CPU_PERIOD_US);
        }
        if declared("memory") {
            result.memory_limit = Some(pod_limits(pod, "memory"));
        }
    }
    result
}

fn pod_hugepages(pod: &Pod) -> ResourceList {
    let mut sizes = ResourceList::new();
    for container in init_containers(pod).iter().chain(containers(pod)) {
        let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
        for name in limits.iter().flat_map(|limits| limits.keys()) {
            if name.starts_with("hugepages-") {
                sizes.insert(name.clone(), quantity::of(pod_limits(pod, name)));
            }
        }
    }
    sizes
}

/// Huge page limits by size in the kernel's spelling (`2MB`, `1GB`).
fn hugepage_limits(limits: &ResourceList) -> BTreeMap<String, u64> {
    limits
        .iter()
        .filter_map(|(name, limit)| {
            let size = name.strip_prefix("hugepages-")?;
            let bytes = quantity::value(&k8s_openapi::apimachinery::pkg::api::resource::Quantity(
                size.to_owned(),
            ));
            let size = match bytes {
                bytes if bytes >= 1 << 30 => format!("{}GB", bytes >> 30),
                bytes if bytes >= 1 << 20 => format!("{}MB", bytes >> 20),
                bytes => format!("{}KB", bytes >> 10),
            };
            Some((size, u64::try_from(quantity::value(limit)).unwrap_or(0)))
        })
        .collect()
}

/// Limits of one container.
pub(crate) fn container_resources(
    pod: &Pod,
    container: &Container,
    node_memory: u64,
) -> ContainerResources {
    let resources = container.resources.as_ref();
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    let limits = resources.and_then(|resources| resources.limits.as_ref());
    let has_request = requests.is_some_and(|requests| requests.contains_key("cpu"));
    // A container without a CPU limit may still be capped by the pod's own limit,
    // which the pod's cgroup enforces.
    let cpu_limit = amount(limits, "cpu");
    let cpu_request = if has_request {
        amount(requests, "cpu")
    } else {
        cpu_limit
    };
    let memory_limit = amount(limits, "memory");
    ContainerResources {
        cpu_shares: Some(shares(cpu_request)),
        cpu_quota: (cpu_limit > 0).then(|| quota(cpu_limit)),
        cpu_period: (cpu_limit > 0).then_some(CPU_PERIOD_US),
        memory_limit: (memory_limit != 0).then_some(memory_limit),
        oom_score_adj: Some(oom_score_adj(pod, container, node_memory)),
        hugepage_limits: limits.map(hugepage_limits).unwrap_or_default(),
        ..Default::default()
    }
}

/// How readily the kernel kills a container when memory runs out.
pub(crate) fn oom_score_adj(pod: &Pod, container: &Container, node_memory: u64) -> i32 {
    if spec(pod)
        .priority
        .is_some_and(|priority| priority >= SYSTEM_NODE_CRITICAL)
    {
        return GUARANTEED_OOM_SCORE as i32;
    }
    match QosClass::of(pod) {
        QosClass::Guaranteed => return GUARANTEED_OOM_SCORE as i32,
        QosClass::BestEffort => return BEST_EFFORT_OOM_SCORE as i32,
        QosClass::Burstable => {}
    }
    let capacity = i64::try_from(node_memory.max(1)).unwrap_or(i64::MAX);
    let memory = |container: &Container| {
        amount(
            container
                .resources
                .as_ref()
                .and_then(|r| r.requests.as_ref()),
            "memory",
        )
    };
    // What the pod requests beyond its containers is shared evenly among them.
    let own = spec(pod)
        .resources
        .as_ref()
        .and_then(|own| own.requests.as_ref());
    let shared = match own.filter(|own| own.contains_key("memory")) {
        Some(own) => {
            let all = init_containers(pod)
                .iter()
                .filter(|c| is_sidecar(c))
                .chain(containers(pod));
            let (count, sum) = all.fold((0, 0), |(count, sum), container| {
                (count + 1, sum + memory(container))
            });
            (amount(Some(own), "memory") - sum).max(0) / i64::max(count, 1)
        }
        None => 0,
    };
    let score = |request: i64| 1000 - 1000_i64.saturating_mul(request) / capacity;
    let mut adjust = score(memory(container) + shared);
    if is_sidecar(container)
        && init_containers(pod)
            .iter()
            .any(|c| c.name == container.name)
    {
        let least = containers(pod).iter().map(memory).min().unwrap_or(0);
        adjust = adjust.min(score(least + shared));
    }
    adjust.clamp(1000 + GUARANTEED_OOM_SCORE, BEST_EFFORT_OOM_SCORE - 1) as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PodSpec;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    fn list(text: &str) -> Option<ResourceList> {
        let list: ResourceList = text
            .split_whitespace()
            .map(|pair| pair.split_once('=').expect("name=quantity"))
            .map(|(name, value)| (name.to_owned(), Quantity(value.to_owned())))
            .collect();
        (!list.is_empty()).then_some(list)
    }

    fn container(requests: &str, limits: &str) -> Container {
        Container {
            resources: Some(ResourceRequirements {
                requests: list(requests),
                limits: list(limits),
                claims: None,
            }),
            ..Default::default()
        }
    }

    fn pod(containers: Vec<Container>) -> Pod {
        let mut pod = Pod {
            spec: Some(PodSpec {
                containers,
                ..Default::default()
            }),
            ..Default::default()
        };
        pod.metadata.uid = Some("u".into());
        pod
    }

    #[test]
    fn classes() {
        let check = |containers: Vec<Container>, class, cgroup: &str| {
            let pod = pod(containers);
            assert_eq!(
                (QosClass::of(&pod), cgroup_parent(&pod).as_str()),
                (class, cgroup)
            );
        };
        check(
            vec![container("", "")],
            QosClass::BestEffort,
            "/kubepods/besteffort/podu",
        );
        check(
            vec![container("cpu=0", "")],
            QosClass::BestEffort,
            "/kubepods/besteffort/podu",
        );
        check(
            vec![container("cpu=1", "")],
            QosClass::Burstable,
            "/kubepods/burstable/podu",
        );
        check(
            vec![container("cpu=1 memory=1Gi", "cpu=1 memory=1Gi")],
            QosClass::Guaranteed,
            "/kubepods/podu",
        );
        check(
            vec![container("", "cpu=1 memory=1Gi"), container("", "cpu=1")],
            QosClass::Burstable,
            "/kubepods/burstable/podu",
        );
    }

    #[test]
    fn cgroup_values() {
        let one = container("cpu=250m memory=64Mi", "cpu=500m memory=128Mi");
        let pod = pod(vec![one.clone(), container("cpu=250m", "")]);
        let got = container_resources(&pod, &one, 1 << 30);
        assert_eq!(got.cpu_shares, Some(256));
        assert_eq!(
            (got.cpu_quota, got.cpu_period),
            (Some(50_000), Some(100_000))
        );
        assert_eq!(got.memory_limit, Some(128 << 20));
        assert_eq!(got.oom_score_adj, Some(938));
        let whole = pod_resources(&pod);
        assert_eq!(whole.cpu_shares, Some(512));
        assert_eq!(
            (whole.cpu_quota, whole.memory_limit),
            (None, None),
            "not all are limited"
        );
    }

    #[test]
    fn oom_scores() {
        let check = |requests: &str, limits: &str, want| {
            let one = container(requests, limits);
            assert_eq!(
                oom_score_adj(&pod(vec![one.clone()]), &one, 1000),
                want,
                "{requests}"
            );
        };
        check("", "", 1000);
        check("memory=1 cpu=1", "memory=1 cpu=1", -997);
        check("memory=1000", "", 3);
        check("memory=100", "", 900);
        check("cpu=1", "", 999);
    }

    #[test]
    fn initialisation_can_be_the_peak() {
        let mut subject = pod(vec![container("cpu=100m", "")]);
        let sidecar = Container {
            restart_policy: Some("Always".into()),
            ..container("cpu=50m", "")
        };
        let spec = subject.spec.as_mut().expect("made above");
        spec.init_containers = Some(vec![sidecar, container("cpu=500m", "")]);
        assert_eq!(pod_requests(&subject, "cpu"), 550);
    }
}

//! Making a pod's sandbox and plugging it in.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use cri::{
    DnsConfig, NamespaceMode, PodNetworkRequest, PodSandboxConfig, PodSandboxStatus, PortMapping,
    Protocol,
};
use k8s_openapi::api::core::v1::Pod;

use super::dns::{hostname_and_domain, sandbox_hostname};
use super::observed::labels;
use super::resources::{cgroup_parent, pod_resources};
use super::spec::{
    containers, grace_period_seconds, init_containers, is_host_network, is_sidecar, name,
    namespace, spec, uid,
};
use crate::quantity;

/// Key of a pod's grace period among the annotations of its sandbox.
const GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";

/// Folder of a pod's logs in `root`.
pub(crate) fn log_directory(root: &std::path::Path, pod: &Pod) -> PathBuf {
    root.join(format!("{}_{}_{}", namespace(pod), name(pod), uid(pod)))
}

/// Labels a sandbox or container of a pod is found by.
pub(crate) fn pod_labels(pod: &Pod) -> BTreeMap<String, String> {
    let mut all = pod.metadata.labels.clone().unwrap_or_default();
    all.insert(labels::POD_NAME.into(), name(pod).into());
    all.insert(labels::POD_NAMESPACE.into(), namespace(pod).into());
    all.insert(labels::POD_UID.into(), uid(pod).into());
    all
}

/// What the sandbox of a pod is made from.
pub(crate) fn config(
    pod: &Pod,
    attempt: u32,
    dns: DnsConfig,
    cluster_domain: &str,
    log_root: &std::path::Path,
) -> Result<PodSandboxConfig, String> {
    let spec = spec(pod);
    if spec.host_users == Some(false) {
        return Err(
            "user namespaces (hostUsers: false) are not supported on this node; \
                    leave hostUsers out of the pod's spec"
                .into(),
        );
    }
    let host_network = is_host_network(pod);
    let hostname = if host_network {
        String::new()
    } else {
        let (hostname, domain) = hostname_and_domain(pod, cluster_domain);
        sandbox_hostname(&hostname, &domain, pod)?
    };
    let of = |node: Option<bool>, otherwise| match node.unwrap_or(false) {
        true => NamespaceMode::Node,
        false => otherwise,
    };
    let pid = match spec.share_process_namespace.unwrap_or(false) {
        true => NamespaceMode::Pod,
        false => NamespaceMode::Container,
    };
    let sysctls = spec
        .security_context
        .iter()
        .flat_map(|context| context.sysctls.iter().flatten());
    let mut annotations = pod.metadata.annotations.clone().unwrap_or_default();
    annotations.insert(GRACE_PERIOD.into(), grace_period_seconds(pod).to_string());
    Ok(PodSandboxConfig {
        name: name(pod).into(),
        namespace: namespace(pod).into(),
        uid: uid(pod).into(),
        attempt,
        hostname,
        log_directory: log_directory(log_root, pod),
        dns,
        network: of(spec.host_network, NamespaceMode::Pod),
        pid: of(spec.host_pid, pid),
        ipc: of(spec.host_ipc, NamespaceMode::Pod),
        user_namespace: None,
        cgroup_parent: cgroup_parent(pod),
        resources: pod_resources(pod),
        sysctls: sysctls
            .map(|sysctl| (dotted(&sysctl.name), sysctl.value.clone()))
            .collect(),
        labels: pod_labels(pod),
        annotations,
    })
}

/// A `sysctl` name may be written with slashes.
fn dotted(name: &str) -> String {
    match name.find(['/', '.']) {
        Some(at) if name.as_bytes()[at] == b'/' => {
            let swap = |c| match c {
                '/' => '.',
                '.' => '/',
                c => c,
            };
            name.chars().map(swap).collect()
        }
        _ => name.into(),
    }
}

/// How the network is asked to plug a sandbox in; `None` with the node's network.
pub(crate) fn network_request(pod: &Pod, sandbox: &PodSandboxStatus) -> Option<PodNetworkRequest> {
    let netns = sandbox.netns.clone()?;
    let bandwidth = |key: &str| {
        let text = pod.metadata.annotations.as_ref()?.get(key)?;
        let quantity = k8s_openapi::apimachinery::pkg::api::resource::Quantity(text.clone());
        u64::try_from(quantity::value(&quantity))
            .ok()
            .filter(|bits| *bits > 0)
    };
    Some(PodNetworkRequest {
        sandbox: sandbox.id.clone(),
        namespace: namespace(pod).into(),
        name: name(pod).into(),
        netns,
        port_mappings: port_mappings(pod),
        ingress_bits_per_second: bandwidth("kubernetes.io/ingress-bandwidth"),
        egress_bits_per_second: bandwidth("kubernetes.io/egress-bandwidth"),
    })
}

fn port_mappings(pod: &Pod) -> Vec<PortMapping> {
    let sidecars = init_containers(pod)
        .iter()
        .filter(|container| is_sidecar(container));
    let ports = sidecars
        .chain(containers(pod))
        .flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let host_port = port.host_port.filter(|port| *port > 0)?;
            let host_ip = port
                .host_ip
                .as_deref()
                .and_then(|ip| ip.parse::<IpAddr>().ok());
            Some(PortMapping {
                protocol: match port.protocol.as_deref() {
                    Some("UDP") => Protocol::Udp,
                    Some("SCTP") => Protocol::Sctp,
                    _ => Protocol::Tcp,
                },
                container_port: u16::try_from(port.container_port).ok()?,
                host_port: u16::try_from(host_port).ok()?,
                host_ip: host_ip.filter(|ip| !ip.is_unspecified()),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn translates() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u", "labels": {"a": "b"}},
            "spec": {"hostPID": true, "securityContext": {"sysctls": [
                {"name": "net/ipv4/conf/eth0.1/forwarding", "value": "1"}]},
                "containers": [{"name": "c", "ports": [
                    {"containerPort": 80, "hostPort": 8080, "protocol": "UDP", "hostIP": "0.0.0.0"},
                    {"containerPort": 81}]}]}}))
        .unwrap();
        let got = config(&pod, 2, DnsConfig::default(), "c.l", "/logs".as_ref()).unwrap();
        assert_eq!((got.attempt, got.hostname.as_str()), (2, "web"));
        assert_eq!(got.log_directory, PathBuf::from("/logs/shop_web_u"));
        assert_eq!(got.pid, NamespaceMode::Node);
        assert_eq!(got.cgroup_parent, "/kubepods/besteffort/podu");
        assert_eq!(got.labels[labels::POD_UID], "u");
        assert_eq!(got.sysctls["net.ipv4.conf.eth0/1.forwarding"], "1");
        let ports = port_mappings(&pod);
        assert_eq!(ports.len(), 1);
        assert_eq!((ports[0].host_port, ports[0].host_ip), (8080, None));
        assert_eq!(ports[0].protocol, Protocol::Udp);
    }
}

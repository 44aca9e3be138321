//! Ports of Services, as far as one address family is concerned.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServicePort as Port};

/// Objects with one of these labels are somebody else's.
pub(crate) const IGNORED_LABELS: [&str; 2] = [
    "service.kubernetes.io/service-proxy-name",
    "service.kubernetes.io/headless",
];

const DEFAULT_AFFINITY: Duration = Duration::from_secs(10800);

/// IANA number of a transport protocol; TCP if it is not named.
pub(crate) fn protocol_number(name: Option<&str>) -> Option<u8> {
    match name {
        None | Some("" | "TCP") => Some(6),
        Some("UDP") => Some(17),
        Some("SCTP") => Some(132),
        Some(_) => None,
    }
}

fn protocol_name(number: u8) -> &'static str {
    match number {
        6 => "tcp",
        17 => "udp",
        _ => "sctp",
    }
}

/// One port of a Service in one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServicePort<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) service: &'a str,
    /// Name of the port; empty for the only one.
    pub(crate) name: &'a str,
    pub(crate) protocol: u8,
    pub(crate) cluster_ip: IpAddr,
    pub(crate) port: u16,
    pub(crate) node_port: Option<u16>,
    pub(crate) external_ips: Vec<IpAddr>,
    pub(crate) load_balancer_ips: Vec<IpAddr>,
    /// Who may use the load-balancer addresses; everyone when empty.
    pub(crate) source_ranges: Vec<IpNet>,
    pub(crate) affinity: Option<Duration>,
    pub(crate) internal_local: bool,
    pub(crate) external_local: bool,
}

impl ServicePort<'_> {
    /// Part of the names of the port's chains.
    pub(crate) fn label(&self) -> String {
        let Self {
            namespace,
            service,
            name,
            protocol,
            port,
            ..
        } = self;
        let protocol = protocol_name(*protocol);
        if name.is_empty() {
            format!("{namespace}/{service}/{protocol}/{port}")
        } else {
            format!("{namespace}/{service}/{protocol}/{name}")
        }
    }
}

/// The ports of a Service in one family; none if it is not proxied in it
/// (headless, `ExternalName`, no address of the family, somebody else's).
pub(crate) fn ports(service: &Service, ipv6: bool) -> Vec<ServicePort<'_>> {
    let labels = service.metadata.labels.as_ref();
    let ignored = labels.is_some_and(|labels| {
        IGNORED_LABELS
            .iter()
            .any(|ignored| labels.contains_key(*ignored))
    });
    let (Some(spec), Some(namespace), Some(name)) = (
        service.spec.as_ref(),
        service.metadata.namespace.as_deref(),
        service.metadata.name.as_deref(),
    ) else {
        return Vec::new();
    };
    if ignored || spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    let of_family = |text: &str| -> Option<IpAddr> {
        text.parse().ok().filter(|ip: &IpAddr| ip.is_ipv6() == ipv6)
    };
    // "None" of headless Services does not parse.
    let cluster_ip = match spec.cluster_ips.as_deref() {
        Some(ips) if !ips.is_empty() => ips.iter().find_map(|ip| of_family(ip)),
        _ => spec.cluster_ip.as_deref().and_then(of_family),
    };
    let Some(cluster_ip) = cluster_ip else {
        return Vec::new();
    };
    let load_balancer_ips = service
        .status
        .iter()
        .flat_map(|status| &status.load_balancer)
        .flat_map(|balancer| balancer.ingress.iter().flatten())
        .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|ingress| of_family(ingress.ip.as_deref()?))
        .collect::<Vec<_>>();
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let config = spec.session_affinity_config.as_ref();
        config
            .and_then(|config| config.client_ip.as_ref()?.timeout_seconds)
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(DEFAULT_AFFINITY, Duration::from_secs)
    });
    let local = |policy: &Option<String>| policy.as_deref() == Some("Local");
    let build = |port: &'_ Port| -> Option<(u16, u8, Option<u16>)> {
        let number = u16::try_from(port.port).ok()?;
        let node_port = port.node_port.and_then(|port| u16::try_from(port).ok());
        Some((
            number,
            protocol_number(port.protocol.as_deref())?,
            node_port,
        ))
    };
    spec.ports
        .iter()
        .flatten()
        .filter_map(|port| {
            let (number, protocol, node_port) = build(port)?;
            Some(ServicePort {
                namespace,
                service: name,
                name: port.name.as_deref().unwrap_or_default(),
                protocol,
                cluster_ip,
                port: number,
                node_port: node_port.filter(|port| *port != 0),
                external_ips: spec
                    .external_ips
                    .iter()
                    .flatten()
                    .filter_map(|ip| of_family(ip))
                    .collect(),
                load_balancer_ips: load_balancer_ips.clone(),
                source_ranges: source_ranges(spec.load_balancer_source_ranges.as_deref(), ipv6),
                affinity,
                internal_local: local(&spec.internal_traffic_policy),
                external_local: local(&spec.external_traffic_policy),
            })
        })
        .collect()
}

fn source_ranges(ranges: Option<&[String]>, ipv6: bool) -> Vec<IpNet> {
    ranges
        .unwrap_or_default()
        .iter()
        .filter_map(|range| range.trim().parse::<IpNet>().ok())
        .filter(|range| range.addr().is_ipv6() == ipv6)
        .collect()
}

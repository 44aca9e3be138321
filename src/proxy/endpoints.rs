//! Endpoints of Service ports, and which of them are usable.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{self as discovery, EndpointSlice};

use crate::service::{IGNORED_LABELS, protocol_number};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Where a Service port leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) ip: IpAddr,
    pub(crate) port: u16,
    /// Whether it is on this node.
    pub(crate) local: bool,
    ready: bool,
    serving: bool,
    terminating: bool,
    zone_hints: Vec<String>,
    node_hints: Vec<String>,
}

impl Endpoint {
    /// Of use when nothing is ready.
    fn winding_down(&self) -> bool {
        self.serving && self.terminating
    }
}

/// What a group of endpoints belongs to: namespace, Service, port name,
/// protocol, whether IPv6.
pub(crate) type PortKey<'a> = (&'a str, &'a str, &'a str, u8, bool);

/// Endpoints by Service port, each group ordered and without duplicates.
pub(crate) struct Endpoints<'a> {
    by_port: HashMap<PortKey<'a>, BTreeMap<(IpAddr, u16), Endpoint>>,
}

impl<'a> Endpoints<'a> {
    pub(crate) fn new(slices: &'a [Arc<EndpointSlice>], node: &str) -> Self {
        let mut by_port: HashMap<PortKey<'a>, BTreeMap<_, _>> = HashMap::new();
        for slice in slices {
            let labels = slice.metadata.labels.as_ref();
            let label = |name: &str| labels.and_then(|labels| labels.get(name));
            if IGNORED_LABELS
                .iter()
                .any(|ignored| label(ignored).is_some())
            {
                continue;
            }
            let ipv6 = match slice.address_type.as_str() {
                "IPv4" => false,
                "IPv6" => true,
                _ => continue,
            };
            let (Some(service), Some(namespace)) =
                (label(SERVICE_NAME), slice.metadata.namespace.as_deref())
            else {
                continue;
            };
            for port in slice.ports.iter().flatten() {
                let Some(number) = port.port.and_then(|port| u16::try_from(port).ok()) else {
                    continue;
                };
                let Some(protocol) = protocol_number(port.protocol.as_deref()) else {
                    continue;
                };
                let name = port.name.as_deref().unwrap_or_default();
                let group = by_port
                    .entry((namespace, service, name, protocol, ipv6))
                    .or_default();
                for endpoint in slice.endpoints.iter().flatten() {
                    if let Some(endpoint) = parse(endpoint, number, node, ipv6) {
                        merge(group, endpoint);
                    }
                }
            }
        }
        Self { by_port }
    }

    pub(crate) fn of<'b>(&'b self, key: &PortKey<'b>) -> Vec<&'b Endpoint> {
        self.by_port
            .get(key)
            .into_iter()
            .flat_map(BTreeMap::values)
            .collect()
    }
}

/// While an endpoint moves between slices it may be in both: the livelier wins.
fn merge(group: &mut BTreeMap<(IpAddr, u16), Endpoint>, endpoint: Endpoint) {
    let rank = |endpoint: &Endpoint| (endpoint.ready, endpoint.serving, !endpoint.terminating);
    let known = group
        .entry((endpoint.ip, endpoint.port))
        .or_insert_with(|| endpoint.clone());
    if rank(&endpoint) > rank(known) {
        *known = endpoint;
    }
}

fn parse(endpoint: &discovery::Endpoint, port: u16, node: &str, ipv6: bool) -> Option<Endpoint> {
    // All addresses of an endpoint are interchangeable; consumers use the first.
    let ip: IpAddr = endpoint.addresses.first()?.parse().ok()?;
    if ip.is_ipv6() != ipv6 {
        return None;
    }
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions
        .and_then(|conditions| conditions.ready)
        .unwrap_or(true);
    let hints = endpoint.hints.as_ref();
    Some(Endpoint {
        ip,
        port,
        local: endpoint.node_name.as_deref() == Some(node),
        ready,
        serving: conditions
            .and_then(|conditions| conditions.serving)
            .unwrap_or(ready),
        terminating: conditions
            .and_then(|conditions| conditions.terminating)
            .unwrap_or(false),
        zone_hints: hints
            .and_then(|hints| hints.for_zones.as_ref())
            .into_iter()
            .flatten()
            .map(|zone| zone.name.clone())
            .collect(),
        node_hints: hints
            .and_then(|hints| hints.for_nodes.as_ref())
            .into_iter()
            .flatten()
            .map(|node| node.name.clone())
            .collect(),
    })
}

/// The endpoints this node uses.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Usable<'a> {
    /// For the traffic policy `Cluster`.
    pub(crate) cluster: Vec<&'a Endpoint>,
    /// For the traffic policy `Local`.
    pub(crate) local: Vec<&'a Endpoint>,
}

/// Ready endpoints, or, if there are none, those that still serve while they
/// terminate; decided for both policies on their own. Topology hints count if
/// every ready endpoint has them and one of them fits.
pub(crate) fn usable<'a>(all: &[&'a Endpoint], node: &str, zone: Option<&str>) -> Usable<'a> {
    let ready: Vec<&Endpoint> = all
        .iter()
        .copied()
        .filter(|endpoint| endpoint.ready)
        .collect();
    let winding_down = || {
        all.iter()
            .copied()
            .filter(|endpoint| endpoint.winding_down())
            .collect::<Vec<_>>()
    };
    let on_node = |endpoints: Vec<&'a Endpoint>| -> Vec<&'a Endpoint> {
        endpoints
            .into_iter()
            .filter(|endpoint| endpoint.local)
            .collect()
    };
    let mut local = on_node(ready.clone());
    if local.is_empty() {
        local = on_node(winding_down());
    }
    let hinted = |hints: fn(&Endpoint) -> &[String], wanted: &str| -> Option<Vec<&'a Endpoint>> {
        let complete = ready.iter().all(|endpoint| !hints(endpoint).is_empty());
        let fitting: Vec<&Endpoint> = ready
            .iter()
            .copied()
            .filter(|endpoint| hints(endpoint).iter().any(|hint| hint == wanted))
            .collect();
        (complete && !fitting.is_empty()).then_some(fitting)
    };
    let cluster = if ready.is_empty() {
        winding_down()
    } else {
        hinted(|endpoint| &endpoint.node_hints, node)
            .or_else(|| zone.and_then(|zone| hinted(|endpoint| &endpoint.zone_hints, zone)))
            .unwrap_or_else(|| ready.clone())
    };
    Usable { cluster, local }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Endpoints from a line such as `1:ready,local 2:terminating 3:ready,zone=a`.
    fn endpoints(line: &str) -> Vec<Endpoint> {
        line.split_whitespace()
            .map(|word| {
                let (last, facts) = word.split_once(':').expect("a colon");
                let facts: Vec<&str> = facts.split(',').collect();
                let has = |fact: &str| facts.contains(&fact);
                let hint = |kind: &str| {
                    facts
                        .iter()
                        .filter_map(|fact| fact.strip_prefix(kind))
                        .map(Into::into)
                        .collect()
                };
                Endpoint {
                    ip: IpAddr::from([10, 42, 0, last.parse().expect("a number")]),
                    port: 80,
                    local: has("local"),
                    ready: has("ready"),
                    serving: has("ready") || has("terminating"),
                    terminating: has("terminating"),
                    zone_hints: hint("zone="),
                    node_hints: hint("node="),
                }
            })
            .collect()
    }

    #[test]
    fn chooses() {
        for (line, cluster, local) in [
            ("1:ready 2:ready,local 3:", "1 2", "2"),
            ("1: 2:", "", ""),
            ("1:terminating 2:terminating,local 3:", "1 2", "2"),
            ("1:ready 2:terminating,local", "1", "2"),
            ("1:ready,zone=a 2:ready,zone=b", "1", ""),
            ("1:ready,zone=a 2:ready", "1 2", ""),
            ("1:ready,zone=c 2:ready,zone=b", "1 2", ""),
            (
                "1:ready,zone=a,node=x 2:ready,zone=a,node=n 3:ready,zone=b,node=n",
                "2 3",
                "",
            ),
            ("1:ready,zone=a,node=x 2:ready,zone=b,node=x", "1", ""),
        ] {
            let all = endpoints(line);
            let all: Vec<&Endpoint> = all.iter().collect();
            let found = usable(&all, "n", Some("a"));
            let names = |endpoints: &[&Endpoint]| {
                let names: Vec<String> = endpoints
                    .iter()
                    .map(|endpoint| endpoint.ip.to_string().replace("10.42.0.", ""))
                    .collect();
                names.join(" ")
            };
            assert_eq!(names(&found.cluster), cluster, "cluster of {line}");
            assert_eq!(names(&found.local), local, "local of {line}");
        }
    }
}

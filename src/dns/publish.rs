//! The Service `kube-dns` and its EndpointSlices.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use base::Supervisor;
use client::api::{DeleteParams, Patch, PatchParams, PostParams};
use client::{Action, Api, Controller, Informer, Informers, NamespacedName};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-dns";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const US: &str = "karve-dns";
const PORT: u16 = 53;
/// Endpoints an EndpointSlice may have.
const MAX_ENDPOINTS: usize = 1000;

/// What is published.
#[derive(Clone, Debug)]
pub struct PublishConfig {
    /// Addresses of the cluster DNS Service, the primary family first.
    pub cluster_dns: Vec<IpAddr>,
}

/// Keeps the Service `kube-dns` and an EndpointSlice for each address family,
/// with the DNS server of every node. Runs where controllers run.
///
/// A Service that somebody gave a selector is theirs: it is left alone, and
/// the EndpointSlices are withdrawn.
pub fn publish(config: PublishConfig, informers: &Informers, tasks: Arc<Supervisor>) {
    let controller = Controller::<NamespacedName>::new("cluster dns", tasks);
    let own = NamespacedName::new(NAMESPACE, NAME);
    let (services, nodes): (Informer<Service>, Informer<Node>) = (informers.of(), informers.of());
    let slices: Informer<EndpointSlice> = informers.of();
    let key = own.clone();
    controller.watch(&services, move |service| {
        (NamespacedName::of(service) == key)
            .then(|| key.clone())
            .into_iter()
            .collect()
    });
    let key = own.clone();
    controller.watch(&slices, move |slice| {
        let labels = slice.metadata.labels.as_ref();
        let ours = labels
            .and_then(|labels| labels.get(MANAGED_BY))
            .is_some_and(|by| by == US);
        ours.then(|| key.clone()).into_iter().collect()
    });
    let key = own.clone();
    controller.watch_changes(&nodes, move |change| match change {
        // Heartbeats change nothing here.
        client::Observed::Applied {
            old: Some(old),
            new,
        } if pod_cidrs(old) == pod_cidrs(new) => Vec::new(),
        _ => vec![key.clone()],
    });
    controller.enqueue().add(own);
    let publisher = Arc::new(Publisher {
        config,
        services,
        nodes,
        slices,
        client: informers.client().clone(),
    });
    controller.run(1, move |_| {
        let publisher = publisher.clone();
        async move { publisher.reconcile().await }
    });
}

struct Publisher {
    config: PublishConfig,
    services: Informer<Service>,
    nodes: Informer<Node>,
    slices: Informer<EndpointSlice>,
    client: client::Client,
}

impl Publisher {
    async fn reconcile(&self) -> Result<Action, client::Error> {
        let services: Api<Service> = Api::namespaced(self.client.clone(), NAMESPACE);
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), NAMESPACE);
        let service = match self.services.get(&NamespacedName::new(NAMESPACE, NAME)) {
            Some(service) => service,
            // The cache may be behind the server, whose refusal of a second
            // Service with these addresses would say nothing of its name.
            None => match services.get_opt(NAME).await? {
                Some(service) => Arc::new(service),
                None => {
                    let service = typed(service(&self.config.cluster_dns));
                    match services.create(&PostParams::default(), &service).await {
                        Ok(service) => Arc::new(service),
                        // The informer will tell.
                        Err(client::Error::Api(status)) if status.code == 409 => {
                            return Ok(Action::Done);
                        }
                        Err(error) => return Err(error),
                    }
                }
            },
        };
        let nodes = self.nodes.list();
        for ipv6 in [false, true] {
            let key = NamespacedName::new(NAMESPACE, slice_name(ipv6));
            let known = self.slices.get(&key);
            let wanted = if is_ours(&service) {
                slice(&service, &nodes, ipv6)
            } else {
                None
            };
            match (known, wanted) {
                (None, Some(wanted)) => {
                    match slices.create(&PostParams::default(), &typed(wanted)).await {
                        Err(client::Error::Api(status)) if status.code == 409 => {}
                        outcome => drop(outcome?),
                    }
                }
                (Some(known), Some(wanted)) => {
                    let wanted: EndpointSlice = typed(wanted);
                    if known.endpoints != wanted.endpoints || known.ports != wanted.ports {
                        let patch = json!({
                            "endpoints": wanted.endpoints, "ports": wanted.ports,
                        });
                        let patch = Patch::Merge(patch);
                        slices
                            .patch(&key.name, &PatchParams::default(), &patch)
                            .await?;
                    }
                }
                (Some(_), None) => match slices.delete(&key.name, &DeleteParams::default()).await {
                    Err(client::Error::Api(status)) if status.code == 404 => {}
                    outcome => drop(outcome?),
                },
                (None, None) => {}
            }
        }
        Ok(Action::Done)
    }
}

/// An object from what it looks like.
fn typed<K: serde::de::DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).expect("the objects built here fit their types")
}

fn is_ours(service: &Service) -> bool {
    let selector = service
        .spec
        .as_ref()
        .and_then(|spec| spec.selector.as_ref());
    selector.is_none_or(BTreeMap::is_empty) && service.metadata.deletion_timestamp.is_none()
}

fn slice_name(ipv6: bool) -> &'static str {
    if ipv6 {
        "kube-dns-karve-ipv6"
    } else {
        "kube-dns-karve"
    }
}

/// The Service, as stock clusters have it.
fn service(addresses: &[IpAddr]) -> Value {
    let families: Vec<&str> = addresses
        .iter()
        .map(|ip| if ip.is_ipv6() { "IPv6" } else { "IPv4" })
        .collect();
    let policy = if addresses.len() > 1 {
        "RequireDualStack"
    } else {
        "SingleStack"
    };
    json!({
        "metadata": {
            "namespace": NAMESPACE,
            "name": NAME,
            "labels": {
                "k8s-app": "kube-dns",
                "kubernetes.io/cluster-service": "true",
                "kubernetes.io/name": "CoreDNS",
            },
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": addresses.first(),
            "clusterIPs": addresses,
            "ipFamilies": families,
            "ipFamilyPolicy": policy,
            "internalTrafficPolicy": "Local",
            "ports": [
                {"name": "dns", "port": PORT, "protocol": "UDP", "targetPort": PORT},
                {"name": "dns-tcp", "port": PORT, "protocol": "TCP", "targetPort": PORT},
            ],
        },
    })
}

/// The servers of all nodes in one family; `None` if there are none.
fn slice(service: &Service, nodes: &[Arc<Node>], ipv6: bool) -> Option<Value> {
    let mut servers: BTreeMap<String, IpAddr> = BTreeMap::new();
    for node in nodes {
        let cidr = pod_cidrs(node)
            .into_iter()
            .find(|net| net.addr().is_ipv6() == ipv6);
        if let (Some(name), Some(cidr)) = (&node.metadata.name, cidr) {
            servers.insert(name.clone(), gateway(cidr)?);
        }
    }
    if servers.is_empty() {
        return None;
    }
    // Nodes beyond the limit are reached by nobody but themselves, so each
    // could have a slice of its own; clusters of this size run on one.
    let endpoints: Vec<Value> = servers
        .iter()
        .take(MAX_ENDPOINTS)
        .map(|(node, ip)| {
            json!({
                "addresses": [ip],
                "nodeName": node,
                "conditions": {"ready": true, "serving": true, "terminating": false},
            })
        })
        .collect();
    Some(json!({
        "metadata": {
            "namespace": NAMESPACE,
            "name": slice_name(ipv6),
            "labels": {
                "kubernetes.io/service-name": NAME,
                MANAGED_BY: US,
                "k8s-app": "kube-dns",
            },
            "ownerReferences": [{
                "apiVersion": "v1",
                "kind": "Service",
                "name": NAME,
                "uid": service.metadata.uid.as_deref()?,
                "controller": true,
                "blockOwnerDeletion": true,
            }],
        },
        "addressType": if ipv6 { "IPv6" } else { "IPv4" },
        "ports": [
            {"name": "dns", "port": PORT, "protocol": "UDP"},
            {"name": "dns-tcp", "port": PORT, "protocol": "TCP"},
        ],
        "endpoints": endpoints,
    }))
}

fn pod_cidrs(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else {
        return Vec::new();
    };
    let single: Vec<String> = spec.pod_cidr.iter().cloned().collect();
    let cidrs = spec
        .pod_cidrs
        .as_ref()
        .filter(|cidrs| !cidrs.is_empty())
        .unwrap_or(&single);
    cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect()
}

/// The node's own address in its pod CIDR: the first one.
fn gateway(cidr: IpNet) -> Option<IpAddr> {
    match cidr {
        IpNet::V4(net) => Some(IpAddr::from(
            (net.network().to_bits().checked_add(1)?).to_be_bytes(),
        )),
        IpNet::V6(net) => Some(IpAddr::from(
            (net.network().to_bits().checked_add(1)?).to_be_bytes(),
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn every_node_with_a_pod_cidr_is_an_endpoint() {
        let nodes: Vec<Arc<Node>> = [
            json!({"metadata": {"name": "b"}, "spec": {"podCIDR": "10.42.1.0/24"}}),
            json!({"metadata": {"name": "a"}, "spec": {
                "podCIDR": "10.42.0.0/24", "podCIDRs": ["10.42.0.0/24", "fd00:42::/64"]}}),
            json!({"metadata": {"name": "new"}, "spec": {}}),
        ]
        .map(|node| Arc::new(typed::<Node>(node)))
        .into();
        let mut dns: Service = typed(service(&["10.43.0.10".parse().unwrap()]));
        dns.metadata.uid = Some("u".into());
        let servers = |ipv6| -> Vec<(String, String)> {
            let slice: EndpointSlice = typed(slice(&dns, &nodes, ipv6).unwrap());
            let endpoints = slice.endpoints.into_iter().flatten();
            endpoints
                .map(|endpoint| (endpoint.node_name.unwrap(), endpoint.addresses[0].clone()))
                .collect()
        };
        let pair = |node: &str, ip: &str| (node.to_owned(), ip.to_owned());
        assert_eq!(
            servers(false),
            [pair("a", "10.42.0.1"), pair("b", "10.42.1.1")]
        );
        assert_eq!(servers(true), [pair("a", "fd00:42::1")]);
        assert!(is_ours(&dns));
        dns.spec.as_mut().unwrap().selector = Some([("k8s-app".into(), "coredns".into())].into());
        assert!(!is_ours(&dns));
    }
}

//! What is known, by name and by address.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::ops::Bound;

use client::NamespacedName;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A Service, as far as DNS is concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServiceFacts {
    /// Empty for headless Services.
    pub(crate) cluster_ips: Vec<IpAddr>,
    pub(crate) external_name: Option<String>,
    pub(crate) ports: Vec<PortFacts>,
}

impl ServiceFacts {
    pub(crate) fn is_headless(&self) -> bool {
        self.cluster_ips.is_empty() && self.external_name.is_none()
    }
}

/// A named port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortFacts {
    pub(crate) name: String,
    /// In lower case.
    pub(crate) protocol: String,
    pub(crate) number: u16,
}

/// An endpoint that is ready, or published although it is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    /// Its name below the Service: the pod's hostname, or its address with dashes.
    pub(crate) name: String,
    pub(crate) ip: IpAddr,
}

/// One EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SliceFacts {
    pub(crate) hosts: Vec<Host>,
    pub(crate) ports: Vec<PortFacts>,
}

/// Services and endpoints, indexed for questions.
#[derive(Debug, Default)]
pub(crate) struct Index {
    services: BTreeMap<NamespacedName, ServiceFacts>,
    /// By Service, then by name of the slice.
    slices: HashMap<NamespacedName, BTreeMap<String, SliceFacts>>,
    by_ip: HashMap<IpAddr, NamespacedName>,
    /// How many endpoints say they are at an address, for which Service and name.
    hosts_by_ip: HashMap<IpAddr, BTreeMap<(NamespacedName, String), usize>>,
}

impl Index {
    pub(crate) fn put_service(&mut self, service: &Service) {
        self.remove_service(service);
        let key = NamespacedName::of(service);
        let facts = service_facts(service);
        for ip in &facts.cluster_ips {
            self.by_ip.insert(*ip, key.clone());
        }
        self.services.insert(key, facts);
    }

    pub(crate) fn remove_service(&mut self, service: &Service) {
        let key = NamespacedName::of(service);
        for ip in self.services.remove(&key).unwrap_or_default().cluster_ips {
            if self.by_ip.get(&ip) == Some(&key) {
                self.by_ip.remove(&ip);
            }
        }
    }

    pub(crate) fn put_slice(&mut self, slice: &EndpointSlice) {
        self.remove_slice(slice);
        let Some((service, name)) = slice_key(slice) else {
            return;
        };
        let facts = slice_facts(slice);
        for host in &facts.hosts {
            let named = (service.clone(), host.name.clone());
            *self
                .hosts_by_ip
                .entry(host.ip)
                .or_default()
                .entry(named)
                .or_default() += 1;
        }
        self.slices.entry(service).or_default().insert(name, facts);
    }

    pub(crate) fn remove_slice(&mut self, slice: &EndpointSlice) {
        let Some((service, name)) = slice_key(slice) else {
            return;
        };
        let Some(slices) = self.slices.get_mut(&service) else {
            return;
        };
        let Some(facts) = slices.remove(&name) else {
            return;
        };
        if slices.is_empty() {
            self.slices.remove(&service);
        }
        for host in facts.hosts {
            let Some(named) = self.hosts_by_ip.get_mut(&host.ip) else {
                continue;
            };
            let key = (service.clone(), host.name);
            if let Some(count) = named.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    named.remove(&key);
                }
            }
            if named.is_empty() {
                self.hosts_by_ip.remove(&host.ip);
            }
        }
    }

    pub(crate) fn service(&self, key: &NamespacedName) -> Option<&ServiceFacts> {
        self.services.get(key)
    }

    /// Whether a namespace has Services.
    pub(crate) fn has_namespace(&self, namespace: &str) -> bool {
        let from = NamespacedName::new(namespace, "");
        let mut rest = self
            .services
            .range((Bound::Included(from), Bound::Unbounded));
        rest.next()
            .is_some_and(|(key, _)| key.namespace == namespace)
    }

    pub(crate) fn slices(&self, service: &NamespacedName) -> impl Iterator<Item = &SliceFacts> {
        self.slices
            .get(service)
            .into_iter()
            .flat_map(BTreeMap::values)
    }

    /// The Service with this ClusterIP.
    pub(crate) fn service_at(&self, ip: IpAddr) -> Option<&NamespacedName> {
        self.by_ip.get(&ip)
    }

    /// Services and host names of the endpoints at this address.
    pub(crate) fn hosts_at(&self, ip: IpAddr) -> impl Iterator<Item = &(NamespacedName, String)> {
        self.hosts_by_ip
            .get(&ip)
            .into_iter()
            .flat_map(BTreeMap::keys)
    }
}

fn port_facts(name: Option<&str>, protocol: Option<&str>, number: i32) -> Option<PortFacts> {
    Some(PortFacts {
        name: name.unwrap_or_default().to_owned(),
        protocol: protocol.unwrap_or("TCP").to_ascii_lowercase(),
        number: u16::try_from(number).ok()?,
    })
}

fn service_facts(service: &Service) -> ServiceFacts {
    let Some(spec) = &service.spec else {
        return ServiceFacts::default();
    };
    let external = spec.type_.as_deref() == Some("ExternalName");
    let single: Vec<String> = spec.cluster_ip.iter().cloned().collect();
    let ips = spec
        .cluster_ips
        .as_ref()
        .filter(|ips| !ips.is_empty())
        .unwrap_or(&single);
    ServiceFacts {
        // "None" does not parse.
        cluster_ips: ips
            .iter()
            .filter(|_| !external)
            .filter_map(|ip| ip.parse().ok())
            .collect(),
        external_name: spec.external_name.clone().filter(|_| external),
        ports: spec
            .ports
            .iter()
            .flatten()
            .filter_map(|port| {
                port_facts(port.name.as_deref(), port.protocol.as_deref(), port.port)
            })
            .collect(),
    }
}

fn slice_key(slice: &EndpointSlice) -> Option<(NamespacedName, String)> {
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    let namespace = slice.metadata.namespace.as_ref()?;
    Some((
        NamespacedName::new(namespace, service),
        slice.metadata.name.clone()?,
    ))
}

fn slice_facts(slice: &EndpointSlice) -> SliceFacts {
    let hosts = slice
        .endpoints
        .iter()
        .flatten()
        .filter(|endpoint| {
            let conditions = endpoint.conditions.as_ref();
            conditions
                .and_then(|conditions| conditions.ready)
                .unwrap_or(true)
        })
        .flat_map(|endpoint| {
            endpoint.addresses.iter().filter_map(|address| {
                let ip: IpAddr = address.parse().ok()?;
                let name = endpoint.hostname.clone().unwrap_or_else(|| dashed(ip));
                Some(Host {
                    name: name.to_ascii_lowercase(),
                    ip,
                })
            })
        })
        .collect();
    let ports = slice
        .ports
        .iter()
        .flatten()
        .filter_map(|port| port_facts(port.name.as_deref(), port.protocol.as_deref(), port.port?))
        .collect();
    SliceFacts { hosts, ports }
}

/// An address as a label.
fn dashed(ip: IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}

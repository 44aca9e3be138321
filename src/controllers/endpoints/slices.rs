//! EndpointSlices of Services with a selector.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use client::{Action, Client, Informer, NamespacedName};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};

use super::writer::{Group, Stamp, plan, write};
use super::{
    HEADLESS, addresses, has_cluster_ip, hostname, is_headless, pod_port, pods_of,
    publishes_not_ready, selector, services_of, target,
};
use crate::context::{Context, run};
use crate::error::Result;
use crate::expectations::Expectations;
use crate::owner::controller_ref;
use crate::pods::{is_ready, is_terminating, node_name};

const NAME: &str = "endpointslice-controller";
const MANAGED_BY: &str = "endpointslice-controller.k8s.io";
pub(super) const LABEL_SERVICE: &str = "kubernetes.io/service-name";
pub(super) const LABEL_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const ZONE: &str = "topology.kubernetes.io/zone";

pub(super) fn register(context: &Context) {
    let state = Arc::new(Slices {
        client: context.client(NAME),
        services: context.informers.of(),
        pods: context.informers.of(),
        nodes: context.informers.of(),
        slices: context.informers.of(),
        written: Expectations::default(),
    });
    let controller = context.controller(NAME);
    controller.watch(&state.services, |service| vec![NamespacedName::of(service)]);
    let services = state.services.clone();
    controller.watch(&state.pods, move |pod| services_of(&services, pod));
    controller.watch(&state.slices, |slice| {
        service_of(slice, MANAGED_BY).into_iter().collect()
    });
    controller.needs(&state.nodes);
    run(controller, 5, move |key| {
        let state = state.clone();
        async move { state.reconcile(&key).await }
    });
}

/// The key of the Service (or Endpoints) a slice of this manager belongs to.
pub(super) fn service_of(slice: &EndpointSlice, manager: &str) -> Option<NamespacedName> {
    let labels = slice.metadata.labels.as_ref()?;
    (labels.get(LABEL_MANAGED_BY)? == manager).then_some(())?;
    let namespace = slice.metadata.namespace.clone().unwrap_or_default();
    Some(NamespacedName::new(namespace, labels.get(LABEL_SERVICE)?))
}

struct Slices {
    client: Client,
    services: Informer<Service>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    slices: Informer<EndpointSlice>,
    written: Expectations,
}

impl Slices {
    async fn reconcile(&self, key: &NamespacedName) -> Result<Action> {
        let Some(service) = self.services.get(key) else {
            // The garbage collector takes the slices along.
            self.written.forget(key);
            return Ok(Action::Done);
        };
        if selector(&service).is_none()
            || service.metadata.deletion_timestamp.is_some()
            || !self.written.satisfied(key, &self.slices)
        {
            return Ok(Action::Done);
        }
        let wanted = self.wanted(&service);
        let mut existing = self.slices.in_namespace(&key.namespace);
        existing.retain(|slice| {
            slice.metadata.deletion_timestamp.is_none()
                && service_of(slice, MANAGED_BY).as_ref() == Some(key)
        });
        let stamp = Stamp {
            owner: key.clone(),
            reference: controller_ref(&*service),
            labels: labels(&service),
            annotations: BTreeMap::new(),
        };
        write(
            &self.client,
            key,
            plan(&existing, &wanted, &stamp),
            &self.written,
        )
        .await?;
        Ok(Action::Done)
    }

    fn wanted(&self, service: &Service) -> Vec<Group> {
        let pods = pods_of(&self.pods, service);
        let mut groups = Vec::new();
        for family in families(service, &pods) {
            let mut by_ports: BTreeMap<String, Group> = BTreeMap::new();
            for pod in &pods {
                let own: Vec<String> = addresses(pod)
                    .into_iter()
                    .filter(|address| is_of(address, &family))
                    .map(str::to_owned)
                    .collect();
                if own.is_empty() {
                    continue;
                }
                let ports = ports(service, pod);
                if ports.is_empty() && !is_portless(service) {
                    continue;
                }
                let group = by_ports
                    .entry(format!("{ports:?}"))
                    .or_insert_with(|| Group {
                        address_type: family.clone(),
                        ports,
                        endpoints: Vec::new(),
                    });
                group.endpoints.push(self.endpoint(service, pod, own));
            }
            if by_ports.is_empty() {
                groups.push(Group {
                    address_type: family,
                    ports: vec![],
                    endpoints: vec![],
                });
            }
            groups.extend(by_ports.into_values());
        }
        groups
    }

    fn endpoint(&self, service: &Service, pod: &Pod, addresses: Vec<String>) -> Endpoint {
        let serving = is_ready(pod);
        let terminating = is_terminating(pod);
        let node = node_name(pod);
        let zone = self
            .nodes
            .get(&NamespacedName::new("", node))
            .and_then(|node| node.metadata.labels.as_ref()?.get(ZONE).cloned());
        Endpoint {
            addresses,
            conditions: Some(EndpointConditions {
                ready: Some(publishes_not_ready(service) || serving && !terminating),
                serving: Some(serving),
                terminating: Some(terminating),
            }),
            hostname: hostname(service, pod),
            node_name: (!node.is_empty()).then(|| node.to_owned()),
            target_ref: Some(target(pod)),
            zone,
            ..Endpoint::default()
        }
    }
}

fn is_portless(service: &Service) -> bool {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    is_headless(service) && ports.is_none_or(Vec::is_empty)
}

fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service
        .spec
        .as_ref()
        .and_then(|spec| spec.ports.as_deref())
        .unwrap_or_default();
    ports
        .iter()
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(pod_port(pod, port)?),
                protocol: Some(port.protocol.clone().unwrap_or("TCP".to_owned())),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

/// The address types a Service needs slices of.
fn families(service: &Service, pods: &[Arc<Pod>]) -> Vec<String> {
    let named = service
        .spec
        .as_ref()
        .and_then(|spec| spec.ip_families.clone())
        .unwrap_or_default();
    if !named.is_empty() {
        return named;
    }
    let v6 = pods
        .iter()
        .flat_map(|pod| addresses(pod))
        .any(|address| is_of(address, "IPv6"));
    let v4 = pods
        .iter()
        .flat_map(|pod| addresses(pod))
        .any(|address| is_of(address, "IPv4"));
    let family = if v6 && !v4 { "IPv6" } else { "IPv4" };
    vec![family.to_owned()]
}

pub(super) fn is_of(address: &str, family: &str) -> bool {
    match address.parse() {
        Ok(IpAddr::V4(_)) => family == "IPv4",
        Ok(IpAddr::V6(_)) => family == "IPv6",
        Err(_) => false,
    }
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if !has_cluster_ip(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    let name = service.metadata.name.clone().unwrap_or_default();
    labels.insert(LABEL_SERVICE.to_owned(), name);
    labels.insert(LABEL_MANAGED_BY.to_owned(), MANAGED_BY.to_owned());
    labels
}

//! Which pods stand behind a Service: EndpointSlices, and Endpoints for those
//! who still read them.

mod legacy;
mod mirror;
mod slices;
mod writer;

use std::sync::Arc;

use client::labels::selects_map;
use client::{Informer, NamespacedName};
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::context::Context;
use crate::pods::is_finished;

const HEADLESS: &str = "service.kubernetes.io/headless";

pub(crate) fn register(context: &Context) {
    legacy::register(context);
    slices::register(context);
    mirror::register(context);
}

/// Services whose selector selects the pod.
fn services_of(services: &Informer<Service>, pod: &Pod) -> Vec<NamespacedName> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    services
        .in_namespace(namespace)
        .iter()
        .filter(|service| selects(service, pod))
        .map(|service| NamespacedName::of(&**service))
        .collect()
}

/// Whether the Service has a selector, and it selects the pod.
fn selects(service: &Service, pod: &Pod) -> bool {
    selector(service).is_some_and(|selector| selects_map(selector, pod.metadata.labels.as_ref()))
}

/// The selector of a Service that has endpoints of its own making.
fn selector(service: &Service) -> Option<&std::collections::BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector
        .as_ref()
        .filter(|selector| !selector.is_empty())
}

/// The pods of a Service that have an address and have not ended.
fn pods_of(pods: &Informer<Pod>, service: &Service) -> Vec<Arc<Pod>> {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let mut found = pods.in_namespace(namespace);
    found.retain(|pod| selects(service, pod) && !is_finished(pod) && !addresses(pod).is_empty());
    found
}

/// Every address of a pod.
fn addresses(pod: &Pod) -> Vec<&str> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let all: Vec<&str> = status
        .pod_ips
        .iter()
        .flatten()
        .map(|ip| ip.ip.as_str())
        .filter(|ip| !ip.is_empty())
        .collect();
    if all.is_empty() {
        status
            .pod_ip
            .as_deref()
            .filter(|ip| !ip.is_empty())
            .into_iter()
            .collect()
    } else {
        all
    }
}

fn is_headless(service: &Service) -> bool {
    service
        .spec
        .as_ref()
        .and_then(|spec| spec.cluster_ip.as_deref())
        == Some("None")
}

/// Whether the Service has a cluster IP; slices of others are labelled.
fn has_cluster_ip(service: &Service) -> bool {
    let ip = service
        .spec
        .as_ref()
        .and_then(|spec| spec.cluster_ip.as_deref());
    !matches!(ip, None | Some("" | "None"))
}

fn publishes_not_ready(service: &Service) -> bool {
    service
        .spec
        .as_ref()
        .and_then(|spec| spec.publish_not_ready_addresses)
        == Some(true)
}

/// The port of the pod a Service's port leads to; a name has to be a
/// container's port of the same protocol.
fn pod_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let spec = pod.spec.as_ref()?;
            let sidecars = spec
                .init_containers
                .iter()
                .flatten()
                .filter(|container| container.restart_policy.as_deref() == Some("Always"));
            spec.containers
                .iter()
                .chain(sidecars)
                .flat_map(|container| container.ports.iter().flatten())
                .find(|known| {
                    known.name.as_deref() == Some(name)
                        && known.protocol.as_deref().unwrap_or("TCP") == protocol
                })
                .map(|known| known.container_port)
        }
    }
}

/// The name DNS gives the pod within the Service, if the pod asks for one.
fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec
        .hostname
        .as_ref()
        .filter(|hostname| !hostname.is_empty())?;
    (spec.subdomain == service.metadata.name).then(|| hostname.clone())
}

fn target(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

//! Endpoints, the older form: one object for each Service.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::api::PostParams;
use client::{Action, Api, Client, Informer, NamespacedName};
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::slices::is_of;
use super::{
    HEADLESS, addresses, has_cluster_ip, hostname, is_headless, pod_port, pods_of,
    publishes_not_ready, selector, services_of, target,
};
use crate::context::{Context, run};
use crate::error::{During, Result, ignore_not_found, is_namespace_terminating, is_not_found};
use crate::expectations::Expectations;
use crate::pods::{is_ready, is_terminating, node_name};

const NAME: &str = "endpoint-controller";
const LABEL_MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses in one Endpoints object at most.
const LIMIT: usize = 1000;

pub(super) fn register(context: &Context) {
    let state = Arc::new(Legacy {
        client: context.client(NAME),
        services: context.informers.of(),
        pods: context.informers.of(),
        endpoints: context.informers.of(),
        written: Expectations::default(),
    });
    let controller = context.controller(NAME);
    controller.watch(&state.services, |service| vec![NamespacedName::of(service)]);
    let services = state.services.clone();
    controller.watch(&state.pods, move |pod| services_of(&services, pod));
    controller.watch(&state.endpoints, |endpoints| {
        vec![NamespacedName::of(endpoints)]
    });
    run(controller, 5, move |key| {
        let state = state.clone();
        async move { state.reconcile(&key).await }
    });
}

struct Legacy {
    client: Client,
    services: Informer<Service>,
    pods: Informer<Pod>,
    endpoints: Informer<Endpoints>,
    written: Expectations,
}

impl Legacy {
    async fn reconcile(&self, key: &NamespacedName) -> Result<Action> {
        if !self.written.satisfied(key, &self.endpoints) {
            return Ok(Action::Done);
        }
        let api = Api::<Endpoints>::namespaced(self.client.clone(), &key.namespace);
        let known = self.endpoints.get(key);
        let Some(service) = self.services.get(key) else {
            self.written.forget(key);
            // Endpoints carry no owner reference: whoever made them for a
            // Service removes them with it.
            if known.is_some_and(|known| is_ours(&known)) {
                ignore_not_found(api.delete(&key.name, &Default::default()).await)
                    .during(|| format!("deleting endpoints {key}"))?;
            }
            return Ok(Action::Done);
        };
        if selector(&service).is_none() {
            return Ok(Action::Done);
        }
        let (subsets, truncated) = subsets(&service, &pods_of(&self.pods, &service));
        let labels = labels(&service);
        let mut annotations = known
            .as_ref()
            .and_then(|known| known.metadata.annotations.clone())
            .unwrap_or_default();
        annotations.remove(OVER_CAPACITY);
        if truncated {
            annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
        }
        let annotations = (!annotations.is_empty()).then_some(annotations);
        let Some(known) = known else {
            let fresh = Endpoints {
                metadata: ObjectMeta {
                    name: Some(key.name.clone()),
                    namespace: Some(key.namespace.clone()),
                    labels: Some(labels),
                    annotations,
                    ..ObjectMeta::default()
                },
                subsets: Some(subsets),
            };
            match api.create(&PostParams::default(), &fresh).await {
                Ok(created) => self.written.created(key, &created),
                Err(error) if is_namespace_terminating(&error) || is_not_found(&error) => {}
                Err(error) => return Err(error).during(|| format!("creating endpoints {key}")),
            }
            return Ok(Action::Done);
        };
        let same = known.subsets.as_deref().unwrap_or_default() == subsets
            && known.metadata.labels.as_ref() == Some(&labels)
            && known
                .metadata
                .annotations
                .clone()
                .filter(|known| !known.is_empty())
                == annotations;
        if same {
            return Ok(Action::Done);
        }
        let fresh = Endpoints {
            metadata: ObjectMeta {
                labels: Some(labels),
                annotations,
                ..known.metadata.clone()
            },
            subsets: Some(subsets),
        };
        let replaced = api
            .replace(&key.name, &PostParams::default(), &fresh)
            .await
            .during(|| format!("updating endpoints {key}"))?;
        self.written.created(key, &replaced);
        Ok(Action::Done)
    }
}

fn is_ours(endpoints: &Endpoints) -> bool {
    let labels = endpoints.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(LABEL_MANAGED_BY))
        .is_some_and(|name| name == NAME)
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if !has_cluster_ip(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(LABEL_MANAGED_BY.to_owned(), NAME.to_owned());
    labels
}

/// Addresses grouped by the ports they serve, and whether some were left out.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let spec = service.spec.as_ref();
    let family = spec.and_then(|spec| spec.ip_families.as_ref()?.first().cloned());
    let service_ports = spec
        .and_then(|spec| spec.ports.as_deref())
        .unwrap_or_default();
    let mut groups: BTreeMap<String, EndpointSubset> = BTreeMap::new();
    let mut number = 0;
    for pod in pods {
        if is_terminating(pod) && !publishes_not_ready(service) {
            continue;
        }
        let address = addresses(pod)
            .into_iter()
            .find(|address| family.as_ref().is_none_or(|family| is_of(address, family)));
        let Some(address) = address else {
            continue;
        };
        let ports: Vec<EndpointPort> = service_ports
            .iter()
            .filter_map(|port| {
                Some(EndpointPort {
                    name: port.name.clone().filter(|name| !name.is_empty()),
                    port: pod_port(pod, port)?,
                    protocol: Some(port.protocol.clone().unwrap_or("TCP".to_owned())),
                    app_protocol: port.app_protocol.clone(),
                })
            })
            .collect();
        if ports.is_empty() && !(is_headless(service) && service_ports.is_empty()) {
            continue;
        }
        number += 1;
        if number > LIMIT {
            continue;
        }
        let node = node_name(pod);
        let address = EndpointAddress {
            ip: address.to_owned(),
            node_name: (!node.is_empty()).then(|| node.to_owned()),
            target_ref: Some(target(pod)),
            hostname: hostname(service, pod),
        };
        let subset = groups
            .entry(format!("{ports:?}"))
            .or_insert_with(|| EndpointSubset {
                ports: (!ports.is_empty()).then_some(ports),
                ..EndpointSubset::default()
            });
        if is_ready(pod) || publishes_not_ready(service) {
            subset.addresses.get_or_insert_default().push(address);
        } else {
            subset
                .not_ready_addresses
                .get_or_insert_default()
                .push(address);
        }
    }
    let mut subsets: Vec<EndpointSubset> = groups.into_values().collect();
    for subset in &mut subsets {
        for list in [&mut subset.addresses, &mut subset.not_ready_addresses]
            .into_iter()
            .flatten()
        {
            list.sort_by(|a, b| a.ip.cmp(&b.ip));
        }
    }
    (subsets, number > LIMIT)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use serde_json::json;

    use super::*;

    fn pod(name: &str, ip: &str, ready: bool, port: i32) -> Arc<Pod> {
        let ready = if ready { "True" } else { "False" };
        let pod = json!({
            "metadata": {"name": name, "namespace": "default", "labels": {"a": "b"}},
            "spec": {"nodeName": "n", "hostname": "h", "subdomain": "s", "containers":
                [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}]},
            "status": {"podIP": ip, "conditions": [{"type": "Ready", "status": ready}]},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn groups_by_ports_and_readiness() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "s", "namespace": "default"},
            "spec": {"selector": {"a": "b"}, "ports": [{"port": 80, "targetPort": "http"}]},
        }))
        .unwrap();
        let pods = [
            pod("a", "10.0.0.2", true, 8080),
            pod("b", "10.0.0.1", true, 8080),
            pod("c", "10.0.0.3", false, 8080),
            pod("d", "10.0.0.4", true, 9090),
        ];
        let (subsets, truncated) = subsets(&service, &pods);
        assert!(!truncated);
        let shape: Vec<(i32, Vec<&str>, Vec<&str>)> = subsets
            .iter()
            .map(|subset| {
                let ips = |list: &'static str| {
                    let list = match list {
                        "ready" => &subset.addresses,
                        _ => &subset.not_ready_addresses,
                    };
                    list.iter()
                        .flatten()
                        .map(|address| address.ip.as_str())
                        .collect()
                };
                (
                    subset.ports.as_ref().unwrap()[0].port,
                    ips("ready"),
                    ips("rest"),
                )
            })
            .collect();
        assert_eq!(
            shape,
            [
                (8080, vec!["10.0.0.1", "10.0.0.2"], vec!["10.0.0.3"]),
                (9090, vec!["10.0.0.4"], vec![]),
            ]
        );
        let first = &subsets[0].addresses.as_ref().unwrap()[0];
        assert_eq!(first.hostname.as_deref(), Some("h"));
    }
}

//! EndpointSlices that mirror Endpoints someone wrote by hand for a Service
//! without a selector.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Action, Client, Informer, NamespacedName};
use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};

use super::selector;
use super::slices::{LABEL_MANAGED_BY, LABEL_SERVICE, is_of, service_of};
use super::writer::{Changes, Group, Stamp, plan, write};
use crate::context::{Context, run};
use crate::error::Result;
use crate::expectations::Expectations;
use crate::owner::controller_ref;

const NAME: &str = "endpointslicemirroring-controller";
const MANAGED_BY: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Addresses mirrored out of one subset at most.
const LIMIT: usize = 1000;

pub(super) fn register(context: &Context) {
    let state = Arc::new(Mirror {
        client: context.client(NAME),
        services: context.informers.of(),
        endpoints: context.informers.of(),
        slices: context.informers.of(),
        written: Expectations::default(),
    });
    let controller = context.controller(NAME);
    controller.watch(&state.services, |service| vec![NamespacedName::of(service)]);
    controller.watch(&state.endpoints, |endpoints| {
        vec![NamespacedName::of(endpoints)]
    });
    controller.watch(&state.slices, |slice| {
        service_of(slice, MANAGED_BY).into_iter().collect()
    });
    run(controller, 2, move |key| {
        let state = state.clone();
        async move { state.reconcile(&key).await }
    });
}

struct Mirror {
    client: Client,
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    slices: Informer<EndpointSlice>,
    written: Expectations,
}

impl Mirror {
    async fn reconcile(&self, key: &NamespacedName) -> Result<Action> {
        if !self.written.satisfied(key, &self.slices) {
            return Ok(Action::Done);
        }
        let mut existing = self.slices.in_namespace(&key.namespace);
        existing.retain(|slice| {
            slice.metadata.deletion_timestamp.is_none()
                && service_of(slice, MANAGED_BY).as_ref() == Some(key)
        });
        let endpoints = self
            .endpoints
            .get(key)
            .filter(|endpoints| is_mirrored(endpoints));
        let service = self.services.get(key).filter(|service| is_manual(service));
        let changes = match (endpoints, service) {
            (Some(endpoints), Some(_)) => {
                let stamp = Stamp {
                    owner: key.clone(),
                    reference: controller_ref(&*endpoints),
                    labels: labels(&endpoints, key),
                    annotations: annotations(&endpoints),
                };
                plan(&existing, &groups(&endpoints), &stamp)
            }
            _ => Changes {
                delete: existing.iter().map(|slice| (**slice).clone()).collect(),
                ..Changes::default()
            },
        };
        write(&self.client, key, changes, &self.written).await?;
        Ok(Action::Done)
    }
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    let meta = &endpoints.metadata;
    let skipped = meta.labels.as_ref().and_then(|labels| labels.get(SKIP));
    skipped.map(String::as_str) != Some("true")
        && meta.deletion_timestamp.is_none()
        && !meta
            .annotations
            .as_ref()
            .is_some_and(|known| known.contains_key(LEADER))
}

fn is_manual(service: &Service) -> bool {
    let kind = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
    selector(service).is_none() && kind != Some("ExternalName")
}

fn groups(endpoints: &Endpoints) -> Vec<Group> {
    let mut groups: BTreeMap<(String, String), Group> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports: Vec<EndpointPort> = subset
            .ports
            .iter()
            .flatten()
            .map(|port| EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(port.port),
                protocol: port.protocol.clone(),
                app_protocol: port.app_protocol.clone(),
            })
            .collect();
        let ready = subset
            .addresses
            .iter()
            .flatten()
            .map(|address| (address, true));
        let rest = subset
            .not_ready_addresses
            .iter()
            .flatten()
            .map(|address| (address, false));
        for (address, ready) in ready.chain(rest).take(LIMIT) {
            let family = if is_of(&address.ip, "IPv6") {
                "IPv6"
            } else {
                "IPv4"
            };
            let group = groups
                .entry((family.to_owned(), format!("{ports:?}")))
                .or_insert_with(|| Group {
                    address_type: family.to_owned(),
                    ports: ports.clone(),
                    endpoints: Vec::new(),
                });
            group.endpoints.push(mirrored(address, ready));
        }
    }
    groups.into_values().collect()
}

fn mirrored(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn labels(endpoints: &Endpoints, key: &NamespacedName) -> BTreeMap<String, String> {
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(LABEL_SERVICE.to_owned(), key.name.clone());
    labels.insert(LABEL_MANAGED_BY.to_owned(), MANAGED_BY.to_owned());
    labels
}

fn annotations(endpoints: &Endpoints) -> BTreeMap<String, String> {
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| key != LAST_APPLIED && key != TRIGGER_TIME);
    annotations
}

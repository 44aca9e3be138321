//! Makes the EndpointSlices of one owner fit what they should hold.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use client::api::{DeleteParams, PostParams};
use client::{Api, Client, NamespacedName};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::error::{During, Result, ignore_not_found, is_namespace_terminating, is_not_found};
use crate::expectations::Expectations;

/// Endpoints in one slice at most.
pub(super) const LIMIT: usize = 100;

/// What all slices of one address type and set of ports should hold together.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Group {
    pub(super) address_type: String,
    pub(super) ports: Vec<EndpointPort>,
    pub(super) endpoints: Vec<Endpoint>,
}

/// What every slice of an owner carries.
pub(super) struct Stamp {
    pub(super) owner: NamespacedName,
    pub(super) reference: OwnerReference,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
}

/// What has to be written.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Changes {
    pub(super) create: Vec<EndpointSlice>,
    pub(super) replace: Vec<EndpointSlice>,
    pub(super) delete: Vec<EndpointSlice>,
}

fn normal_ports(slice: &EndpointSlice) -> Vec<EndpointPort> {
    slice.ports.clone().unwrap_or_default()
}

/// Distributes endpoints over slices with as few writes as possible: an
/// endpoint stays in the slice it is in, new ones fill slices up.
pub(super) fn plan(existing: &[Arc<EndpointSlice>], wanted: &[Group], stamp: &Stamp) -> Changes {
    let mut changes = Changes::default();
    let mut unused: VecDeque<&Arc<EndpointSlice>> = existing
        .iter()
        .filter(|slice| {
            !wanted.iter().any(|group| {
                group.address_type == slice.address_type && group.ports == normal_ports(slice)
            })
        })
        .collect();
    for group in wanted {
        let mut left: Vec<Option<&Endpoint>> = group.endpoints.iter().map(Some).collect();
        let mut filled: Vec<(&Arc<EndpointSlice>, Vec<Endpoint>)> = Vec::new();
        for slice in existing.iter().filter(|slice| {
            slice.address_type == group.address_type && normal_ports(slice) == group.ports
        }) {
            let mut kept = Vec::new();
            for known in slice.endpoints.iter().flatten() {
                let same = |wanted: &Option<&Endpoint>| {
                    wanted.is_some_and(|wanted| is_same(wanted, known))
                };
                if let Some(place) = left.iter().position(same) {
                    kept.extend(left[place].take().cloned());
                }
            }
            filled.push((slice, kept));
        }
        let mut left: VecDeque<Endpoint> = left.into_iter().flatten().cloned().collect();
        for (_, kept) in &mut filled {
            while kept.len() < LIMIT
                && let Some(endpoint) = left.pop_front()
            {
                kept.push(endpoint);
            }
        }
        let mut have_one = filled.iter().any(|(_, kept)| !kept.is_empty());
        for (slice, kept) in filled {
            // One slice stays even when it is empty, to say that there is nothing.
            if kept.is_empty() && have_one {
                changes.delete.push((**slice).clone());
                continue;
            }
            have_one = true;
            let fresh = stamped(Some(slice), stamp, group, kept);
            if !is_equal(&fresh, slice) {
                changes.replace.push(fresh);
            }
        }
        while !left.is_empty() || !have_one {
            have_one = true;
            let endpoints: Vec<Endpoint> = left.drain(..left.len().min(LIMIT)).collect();
            // The address type of a slice cannot change; its ports can.
            let reused = unused
                .iter()
                .position(|slice| slice.address_type == group.address_type);
            match reused.and_then(|place| unused.remove(place)) {
                Some(slice) => changes
                    .replace
                    .push(stamped(Some(slice), stamp, group, endpoints)),
                None => changes.create.push(stamped(None, stamp, group, endpoints)),
            }
        }
    }
    changes
        .delete
        .extend(unused.into_iter().map(|slice| (**slice).clone()));
    changes
}

fn is_same(a: &Endpoint, b: &Endpoint) -> bool {
    let uid = |endpoint: &Endpoint| {
        endpoint
            .target_ref
            .as_ref()
            .and_then(|target| target.uid.clone())
    };
    a.addresses == b.addresses && uid(a) == uid(b)
}

fn stamped(
    slice: Option<&Arc<EndpointSlice>>,
    stamp: &Stamp,
    group: &Group,
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    let mut metadata = match slice {
        Some(slice) => slice.metadata.clone(),
        None => ObjectMeta {
            generate_name: Some(format!("{}-", stamp.owner.name)),
            namespace: Some(stamp.owner.namespace.clone()),
            ..ObjectMeta::default()
        },
    };
    metadata.labels = Some(stamp.labels.clone());
    metadata.owner_references = Some(vec![stamp.reference.clone()]);
    if !stamp.annotations.is_empty() {
        metadata.annotations = Some(stamp.annotations.clone());
    }
    EndpointSlice {
        address_type: group.address_type.clone(),
        ports: Some(group.ports.clone()),
        endpoints: Some(endpoints),
        metadata,
    }
}

fn is_equal(fresh: &EndpointSlice, known: &EndpointSlice) -> bool {
    fresh.metadata.labels == known.metadata.labels
        && fresh.metadata.annotations == known.metadata.annotations
        && normal_ports(fresh) == normal_ports(known)
        && fresh.endpoints.as_deref().unwrap_or_default()
            == known.endpoints.as_deref().unwrap_or_default()
}

/// Carries changes out and notes them, so that the informer can be waited for.
pub(super) async fn write(
    client: &Client,
    key: &NamespacedName,
    changes: Changes,
    written: &Expectations,
) -> Result<()> {
    let api = Api::<EndpointSlice>::namespaced(client.clone(), &key.namespace);
    let parameters = PostParams::default();
    for slice in &changes.create {
        match api.create(&parameters, slice).await {
            Ok(created) => written.created(key, &created),
            Err(error) if is_namespace_terminating(&error) => return Ok(()),
            Err(error) => {
                return Err(error).during(|| format!("creating an endpoint slice of {key}"));
            }
        }
    }
    for slice in &changes.replace {
        let name = slice.metadata.name.as_deref().unwrap_or_default();
        match api.replace(name, &parameters, slice).await {
            Ok(replaced) => written.created(key, &replaced),
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(error).during(|| format!("updating endpoint slice {name}")),
        }
    }
    for slice in &changes.delete {
        let name = slice.metadata.name.as_deref().unwrap_or_default();
        ignore_not_found(api.delete(name, &DeleteParams::default()).await)
            .during(|| format!("deleting endpoint slice {name}"))?;
        written.deleted(key, slice);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp() -> Stamp {
        Stamp {
            owner: NamespacedName::new("default", "web"),
            reference: OwnerReference::default(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
        }
    }

    fn group(addresses: impl IntoIterator<Item = usize>) -> Group {
        let endpoints = addresses
            .into_iter()
            .map(|n| Endpoint {
                addresses: vec![format!("10.0.0.{n}")],
                ..Endpoint::default()
            })
            .collect();
        Group {
            address_type: "IPv4".to_owned(),
            ports: Vec::new(),
            endpoints,
        }
    }

    fn settle(
        existing: &[Arc<EndpointSlice>],
        changes: Changes,
        next: &mut usize,
    ) -> Vec<Arc<EndpointSlice>> {
        let touched = |slice: &EndpointSlice, list: &[EndpointSlice]| {
            list.iter()
                .any(|other| other.metadata.name == slice.metadata.name)
        };
        let mut after: Vec<Arc<EndpointSlice>> = existing
            .iter()
            .filter(|slice| !touched(slice, &changes.delete) && !touched(slice, &changes.replace))
            .cloned()
            .collect();
        after.extend(changes.replace.into_iter().map(Arc::new));
        for mut slice in changes.create {
            *next += 1;
            slice.metadata.name = Some(format!("web-{next}"));
            after.push(Arc::new(slice));
        }
        after
    }

    fn held(slices: &[Arc<EndpointSlice>]) -> Vec<String> {
        let mut all: Vec<String> = slices
            .iter()
            .flat_map(|slice| slice.endpoints.iter().flatten())
            .flat_map(|endpoint| endpoint.addresses.clone())
            .collect();
        all.sort();
        all
    }

    #[test]
    fn an_empty_service_has_one_empty_slice() {
        let changes = plan(&[], &[group([])], &stamp());
        assert_eq!(changes.create.len(), 1);
        let slices = settle(&[], changes, &mut 0);
        assert_eq!(plan(&slices, &[group([])], &stamp()), Changes::default());
    }

    proptest::proptest! {
        /// Whatever the endpoints were, the slices come to hold exactly the
        /// wanted ones, none over its limit, and then nothing is left to do.
        #[test]
        fn converges(rounds in proptest::collection::vec(
            proptest::collection::btree_set(0..400_usize, 0..300), 1..6)) {
            let mut slices = Vec::new();
            let mut next = 0;
            for wanted in rounds {
                let group = group(wanted);
                let changes = plan(&slices, std::slice::from_ref(&group), &stamp());
                slices = settle(&slices, changes, &mut next);
                let mut expected: Vec<String> =
                    group.endpoints.iter().flat_map(|e| e.addresses.clone()).collect();
                expected.sort();
                proptest::prop_assert_eq!(held(&slices), expected);
                let fits = |slice: &Arc<EndpointSlice>| {
                    slice.endpoints.as_ref().is_none_or(|all| all.len() <= LIMIT)
                };
                proptest::prop_assert!(slices.iter().all(fits));
                proptest::prop_assert_eq!(
                    plan(&slices, std::slice::from_ref(&group), &stamp()), Changes::default());
            }
        }
    }
}

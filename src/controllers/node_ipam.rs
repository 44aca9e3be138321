//! Node IPAM: every node gets a share of the cluster's pod addresses.
//!
//! What is taken is read off the nodes themselves, so there is no state beside
//! them; one worker hands shares out, so that no two nodes get the same.

use std::collections::BTreeSet;
use std::sync::Arc;

use client::api::{Patch, PatchParams};
use client::{Action, Api, Informer, NamespacedName};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use crate::context::{Context, run};
use crate::error::{During, Error, Result};

const NAME: &str = "node-controller";
/// Prefix lengths of a node's share, upstream's defaults.
const PREFIX_V4: u8 = 24;
const PREFIX_V6: u8 = 64;

pub(crate) fn register(context: &Context) {
    let cluster = context.config.cluster_cidrs.clone();
    if cluster.is_empty() {
        return;
    }
    let api = Api::<Node>::all(context.client(NAME));
    let nodes = context.informers.of::<Node>();
    let controller = context.controller("node-ipam-controller");
    controller.watch(&nodes, |node| {
        if pod_cidrs(node).is_empty() {
            vec![NamespacedName::of(node)]
        } else {
            Vec::new()
        }
    });
    let state = Arc::new((api, nodes, cluster));
    run(controller, 1, move |key| {
        let state = state.clone();
        async move {
            let (api, nodes, cluster) = &*state;
            reconcile(api, nodes, cluster, &key).await
        }
    });
}

async fn reconcile(
    api: &Api<Node>,
    nodes: &Informer<Node>,
    cluster: &[IpNet],
    key: &NamespacedName,
) -> Result<Action> {
    // The informer may lag behind what this worker wrote a moment ago: the
    // API is asked for what is taken.
    let list = api
        .list(&client::api::ListParams::default())
        .await
        .during(|| "listing nodes".to_owned())?;
    let Some(node) = list
        .items
        .iter()
        .find(|node| NamespacedName::of(*node) == *key)
    else {
        return Ok(Action::Done);
    };
    if !pod_cidrs(node).is_empty() || nodes.get(key).is_none() {
        return Ok(Action::Done);
    }
    let taken: BTreeSet<IpNet> = list.items.iter().flat_map(pod_cidrs).collect();
    let shares = cluster
        .iter()
        .map(|net| share(*net, &taken))
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| {
            Error::Unmet(format!(
                "no pod addresses are left for node {}: --cluster-cidr is used up",
                key.name
            ))
        })?;
    let shares: Vec<String> = shares.iter().map(IpNet::to_string).collect();
    let patch = json!({ "spec": { "podCIDR": shares[0], "podCIDRs": shares } });
    api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .during(|| format!("giving node {} its pod addresses", key.name))?;
    Ok(Action::Done)
}

fn pod_cidrs(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else {
        return Vec::new();
    };
    let listed = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
    listed.filter_map(|cidr| cidr.parse().ok()).collect()
}

/// The first share of `cluster` that overlaps nothing that is taken.
fn share(cluster: IpNet, taken: &BTreeSet<IpNet>) -> Option<IpNet> {
    let is_free = |share: &IpNet| {
        !taken
            .iter()
            .any(|other| other.contains(share) || share.contains(other))
    };
    match cluster {
        IpNet::V4(net) => subnets_v4(net).map(IpNet::V4).find(is_free),
        IpNet::V6(net) => subnets_v6(net).map(IpNet::V6).find(is_free),
    }
}

fn subnets_v4(net: Ipv4Net) -> impl Iterator<Item = Ipv4Net> {
    let prefix = net.prefix_len().max(PREFIX_V4);
    net.subnets(prefix).into_iter().flatten()
}

fn subnets_v6(net: Ipv6Net) -> impl Iterator<Item = Ipv6Net> {
    let prefix = net.prefix_len().max(PREFIX_V6);
    net.subnets(prefix).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cluster: &str, taken: &[&str], expected: Option<&str>) {
        let parse = |text: &str| text.parse::<IpNet>().expect("a network");
        let taken = taken.iter().map(|text| parse(text)).collect();
        assert_eq!(
            share(parse(cluster), &taken),
            expected.map(parse),
            "{cluster} {taken:?}"
        );
    }

    #[test]
    fn shares_do_not_overlap() {
        check("10.42.0.0/16", &[], Some("10.42.0.0/24"));
        check(
            "10.42.0.0/16",
            &["10.42.0.0/24", "10.42.2.0/24"],
            Some("10.42.1.0/24"),
        );
        check("10.42.0.0/16", &["10.42.0.0/23"], Some("10.42.2.0/24"));
        check("10.42.0.0/25", &["10.42.0.0/25"], None);
        check("fd00::/56", &["fd00::/64"], Some("fd00:0:0:1::/64"));
    }
}

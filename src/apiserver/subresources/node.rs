//! How kubelets are reached.

use api::Status;
use serde_json::Value;

use super::core;
use super::tunnel::{Failure, Target};
use crate::handlers::Context;
use crate::registry::Registry;

/// Which of a node's addresses is tried, best first.
const ADDRESSES: [&str; 5] = [
    "InternalIP",
    "Hostname",
    "InternalDNS",
    "ExternalDNS",
    "ExternalIP",
];
const PORT: u16 = 10250;

/// The kubelet of a node; `path` with its query is what is asked of it.
pub(super) async fn kubelet(
    context: &Context<'_>,
    registry: &Registry,
    node: &str,
    path: String,
) -> Result<Target, Status> {
    let nodes = core(registry, "nodes")?;
    let entry = registry
        .read(&nodes, node)
        .await?
        .ok_or_else(|| nodes.not_found(node))?;
    let Some(client) = &context.server.inner.kubelet else {
        return Err(Status::internal(
            "this server was started without a way to reach kubelets",
        ));
    };
    let node = entry.value();
    let Some(host) = address(&node) else {
        return Err(Status::internal(format!(
            "no preferred addresses found; known addresses: {}",
            node["status"]["addresses"]
        )));
    };
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"]
        .as_u64()
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0)
        .unwrap_or(PORT);
    Ok(Target {
        host,
        port,
        tls: Some(client.tls.clone()),
        path,
        failure: Failure::Backend,
    })
}

fn address(node: &Value) -> Option<String> {
    let known = node["status"]["addresses"].as_array()?;
    ADDRESSES.iter().find_map(|kind| {
        known
            .iter()
            .find(|address| address["type"] == *kind)
            .and_then(|address| address["address"].as_str())
            .map(str::to_owned)
    })
}

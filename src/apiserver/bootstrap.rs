//! The objects every cluster begins with.

use std::sync::Arc;
use std::time::Duration;

use api::{Reason, Status};
use base::Backoff;
use futures::StreamExt;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::access::{MASTERS, User};
use crate::registry::{Call, Registry};
use crate::server::ApiServer;

/// Who makes them.
const USER: &str = "system:apiserver";
/// Objects created at once.
const BATCH: usize = 256;

/// Creates what is missing; tries again until it has.
pub(crate) async fn run(server: &ApiServer) {
    let (first, rest) = objects(server)
        .into_iter()
        .partition(|it| it.2 == "namespaces");
    // Namespaces come before what is in them; all else has no order, and
    // goes to the store together to share its commits.
    for batch in [first, rest] {
        let batch: Vec<Bootstrap> = batch;
        futures::stream::iter(&batch)
            .for_each_concurrent(BATCH, |object| create(server, object))
            .await;
    }
}

async fn create(server: &ApiServer, (group, version, resource, object): &Bootstrap) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
    while let Err(status) = ensure(&server.inner.registry, group, version, resource, object).await {
        tracing::warn!(
            resource,
            name = %object["metadata"]["name"],
            error = %status.message,
            "cannot create a bootstrap object; trying again"
        );
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

async fn ensure(
    registry: &Arc<Registry>,
    group: &str,
    version: &str,
    resource: &str,
    object: &Value,
) -> Result<(), Status> {
    let Some(resource) = registry.resource(group, resource) else {
        return Ok(());
    };
    let text = |field: &str| {
        object["metadata"][field]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let key = resource.key(&text("namespace"), &text("name"));
    if registry.fetch(&resource, &key).await?.is_some() {
        return Ok(());
    }
    let call = Call {
        version: version.to_owned(),
        subresource: String::new(),
        namespace: text("namespace"),
        name: String::new(),
        user: Arc::new(User::new(USER, &[MASTERS])),
        dry_run: false,
        manager: "karve".to_owned(),
        field_validation: "Ignore".to_owned(),
        options: json!({}),
        warnings: Mutex::default(),
        empties: Mutex::default(),
        resource,
    };
    let bytes = serde_json::to_vec(object).expect("a value is JSON");
    let gvk = call.resource.gvk(version);
    let object = registry
        .engine
        .decode(&call, &gvk, crate::http::Format::Json, &bytes)?;
    match registry.create(&call, object).await {
        Ok(_) => Ok(()),
        Err(status) if status.reason == Reason::AlreadyExists => Ok(()),
        Err(status) => Err(status),
    }
}

type Bootstrap = (&'static str, &'static str, &'static str, Value);

fn objects(server: &ApiServer) -> Vec<Bootstrap> {
    let config = &server.inner.config;
    let mut all: Vec<Bootstrap> = Vec::new();
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        all.push((
            "",
            "v1",
            "namespaces",
            json!({ "metadata": { "name": name } }),
        ));
    }
    for (name, value, description) in [
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to \
             another node if necessary.",
        ),
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
    ] {
        all.push((
            "scheduling.k8s.io",
            "v1",
            "priorityclasses",
            json!({
                "metadata": { "name": name },
                "value": value,
                "description": description,
            }),
        ));
    }
    if let Some(range) = config.service_cidrs.first() {
        let cidrs: Vec<String> = config
            .service_cidrs
            .iter()
            .map(ToString::to_string)
            .collect();
        all.push((
            "networking.k8s.io",
            "v1",
            "servicecidrs",
            json!({ "metadata": { "name": "kubernetes" }, "spec": { "cidrs": cidrs } }),
        ));
        let address = range.hosts().next().unwrap_or(range.addr()).to_string();
        all.push((
            "",
            "v1",
            "services",
            json!({
                "metadata": {
                    "name": "kubernetes",
                    "namespace": "default",
                    "labels": { "component": "apiserver", "provider": "kubernetes" },
                },
                "spec": {
                    "type": "ClusterIP",
                    "clusterIP": address,
                    "clusterIPs": [address],
                    "ipFamilyPolicy": "SingleStack",
                    "sessionAffinity": "None",
                    "ports": [{
                        "name": "https", "protocol": "TCP", "port": 443,
                        "targetPort": config.port,
                    }],
                },
            }),
        ));
    }
    for (resource, object) in crate::access::policy::objects() {
        all.push(("rbac.authorization.k8s.io", "v1", resource, object));
    }
    if config.advertise_address.is_loopback() {
        // Endpoints may not be loopback addresses: nobody else could reach them.
        return all;
    }
    let address = config.advertise_address.to_string();
    all.push((
        "",
        "v1",
        "endpoints",
        json!({
            "metadata": {
                "name": "kubernetes",
                "namespace": "default",
                "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" },
            },
            "subsets": [{
                "addresses": [{ "ip": address }],
                "ports": [{ "name": "https", "port": config.port, "protocol": "TCP" }],
            }],
        }),
    ));
    all.push((
        "discovery.k8s.io",
        "v1",
        "endpointslices",
        json!({
            "metadata": {
                "name": "kubernetes",
                "namespace": "default",
                "labels": { "kubernetes.io/service-name": "kubernetes" },
            },
            "addressType": if config.advertise_address.is_ipv6() { "IPv6" } else { "IPv4" },
            "endpoints": [{ "addresses": [address], "conditions": { "ready": true } }],
            "ports": [{ "name": "https", "port": config.port, "protocol": "TCP" }],
        }),
    ));
    all
}

//! What there is in a fresh cluster.

use serde_json::json;

use super::{Bootstrap, flow};
use crate::config::Config;

/// Tells API servers behind this one whom to believe.
pub(super) const AUTHENTICATION: &str = "extension-apiserver-authentication";

/// Every object, in no order.
pub(super) fn all(config: &Config) -> Vec<Bootstrap> {
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
    for object in flow::levels() {
        all.push((
            "flowcontrol.apiserver.k8s.io",
            "v1",
            "prioritylevelconfigurations",
            object,
        ));
    }
    for object in flow::schemas() {
        all.push(("flowcontrol.apiserver.k8s.io", "v1", "flowschemas", object));
    }
    all.extend(config_maps(config));
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

/// What this server tells others about itself.
fn config_maps(config: &Config) -> Vec<Bootstrap> {
    let mut authentication = json!({});
    if let Some(ca) = &config.client_ca {
        authentication["client-ca-file"] = ca.clone().into();
    }
    if let Some(ca) = &config.request_header_ca {
        for (key, value) in [
            ("requestheader-client-ca-file", ca.as_str()),
            ("requestheader-allowed-names", r#"["system:auth-proxy"]"#),
            ("requestheader-username-headers", r#"["X-Remote-User"]"#),
            ("requestheader-uid-headers", r#"["X-Remote-Uid"]"#),
            ("requestheader-group-headers", r#"["X-Remote-Group"]"#),
            (
                "requestheader-extra-headers-prefix",
                r#"["X-Remote-Extra-"]"#,
            ),
        ] {
            authentication[key] = value.into();
        }
    }
    let today = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    let map = |name: &str, data: serde_json::Value| {
        (
            "",
            "v1",
            "configmaps",
            json!({ "metadata": { "name": name, "namespace": "kube-system" }, "data": data }),
        )
    };
    vec![
        map(AUTHENTICATION, authentication),
        map(
            "kube-apiserver-legacy-service-account-token-tracking",
            json!({ "since": today }),
        ),
    ]
}

//! Which other objects a pod refers to by name, and which secrets a volume does.

use serde_json::Value;

fn items<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    object[field].as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|field| items(&pod["spec"], field))
}

/// Secrets that a volume of this form names, in a pod or a persistent volume.
const VOLUME_SECRETS: [(&str, &str); 8] = [
    ("cephfs", "secretRef"),
    ("cinder", "secretRef"),
    ("flexVolume", "secretRef"),
    ("rbd", "secretRef"),
    ("scaleIO", "secretRef"),
    ("iscsi", "secretRef"),
    ("storageos", "secretRef"),
    ("csi", "nodePublishSecretRef"),
];

/// Names of secrets in the pod's namespace: `VisitPodSecretNames`.
pub(crate) fn secrets(pod: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = items(&pod["spec"], "imagePullSecrets")
        .map(|pull| text(&pull["name"]))
        .collect();
    for container in containers(pod) {
        names.extend(items(container, "envFrom").map(|from| text(&from["secretRef"]["name"])));
        names.extend(
            items(container, "env").map(|env| text(&env["valueFrom"]["secretKeyRef"]["name"])),
        );
    }
    for volume in items(&pod["spec"], "volumes") {
        names.push(text(&volume["secret"]["secretName"]));
        names.push(text(&volume["azureFile"]["secretName"]));
        for (kind, field) in VOLUME_SECRETS {
            names.push(text(&volume[kind][field]["name"]));
        }
        let sources = items(&volume["projected"], "sources");
        names.extend(sources.map(|source| text(&source["secret"]["name"])));
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Names of config maps in the pod's namespace: `VisitPodConfigmapNames`.
pub(crate) fn config_maps(pod: &Value) -> Vec<&str> {
    let mut names = Vec::new();
    for container in containers(pod) {
        names.extend(items(container, "envFrom").map(|from| text(&from["configMapRef"]["name"])));
        names.extend(
            items(container, "env").map(|env| text(&env["valueFrom"]["configMapKeyRef"]["name"])),
        );
    }
    for volume in items(&pod["spec"], "volumes") {
        names.push(text(&volume["configMap"]["name"]));
        let sources = items(&volume["projected"], "sources");
        names.extend(sources.map(|source| text(&source["configMap"]["name"])));
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Names of persistent volume claims in the pod's namespace.
pub(crate) fn claims(pod: &Value) -> Vec<String> {
    let own = text(&pod["metadata"]["name"]);
    items(&pod["spec"], "volumes")
        .filter_map(|volume| {
            if volume["persistentVolumeClaim"].is_object() {
                Some(text(&volume["persistentVolumeClaim"]["claimName"]).to_owned())
            } else if volume["ephemeral"].is_object() {
                Some(format!("{own}-{}", text(&volume["name"])))
            } else {
                None
            }
        })
        .collect()
}

/// Names of resource claims in the pod's namespace.
pub(crate) fn resource_claims(pod: &Value) -> Vec<&str> {
    let status = &pod["status"];
    let mut names: Vec<&str> = items(&pod["spec"], "resourceClaims")
        .map(|claim| match claim["resourceClaimName"].as_str() {
            Some(name) => name,
            None => items(status, "resourceClaimStatuses")
                .find(|made| made["name"] == claim["name"])
                .map_or("", |made| text(&made["resourceClaimName"])),
        })
        .collect();
    names.push(text(
        &status["extendedResourceClaimStatus"]["resourceClaimName"],
    ));
    names.retain(|name| !name.is_empty());
    names
}

/// Namespace and name of each secret that a kubelet needs for a persistent volume.
pub(crate) fn volume_secrets(volume: &Value) -> Vec<(&str, &str)> {
    let spec = &volume["spec"];
    let mut found = vec![(
        text(&spec["azureFile"]["secretNamespace"]),
        text(&spec["azureFile"]["secretName"]),
    )];
    let nodes = [
        ("csi", "nodeStageSecretRef"),
        ("csi", "nodeExpandSecretRef"),
    ];
    for (kind, field) in VOLUME_SECRETS.into_iter().chain(nodes) {
        let reference = &spec[kind][field];
        found.push((text(&reference["namespace"]), text(&reference["name"])));
    }
    found.retain(|(_, name)| !name.is_empty());
    for (namespace, _) in &mut found {
        if namespace.is_empty() {
            *namespace = text(&spec["claimRef"]["namespace"]);
        }
    }
    found
}

/// The kind of API object a pod needs beside itself, if it needs any:
/// `HasAPIObjectReference`, which mirror pods must not have.
pub(crate) fn needs_api(pod: &Value) -> Option<&'static str> {
    let spec = &pod["spec"];
    if !text(&spec["serviceAccountName"]).is_empty() {
        return Some("serviceaccounts");
    }
    if !secrets(pod).is_empty() {
        return Some("secrets");
    }
    if !config_maps(pod).is_empty() {
        return Some("configmaps");
    }
    if items(spec, "resourceClaims").next().is_some() {
        return Some("resourceclaims");
    }
    items(spec, "volumes").find_map(|volume| {
        [
            ("csi", "csidrivers (via CSI volumes)"),
            ("glusterfs", "endpoints (via glusterFS volumes)"),
            ("persistentVolumeClaim", "persistentvolumeclaims"),
            (
                "ephemeral",
                "persistentvolumeclaims (via ephemeral volumes)",
            ),
            ("azureFile", "secrets (via azureFile volumes)"),
        ]
        .into_iter()
        .find(|(kind, _)| volume[kind].is_object())
        .map(|(_, what)| what)
        .or_else(|| {
            items(&volume["projected"], "sources").find_map(|source| {
                [
                    (
                        "serviceAccountToken",
                        "serviceaccounts (via projected volumes)",
                    ),
                    ("clusterTrustBundle", "clustertrustbundles"),
                    ("podCertificate", "podcertificates"),
                ]
                .into_iter()
                .find(|(kind, _)| source[kind].is_object())
                .map(|(_, what)| what)
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn everything_named_is_found() {
        let pod = json!({
            "metadata": { "name": "p" },
            "spec": {
                "imagePullSecrets": [{ "name": "pull" }],
                "initContainers": [{ "name": "i", "envFrom": [
                    { "secretRef": { "name": "from" } }, { "configMapRef": { "name": "map-from" } },
                ] }],
                "containers": [{ "name": "a", "env": [
                    { "name": "X", "valueFrom": { "secretKeyRef": { "name": "key" } } },
                    { "name": "Y", "valueFrom": { "configMapKeyRef": { "name": "map-key" } } },
                    { "name": "Z", "value": "plain" },
                ] }],
                "volumes": [
                    { "name": "s", "secret": { "secretName": "volume" } },
                    { "name": "c", "configMap": { "name": "map-volume" } },
                    { "name": "j", "projected": { "sources": [
                        { "secret": { "name": "projected" } },
                        { "configMap": { "name": "map-projected" } },
                    ] } },
                    { "name": "d", "csi": { "nodePublishSecretRef": { "name": "csi" } } },
                    { "name": "e", "ephemeral": {} },
                    { "name": "q", "persistentVolumeClaim": { "claimName": "claim" } },
                ],
                "resourceClaims": [
                    { "name": "given", "resourceClaimName": "rc" },
                    { "name": "made", "resourceClaimTemplateName": "t" },
                ],
            },
            "status": { "resourceClaimStatuses": [{ "name": "made", "resourceClaimName": "rc-made" }] },
        });
        assert_eq!(
            secrets(&pod),
            ["pull", "from", "key", "volume", "projected", "csi"]
        );
        assert_eq!(
            config_maps(&pod),
            ["map-from", "map-key", "map-volume", "map-projected"]
        );
        assert_eq!(claims(&pod), ["p-e", "claim"]);
        assert_eq!(resource_claims(&pod), ["rc", "rc-made"]);
        assert_eq!(needs_api(&pod), Some("secrets"));
        let mirror =
            json!({ "spec": { "volumes": [{ "name": "h", "hostPath": { "path": "/" } }] } });
        assert_eq!(needs_api(&mirror), None);
    }

    #[test]
    fn secrets_of_volumes() {
        let volume = json!({ "spec": {
            "claimRef": { "namespace": "ns", "name": "c" },
            "csi": {
                "nodeStageSecretRef": { "namespace": "other", "name": "stage" },
                "controllerPublishSecretRef": { "namespace": "other", "name": "no" },
            },
            "rbd": { "secretRef": { "name": "r" } },
        } });
        assert_eq!(volume_secrets(&volume), [("ns", "r"), ("other", "stage")]);
    }
}

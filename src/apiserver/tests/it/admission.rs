//! Admission plugins as clients meet them.

use apiserver::access::{NODES, User};
use serde_json::{Value, json};

use super::World;

const PODS: &str = "/api/v1/namespaces/default/pods";

impl World {
    /// A world with a service account for pods to run as.
    async fn inhabited() -> Self {
        let world = Self::start().await;
        world.server.ready().await;
        let account = json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" },
        });
        let path = "/api/v1/namespaces/default/serviceaccounts";
        assert_eq!(world.send("POST", path, account).await.0, 201);
        world
    }

    async fn create(&self, path: &str, object: Value) -> Value {
        let (code, created) = self.send("POST", path, object).await;
        assert_eq!(code, 201, "{created}");
        created
    }

    /// The message a create is refused with.
    async fn refused(&self, path: &str, object: Value) -> String {
        let (code, refused) = self.send("POST", path, object).await;
        assert_eq!(code, 403, "{refused}");
        refused["message"].as_str().unwrap().to_owned()
    }
}

fn pod(name: &str, resources: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": { "containers": [{ "name": "c", "image": "i", "resources": resources }] },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn limit_ranges_default_and_bound() {
    let world = World::inhabited().await;
    let range = json!({
        "apiVersion": "v1", "kind": "LimitRange", "metadata": { "name": "l" },
        "spec": { "limits": [{
            "type": "Container",
            "default": { "cpu": "300m" }, "defaultRequest": { "cpu": "100m" }, "max": { "cpu": "1" },
        }] },
    });
    world
        .create("/api/v1/namespaces/default/limitranges", range)
        .await;
    let made = world.create(PODS, pod("a", json!({}))).await;
    assert_eq!(
        made["spec"]["containers"][0]["resources"],
        json!({ "requests": { "cpu": "100m" }, "limits": { "cpu": "300m" } })
    );
    assert_eq!(made["status"]["qosClass"], "Burstable");
    let message = world
        .refused(PODS, pod("b", json!({ "limits": { "cpu": "2" } })))
        .await;
    assert_eq!(
        message,
        "pods \"b\" is forbidden: maximum cpu usage per Container is 1, but limit is 2"
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_holds_against_a_crowd() {
    let world = World::inhabited().await;
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "q" },
        "spec": { "hard": { "configmaps": "5", "count/secrets": "1" } },
    });
    let mut quota = world.create(quotas, quota).await;
    let map = |name: usize| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": format!("m{name}") } });
    let maps = "/api/v1/namespaces/default/configmaps";
    // Nobody has counted yet, so the quota limits nothing yet either.
    world.create(maps, map(99)).await;
    quota["status"] = json!({
        "hard": quota["spec"]["hard"],
        "used": { "configmaps": "1", "count/secrets": "0" },
    });
    let (code, _) = world
        .send("PUT", &format!("{quotas}/q/status"), quota)
        .await;
    assert_eq!(code, 200);
    let all = (0..12).map(|name| world.send("POST", maps, map(name)));
    let codes: Vec<u16> = futures::future::join_all(all)
        .await
        .into_iter()
        .map(|(code, _)| code)
        .collect();
    assert_eq!(
        codes.iter().filter(|code| **code == 201).count(),
        4,
        "{codes:?}"
    );
    assert_eq!(
        codes.iter().filter(|code| **code == 403).count(),
        8,
        "{codes:?}"
    );
    let (_, quota) = world.send("GET", &format!("{quotas}/q"), Value::Null).await;
    assert_eq!(quota["status"]["used"]["configmaps"], "5");
    assert_eq!(
        world.refused(maps, map(50)).await,
        "configmaps \"m50\" is forbidden: exceeded quota: q, requested: configmaps=1, used: \
         configmaps=5, limited: configmaps=5"
    );
    // A dry run is refused and charges nothing.
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "s" } });
    let secrets = "/api/v1/namespaces/default/secrets";
    world
        .create(&format!("{secrets}?dryRun=All"), secret.clone())
        .await;
    world.create(secrets, secret).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_security_refuses_and_warns() {
    let world = World::inhabited().await;
    let labels = |labels: Value| json!({ "metadata": { "labels": labels } });
    let namespace = "/api/v1/namespaces/default";
    world.create(PODS, pod("before", json!({}))).await;
    let (code, _) = world
        .send(
            "PATCH",
            namespace,
            labels(json!({ "pod-security.kubernetes.io/enforce": "restricted" })),
        )
        .await;
    assert_eq!(code, 200);
    let warnings = world.warnings.lock().unwrap().clone();
    assert_eq!(
        warnings,
        [
            "299 - \"existing pods in namespace \\\"default\\\" violate the new PodSecurity enforce \
             level \\\"restricted:latest\\\"\"",
            "299 - \"before: allowPrivilegeEscalation != false, unrestricted capabilities, \
             runAsNonRoot != true, seccompProfile\"",
        ]
    );
    let message = world.refused(PODS, pod("a", json!({}))).await;
    assert_eq!(
        message,
        "pods \"a\" is forbidden: violates PodSecurity \"restricted:latest\": \
         allowPrivilegeEscalation != false (container \"c\" must set \
         securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \
         \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or \
         container \"c\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or \
         container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
         \"Localhost\")"
    );
    let template = json!({
        "apiVersion": "v1", "kind": "PodTemplate", "metadata": { "name": "t" },
        "template": { "spec": { "containers": [{ "name": "c", "image": "i" }], "hostPID": true } },
    });
    world
        .create("/api/v1/namespaces/default/podtemplates", template)
        .await;
    let warnings = world.warnings.lock().unwrap().clone();
    assert!(
        warnings[0].contains("would violate PodSecurity") && warnings[0].contains("hostPID=true"),
        "{warnings:?}"
    );
    let (code, refused) = world
        .send(
            "PATCH",
            namespace,
            labels(json!({ "pod-security.kubernetes.io/audit": "strict" })),
        )
        .await;
    assert_eq!(code, 422, "{refused}");
    assert_eq!(
        refused["message"],
        "Namespace \"default\" is invalid: metadata.labels[pod-security.kubernetes.io/audit]: \
         Invalid value: \"strict\": must be one of privileged, baseline, restricted"
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_keeps_to_its_node() {
    let world = World::inhabited().await;
    let kubelet = world
        .server
        .in_process(User::new("system:node:n", &[NODES]));
    let node = |name: &str, labels: Value| {
        json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": labels },
        })
    };
    let nodes = "/api/v1/nodes";
    for (object, code) in [
        (node("m", json!({})), 403),
        (
            node("n", json!({ "node-restriction.kubernetes.io/x": "y" })),
            403,
        ),
        (node("n", json!({ "kubernetes.io/hostname": "n" })), 201),
    ] {
        let (answer, body) = world.send_as(&kubelet, "POST", nodes, object).await;
        assert_eq!(answer, code, "{body}");
    }
    let taints = json!({ "spec": { "taints": [] } });
    let (code, refused) = world
        .send_as(&kubelet, "PATCH", &format!("{nodes}/n"), taints)
        .await;
    assert_eq!(code, 403);
    assert_eq!(
        refused["message"],
        "nodes \"n\" is forbidden: node \"n\" is not allowed to modify taints"
    );
    for name in ["mine", "foreign"] {
        let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name } });
        world
            .create("/api/v1/namespaces/default/secrets", secret)
            .await;
    }
    let mut pod = pod("p", json!({}));
    pod["spec"]["nodeName"] = "n".into();
    pod["spec"]["volumes"] = json!([{ "name": "s", "secret": { "secretName": "mine" } }]);
    let made = world.create(PODS, pod).await;
    for (path, code) in [
        ("secrets/mine", 200),
        ("secrets/foreign", 403),
        ("secrets", 403),
        ("secrets?fieldSelector=metadata.name%3Dmine", 200),
        ("pods/p", 200),
        ("pods", 403),
        ("pods?fieldSelector=spec.nodeName%3Dn", 200),
        ("configmaps/kube-root-ca.crt", 404),
    ] {
        let path = format!("/api/v1/namespaces/default/{path}");
        let (answer, body) = world.send_as(&kubelet, "GET", &path, Value::Null).await;
        assert_eq!(answer, code, "{path}: {body}");
    }
    let tokens = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let token = |uid: &Value| {
        json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": { "boundObjectRef": { "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid } },
        })
    };
    let (code, body) = world
        .send_as(&kubelet, "POST", tokens, token(&made["metadata"]["uid"]))
        .await;
    assert_eq!(code, 201, "{body}");
    let (code, _) = world
        .send_as(&kubelet, "POST", tokens, token(&json!("x")))
        .await;
    assert_eq!(code, 403);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runtime_classes_place_pods() {
    let world = World::inhabited().await;
    let class = json!({
        "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": { "name": "heavy" },
        "handler": "h",
        "overhead": { "podFixed": { "cpu": "10m" } },
        "scheduling": { "nodeSelector": { "vm": "yes" } },
    });
    world
        .create("/apis/node.k8s.io/v1/runtimeclasses", class)
        .await;
    let mut heavy = pod("a", json!({}));
    heavy["spec"]["runtimeClassName"] = "heavy".into();
    let made = world.create(PODS, heavy.clone()).await;
    assert_eq!(made["spec"]["overhead"], json!({ "cpu": "10m" }));
    assert_eq!(made["spec"]["nodeSelector"], json!({ "vm": "yes" }));
    heavy["metadata"]["name"] = "b".into();
    heavy["spec"]["nodeSelector"] = json!({ "vm": "no" });
    assert_eq!(
        world.refused(PODS, heavy.clone()).await,
        "pods \"b\" is forbidden: conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; \
         pod.spec.nodeSelector[vm] = no"
    );
    heavy["spec"]["runtimeClassName"] = "absent".into();
    assert_eq!(
        world.refused(PODS, heavy).await,
        "pods \"b\" is forbidden: pod rejected: RuntimeClass \"absent\" not found"
    );
    world.stop().await;
}

//! The objects that are written.

use anyhow::{Result, bail};

/// Stands for the name in a template.
const NAME: &str = "@NAME@";

/// The text around the places where the name goes.
#[derive(Clone)]
pub(crate) struct Template(Vec<String>);

impl Template {
    /// The template of a kind, and the resource it is posted to.
    pub(crate) fn new(kind: &str) -> Result<(Self, &'static str)> {
        let (text, resource) = match kind {
            "configmap" => (CONFIG_MAP, "configmaps"),
            "pod" => (POD, "pods"),
            "lease" => (LEASE, "leases"),
            other => bail!("kind={other} is none of configmap, pod and lease"),
        };
        // Without line breaks and their indentation, as clients send it.
        let text: String = text.lines().map(str::trim_start).collect();
        Ok((
            Self(text.split(NAME).map(str::to_owned).collect()),
            resource,
        ))
    }

    /// The object of a name.
    pub(crate) fn fill(&self, name: &str) -> Vec<u8> {
        self.0.join(name).into_bytes()
    }
}

const CONFIG_MAP: &str = r#"{"apiVersion":"v1","kind":"ConfigMap",
"metadata":{"name":"@NAME@","labels":{"app.kubernetes.io/name":"bench","app.kubernetes.io/component":"settings"}},
"data":{"application.yaml":"server:\n  port: 8080\n  host: 0.0.0.0\nlogging:\n  level: info\n  format: json\ncache:\n  size: 1024\n  ttl: 300s\n",
"features.properties":"feature.a=true\nfeature.b=false\nfeature.c=gradual\n","owner":"@NAME@"}}"#;

const LEASE: &str = r#"{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":"@NAME@"},
"spec":{"holderIdentity":"@NAME@","leaseDurationSeconds":40,"renewTime":"2026-01-01T00:00:00.000000Z"}}"#;

/// About what a pod of a deployment with a sidecar looks like.
const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"@NAME@",
"labels":{"app.kubernetes.io/name":"shop","app.kubernetes.io/instance":"shop-production","app.kubernetes.io/component":"checkout",
"app.kubernetes.io/version":"2.31.4","app.kubernetes.io/managed-by":"Helm","pod-template-hash":"7c5ddbdf54"},
"annotations":{"prometheus.io/scrape":"true","prometheus.io/port":"9102","prometheus.io/path":"/metrics",
"checksum/config":"3f1c4a1f0b6d0f5f9c0f1f7f5e0f5d3c2b1a09f8e7d6c5b4a39281706f5e4d3c",
"kubectl.kubernetes.io/restartedAt":"2026-01-01T00:00:00Z"}},
"spec":{"serviceAccountName":"default","automountServiceAccountToken":false,"terminationGracePeriodSeconds":45,
"nodeSelector":{"kubernetes.io/os":"linux","node.example.org/pool":"general"},
"priority":0,"securityContext":{"runAsNonRoot":true,"runAsUser":10001,"fsGroup":10001,"seccompProfile":{"type":"RuntimeDefault"}},
"affinity":{"podAntiAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[{"weight":100,"podAffinityTerm":{
"labelSelector":{"matchLabels":{"app.kubernetes.io/name":"shop"}},"topologyKey":"kubernetes.io/hostname"}}]}},
"topologySpreadConstraints":[{"maxSkew":1,"topologyKey":"topology.kubernetes.io/zone","whenUnsatisfiable":"ScheduleAnyway",
"labelSelector":{"matchLabels":{"app.kubernetes.io/name":"shop"}}}],
"tolerations":[{"key":"dedicated","operator":"Equal","value":"general","effect":"NoSchedule"}],
"initContainers":[{"name":"migrate","image":"registry.example.org/shop/migrate:2.31.4","command":["/bin/migrate","--wait"],
"env":[{"name":"DATABASE_URL","valueFrom":{"secretKeyRef":{"name":"shop-database","key":"url"}}}],
"resources":{"requests":{"cpu":"50m","memory":"64Mi"},"limits":{"memory":"128Mi"}}}],
"containers":[{"name":"checkout","image":"registry.example.org/shop/checkout:2.31.4","args":["--listen=:8080","--metrics=:9102"],
"ports":[{"name":"http","containerPort":8080},{"name":"metrics","containerPort":9102}],
"env":[{"name":"DATABASE_URL","valueFrom":{"secretKeyRef":{"name":"shop-database","key":"url"}}},
{"name":"LOG_LEVEL","value":"info"},{"name":"REGION","value":"eu-north-1"},{"name":"CACHE_HOST","value":"cache.shop.svc"},
{"name":"QUEUE_HOST","value":"queue.shop.svc"},{"name":"TRACE_RATIO","value":"0.01"},
{"name":"POD_IP","valueFrom":{"fieldRef":{"fieldPath":"status.podIP"}}},
{"name":"NODE_NAME","valueFrom":{"fieldRef":{"fieldPath":"spec.nodeName"}}}],
"resources":{"requests":{"cpu":"250m","memory":"256Mi"},"limits":{"cpu":"1","memory":"512Mi"}},
"readinessProbe":{"httpGet":{"path":"/ready","port":"http"},"periodSeconds":5,"failureThreshold":3},
"livenessProbe":{"httpGet":{"path":"/live","port":"http"},"initialDelaySeconds":20,"periodSeconds":10},
"lifecycle":{"preStop":{"exec":{"command":["/bin/sleep","5"]}}},
"securityContext":{"allowPrivilegeEscalation":false,"readOnlyRootFilesystem":true,"capabilities":{"drop":["ALL"]}},
"volumeMounts":[{"name":"config","mountPath":"/etc/shop","readOnly":true},{"name":"tmp","mountPath":"/tmp"}]},
{"name":"proxy","image":"registry.example.org/mesh/proxy:1.14.2","args":["sidecar","--domain","cluster.local","--log","warning"],
"ports":[{"name":"proxy","containerPort":15001},{"name":"proxy-admin","containerPort":15000}],
"env":[{"name":"PROXY_MODE","value":"strict"},{"name":"POD_NAME","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}},
{"name":"POD_NAMESPACE","valueFrom":{"fieldRef":{"fieldPath":"metadata.namespace"}}}],
"resources":{"requests":{"cpu":"20m","memory":"32Mi"},"limits":{"memory":"96Mi"}},
"readinessProbe":{"httpGet":{"path":"/healthz/ready","port":15000},"periodSeconds":5},
"securityContext":{"allowPrivilegeEscalation":false,"readOnlyRootFilesystem":true,"capabilities":{"drop":["ALL"]}},
"volumeMounts":[{"name":"tmp","mountPath":"/tmp"}]}],
"volumes":[{"name":"config","configMap":{"name":"shop-config","items":[{"key":"application.yaml","path":"application.yaml"}]}},
{"name":"tmp","emptyDir":{"sizeLimit":"64Mi"}}]}}"#;

//! A kubelet in a world of fakes.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base::{Shutdown, Supervisor};
use client::Informers;
use kubelet::{Config, Denied, Deps, NodeAuth, NodeRequest, build};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use crate::api::FakeApi;
use crate::runtime::{FakeImages, FakeRuntime};

/// Lets in whoever knows the token `secret`.
struct Token;

#[async_trait]
impl NodeAuth for Token {
    async fn authorize(
        &self,
        _: &[CertificateDer<'static>],
        bearer: Option<&str>,
        request: &NodeRequest<'_>,
    ) -> Result<(), Denied> {
        match bearer {
            Some("secret") => Ok(()),
            Some(_) => Err(Denied::Forbidden(format!("no {}", request.subresources[0]))),
            None => Err(Denied::Unauthorized),
        }
    }
}

/// A node named `node` and what it works with.
pub(crate) struct World {
    pub(crate) api: FakeApi,
    pub(crate) runtime: FakeRuntime,
    /// Where the node API listens, and the certificate it shows.
    pub(crate) address: std::net::SocketAddr,
    pub(crate) certificate: CertificateDer<'static>,
    dir: tempfile::TempDir,
    tasks: Arc<Supervisor>,
}

impl World {
    pub(crate) async fn new() -> Self {
        let mut world = Self {
            address: ([127, 0, 0, 1], 0).into(),
            certificate: CertificateDer::from(Vec::new()),
            api: FakeApi::new(),
            runtime: FakeRuntime::new(),
            dir: tempfile::tempdir().unwrap(),
            tasks: Arc::new(Supervisor::new(Shutdown::new())),
        };
        world.start().await;
        world
    }

    async fn start(&mut self) {
        let mut config = Config::new(
            "node",
            IpAddr::from([192, 168, 0, 1]),
            self.dir.path().join("kubelet"),
        );
        config.log_dir = self.dir.path().join("logs");
        let client = self.api.client();
        let made = rcgen::generate_simple_self_signed(["node".to_owned()]).unwrap();
        self.certificate = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], key)
            .unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.address = listener.local_addr().unwrap();
        let deps = Deps {
            informers: Informers::new(client.clone(), self.tasks.clone()),
            client,
            runtime: Arc::new(self.runtime.clone()),
            images: Arc::new(FakeImages),
            network: Arc::new(self.runtime.clone()),
            tasks: self.tasks.clone(),
            auth: Arc::new(Token),
            listener,
            tls: Arc::new(tls),
        };
        build(config, deps).unwrap().start();
    }

    /// Stops the kubelet and starts another over the same state.
    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.tasks = Arc::new(Supervisor::new(Shutdown::new()));
        self.start().await;
    }

    pub(crate) async fn stop(&self) {
        let outcome = self.tasks.stop(Duration::from_secs(5)).await;
        assert!(
            outcome.panicked.is_empty() && outcome.aborted.is_empty(),
            "{outcome:?}"
        );
    }

    /// Where a container's log is.
    pub(crate) fn log_file(&self, pod: &str, container: &str) -> std::path::PathBuf {
        let logs = self.dir.path().join("logs");
        logs.join(format!("ns_{pod}_uid-{pod}"))
            .join(container)
            .join("0.log")
    }

    /// Binds a pod of this spec to the node.
    pub(crate) fn bind(&self, name: &str, mut spec: Value) {
        spec["nodeName"] = json!("node");
        for field in ["containers", "initContainers"] {
            for container in spec[field].as_array_mut().into_iter().flatten() {
                if container.get("image").is_none() {
                    container["image"] = json!("present");
                }
            }
        }
        if spec["initContainers"].is_null() {
            spec.as_object_mut().unwrap().remove("initContainers");
        }
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": spec,
            "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}"),
                "generation": 1}});
        self.api.put(&path(name), pod);
    }

    /// Asks for a pod's deletion.
    pub(crate) fn delete(&self, name: &str, grace: i64) {
        let mut pod = self.api.get(&path(name)).unwrap();
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        self.api.put(&path(name), pod);
    }

    /// Waits until a pod's status has something.
    pub(crate) async fn until<T>(
        &self,
        name: &str,
        what: &str,
        mut found: impl FnMut(&Value) -> Option<T>,
    ) -> T {
        let path = path(name);
        self.api
            .until(what, |api| found(&api.get(&path)?["status"]))
            .await
    }

    pub(crate) async fn until_phase(&self, name: &str, phase: &str) -> Value {
        let found = |status: &Value| (status["phase"] == phase).then(|| status.clone());
        self.until(name, phase, found).await
    }

    pub(crate) async fn until_gone(&self, name: &str) {
        let path = path(name);
        self.api
            .until("the pod is gone", |api| {
                api.get(&path).is_none().then_some(())
            })
            .await;
    }

    /// Messages of the events there are, by reason.
    pub(crate) fn events(&self, reason: &str) -> Vec<String> {
        let events = self.api.under("/api/v1/namespaces/ns/events/");
        let events = events.iter().filter(|event| event["reason"] == reason);
        events
            .map(|event| event["message"].as_str().unwrap().to_owned())
            .collect()
    }

    pub(crate) async fn until_event(&self, reason: &str) -> String {
        self.api
            .until(reason, |_| self.events(reason).into_iter().next())
            .await
    }
}

pub(crate) fn path(name: &str) -> String {
    format!("/api/v1/namespaces/ns/pods/{name}")
}

//! What a kubelet is told and what it is given.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base::Supervisor;
use client::{Client, Informers};
use cri::{ContainerRuntime, ImageService, PodNetwork};
use k8s_openapi::api::core::v1::Taint;

/// Kubelet version reported by the node, in the shape `vMAJOR.MINOR.PATCH+build`.
pub const KUBELET_VERSION: &str = concat!("v1.36.2+karve", env!("CARGO_PKG_VERSION"));

/// Name before `://` in container ids and in the node's runtime version.
pub const RUNTIME_NAME: &str = "karve";

/// Called with the node's pod CIDRs whenever they become known or change.
pub type PodCidrCallback = Arc<dyn Fn(Vec<String>) + Send + Sync>;

/// Settings of a kubelet.
#[derive(Clone)]
pub struct Config {
    /// Name of the Node object.
    pub node_name: String,
    /// Addresses of the node, the primary one first. Must not be empty.
    pub node_ips: Vec<IpAddr>,
    /// Addresses of the cluster DNS service.
    pub cluster_dns: Vec<IpAddr>,
    /// DNS domain of the cluster, such as `cluster.local`.
    pub cluster_domain: String,
    /// Resolver file `dnsPolicy: Default` and upstream look-ups use.
    pub resolv_conf: PathBuf,
    /// State of pods: volumes, hosts files, termination messages.
    pub root_dir: PathBuf,
    /// Folder of container logs.
    pub log_dir: PathBuf,
    /// Port of the node API, as the Node object announces it.
    pub port: u16,
    /// Most pods on this node.
    pub max_pods: u32,
    /// Labels set when the node registers.
    pub labels: BTreeMap<String, String>,
    /// Taints set when the node registers.
    pub taints: Vec<Taint>,
    /// Reserved for the node itself: resource name to quantity.
    pub reserved: BTreeMap<String, String>,
    /// When to evict pods and report pressure.
    pub eviction: EvictionThresholds,
    /// When to remove unused images.
    pub image_gc: ImageGc,
    /// How often the lease is renewed.
    pub lease_renew_interval: Duration,
    /// How long a renewed lease holds.
    pub lease_duration: Duration,
    /// How often the node status is written though nothing changed.
    pub status_report_interval: Duration,
    /// A container log is rotated past this many bytes.
    pub container_log_max_size: u64,
    /// Log files kept for a container, the current one counted.
    pub container_log_max_files: u32,
    /// Told the node's pod CIDRs.
    pub on_pod_cidrs: Option<PodCidrCallback>,
}

impl Config {
    /// Upstream's defaults for a node of this name and address, with its
    /// state under `root_dir`.
    pub fn new(
        node_name: impl Into<String>,
        node_ip: IpAddr,
        root_dir: impl Into<PathBuf>,
    ) -> Self {
        Self {
            node_name: node_name.into(),
            node_ips: vec![node_ip],
            cluster_dns: vec![IpAddr::from([10, 43, 0, 10])],
            cluster_domain: "cluster.local".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            root_dir: root_dir.into(),
            log_dir: "/var/log/pods".into(),
            port: 10250,
            max_pods: 110,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            reserved: BTreeMap::new(),
            eviction: EvictionThresholds::default(),
            image_gc: ImageGc::default(),
            lease_renew_interval: Duration::from_secs(10),
            lease_duration: Duration::from_secs(40),
            status_report_interval: Duration::from_secs(300),
            container_log_max_size: 10 << 20,
            container_log_max_files: 5,
            on_pod_cidrs: None,
        }
    }
}

/// Signals below which the node reports pressure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EvictionThresholds {
    /// Least available memory in bytes.
    pub memory_available: u64,
    /// Least free share of the file system of `root_dir`, 0 to 1.
    pub nodefs_available: f64,
    /// Least free share of its inodes, 0 to 1.
    pub nodefs_inodes_free: f64,
}

impl Default for EvictionThresholds {
    fn default() -> Self {
        Self {
            memory_available: 100 << 20,
            nodefs_available: 0.10,
            nodefs_inodes_free: 0.05,
        }
    }
}

/// When unused images go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageGc {
    /// Disk usage share that starts a collection.
    pub high_threshold: f64,
    /// Disk usage share a collection aims for.
    pub low_threshold: f64,
    /// Age below which an unused image stays.
    pub minimum_age: Duration,
}

impl Default for ImageGc {
    fn default() -> Self {
        Self {
            high_threshold: 0.85,
            low_threshold: 0.80,
            minimum_age: Duration::from_secs(120),
        }
    }
}

/// What a kubelet works with.
pub struct Deps {
    /// The API server, as this node.
    pub client: Client,
    /// Shared informers over the same client.
    pub informers: Informers,
    /// Runs sandboxes and containers.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// Stores images.
    pub images: Arc<dyn ImageService>,
    /// Plugs sandboxes in.
    pub network: Arc<dyn PodNetwork>,
    /// Owns every task.
    pub tasks: Arc<Supervisor>,
    /// Decides who may call the node API.
    pub auth: Arc<dyn NodeAuth>,
    /// Listening socket of the node API.
    pub listener: tokio::net::TcpListener,
    /// TLS of the node API; it should ask for client certificates.
    pub tls: Arc<rustls::ServerConfig>,
}

/// A request to the node API, in the terms it is authorised by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRequest<'a> {
    /// Name of this node.
    pub node: &'a str,
    /// API verb: `get`, `create`, …
    pub verb: &'static str,
    /// Subresources of `nodes`, any of which grants access, the finest
    /// first (`["pods", "proxy"]`).
    pub subresources: &'a [&'static str],
    /// Path as it was called.
    pub path: &'a str,
}

/// Why a request to the node API is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// No valid credential: 401.
    Unauthorized,
    /// A valid credential that may not do this: 403 with this message.
    Forbidden(String),
}

/// Who may call the node API. Implemented over client certificates,
/// `TokenReview` and `SubjectAccessReview`.
#[async_trait]
pub trait NodeAuth: Send + Sync {
    /// Authenticates and authorises one request. `certificates` is the
    /// client's chain, leaf first, already verified against the client CA by
    /// the TLS handshake; it is empty if the client sent none. `bearer` is
    /// the token of the `Authorization` header.
    async fn authorize(
        &self,
        certificates: &[rustls::pki_types::CertificateDer<'static>],
        bearer: Option<&str>,
        request: &NodeRequest<'_>,
    ) -> Result<(), Denied>;
}

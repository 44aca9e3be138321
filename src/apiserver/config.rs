//! What the API server is told and given.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use store::Store;

use crate::access::{Authenticator, Authorizer};
use crate::admission::Plugin;

/// Settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address under which nodes and pods reach this server.
    pub advertise_address: IpAddr,
    /// Port it is reached at.
    pub port: u16,
    /// Ranges of Service addresses, the primary one first.
    pub service_cidrs: Vec<IpNet>,
    /// Ports that NodePort Services use.
    pub node_ports: RangeInclusive<u16>,
    /// `iss` of service-account tokens and their audience.
    pub issuer: String,
    /// What a request that is not long-running may take.
    pub request_timeout: Duration,
    /// `gitVersion` of `/version`, such as `v1.36.2+karve0.1.0`.
    pub version: String,
    /// Commit it was built from; may be empty.
    pub git_commit: String,
    /// Certificate (PEM) of the authority whose client certificates count, for
    /// API servers behind this one to know.
    pub client_ca: Option<String>,
    /// Certificate (PEM) of the authority of this server's certificate towards
    /// API servers behind it.
    pub request_header_ca: Option<String>,
}

impl Config {
    /// The usual settings for a server reached at `address:port`.
    pub fn new(address: IpAddr, port: u16) -> Self {
        Self {
            advertise_address: address,
            port,
            service_cidrs: vec![IpNet::V4(
                ipnet::Ipv4Net::new(std::net::Ipv4Addr::new(10, 43, 0, 0), 16)
                    .expect("16 is a prefix length"),
            )],
            node_ports: 30000..=32767,
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            request_timeout: Duration::from_secs(60),
            version: concat!("v1.36.2+karve", env!("CARGO_PKG_VERSION")).to_owned(),
            git_commit: String::new(),
            client_ca: None,
            request_header_ca: None,
        }
    }
}

/// How the server reaches kubelets; `None` in [`Deps`] refuses logs, exec and proxying.
#[derive(Clone)]
pub struct KubeletClient {
    /// TLS with the API server's kubelet client certificate.
    pub tls: Arc<rustls::ClientConfig>,
}

/// What it works with.
pub struct Deps {
    /// Where objects are kept.
    pub store: Arc<dyn Store>,
    /// Signs and verifies service-account tokens.
    pub token_key: Arc<pki::TokenKey>,
    /// Asked in order who is asking, before service-account tokens are.
    pub authenticators: Vec<Arc<dyn Authenticator>>,
    /// Asked in order whether they may, before RBAC is.
    pub authorizers: Vec<Arc<dyn Authorizer>>,
    /// Run in order on writes, after the plugins that are on by default.
    pub admission: Vec<Arc<dyn Plugin>>,
    /// The way to kubelets.
    pub kubelet: Option<KubeletClient>,
}

impl Deps {
    /// A store and nothing else: only in-process users get in.
    pub fn new(store: Arc<dyn Store>, token_key: Arc<pki::TokenKey>) -> Self {
        Self {
            store,
            token_key,
            authenticators: Vec::new(),
            authorizers: Vec::new(),
            admission: Vec::new(),
            kubelet: None,
        }
    }
}

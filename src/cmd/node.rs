//! The node beside the control plane: container runtime, pod network, service
//! proxy, cluster DNS and kubelet, wired together.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use apiserver::ApiServer;
use apiserver::access::MASTERS;
use base::Supervisor;
use client::Informers;
use cri::{ContainerRuntime, ImageService, PodNetwork};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use k8s_openapi::api::core::v1::Taint;
use pki::{Leaf, Pki, Usage};

use crate::control;
use crate::node_auth::ClusterAuth;
use crate::server::{Settings, agent_folder, in_process};

/// Where k3s users look for private registries.
const REGISTRIES: &str = "/etc/karve/registries.yaml";
/// State that ends with the machine's uptime.
const RUN: &str = "/run/karve";
/// Everything runs beneath this cgroup.
const CGROUP: &str = "/karve";
/// Prefix length of a node's own pods, out of the cluster's.
const NODE_PREFIX_V4: u8 = 24;
const NODE_PREFIX_V6: u8 = 64;

/// What the node shows to others.
pub(crate) struct Certificates {
    tls: Arc<rustls::ServerConfig>,
}

impl Certificates {
    /// Issues the certificate of the node API.
    pub(crate) fn issue(settings: &Settings, keys: &Pki) -> Result<Self> {
        let serving = keys.server_ca.issue(&Leaf {
            common_name: format!("system:node:{}", settings.node_name),
            organization: Some("system:nodes".into()),
            dns_names: vec![settings.node_name.clone()],
            addresses: vec![settings.node_ip, std::net::Ipv4Addr::LOCALHOST.into()],
            usage: Usage::Server,
            validity: Leaf::client("", "").validity,
        })?;
        let tls = pki::tls::server_config(&serving, keys.client_ca.certificate(), &[b"http/1.1"])?;
        Ok(Self { tls: Arc::new(tls) })
    }
}

/// Starts the node; returns once its parts are up, not once it is ready.
pub(crate) async fn start(
    settings: &Settings,
    certificates: Certificates,
    server: &ApiServer,
    informers: &Informers,
    tasks: &Arc<Supervisor>,
    listener: tokio::net::TcpListener,
) -> Result<()> {
    let args = &settings.args;
    let agent = agent_folder(settings);
    let runtime = containers::Runtime::open(containers::Config {
        data_dir: agent.join("containers"),
        run_dir: RUN.into(),
        shim_exe: "/proc/self/exe".into(),
        cgroup_root: CGROUP.into(),
        registries: registries(Path::new(REGISTRIES))?,
    })
    .await
    .context("starting the container runtime")?;
    let images: Arc<dyn ImageService> = runtime.clone();
    import_folder(&agent.join("images"), images.clone(), tasks);
    let control = control::bind(Path::new(control::SOCKET))?;
    let service = images.clone();
    tasks.spawn("control socket", |stop| {
        control::serve(control, service, stop)
    });

    let network = network::Network::new(network::Config {
        pod_cidrs: vec![node_pods(args.cluster_cidr)],
        cluster_cidrs: vec![args.cluster_cidr],
        service_cidrs: vec![args.service_cidr],
        interface: "karve0".into(),
        mtu: None,
        state_dir: Path::new(RUN).join("network"),
    })
    .context("setting up the pod network")?;
    if !args.disable_kube_proxy {
        let proxy = proxy::Proxy::new(
            proxy::Config {
                node_name: settings.node_name.clone(),
                cluster_cidrs: vec![args.cluster_cidr],
                service_cidrs: vec![args.service_cidr],
                min_interval: std::time::Duration::from_millis(100),
            },
            informers,
        )
        .context("setting up the service proxy")?;
        tasks.spawn("service proxy", |stop| proxy.run(stop));
    }

    let user = format!("system:node:{}", settings.node_name);
    // The node shares the server's process, so it has the server's rights.
    let client = in_process(server, &user, &["system:nodes", MASTERS]);
    let mut config =
        kubelet::Config::new(&settings.node_name, settings.node_ip, agent.join("kubelet"));
    config.cluster_dns = vec![settings.cluster_dns];
    config.cluster_domain = args.cluster_domain.clone();
    config.labels = args.node_label.iter().cloned().collect::<BTreeMap<_, _>>();
    config.taints = args
        .node_taint
        .iter()
        .map(|taint| Taint {
            key: taint.key.clone(),
            value: (!taint.value.is_empty()).then(|| taint.value.clone()),
            effect: taint.effect.clone(),
            time_added: None,
        })
        .collect();
    let deps = kubelet::Deps {
        client: client.clone(),
        informers: Informers::new(client.clone(), tasks.clone()),
        runtime: runtime as Arc<dyn ContainerRuntime>,
        images,
        network: network as Arc<dyn PodNetwork>,
        tasks: tasks.clone(),
        auth: Arc::new(ClusterAuth::new(client)),
        listener,
        tls: certificates.tls,
    };
    kubelet::build(config, deps)
        .context("putting the kubelet together")?
        .start();
    Ok(())
}

/// The first node's share of the cluster's pod addresses.
fn node_pods(cluster: IpNet) -> IpNet {
    match cluster {
        IpNet::V4(net) => {
            let prefix = net.prefix_len().max(NODE_PREFIX_V4);
            Ipv4Net::new(net.network(), prefix).map_or(cluster, IpNet::V4)
        }
        IpNet::V6(net) => {
            let prefix = net.prefix_len().max(NODE_PREFIX_V6);
            Ipv6Net::new(net.network(), prefix).map_or(cluster, IpNet::V6)
        }
    }
}

fn registries(path: &Path) -> Result<containers::registries::Registries> {
    match std::fs::read_to_string(path) {
        Ok(text) => serde_yaml_ng::from_str(&text).with_context(|| {
            format!(
                "{} is not what k3s' registries.yaml looks like",
                path.display()
            )
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Default::default()),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// Imports every archive of the images folder, once, at start. One that
/// cannot be imported is logged and left alone.
fn import_folder(folder: &Path, images: Arc<dyn ImageService>, tasks: &Supervisor) {
    let mut archives: Vec<_> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_file())
        .collect();
    archives.sort();
    if archives.is_empty() {
        return;
    }
    tasks.spawn("image import", move |stop| async move {
        for archive in archives {
            match stop.guard(images.import(&archive)).await {
                None => return,
                Some(Ok(imported)) => {
                    tracing::info!(archive = %archive.display(), images = imported.len(), "imported");
                }
                Some(Err(error)) => {
                    tracing::error!(archive = %archive.display(), error = %base::Chain(&error), "not imported");
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_gets_a_share_of_the_cluster() {
        for (cluster, node) in [
            ("10.42.0.0/16", "10.42.0.0/24"),
            ("10.42.3.0/26", "10.42.3.0/26"),
            ("fd00::/56", "fd00::/64"),
        ] {
            let cluster: IpNet = cluster.parse().expect("a network");
            assert_eq!(node_pods(cluster).to_string(), node);
        }
    }
}

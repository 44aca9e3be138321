//! The node beside the control plane: container runtime, pod network, service
//! proxy, cluster DNS and kubelet, wired together.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use apiserver::ApiServer;
use apiserver::access::NODES;
use base::Supervisor;
use client::Informers;
use cri::{ContainerRuntime, ImageService, PodNetwork};
use k8s_openapi::api::core::v1::Taint;
use pki::{Leaf, Pki, Usage};

use crate::args::Part;
use crate::control;
use crate::node_auth::ClusterAuth;
use crate::server::{Settings, agent_folder, in_process};

/// Where k3s users look for private registries.
const REGISTRIES: &str = "/etc/karve/registries.yaml";
/// State that ends with the machine's uptime.
const RUN: &str = "/run/karve";
/// Everything runs beneath this cgroup.
const CGROUP: &str = "/karve";

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
        registries: containers::registries::Registries::load(Path::new(REGISTRIES))?,
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
        // The node object says which, once node IPAM has decided.
        pod_cidrs: Vec::new(),
        cluster_cidrs: vec![args.cluster_cidr],
        service_cidrs: vec![args.service_cidr],
        interface: "karve0".into(),
        mtu: None,
        state_dir: Path::new(RUN).join("network"),
    })
    .context("setting up the pod network")?;
    let rules = network.clone();
    tasks.spawn("pod network", |stop| async move { rules.run(stop).await });
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

    if !args.disable.contains(&Part::Dns) {
        start_dns(settings, network.clone(), informers, tasks);
    }

    let user = format!("system:node:{}", settings.node_name);
    // It shares the server's process, and has a kubelet's rights all the same.
    let client = in_process(server, &user, &[NODES]);
    let mut config =
        kubelet::Config::new(&settings.node_name, settings.node_ip, agent.join("kubelet"));
    config.cluster_dns = vec![settings.cluster_dns];
    config.cluster_domain = args.cluster_domain.clone();
    let plumbing = network.clone();
    config.on_pod_cidrs = Some(Arc::new(move |cidrs: Vec<String>| {
        // The API server lets nothing else than networks into the node object.
        let cidrs: Vec<_> = cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect();
        if let Err(error) = plumbing.set_pod_cidrs(&cidrs) {
            tracing::error!(error = %base::Chain(&error), "the pod network cannot be set up");
        }
    }));
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

/// Serves cluster DNS at the node's own addresses in the pod network, as soon
/// as it has any.
fn start_dns(
    settings: &Settings,
    network: Arc<network::Network>,
    informers: &Informers,
    tasks: &Arc<Supervisor>,
) {
    let informers = informers.clone();
    let cluster_domain = settings.args.cluster_domain.clone();
    let own = vec![settings.cluster_dns];
    tasks.spawn("cluster dns", move |stop| async move {
        let Some(gateways) = stop.guard(network.ready()).await else { return };
        let mut sockets = Vec::new();
        for address in gateways {
            match dns::Sockets::bind((address, 53).into()).await {
                Ok(bound) => sockets.push(bound),
                Err(error) => {
                    tracing::error!(%address, error = %base::Chain(&error), "cluster DNS cannot listen");
                }
            }
        }
        let upstreams = dns::Upstreams::file(Path::new("/etc/resolv.conf"), own);
        let config = dns::Config { sockets, cluster_domain, upstreams };
        match dns::Dns::new(config, &informers) {
            Ok(dns) => dns.run(stop).await,
            Err(error) => tracing::error!(error = %base::Chain(&error), "cluster DNS cannot start"),
        }
    });
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

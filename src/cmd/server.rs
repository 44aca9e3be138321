//! `karve server`: the control plane, and a node beside it.
//!
//! Order matters where it is visible: sockets are bound first, so that a port
//! in use is an error before anything changed on disk; the database opens
//! before certificates are made; the API server answers before controllers and
//! node start.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use apiserver::access::{ClientCertificates, MASTERS, StaticTokens, User};
use apiserver::{ApiServer, Config, Deps, KubeletClient};
use base::{Shutdown, Supervisor};
use client::{Client, Informers};
use pki::{Leaf, Pki, ServerNames};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Part, Server};
use crate::credentials::ClusterCredentials;
use crate::{check, logging, node, sockets};

/// How long tasks may take to end.
const DRAIN: Duration = Duration::from_secs(10);
/// Port of the node API.
const KUBELET_PORT: u16 = 10250;

/// What the flags come down to.
pub(crate) struct Settings {
    pub(crate) args: Server,
    pub(crate) node_name: String,
    pub(crate) node_ip: IpAddr,
    pub(crate) advertise: IpAddr,
    pub(crate) cluster_dns: IpAddr,
}

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(args: Server) -> Result<()> {
    logging::start(args.verbose);
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a crypto provider is installed already"))?;
    let settings = settle(args)?;
    if !settings.args.disable_agent {
        check::node()?;
    }
    let workers = std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 4));
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(64)
        .thread_keep_alive(Duration::from_secs(2))
        .enable_all()
        .build()
        .context("starting the runtime")?
        .block_on(serve(settings))
}

/// Fills in what the flags leave open, and checks what only makes sense together.
fn settle(args: Server) -> Result<Settings> {
    let node_name = match &args.node_name {
        Some(name) => name.clone(),
        None => nix::unistd::gethostname()
            .context("reading the host name; give the node a name with --node-name")?
            .to_string_lossy()
            .to_lowercase(),
    };
    let name_ok = !node_name.is_empty()
        && node_name.len() <= 253
        && node_name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        });
    if !name_ok {
        bail!(
            "{node_name:?} cannot be a node's name (lower-case letters, digits, '-' and '.'); choose another with --node-name"
        );
    }
    let node_ip = match (args.node_ip, args.disable_agent) {
        (Some(address), _) => address,
        (None, disabled) => match sockets::default_address() {
            Some(address) => address,
            None if disabled => Ipv4Addr::LOCALHOST.into(),
            None => {
                bail!("no interface has a default route; name this node's address with --node-ip")
            }
        },
    };
    let cluster_dns = match args.cluster_dns {
        Some(address) if !args.service_cidr.contains(&address) => {
            bail!(
                "--cluster-dns {address} lies outside --service-cidr {}; choose an address in it",
                args.service_cidr
            );
        }
        Some(address) => address,
        None => args.service_cidr.hosts().nth(9).with_context(|| {
            format!(
                "--service-cidr {} is too small; use a /28 or larger",
                args.service_cidr
            )
        })?,
    };
    if args.cluster_cidr.contains(&args.service_cidr)
        || args.service_cidr.contains(&args.cluster_cidr)
    {
        bail!(
            "--cluster-cidr {} and --service-cidr {} overlap; give pods and Services ranges of their own",
            args.cluster_cidr,
            args.service_cidr
        );
    }
    let advertise = args.advertise_address.unwrap_or(node_ip);
    Ok(Settings {
        args,
        node_name,
        node_ip,
        advertise,
        cluster_dns,
    })
}

async fn serve(settings: Settings) -> Result<()> {
    let args = &settings.args;
    let listener = sockets::tcp(
        args.bind_address,
        args.https_listen_port,
        "API server",
        "--https-listen-port or --bind-address",
    )?;
    let kubelet = (!args.disable_agent)
        .then(|| {
            sockets::tcp(
                Ipv4Addr::UNSPECIFIED.into(),
                KUBELET_PORT,
                "node API",
                "the process that holds it",
            )
        })
        .transpose()?;
    let folder = args.data_dir.join("server");
    std::fs::create_dir_all(folder.join("db")).with_context(|| {
        format!(
            "creating {}; choose another folder with --data-dir",
            folder.display()
        )
    })?;
    restrict(&folder)?;
    let store =
        store::sqlite::Sqlite::open(folder.join("db/state.db"), store::sqlite::Config::default())
            .context("opening the datastore")?;
    let keys = Pki::open(&folder.join("tls"))?;
    let (tls, kubelet_tls) = tls(&settings, &keys)?;
    write_kubeconfig(&settings, &keys)?;
    let server_ca = keys.server_ca.certificate().to_owned();
    let node_certificates = node::Certificates::issue(&settings, &keys)?;

    let tasks = Arc::new(Supervisor::new(Shutdown::new()));
    let mut config = Config::new(settings.advertise, args.https_listen_port);
    config.service_cidrs = vec![args.service_cidr];
    config.node_ports = args.service_node_port_range.0..=args.service_node_port_range.1;
    config.issuer = format!("https://kubernetes.default.svc.{}", args.cluster_domain);
    config.client_ca = Some(keys.client_ca.certificate().to_owned());
    config.request_header_ca = Some(keys.request_header_ca.certificate().to_owned());
    let credentials = Arc::new(ClusterCredentials {
        client_ca: Arc::new(keys.client_ca),
        server_ca: Arc::new(keys.server_ca),
        token_key: Arc::new(keys.token_key),
    });
    let mut deps = Deps::new(store, credentials.token_key.clone());
    deps.authenticators.push(Arc::new(ClientCertificates));
    if let Some(token) = &args.admin_token {
        let mut tokens = StaticTokens::default();
        tokens.insert(token, User::new("admin", &[MASTERS]));
        deps.authenticators.push(Arc::new(tokens));
    }
    deps.kubelet = Some(KubeletClient { tls: kubelet_tls });
    let (server, task) = apiserver::build(config, deps);
    tasks.spawn("API server state", |stop| task.run(stop));
    let serving = server.clone();
    let listener = tokio::net::TcpListener::from_std(listener).context("preparing the listener")?;
    tasks.spawn("API server", |stop| serving.serve(listener, tls, stop));

    // Before that, roles are missing and every controller would be refused.
    tasks.shutdown().guard(server.ready()).await;
    let informers = Informers::new(in_process(&server, "karve", &[MASTERS]), tasks.clone());
    if !args.disable_controller_manager {
        let clients = server.clone();
        controllers::register(
            &tasks,
            &informers,
            controllers::Config {
                clients: Arc::new(move |name| {
                    in_process(
                        &clients,
                        &format!("system:serviceaccount:kube-system:{name}"),
                        &[
                            "system:serviceaccounts",
                            "system:serviceaccounts:kube-system",
                        ],
                    )
                }),
                root_ca: server_ca,
                cluster_cidrs: vec![args.cluster_cidr],
                terminated_pod_threshold: 12_500,
                credentials: Some(credentials),
            },
        );
    }
    if !args.disable.contains(&Part::Dns) && !args.disable_controller_manager {
        let config = dns::PublishConfig {
            cluster_dns: vec![settings.cluster_dns],
        };
        dns::publish(config, &informers, tasks.clone());
    }
    if !args.disable_scheduler {
        scheduler::register(
            &tasks,
            &informers,
            in_process(&server, "system:kube-scheduler", &[]),
        );
    }
    if let Some(listener) = kubelet {
        let listener =
            tokio::net::TcpListener::from_std(listener).context("preparing the listener")?;
        node::start(
            &settings,
            node_certificates,
            &server,
            &informers,
            &tasks,
            listener,
        )
        .await?;
    }
    tracing::info!(
        address = %settings.advertise,
        port = args.https_listen_port,
        kubeconfig = %args.write_kubeconfig.display(),
        "karve serves"
    );
    wait_for_signal().await?;
    tracing::info!("stopping; pods go on running");
    let outcome = tasks.stop(DRAIN).await;
    if !outcome.aborted.is_empty() {
        tracing::warn!(tasks = ?outcome.aborted, "tasks did not end in time");
    }
    Ok(())
}

/// A client that calls the API server in this process.
pub(crate) fn in_process(server: &ApiServer, user: &str, groups: &[&str]) -> Client {
    Client::new(server.in_process(User::new(user, groups)), "default")
}

async fn wait_for_signal() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

type Tls = (Arc<rustls::ServerConfig>, Arc<rustls::ClientConfig>);

/// TLS of the API server's own socket, and of its calls to kubelets.
fn tls(settings: &Settings, keys: &Pki) -> Result<Tls> {
    let args = &settings.args;
    let mut names = ServerNames {
        dns: [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            &format!("kubernetes.default.svc.{}", args.cluster_domain),
            &settings.node_name,
        ]
        .map(str::to_owned)
        .to_vec(),
        addresses: vec![
            Ipv4Addr::LOCALHOST.into(),
            Ipv6Addr::LOCALHOST.into(),
            settings.node_ip,
            settings.advertise,
        ],
    };
    names.addresses.extend(args.service_cidr.hosts().next());
    if !args.bind_address.is_unspecified() {
        names.addresses.push(args.bind_address);
    }
    for name in &args.tls_san {
        match name.parse() {
            Ok(address) => names.addresses.push(address),
            Err(_) => names.dns.push(name.clone()),
        }
    }
    let alpn: &[&[u8]] = &[b"h2", b"http/1.1"];
    let serving = keys.serving(&names)?;
    let server = pki::tls::server_config(&serving, keys.client_ca.certificate(), alpn)?;
    let client = keys
        .client_ca
        .issue(&Leaf::client("kube-apiserver-kubelet-client", MASTERS))?;
    let client = pki::tls::client_config(keys.server_ca.certificate(), &client, &[b"http/1.1"])?;
    Ok((Arc::new(server), Arc::new(client)))
}

/// Writes the admin's kubeconfig, mode 0600.
fn write_kubeconfig(settings: &Settings, keys: &Pki) -> Result<()> {
    let args = &settings.args;
    let host: IpAddr = match args.bind_address {
        address if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        address => address,
    };
    let host = match host {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    let client = keys
        .client_ca
        .issue(&Leaf::client("system:admin", MASTERS))?;
    let url = format!("https://{host}:{}", args.https_listen_port);
    let text = pki::kubeconfig(&url, keys.server_ca.certificate(), &client);
    let path = &args.write_kubeconfig;
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        std::fs::create_dir_all(folder).with_context(|| {
            format!(
                "creating {}; choose another place with --write-kubeconfig",
                folder.display()
            )
        })?;
    }
    pki::write_secret(path, &text).with_context(|| {
        format!(
            "writing {}; choose another place with --write-kubeconfig",
            path.display()
        )
    })
}

/// The server's folder holds keys and secrets: for its owner alone.
fn restrict(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))
        .with_context(|| format!("protecting {}", folder.display()))
}

/// Folder of the node's state.
pub(crate) fn agent_folder(settings: &Settings) -> PathBuf {
    settings.args.data_dir.join("agent")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Command, Karve};
    use clap::Parser;

    fn settled(flags: &[&str]) -> Result<Settings> {
        let args = ["karve", "server", "--node-ip=192.0.2.1", "--node-name=n"]
            .iter()
            .chain(flags);
        match Karve::try_parse_from(args)?.command {
            Command::Server(server) => settle(*server),
            _ => bail!("another command"),
        }
    }

    #[test]
    fn what_is_left_open_is_filled_in() {
        let settings = settled(&[]).expect("good flags");
        assert_eq!(settings.cluster_dns, Ipv4Addr::new(10, 43, 0, 10));
        assert_eq!(settings.advertise, settings.node_ip);
        let settings = settled(&["--service-cidr=10.96.0.0/12"]).expect("good flags");
        assert_eq!(settings.cluster_dns, Ipv4Addr::new(10, 96, 0, 10));
    }

    #[test]
    fn what_makes_no_sense_together_is_refused() {
        for (flags, part) in [
            (&["--cluster-dns=10.1.0.1"][..], "outside --service-cidr"),
            (&["--service-cidr=10.42.1.0/24"], "overlap"),
            (&["--service-cidr=10.43.0.0/30"], "too small"),
        ] {
            let error = settled(flags)
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default();
            assert!(error.contains(part), "{flags:?}: {error}");
        }
    }
}

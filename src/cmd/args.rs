//! Flags. Where k3s has the same flag, its name is k3s's.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use ipnet::IpNet;

/// Kubernetes as one small static binary.
#[derive(Debug, Parser)]
#[command(name = "karve", version, max_term_width = 100)]
pub(crate) struct Karve {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the control plane and, unless disabled, a node
    Server(Box<Server>),
    /// Work with the node's images
    #[command(subcommand)]
    Image(Image),
    /// Say whether this machine can run Karve, and what is missing
    Check,
}

/// Parts of Karve that can be left out with `--disable`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Cluster DNS
    Dns,
}

/// Flags of `karve server`. Each can stand in the configuration file under its
/// own name, or in the environment as `KARVE_NAME`.
#[derive(Debug, Args)]
#[command(next_line_help = false)]
pub(crate) struct Server {
    /// YAML file whose keys are flag names [default: /etc/karve/config.yaml, if it exists]
    #[arg(long, short = 'c', value_name = "FILE", env = "KARVE_CONFIG_FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Log more: -v for debugging, -vv for everything
    #[arg(short = 'v', action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,

    /// Folder that holds all state
    #[arg(
        long,
        short = 'd',
        value_name = "FOLDER",
        default_value = "/var/lib/karve",
        env = "KARVE_DATA_DIR"
    )]
    pub(crate) data_dir: PathBuf,

    /// Address the API server listens on
    #[arg(
        long,
        value_name = "IP",
        default_value = "0.0.0.0",
        env = "KARVE_BIND_ADDRESS"
    )]
    pub(crate) bind_address: IpAddr,

    /// Port the API server listens on
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 6443,
        env = "KARVE_HTTPS_LISTEN_PORT"
    )]
    pub(crate) https_listen_port: u16,

    /// Address others reach the API server at [default: the node address]
    #[arg(long, value_name = "IP", env = "KARVE_ADVERTISE_ADDRESS")]
    pub(crate) advertise_address: Option<IpAddr>,

    /// More names and addresses for the server's certificate (repeat, or separate by commas)
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        env = "KARVE_TLS_SAN"
    )]
    pub(crate) tls_san: Vec<String>,

    /// Where the admin's kubeconfig is written
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/karve/karve.yaml",
        env = "KARVE_WRITE_KUBECONFIG"
    )]
    pub(crate) write_kubeconfig: PathBuf,

    /// Bearer token of an administrator (group system:masters), beside the kubeconfig's certificate
    #[arg(
        long,
        value_name = "TOKEN",
        env = "KARVE_ADMIN_TOKEN",
        hide_env_values = true
    )]
    pub(crate) admin_token: Option<String>,

    /// Addresses of pods
    #[arg(
        long,
        value_name = "CIDR",
        default_value = "10.42.0.0/16",
        env = "KARVE_CLUSTER_CIDR"
    )]
    pub(crate) cluster_cidr: IpNet,

    /// Addresses of Services
    #[arg(
        long,
        value_name = "CIDR",
        default_value = "10.43.0.0/16",
        env = "KARVE_SERVICE_CIDR"
    )]
    pub(crate) service_cidr: IpNet,

    /// Ports of NodePort Services
    #[arg(long, value_name = "FIRST-LAST", default_value = "30000-32767", value_parser = port_range, env = "KARVE_SERVICE_NODE_PORT_RANGE")]
    pub(crate) service_node_port_range: (u16, u16),

    /// Address of cluster DNS [default: the tenth of the service CIDR]
    #[arg(long, value_name = "IP", env = "KARVE_CLUSTER_DNS")]
    pub(crate) cluster_dns: Option<IpAddr>,

    /// Domain of the cluster
    #[arg(
        long,
        value_name = "DOMAIN",
        default_value = "cluster.local",
        env = "KARVE_CLUSTER_DOMAIN"
    )]
    pub(crate) cluster_domain: String,

    /// Parts to leave out (repeat, or separate by commas)
    #[arg(
        long,
        value_name = "PART",
        value_delimiter = ',',
        env = "KARVE_DISABLE"
    )]
    pub(crate) disable: Vec<Part>,

    /// Run no node here: no kubelet, containers, pod network or service proxy
    #[arg(long, env = "KARVE_DISABLE_AGENT")]
    pub(crate) disable_agent: bool,

    /// Run no scheduler
    #[arg(long, env = "KARVE_DISABLE_SCHEDULER")]
    pub(crate) disable_scheduler: bool,

    /// Run no controllers
    #[arg(long, env = "KARVE_DISABLE_CONTROLLER_MANAGER")]
    pub(crate) disable_controller_manager: bool,

    /// Run no service proxy
    #[arg(long, env = "KARVE_DISABLE_KUBE_PROXY")]
    pub(crate) disable_kube_proxy: bool,

    /// Name of this node [default: the host name]
    #[arg(long, value_name = "NAME", env = "KARVE_NODE_NAME")]
    pub(crate) node_name: Option<String>,

    /// Address of this node [default: that of the interface with the default route]
    #[arg(long, value_name = "IP", env = "KARVE_NODE_IP")]
    pub(crate) node_ip: Option<IpAddr>,

    /// Label to register the node with (repeat, or separate by commas)
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = label, env = "KARVE_NODE_LABEL")]
    pub(crate) node_label: Vec<(String, String)>,

    /// Taint to register the node with (repeat, or separate by commas)
    #[arg(long, value_name = "KEY=VALUE:EFFECT", value_delimiter = ',', value_parser = taint, env = "KARVE_NODE_TAINT")]
    pub(crate) node_taint: Vec<Taint>,
}

/// A taint as `--node-taint` takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Taint {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) effect: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// Import images from docker or OCI archives (plain, gzip or zstd)
    Import {
        /// Archive files
        #[arg(required = true, value_name = "ARCHIVE")]
        archives: Vec<PathBuf>,
    },
    /// Pull an image from its registry
    Pull {
        /// Image reference, such as nginx:1.27 or registry.example/app@sha256:…
        reference: String,
    },
    /// List the images on this node
    #[command(visible_alias = "list")]
    Ls,
    /// Remove images
    Rm {
        /// Image references
        #[arg(required = true, value_name = "REFERENCE")]
        references: Vec<String>,
    },
}

fn port_range(text: &str) -> Result<(u16, u16), String> {
    let (first, last) = text
        .split_once('-')
        .ok_or("expected FIRST-LAST, such as 30000-32767")?;
    let port = |part: &str| {
        part.trim()
            .parse::<u16>()
            .map_err(|error| format!("{part:?}: {error}"))
    };
    let (first, last) = (port(first)?, port(last)?);
    if first == 0 || first > last {
        return Err("the first port must be at least 1 and not above the last".into());
    }
    Ok((first, last))
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err("expected KEY=VALUE".into()),
    }
}

fn taint(text: &str) -> Result<Taint, String> {
    let (pair, effect) = text
        .rsplit_once(':')
        .ok_or("expected KEY=VALUE:EFFECT or KEY:EFFECT")?;
    if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
        return Err(format!(
            "effect {effect:?} is none of NoSchedule, PreferNoSchedule, NoExecute"
        ));
    }
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    if key.is_empty() {
        return Err("expected KEY=VALUE:EFFECT or KEY:EFFECT".into());
    }
    Ok(Taint {
        key: key.into(),
        value: value.into(),
        effect: effect.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_flags_are_consistent() {
        Karve::command().debug_assert();
    }

    #[test]
    fn parses_values() {
        assert_eq!(port_range("1-2"), Ok((1, 2)));
        assert!(port_range("2-1").is_err());
        assert_eq!(label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(label("=b").is_err());
        let expected = Taint {
            key: "a".into(),
            value: "b".into(),
            effect: "NoExecute".into(),
        };
        assert_eq!(taint("a=b:NoExecute"), Ok(expected));
        assert!(taint("a=b:Never").is_err_and(|error| error.contains("Never")));
    }
}

//! `resolv.conf`, host names and hosts files of pods.

use std::net::IpAddr;

use cri::DnsConfig;
use k8s_openapi::api::core::v1::{HostAlias, Pod};

use super::spec::{is_host_network, name, namespace, spec};

const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_LINE: usize = 2048;
const MAX_DOMAIN: usize = 253;
const MAX_HOSTNAME: usize = 63;

/// Reads a resolver file.
pub(crate) fn parse_resolv_conf(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        match fields.next() {
            Some("nameserver") => config.servers.extend(fields.next().map(Into::into)),
            Some("search") => {
                config.searches = fields
                    .filter(|domain| *domain != ".")
                    .map(|domain| domain.strip_suffix('.').unwrap_or(domain).to_owned())
                    .collect();
            }
            Some("options") => {
                for option in fields {
                    set_option(&mut config.options, option);
                }
            }
            _ => {}
        }
    }
    config
}

fn set_option(options: &mut Vec<String>, option: &str) {
    let key = option.split(':').next().unwrap_or_default();
    options.retain(|known| known.split(':').next() != Some(key));
    options.push(option.to_owned());
}

fn push_new(list: &mut Vec<String>, more: impl IntoIterator<Item = String>) {
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}

/// The resolver configuration of a pod, and warnings worth an event
/// (`DNSConfigForming` or `MissingClusterDNS`).
pub(crate) fn pod_dns(
    pod: &Pod,
    host: &DnsConfig,
    cluster_dns: &[IpAddr],
    cluster_domain: &str,
) -> (DnsConfig, Vec<(&'static str, String)>) {
    let mut warnings = Vec::new();
    let cluster = match spec(pod).dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "None" => None,
        "Default" => Some(false),
        "ClusterFirstWithHostNet" => Some(true),
        _ => Some(!is_host_network(pod)),
    };
    let mut config = match cluster {
        None => DnsConfig::default(),
        Some(true) if !cluster_dns.is_empty() => {
            let mut searches = Vec::new();
            if !cluster_domain.is_empty() {
                push_new(
                    &mut searches,
                    [
                        format!("{}.svc.{cluster_domain}", namespace(pod)),
                        format!("svc.{cluster_domain}"),
                        cluster_domain.to_owned(),
                    ],
                );
            }
            push_new(&mut searches, host.searches.iter().cloned());
            DnsConfig {
                servers: cluster_dns.iter().map(ToString::to_string).collect(),
                searches,
                options: vec!["ndots:5".into()],
            }
        }
        Some(true) => {
            warnings.push((
                "MissingClusterDNS",
                format!(
                    "pod: {:?}. kubelet does not have ClusterDNS IP configured and cannot create \
                     Pod using \"ClusterFirst\" policy. Falling back to \"Default\" policy.",
                    super::spec::format_pod(pod)
                ),
            ));
            host.clone()
        }
        Some(false) => host.clone(),
    };
    if let Some(own) = &spec(pod).dns_config {
        push_new(
            &mut config.servers,
            own.nameservers.iter().flatten().cloned(),
        );
        push_new(&mut config.searches, own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let name = option.name.as_deref().unwrap_or_default();
            match option.value.as_deref().filter(|value| !value.is_empty()) {
                Some(value) => set_option(&mut config.options, &format!("{name}:{value}")),
                None => set_option(&mut config.options, name),
            }
        }
    }
    limit(&mut config, &mut warnings);
    (config, warnings)
}

fn limit(config: &mut DnsConfig, warnings: &mut Vec<(&'static str, String)>) {
    if config.servers.len() > MAX_NAMESERVERS {
        config.servers.truncate(MAX_NAMESERVERS);
        warnings.push((
            "DNSConfigForming",
            format!(
                "Nameserver limits were exceeded, some nameservers have been omitted, the applied \
                 nameserver line is: {}",
                config.servers.join(" ")
            ),
        ));
    }
    let before = config.searches.len();
    config.searches.truncate(MAX_SEARCHES);
    config.searches.retain(|domain| domain.len() <= MAX_DOMAIN);
    while config.searches.join(" ").len() > MAX_SEARCH_LINE {
        config.searches.pop();
    }
    if config.searches.len() < before {
        warnings.push((
            "DNSConfigForming",
            format!(
                "Search Line limits were exceeded, some search paths have been omitted, the \
                 applied search line is: {}",
                config.searches.join(" ")
            ),
        ));
    }
}

/// Host name of a pod and the domain its subdomain gives it (or an empty string).
pub(crate) fn hostname_and_domain(pod: &Pod, cluster_domain: &str) -> (String, String) {
    let spec = spec(pod);
    if let Some(hostname) = spec.hostname_override.as_deref() {
        return (truncate(hostname), String::new());
    }
    let hostname = spec
        .hostname
        .as_deref()
        .filter(|hostname| !hostname.is_empty());
    let domain = match spec
        .subdomain
        .as_deref()
        .filter(|subdomain| !subdomain.is_empty())
    {
        Some(subdomain) => format!("{subdomain}.{}.svc.{cluster_domain}", namespace(pod)),
        None => String::new(),
    };
    (truncate(hostname.unwrap_or(name(pod))), domain)
}

/// A host name holds 63 characters and does not end in a separator.
fn truncate(hostname: &str) -> String {
    let cut = hostname.get(..MAX_HOSTNAME).unwrap_or(hostname);
    if cut.len() == hostname.len() {
        return hostname.to_owned();
    }
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// What `uname -n` says in the pod: the fully qualified name where asked for.
pub(crate) fn sandbox_hostname(hostname: &str, domain: &str, pod: &Pod) -> Result<String, String> {
    if domain.is_empty() || !spec(pod).set_hostname_as_fqdn.unwrap_or(false) {
        return Ok(hostname.to_owned());
    }
    let full = format!("{hostname}.{domain}");
    if full.len() > 64 {
        return Err(format!(
            "failed to construct FQDN from Pod hostname and cluster domain, FQDN {full} is too \
             long ({} characters is the max, {} characters requested)",
            64,
            full.len()
        ));
    }
    Ok(full)
}

/// Contents of `/etc/hosts` for a pod with its own network.
pub(crate) fn hosts_file(
    ips: &[IpAddr],
    hostname: &str,
    domain: &str,
    aliases: &[HostAlias],
) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    for ip in ips {
        if domain.is_empty() {
            text.push_str(&format!("{ip}\t{hostname}\n"));
        } else {
            text.push_str(&format!("{ip}\t{hostname}.{domain}\t{hostname}\n"));
        }
    }
    text.push_str(&alias_lines(aliases));
    text
}

/// Contents of `/etc/hosts` for a pod in the node's network.
pub(crate) fn host_network_hosts_file(host: &str, aliases: &[HostAlias]) -> String {
    format!(
        "# Kubernetes-managed hosts file (host network).\n{host}{}",
        alias_lines(aliases)
    )
}

fn alias_lines(aliases: &[HostAlias]) -> String {
    let mut text = String::new();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        text.push_str(&format!("{}\t{names}\n", alias.ip));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodDNSConfig, PodDNSConfigOption, PodSpec};

    fn pod(policy: &str, change: impl FnOnce(&mut PodSpec)) -> Pod {
        let mut spec = PodSpec {
            dns_policy: Some(policy.into()),
            ..Default::default()
        };
        change(&mut spec);
        let mut pod = Pod {
            spec: Some(spec),
            ..Default::default()
        };
        pod.metadata.name = Some("web".into());
        pod.metadata.namespace = Some("shop".into());
        pod
    }

    fn lines(config: &DnsConfig) -> String {
        format!(
            "{} | {} | {}",
            config.servers.join(" "),
            config.searches.join(" "),
            config.options.join(" ")
        )
    }

    #[test]
    fn policies() {
        let host = parse_resolv_conf("# x\nnameserver 1.1.1.1\nsearch corp. .\noptions rotate\n");
        let check = |pod: Pod, want: &str| {
            let dns = [IpAddr::from([10, 43, 0, 10])];
            assert_eq!(lines(&pod_dns(&pod, &host, &dns, "cluster.local").0), want);
        };
        let cluster =
            "10.43.0.10 | shop.svc.cluster.local svc.cluster.local cluster.local corp | ndots:5";
        check(pod("ClusterFirst", |_| {}), cluster);
        check(
            pod("ClusterFirstWithHostNet", |spec| {
                spec.host_network = Some(true)
            }),
            cluster,
        );
        check(
            pod("ClusterFirst", |spec| spec.host_network = Some(true)),
            "1.1.1.1 | corp | rotate",
        );
        check(pod("Default", |_| {}), "1.1.1.1 | corp | rotate");
        check(pod("None", |_| {}), " |  | ");
        let own = PodDNSConfig {
            nameservers: Some(vec!["2.2.2.2".into()]),
            searches: Some(vec!["corp".into(), "my.dom".into()]),
            options: Some(vec![
                PodDNSConfigOption {
                    name: Some("ndots".into()),
                    value: Some("2".into()),
                },
                PodDNSConfigOption {
                    name: Some("edns0".into()),
                    value: None,
                },
            ]),
        };
        check(
            pod("ClusterFirst", |spec| spec.dns_config = Some(own)),
            "10.43.0.10 2.2.2.2 | shop.svc.cluster.local svc.cluster.local cluster.local corp \
             my.dom | ndots:2 edns0",
        );
    }

    #[test]
    fn host_names() {
        let check = |change: fn(&mut PodSpec), want: (&str, &str)| {
            let (host, domain) = hostname_and_domain(&pod("Default", change), "c.l");
            assert_eq!((host.as_str(), domain.as_str()), want);
        };
        check(|_| {}, ("web", ""));
        check(|spec| spec.hostname = Some("h".into()), ("h", ""));
        check(
            |spec| spec.subdomain = Some("sub".into()),
            ("web", "sub.shop.svc.c.l"),
        );
        assert_eq!(truncate(&"a".repeat(70)).len(), 63);
        assert_eq!(truncate(&format!("{}-bbb", "a".repeat(62))), "a".repeat(62));
    }

    #[test]
    fn hosts() {
        let aliases = [HostAlias {
            ip: "1.2.3.4".into(),
            hostnames: Some(vec!["foo".into(), "bar".into()]),
        }];
        let text = hosts_file(&[IpAddr::from([10, 0, 0, 1])], "web", "sub.ns", &aliases);
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with(
            "10.0.0.1\tweb.sub.ns\tweb\n\n# Entries added by HostAliases.\n1.2.3.4\tfoo\tbar\n"
        ));
    }
}

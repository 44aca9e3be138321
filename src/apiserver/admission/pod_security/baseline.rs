//! The rules of the baseline level.

use std::collections::BTreeSet;

use serde_json::Value;

use super::checks::{
    Violation, containers, has_user_namespace, listed, name, names_of, plural, quoted, quoted_set,
    setters,
};

fn violation(reason: &str, detail: String) -> Option<Violation> {
    Some((reason.to_owned(), detail))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

/// Annotations, in order.
fn annotations(pod: &Value) -> impl Iterator<Item = (&String, &str)> {
    pod["metadata"]["annotations"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| (key, text(value)))
}

pub(super) fn app_armor(pod: &Value) -> Option<Violation> {
    let mut values = BTreeSet::new();
    let mut bad = |context: &Value| {
        let kind = &context["appArmorProfile"];
        let bad =
            kind.is_object() && !matches!(text(&kind["type"]), "RuntimeDefault" | "Localhost");
        if bad {
            values.insert(text(&kind["type"]).to_owned());
        }
        bad
    };
    let whole = bad(&pod["spec"]["securityContext"]);
    let names = names_of(pod, |container| bad(&container["securityContext"]));
    let mut who: Vec<String> = setters(whole, &names).into_iter().collect();
    let mut values: Vec<String> = values.into_iter().collect();
    let mut forbidden: Vec<String> = annotations(pod)
        .filter(|(key, profile)| {
            key.starts_with("container.apparmor.security.beta.kubernetes.io/")
                && !profile.is_empty()
                && *profile != "runtime/default"
                && !profile.starts_with("localhost/")
        })
        .map(|(key, profile)| format!("{key}={profile:?}"))
        .collect();
    if !forbidden.is_empty() {
        forbidden.sort();
        who.push(plural(forbidden.len(), "annotation", "annotations").to_owned());
        values.extend(forbidden);
    }
    if who.is_empty() {
        return None;
    }
    violation(
        plural(
            values.len(),
            "forbidden AppArmor profile",
            "forbidden AppArmor profiles",
        ),
        format!(
            "{} must not set AppArmor profile type to {}",
            who.join(" and "),
            quoted(&values)
        ),
    )
}

const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

pub(super) fn capabilities(pod: &Value) -> Option<Violation> {
    let mut added = BTreeSet::new();
    let names = names_of(pod, |container| {
        let mut bad = false;
        for capability in container["securityContext"]["capabilities"]["add"]
            .as_array()
            .into_iter()
            .flatten()
            .map(text)
            .filter(|capability| !CAPABILITIES.contains(capability))
        {
            bad = true;
            added.insert(capability.to_owned());
        }
        bad
    });
    if names.is_empty() {
        return None;
    }
    violation(
        "non-default capabilities",
        format!(
            "{} must not include {} in securityContext.capabilities.add",
            listed(&names),
            quoted_set(&added)
        ),
    )
}

pub(super) fn host_namespaces(pod: &Value) -> Option<Violation> {
    let shared: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|field| pod["spec"][field] == true)
        .map(|field| format!("{field}=true"))
        .collect();
    if shared.is_empty() {
        return None;
    }
    violation("host namespaces", shared.join(", "))
}

pub(super) fn host_paths(pod: &Value) -> Option<Violation> {
    let names: Vec<&str> = pod["spec"]["volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|volume| volume["hostPath"].is_object())
        .map(name)
        .collect();
    if names.is_empty() {
        return None;
    }
    violation(
        "hostPath volumes",
        format!(
            "{} {}",
            plural(names.len(), "volume", "volumes"),
            quoted(&names)
        ),
    )
}

pub(super) fn host_ports(pod: &Value) -> Option<Violation> {
    let mut ports = BTreeSet::new();
    let names = names_of(pod, |container| {
        let mut bad = false;
        for port in container["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|port| port["hostPort"].as_i64())
            .filter(|port| *port != 0)
        {
            bad = true;
            ports.insert(port.to_string());
        }
        bad
    });
    if names.is_empty() {
        return None;
    }
    let list: Vec<String> = ports.into_iter().collect();
    violation(
        "hostPort",
        format!(
            "{} {} {} {}",
            listed(&names),
            plural(names.len(), "uses", "use"),
            plural(list.len(), "hostPort", "hostPorts"),
            list.join(", ")
        ),
    )
}

pub(super) fn probe_hosts(pod: &Value) -> Option<Violation> {
    let mut bad = BTreeSet::new();
    let mut hosts = BTreeSet::new();
    for container in containers(pod) {
        for handler in [
            &container["livenessProbe"],
            &container["readinessProbe"],
            &container["startupProbe"],
            &container["lifecycle"]["postStart"],
            &container["lifecycle"]["preStop"],
        ] {
            for kind in ["httpGet", "tcpSocket"] {
                let host = text(&handler[kind]["host"]);
                if !host.is_empty() {
                    bad.insert(name(container));
                    hosts.insert(host.to_owned());
                }
            }
        }
    }
    if bad.is_empty() {
        return None;
    }
    let names: Vec<&str> = bad.into_iter().collect();
    violation(
        "probe or lifecycle host",
        format!(
            "{} {} {} {}",
            listed(&names),
            plural(names.len(), "uses", "use"),
            plural(
                hosts.len(),
                "probe or lifecycle host",
                "probe or lifecycle hosts"
            ),
            quoted_set(&hosts)
        ),
    )
}

pub(super) fn privileged(pod: &Value) -> Option<Violation> {
    let names = names_of(pod, |container| {
        container["securityContext"]["privileged"] == true
    });
    if names.is_empty() {
        return None;
    }
    violation(
        "privileged",
        format!(
            "{} must not set securityContext.privileged=true",
            listed(&names)
        ),
    )
}

pub(super) fn proc_mount(pod: &Value) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let names = names_of(pod, |container| {
        let kind = container["securityContext"]["procMount"].as_str();
        let bad = kind.filter(|kind| *kind != "Default");
        kinds.extend(bad.map(str::to_owned));
        bad.is_some()
    });
    if names.is_empty() {
        return None;
    }
    violation(
        "procMount",
        format!(
            "{} must not set securityContext.procMount to {}",
            listed(&names),
            quoted_set(&kinds)
        ),
    )
}

pub(super) fn proc_mount_1_35(pod: &Value) -> Option<Violation> {
    if has_user_namespace(pod) {
        return None;
    }
    proc_mount(pod)
}

const SELINUX: [&str; 4] = ["", "container_t", "container_init_t", "container_kvm_t"];

pub(super) fn selinux_1_0(pod: &Value) -> Option<Violation> {
    selinux(pod, &[])
}

pub(super) fn selinux_1_31(pod: &Value) -> Option<Violation> {
    selinux(pod, &["container_engine_t"])
}

fn selinux(pod: &Value, more: &[&str]) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let (mut user, mut role) = (false, false);
    let mut bad = |context: &Value| {
        let options = &context["seLinuxOptions"];
        let kind = text(&options["type"]);
        let (own_user, own_role) = (
            !text(&options["user"]).is_empty(),
            !text(&options["role"]).is_empty(),
        );
        let own_kind = !SELINUX.contains(&kind) && !more.contains(&kind);
        if own_kind {
            kinds.insert(kind.to_owned());
        }
        user |= own_user;
        role |= own_role;
        own_kind || own_user || own_role
    };
    let whole = bad(&pod["spec"]["securityContext"]);
    let names = names_of(pod, |container| bad(&container["securityContext"]));
    let who = setters(whole, &names)?;
    let mut what = Vec::new();
    if !kinds.is_empty() {
        what.push(format!(
            "{} {}",
            plural(kinds.len(), "type", "types"),
            quoted_set(&kinds)
        ));
    }
    if user {
        what.push("user may not be set".to_owned());
    }
    if role {
        what.push("role may not be set".to_owned());
    }
    violation(
        "seLinuxOptions",
        format!(
            "{who} set forbidden securityContext.seLinuxOptions: {}",
            what.join("; ")
        ),
    )
}

pub(super) fn seccomp_annotations(pod: &Value) -> Option<Violation> {
    let allowed = |profile: &str| {
        matches!(profile, "runtime/default" | "docker/default") || profile.starts_with("localhost/")
    };
    let mut keys = vec!["seccomp.security.alpha.kubernetes.io/pod".to_owned()];
    keys.extend(containers(pod).map(|container| {
        format!(
            "container.seccomp.security.alpha.kubernetes.io/{}",
            name(container)
        )
    }));
    let forbidden: BTreeSet<String> = keys
        .iter()
        .filter_map(|key| {
            let profile = pod["metadata"]["annotations"][key].as_str()?;
            (!allowed(profile)).then(|| format!("{key}={profile:?}"))
        })
        .collect();
    if forbidden.is_empty() {
        return None;
    }
    let list: Vec<String> = forbidden.into_iter().collect();
    violation(
        "seccompProfile",
        format!(
            "forbidden {} {}",
            plural(list.len(), "annotation", "annotations"),
            list.join(", ")
        ),
    )
}

/// Whether a security context has a seccomp profile, and if so, a good one.
pub(super) fn seccomp_of(context: &Value) -> Option<Result<(), &str>> {
    let profile = &context["seccompProfile"];
    profile.is_object().then(|| match text(&profile["type"]) {
        "RuntimeDefault" | "Localhost" => Ok(()),
        other => Err(other),
    })
}

pub(super) fn seccomp(pod: &Value) -> Option<Violation> {
    let mut values = BTreeSet::new();
    let mut bad = |context: &Value| match seccomp_of(context) {
        Some(Err(kind)) => {
            values.insert(kind.to_owned());
            true
        }
        _ => false,
    };
    let whole = bad(&pod["spec"]["securityContext"]);
    let names = names_of(pod, |container| bad(&container["securityContext"]));
    let who = setters(whole, &names)?;
    violation(
        "seccompProfile",
        format!(
            "{who} must not set securityContext.seccompProfile.type to {}",
            quoted_set(&values)
        ),
    )
}

/// Sysctls that are safe, in the order they became so.
const SYSCTLS: [(u64, &str); 12] = [
    (0, "kernel.shm_rmid_forced"),
    (0, "net.ipv4.ip_local_port_range"),
    (0, "net.ipv4.tcp_syncookies"),
    (0, "net.ipv4.ping_group_range"),
    (0, "net.ipv4.ip_unprivileged_port_start"),
    (27, "net.ipv4.ip_local_reserved_ports"),
    (29, "net.ipv4.tcp_keepalive_time"),
    (29, "net.ipv4.tcp_fin_timeout"),
    (29, "net.ipv4.tcp_keepalive_intvl"),
    (29, "net.ipv4.tcp_keepalive_probes"),
    (32, "net.ipv4.tcp_rmem"),
    (32, "net.ipv4.tcp_wmem"),
];

fn sysctls(pod: &Value, minor: u64) -> Option<Violation> {
    let forbidden: Vec<&str> = pod["spec"]["securityContext"]["sysctls"]
        .as_array()
        .into_iter()
        .flatten()
        .map(name)
        .filter(|name| {
            !SYSCTLS
                .iter()
                .any(|(since, known)| *since <= minor && known == name)
        })
        .collect();
    if forbidden.is_empty() {
        return None;
    }
    violation("forbidden sysctls", forbidden.join(", "))
}

pub(super) fn sysctls_1_0(pod: &Value) -> Option<Violation> {
    sysctls(pod, 0)
}

pub(super) fn sysctls_1_27(pod: &Value) -> Option<Violation> {
    sysctls(pod, 27)
}

pub(super) fn sysctls_1_29(pod: &Value) -> Option<Violation> {
    sysctls(pod, 29)
}

pub(super) fn sysctls_1_32(pod: &Value) -> Option<Violation> {
    sysctls(pod, 32)
}

pub(super) fn windows_host_process(pod: &Value) -> Option<Violation> {
    let bad = |context: &Value| context["windowsOptions"]["hostProcess"] == true;
    let names = names_of(pod, |container| bad(&container["securityContext"]));
    let who = setters(bad(&pod["spec"]["securityContext"]), &names)?;
    violation(
        "hostProcess",
        format!("{who} must not set securityContext.windowsOptions.hostProcess=true"),
    )
}

//! Questions about a pod's spec that several parts ask.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec, Volume};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

static EMPTY_SPEC: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);

/// The spec; an empty one if the object has none, which the API server never stores.
pub(crate) fn spec(pod: &Pod) -> &PodSpec {
    pod.spec.as_ref().unwrap_or(&EMPTY_SPEC)
}

/// The uid, or an empty string.
pub(crate) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// The name, or an empty string.
pub(crate) fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// The namespace, or an empty string.
pub(crate) fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// `NAME_NAMESPACE(UID)`, the form pods have in messages.
pub(crate) fn format_pod(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// Volumes that are the files of an image.
pub(crate) fn image_volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    let volumes = spec(pod).volumes.iter().flatten();
    volumes.filter(|volume| volume.image.is_some())
}

/// Init containers in order.
pub(crate) fn init_containers(pod: &Pod) -> &[Container] {
    spec(pod).init_containers.as_deref().unwrap_or_default()
}

/// Regular containers in order.
pub(crate) fn containers(pod: &Pod) -> &[Container] {
    &spec(pod).containers
}

/// Ephemeral containers in order.
pub(crate) fn ephemeral_containers(pod: &Pod) -> &[EphemeralContainer] {
    spec(pod)
        .ephemeral_containers
        .as_deref()
        .unwrap_or_default()
}

/// Whether an init container is a sidecar: restartable, started in order, kept running.
pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Whether the pod lives in the node's network namespace.
pub(crate) fn is_host_network(pod: &Pod) -> bool {
    spec(pod).host_network.unwrap_or(false)
}

/// The pod's restart policy.
pub(crate) fn restart_policy(pod: &Pod) -> &str {
    spec(pod).restart_policy.as_deref().unwrap_or("Always")
}

/// Whether deletion was asked for.
pub(crate) fn is_deleted(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// The phase the API has, or an empty string.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

/// Whether a phase is final.
pub(crate) fn is_terminal(phase: &str) -> bool {
    phase == "Succeeded" || phase == "Failed"
}

/// An ephemeral container as the container it is.
pub(crate) fn as_container(ephemeral: &EphemeralContainer) -> Container {
    let e = ephemeral.clone();
    Container {
        args: e.args,
        command: e.command,
        env: e.env,
        env_from: e.env_from,
        image: e.image,
        image_pull_policy: e.image_pull_policy,
        lifecycle: e.lifecycle,
        liveness_probe: e.liveness_probe,
        name: e.name,
        ports: e.ports,
        readiness_probe: e.readiness_probe,
        resize_policy: e.resize_policy,
        resources: e.resources,
        // An ephemeral container never restarts.
        restart_policy: Some("Never".into()),
        restart_policy_rules: None,
        security_context: e.security_context,
        startup_probe: e.startup_probe,
        stdin: e.stdin,
        stdin_once: e.stdin_once,
        termination_message_path: e.termination_message_path,
        termination_message_policy: e.termination_message_policy,
        tty: e.tty,
        volume_devices: e.volume_devices,
        volume_mounts: e.volume_mounts,
        working_dir: e.working_dir,
    }
}

/// The container of this name, of whichever kind.
pub(crate) fn find_container<'a>(pod: &'a Pod, name: &str) -> Option<Cow<'a, Container>> {
    init_containers(pod)
        .iter()
        .chain(containers(pod))
        .find(|container| container.name == name)
        .map(Cow::Borrowed)
        .or_else(|| {
            ephemeral_containers(pod)
                .iter()
                .find(|container| container.name == name)
                .map(|container| Cow::Owned(as_container(container)))
        })
}

/// Whether a container that ended with `exit_code` is to run again: its
/// restart rules decide first, then its own policy, then the pod's.
pub(crate) fn restarts_after(container: &Container, pod: &Pod, exit_code: i32) -> bool {
    for rule in container.restart_policy_rules.iter().flatten() {
        let Some(codes) = &rule.exit_codes else {
            continue;
        };
        let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
        let matches = match codes.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        };
        if matches {
            return rule.action == "Restart";
        }
    }
    match container
        .restart_policy
        .as_deref()
        .unwrap_or(restart_policy(pod))
    {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

/// Whether a container that failed in a way that has no exit code is to run again.
pub(crate) fn restarts_on_failure(container: &Container, pod: &Pod) -> bool {
    container
        .restart_policy
        .as_deref()
        .unwrap_or(restart_policy(pod))
        != "Never"
}

/// The number a port reference names, looked up among the container's ports.
pub(crate) fn resolve_port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten();
            match named
                .clone()
                .find(|port| port.name.as_deref() == Some(name))
            {
                Some(port) => port.container_port,
                None => name
                    .parse()
                    .map_err(|_| format!("strconv.Atoi: parsing \"{name}\": invalid syntax"))?,
            }
        }
    };
    u16::try_from(number)
        .ok()
        .filter(|number| *number > 0)
        .ok_or_else(|| format!("invalid port number: {number}"))
}

/// Seconds the pod may take to stop: what deletion asked for, else the spec's.
pub(crate) fn grace_period_seconds(pod: &Pod) -> i64 {
    pod.metadata
        .deletion_grace_period_seconds
        .or(spec(pod).termination_grace_period_seconds)
        .unwrap_or(30)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{
        ContainerPort, ContainerRestartRule, ContainerRestartRuleOnExitCodes,
    };

    fn pod(policy: &str) -> Pod {
        Pod {
            spec: Some(PodSpec {
                restart_policy: Some(policy.into()),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn restart_rules_go_before_policies() {
        let check = |pod_policy: &str, own: Option<&str>, rule: Option<(&str, i32)>, code, want| {
            let container = Container {
                restart_policy: own.map(Into::into),
                restart_policy_rules: rule.map(|(operator, value)| {
                    vec![ContainerRestartRule {
                        action: "Restart".into(),
                        exit_codes: Some(ContainerRestartRuleOnExitCodes {
                            operator: operator.into(),
                            values: Some(vec![value]),
                        }),
                    }]
                }),
                ..Default::default()
            };
            let got = restarts_after(&container, &pod(pod_policy), code);
            assert_eq!(got, want, "{pod_policy} {own:?} {rule:?} {code}");
        };
        check("Always", None, None, 0, true);
        check("OnFailure", None, None, 0, false);
        check("OnFailure", None, None, 3, true);
        check("Never", None, None, 3, false);
        check("Never", Some("Always"), None, 0, true);
        check("Never", None, Some(("In", 42)), 42, true);
        check("Never", None, Some(("In", 42)), 41, false);
        check("Never", None, Some(("NotIn", 42)), 41, true);
    }

    #[test]
    fn resolves_ports() {
        let container = Container {
            ports: Some(vec![ContainerPort {
                name: Some("http".into()),
                container_port: 8080,
                ..Default::default()
            }]),
            ..Default::default()
        };
        let check = |port: IntOrString, want: Result<u16, ()>| {
            assert_eq!(
                resolve_port(&port, &container).map_err(|_| ()),
                want,
                "{port:?}"
            );
        };
        check(IntOrString::Int(80), Ok(80));
        check(IntOrString::String("http".into()), Ok(8080));
        check(IntOrString::String("81".into()), Ok(81));
        check(IntOrString::String("https".into()), Err(()));
        check(IntOrString::Int(0), Err(()));
        check(IntOrString::Int(70000), Err(()));
    }
}

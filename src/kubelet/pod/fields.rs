//! The downward API: a pod's own fields and its containers' resources as text.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::spec::{find_container, name, namespace, spec, uid};
use crate::quantity::{self, ResourceList};

/// What the fields of a pod are looked up against, beside its spec.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FieldContext<'a> {
    pub(crate) pod_ips: &'a [IpAddr],
    pub(crate) host_ips: &'a [IpAddr],
    /// What stands in for a limit a container does not set.
    pub(crate) allocatable: &'a ResourceList,
}

fn join(ips: &[IpAddr]) -> String {
    ips.iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

fn first(ips: &[IpAddr]) -> String {
    ips.first().map(ToString::to_string).unwrap_or_default()
}

/// Text of a field path.
pub(crate) fn field(pod: &Pod, path: &str, context: FieldContext<'_>) -> Result<String, String> {
    if let Some((base, key)) = path
        .strip_suffix("']")
        .and_then(|path| path.split_once("['"))
    {
        let map = match base {
            "metadata.annotations" => pod.metadata.annotations.as_ref(),
            "metadata.labels" => pod.metadata.labels.as_ref(),
            _ => return Err(format!("fieldPath {path:?} does not support subscript")),
        };
        return Ok(map
            .and_then(|map| map.get(key))
            .cloned()
            .unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => name(pod).to_owned(),
        "metadata.namespace" => namespace(pod).to_owned(),
        "metadata.uid" => uid(pod).to_owned(),
        "metadata.labels" => format_map(pod.metadata.labels.as_ref()),
        "metadata.annotations" => format_map(pod.metadata.annotations.as_ref()),
        "spec.nodeName" => spec(pod).node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => spec(pod).service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => first(context.host_ips),
        "status.hostIPs" => join(context.host_ips),
        "status.podIP" => first(context.pod_ips),
        "status.podIPs" => join(context.pod_ips),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// `key="value"` lines, sorted by key, values quoted as Go quotes them.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", go_quote(value)));
    lines.collect::<Vec<_>>().join("\n")
}

fn go_quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() && u32::from(c) < 0x80 => {
                quoted.push_str(&format!("\\x{:02x}", u32::from(c)));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A container's request or limit, divided and rounded up.
pub(crate) fn resource_field(
    pod: &Pod,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
    context: FieldContext<'_>,
) -> Result<String, String> {
    let named = selector
        .container_name
        .as_deref()
        .filter(|name| !name.is_empty());
    let found = named.and_then(|name| find_container(pod, name));
    let container = match (named, found.as_deref(), own) {
        (Some(_), Some(container), _) => container,
        (Some(name), None, _) => return Err(format!("container {name} not found")),
        (None, _, Some(container)) => container,
        (None, _, None) => return Err("no container named for the resource field".into()),
    };
    let resources = container.resources.as_ref();
    let (kind, resource) = selector.resource.split_once('.').unwrap_or_default();
    let known = matches!(resource, "cpu" | "memory" | "ephemeral-storage")
        || resource.starts_with("hugepages-");
    let zero = Quantity("0".into());
    let quantity = match kind {
        "limits" if known => {
            let own = resources.and_then(|resources| resources.limits.as_ref()?.get(resource));
            let pod_limit = spec(pod).resources.as_ref();
            let pod_limit = pod_limit.and_then(|own| own.limits.as_ref()?.get(resource));
            own.or(pod_limit)
                .or_else(|| context.allocatable.get(resource))
                .unwrap_or(&zero)
        }
        "requests" if known => resources
            .and_then(|resources| resources.requests.as_ref()?.get(resource))
            .unwrap_or(&zero),
        _ => {
            return Err(format!(
                "unsupported container resource : {}",
                selector.resource
            ));
        }
    };
    let one = Quantity("1".into());
    let divisor = selector.divisor.as_ref().unwrap_or(&one);
    Ok(quantity::divide_up(quantity, divisor).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};

    fn subject() -> Pod {
        let container = Container {
            name: "c".into(),
            resources: Some(ResourceRequirements {
                limits: Some([("cpu".into(), Quantity("1500m".into()))].into()),
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut pod = Pod {
            spec: Some(PodSpec {
                containers: vec![container],
                ..Default::default()
            }),
            ..Default::default()
        };
        pod.metadata.name = Some("web".into());
        pod.metadata.labels = Some(
            [
                ("b".into(), "say \"hi\"\n".into()),
                ("a".into(), "1".into()),
            ]
            .into(),
        );
        pod
    }

    fn context(allocatable: &ResourceList) -> FieldContext<'_> {
        FieldContext {
            pod_ips: &[],
            host_ips: &[],
            allocatable,
        }
    }

    #[test]
    fn fields() {
        let allocatable = ResourceList::new();
        let check = |path: &str, want: Result<&str, &str>| {
            let got = field(&subject(), path, context(&allocatable));
            assert_eq!(got.as_deref().map_err(String::as_str), want, "{path}");
        };
        check("metadata.name", Ok("web"));
        check("metadata.labels", Ok("a=\"1\"\nb=\"say \\\"hi\\\"\\n\""));
        check("metadata.labels['a']", Ok("1"));
        check("metadata.labels['none']", Ok(""));
        check("spec.none", Err("unsupported fieldPath: spec.none"));
    }

    #[test]
    fn resources() {
        let allocatable = [("memory".to_owned(), Quantity("2Gi".into()))].into();
        let check = |resource: &str, divisor: &str, want: Result<&str, &str>| {
            let selector = ResourceFieldSelector {
                container_name: Some("c".into()),
                resource: resource.into(),
                divisor: Some(Quantity(divisor.into())),
            };
            let got = resource_field(&subject(), None, &selector, context(&allocatable));
            assert_eq!(got.as_deref().map_err(String::as_str), want, "{resource}");
        };
        check("limits.cpu", "1", Ok("2"));
        check("limits.cpu", "1m", Ok("1500"));
        check("limits.memory", "1Mi", Ok("2048"));
        check("requests.memory", "1", Ok("0"));
        check(
            "limits.gold",
            "1",
            Err("unsupported container resource : limits.gold"),
        );
    }
}

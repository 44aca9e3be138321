//! Environment variables of containers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use indexmap::IndexMap;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret, Service};

use super::expand::expand;
use super::fields::{FieldContext, field, resource_field};
use super::spec::{namespace, spec};

/// Config maps and secrets of the pod's namespace, by name; `None` is one that
/// does not exist.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    pub(crate) config_maps: BTreeMap<String, Option<Arc<ConfigMap>>>,
    pub(crate) secrets: BTreeMap<String, Option<Arc<Secret>>>,
}

impl Sources {
    /// The config map; an error if it does not exist and is not optional.
    pub(crate) fn config_map(
        &self,
        name: &str,
        optional: Option<bool>,
    ) -> Result<Option<&ConfigMap>, String> {
        match self.config_maps.get(name).and_then(Option::as_deref) {
            Some(found) => Ok(Some(found)),
            None if optional.unwrap_or(false) => Ok(None),
            None => Err(format!("configmap {name:?} not found")),
        }
    }

    /// The secret; an error if it does not exist and is not optional.
    pub(crate) fn secret(
        &self,
        name: &str,
        optional: Option<bool>,
    ) -> Result<Option<&Secret>, String> {
        match self.secrets.get(name).and_then(Option::as_deref) {
            Some(found) => Ok(Some(found)),
            None if optional.unwrap_or(false) => Ok(None),
            None => Err(format!("secret {name:?} not found")),
        }
    }
}

/// The environment of a container: what its spec gives, then the variables of
/// services it does not override.
pub(crate) fn environment(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
    services: &BTreeMap<String, String>,
    context: FieldContext<'_>,
) -> Result<Vec<(String, String)>, String> {
    let mut env: IndexMap<String, String> = IndexMap::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &from.config_map_ref {
            let found = sources.config_map(&reference.name, reference.optional)?;
            for (key, value) in found.into_iter().flat_map(|map| map.data.iter().flatten()) {
                env.insert(format!("{prefix}{key}"), value.clone());
            }
        }
        if let Some(reference) = &from.secret_ref {
            let found = sources.secret(&reference.name, reference.optional)?;
            for (key, value) in found
                .into_iter()
                .flat_map(|secret| secret.data.iter().flatten())
            {
                let value = String::from_utf8_lossy(&value.0).into_owned();
                env.insert(format!("{prefix}{key}"), value);
            }
        }
    }
    let in_namespace = |kind: &str, name: &str, key: &str| {
        format!(
            "couldn't find key {key} in {kind} {}/{name}",
            namespace(pod)
        )
    };
    for variable in container.env.iter().flatten() {
        let value = match (
            variable.value.as_deref().unwrap_or_default(),
            &variable.value_from,
        ) {
            ("", Some(from)) => {
                if let Some(reference) = &from.field_ref {
                    field(pod, &reference.field_path, context)?
                } else if let Some(reference) = &from.resource_field_ref {
                    resource_field(pod, Some(container), reference, context)?
                } else if let Some(reference) = &from.config_map_key_ref {
                    let map = sources.config_map(&reference.name, reference.optional)?;
                    let value = map.and_then(|map| map.data.as_ref()?.get(&reference.key));
                    match value {
                        Some(value) => value.clone(),
                        None if reference.optional.unwrap_or(false) => continue,
                        None => {
                            return Err(in_namespace("ConfigMap", &reference.name, &reference.key));
                        }
                    }
                } else if let Some(reference) = &from.secret_key_ref {
                    let secret = sources.secret(&reference.name, reference.optional)?;
                    let value = secret.and_then(|secret| secret.data.as_ref()?.get(&reference.key));
                    match value {
                        Some(value) => String::from_utf8_lossy(&value.0).into_owned(),
                        None if reference.optional.unwrap_or(false) => continue,
                        None => {
                            return Err(in_namespace("Secret", &reference.name, &reference.key));
                        }
                    }
                } else {
                    String::new()
                }
            }
            (text, _) => expand(text, |name| env.get(name).or(services.get(name)).cloned()),
        };
        env.insert(variable.name.clone(), value);
    }
    for (name, value) in services {
        if !env.contains_key(name) {
            env.insert(name.clone(), value.clone());
        }
    }
    Ok(env.into_iter().collect())
}

/// A container's command and arguments with their references resolved.
pub(crate) fn command_line(
    container: &Container,
    env: &[(String, String)],
) -> (Vec<String>, Vec<String>) {
    let known: BTreeMap<&str, &str> = env
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let resolve = |words: &Option<Vec<String>>| {
        let words = words.iter().flatten();
        words
            .map(|word| {
                expand(word, |name| {
                    known.get(name).map(|value| (*value).to_owned())
                })
            })
            .collect()
    };
    (resolve(&container.command), resolve(&container.args))
}

/// Variables that tell a pod of the services it can reach: those of its own
/// namespace if it wants links, and always `kubernetes` in `default`.
pub(crate) fn service_environment(
    pod: &Pod,
    services: &[Arc<Service>],
) -> BTreeMap<String, String> {
    let links = spec(pod).enable_service_links.unwrap_or(true);
    let mut chosen: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services {
        let in_namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        let name = service.metadata.name.as_deref().unwrap_or_default();
        if in_namespace == "default" && name == "kubernetes" {
            chosen.entry(name).or_insert(service);
        } else if links && in_namespace == namespace(pod) {
            chosen.insert(name, service);
        }
    }
    let mut env = BTreeMap::new();
    for (name, service) in chosen {
        let Some(spec) = &service.spec else { continue };
        let ip = spec.cluster_ip.as_deref().unwrap_or_default();
        let Some(ports) = spec.ports.as_ref().filter(|ports| !ports.is_empty()) else {
            continue;
        };
        if ip.is_empty() || ip == "None" {
            continue;
        }
        let upper = variable_name(name);
        env.insert(format!("{upper}_SERVICE_HOST"), ip.to_owned());
        env.insert(format!("{upper}_SERVICE_PORT"), ports[0].port.to_string());
        for (index, port) in ports.iter().enumerate() {
            if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
                let key = format!("{upper}_SERVICE_PORT_{}", variable_name(name));
                env.insert(key, port.port.to_string());
            }
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let lower = protocol.to_lowercase();
            let number = port.port;
            let address = match ip.parse() {
                Ok(IpAddr::V6(_)) => format!("{lower}://[{ip}]:{number}"),
                _ => format!("{lower}://{ip}:{number}"),
            };
            if index == 0 {
                env.insert(format!("{upper}_PORT"), address.clone());
            }
            let prefix = format!("{upper}_PORT_{number}_{}", protocol.to_uppercase());
            env.insert(format!("{prefix}_PROTO"), lower);
            env.insert(format!("{prefix}_PORT"), number.to_string());
            env.insert(format!("{prefix}_ADDR"), ip.to_owned());
            env.insert(prefix, address);
        }
    }
    env
}

fn variable_name(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "shop"},
            "spec": {"containers": []}}))
        .unwrap()
    }

    fn env_of(container: serde_json::Value) -> Result<Vec<(String, String)>, String> {
        let mut sources = Sources::default();
        let map = json!({"metadata": {"name": "m"}, "data": {"k": "v"}});
        let secret = json!({"metadata": {"name": "s"}, "data": {"k": "c2VjcmV0"}});
        sources.config_maps.insert(
            "m".into(),
            Some(Arc::new(serde_json::from_value(map).unwrap())),
        );
        sources.config_maps.insert("none".into(), None);
        sources.secrets.insert(
            "s".into(),
            Some(Arc::new(serde_json::from_value(secret).unwrap())),
        );
        let services = [("SVC".to_owned(), "svc".to_owned())].into();
        let allocatable = Default::default();
        let context = FieldContext {
            pod_ips: &[],
            host_ips: &[],
            allocatable: &allocatable,
        };
        let container: Container = serde_json::from_value(container).unwrap();
        environment(&pod(), &container, &sources, &services, context)
    }

    #[test]
    fn builds_environments() {
        let check = |container: serde_json::Value, want: &str| {
            let got = match env_of(container.clone()) {
                Ok(env) => env
                    .iter()
                    .map(|(k, v)| format!("{k}={v}"))
                    .collect::<Vec<_>>()
                    .join(" "),
                Err(error) => error,
            };
            assert_eq!(got, want, "{container}");
        };
        check(
            json!({"name": "c", "env": [{"name": "A", "value": "1"},
                {"name": "B", "value": "$(A)-$(SVC)-$(C)"}, {"name": "C"}]}),
            "A=1 B=1-svc-$(C) C= SVC=svc",
        );
        check(
            json!({"name": "c", "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}},
                {"secretRef": {"name": "s"}}, {"configMapRef": {"name": "none", "optional": true}}]}),
            "P_k=v k=secret SVC=svc",
        );
        check(
            json!({"name": "c", "envFrom": [{"configMapRef": {"name": "none"}}]}),
            "configmap \"none\" not found",
        );
        check(
            json!({"name": "c", "env": [{"name": "A", "valueFrom": {"configMapKeyRef":
                {"name": "m", "key": "x"}}}]}),
            "couldn't find key x in ConfigMap shop/m",
        );
        check(
            json!({"name": "c", "env": [{"name": "A", "valueFrom": {"secretKeyRef":
                {"name": "s", "key": "x", "optional": true}}},
                {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}),
            "N=web SVC=svc",
        );
    }

    #[test]
    fn service_variables() {
        let service = json!({"metadata": {"name": "my-db", "namespace": "shop"},
            "spec": {"clusterIP": "10.0.0.1", "ports": [{"name": "sql", "port": 5432}]}});
        let services: Vec<Arc<Service>> = vec![Arc::new(serde_json::from_value(service).unwrap())];
        let env = service_environment(&pod(), &services);
        let lines: Vec<_> = env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            lines,
            [
                "MY_DB_PORT=tcp://10.0.0.1:5432",
                "MY_DB_PORT_5432_TCP=tcp://10.0.0.1:5432",
                "MY_DB_PORT_5432_TCP_ADDR=10.0.0.1",
                "MY_DB_PORT_5432_TCP_PORT=5432",
                "MY_DB_PORT_5432_TCP_PROTO=tcp",
                "MY_DB_SERVICE_HOST=10.0.0.1",
                "MY_DB_SERVICE_PORT=5432",
                "MY_DB_SERVICE_PORT_SQL=5432",
            ]
        );
    }

    #[test]
    fn commands_expand() {
        let container = Container {
            command: Some(vec!["run".into(), "$(A)".into()]),
            args: Some(vec!["$(B)".into(), "$$(A)".into()]),
            ..Default::default()
        };
        let env = [("A".to_owned(), "1".to_owned())];
        let (command, args) = command_line(&container, &env);
        assert_eq!(
            (command.join(" "), args.join(" ")),
            ("run 1".into(), "$(B) $(A)".into())
        );
    }
}

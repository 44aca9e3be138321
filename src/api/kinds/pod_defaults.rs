//! Defaults of pods and of everything with a pod template.

use serde_json::{Map, Value, json};

use super::value::{blank, default, default_zero, each, int, object, remove, text, within};
use crate::Quantity;

/// `SetDefaults_Pod` and the defaults of its spec.
pub(super) fn pod(pod: &mut Value) {
    spec(object(pod, "spec"));
    let spec = object(pod, "spec");
    for name in ["containers", "initContainers"] {
        each(spec, name, requests_from_limits);
    }
    pod_requests(spec);
    default(spec, "enableServiceLinks", true);
    if int(spec, "terminationGracePeriodSeconds") < 0 {
        // An old way of asking for the shortest time.
        spec["terminationGracePeriodSeconds"] = 1.into();
    }
    if spec["hostNetwork"] == true {
        host_ports(spec);
    }
}

/// Defaults of a pod template.
pub(super) fn template(template: &mut Value) {
    object(template, "metadata");
    let spec_value = object(template, "spec");
    spec(spec_value);
    if spec_value["hostNetwork"] == true {
        host_ports(spec_value);
    }
}

fn host_ports(spec: &mut Value) {
    for name in ["containers", "initContainers"] {
        each(spec, name, |container| {
            each(container, "ports", |port| {
                let number = int(port, "containerPort");
                default_zero(port, "hostPort", number);
            });
        });
    }
}

/// What is limited and not requested is requested as limited.
fn requests_from_limits(container: &mut Value) {
    within(container, "resources", |resources| {
        if let Some(limits) = resources["limits"].as_object().cloned() {
            let requests = object(resources, "requests");
            for (name, limit) in limits {
                default(requests, &name, limit);
            }
        }
    });
}

/// The same for limits of the whole pod, from what its containers request.
fn pod_requests(spec: &mut Value) {
    let limits = spec["resources"]["limits"].as_object().cloned();
    let Some(limits) = limits.filter(|limits| !limits.is_empty()) else {
        return;
    };
    let supported = |name: &str| matches!(name, "cpu" | "memory") || name.starts_with("hugepages-");
    let mut sums: Map<String, Value> = Map::new();
    let requests = super::pod::total_requests(spec);
    for (name, sum) in requests {
        if supported(&name) && !name.starts_with("hugepages-") {
            sums.insert(name, sum.to_string().into());
        }
    }
    let target = object(object(spec, "resources"), "requests");
    for (name, sum) in sums {
        default(target, &name, sum);
    }
    for (name, limit) in limits {
        if supported(&name) {
            default(target, &name, limit);
        }
    }
}

/// `SetDefaults_PodSpec` and below.
pub(super) fn spec(spec: &mut Value) {
    // The deprecated alias wins only if it is alone.
    let account = text(spec, "serviceAccountName").to_owned();
    if !account.is_empty() {
        spec["serviceAccount"] = account.into();
    } else if !text(spec, "serviceAccount").is_empty() {
        spec["serviceAccountName"] = spec["serviceAccount"].clone();
    }
    default(spec, "dnsPolicy", "ClusterFirst");
    default(spec, "restartPolicy", "Always");
    object(spec, "securityContext");
    default(spec, "terminationGracePeriodSeconds", 30);
    default(spec, "schedulerName", "default-scheduler");
    for name in ["containers", "initContainers", "ephemeralContainers"] {
        each(spec, name, container);
    }
    each(spec, "volumes", volume);
    // Behind a gate that is off.
    remove(spec, "schedulingGroup");
    for name in ["limits", "requests"] {
        within(spec, "resources", |resources| quantities(resources, name));
    }
    quantities(spec, "overhead");
}

/// Rounds the quantities of a map up to thousandths.
pub(super) fn quantities(value: &mut Value, name: &str) {
    within(value, name, |map| {
        for quantity in map.as_object_mut().into_iter().flat_map(Map::values_mut) {
            let parsed = quantity.as_str().and_then(|text| text.parse().ok());
            if let Some(mut parsed) = parsed.filter(|_: &Quantity| true) {
                parsed.round_up(-3);
                *quantity = parsed.to_string().into();
            }
        }
    });
}

/// Signals that end containers are behind a gate that is off.
fn drop_stop_signal(container: &mut Value) {
    let lifecycle = &mut container["lifecycle"];
    if lifecycle["stopSignal"].is_null() {
        return;
    }
    remove(lifecycle, "stopSignal");
    if lifecycle["postStart"].is_null() && lifecycle["preStop"].is_null() {
        remove(container, "lifecycle");
    }
}

fn container(container: &mut Value) {
    if container["lifecycle"].is_object() {
        drop_stop_signal(container);
    }
    let policy = pull_policy(text(container, "image"));
    default(container, "imagePullPolicy", policy);
    default(container, "terminationMessagePath", "/dev/termination-log");
    default(container, "terminationMessagePolicy", "File");
    let resources = object(container, "resources");
    quantities(resources, "limits");
    quantities(resources, "requests");
    each(container, "ports", |port| default(port, "protocol", "TCP"));
    each(container, "env", |env| {
        within(env, "valueFrom", |source| {
            within(source, "fieldRef", |field| {
                default(field, "apiVersion", "v1")
            });
            within(source, "resourceFieldRef", |field| {
                default(field, "divisor", "0")
            });
            within(source, "fileKeyRef", |field| {
                default(field, "optional", false)
            });
        });
    });
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        within(container, name, |probe| {
            default_zero(probe, "timeoutSeconds", 1);
            default_zero(probe, "periodSeconds", 10);
            default_zero(probe, "successThreshold", 1);
            default_zero(probe, "failureThreshold", 3);
            handler(probe);
        });
    }
    within(container, "lifecycle", |lifecycle| {
        within(lifecycle, "postStart", handler);
        within(lifecycle, "preStop", handler);
    });
    within(container, "securityContext", |context| {
        if context.get("procMount").is_some_and(|mount| mount == "") {
            context["procMount"] = "Default".into();
        }
    });
}

fn handler(handler: &mut Value) {
    within(handler, "httpGet", |get| {
        default(get, "path", "/");
        default(get, "scheme", "HTTP");
    });
    within(handler, "grpc", |grpc| {
        if grpc["service"].is_null() {
            grpc["service"] = "".into();
        }
    });
}

/// Whether this is a part of the name of an image: lower case, with separators
/// between its words.
fn component(part: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    part.starts_with(edge)
        && part.ends_with(edge)
        && part.chars().all(|c| edge(c) || "._-".contains(c))
        && !part.contains("..")
}

/// `Always` for a moving tag, else `IfNotPresent`.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let tail = name.rfind('/').map_or(0, |at| at + 1);
    let (repository, tag) = match name[tail..].rfind(':') {
        Some(at) => (&name[..tail + at], Some(&name[tail + at + 1..])),
        None => (name, None),
    };
    let well_formed = repository.len() <= 255
        && repository.split('/').enumerate().all(|(index, part)| {
            // The first part may be the host of a registry.
            index == 0 && part.contains(['.', ':']) || component(part)
        });
    let latest = match (tag, digest) {
        (Some(tag), _) => tag == "latest",
        (None, digest) => digest.is_none(),
    };
    if well_formed && latest {
        "Always"
    } else {
        "IfNotPresent"
    }
}

fn items(source: &mut Value) {
    default(source, "defaultMode", 0o644);
}

fn downward_items(source: &mut Value) {
    each(source, "items", |item| {
        within(item, "fieldRef", |field| default(field, "apiVersion", "v1"));
        within(item, "resourceFieldRef", |field| {
            default(field, "divisor", "0")
        });
    });
}

/// `SetDefaults_Volume` and below.
pub(super) fn volume(volume: &mut Value) {
    let sources = volume.as_object().is_some_and(|map| {
        map.iter()
            .any(|(name, value)| name != "name" && !value.is_null())
    });
    if !sources {
        volume["emptyDir"] = json!({});
    }
    within(volume, "secret", items);
    within(volume, "configMap", items);
    within(volume, "downwardAPI", |source| {
        items(source);
        downward_items(source);
    });
    within(volume, "projected", |source| {
        items(source);
        each(source, "sources", |source| {
            within(source, "serviceAccountToken", |token| {
                default(token, "expirationSeconds", 3600);
            });
            within(source, "downwardAPI", downward_items);
        });
    });
    within(volume, "image", |image| {
        let policy = pull_policy(text(image, "reference"));
        default(image, "pullPolicy", policy);
    });
    within(volume, "ephemeral", |ephemeral| {
        within(ephemeral, "volumeClaimTemplate", |template| {
            object(template, "metadata");
            claim_spec(object(template, "spec"));
        });
    });
    volume_source(volume);
}

/// Defaults of sources that volumes and persistent volumes share.
pub(super) fn volume_source(volume: &mut Value) {
    within(volume, "hostPath", |path| {
        if path["type"].is_null() {
            path["type"] = "".into();
        }
    });
    within(volume, "iscsi", |iscsi| {
        default(iscsi, "iscsiInterface", "default")
    });
    within(volume, "rbd", |rbd| {
        default(rbd, "pool", "rbd");
        default(rbd, "user", "admin");
        default(rbd, "keyring", "/etc/ceph/keyring");
    });
    within(volume, "azureDisk", |disk| {
        default(disk, "cachingMode", "ReadWrite");
        default(disk, "kind", "Shared");
        default(disk, "fsType", "ext4");
        default(disk, "readOnly", false);
    });
    within(volume, "scaleIO", |disk| {
        default(disk, "storageMode", "ThinProvisioned");
        default(disk, "fsType", "xfs");
    });
}

/// `SetDefaults_PersistentVolumeClaimSpec` and below.
pub(super) fn claim_spec(spec: &mut Value) {
    super::value::default_absent(spec, "volumeMode", "Filesystem");
    let resources = object(spec, "resources");
    quantities(resources, "limits");
    quantities(resources, "requests");
}

/// Whether a template has labels to take over.
pub(super) fn template_labels(spec: &Value) -> Option<Value> {
    let labels = &spec["template"]["metadata"]["labels"];
    (!blank(labels)).then(|| labels.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policies() {
        for (image, want) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1", "IfNotPresent"),
            ("registry:5000/nginx", "Always"),
            ("registry:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:abc", "IfNotPresent"),
            ("", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), want, "{image}");
        }
    }

    #[test]
    fn pod_is_filled() {
        let mut object = json!({"spec": {
            "containers": [{"name": "a", "image": "i", "resources": {"limits": {"cpu": "1"}}}],
            "volumes": [{"name": "v"}],
        }});
        pod(&mut object);
        assert_eq!(
            object["spec"],
            json!({
                "containers": [{
                    "name": "a", "image": "i", "imagePullPolicy": "Always",
                    "terminationMessagePath": "/dev/termination-log",
                    "terminationMessagePolicy": "File",
                    "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
                }],
                "volumes": [{"name": "v", "emptyDir": {}}],
                "dnsPolicy": "ClusterFirst", "restartPolicy": "Always",
                "securityContext": {}, "terminationGracePeriodSeconds": 30,
                "schedulerName": "default-scheduler", "enableServiceLinks": true,
            })
        );
    }
}

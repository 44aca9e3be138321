//! The smaller kinds of the core group.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::common;
use crate::kinds::value::{entries, indexed, int, invalid, list, text};
use crate::{FieldError, Path, meta, names};

type Errors = Vec<FieldError>;

/// Bytes that the values of a secret or config map may have together.
const DATA_MAX: usize = 1 << 20;

/// Bytes that a base64 text stands for.
fn decoded(text: &str) -> usize {
    text.trim_end_matches('=').len() * 3 / 4
}

/// Whether a finalizer without a domain is one of the standard ones.
pub(in crate::kinds) fn kube_finalizer(name: &str, path: &Path) -> Option<FieldError> {
    let standard = matches!(name, "kubernetes" | "orphan" | "foregroundDeletion");
    (!name.contains('/') && !standard).then(|| {
        FieldError::invalid(
            path,
            name,
            "name is neither a standard finalizer name nor is it fully qualified",
        )
    })
}

/// `ValidateNamespace`.
pub(in crate::kinds) fn namespace(namespace: &Value) -> Errors {
    let at = Path::new("spec").child("finalizers");
    let mut errors = Vec::new();
    for name in list(&namespace["spec"], "finalizers") {
        let name = name.as_str().unwrap_or_default();
        errors.extend(meta::label_name(name, &at));
        errors.extend(kube_finalizer(name, &at));
    }
    errors
}

/// `ValidateNamespaceStatusUpdate`.
pub(in crate::kinds) fn namespace_status(namespace: &Value) -> Errors {
    let at = Path::new("status").child("Phase");
    let phase = text(&namespace["status"], "phase");
    let deleted = !namespace["metadata"]["deletionTimestamp"].is_null();
    let (wrong, message) = if deleted {
        (
            phase != "Terminating",
            "may only be 'Terminating' if `deletionTimestamp` is not empty",
        )
    } else {
        (
            phase != "Active",
            "may only be 'Active' if `deletionTimestamp` is empty",
        )
    };
    if wrong {
        vec![FieldError::invalid(&at, phase, message)]
    } else {
        Vec::new()
    }
}

fn taints(node: &Value) -> Errors {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (at, taint) in indexed(&node["spec"], "taints", &Path::new("metadata")) {
        let (key, value, effect) = (
            text(taint, "key"),
            text(taint, "value"),
            text(taint, "effect"),
        );
        errors.extend(meta::label_name(key, &at.child("key")));
        let wrong = names::label_value(value);
        if !wrong.is_empty() {
            errors.push(FieldError::invalid(
                &at.child("value"),
                value,
                wrong.join(";"),
            ));
        }
        errors.extend(common::one_of(
            taint,
            "effect",
            &["NoSchedule", "PreferNoSchedule", "NoExecute"],
            &at,
        ));
        if !seen.insert((effect, key)) {
            let mut duplicate = FieldError::duplicate(&at, taint.clone());
            "taints must be unique by key and effect pair".clone_into(&mut duplicate.detail);
            errors.push(duplicate);
        }
    }
    errors
}

fn node_resources(node: &Value) -> Errors {
    let mut errors = Vec::new();
    for field in ["capacity", "allocatable"] {
        let at = Path::new("status").child(field);
        for (name, value) in entries(&node["status"], field) {
            errors.extend(common::resource_quantity(name, value, &at.key(name)));
        }
    }
    errors
}

/// `ValidateNode`.
pub(in crate::kinds) fn node(node: &Value) -> Errors {
    let mut errors = taints(node);
    errors.extend(node_resources(node));
    let at = Path::new("spec").child("podCIDRs");
    let cidrs = list(&node["spec"], "podCIDRs");
    for (index, cidr) in cidrs.iter().enumerate() {
        errors.extend(common::cidr(
            cidr.as_str().unwrap_or_default(),
            &at.index(index),
        ));
    }
    let families: Vec<bool> = cidrs
        .iter()
        .filter_map(|cidr| common::parse_cidr(cidr.as_str()?))
        .map(|(address, _)| address.is_ipv4())
        .collect();
    if cidrs.len() > 2 || (cidrs.len() == 2 && families.len() == 2 && families[0] == families[1]) {
        errors.push(FieldError::invalid(
            &at,
            cidrs.to_vec(),
            "may specify no more than one CIDR for each IP family",
        ));
    }
    errors
}

/// `ValidateNodeUpdate`.
pub(in crate::kinds) fn node_update(new: &Value, old: &Value) -> Errors {
    let mut errors = node_resources(new);
    let mut seen: Vec<&Value> = Vec::new();
    for (at, address) in indexed(&new["status"], "addresses", &Path::new("status")) {
        if seen.contains(&address) {
            errors.push(FieldError::duplicate(&at, address.clone()));
        }
        seen.push(address);
    }
    let path = Path::new("spec");
    let before = list(&old["spec"], "podCIDRs");
    if !before.is_empty() && before != list(&new["spec"], "podCIDRs") {
        errors.push(FieldError::forbidden(
            &path.child("podCIDRs"),
            "node updates may not change podCIDR except from \"\" to valid",
        ));
    }
    let provider = text(&old["spec"], "providerID");
    if !provider.is_empty() && provider != text(&new["spec"], "providerID") {
        errors.push(FieldError::forbidden(
            &path.child("providerID"),
            "node updates may not change providerID except from \"\" to valid",
        ));
    }
    errors.extend(taints(new));
    errors
}

/// `ValidateConfigMap`.
pub(in crate::kinds) fn config_map(map: &Value) -> Errors {
    let mut errors = Vec::new();
    let mut size = 0;
    for (key, value) in entries(map, "data") {
        let at = Path::new("data").key(key);
        errors.extend(invalid(&at, key, names::config_map_key(key)));
        if map["binaryData"].get(key).is_some() {
            errors.push(FieldError::invalid(
                &at,
                &**key,
                "duplicate of key present in binaryData",
            ));
        }
        size += value.as_str().map_or(0, str::len);
    }
    for (key, value) in entries(map, "binaryData") {
        let at = Path::new("binaryData").key(key);
        errors.extend(invalid(&at, key, names::config_map_key(key)));
        size += value.as_str().map_or(0, decoded);
    }
    if size > DATA_MAX {
        errors.push(FieldError::too_long(&Path::new(""), DATA_MAX));
    }
    errors
}

const FROZEN: &str = "field is immutable when `immutable` is set";

fn frozen(new: &Value, old: &Value, fields: &[&str]) -> Errors {
    let mut errors = Vec::new();
    if old["immutable"] != true {
        return errors;
    }
    if new["immutable"] != true {
        errors.push(FieldError::forbidden(&Path::new("immutable"), FROZEN));
    }
    for name in fields {
        if !crate::kinds::value::same(&new[*name], &old[*name]) {
            errors.push(FieldError::forbidden(&Path::new(name), FROZEN));
        }
    }
    errors
}

/// `ValidateConfigMapUpdate`.
pub(in crate::kinds) fn config_map_update(new: &Value, old: &Value) -> Errors {
    let mut errors = frozen(new, old, &["data", "binaryData"]);
    errors.extend(config_map(new));
    errors
}

/// `ValidateSecret`.
pub(in crate::kinds) fn secret(secret: &Value) -> Errors {
    let mut errors = Vec::new();
    let at = Path::new("data");
    let mut size = 0;
    for (key, value) in entries(secret, "data") {
        errors.extend(invalid(&at.key(key), key, names::config_map_key(key)));
        size += value.as_str().map_or(0, decoded);
    }
    if size > DATA_MAX {
        errors.push(FieldError::too_long(&at, DATA_MAX));
    }
    let data = &secret["data"];
    let missing = |key: &str| data[key].is_null();
    let mut need = |key: &str| errors.push(FieldError::required(&at.key(key), ""));
    match text(secret, "type") {
        "kubernetes.io/service-account-token" => {
            let key = "kubernetes.io/service-account.name";
            if text(&secret["metadata"]["annotations"], key).is_empty() {
                errors.push(FieldError::required(
                    &Path::new("metadata").child("annotations").key(key),
                    "",
                ));
            }
        }
        "kubernetes.io/dockercfg" => json_key(data, ".dockercfg", &at, &mut errors),
        "kubernetes.io/dockerconfigjson" => {
            json_key(data, ".dockerconfigjson", &at, &mut errors);
        }
        "kubernetes.io/basic-auth" if missing("username") && missing("password") => {
            need("username");
            need("password");
        }
        "kubernetes.io/ssh-auth" if text(data, "ssh-privatekey").is_empty() => {
            need("ssh-privatekey");
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if missing(key) {
                    need(key);
                }
            }
        }
        _ => {}
    }
    errors
}

/// A value that must be a JSON object.
fn json_key(data: &Value, key: &str, at: &Path, errors: &mut Errors) {
    use base64::Engine as _;
    let Some(value) = data[key].as_str() else {
        errors.push(FieldError::required(&at.key(key), ""));
        return;
    };
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(value)
        .unwrap_or_default();
    if let Err(why) = serde_json::from_slice::<Map<String, Value>>(&bytes) {
        let why = if bytes.is_empty() {
            "unexpected end of JSON input".to_owned()
        } else {
            why.to_string()
        };
        errors.push(FieldError::invalid(
            &at.key(key),
            "<secret contents redacted>",
            why,
        ));
    }
}

/// `ValidateSecretUpdate`.
pub(in crate::kinds) fn secret_update(new: &Value, old: &Value) -> Errors {
    let mut errors: Errors = common::immutable(&new["type"], &old["type"], &Path::new("type"))
        .into_iter()
        .collect();
    errors.extend(frozen(new, old, &["data"]));
    errors.extend(secret(new));
    errors
}

/// `ValidateEndpointIP`: not one that no endpoint can have.
pub(super) fn endpoint_address(address: &str, at: &Path) -> Option<FieldError> {
    let Some(ip) = common::parse_ip(address) else {
        return Some(FieldError::invalid(
            at,
            address,
            "must be a valid IP address",
        ));
    };
    let (local, multicast) = match ip {
        std::net::IpAddr::V4(ip) => (
            ip.is_link_local(),
            ip.octets()[0] == 224 && ip.octets()[1..3] == [0, 0],
        ),
        std::net::IpAddr::V6(ip) => (
            ip.segments()[0] & 0xffc0 == 0xfe80,
            ip.segments()[0] & 0xff0f == 0xff02,
        ),
    };
    let message = if ip.is_unspecified() {
        format!("may not be unspecified ({ip})")
    } else if ip.is_loopback() {
        "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()
    } else if local {
        "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()
    } else if multicast {
        "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned()
    } else {
        return None;
    };
    Some(FieldError::invalid(at, address, message))
}

/// `ValidateEndpoints`.
pub(in crate::kinds) fn endpoints(endpoints: &Value) -> Errors {
    let mut errors = Vec::new();
    for (at, subset) in indexed(endpoints, "subsets", &Path::root()) {
        let some = |name: &str| !list(subset, name).is_empty();
        if !some("addresses") && !some("notReadyAddresses") {
            errors.push(FieldError::required(
                &at,
                "must specify `addresses` or `notReadyAddresses`",
            ));
        }
        for kind in ["addresses", "notReadyAddresses"] {
            for (at, address) in indexed(subset, kind, &at) {
                let ip = text(address, "ip");
                errors.extend(common::ip(ip, &at.child("ip")));
                let host = text(address, "hostname");
                if !host.is_empty() {
                    errors.extend(invalid(&at.child("hostname"), host, names::dns_label(host)));
                }
                if let Some(node) = address["nodeName"].as_str() {
                    errors.extend(invalid(
                        &at.child("nodeName"),
                        node,
                        names::dns_subdomain(node),
                    ));
                }
                errors.extend(endpoint_address(ip, &at.child("ip")));
            }
        }
        let several = list(subset, "ports").len() > 1;
        for (at, port) in indexed(subset, "ports", &at) {
            let name = text(port, "name");
            if name.is_empty() {
                if several {
                    errors.push(FieldError::required(&at.child("name"), ""));
                }
            } else {
                errors.extend(invalid(&at.child("name"), name, names::dns_label(name)));
            }
            let number = int(port, "port");
            for message in names::port_number(number) {
                errors.push(FieldError::invalid(&at.child("port"), number, message));
            }
            errors.extend(common::one_of(
                port,
                "protocol",
                &["SCTP", "TCP", "UDP"],
                &at,
            ));
            if let Some(protocol) = port["appProtocol"].as_str() {
                errors.extend(meta::label_name(protocol, &at.child("appProtocol")));
            }
        }
    }
    errors
}

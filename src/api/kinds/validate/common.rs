//! Rules that many kinds share.

use serde_json::Value;

use crate::kinds::value::{list, text};
use crate::{FieldError, Path, Quantity, meta, names};

/// A required field that is one of these values, listed as given.
pub(super) fn one_of(
    holder: &Value,
    name: &str,
    known: &[&str],
    path: &Path,
) -> Option<FieldError> {
    let value = text(holder, name);
    let at = path.child(name);
    if value.is_empty() {
        Some(FieldError::required(&at, ""))
    } else if known.contains(&value) {
        None
    } else {
        Some(FieldError::not_supported(&at, value, known))
    }
}

/// A required text.
pub(super) fn required(holder: &Value, name: &str, path: &Path) -> Option<FieldError> {
    text(holder, name)
        .is_empty()
        .then(|| FieldError::required(&path.child(name), ""))
}

/// A number of at least 0.
pub(super) fn nonnegative(holder: &Value, name: &str, path: &Path) -> Option<FieldError> {
    crate::kinds::value::nonnegative(holder, name, path)
}

/// `IsValidIPForLegacyField`: an IP address, leading zeros allowed in IPv4.
pub(super) fn ip(address: &str, path: &Path) -> Option<FieldError> {
    parse_ip(address).is_none().then(|| {
        FieldError::invalid(
            path,
            address,
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        )
    })
}

/// An IP address with the leading zeros that old clients write.
pub(super) fn parse_ip(address: &str) -> Option<std::net::IpAddr> {
    if let Ok(address) = address.parse() {
        return Some(address);
    }
    let parts: Vec<u8> = address
        .split('.')
        .map(|part| {
            (!part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
                .then(|| part.parse().ok())
                .flatten()
        })
        .collect::<Option<_>>()?;
    let octets: [u8; 4] = parts.try_into().ok()?;
    Some(octets.into())
}

/// `IsValidCIDRForLegacyField`.
pub(super) fn cidr(value: &str, path: &Path) -> Option<FieldError> {
    parse_cidr(value).is_none().then(|| {
        FieldError::invalid(
            path,
            value,
            "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        )
    })
}

/// Address and prefix length.
pub(super) fn parse_cidr(value: &str) -> Option<(std::net::IpAddr, u8)> {
    let (address, length) = value.split_once('/')?;
    let address = parse_ip(address)?;
    let length: u8 = length.parse().ok()?;
    (length <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, length))
}

/// `ValidatePortNumOrName`.
pub(super) fn port_or_name(port: &Value, path: &Path) -> Vec<FieldError> {
    match port {
        Value::String(name) => names::port_name(name)
            .into_iter()
            .map(|message| FieldError::invalid(path, &**name, message))
            .collect(),
        number => {
            let number = number.as_i64().unwrap_or_default();
            names::port_number(number)
                .into_iter()
                .map(|message| FieldError::invalid(path, number, message))
                .collect()
        }
    }
}

/// The quantity of a field.
pub(super) fn quantity(value: &Value) -> Quantity {
    value
        .as_str()
        .and_then(|text| text.parse().ok())
        .unwrap_or_default()
}

/// Whether a resource is one of Kubernetes' own.
pub(super) fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether a resource is a third party's, counted in whole numbers.
pub(super) fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && names::qualified_name(&format!("requests.{name}")).is_empty()
}

const COUNTED: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "storage",
    "requests.storage",
];

/// Whether a resource is known by this short name.
pub(super) fn is_standard(name: &str) -> bool {
    STANDARD.contains(&name)
        || COUNTED.contains(&name)
        || name.starts_with("hugepages-")
        || name.starts_with("requests.hugepages-")
}

/// `validateResourceName`.
pub(super) fn resource_name(name: &str, path: &Path) -> Vec<FieldError> {
    let errors: Vec<FieldError> = meta::label_name(name, path);
    if !errors.is_empty() {
        return errors;
    }
    if !name.contains('/') && !is_standard(name) {
        return vec![FieldError::invalid(
            path,
            name,
            "must be a standard resource type or fully qualified",
        )];
    }
    errors
}

/// `validateContainerResourceName`.
pub(super) fn container_resource_name(name: &str, path: &Path) -> Vec<FieldError> {
    let mut errors = resource_name(name, path);
    let standard =
        matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !name.contains('/') {
        if !standard {
            errors.push(FieldError::invalid(
                path,
                name,
                "must be a standard resource for containers",
            ));
        }
    } else if !is_native(name) && !is_extended(name) {
        errors.push(FieldError::invalid(
            path,
            name,
            "doesn't follow extended resource name standard",
        ));
    }
    errors
}

/// `ValidateResourceQuantityValue`.
pub(super) fn resource_quantity(name: &str, value: &Value, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let amount = quantity(value);
    if amount.sign() < 0 {
        errors.push(FieldError::invalid(
            path,
            amount.to_string(),
            "must be greater than or equal to 0",
        ));
    }
    if (COUNTED.contains(&name) || is_extended(name)) && amount.milli() % 1000 != 0 {
        errors.push(FieldError::invalid(
            path,
            amount.to_string(),
            "must be an integer",
        ));
    }
    errors
}

/// Names and values of a map of resources.
pub(super) fn resource_list(map: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    for (name, value) in map.as_object().into_iter().flatten() {
        let at = path.key(name);
        errors.extend(container_resource_name(name, &at));
        errors.extend(resource_quantity(name, value, &at));
    }
}

/// `ValidateLabelSelector` of a `metav1.LabelSelector`.
pub(super) fn label_selector(selector: &Value, path: &Path) -> Vec<FieldError> {
    let mut errors = meta::labels(&selector["matchLabels"], &path.child("matchLabels"));
    for (at, expression) in crate::kinds::value::indexed(selector, "matchExpressions", path) {
        let values = list(expression, "values");
        match text(expression, "operator") {
            "In" | "NotIn" => {
                if values.is_empty() {
                    errors.push(FieldError::required(
                        &at.child("values"),
                        "must be specified when `operator` is 'In' or 'NotIn'",
                    ));
                }
            }
            "Exists" | "DoesNotExist" => {
                if !values.is_empty() {
                    errors.push(FieldError::forbidden(
                        &at.child("values"),
                        "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                    ));
                }
            }
            other => errors.push(FieldError::invalid(
                &at.child("operator"),
                other,
                "not a valid selector operator",
            )),
        }
        errors.extend(meta::label_name(text(expression, "key"), &at.child("key")));
        for (index, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            for message in names::label_value(value) {
                errors.push(FieldError::invalid(
                    &at.child("values").index(index),
                    value,
                    message,
                ));
            }
        }
    }
    errors
}

/// `must not contain '..'`.
pub(super) fn no_backsteps(value: &str, path: &Path) -> Option<FieldError> {
    value
        .split('/')
        .any(|part| part == "..")
        .then(|| FieldError::invalid(path, value, "must not contain '..'"))
}

/// `validateLocalDescendingPath`: relative and without `..`.
pub(super) fn descending_path(value: &str, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if value.starts_with('/') {
        errors.push(FieldError::invalid(path, value, "must be a relative path"));
    }
    errors.extend(no_backsteps(value, path));
    errors
}

/// Where a load balancer is reached: `ValidateLoadBalancerStatus`, whose
/// services say how the addresses work.
pub(super) fn balancer(status: &Value, service: bool) -> Vec<FieldError> {
    let path = Path::new("status").child("loadBalancer");
    let mut errors = Vec::new();
    for (at, entry) in crate::kinds::value::indexed(&status["loadBalancer"], "ingress", &path) {
        let (address, host) = (text(entry, "ip"), text(entry, "hostname"));
        if !address.is_empty() {
            errors.extend(ip(address, &at.child("ip")));
        }
        if service {
            let at = at.child("ipMode");
            match entry["ipMode"].as_str() {
                None if !address.is_empty() => errors.push(FieldError::required(
                    &at,
                    "must be specified when `ip` is set",
                )),
                None | Some("VIP" | "Proxy") if !address.is_empty() => {}
                None => {}
                Some(_) if address.is_empty() => errors.push(FieldError::forbidden(
                    &at,
                    "may not be specified when `ip` is not set",
                )),
                Some(mode) => {
                    errors.push(FieldError::not_supported(&at, mode, &["Proxy", "VIP"]));
                }
            }
        }
        if !host.is_empty() {
            let at = at.child("hostname");
            errors.extend(crate::kinds::value::invalid(
                &at,
                host,
                names::dns_subdomain(host),
            ));
            if parse_ip(host).is_some() {
                errors.push(FieldError::invalid(
                    &at,
                    host,
                    "must be a DNS name, not an IP address",
                ));
            }
        }
    }
    errors
}

/// What differs between two values of a type of the core group: `diff.Diff`.
pub(super) fn diff(old: &Value, new: &Value, name: &str) -> String {
    crate::Scheme::builtin()
        .schema()
        .named("core/v1", name)
        .map(|ty| crate::golang::diff(old, new, ty))
        .unwrap_or_default()
}

/// `ValidateImmutableField`: the new value must be the old one.
pub(super) fn immutable(new: &Value, old: &Value, path: &Path) -> Option<FieldError> {
    (!crate::kinds::value::same(new, old)).then(|| meta::immutable(path, new.clone()))
}

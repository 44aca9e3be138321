//! Endpoint slices.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{common, core};
use crate::kinds::value::{indexed, invalid, list, same, text};
use crate::{FieldError, Path, meta, names};

type Errors = Vec<FieldError>;

fn endpoints(slice: &Value) -> Errors {
    let path = Path::new("endpoints");
    let mut errors = Vec::new();
    let count = list(slice, "endpoints").len();
    if count > 1000 {
        return vec![FieldError::too_many(&path, count, 1000)];
    }
    let kind = text(slice, "addressType");
    for (at, endpoint) in indexed(slice, "endpoints", &Path::root()) {
        let addresses = list(endpoint, "addresses");
        let at_all = at.child("addresses");
        if addresses.is_empty() {
            errors.push(FieldError::required(
                &at_all,
                "must contain at least 1 address",
            ));
        } else if addresses.len() > 100 {
            errors.push(FieldError::too_many(&at_all, addresses.len(), 100));
        }
        for (index, address) in addresses.iter().enumerate() {
            let at = at_all.index(index);
            let address = address.as_str().unwrap_or_default();
            match kind {
                "IPv4" | "IPv6" => {
                    if let Some(error) = common::ip(address, &at) {
                        errors.push(error);
                        continue;
                    }
                    let is_v4 = common::parse_ip(address).is_some_and(|ip| ip.is_ipv4());
                    if is_v4 != (kind == "IPv4") {
                        errors.push(FieldError::invalid(
                            &at_all,
                            address,
                            format!("must be an {kind} address"),
                        ));
                    }
                    errors.extend(core::endpoint_address(address, &at));
                }
                "FQDN" => errors.extend(super::fully_qualified(address, &at)),
                _ => {}
            }
        }
        if let Some(node) = endpoint["nodeName"].as_str() {
            errors.extend(invalid(
                &at.child("nodeName"),
                node,
                names::dns_subdomain(node),
            ));
        }
        let topology = &endpoint["deprecatedTopology"];
        errors.extend(meta::labels(topology, &at.child("deprecatedTopology")));
        if let Some(host) = endpoint["hostname"].as_str() {
            errors.extend(invalid(&at.child("hostname"), host, names::dns_label(host)));
        }
        hints(&endpoint["hints"], &at.child("hints"), &mut errors);
    }
    errors
}

/// `validateHints`.
fn hints(hints: &Value, path: &Path, errors: &mut Errors) {
    let rules: [(&str, names::Rule); 2] = [
        ("forZones", names::label_value),
        ("forNodes", names::dns_subdomain),
    ];
    for (field, rule) in rules {
        let count = list(hints, field).len();
        if count > 8 {
            errors.push(FieldError::too_many(&path.child(field), count, 8));
            return;
        }
        let mut seen = BTreeSet::new();
        for (at, hint) in indexed(hints, field, path) {
            let (at, name) = (at.child("name"), text(hint, "name"));
            if !seen.insert(name) {
                errors.push(FieldError::duplicate(&at, name));
            }
            errors.extend(invalid(&at, name, rule(name)));
        }
    }
}

fn slice_with(slice: &Value, old: Option<&Value>) -> Errors {
    let mut errors: Errors = common::one_of(
        slice,
        "addressType",
        &["FQDN", "IPv4", "IPv6"],
        &Path::root(),
    )
    .into_iter()
    .collect();
    let ports = list(slice, "ports");
    if ports.len() > 20000 {
        errors.push(FieldError::too_many(
            &Path::new("ports"),
            ports.len(),
            20000,
        ));
    } else {
        let mut seen = BTreeSet::new();
        for (at, port) in indexed(slice, "ports", &Path::root()) {
            let name = text(port, "name");
            if !name.is_empty() {
                errors.extend(invalid(&at.child("name"), name, names::dns_label(name)));
            }
            if !seen.insert(name) {
                errors.push(FieldError::duplicate(&at.child("name"), name));
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
    if !old.is_some_and(|old| same(&old["endpoints"], &slice["endpoints"])) {
        errors.extend(endpoints(slice));
    }
    errors
}

/// `ValidateEndpointSliceCreate`.
pub(in crate::kinds) fn slice(slice: &Value) -> Errors {
    slice_with(slice, None)
}

/// `ValidateEndpointSliceUpdate`.
pub(in crate::kinds) fn slice_update(new: &Value, old: &Value) -> Errors {
    let mut errors = slice_with(new, Some(old));
    errors.extend(common::immutable(
        &new["addressType"],
        &old["addressType"],
        &Path::new("addressType"),
    ));
    errors
}

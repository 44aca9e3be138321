//! Group `networking.k8s.io`.

use serde_json::Value;

use super::common;
use crate::kinds::value::{indexed, int, invalid, list, text};
use crate::{FieldError, Path, meta, names};

type Errors = Vec<FieldError>;

/// `ValidateIngressCreate`.
pub(in crate::kinds) fn ingress(ingress: &Value) -> Errors {
    let (spec, path) = (&ingress["spec"], Path::new("spec"));
    let mut errors = Vec::new();
    if list(spec, "rules").is_empty() && !spec["defaultBackend"].is_object() {
        errors.push(FieldError::invalid(
            &path,
            spec["rules"].clone(),
            "either `defaultBackend` or `rules` must be specified",
        ));
    }
    if spec["defaultBackend"].is_object() {
        backend(
            &spec["defaultBackend"],
            &path.child("defaultBackend"),
            &mut errors,
        );
    }
    for (at, rule) in indexed(spec, "rules", &path) {
        let host = text(rule, "host");
        if !host.is_empty() {
            let at = at.child("host");
            if common::parse_ip(host).is_some() {
                errors.push(FieldError::invalid(
                    &at,
                    host,
                    "must be a DNS name, not an IP address",
                ));
            }
            errors.extend(invalid(&at, host, host_name(host)));
        }
        if rule["http"].is_object() {
            paths(&rule["http"], &at.child("http"), &mut errors);
        }
    }
    for (at, tls) in indexed(spec, "tls", &path) {
        for (index, host) in list(tls, "hosts").iter().enumerate() {
            let host = host.as_str().unwrap_or_default();
            errors.extend(invalid(
                &at.child("hosts").index(index),
                host,
                host_name(host),
            ));
        }
        let secret = text(tls, "secretName");
        if !secret.is_empty() {
            errors.extend(invalid(
                &at.child("secretName"),
                secret,
                names::dns_subdomain(secret),
            ));
        }
    }
    if let Some(class) = spec["ingressClassName"].as_str() {
        errors.extend(invalid(
            &path.child("ingressClassName"),
            class,
            names::dns_subdomain(class),
        ));
    }
    errors
}

fn host_name(host: &str) -> Vec<String> {
    if host.contains('*') {
        names::wildcard_subdomain(host)
    } else {
        names::dns_subdomain(host)
    }
}

fn paths(http: &Value, at: &Path, errors: &mut Errors) {
    if list(http, "paths").is_empty() {
        errors.push(FieldError::required(&at.child("paths"), ""));
    }
    for (at, path) in indexed(http, "paths", at) {
        let Some(kind) = path["pathType"].as_str() else {
            errors.push(FieldError::required(
                &at.child("pathType"),
                "pathType must be specified",
            ));
            continue;
        };
        let value = text(path, "path");
        let at_path = at.child("path");
        let mut wrong =
            |message: String| errors.push(FieldError::invalid(&at_path, value, message));
        match kind {
            "Exact" | "Prefix" => {
                if !value.starts_with('/') {
                    wrong("must be an absolute path".to_owned());
                }
                for part in ["//", "/./", "/../", "%2f", "%2F"] {
                    if value.contains(part) {
                        wrong(format!("must not contain '{part}'"));
                    }
                }
                for end in ["/..", "/."] {
                    if value.ends_with(end) {
                        wrong(format!("cannot end with '{end}'"));
                    }
                }
            }
            "ImplementationSpecific" => {
                if !value.is_empty() && !value.starts_with('/') {
                    wrong("must be an absolute path".to_owned());
                }
            }
            other => errors.push(FieldError::not_supported(
                &at.child("pathType"),
                other,
                &["Exact", "ImplementationSpecific", "Prefix"],
            )),
        }
        backend(&path["backend"], &at.child("backend"), errors);
    }
}

fn backend(backend: &Value, at: &Path, errors: &mut Errors) {
    let (resource, service) = (&backend["resource"], &backend["service"]);
    match (resource.is_object(), service.is_object()) {
        (true, true) => errors.push(FieldError::invalid(
            at,
            "",
            "cannot set both resource and service backends",
        )),
        (true, false) => {
            let at = at.child("resource");
            for name in ["kind", "name"] {
                let value = text(resource, name);
                if value.is_empty() {
                    errors.push(FieldError::required(&at.child(name), ""));
                } else {
                    errors.extend(invalid(
                        &at.child(name),
                        value,
                        names::path_segment(value, false),
                    ));
                }
            }
        }
        (false, true) => {
            let at_service = at.child("service");
            let name = text(service, "name");
            if name.is_empty() {
                errors.push(FieldError::required(&at_service.child("name"), ""));
            } else {
                errors.extend(invalid(
                    &at_service.child("name"),
                    name,
                    names::dns_label(name),
                ));
            }
            let port = &service["port"];
            let (name, number) = (text(port, "name"), int(port, "number"));
            let at_port = at_service.child("port");
            match (name.is_empty(), number) {
                (false, 0) => errors.extend(invalid(
                    &at_port.child("name"),
                    name,
                    names::port_name(name),
                )),
                (false, _) => errors.push(FieldError::invalid(
                    at,
                    "",
                    "cannot set both port name & port number",
                )),
                (true, 0) => {
                    errors.push(FieldError::required(at, "port name or number is required"))
                }
                (true, number) => {
                    for message in names::port_number(number) {
                        errors.push(FieldError::invalid(
                            &at_port.child("number"),
                            number,
                            message,
                        ));
                    }
                }
            }
        }
        (false, false) => errors.push(FieldError::invalid(
            at,
            "",
            "resource or service backend is required",
        )),
    }
}

fn controller(class: &Value) -> Errors {
    let at = Path::new("spec").child("controller");
    let value = text(&class["spec"], "controller");
    let mut errors = Vec::new();
    if value.len() > 250 {
        errors.push(FieldError::too_long(&at, 250));
    }
    errors.extend(super::domain_prefixed_path(value, &at));
    errors
}

fn parameters(class: &Value) -> Errors {
    let parameters = &class["spec"]["parameters"];
    let at = Path::new("spec").child("parameters");
    let mut errors = Vec::new();
    if !parameters.is_object() {
        return errors;
    }
    if let Some(group) = parameters["apiGroup"].as_str() {
        errors.extend(invalid(
            &at.child("apiGroup"),
            group,
            names::dns_subdomain(group),
        ));
    }
    for name in ["kind", "name"] {
        let value = text(parameters, name);
        if value.is_empty() {
            errors.push(FieldError::required(&at.child(name), ""));
        } else {
            errors.extend(invalid(
                &at.child(name),
                value,
                names::path_segment(value, false),
            ));
        }
    }
    let at_namespace = at.child("namespace");
    match (text(parameters, "scope"), parameters["namespace"].as_str()) {
        ("Namespace", None) => errors.push(FieldError::required(
            &at_namespace,
            "`parameters.scope` is set to 'Namespace'",
        )),
        ("Namespace", Some(namespace)) => errors.extend(invalid(
            &at_namespace,
            namespace,
            names::dns_label(namespace),
        )),
        ("Cluster", Some(_)) => errors.push(FieldError::forbidden(
            &at_namespace,
            "`parameters.scope` is set to 'Cluster'",
        )),
        ("Cluster", None) => {}
        (other, _) => errors.push(FieldError::not_supported(
            &at.child("scope"),
            other,
            &["Cluster", "Namespace"],
        )),
    }
    errors
}

/// `ValidateIngressStatusUpdate`.
pub(in crate::kinds) fn ingress_status(ingress: &Value) -> Errors {
    common::balancer(&ingress["status"], false)
}

/// `ValidateIngressClass`.
pub(in crate::kinds) fn ingress_class(class: &Value) -> Errors {
    let mut errors = controller(class);
    errors.extend(parameters(class));
    errors
}

/// `ValidateIngressClassUpdate`.
pub(in crate::kinds) fn ingress_class_update(new: &Value, old: &Value) -> Errors {
    let mut errors: Errors = common::immutable(
        &new["spec"]["controller"],
        &old["spec"]["controller"],
        &Path::new("spec").child("controller"),
    )
    .into_iter()
    .collect();
    errors.extend(ingress_class(new));
    errors
}

/// `ValidateNetworkPolicy`.
pub(in crate::kinds) fn network_policy(policy: &Value) -> Errors {
    let (spec, path) = (&policy["spec"], Path::new("spec"));
    let mut errors = common::label_selector(&spec["podSelector"], &path.child("podSelector"));
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (at, rule) in indexed(spec, direction, &path) {
            for (at, port) in indexed(rule, "ports", &at) {
                policy_port(port, &at, &mut errors);
            }
            for (at, peer) in indexed(rule, peers, &at) {
                policy_peer(peer, &at, &mut errors);
            }
        }
    }
    let types = list(spec, "policyTypes");
    let at = path.child("policyTypes");
    if types.len() > 2 {
        errors.push(FieldError::invalid(
            &at,
            types.to_vec(),
            "may not specify more than two policyTypes",
        ));
        return errors;
    }
    for (index, kind) in types.iter().enumerate() {
        let kind = kind.as_str().unwrap_or_default();
        if !matches!(kind, "Ingress" | "Egress") {
            errors.push(FieldError::not_supported(
                &at.index(index),
                kind,
                &["Ingress", "Egress"],
            ));
        }
    }
    errors
}

fn policy_port(port: &Value, at: &Path, errors: &mut Errors) {
    let protocol = text(port, "protocol");
    if !matches!(protocol, "" | "TCP" | "UDP" | "SCTP") {
        errors.push(FieldError::not_supported(
            &at.child("protocol"),
            protocol,
            &["TCP", "UDP", "SCTP"],
        ));
    }
    let end = port["endPort"].as_i64();
    let at_end = at.child("endPort");
    match &port["port"] {
        Value::Null => {
            if let Some(end) = end {
                errors.push(FieldError::invalid(
                    &at_end,
                    end,
                    "may not be specified when `port` is not specified",
                ));
            }
        }
        Value::String(name) => {
            if let Some(end) = end {
                errors.push(FieldError::invalid(
                    &at_end,
                    end,
                    "may not be specified when `port` is non-numeric",
                ));
            }
            errors.extend(invalid(&at.child("port"), name, names::port_name(name)));
        }
        number => {
            let number = number.as_i64().unwrap_or_default();
            for message in names::port_number(number) {
                errors.push(FieldError::invalid(&at.child("port"), number, message));
            }
            if let Some(end) = end {
                if end < number {
                    errors.push(FieldError::invalid(
                        &at_end,
                        number,
                        "must be greater than or equal to `port`",
                    ));
                }
                for message in names::port_number(end) {
                    errors.push(FieldError::invalid(&at_end, end, message));
                }
            }
        }
    }
}

fn policy_peer(peer: &Value, at: &Path, errors: &mut Errors) {
    let mut count = 0;
    for name in ["podSelector", "namespaceSelector"] {
        if peer[name].is_object() {
            count += 1;
            errors.extend(common::label_selector(&peer[name], &at.child(name)));
        }
    }
    let block = &peer["ipBlock"];
    if block.is_object() {
        count += 1;
        ip_block(block, &at.child("ipBlock"), errors);
    }
    if count == 0 {
        errors.push(FieldError::required(at, "must specify a peer"));
    } else if count > 1 && block.is_object() {
        errors.push(FieldError::forbidden(
            at,
            "may not specify both ipBlock and another peer",
        ));
    }
}

fn ip_block(block: &Value, at: &Path, errors: &mut Errors) {
    let cidr = text(block, "cidr");
    if cidr.is_empty() {
        errors.push(FieldError::required(&at.child("cidr"), ""));
        return;
    }
    errors.extend(common::cidr(cidr, &at.child("cidr")));
    let network = |text: &str| {
        let (address, length) = common::parse_cidr(text)?;
        ipnet::IpNet::new(address, length).ok()
    };
    let Some(outer) = network(cidr) else { return };
    for (index, except) in list(block, "except").iter().enumerate() {
        let at = at.child("except").index(index);
        let except = except.as_str().unwrap_or_default();
        errors.extend(common::cidr(except, &at));
        if let Some(inner) = network(except)
            && (!outer.contains(&inner.addr()) || outer.prefix_len() >= inner.prefix_len())
        {
            errors.push(FieldError::invalid(
                &at,
                except,
                "must be a strict subset of `cidr`",
            ));
        }
    }
}

/// `ValidateIPAddress`.
pub(in crate::kinds) fn ip_address(address: &Value) -> Errors {
    let parent = &address["spec"]["parentRef"];
    let at = Path::new("spec").child("parentRef");
    let mut errors = Vec::new();
    if !parent.is_object() {
        return vec![FieldError::required(&at, "")];
    }
    let group = text(parent, "group");
    if !group.is_empty() {
        errors.extend(invalid(
            &at.child("group"),
            group,
            names::dns_subdomain(group),
        ));
    }
    for (name, required) in [("resource", true), ("name", true), ("namespace", false)] {
        let value = text(parent, name);
        if !value.is_empty() {
            errors.extend(invalid(
                &at.child(name),
                value,
                names::path_segment(value, false),
            ));
        } else if required {
            errors.push(FieldError::required(&at.child(name), ""));
        }
    }
    errors
}

/// `ValidateIPAddressUpdate`.
pub(in crate::kinds) fn ip_address_update(new: &Value, old: &Value) -> Errors {
    common::immutable(
        &new["spec"]["parentRef"],
        &old["spec"]["parentRef"],
        &Path::new("spec").child("parentRef"),
    )
    .into_iter()
    .collect()
}

/// `ValidateServiceCIDR`.
pub(in crate::kinds) fn service_cidr(cidr: &Value) -> Errors {
    let at = Path::new("spec").child("cidrs");
    let cidrs = list(&cidr["spec"], "cidrs");
    let mut errors = Vec::new();
    if cidrs.is_empty() {
        return vec![FieldError::required(&at, "at least one CIDR required")];
    }
    if cidrs.len() > 2 {
        return vec![FieldError::invalid(
            &at,
            cidrs.to_vec(),
            "may only hold up to 2 values",
        )];
    }
    for (index, cidr) in cidrs.iter().enumerate() {
        let value = cidr.as_str().unwrap_or_default();
        let at = at.index(index);
        let parsed = common::parse_cidr(value)
            .and_then(|(address, length)| ipnet::IpNet::new(address, length).ok());
        match parsed {
            None => errors.extend(common::cidr(value, &at)),
            Some(network) if network.trunc().to_string() != value => {
                errors.push(FieldError::invalid(
                    &at,
                    value,
                    format!(
                        "must be in canonical form ({:?})",
                        network.trunc().to_string()
                    ),
                ));
            }
            Some(_) => {}
        }
    }
    let families: Vec<bool> = cidrs
        .iter()
        .filter_map(|cidr| common::parse_cidr(cidr.as_str()?))
        .map(|(address, _)| address.is_ipv4())
        .collect();
    if families.len() == 2 && families[0] == families[1] {
        errors.push(FieldError::invalid(
            &at,
            cidrs.to_vec(),
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
        ));
    }
    errors
}

/// `ValidateServiceCIDRUpdate`.
pub(in crate::kinds) fn service_cidr_update(new: &Value, old: &Value) -> Errors {
    let at = Path::new("spec").child("cidrs");
    let (now, before) = (list(&new["spec"], "cidrs"), list(&old["spec"], "cidrs"));
    let mut errors = Vec::new();
    if now.len() == before.len() || (before.len() == 1 && now.len() == 2) {
        for (index, (new, old)) in now.iter().zip(before).enumerate() {
            if new != old {
                errors.push(meta::immutable(&at.index(index), new.clone()));
            }
        }
        if now.len() != before.len() {
            errors.extend(service_cidr(new));
        }
    } else {
        errors.push(meta::immutable(&at, now.to_vec()));
    }
    errors
}

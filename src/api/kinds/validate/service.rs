//! Services, all but the allocation of addresses and ports.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{common, core};
use crate::kinds::value::{indexed, int, invalid, list, same, text};
use crate::{FieldError, Path, meta, names};

type Errors = Vec<FieldError>;

fn headless(service: &Value) -> bool {
    service["spec"]["clusterIPs"][0] == "None" || service["spec"]["clusterIP"] == "None"
}

fn needs_health_check(service: &Value) -> bool {
    text(&service["spec"], "type") == "LoadBalancer"
        && text(&service["spec"], "externalTrafficPolicy") == "Local"
}

/// `ValidateServiceCreate`.
pub(in crate::kinds) fn service(service: &Value) -> Errors {
    let (spec, path) = (&service["spec"], Path::new("spec"));
    let mut errors = Vec::new();
    let kind = text(spec, "type");
    let ports = list(spec, "ports");
    if ports.is_empty() && !headless(service) && kind != "ExternalName" {
        errors.push(FieldError::required(&path.child("ports"), ""));
    }
    match kind {
        "LoadBalancer" | "NodePort" if headless(service) => errors.push(FieldError::invalid(
            &path.child("clusterIPs").index(0),
            "None",
            format!("may not be set to 'None' for {kind} services"),
        )),
        "ExternalName" => {
            for name in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if !crate::kinds::value::blank(&spec[name]) {
                    errors.push(FieldError::forbidden(
                        &path.child(name),
                        "may not be set for ExternalName services",
                    ));
                }
            }
            let host = text(spec, "externalName");
            let host = host.strip_suffix('.').unwrap_or(host);
            let at = path.child("externalName");
            if host.is_empty() {
                errors.push(FieldError::required(&at, ""));
            } else {
                errors.extend(invalid(&at, host, names::dns_subdomain(host)));
            }
        }
        _ => {}
    }
    service_ports(spec, &path, &mut errors);
    errors.extend(meta::labels(&spec["selector"], &path.child("selector")));
    errors.extend(common::one_of(
        spec,
        "sessionAffinity",
        &["ClientIP", "None"],
        &path,
    ));
    if spec["sessionAffinity"] == "ClientIP" {
        let seconds = int(&spec["sessionAffinityConfig"]["clientIP"], "timeoutSeconds");
        if !(1..=86400).contains(&seconds) {
            errors.push(FieldError::invalid(
                &path
                    .child("sessionAffinityConfig")
                    .child("clientIP")
                    .child("timeoutSeconds"),
                seconds,
                "must be greater than 0 and less than 86400",
            ));
        }
    }
    if kind != "ExternalName" {
        addresses(service, &path, &mut errors);
    }
    for (index, address) in list(spec, "externalIPs").iter().enumerate() {
        let at = path.child("externalIPs").index(index);
        let address = address.as_str().unwrap_or_default();
        match common::ip(address, &at) {
            Some(error) => errors.push(error),
            None => errors.extend(core::endpoint_address(address, &at)),
        }
    }
    errors.extend(common::one_of(
        spec,
        "type",
        &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
        &path,
    ));
    used_ports(spec, kind, &path, &mut errors);
    balancer(service, kind, &path, &mut errors);
    traffic(service, kind, &path, &mut errors);
    errors
}

fn service_ports(spec: &Value, path: &Path, errors: &mut Errors) {
    let several = list(spec, "ports").len() > 1;
    let mut seen = BTreeSet::new();
    for (at, port) in indexed(spec, "ports", path) {
        let name = text(port, "name");
        if name.is_empty() {
            if several {
                errors.push(FieldError::required(&at.child("name"), ""));
            }
        } else {
            errors.extend(invalid(&at.child("name"), name, names::dns_label(name)));
            if !seen.insert(name) {
                errors.push(FieldError::duplicate(&at.child("name"), name));
            }
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
        errors.extend(common::port_or_name(
            &port["targetPort"],
            &at.child("targetPort"),
        ));
        if let Some(protocol) = port["appProtocol"].as_str() {
            errors.extend(meta::label_name(protocol, &at.child("appProtocol")));
        }
    }
}

fn addresses(service: &Value, path: &Path, errors: &mut Errors) {
    let spec = &service["spec"];
    let at = path.child("clusterIPs");
    let (address, all) = (text(spec, "clusterIP"), list(spec, "clusterIPs"));
    if address.is_empty() {
        if !all.is_empty() {
            errors.push(FieldError::invalid(
                &at,
                all.to_vec(),
                "must be empty when `clusterIP` is not specified",
            ));
        }
    } else if all.is_empty() {
        // Filled from `clusterIP` when addresses are allocated.
    } else if all[0] != address {
        errors.push(FieldError::invalid(
            &at,
            all.to_vec(),
            "first value must match `clusterIP`",
        ));
    }
    let mut seen = Vec::new();
    for (index, family) in list(spec, "ipFamilies").iter().enumerate() {
        let at = path.child("ipFamilies").index(index);
        let family = family.as_str().unwrap_or_default();
        if !matches!(family, "IPv4" | "IPv6") {
            errors.push(FieldError::not_supported(&at, family, &["IPv4", "IPv6"]));
        }
        if seen.contains(&family) {
            errors.push(FieldError::duplicate(&at, family));
        }
        seen.push(family);
    }
    if let Some(policy) = spec["ipFamilyPolicy"].as_str() {
        let known = ["PreferDualStack", "RequireDualStack", "SingleStack"];
        if !known.contains(&policy) {
            errors.push(FieldError::not_supported(
                &path.child("ipFamilyPolicy"),
                policy,
                &known,
            ));
        }
    }
    let mut wrong = false;
    for (index, address) in all.iter().enumerate() {
        let address = address.as_str().unwrap_or_default();
        if index == 0 && address == "None" {
            if all.len() > 1 {
                wrong = true;
                errors.push(FieldError::invalid(
                    &at,
                    all.to_vec(),
                    "'None' must be the first and only value",
                ));
            }
            continue;
        }
        if let Some(error) = common::ip(address, &at.index(index)) {
            wrong = true;
            errors.push(error);
        }
    }
    if all.len() > 2 {
        errors.push(FieldError::invalid(
            &at,
            all.to_vec(),
            "may only hold up to 2 values",
        ));
    }
    if wrong || headless(service) {
        return;
    }
    let families: Vec<bool> = all
        .iter()
        .filter_map(|address| common::parse_ip(address.as_str()?))
        .map(|address| address.is_ipv4())
        .collect();
    if families.len() > 1 && families[0] == families[1] {
        errors.push(FieldError::invalid(
            &at,
            all.to_vec(),
            "may specify no more than one IP for each IP family",
        ));
    }
    for (index, (is_v4, family)) in families.iter().zip(list(spec, "ipFamilies")).enumerate() {
        let wanted = family.as_str().unwrap_or_default();
        if (wanted == "IPv4") != *is_v4 {
            errors.push(FieldError::invalid(
                &at.index(index),
                all[index].clone(),
                format!("expected an {wanted} value as indicated by `ipFamilies[{index}]`"),
            ));
        }
    }
}

fn used_ports(spec: &Value, kind: &str, path: &Path, errors: &mut Errors) {
    if kind == "ClusterIP" {
        for (at, port) in indexed(spec, "ports", path) {
            if int(port, "nodePort") != 0 {
                errors.push(FieldError::forbidden(
                    &at.child("nodePort"),
                    "may not be used when `type` is 'ClusterIP'",
                ));
            }
        }
    }
    let mut seen = BTreeSet::new();
    for (at, port) in indexed(spec, "ports", path) {
        let number = int(port, "nodePort");
        if number != 0 && !seen.insert((text(port, "protocol"), number)) {
            errors.push(FieldError::duplicate(&at.child("nodePort"), number));
        }
    }
    let mut seen = BTreeSet::new();
    for (at, port) in indexed(spec, "ports", path) {
        let (protocol, number) = (text(port, "protocol"), int(port, "port"));
        if !seen.insert((protocol, number)) {
            errors.push(FieldError::duplicate(
                &at,
                json!({
                    "Name": "", "Protocol": protocol, "AppProtocol": null,
                    "Port": number, "TargetPort": 0, "NodePort": 0,
                }),
            ));
        }
    }
}

fn balancer(service: &Value, kind: &str, path: &Path, errors: &mut Errors) {
    let spec = &service["spec"];
    let balanced = kind == "LoadBalancer";
    let only = "may only be used when `type` is 'LoadBalancer'";
    let ranges = list(spec, "loadBalancerSourceRanges");
    if !ranges.is_empty() {
        let at = path.child("LoadBalancerSourceRanges");
        if !balanced {
            errors.push(FieldError::forbidden(&at, only));
        }
        for (index, range) in ranges.iter().enumerate() {
            let range = range.as_str().unwrap_or_default().trim();
            errors.extend(common::cidr(range, &at.index(index)));
        }
    } else if let Some(ranges) =
        service["metadata"]["annotations"]["service.beta.kubernetes.io/load-balancer-source-ranges"]
            .as_str()
    {
        let at = Path::new("metadata")
            .child("annotations")
            .key("service.beta.kubernetes.io/load-balancer-source-ranges");
        if !balanced {
            errors.push(FieldError::forbidden(&at, only));
        }
        for range in ranges.split(',').filter(|_| !ranges.trim().is_empty()) {
            errors.extend(common::cidr(range.trim(), &at));
        }
    }
    if !balanced && !spec["allocateLoadBalancerNodePorts"].is_null() {
        errors.push(FieldError::forbidden(
            &path.child("allocateLoadBalancerNodePorts"),
            only,
        ));
    }
    if let Some(class) = spec["loadBalancerClass"].as_str() {
        let at = path.child("loadBalancerClass");
        if balanced {
            errors.extend(meta::label_name(class, &at));
        } else {
            errors.push(FieldError::forbidden(&at, only));
        }
    }
}

fn traffic(service: &Value, kind: &str, path: &Path, errors: &mut Errors) {
    let spec = &service["spec"];
    let external = matches!(kind, "LoadBalancer" | "NodePort")
        || (kind == "ClusterIP" && !list(spec, "externalIPs").is_empty());
    let policy = text(spec, "externalTrafficPolicy");
    let at = path.child("externalTrafficPolicy");
    if !external {
        if !policy.is_empty() {
            errors.push(FieldError::invalid(
                &at,
                policy,
                "may only be set for externally-accessible services",
            ));
        }
    } else {
        errors.extend(common::one_of(
            spec,
            "externalTrafficPolicy",
            &["Cluster", "Local"],
            path,
        ));
    }
    let port = int(spec, "healthCheckNodePort");
    let at = path.child("healthCheckNodePort");
    if port != 0 {
        if needs_health_check(service) {
            for message in names::port_number(port) {
                errors.push(FieldError::invalid(&at, port, message));
            }
        } else {
            errors.push(FieldError::invalid(
                &at,
                port,
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
            ));
        }
    }
    let at = path.child("internalTrafficPolicy");
    match spec["internalTrafficPolicy"].as_str() {
        None if matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer") => {
            errors.push(FieldError::required(&at, ""));
        }
        Some(policy) if !matches!(policy, "Cluster" | "Local") => {
            errors.push(FieldError::not_supported(
                &at,
                policy,
                &["Cluster", "Local"],
            ));
        }
        _ => {}
    }
    if let Some(distribution) = spec["trafficDistribution"].as_str() {
        let known = ["PreferClose", "PreferSameZone", "PreferSameNode"];
        if !known.contains(&distribution) {
            errors.push(FieldError::not_supported(
                &path.child("trafficDistribution"),
                distribution,
                &known,
            ));
        }
    }
}

/// `ValidateServiceStatusUpdate`.
pub(in crate::kinds) fn service_status(service: &Value) -> Errors {
    let ingress = Path::new("status").child("loadBalancer").child("ingress");
    let balanced = service["spec"]["type"] == "LoadBalancer";
    if !balanced && !list(&service["status"]["loadBalancer"], "ingress").is_empty() {
        return vec![FieldError::forbidden(
            &ingress,
            "may only be used when `spec.type` is 'LoadBalancer'",
        )];
    }
    common::balancer(&service["status"], true)
}

/// `ValidateServiceUpdate`.
pub(in crate::kinds) fn service_update(new: &Value, old: &Value) -> Errors {
    let mut errors = Vec::new();
    let path = Path::new("spec");
    let (now, before) = (&new["spec"], &old["spec"]);
    let named = |service: &Value| text(&service["spec"], "type") == "ExternalName";
    if !named(new) && !named(old) {
        if !(headless(new) && headless(old)) {
            kept_addresses(now, before, &path.child("clusterIPs"), &mut errors);
        }
        if !headless(new) && !headless(old) {
            let (families, old_families) = (list(now, "ipFamilies"), list(before, "ipFamilies"));
            if let (Some(first), Some(old_first)) = (families.first(), old_families.first())
                && first != old_first
            {
                errors.push(FieldError::invalid(
                    &path.child("ipFamilies").index(0),
                    families.to_vec(),
                    "may not change once set",
                ));
            }
        }
    }
    let balanced = |spec: &Value| text(spec, "type") == "LoadBalancer";
    if balanced(now)
        && balanced(before)
        && !same(&now["loadBalancerClass"], &before["loadBalancerClass"])
    {
        errors.push(FieldError::invalid(
            &path.child("loadBalancerClass"),
            now["loadBalancerClass"].clone(),
            "may not change once set",
        ));
    }
    if needs_health_check(new)
        && needs_health_check(old)
        && int(now, "healthCheckNodePort") != int(before, "healthCheckNodePort")
    {
        errors.push(FieldError::forbidden(
            &path.child("healthCheckNodePort"),
            "field is immutable",
        ));
    }
    errors.extend(service(new));
    errors
}

fn kept_addresses(now: &Value, before: &Value, at: &Path, errors: &mut Errors) {
    let (new, old) = (list(now, "clusterIPs"), list(before, "clusterIPs"));
    let value = || Value::from(new.to_vec());
    if new.len() == old.len() {
        for (index, (new, old)) in new.iter().zip(old).enumerate() {
            if new != old {
                errors.push(FieldError::invalid(
                    &at.index(index),
                    value(),
                    "may not change once set",
                ));
            }
        }
        return;
    }
    if let (Some(first), Some(old_first)) = (new.first(), old.first())
        && first != old_first
    {
        errors.push(FieldError::invalid(
            &at.index(0),
            value(),
            "may not change once set",
        ));
    }
    if old.len() > new.len() {
        if new.is_empty() {
            errors.push(FieldError::invalid(
                &at.index(0),
                Value::Null,
                "primary clusterIP can not be unset",
            ));
        } else if text(now, "ipFamilyPolicy") != "SingleStack" {
            errors.push(FieldError::invalid(
                &Path::new("spec").child("ipFamilyPolicy"),
                now["ipFamilyPolicy"].clone(),
                "must be set to 'SingleStack' when releasing the secondary clusterIP",
            ));
        }
    }
}

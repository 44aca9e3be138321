//! `Service`.

use serde_json::{Value, json};

use super::value::{default, each, int, list, object, remove, text};
use super::{Column, Context, Kind, Plan, columns, table, validate};
use crate::FieldError;
use crate::meta::NameRule;

/// `v1` `Service`, all but the allocation of addresses and ports.
pub(super) struct Service;

impl Kind for Service {
    fn name_rule(&self) -> NameRule {
        NameRule::Label
    }

    fn plan(&self) -> Plan {
        Plan::STATUS
    }

    fn default(&self, service: &mut Value) {
        let spec = object(service, "spec");
        default(spec, "sessionAffinity", "None");
        if spec["sessionAffinity"] == "None" {
            remove(spec, "sessionAffinityConfig");
        }
        if spec["sessionAffinity"] == "ClientIP"
            && spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"].is_null()
        {
            spec["sessionAffinityConfig"] = json!({ "clientIP": { "timeoutSeconds": 10800 } });
        }
        default(spec, "type", "ClusterIP");
        each(spec, "ports", |port| {
            default(port, "protocol", "TCP");
            if port["targetPort"] == 0 || port["targetPort"] == "" || port["targetPort"].is_null() {
                port["targetPort"] = int(port, "port").into();
            }
        });
        let kind = text(spec, "type").to_owned();
        let balanced = kind == "LoadBalancer";
        let external = balanced
            || kind == "NodePort"
            || (kind == "ClusterIP" && !list(spec, "externalIPs").is_empty());
        if external {
            default(spec, "externalTrafficPolicy", "Cluster");
        }
        if balanced || kind == "NodePort" || kind == "ClusterIP" {
            super::value::default_absent(spec, "internalTrafficPolicy", "Cluster");
        }
        if balanced {
            default(spec, "allocateLoadBalancerNodePorts", true);
        }
        let status = object(object(service, "status"), "loadBalancer");
        if balanced {
            each(status, "ingress", |ingress| {
                if !text(ingress, "ip").is_empty() {
                    default(ingress, "ipMode", "VIP");
                }
            });
        }
    }

    fn prepare_create(&self, service: &mut Value, _: &Context<'_>) {
        service["status"] = json!({ "loadBalancer": {} });
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, context: &Context<'_>) {
        self.plan().update(new, old, context.subresource);
        if context.subresource.is_empty() {
            patch_allocated(new, old);
            drop_type_fields(new, old);
        }
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::service::service(object)
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> Vec<FieldError> {
        match context.subresource {
            "" => validate::service::service_update(new, old),
            "status" => validate::service::service_status(new),
            _ => Vec::new(),
        }
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let spec = &object["spec"];
        vec![
            ("spec.clusterIP", text(spec, "clusterIP").to_owned()),
            ("spec.type", text(spec, "type").to_owned()),
        ]
    }

    fn columns(&self) -> &'static [Column] {
        columns::SERVICE
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let spec = &object["spec"];
        let ports: Vec<String> = list(spec, "ports")
            .iter()
            .map(|port| match int(port, "nodePort") {
                0 => format!("{}/{}", int(port, "port"), text(port, "protocol")),
                node => format!("{}:{node}/{}", int(port, "port"), text(port, "protocol")),
            })
            .collect();
        let ports = if ports.is_empty() {
            "<none>".to_owned()
        } else {
            ports.join(",")
        };
        let internal = list(spec, "clusterIPs")
            .first()
            .and_then(Value::as_str)
            .unwrap_or("<none>");
        vec![
            table::name(object),
            text(spec, "type").into(),
            internal.into(),
            external_address(object).into(),
            ports.into(),
            table::age(object, now),
            table::labels(&spec["selector"]).into(),
        ]
    }
}

fn external_address(service: &Value) -> String {
    let spec = &service["spec"];
    let mut addresses: Vec<String> = Vec::new();
    match text(spec, "type") {
        "ClusterIP" | "NodePort" => {}
        "LoadBalancer" => {
            let balanced = table::load_balancer(&service["status"]);
            if !balanced.is_empty() {
                addresses.push(balanced);
            }
        }
        "ExternalName" => return text(spec, "externalName").to_owned(),
        _ => return "<unknown>".to_owned(),
    }
    addresses.extend(
        list(spec, "externalIPs")
            .iter()
            .filter_map(|address| address.as_str().map(str::to_owned)),
    );
    match (addresses.is_empty(), text(spec, "type")) {
        (true, "LoadBalancer") => "<pending>".to_owned(),
        (true, _) => "<none>".to_owned(),
        (false, _) => addresses.join(","),
    }
}

fn has_address(service: &Value) -> bool {
    matches!(
        text(&service["spec"], "type"),
        "ClusterIP" | "NodePort" | "LoadBalancer"
    )
}

fn has_node_ports(service: &Value) -> bool {
    match text(&service["spec"], "type") {
        "NodePort" => true,
        "LoadBalancer" => service["spec"]["allocateLoadBalancerNodePorts"] != false,
        _ => false,
    }
}

/// What was allocated and the client left out stays allocated.
fn patch_allocated(new: &mut Value, old: &Value) {
    let (before, spec) = (&old["spec"], &new["spec"]);
    if has_address(old) && has_address(new) {
        let (address, addresses) = (before["clusterIP"].clone(), before["clusterIPs"].clone());
        let empty = text(spec, "clusterIP").is_empty();
        let list_empty = list(spec, "clusterIPs").is_empty();
        let spec = object(new, "spec");
        if empty && list_empty {
            spec["clusterIP"] = address.clone();
            spec["clusterIPs"] = addresses;
        } else if empty && spec["clusterIPs"][0] == address {
            spec["clusterIP"] = address;
        } else if list_empty && spec["clusterIP"] == address {
            spec["clusterIPs"] = addresses;
        }
        if spec["ipFamilies"].is_null() && !before["ipFamilies"].is_null() {
            spec["ipFamilies"] = before["ipFamilies"].clone();
        }
        if spec["ipFamilyPolicy"].is_null() && !before["ipFamilyPolicy"].is_null() {
            spec["ipFamilyPolicy"] = before["ipFamilyPolicy"].clone();
        }
    }
    if has_node_ports(old) && has_node_ports(new) {
        let known: Vec<Value> = list(before, "ports").to_vec();
        let mut used: Vec<i64> = list(&new["spec"], "ports")
            .iter()
            .map(|port| int(port, "nodePort"))
            .collect();
        each(object(new, "spec"), "ports", |port| {
            if int(port, "nodePort") != 0 {
                return;
            }
            let same = known.iter().find(|old| {
                old["port"] == port["port"] && text(old, "protocol") == text(port, "protocol")
            });
            if let Some(number) = same.map(|old| int(old, "nodePort"))
                && number != 0
                && !used.contains(&number)
            {
                used.push(number);
                port["nodePort"] = number.into();
            }
        });
    }
    let checks = |service: &Value| {
        text(&service["spec"], "type") == "LoadBalancer"
            && text(&service["spec"], "externalTrafficPolicy") == "Local"
    };
    if checks(old) && checks(new) && int(&new["spec"], "healthCheckNodePort") == 0 {
        let port = int(before, "healthCheckNodePort");
        if port != 0 {
            object(new, "spec")["healthCheckNodePort"] = port.into();
        }
    }
}

/// Fields that another type needed and the client did not touch go with the type.
fn drop_type_fields(new: &mut Value, old: &Value) {
    let (had_address, has) = (has_address(old), has_address(new));
    let had_ports = has_node_ports(old);
    let has_ports = has_node_ports(new);
    let before = &old["spec"];
    let kind = text(&new["spec"], "type").to_owned();
    let external = matches!(&*kind, "NodePort" | "LoadBalancer");
    let was_external = matches!(text(before, "type"), "NodePort" | "LoadBalancer");
    let spec = object(new, "spec");
    let untouched = |spec: &Value, name: &str| spec[name] == before[name];
    if had_address && !has {
        if untouched(spec, "clusterIP") && untouched(spec, "clusterIPs") {
            remove(spec, "clusterIP");
            remove(spec, "clusterIPs");
        }
        for name in ["ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            if untouched(spec, name) {
                remove(spec, name);
            }
        }
    }
    if had_ports && !has_ports {
        let ports = |spec: &Value| -> Vec<i64> {
            list(spec, "ports")
                .iter()
                .map(|port| int(port, "nodePort"))
                .collect()
        };
        if ports(spec) == ports(before) {
            each(spec, "ports", |port| remove(port, "nodePort"));
        }
    }
    if was_external && !external {
        for name in ["externalTrafficPolicy", "healthCheckNodePort"] {
            if untouched(spec, name) {
                remove(spec, name);
            }
        }
    }
    if text(before, "type") == "LoadBalancer" && kind != "LoadBalancer" {
        for name in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if untouched(spec, name) {
                remove(spec, name);
            }
        }
    }
}

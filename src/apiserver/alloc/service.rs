//! What a Service is given: IP families, cluster IPs, node ports.

use std::net::IpAddr;

use api::{FieldError, GroupKind, GroupResource, Path, Status};
use serde_json::{Value, json};

use super::{Allocators, Hold, Items};
use crate::admission::Reader;

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn service_type(service: &Value) -> &str {
    match text(&service["spec"], "type") {
        "" => "ClusterIP",
        other => other,
    }
}

fn is_headless(service: &Value) -> bool {
    text(&service["spec"], "clusterIP") == "None"
}

fn wants_node_ports(service: &Value) -> bool {
    match service_type(service) {
        "NodePort" => true,
        "LoadBalancer" => service["spec"]["allocateLoadBalancerNodePorts"] != json!(false),
        _ => false,
    }
}

fn wants_health_port(service: &Value) -> bool {
    service_type(service) == "LoadBalancer"
        && text(&service["spec"], "externalTrafficPolicy") == "Local"
}

/// The addresses and ports a stored Service occupies.
fn items(service: &Value) -> Items {
    let spec = &service["spec"];
    let mut addresses: Vec<IpAddr> = spec["clusterIPs"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|value| value.as_str()?.parse().ok())
        .collect();
    if addresses.is_empty() {
        addresses.extend(text(spec, "clusterIP").parse::<IpAddr>());
    }
    let mut ports: Vec<u16> = spec["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|port| u16::try_from(port["nodePort"].as_u64()?).ok())
        .filter(|port| *port != 0)
        .collect();
    ports.extend(
        spec["healthCheckNodePort"]
            .as_u64()
            .and_then(|port| u16::try_from(port).ok())
            .filter(|port| *port != 0),
    );
    ports.sort_unstable();
    ports.dedup();
    Items { addresses, ports }
}

impl Allocators {
    async fn load(&self, reader: &dyn Reader) -> Result<(), Status> {
        self.loaded
            .get_or_try_init(|| async {
                let services = GroupResource {
                    group: String::new(),
                    resource: "services".to_owned(),
                };
                let known = reader.list(&services, "").await?;
                let mut taken = self.taken.lock();
                for service in known {
                    taken.add(&items(&service));
                }
                Ok(())
            })
            .await
            .copied()
    }

    /// Gives a new Service what it needs.
    pub(crate) async fn create(
        &self,
        reader: &dyn Reader,
        service: &mut Value,
        dry_run: bool,
    ) -> Result<Hold, Status> {
        self.load(reader).await?;
        self.allocate(service, None, dry_run)
    }

    /// Gives a changed Service what it needs now and did not before. What it
    /// leaves out is taken from the old one, where the type still has it.
    pub(crate) async fn update(
        &self,
        reader: &dyn Reader,
        service: &mut Value,
        old: &Value,
        dry_run: bool,
    ) -> Result<Hold, Status> {
        self.load(reader).await?;
        carry_over(service, old);
        self.allocate(service, Some(old), dry_run)
    }

    /// Frees what a deleted Service had.
    pub(crate) fn delete(&self, service: &Value) {
        self.taken.lock().free(&items(service));
    }

    fn allocate(
        &self,
        service: &mut Value,
        old: Option<&Value>,
        dry_run: bool,
    ) -> Result<Hold, Status> {
        let before = old.map(items).unwrap_or_default();
        let mut hold = Hold {
            taken: Some(self.taken.clone()),
            fresh: Items::default(),
            stale: Items::default(),
        };
        if !service["spec"].is_object() {
            return Ok(hold);
        }
        if service_type(service) == "ExternalName" {
            if old.is_some_and(|old| service_type(old) != "ExternalName") {
                for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                    if let Some(spec) = service["spec"].as_object_mut() {
                        spec.remove(field);
                    }
                }
            }
        } else {
            self.families(service);
            self.check_families(service)?;
            self.addresses(service, &before, &mut hold)?;
        }
        self.node_ports(service, &before, &mut hold)?;
        let after = items(service);
        hold.stale.addresses = before
            .addresses
            .into_iter()
            .filter(|address| !after.addresses.contains(address))
            .collect();
        hold.stale.ports = before
            .ports
            .into_iter()
            .filter(|port| !after.ports.contains(port))
            .collect();
        if dry_run {
            // Dropped at the end of the request: nothing stays taken.
            hold.stale = Items::default();
        }
        Ok(hold)
    }

    /// Defaults `ipFamilies` and `ipFamilyPolicy`.
    fn families(&self, service: &mut Value) {
        let headless =
            is_headless(service) || service["spec"]["clusterIPs"][0].as_str() == Some("None");
        let selectorless = service["spec"]["selector"]
            .as_object()
            .is_none_or(serde_json::Map::is_empty);
        let primary = if self.first_is_ipv6() { "IPv6" } else { "IPv4" };
        let other = if self.first_is_ipv6() { "IPv4" } else { "IPv6" };
        let given: Option<IpAddr> = text(&service["spec"], "clusterIP")
            .parse()
            .ok()
            .or_else(|| service["spec"]["clusterIPs"][0].as_str()?.parse().ok());
        let primary = match given {
            Some(IpAddr::V4(_)) => "IPv4",
            Some(IpAddr::V6(_)) => "IPv6",
            None => primary,
        };
        let spec = &mut service["spec"];
        let empty = spec["ipFamilies"].as_array().is_none_or(Vec::is_empty);
        if headless && selectorless && text(spec, "ipFamilyPolicy").is_empty() {
            if empty {
                spec["ipFamilies"] = json!([primary, other]);
            } else if spec["ipFamilies"].as_array().map(Vec::len) == Some(1) {
                let second = if spec["ipFamilies"][0] == "IPv4" {
                    "IPv6"
                } else {
                    "IPv4"
                };
                let first = spec["ipFamilies"][0].clone();
                spec["ipFamilies"] = json!([first, second]);
            }
            spec["ipFamilyPolicy"] = "RequireDualStack".into();
            return;
        }
        if text(spec, "ipFamilyPolicy").is_empty() {
            let two = spec["ipFamilies"].as_array().map(Vec::len) == Some(2)
                || spec["clusterIPs"].as_array().map(Vec::len) == Some(2);
            spec["ipFamilyPolicy"] = if two {
                "RequireDualStack"
            } else {
                "SingleStack"
            }
            .into();
        }
        let dual = text(spec, "ipFamilyPolicy") != "SingleStack";
        if empty {
            spec["ipFamilies"] = json!([primary]);
        }
        if dual
            && spec["ipFamilies"].as_array().map(Vec::len) == Some(1)
            && (self.ranges.len() == 2 || (headless && selectorless))
        {
            let first = spec["ipFamilies"][0].clone();
            let second = if first == "IPv4" { "IPv6" } else { "IPv4" };
            spec["ipFamilies"] = json!([first, second]);
        }
    }

    /// What this cluster's ranges cannot give.
    fn check_families(&self, service: &Value) -> Result<(), Status> {
        let spec = &service["spec"];
        let selectorless = spec["selector"]
            .as_object()
            .is_none_or(serde_json::Map::is_empty);
        if is_headless(service) && selectorless {
            return Ok(());
        }
        let path = Path::new("spec");
        let mut errors = Vec::new();
        if self.ranges.len() < 2 && text(spec, "ipFamilyPolicy") == "RequireDualStack" {
            errors.push(FieldError::invalid(
                &path.child("ipFamilyPolicy"),
                "RequireDualStack",
                "this cluster is not configured for dual-stack services",
            ));
        }
        for (index, family) in spec["ipFamilies"]
            .as_array()
            .into_iter()
            .flatten()
            .enumerate()
        {
            if self.range(family == "IPv6").is_none() {
                errors.push(FieldError::invalid(
                    &path.child("ipFamilies").index(index),
                    family.clone(),
                    "not configured on this cluster",
                ));
            }
        }
        if errors.is_empty() {
            return Ok(());
        }
        let name = text(&service["metadata"], "name");
        Err(Status::invalid(&service_kind(), name, &errors))
    }

    fn addresses(
        &self,
        service: &mut Value,
        before: &Items,
        hold: &mut Hold,
    ) -> Result<(), Status> {
        let name = text(&service["metadata"], "name").to_owned();
        let spec = &mut service["spec"];
        if text(spec, "clusterIP").is_empty()
            && let Some(first) = spec["clusterIPs"][0].as_str().map(str::to_owned)
        {
            spec["clusterIP"] = first.into();
        }
        if text(spec, "clusterIP") == "None" {
            spec["clusterIPs"] = json!(["None"]);
            return Ok(());
        }
        let mut given: Vec<String> = spec["clusterIPs"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|value| value.as_str().unwrap_or_default().to_owned())
            .collect();
        if given.is_empty() && !text(spec, "clusterIP").is_empty() {
            given.push(text(spec, "clusterIP").to_owned());
        }
        let families: Vec<bool> = spec["ipFamilies"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|family| family == "IPv6")
            .collect();
        for (index, ipv6) in families.iter().enumerate() {
            match given.get(index).filter(|text| !text.is_empty()) {
                Some(text) => {
                    let Ok(address) = text.parse::<IpAddr>() else {
                        // Validation says what is wrong with it.
                        continue;
                    };
                    if before.addresses.contains(&address) {
                        continue;
                    }
                    if let Err(why) = self.take_address(address) {
                        return Err(address_error(&name, &given, text, &why));
                    }
                    hold.fresh.addresses.push(address);
                }
                None => {
                    if self.range(*ipv6).is_none() {
                        continue;
                    }
                    let Some(address) = self.pick_address(*ipv6) else {
                        return Err(Status::internal(
                            "failed to allocate a serviceIP: range is full",
                        ));
                    };
                    hold.fresh.addresses.push(address);
                    if given.len() <= index {
                        given.resize(index + 1, String::new());
                    }
                    given[index] = address.to_string();
                }
            }
        }
        if let Some(first) = given.first() {
            spec["clusterIP"] = first.clone().into();
            spec["clusterIPs"] = given.into();
        }
        Ok(())
    }

    fn node_ports(
        &self,
        service: &mut Value,
        before: &Items,
        hold: &mut Hold,
    ) -> Result<(), Status> {
        let name = text(&service["metadata"], "name").to_owned();
        let wanted = wants_node_ports(service);
        let health = wants_health_port(service);
        let mut by_number: Vec<(u64, String, u16)> = Vec::new();
        if let Some(ports) = service["spec"]["ports"].as_array_mut() {
            for (index, port) in ports.iter_mut().enumerate() {
                let given = port["nodePort"].as_u64().unwrap_or(0);
                if given != 0 {
                    let Ok(number) = u16::try_from(given) else {
                        continue;
                    };
                    if before.ports.contains(&number) || hold.fresh.ports.contains(&number) {
                        continue;
                    }
                    if !wanted {
                        continue;
                    }
                    self.take_port(number)
                        .map_err(|why| port_error(&name, index, given, &why))?;
                    hold.fresh.ports.push(number);
                } else if wanted {
                    // One number serves TCP and UDP of the same port.
                    let number = port["port"].as_u64().unwrap_or(0);
                    let protocol = text(port, "protocol").to_owned();
                    let shared = by_number
                        .iter()
                        .find(|(known, other, _)| *known == number && *other != protocol)
                        .map(|(_, _, node)| *node);
                    let node = match shared {
                        Some(node) => node,
                        None => {
                            let Some(node) = self.pick_port() else {
                                return Err(Status::internal(
                                    "failed to allocate a nodePort: range is full",
                                ));
                            };
                            hold.fresh.ports.push(node);
                            by_number.push((number, protocol, node));
                            node
                        }
                    };
                    port["nodePort"] = node.into();
                }
            }
        }
        let given = service["spec"]["healthCheckNodePort"].as_u64().unwrap_or(0);
        if health && given == 0 {
            let Some(node) = self.pick_port() else {
                return Err(Status::internal(
                    "failed to allocate a HealthCheck NodePort: range is full",
                ));
            };
            hold.fresh.ports.push(node);
            service["spec"]["healthCheckNodePort"] = node.into();
        } else if health
            && let Ok(number) = u16::try_from(given)
            && !before.ports.contains(&number)
            && !hold.fresh.ports.contains(&number)
        {
            self.take_port(number).map_err(|why| {
                Status::internal(format!(
                    "failed to allocate requested HealthCheck NodePort {given}: {why}"
                ))
            })?;
            hold.fresh.ports.push(number);
        }
        Ok(())
    }
}

/// Takes over what an update left out, and drops what the new type lacks.
fn carry_over(service: &mut Value, old: &Value) {
    let (new_type, old_type) = (
        service_type(service).to_owned(),
        service_type(old).to_owned(),
    );
    let had_node_ports = wants_node_ports(old);
    let has_node_ports = wants_node_ports(service);
    let had_health = wants_health_port(old);
    let has_health = wants_health_port(service);
    let spec = &mut service["spec"];
    if !spec.is_object() {
        return;
    }
    if new_type != "ExternalName" && old_type != "ExternalName" {
        // Clients that know only one of the two fields change only that one.
        let address_changed = text(spec, "clusterIP") != text(&old["spec"], "clusterIP");
        let list_changed = spec["clusterIPs"] != old["spec"]["clusterIPs"];
        if address_changed && !list_changed && !text(spec, "clusterIP").is_empty() {
            spec["clusterIPs"] = json!([text(spec, "clusterIP")]);
        } else if list_changed
            && !address_changed
            && let Some(first) = spec["clusterIPs"][0].as_str().map(str::to_owned)
        {
            spec["clusterIP"] = first.into();
        }
        if text(spec, "clusterIP").is_empty()
            && spec["clusterIPs"].as_array().is_none_or(Vec::is_empty)
        {
            for field in ["clusterIP", "clusterIPs"] {
                if !old["spec"][field].is_null() {
                    spec[field] = old["spec"][field].clone();
                }
            }
        } else if spec["clusterIPs"].as_array().is_none_or(Vec::is_empty)
            && text(spec, "clusterIP") == text(&old["spec"], "clusterIP")
        {
            spec["clusterIPs"] = old["spec"]["clusterIPs"].clone();
        } else if text(spec, "clusterIP").is_empty() {
            spec["clusterIP"] = spec["clusterIPs"][0].clone();
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if spec[field].is_null() && !old["spec"][field].is_null() {
                spec[field] = old["spec"][field].clone();
            }
        }
    }
    if had_node_ports && has_node_ports {
        let known: Vec<Value> = old["spec"]["ports"].as_array().cloned().unwrap_or_default();
        for port in spec["ports"].as_array_mut().into_iter().flatten() {
            if port["nodePort"].as_u64().unwrap_or(0) != 0 {
                continue;
            }
            if let Some(before) = known.iter().find(|before| {
                before["port"] == port["port"] && text(before, "protocol") == text(port, "protocol")
            }) && before["nodePort"].as_u64().unwrap_or(0) != 0
            {
                port["nodePort"] = before["nodePort"].clone();
            }
        }
    } else if had_node_ports && !has_node_ports && new_type != "LoadBalancer" {
        // Ports that were only carried along go with the type; those the
        // client changed are left for validation to complain about.
        let known: Vec<Value> = old["spec"]["ports"].as_array().cloned().unwrap_or_default();
        for port in spec["ports"].as_array_mut().into_iter().flatten() {
            if known
                .iter()
                .any(|before| before["nodePort"] == port["nodePort"])
                && let Some(port) = port.as_object_mut()
            {
                port.remove("nodePort");
            }
        }
    }
    let old_health = &old["spec"]["healthCheckNodePort"];
    if had_health && has_health && spec["healthCheckNodePort"].as_u64().unwrap_or(0) == 0 {
        if !old_health.is_null() {
            spec["healthCheckNodePort"] = old_health.clone();
        }
    } else if had_health
        && !has_health
        && spec["healthCheckNodePort"] == *old_health
        && let Some(spec) = spec.as_object_mut()
    {
        spec.remove("healthCheckNodePort");
    }
}

fn service_kind() -> GroupKind {
    GroupKind {
        group: String::new(),
        kind: "Service".to_owned(),
    }
}

fn address_error(name: &str, given: &[String], address: &str, why: &str) -> Status {
    let error = FieldError::invalid(
        &Path::new("spec").child("clusterIPs"),
        Value::from(given.to_vec()),
        format!("failed to allocate IP {address}: {why}"),
    );
    Status::invalid(&service_kind(), name, &[error])
}

fn port_error(name: &str, index: usize, port: u64, why: &str) -> Status {
    let path = Path::new("spec")
        .child("ports")
        .index(index)
        .child("nodePort");
    Status::invalid(
        &service_kind(),
        name,
        &[FieldError::invalid(&path, port, why)],
    )
}

//! Group `networking.k8s.io`: ingresses, policies, addresses of services.

use serde_json::{Value, json};

use super::value::{default_absent, each, list, object, text, within};
use super::{Column, Context, Kind, Plan, columns, table, validate};
use crate::FieldError;
use crate::meta::NameRule;

pub(super) fn of(kind: &str) -> Option<&'static dyn Kind> {
    Some(match kind {
        "Ingress" => &Ingress,
        "IngressClass" => &IngressClass,
        "NetworkPolicy" => &NetworkPolicy,
        "IPAddress" => &IpAddress,
        "ServiceCIDR" => &ServiceCidr,
        _ => return None,
    })
}

struct Ingress;

impl Kind for Ingress {
    fn plan(&self) -> Plan {
        Plan::SPEC
    }

    fn default(&self, ingress: &mut Value) {
        object(ingress, "spec");
        object(object(ingress, "status"), "loadBalancer");
    }

    fn prepare_create(&self, ingress: &mut Value, _: &Context<'_>) {
        self.plan().create(ingress);
        ingress["status"] = json!({ "loadBalancer": {} });
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::networking::ingress(object)
    }

    fn validate_update(&self, new: &Value, _: &Value, context: &Context<'_>) -> Vec<FieldError> {
        match context.subresource {
            "" => validate::networking::ingress(new),
            _ => validate::networking::ingress_status(new),
        }
    }

    fn columns(&self) -> &'static [Column] {
        columns::INGRESS
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let spec = &object["spec"];
        let ports = if list(spec, "tls").is_empty() {
            "80"
        } else {
            "80, 443"
        };
        vec![
            table::name(object),
            table::or(spec, "ingressClassName", "<none>").into(),
            hosts(list(spec, "rules")).into(),
            table::load_balancer(&object["status"]).into(),
            ports.into(),
            table::age(object, now),
        ]
    }
}

/// At most three hosts; rules without one do not count towards the three.
fn hosts(rules: &[Value]) -> String {
    let mut shown: Vec<&str> = Vec::new();
    let mut more = false;
    for rule in rules {
        if shown.len() == 3 {
            more = true;
        }
        if !more && !text(rule, "host").is_empty() {
            shown.push(text(rule, "host"));
        }
    }
    if shown.is_empty() {
        "*".to_owned()
    } else if more {
        format!("{} + {} more...", shown.join(","), rules.len() - 3)
    } else {
        shown.join(",")
    }
}

struct IngressClass;

impl Kind for IngressClass {
    fn plan(&self) -> Plan {
        Plan::GENERATION
    }

    fn default(&self, class: &mut Value) {
        within(object(class, "spec"), "parameters", |parameters| {
            default_absent(parameters, "scope", "Cluster");
        });
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::networking::ingress_class(object)
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::networking::ingress_class_update(new, old)
    }

    fn columns(&self) -> &'static [Column] {
        columns::INGRESSCLASS
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let spec = &object["spec"];
        let mut name = text(&object["metadata"], "name").to_owned();
        if object["metadata"]["annotations"]["ingressclass.kubernetes.io/is-default-class"]
            == "true"
        {
            name.push_str(" (default)");
        }
        let parameters = &spec["parameters"];
        let reference = if parameters.is_object() {
            let group = parameters["apiGroup"]
                .as_str()
                .map(|group| format!(".{group}"))
                .unwrap_or_default();
            format!(
                "{}{group}/{}",
                text(parameters, "kind"),
                text(parameters, "name")
            )
        } else {
            "<none>".to_owned()
        };
        vec![
            name.into(),
            text(spec, "controller").into(),
            reference.into(),
            table::age(object, now),
        ]
    }
}

struct NetworkPolicy;

impl Kind for NetworkPolicy {
    fn plan(&self) -> Plan {
        Plan::GENERATION
    }

    fn default(&self, policy: &mut Value) {
        let spec = object(policy, "spec");
        object(spec, "podSelector");
        for direction in ["ingress", "egress"] {
            each(spec, direction, |rule| {
                each(rule, "ports", |port| {
                    default_absent(port, "protocol", "TCP")
                });
            });
        }
        if list(spec, "policyTypes").is_empty() {
            spec["policyTypes"] = if list(spec, "egress").is_empty() {
                json!(["Ingress"])
            } else {
                json!(["Ingress", "Egress"])
            };
        }
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::networking::network_policy(object)
    }

    fn columns(&self) -> &'static [Column] {
        columns::NETWORKPOLICY
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let selector = match &object["spec"]["podSelector"] {
            Value::Null => json!({}),
            selector => selector.clone(),
        };
        vec![
            table::name(object),
            table::selector(&selector).into(),
            table::age(object, now),
        ]
    }
}

struct IpAddress;

/// `ValidateIPAddressName`: the canonical form of an address.
fn address_name(name: &str, _prefix: bool) -> Vec<String> {
    match name.parse::<std::net::IpAddr>() {
        Ok(address) if address.to_string() == name => Vec::new(),
        _ => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()]
            .into_iter()
            .chain(
                name.parse::<std::net::IpAddr>()
                    .ok()
                    .map(|address| format!("must be in canonical form (\"{address}\")")),
            )
            .take(1)
            .collect(),
    }
}

impl Kind for IpAddress {
    fn name_rule(&self) -> NameRule {
        NameRule::Custom(address_name)
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::networking::ip_address(object)
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::networking::ip_address_update(new, old)
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let parent = &object["spec"]["parentRef"];
        let of = |name: &str| text(parent, name).to_owned();
        vec![
            ("spec.parentRef.group", of("group")),
            ("spec.parentRef.resource", of("resource")),
            ("spec.parentRef.namespace", of("namespace")),
            ("spec.parentRef.name", of("name")),
        ]
    }

    fn columns(&self) -> &'static [Column] {
        columns::IPADDRESS
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let parent = &object["spec"]["parentRef"];
        let reference = if parent.is_object() {
            let mut out = text(parent, "resource").to_owned();
            if !text(parent, "group").is_empty() {
                out = format!("{out}.{}", text(parent, "group"));
            }
            let mut out = out.to_lowercase();
            if !text(parent, "namespace").is_empty() {
                out = format!("{out}/{}", text(parent, "namespace"));
            }
            format!("{out}/{}", text(parent, "name"))
        } else {
            "<none>".to_owned()
        };
        vec![
            table::name(object),
            reference.into(),
            table::age(object, now),
        ]
    }
}

struct ServiceCidr;

impl Kind for ServiceCidr {
    fn plan(&self) -> Plan {
        Plan::STATUS_META
    }

    fn default(&self, cidr: &mut Value) {
        object(cidr, "spec");
        object(cidr, "status");
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::networking::service_cidr(object)
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> Vec<FieldError> {
        if context.subresource.is_empty() {
            validate::networking::service_cidr_update(new, old)
        } else {
            Vec::new()
        }
    }

    fn columns(&self) -> &'static [Column] {
        columns::SERVICECIDR
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let cidrs: Vec<&str> = list(&object["spec"], "cidrs")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        vec![
            table::name(object),
            cidrs.join(",").into(),
            table::age(object, now),
        ]
    }
}

//! `Node`.

use serde_json::Value;

use super::value::{list, object, text};
use super::{Column, Context, Kind, Plan, columns, pod_defaults, table, validate};
use crate::FieldError;

/// `v1` `Node`.
pub(super) struct Node;

/// Fields of `nodeInfo` that are always there.
const INFO: &[&str] = &[
    "machineID",
    "systemUUID",
    "bootID",
    "kernelVersion",
    "osImage",
    "containerRuntimeVersion",
    "kubeletVersion",
    "kubeProxyVersion",
    "operatingSystem",
    "architecture",
];

/// Kubelets take no configuration from here any more.
fn drop_configuration(node: &mut Value) {
    super::value::within(node, "spec", |spec| {
        super::value::remove(spec, "configSource")
    });
    super::value::within(node, "status", |status| {
        super::value::remove(status, "config")
    });
}

impl Kind for Node {
    fn plan(&self) -> Plan {
        Plan::STATUS
    }

    fn default(&self, node: &mut Value) {
        object(node, "spec");
        let status = object(node, "status");
        if status["allocatable"].is_null() && status["capacity"].is_object() {
            status["allocatable"] = status["capacity"].clone();
        }
        pod_defaults::quantities(status, "capacity");
        pod_defaults::quantities(status, "allocatable");
        let endpoint = object(object(status, "daemonEndpoints"), "kubeletEndpoint");
        super::value::default(endpoint, "Port", 0);
        let info = object(status, "nodeInfo");
        for name in INFO {
            super::value::default(info, name, "");
        }
    }

    fn prepare_create(&self, node: &mut Value, _: &Context<'_>) {
        drop_configuration(node);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, context: &Context<'_>) {
        self.plan().update(new, old, context.subresource);
        drop_configuration(new);
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::core::node(object)
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Context<'_>) -> Vec<FieldError> {
        // The strategy judges the node, and then the change.
        let mut errors = validate::core::node(new);
        errors.extend(validate::core::node_update(new, old));
        errors
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![(
            "spec.unschedulable",
            (object["spec"]["unschedulable"] == true).to_string(),
        )]
    }

    fn columns(&self) -> &'static [Column] {
        columns::NODE
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let ready = list(status, "conditions")
            .iter()
            .rfind(|condition| condition["type"] == "Ready");
        let mut state = match ready {
            Some(condition) if condition["status"] == "True" => "Ready",
            Some(_) => "NotReady",
            None => "Unknown",
        }
        .to_owned();
        if spec["unschedulable"] == true {
            state.push_str(",SchedulingDisabled");
        }
        let info = &status["nodeInfo"];
        let known = |name: &str| match text(info, name) {
            "" => "<unknown>".to_owned(),
            value => value.to_owned(),
        };
        let address = |kind: &str| {
            list(status, "addresses")
                .iter()
                .find(|address| address["type"] == kind)
                .map_or("<none>", |address| text(address, "address"))
                .to_owned()
        };
        let mut kernel = known("kernelVersion");
        if !text(info, "architecture").is_empty() {
            kernel.push_str(&format!(" ({})", text(info, "architecture")));
        }
        vec![
            table::name(object),
            state.into(),
            roles(object).into(),
            table::age(object, now),
            text(info, "kubeletVersion").into(),
            address("InternalIP").into(),
            address("ExternalIP").into(),
            known("osImage").into(),
            kernel.into(),
            known("containerRuntimeVersion").into(),
        ]
    }
}

fn roles(node: &Value) -> String {
    let mut roles: Vec<&str> = super::value::entries(&node["metadata"], "labels")
        .filter_map(
            |(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
                Some(role) => Some(role),
                None if key == "kubernetes.io/role" => value.as_str(),
                None => None,
            },
        )
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() {
        "<none>".to_owned()
    } else {
        roles.join(",")
    }
}

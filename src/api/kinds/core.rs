//! The smaller kinds of the core group.

use serde_json::{Value, json};

use super::value::{default, each, entries, list, object, remove, text};
use super::{
    Column, Context, Kind, Plan, apps, columns, event, node, pod, pod_defaults, service, table,
    validate, volume,
};
use crate::meta::{self, NameRule};
use crate::{FieldError, Quantity};

pub(super) fn of(kind: &str) -> Option<&'static dyn Kind> {
    Some(match kind {
        "Pod" => &pod::Pod,
        "Service" => &service::Service,
        "Node" => &node::Node,
        "PersistentVolume" => &volume::PersistentVolume,
        "PersistentVolumeClaim" => &volume::PersistentVolumeClaim,
        "Event" => &event::Event { core: true },
        "ReplicationController" => &apps::ReplicationController,
        "PodTemplate" => &apps::PodTemplate,
        "Namespace" => &Namespace,
        "ConfigMap" => &ConfigMap,
        "Secret" => &Secret,
        "ServiceAccount" => &ServiceAccount,
        "Endpoints" => &Endpoints,
        "LimitRange" => &LimitRange,
        "ResourceQuota" => &ResourceQuota,
        _ => return None,
    })
}

struct Namespace;

impl Kind for Namespace {
    fn name_rule(&self) -> NameRule {
        NameRule::Label
    }

    fn plan(&self) -> Plan {
        Plan::STATUS
    }

    fn default(&self, namespace: &mut Value) {
        let name = text(&namespace["metadata"], "name").to_owned();
        if !name.is_empty() {
            meta::metadata_mut(namespace);
            object(&mut namespace["metadata"], "labels")["kubernetes.io/metadata.name"] =
                name.into();
        }
        object(namespace, "spec");
        default(object(namespace, "status"), "phase", "Active");
    }

    fn prepare_create(&self, namespace: &mut Value, _: &Context<'_>) {
        namespace["status"] = json!({ "phase": "Active" });
        let spec = object(namespace, "spec");
        if !list(spec, "finalizers").iter().any(|it| it == "kubernetes") {
            let mut finalizers = list(spec, "finalizers").to_vec();
            finalizers.push("kubernetes".into());
            spec["finalizers"] = finalizers.into();
        }
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, context: &Context<'_>) {
        let keep: &[&[&str]] = match context.subresource {
            "finalize" => &[&["status"]],
            "status" => &[&["spec"]],
            _ => &[&["spec", "finalizers"], &["status"]],
        };
        for path in keep {
            super::value::restore(new, old, path);
        }
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::core::namespace(object)
    }

    fn validate_update(&self, new: &Value, _: &Value, context: &Context<'_>) -> Vec<FieldError> {
        match context.subresource {
            "finalize" => validate::core::namespace(new),
            "status" => validate::core::namespace_status(new),
            _ => Vec::new(),
        }
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![
            ("status.phase", text(&object["status"], "phase").to_owned()),
            ("name", text(&object["metadata"], "name").to_owned()),
        ]
    }

    fn columns(&self) -> &'static [Column] {
        columns::NAMESPACE
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        vec![
            table::name(object),
            text(&object["status"], "phase").into(),
            table::age(object, now),
        ]
    }
}

struct ConfigMap;

impl Kind for ConfigMap {
    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::core::config_map(object)
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::core::config_map_update(new, old)
    }

    fn columns(&self) -> &'static [Column] {
        columns::CONFIGMAP
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        vec![
            table::name(object),
            (table::count(object, "data") + table::count(object, "binaryData")).into(),
            table::age(object, now),
        ]
    }
}

struct Secret;

impl Kind for Secret {
    fn default(&self, secret: &mut Value) {
        default(secret, "type", "Opaque");
        // `stringData` is for writing only and wins over `data`.
        let plain = secret["stringData"].clone();
        if let Some(plain) = plain.as_object() {
            use base64::Engine as _;
            let engine = base64::engine::general_purpose::STANDARD;
            for (key, value) in plain {
                let encoded = engine.encode(value.as_str().unwrap_or_default());
                object(secret, "data")[key] = encoded.into();
            }
        }
        remove(secret, "stringData");
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::core::secret(object)
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::core::secret_update(new, old)
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("type", text(object, "type").to_owned())]
    }

    fn columns(&self) -> &'static [Column] {
        columns::SECRET
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        vec![
            table::name(object),
            text(object, "type").into(),
            table::count(object, "data").into(),
            table::age(object, now),
        ]
    }
}

struct ServiceAccount;

impl Kind for ServiceAccount {
    fn prepare_create(&self, account: &mut Value, _: &Context<'_>) {
        keep_secret_names(account);
    }

    fn prepare_update(&self, new: &mut Value, _: &Value, _: &Context<'_>) {
        keep_secret_names(new);
    }

    fn columns(&self) -> &'static [Column] {
        columns::SERVICEACCOUNT
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        vec![table::name(object), table::age(object, now)]
    }
}

/// References to secrets carry nothing but the name.
fn keep_secret_names(account: &mut Value) {
    each(account, "secrets", |secret| {
        *secret = match text(secret, "name") {
            "" => json!({}),
            name => json!({ "name": name }),
        };
    });
}

struct Endpoints;

impl Kind for Endpoints {
    fn default(&self, endpoints: &mut Value) {
        each(endpoints, "subsets", |subset| {
            each(subset, "ports", |port| default(port, "protocol", "TCP"));
        });
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::core::endpoints(object)
    }

    fn warnings(&self, _: &Value, _: Option<&Value>, _: &Context<'_>) -> Vec<String> {
        Vec::new()
    }

    fn columns(&self) -> &'static [Column] {
        columns::ENDPOINTS
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let mut addresses = Vec::new();
        for subset in list(object, "subsets") {
            let ips = || list(subset, "addresses").iter().map(|it| text(it, "ip"));
            if list(subset, "ports").is_empty() {
                addresses.extend(ips().map(str::to_owned));
            }
            for port in list(subset, "ports") {
                let number = super::value::int(port, "port");
                addresses.extend(ips().map(|ip| {
                    if ip.contains(':') {
                        format!("[{ip}]:{number}")
                    } else {
                        format!("{ip}:{number}")
                    }
                }));
            }
        }
        let cell = if list(object, "subsets").is_empty() {
            "<none>".to_owned()
        } else {
            table::at_most(&addresses, 3, "")
        };
        vec![table::name(object), cell.into(), table::age(object, now)]
    }
}

struct LimitRange;

impl Kind for LimitRange {
    fn prepare_create(&self, range: &mut Value, _: &Context<'_>) {
        // A range without a name gets one that nobody else has.
        let uid = range["metadata"]["uid"].clone();
        if text(&range["metadata"], "name").is_empty() && !uid.is_null() {
            meta::metadata_mut(range).insert("name".into(), uid);
        }
    }

    fn default(&self, range: &mut Value) {
        each(object(range, "spec"), "limits", |limit| {
            for name in [
                "max",
                "min",
                "default",
                "defaultRequest",
                "maxLimitRequestRatio",
            ] {
                pod_defaults::quantities(limit, name);
            }
            if text(limit, "type") != "Container" {
                return;
            }
            let fill = |limit: &mut Value, target: &str, source: &str| {
                let from = limit[source].clone();
                for (name, quantity) in from.as_object().into_iter().flatten() {
                    default(object(limit, target), name, quantity.clone());
                }
            };
            fill(limit, "default", "max");
            fill(limit, "defaultRequest", "default");
            fill(limit, "defaultRequest", "min");
        });
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::quota::limit_range(object)
    }
}

struct ResourceQuota;

impl Kind for ResourceQuota {
    fn plan(&self) -> Plan {
        Plan::STATUS
    }

    fn default(&self, quota: &mut Value) {
        pod_defaults::quantities(object(quota, "spec"), "hard");
        let status = object(quota, "status");
        pod_defaults::quantities(status, "hard");
        pod_defaults::quantities(status, "used");
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::quota::resource_quota(object)
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> Vec<FieldError> {
        match context.subresource {
            "" => validate::quota::resource_quota_update(new, old),
            _ => Vec::new(),
        }
    }

    fn columns(&self) -> &'static [Column] {
        columns::RESOURCEQUOTA
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let status = &object["status"];
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (name, hard) in entries(status, "hard") {
            let used: Option<Quantity> = status["used"][name]
                .as_str()
                .and_then(|text| text.parse().ok());
            let cell = format!(
                "{name}: {}/{}",
                used.unwrap_or_default(),
                hard.as_str().unwrap_or_default()
            );
            if name.starts_with("limits.") {
                limits.push(cell);
            } else {
                requests.push(cell);
            }
        }
        vec![
            table::name(object),
            requests.join(", ").into(),
            limits.join(", ").into(),
            table::age(object, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_fold_plain_text() {
        let mut secret = json!({"data": {"a": "eA=="}, "stringData": {"a": "y", "b": "z"}});
        Secret.default(&mut secret);
        assert_eq!(
            secret,
            json!({"type": "Opaque", "data": {"a": "eQ==", "b": "eg=="}})
        );
    }

    #[test]
    fn namespaces_get_their_label_and_finalizer() {
        let mut namespace = json!({"metadata": {"name": "n"}});
        Namespace.default(&mut namespace);
        Namespace.prepare_create(&mut namespace, &Context::default());
        assert_eq!(
            namespace,
            json!({
                "metadata": {"name": "n", "labels": {"kubernetes.io/metadata.name": "n"}},
                "spec": {"finalizers": ["kubernetes"]},
                "status": {"phase": "Active"},
            })
        );
    }
}

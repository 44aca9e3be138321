//! Group `storage.k8s.io`.

use serde_json::{Value, json};

use super::value::{default_absent, list, object, text};
use super::{Column, Context, Kind, Plan, columns, table, validate};
use crate::FieldError;

pub(super) fn of(kind: &str) -> Option<&'static dyn Kind> {
    Some(match kind {
        "StorageClass" => &StorageClass,
        "CSIDriver" => &CsiDriver,
        "CSINode" => &CsiNode,
        "CSIStorageCapacity" => &CsiStorageCapacity,
        "VolumeAttachment" => &VolumeAttachment,
        "VolumeAttributesClass" => &VolumeAttributesClass,
        _ => return None,
    })
}

struct StorageClass;

fn is_default(object: &Value) -> bool {
    let annotations = &object["metadata"]["annotations"];
    annotations["storageclass.kubernetes.io/is-default-class"] == "true"
        || annotations["storageclass.beta.kubernetes.io/is-default-class"] == "true"
}

impl Kind for StorageClass {
    fn default(&self, class: &mut Value) {
        default_absent(class, "reclaimPolicy", "Delete");
        default_absent(class, "volumeBindingMode", "Immediate");
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::storage::storage_class(object)
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::storage::storage_class_update(new, old)
    }

    fn columns(&self) -> &'static [Column] {
        columns::STORAGECLASS
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let mut name = text(&object["metadata"], "name").to_owned();
        if is_default(object) {
            name.push_str(" (default)");
        }
        vec![
            name.into(),
            text(object, "provisioner").into(),
            table::or(object, "reclaimPolicy", "Delete").into(),
            table::or(object, "volumeBindingMode", "Immediate").into(),
            (object["allowVolumeExpansion"] == true).into(),
            table::age(object, now),
        ]
    }
}

struct CsiDriver;

impl Kind for CsiDriver {
    fn prepare_update(&self, new: &mut Value, old: &Value, _: &Context<'_>) {
        // New drivers have no generation; a change of the specification is the first.
        if !super::value::same(&new["spec"], &old["spec"]) {
            crate::meta::set_generation(new, crate::meta::generation(old) + 1);
        }
    }

    fn default(&self, driver: &mut Value) {
        let spec = object(driver, "spec");
        default_absent(spec, "attachRequired", true);
        default_absent(spec, "podInfoOnMount", false);
        default_absent(spec, "storageCapacity", false);
        default_absent(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        if list(spec, "volumeLifecycleModes").is_empty() {
            spec["volumeLifecycleModes"] = json!(["Persistent"]);
        }
        default_absent(spec, "requiresRepublish", false);
        default_absent(spec, "seLinuxMount", false);
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::storage::csi_driver(object)
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::storage::csi_driver_update(new, old)
    }

    fn columns(&self) -> &'static [Column] {
        columns::CSIDRIVER
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let spec = &object["spec"];
        let joined = |items: Vec<&str>| items.join(",");
        let modes = list(spec, "volumeLifecycleModes");
        let modes = if modes.is_empty() {
            "<none>".to_owned()
        } else {
            joined(modes.iter().filter_map(Value::as_str).collect())
        };
        let tokens = if spec["tokenRequests"].is_null() {
            "<unset>".to_owned()
        } else {
            joined(
                list(spec, "tokenRequests")
                    .iter()
                    .map(|token| text(token, "audience"))
                    .collect(),
            )
        };
        vec![
            table::name(object),
            (spec["attachRequired"] != false).into(),
            (spec["podInfoOnMount"] == true).into(),
            (spec["storageCapacity"] == true).into(),
            tokens.into(),
            (spec["requiresRepublish"] == true).into(),
            modes.into(),
            table::age(object, now),
        ]
    }
}

struct CsiNode;

impl Kind for CsiNode {
    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::storage::csi_node(object)
    }

    fn columns(&self) -> &'static [Column] {
        columns::CSINODE
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        vec![
            table::name(object),
            list(&object["spec"], "drivers").len().into(),
            table::age(object, now),
        ]
    }
}

struct CsiStorageCapacity;

impl Kind for CsiStorageCapacity {
    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::storage::capacity(object)
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::storage::capacity_update(new, old)
    }
}

struct VolumeAttachment;

impl Kind for VolumeAttachment {
    fn plan(&self) -> Plan {
        Plan::STATUS_META
    }

    fn default(&self, attachment: &mut Value) {
        default_absent(object(attachment, "status"), "attached", false);
    }

    fn prepare_create(&self, attachment: &mut Value, _: &Context<'_>) {
        attachment["status"] = json!({ "attached": false });
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::storage::attachment(object)
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> Vec<FieldError> {
        if context.subresource.is_empty() {
            validate::storage::attachment_update(new, old)
        } else {
            Vec::new()
        }
    }

    fn columns(&self) -> &'static [Column] {
        columns::VOLUMEATTACHMENT
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let spec = &object["spec"];
        vec![
            table::name(object),
            text(spec, "attacher").into(),
            text(&spec["source"], "persistentVolumeName").into(),
            text(spec, "nodeName").into(),
            (object["status"]["attached"] == true).into(),
            table::age(object, now),
        ]
    }
}

struct VolumeAttributesClass;

impl Kind for VolumeAttributesClass {
    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::storage::attributes_class(object)
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::storage::attributes_class_update(new, old)
    }

    fn columns(&self) -> &'static [Column] {
        columns::VOLUMEATTRIBUTESCLASS
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        vec![
            table::name(object),
            text(object, "driverName").into(),
            table::age(object, now),
        ]
    }
}

//! Group `storage.k8s.io`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::common;
use crate::kinds::value::{entries, indexed, invalid, list, text};
use crate::{FieldError, Path, meta, names};

type Errors = Vec<FieldError>;

const PARAMETERS_MAX: usize = 512;
const PARAMETERS_BYTES_MAX: usize = 256 * 1024;

/// `ValidateCSIDriverName` of a name that is there.
pub(super) fn driver_name(name: &str, at: &Path) -> Errors {
    let mut errors = Vec::new();
    if name.len() > 63 {
        errors.push(FieldError::too_long(at, 63));
    }
    errors.extend(invalid(
        at,
        name,
        names::dns_subdomain(&name.to_lowercase()),
    ));
    errors
}

/// `ValidateCSIDriverName`.
pub(super) fn driver_name_required(name: &str, at: &Path) -> Errors {
    if name.is_empty() {
        vec![FieldError::required(at, "")]
    } else {
        driver_name(name, at)
    }
}

fn provisioner(value: &str, at: &Path) -> Errors {
    if value.is_empty() {
        return vec![FieldError::required(at, "")];
    }
    let lower = value.to_lowercase();
    invalid(at, &lower, names::qualified_name(&lower))
}

fn parameters(object: &Value, required: bool) -> Errors {
    let at = Path::new("parameters");
    let mut errors = Vec::new();
    let (mut count, mut size) = (0, 0);
    for (key, value) in entries(object, "parameters") {
        count += 1;
        size += key.len() + value.as_str().map_or(0, str::len);
        if key.is_empty() {
            errors.push(FieldError::invalid(&at, "", "field can not be empty."));
        }
    }
    if count > PARAMETERS_MAX {
        return vec![FieldError::too_long(&at, PARAMETERS_MAX)];
    }
    if size > PARAMETERS_BYTES_MAX {
        errors.push(FieldError::too_long(&at, PARAMETERS_BYTES_MAX));
    }
    if required && count == 0 {
        errors.push(FieldError::required(
            &at,
            "must contain at least one key/value pair",
        ));
    }
    errors
}

/// `ValidateStorageClass`.
pub(in crate::kinds) fn storage_class(class: &Value) -> Errors {
    let mut errors = provisioner(text(class, "provisioner"), &Path::new("provisioner"));
    errors.extend(parameters(class, false));
    let policy = text(class, "reclaimPolicy");
    if !policy.is_empty() && !matches!(policy, "Delete" | "Retain") {
        errors.push(FieldError::not_supported(
            &Path::new("reclaimPolicy"),
            policy,
            &["Delete", "Retain"],
        ));
    }
    errors.extend(common::one_of(
        class,
        "volumeBindingMode",
        &["Immediate", "WaitForFirstConsumer"],
        &Path::root(),
    ));
    for (at, term) in indexed(class, "allowedTopologies", &Path::root()) {
        let mut seen = BTreeSet::new();
        for (at, rule) in indexed(term, "matchLabelExpressions", &at) {
            let key = text(rule, "key");
            errors.extend(meta::label_name(key, &at.child("key")));
            if list(rule, "values").is_empty() {
                errors.push(FieldError::required(&at.child("values"), ""));
            }
            if !seen.insert(key) {
                errors.push(FieldError::duplicate(&at.child("key"), key));
            }
        }
    }
    errors
}

fn unchanged(new: &Value, old: &Value, fields: &[&str]) -> Errors {
    fields
        .iter()
        .filter_map(|name| common::immutable(&new[*name], &old[*name], &Path::new(name)))
        .collect()
}

/// `ValidateStorageClassUpdate`.
pub(in crate::kinds) fn storage_class_update(new: &Value, old: &Value) -> Errors {
    let mut errors = storage_class(new);
    errors.extend(unchanged(
        new,
        old,
        &[
            "parameters",
            "provisioner",
            "reclaimPolicy",
            "volumeBindingMode",
        ],
    ));
    errors
}

/// `ValidateCSIDriver`.
pub(in crate::kinds) fn csi_driver(driver: &Value) -> Errors {
    let (spec, path) = (&driver["spec"], Path::new("spec"));
    let mut errors = Vec::new();
    let known = ["File", "None", "ReadWriteOnceWithFSType"];
    let policy = text(spec, "fsGroupPolicy");
    if !known.contains(&policy) {
        errors.push(FieldError::not_supported(
            &path.child("fsGroupPolicy"),
            policy,
            &known,
        ));
    }
    let mut seen = BTreeSet::new();
    for (at, token) in indexed(spec, "tokenRequests", &path) {
        let audience = text(token, "audience");
        if !seen.insert(audience) {
            errors.push(FieldError::duplicate(&at.child("audience"), audience));
        }
        if let Some(seconds) = token["expirationSeconds"].as_i64() {
            let at = at.child("expirationSeconds");
            if seconds < 600 {
                errors.push(FieldError::invalid(
                    &at,
                    seconds,
                    "may not specify a duration less than 10 minutes",
                ));
            }
            if seconds > 1 << 32 {
                errors.push(FieldError::invalid(
                    &at,
                    seconds,
                    "may not specify a duration larger than 2^32 seconds",
                ));
            }
        }
    }
    for mode in list(spec, "volumeLifecycleModes") {
        let mode = mode.as_str().unwrap_or_default();
        if !matches!(mode, "Persistent" | "Ephemeral") {
            errors.push(FieldError::not_supported(
                &path.child("volumeLifecycleModes"),
                mode,
                &["Persistent", "Ephemeral"],
            ));
        }
    }
    errors
}

/// `ValidateCSIDriverUpdate`.
pub(in crate::kinds) fn csi_driver_update(new: &Value, old: &Value) -> Errors {
    let mut errors = csi_driver(new);
    let path = Path::new("spec");
    for (name, shown) in [
        ("attachRequired", "attachedRequired"),
        ("volumeLifecycleModes", "volumeLifecycleModes"),
    ] {
        errors.extend(common::immutable(
            &new["spec"][name],
            &old["spec"][name],
            &path.child(shown),
        ));
    }
    errors
}

/// `ValidateCSINode`.
pub(in crate::kinds) fn csi_node(node: &Value) -> Errors {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (at, driver) in indexed(&node["spec"], "drivers", &Path::new("spec")) {
        let name = text(driver, "name");
        errors.extend(driver_name_required(name, &at.child("name")));
        let id = text(driver, "nodeID");
        if id.is_empty() {
            errors.push(FieldError::required(&at.child("nodeID"), ""));
        } else if id.len() > 256 {
            errors.push(FieldError::invalid(
                &at.child("nodeID"),
                id,
                "must be 256 characters or less",
            ));
        }
        errors.extend(common::nonnegative(
            &driver["allocatable"],
            "count",
            &at.child("allocatable"),
        ));
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(&at.child("name"), name));
        }
        let mut keys = BTreeSet::new();
        for key in list(driver, "topologyKeys") {
            let key = key.as_str().unwrap_or_default();
            if key.is_empty() {
                errors.push(FieldError::required(&at, ""));
            }
            if !keys.insert(key) {
                errors.push(FieldError::duplicate(&at, key));
            }
            errors.extend(meta::label_name(key, &at));
        }
    }
    errors
}

/// `ValidateCSIStorageCapacity`.
pub(in crate::kinds) fn capacity(capacity: &Value) -> Errors {
    let mut errors = common::label_selector(&capacity["nodeTopology"], &Path::new("nodeTopology"));
    let class = text(capacity, "storageClassName");
    errors.extend(invalid(
        &Path::new("storageClassName"),
        class,
        names::dns_subdomain(class),
    ));
    if !capacity["capacity"].is_null() {
        let amount = common::quantity(&capacity["capacity"]);
        if amount.sign() < 0 {
            errors.push(FieldError::invalid(
                &Path::new("capacity"),
                amount.to_string(),
                "must be greater than or equal to 0",
            ));
        }
    }
    errors
}

/// `ValidateCSIStorageCapacityUpdate`.
pub(in crate::kinds) fn capacity_update(new: &Value, old: &Value) -> Errors {
    let mut errors = capacity(new);
    errors.extend(unchanged(new, old, &["nodeTopology", "storageClassName"]));
    errors
}

/// `ValidateVolumeAttachment`.
pub(in crate::kinds) fn attachment(attachment: &Value) -> Errors {
    let (spec, path) = (&attachment["spec"], Path::new("spec"));
    let mut errors = driver_name_required(text(spec, "attacher"), &path.child("attacher"));
    let source = &spec["source"];
    let at = path.child("source");
    let both = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (
        source["inlineVolumeSpec"].is_object(),
        source["persistentVolumeName"].as_str(),
    ) {
        (false, None) => errors.push(FieldError::required(&at, both)),
        (true, Some(_)) => errors.push(FieldError::forbidden(&at, both)),
        (false, Some(name)) => {
            let at = at.child("persistentVolumeName");
            if name.is_empty() {
                errors.push(FieldError::required(
                    &at,
                    "must specify non empty persistentVolumeName",
                ));
            }
            errors.extend(invalid(&at, name, names::dns_subdomain(name)));
        }
        (true, None) => {}
    }
    let node = text(spec, "nodeName");
    errors.extend(invalid(
        &path.child("nodeName"),
        node,
        names::dns_subdomain(node),
    ));
    errors
}

/// `ValidateVolumeAttachmentUpdate`.
pub(in crate::kinds) fn attachment_update(new: &Value, old: &Value) -> Errors {
    let mut errors = attachment(new);
    if !crate::kinds::value::same(&new["spec"], &old["spec"]) {
        errors.push(meta::immutable(&Path::new("spec"), new["spec"].clone()));
    }
    errors
}

/// `ValidateVolumeAttributesClass`.
pub(in crate::kinds) fn attributes_class(class: &Value) -> Errors {
    let mut errors = provisioner(text(class, "driverName"), &Path::new("driverName"));
    errors.extend(parameters(class, true));
    errors
}

/// `ValidateVolumeAttributesClassUpdate`.
pub(in crate::kinds) fn attributes_class_update(new: &Value, old: &Value) -> Errors {
    let mut errors: Errors = ["driverName", "parameters"]
        .into_iter()
        .filter(|name| !crate::kinds::value::same(&new[*name], &old[*name]))
        .map(|name| {
            let why = format!("updates to {name} are forbidden.");
            FieldError::forbidden(&Path::new(name), why)
        })
        .collect();
    errors.extend(attributes_class(new));
    errors
}

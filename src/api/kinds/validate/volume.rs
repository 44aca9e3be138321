//! Persistent volumes and claims on them.

use serde_json::Value;

use super::{affinity, common, volume_source};
use crate::kinds::value::{blank, entries, invalid, list, remove, same, text};
use crate::{FieldError, Path, names};

type Errors = Vec<FieldError>;

const MODES: &[&str] = &[
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];

const SOURCES: &[(&str, &str)] = &[
    ("hostPath", "hostPath"),
    ("gcePersistentDisk", "persistentDisk"),
    ("awsElasticBlockStore", "awsElasticBlockStore"),
    ("glusterfs", "glusterfs"),
    ("flocker", "flocker"),
    ("nfs", "nfs"),
    ("rbd", "rbd"),
    ("quobyte", "quobyte"),
    ("cephfs", "cephfs"),
    ("iscsi", "iscsi"),
    ("cinder", "cinder"),
    ("fc", "fc"),
    ("flexVolume", "flexVolume"),
    ("azureFile", "azureFile"),
    ("vsphereVolume", "vsphereVolume"),
    ("photonPersistentDisk", "photonPersistentDisk"),
    ("portworxVolume", "portworxVolume"),
    ("azureDisk", "azureDisk"),
    ("scaleIO", "scaleIO"),
    ("local", "local"),
    ("storageos", "storageos"),
    ("csi", "csi"),
];

fn access_modes(spec: &Value, path: &Path, errors: &mut Errors) {
    let at = path.child("accessModes");
    let (mut single, mut other) = (false, false);
    for mode in list(spec, "accessModes") {
        let mode = mode.as_str().unwrap_or_default();
        if !MODES.contains(&mode) {
            errors.push(FieldError::not_supported(&at, mode, MODES));
        } else if mode == "ReadWriteOncePod" {
            single = true;
        } else {
            other = true;
        }
    }
    if single && other {
        errors.push(FieldError::forbidden(
            &at,
            "may not use ReadWriteOncePod with other access modes",
        ));
    }
}

fn positive(value: &Value, at: &Path) -> Option<FieldError> {
    let quantity = common::quantity(value);
    (quantity.sign() <= 0)
        .then(|| FieldError::invalid(at, quantity.to_string(), "must be greater than zero"))
}

fn class_name(spec: &Value, name: &str, path: &Path, errors: &mut Errors) {
    let class = text(spec, name);
    if !class.is_empty() {
        errors.extend(invalid(
            &path.child(name),
            class,
            names::dns_subdomain(class),
        ));
    }
}

fn volume_mode(spec: &Value, path: &Path, errors: &mut Errors) {
    if !spec["volumeMode"].is_null() {
        let mode = text(spec, "volumeMode");
        if !matches!(mode, "Block" | "Filesystem") {
            errors.push(FieldError::not_supported(
                &path.child("volumeMode"),
                mode,
                &["Block", "Filesystem"],
            ));
        }
    }
}

/// `validatePVSecretReference`.
fn secret_reference(reference: &Value, at: &Path, errors: &mut Errors) {
    if !reference.is_object() {
        return;
    }
    let rules: [(&str, names::Rule); 2] = [
        ("name", names::dns_subdomain),
        ("namespace", names::dns_label),
    ];
    for (name, rule) in rules {
        let (at, value) = (at.child(name), text(reference, name));
        if value.is_empty() {
            errors.push(FieldError::required(&at, ""));
        } else {
            errors.extend(invalid(&at, value, rule(value)));
        }
    }
}

/// `ValidatePersistentVolume`.
pub(in crate::kinds) fn persistent_volume(volume: &Value) -> Errors {
    let (spec, path) = (&volume["spec"], Path::new("spec"));
    let mut errors = Vec::new();
    if list(spec, "accessModes").is_empty() {
        errors.push(FieldError::required(&path.child("accessModes"), ""));
    }
    access_modes(spec, &path, &mut errors);
    let at = path.child("capacity");
    if blank(&spec["capacity"]) {
        errors.push(FieldError::required(&at, ""));
    }
    let count = entries(spec, "capacity").count();
    if spec["capacity"]["storage"].is_null() || count > 1 {
        errors.push(FieldError::not_supported(
            &at,
            spec["capacity"].clone(),
            &["storage"],
        ));
    }
    for (name, value) in entries(spec, "capacity") {
        let at = at.key(name);
        if common::quantity(value).sign() < 0 {
            errors.push(FieldError::invalid(
                &at,
                common::quantity(value).value(),
                "must be a valid resource quantity",
            ));
        }
        errors.extend(positive(value, &at));
    }
    let policy = text(spec, "persistentVolumeReclaimPolicy");
    let known = ["Delete", "Recycle", "Retain"];
    if !policy.is_empty() && !known.contains(&policy) {
        errors.push(FieldError::not_supported(
            &path.child("persistentVolumeReclaimPolicy"),
            policy,
            &known,
        ));
    }
    let required = &spec["nodeAffinity"]["required"];
    if spec["nodeAffinity"].is_object() {
        let at = path.child("nodeAffinity").child("required");
        if required.is_object() {
            affinity::node_selector(required, &at, &mut errors);
        } else {
            errors.push(FieldError::required(
                &at,
                "must specify required node constraints",
            ));
        }
    }
    let mut found = false;
    for (name, at) in SOURCES {
        let source = &spec[*name];
        if !source.is_object() {
            continue;
        }
        let at = path.child(at);
        if found && *name != "flexVolume" {
            errors.push(FieldError::forbidden(
                &path.child(if *name == "cephfs" { "cephFS" } else { name }),
                "may not specify more than 1 volume type",
            ));
            continue;
        }
        found = true;
        match *name {
            "local" => {
                let target = text(source, "path");
                if target.is_empty() {
                    errors.push(FieldError::required(&at.child("path"), ""));
                } else {
                    errors.extend(common::no_backsteps(target, &at.child("path")));
                }
                if !required.is_object() {
                    errors.push(FieldError::required(
                        &path.child("nodeAffinity"),
                        "Local volume requires node affinity",
                    ));
                }
            }
            "csi" => {
                errors.extend(super::storage::driver_name_required(
                    text(source, "driver"),
                    &at.child("driver"),
                ));
                errors.extend(common::required(source, "volumeHandle", &at));
                for name in [
                    "controllerPublishSecretRef",
                    "controllerExpandSecretRef",
                    "nodePublishSecretRef",
                    "nodeExpandSecretRef",
                ] {
                    secret_reference(&source[name], &at.child(name), &mut errors);
                }
            }
            name => volume_source::source(name, source, true, &at, &mut errors),
        }
    }
    if !found {
        errors.push(FieldError::required(&path, "must specify a volume type"));
    }
    if text(&spec["hostPath"], "path")
        .trim_end_matches('/')
        .is_empty()
        && spec["hostPath"].is_object()
        && policy == "Recycle"
    {
        errors.push(FieldError::forbidden(
            &path.child("persistentVolumeReclaimPolicy"),
            "may not be 'recycle' for a hostPath mount of '/'",
        ));
    }
    class_name(spec, "storageClassName", &path, &mut errors);
    volume_mode(spec, &path, &mut errors);
    class_name(spec, "volumeAttributesClassName", &path, &mut errors);
    errors
}

/// `ValidatePersistentVolumeUpdate`.
pub(in crate::kinds) fn persistent_volume_update(new: &Value, old: &Value) -> Errors {
    // The strategy judges the volume, and the update does again.
    let mut errors = persistent_volume(new);
    errors.extend(persistent_volume(new));
    let (now, before) = (&new["spec"], &old["spec"]);
    let changed = SOURCES
        .iter()
        .any(|(name, _)| !same(&now[*name], &before[*name]));
    if changed {
        errors.push(FieldError::forbidden(
            &Path::new("spec").child("persistentvolumesource"),
            format!(
                "spec.persistentvolumesource is immutable after creation\n{}",
                common::diff(before, now, "PersistentVolumeSource")
            ),
        ));
    }
    errors.extend(common::immutable(
        &now["volumeMode"],
        &before["volumeMode"],
        &Path::new("volumeMode"),
    ));
    if before["nodeAffinity"].is_object() {
        errors.extend(common::immutable(
            &now["nodeAffinity"],
            &before["nodeAffinity"],
            &Path::new("nodeAffinity"),
        ));
    }
    errors
}

/// `ValidatePersistentVolumeClaimSpec`.
pub(super) fn claim_spec(spec: &Value, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if list(spec, "accessModes").is_empty() {
        errors.push(FieldError::required(
            &path.child("accessModes"),
            "at least 1 access mode is required",
        ));
    }
    errors.extend(common::label_selector(
        &spec["selector"],
        &path.child("selector"),
    ));
    access_modes(spec, path, &mut errors);
    let at = path.child("resources").key("storage");
    let storage = &spec["resources"]["requests"]["storage"];
    if storage.is_null() {
        errors.push(FieldError::required(&at, ""));
    } else {
        errors.extend(positive(storage, &at));
    }
    class_name(spec, "storageClassName", path, &mut errors);
    volume_mode(spec, path, &mut errors);
    for name in ["dataSource", "dataSourceRef"] {
        let source = &spec[name];
        if !source.is_object() {
            continue;
        }
        let at = path.child(name);
        for field in ["name", "kind"] {
            errors.extend(common::required(source, field, &at));
        }
        let group = text(source, "apiGroup");
        if group.is_empty() && text(source, "kind") != "PersistentVolumeClaim" {
            errors.push(FieldError::invalid(
                &at,
                text(source, "kind"),
                "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
            ));
        }
        if !group.is_empty() {
            errors.extend(invalid(
                &at.child("apiGroup"),
                group,
                names::dns_subdomain(group),
            ));
        }
        let namespace = text(source, "namespace");
        if name == "dataSourceRef" && !namespace.is_empty() {
            errors.extend(invalid(
                &at.child("namespace"),
                namespace,
                names::dns_label(namespace),
            ));
        }
    }
    let (source, reference) = (&spec["dataSource"], &spec["dataSourceRef"]);
    let unlike = ["apiGroup", "kind", "name"]
        .iter()
        .any(|name| source[*name] != reference[*name]);
    let both = source.is_object() && reference.is_object();
    let clash = if !text(reference, "namespace").is_empty() {
        both.then_some("may not be specified when dataSourceRef.namespace is specified")
    } else {
        (both && unlike).then_some("must match dataSourceRef")
    };
    if let Some(message) = clash {
        // Upstream prints the path where the value should be.
        let mut error = FieldError::invalid(path, Value::Null, message);
        error.shown = Some("{}".to_owned());
        errors.push(error);
    }
    class_name(spec, "volumeAttributesClassName", path, &mut errors);
    errors
}

/// `ValidatePersistentVolumeClaim`.
pub(in crate::kinds) fn claim(claim: &Value) -> Errors {
    claim_spec(&claim["spec"], &Path::new("spec"))
}

fn put(spec: &mut Value, name: &str, value: &Value) {
    if value.is_null() {
        remove(spec, name);
    } else {
        spec[name] = value.clone();
    }
}

/// `ValidatePersistentVolumeClaimUpdate`.
pub(in crate::kinds) fn claim_update(new: &Value, old: &Value) -> Errors {
    let mut errors = claim(new);
    let bound = text(&new["status"], "phase") == "Bound";
    let (mut now, mut before) = (new["spec"].clone(), old["spec"].clone());
    if text(&before, "volumeName").is_empty() {
        put(&mut before, "volumeName", &now["volumeName"]);
    }
    if bound {
        let class = "volumeAttributesClassName";
        put(&mut now, class, &before[class]);
        if now["resources"]["requests"].is_object() {
            let storage = &before["resources"]["requests"]["storage"];
            put(&mut now["resources"]["requests"], "storage", storage);
        }
    }
    if !same(&now, &before) {
        errors.push(FieldError::forbidden(
            &Path::new("spec"),
            format!(
                "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n{}",
                common::diff(&before, &now, "PersistentVolumeClaimSpec")
            ),
        ));
    }
    let size = |claim: &Value| common::quantity(&claim["spec"]["resources"]["requests"]["storage"]);
    let capacity = common::quantity(&old["status"]["capacity"]["storage"]);
    if size(new) < size(old) && size(new) <= capacity {
        errors.push(FieldError::forbidden(
            &Path::new("spec")
                .child("resources")
                .child("requests")
                .child("storage"),
            "field can not be less than status.capacity",
        ));
    }
    errors.extend(common::immutable(
        &new["spec"]["volumeMode"],
        &old["spec"]["volumeMode"],
        &Path::new("volumeMode"),
    ));
    errors
}

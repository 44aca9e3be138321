//! Volumes of a pod.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{common, container, volume_kinds};
use crate::kinds::value::{indexed, invalid, list, text};
use crate::{FieldError, Path, names};

type Errors = Vec<FieldError>;

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// `ValidateVolumes`; answers the well-formed ones by name.
pub(super) fn volumes(
    spec: &Value,
    pod: &str,
    path: &Path,
    errors: &mut Errors,
) -> Map<String, Value> {
    let mut out = Map::new();
    for (index, volume) in list(spec, "volumes").iter().enumerate() {
        let at = path.index(index);
        let name = text(volume, "name");
        let mut wrong = Vec::new();
        sources(volume, pod, &at, &mut wrong);
        if name.is_empty() {
            wrong.push(FieldError::required(&at.child("name"), ""));
        } else {
            wrong.extend(invalid(&at.child("name"), name, names::dns_label(name)));
        }
        if out.contains_key(name) {
            wrong.push(FieldError::duplicate(&at.child("name"), name));
        }
        if wrong.is_empty() {
            out.insert(name.to_owned(), volume.clone());
        }
        errors.extend(wrong);
    }
    out
}

/// Source, its name in errors about a second source, its path.
const SOURCES: &[(&str, &str, &str)] = &[
    ("hostPath", "hostPath", "hostPath"),
    ("gitRepo", "gitRepo", "gitRepo"),
    ("gcePersistentDisk", "gcePersistentDisk", "persistentDisk"),
    (
        "awsElasticBlockStore",
        "awsElasticBlockStore",
        "awsElasticBlockStore",
    ),
    ("secret", "secret", "secret"),
    ("nfs", "nfs", "nfs"),
    ("iscsi", "iscsi", "iscsi"),
    ("glusterfs", "glusterfs", "glusterfs"),
    ("flocker", "flocker", "flocker"),
    (
        "persistentVolumeClaim",
        "persistentVolumeClaim",
        "persistentVolumeClaim",
    ),
    ("rbd", "rbd", "rbd"),
    ("cinder", "cinder", "cinder"),
    ("cephfs", "cephFS", "cephfs"),
    ("quobyte", "quobyte", "quobyte"),
    ("downwardAPI", "downwarAPI", "downwardAPI"),
    ("fc", "fc", "fc"),
    ("flexVolume", "flexVolume", "flexVolume"),
    ("configMap", "configMap", "configMap"),
    ("azureFile", "azureFile", "azureFile"),
    ("vsphereVolume", "vsphereVolume", "vsphereVolume"),
    (
        "photonPersistentDisk",
        "photonPersistentDisk",
        "photonPersistentDisk",
    ),
    ("portworxVolume", "portworxVolume", "portworxVolume"),
    ("azureDisk", "azureDisk", "azureDisk"),
    ("storageos", "storageos", "storageos"),
    ("projected", "projected", "projected"),
    ("scaleIO", "scaleIO", "scaleIO"),
    ("csi", "csi", "csi"),
    ("ephemeral", "ephemeral", "ephemeral"),
    ("image", "image", "image"),
];

fn sources(volume: &Value, pod: &str, at: &Path, errors: &mut Errors) {
    let mut found = false;
    let empty = &volume["emptyDir"];
    if empty.is_object() {
        found = true;
        if !empty["sizeLimit"].is_null() && common::quantity(&empty["sizeLimit"]).sign() < 0 {
            errors.push(FieldError::forbidden(
                &at.child("emptyDir").child("sizeLimit"),
                "SizeLimit field must be a valid resource quantity",
            ));
        }
    }
    for (name, shown, path) in SOURCES {
        if !volume[*name].is_object() {
            continue;
        }
        if found {
            errors.push(FieldError::forbidden(
                &at.child(shown),
                "may not specify more than 1 volume type",
            ));
            continue;
        }
        found = true;
        source(name, &volume[*name], false, &at.child(path), errors);
        if *name == "ephemeral" && !pod.is_empty() && !text(volume, "name").is_empty() {
            let own = text(volume, "name");
            let claim = format!("{pod}-{own}");
            for message in names::dns_subdomain(&claim) {
                errors.push(FieldError::invalid(
                    &at.child("name"),
                    own,
                    format!("PVC name {claim:?}: {message}"),
                ));
            }
        }
    }
    if !found {
        errors.push(FieldError::required(at, "must specify a volume type"));
    }
}

/// Whether a persistent volume's or pod volume's source is well-formed.
pub(super) fn source(kind: &str, source: &Value, persistent: bool, at: &Path, errors: &mut Errors) {
    if volume_kinds::source(kind, source, persistent, at, errors) {
        return;
    }
    let mut need = |names: &[&str]| {
        for name in names {
            errors.extend(common::required(source, name, at));
        }
    };
    match kind {
        "nfs" => {
            need(&["server", "path"]);
            let path = text(source, "path");
            if !path.starts_with('/') {
                errors.push(FieldError::invalid(
                    &at.child("path"),
                    path,
                    "must be an absolute path",
                ));
            }
        }
        "cinder" => {
            need(&["volumeID"]);
            let secret = &source["secretRef"];
            if secret.is_object() {
                let at = at.child("secretRef");
                errors.extend(common::required(secret, "name", &at));
                if persistent {
                    errors.extend(common::required(secret, "namespace", &at));
                }
            }
        }
        "persistentVolumeClaim" => need(&["claimName"]),
        "glusterfs" => {
            need(&["endpoints", "path"]);
            if let Some(namespace) = source["endpointsNamespace"].as_str() {
                let at = at.child("endpointsNamespace");
                if namespace.is_empty() {
                    errors.push(FieldError::invalid(
                        &at,
                        "",
                        "if the endpointnamespace is set, it must be a valid namespace name",
                    ));
                } else {
                    errors.extend(invalid(&at, namespace, names::dns_label(namespace)));
                }
            }
        }
        "azureFile" => {
            need(&["secretName", "shareName"]);
            if source["secretNamespace"] == "" {
                need(&["secretNamespace"]);
            }
        }
        "vsphereVolume" => need(&["volumePath"]),
        "flexVolume" | "csi" => {
            need(&["driver"]);
            let driver = text(source, "driver");
            if kind == "csi" && !driver.is_empty() {
                errors.extend(super::storage::driver_name(driver, &at.child("driver")));
            }
            if kind == "flexVolume" {
                reserved_options(source, at, errors);
            }
            let secret = &source["nodePublishSecretRef"];
            if kind == "csi" && secret.is_object() {
                match text(secret, "name") {
                    "" => errors.push(FieldError::required(
                        &at.child("nodePublishSecretRef").child("name"),
                        "",
                    )),
                    name => {
                        errors.extend(invalid(&at.child("name"), name, names::dns_subdomain(name)))
                    }
                }
            }
        }
        "hostPath" => {
            let path = text(source, "path");
            if path.is_empty() {
                errors.push(FieldError::required(&at.child("path"), ""));
                return;
            }
            errors.extend(common::no_backsteps(path, &at.child("path")));
            let known = [
                "",
                "BlockDevice",
                "CharDevice",
                "Directory",
                "DirectoryOrCreate",
                "File",
                "FileOrCreate",
                "Socket",
            ];
            let kind = text(source, "type");
            if !known.contains(&kind) {
                errors.push(FieldError::not_supported(&at.child("type"), kind, &known));
            }
        }
        "secret" => {
            need(&["secretName"]);
            file_items(source, at, errors);
        }
        "configMap" => {
            need(&["name"]);
            file_items(source, at, errors);
        }
        "downwardAPI" => {
            mode(source, "defaultMode", at, errors);
            for item in list(source, "items") {
                downward_file(item, at, errors);
            }
        }
        "projected" => projected(source, at, errors),
        "ephemeral" => {
            let template = &source["volumeClaimTemplate"];
            if template.is_object() {
                errors.extend(volume_kinds::claim_template(
                    template,
                    &at.child("volumeClaimTemplate"),
                ));
            } else {
                errors.push(FieldError::required(&at.child("volumeClaimTemplate"), ""));
            }
        }
        "image" => {
            need(&["reference"]);
            errors.extend(common::one_of(
                source,
                "pullPolicy",
                &["Always", "IfNotPresent", "Never"],
                at,
            ));
        }
        _ => {}
    }
}

fn reserved_options(source: &Value, at: &Path, errors: &mut Errors) {
    for (key, _) in crate::kinds::value::entries(source, "options") {
        let domain = key.split('/').next().unwrap_or_default().to_lowercase();
        let domain = format!(".{domain}");
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            errors.push(FieldError::invalid(
                &at.child("options").key(key),
                key.as_str(),
                "kubernetes.io and k8s.io namespaces are reserved",
            ));
        }
    }
}

fn mode(holder: &Value, name: &str, at: &Path, errors: &mut Errors) {
    if let Some(mode) = holder[name].as_i64()
        && !(0..=0o777).contains(&mode)
    {
        errors.push(FieldError::invalid(&at.child(name), mode, MODE));
    }
}

fn file_items(source: &Value, at: &Path, errors: &mut Errors) {
    mode(source, "defaultMode", at, errors);
    for (at, item) in indexed(source, "items", at) {
        file_item(item, &at, errors);
    }
}

/// `validateKeyToPath`.
fn file_item(item: &Value, at: &Path, errors: &mut Errors) {
    for name in ["key", "path"] {
        errors.extend(common::required(item, name, at));
    }
    local_path(text(item, "path"), &at.child("path"), errors);
    mode(item, "mode", at, errors);
}

/// `ValidateLocalNonReservedPath`.
fn local_path(value: &str, at: &Path, errors: &mut Errors) {
    errors.extend(common::descending_path(value, at));
    if value.starts_with("..") && !value.starts_with("../") {
        errors.push(FieldError::invalid(at, value, "must not start with '..'"));
    }
}

/// `validateDownwardAPIVolumeFile`.
fn downward_file(item: &Value, at: &Path, errors: &mut Errors) {
    let path = text(item, "path");
    if path.is_empty() {
        errors.push(FieldError::required(&at.child("path"), ""));
    }
    local_path(path, &at.child("path"), errors);
    let (field, resource) = (&item["fieldRef"], &item["resourceFieldRef"]);
    if field.is_object() {
        container::field_reference(field, true, &at.child("fieldRef"), errors);
        if resource.is_object() {
            errors.push(FieldError::invalid(
                at,
                "resource",
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            ));
        }
    } else if resource.is_object() {
        container::resource_reference(resource, true, &at.child("resourceFieldRef"), errors);
    } else {
        errors.push(FieldError::required(
            at,
            "one of fieldRef and resourceFieldRef is required",
        ));
    }
    mode(item, "mode", at, errors);
}

fn projected(volume: &Value, path: &Path, errors: &mut Errors) {
    mode(volume, "defaultMode", path, errors);
    let mut seen = BTreeSet::new();
    for (at, source) in indexed(volume, "sources", path) {
        let mut count = 0;
        for kind in ["secret", "configMap"] {
            let from = &source[kind];
            if !from.is_object() {
                continue;
            }
            count += 1;
            let at = at.child(kind);
            errors.extend(common::required(from, "name", &at));
            for (at, item) in indexed(from, "items", &at) {
                file_item(item, &at, errors);
                let target = text(item, "path");
                if !target.is_empty() && !seen.insert(target) {
                    errors.push(FieldError::invalid(
                        path,
                        text(from, "name"),
                        "conflicting duplicate paths",
                    ));
                }
            }
        }
        if source["downwardAPI"].is_object() {
            count += 1;
            for item in list(&source["downwardAPI"], "items") {
                downward_file(item, &at.child("downwardAPI"), errors);
                let target = text(item, "path");
                if !target.is_empty() && !seen.insert(target) {
                    errors.push(FieldError::invalid(
                        path,
                        target,
                        "conflicting duplicate paths",
                    ));
                }
            }
        }
        let token = &source["serviceAccountToken"];
        if token.is_object() {
            count += 1;
            let at = at.child("serviceAccountToken").child("expirationSeconds");
            let seconds = token["expirationSeconds"].as_i64().unwrap_or_default();
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
            let target = text(token, "path");
            if target.is_empty() {
                errors.push(FieldError::required(&path.child("path"), ""));
            } else {
                local_path(target, &path.child("path"), errors);
            }
        }
        count += usize::from(source["clusterTrustBundle"].is_object());
        count += usize::from(source["podCertificate"].is_object());
        // A source of no kind is projected as nothing.
        if count > 1 {
            errors.push(FieldError::forbidden(
                &at,
                "may not specify more than 1 volume type per source",
            ));
        }
    }
}

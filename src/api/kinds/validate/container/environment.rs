//! Variables of containers, and what they refer to.

use serde_json::Value;

use super::{Errors, common};
use crate::kinds::value::{indexed, invalid, list, text};
use crate::{FieldError, Path, meta, names};

const ENVIRONMENT_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

const VOLUME_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];

const CONTAINER_RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// `validateObjectFieldSelector`.
pub(in crate::kinds::validate) fn field_reference(
    reference: &Value,
    volume: bool,
    at: &Path,
    errors: &mut Errors,
) {
    let (version, field) = (text(reference, "apiVersion"), text(reference, "fieldPath"));
    for (name, value) in [("apiVersion", version), ("fieldPath", field)] {
        if value.is_empty() {
            errors.push(FieldError::required(&at.child(name), ""));
            return;
        }
    }
    let at_field = at.child("fieldPath");
    let unknown = |label: &str| {
        FieldError::invalid(
            &at_field,
            field,
            format!("error converting fieldPath: field label not supported: {label}"),
        )
    };
    if version != "v1" {
        errors.push(FieldError::invalid(
            &at_field,
            field,
            format!("error converting fieldPath: unsupported pod version: {version}"),
        ));
        return;
    }
    let subscript = field
        .split_once("['")
        .and_then(|(path, rest)| Some((path, rest.strip_suffix("']")?)));
    if let Some((path, key)) = subscript {
        match path {
            "metadata.annotations" => {
                errors.extend(meta::label_name(&key.to_lowercase(), at));
            }
            "metadata.labels" => errors.extend(meta::label_name(key, at)),
            _ => errors.push(unknown(field)),
        }
        return;
    }
    let convertible = ENVIRONMENT_FIELDS.contains(&field)
        || VOLUME_FIELDS.contains(&field)
        || matches!(
            field,
            "spec.restartPolicy" | "spec.schedulerName" | "status.phase" | "spec.host"
        );
    let known = if volume {
        VOLUME_FIELDS
    } else {
        ENVIRONMENT_FIELDS
    };
    if !convertible {
        errors.push(unknown(field));
    } else if !known.contains(&field) {
        errors.push(FieldError::not_supported(&at_field, field, known));
    }
}

/// `validateContainerResourceFieldSelector`.
pub(in crate::kinds::validate) fn resource_reference(
    reference: &Value,
    volume: bool,
    at: &Path,
    errors: &mut Errors,
) {
    if volume && text(reference, "containerName").is_empty() {
        errors.push(FieldError::required(&at.child("containerName"), ""));
        return;
    }
    let resource = text(reference, "resource");
    if resource.is_empty() {
        errors.push(FieldError::required(&at.child("resource"), ""));
    } else if !CONTAINER_RESOURCES.contains(&resource)
        && !resource.starts_with("limits.hugepages-")
        && !resource.starts_with("requests.hugepages-")
    {
        errors.push(FieldError::not_supported(
            &at.child("resource"),
            resource,
            CONTAINER_RESOURCES,
        ));
    }
}

pub(super) fn environment(container: &Value, at: &Path, errors: &mut Errors) {
    for (at, variable) in indexed(container, "env", at) {
        let name = text(variable, "name");
        if name.is_empty() {
            errors.push(FieldError::required(&at.child("name"), ""));
        } else {
            errors.extend(invalid(&at.child("name"), name, names::env_var(name)));
        }
        let source = &variable["valueFrom"];
        if !source.is_object() {
            continue;
        }
        let at = at.child("valueFrom");
        let mut count = 0;
        if source["fieldRef"].is_object() {
            count += 1;
            field_reference(&source["fieldRef"], false, &at.child("fieldRef"), errors);
        }
        if source["resourceFieldRef"].is_object() {
            count += 1;
            resource_reference(
                &source["resourceFieldRef"],
                false,
                &at.child("resourceFieldRef"),
                errors,
            );
        }
        for kind in ["configMapKeyRef", "secretKeyRef"] {
            let reference = &source[kind];
            if !reference.is_object() {
                continue;
            }
            count += 1;
            let at = at.child(kind);
            let name = text(reference, "name");
            errors.extend(invalid(&at.child("name"), name, names::dns_subdomain(name)));
            let key = text(reference, "key");
            if key.is_empty() {
                errors.push(FieldError::required(&at.child("key"), ""));
            } else {
                errors.extend(invalid(&at.child("key"), key, names::config_map_key(key)));
            }
        }
        if source["fileKeyRef"].is_object() {
            count += 1;
            file_key(&source["fileKeyRef"], &at.child("fileKeyRef"), errors);
        }
        let message = if count == 0 {
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        } else if !text(variable, "value").is_empty() {
            "may not be specified when `value` is not empty"
        } else if count > 1 {
            "may not have more than one field specified at a time"
        } else {
            continue;
        };
        errors.push(FieldError::invalid(&at, "", message));
    }
    let path = at.child("envFrom");
    for (at, source) in indexed(container, "envFrom", at) {
        let prefix = text(source, "prefix");
        if !prefix.is_empty() {
            errors.extend(invalid(&at.child("prefix"), prefix, names::env_var(prefix)));
        }
        let mut count = 0;
        for kind in ["configMapRef", "secretRef"] {
            if source[kind].is_object() {
                count += 1;
                let at = at.child(kind).child("name");
                match text(&source[kind], "name") {
                    "" => errors.push(FieldError::required(&at, "")),
                    // Upstream takes the name for the beginning of one.
                    name => errors.extend(invalid(
                        &at,
                        name,
                        crate::meta::NameRule::Subdomain.check(name, true),
                    )),
                }
            }
        }
        if count != 1 {
            let message = if count == 0 {
                "must specify one of: `configMapRef` or `secretRef`"
            } else {
                "may not have more than one field specified at a time"
            };
            errors.push(FieldError::invalid(&path, "", message));
        }
    }
}

/// `validateFileKeySelector`.
fn file_key(reference: &Value, at: &Path, errors: &mut Errors) {
    let field = |name: &str| (at.child(name), text(reference, name));
    match field("key") {
        (at, "") => errors.push(FieldError::required(&at, "")),
        (at, key) => errors.extend(invalid(&at, key, names::env_var(key))),
    }
    match field("volumeName") {
        (at, "") => errors.push(FieldError::required(&at, "")),
        (at, name) => errors.extend(invalid(&at, name, names::dns_label(name))),
    }
    match field("path") {
        (at, "") => errors.push(FieldError::required(&at, "")),
        (at, path) => errors.extend(common::no_backsteps(path, &at)),
    }
}

/// `validateFileKeyRefVolumes`: files of variables lie in empty directories.
pub(in crate::kinds::validate) fn file_volumes(spec: &Value, path: &Path, errors: &mut Errors) {
    for kind in ["initContainers", "containers", "ephemeralContainers"] {
        for (at, container) in indexed(spec, kind, path) {
            for (at, variable) in indexed(container, "env", &at) {
                let reference = &variable["valueFrom"]["fileKeyRef"];
                if !reference.is_object() {
                    continue;
                }
                let name = text(reference, "volumeName");
                let at = at
                    .child("valueFrom")
                    .child("fileKeyRef")
                    .child("volumeName");
                let volumes = list(spec, "volumes");
                match volumes.iter().rfind(|volume| text(volume, "name") == name) {
                    None => errors.push(FieldError::not_found(&at, name)),
                    Some(volume) if !volume["emptyDir"].is_object() => {
                        errors.push(FieldError::invalid(
                            &at,
                            name,
                            "referenced volume must be of type emptyDir",
                        ));
                    }
                    Some(_) => {}
                }
            }
        }
    }
}

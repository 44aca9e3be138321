//! Sources of volumes that have rules beyond required fields.

use serde_json::Value;

use super::common;
use crate::kinds::value::{invalid, list, text};
use crate::{FieldError, Path, names};

type Errors = Vec<FieldError>;

fn need(source: &Value, names: &[&str], at: &Path, errors: &mut Errors) {
    for name in names {
        errors.extend(common::required(source, name, at));
    }
}

fn label(source: &Value, name: &str, at: &Path, errors: &mut Errors) {
    let value = text(source, name);
    errors.extend(invalid(&at.child(name), value, names::dns_label(value)));
}

/// Judges a source of one of these kinds, in a pod or in a persistent volume;
/// false for other kinds.
pub(super) fn source(
    kind: &str,
    source: &Value,
    persistent: bool,
    at: &Path,
    errors: &mut Errors,
) -> bool {
    match kind {
        "gitRepo" => {
            need(source, &["repository"], at, errors);
            let directory = text(source, "directory");
            errors.extend(common::descending_path(directory, &at.child("directory")));
        }
        "gcePersistentDisk" | "awsElasticBlockStore" => {
            let id = if kind == "gcePersistentDisk" {
                "pdName"
            } else {
                "volumeID"
            };
            need(source, &[id], at, errors);
            if let Some(partition) = source["partition"].as_i64()
                && !(0..=255).contains(&partition)
            {
                errors.push(FieldError::invalid(
                    &at.child("partition"),
                    partition,
                    names::range_error(1, 255),
                ));
            }
        }
        "iscsi" => iscsi(source, persistent, at, errors),
        "fc" => fibre_channel(source, at, errors),
        "quobyte" => quobyte(source, at, errors),
        "rbd" => {
            if list(source, "monitors").is_empty() {
                errors.push(FieldError::required(&at.child("monitors"), ""));
            }
            need(source, &["image"], at, errors);
        }
        "cephfs" => {
            if list(source, "monitors").is_empty() {
                errors.push(FieldError::required(&at.child("monitors"), ""));
            }
        }
        "flocker" => flocker(source, at, errors),
        "azureDisk" => azure_disk(source, at, errors),
        "portworxVolume" => need(source, &["volumeID"], at, errors),
        "photonPersistentDisk" => need(source, &["pdID"], at, errors),
        "scaleIO" => need(source, &["gateway", "system", "volumeName"], at, errors),
        "storageos" => {
            if text(source, "volumeName").is_empty() {
                errors.push(FieldError::required(&at.child("volumeName"), ""));
            } else {
                label(source, "volumeName", at, errors);
            }
            if !text(source, "volumeNamespace").is_empty() {
                label(source, "volumeNamespace", at, errors);
            }
            let secret = &source["secretRef"];
            if secret.is_object() {
                let at = at.child("secretRef");
                need(secret, &["name"], &at, errors);
                if persistent {
                    need(secret, &["namespace"], &at, errors);
                }
            }
        }
        _ => return false,
    }
    true
}

/// The name of an iSCSI party: `iqn`, `eui` or `naa`.
fn party(name: &str, field: &str, opening: &str, at: &Path) -> Option<FieldError> {
    let at = at.child(field);
    let wrong = || Some(FieldError::invalid(&at, name, "must be valid format"));
    if let Some(rest) = name.strip_prefix("iqn") {
        return if qualified(rest) { None } else { wrong() };
    }
    for (prefix, length) in [("eui", 16), ("naa", 32)] {
        if let Some(rest) = name.strip_prefix(prefix) {
            // Any character stands between the two, as upstream's dot is one
            // of a regular expression.
            let mut rest = rest.chars();
            let parted = rest.next().is_some();
            let rest = rest.as_str();
            let good = rest.len() == length && rest.bytes().all(|b| b.is_ascii_alphanumeric());
            return if parted && good { None } else { wrong() };
        }
    }
    Some(FieldError::invalid(&at, name, opening))
}

/// `.YYYY-MM.DOMAIN:NAME` after `iqn`.
fn qualified(rest: &str) -> bool {
    let bytes = rest.as_bytes();
    let date = bytes.len() > 9
        && bytes[0] == b'.'
        && bytes[1..5].iter().all(u8::is_ascii_digit)
        && bytes[5] == b'-'
        && bytes[6..8].iter().all(u8::is_ascii_digit)
        && bytes[8] == b'.';
    if !date {
        return false;
    }
    let Some((domain, name)) = rest[9..].split_once(':') else {
        return false;
    };
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-.".contains(&b);
    let plain = |c: char| !c.is_ascii_whitespace() && !",;*&$|".contains(c);
    !domain.is_empty() && domain.bytes().all(allowed) && !name.is_empty() && name.chars().all(plain)
}

fn iscsi(source: &Value, persistent: bool, at: &Path, errors: &mut Errors) {
    let opening = if persistent {
        "must be valid format"
    } else {
        "must be valid format starting with iqn, eui, or naa"
    };
    need(source, &["targetPortal"], at, errors);
    match text(source, "iqn") {
        "" => errors.push(FieldError::required(&at.child("iqn"), "")),
        name => errors.extend(party(name, "iqn", opening, at)),
    }
    if let Some(number) = source["lun"].as_i64()
        && !(0..=255).contains(&number)
    {
        let range = names::range_error(0, 255);
        errors.push(FieldError::invalid(&at.child("lun"), number, range));
    }
    let secret = &source["secretRef"];
    let chap = source["chapAuthDiscovery"] == true || source["chapAuthSession"] == true;
    if chap && !secret.is_object() {
        errors.push(FieldError::required(&at.child("secretRef"), ""));
    }
    if persistent && secret.is_object() {
        need(secret, &["name"], &at.child("secretRef"), errors);
    }
    if let Some(initiator) = source["initiatorName"].as_str() {
        errors.extend(party(initiator, "initiatorname", opening, at));
    }
}

fn fibre_channel(source: &Value, at: &Path, errors: &mut Errors) {
    let targets = !list(source, "targetWWNs").is_empty();
    let ids = !list(source, "wwids").is_empty();
    let at_targets = at.child("targetWWNs");
    if !targets && !ids {
        errors.push(FieldError::required(
            &at_targets,
            "must specify either targetWWNs or wwids, but not both",
        ));
    }
    if targets && ids {
        errors.push(FieldError::invalid(
            &at_targets,
            source["targetWWNs"].clone(),
            "targetWWNs and wwids can not be specified simultaneously",
        ));
    }
    if targets {
        let at = at.child("lun");
        match source["lun"].as_i64() {
            None => errors.push(FieldError::required(
                &at,
                "lun is required if targetWWNs is specified",
            )),
            Some(number) if !(0..=255).contains(&number) => {
                errors.push(FieldError::invalid(&at, number, names::range_error(0, 255)));
            }
            Some(_) => {}
        }
    }
}

fn quobyte(source: &Value, at: &Path, errors: &mut Errors) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let registry = text(source, "registry");
    if registry.is_empty() {
        errors.push(FieldError::required(&at.child("registry"), PAIRS));
    } else if text(source, "tenant").len() >= 65 {
        errors.push(FieldError::required(
            &at.child("tenant"),
            "must be a UUID and may not exceed a length of 64 characters",
        ));
    } else {
        for pair in registry.split(',') {
            // One colon, unless the host is in brackets.
            let host = pair.rsplit_once(':').map(|(host, _)| host);
            let good = host.is_some_and(|host| {
                host.starts_with('[') && host.ends_with(']') || !host.contains([':', '[', ']'])
            });
            if !good {
                errors.push(FieldError::invalid(&at.child("registry"), registry, PAIRS));
            }
        }
    }
    need(source, &["volume"], at, errors);
}

fn flocker(source: &Value, at: &Path, errors: &mut Errors) {
    let (name, id) = (text(source, "datasetName"), text(source, "datasetUUID"));
    if name.is_empty() && id.is_empty() {
        errors.push(FieldError::required(
            at,
            "one of datasetName and datasetUUID is required",
        ));
    }
    if !name.is_empty() && !id.is_empty() {
        errors.push(FieldError::invalid(
            at,
            "resource",
            "datasetName and datasetUUID can not be specified simultaneously",
        ));
    }
    if name.contains('/') {
        errors.push(FieldError::invalid(
            &at.child("datasetName"),
            name,
            "must not contain '/'",
        ));
    }
}

fn azure_disk(source: &Value, at: &Path, errors: &mut Errors) {
    need(source, &["diskName", "diskURI"], at, errors);
    for (name, known) in [
        ("cachingMode", ["None", "ReadOnly", "ReadWrite"]),
        ("kind", ["Dedicated", "Managed", "Shared"]),
    ] {
        if let Some(value) = source[name].as_str()
            && !known.contains(&value)
        {
            errors.push(FieldError::not_supported(&at.child(name), value, &known));
        }
    }
    let uri = text(source, "diskURI");
    let (prefix, example) = match source["kind"].as_str() {
        None => return,
        Some("Managed") => (
            "/subscriptions/",
            "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}",
        ),
        Some(_) => (
            "https://",
            "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd",
        ),
    };
    if !uri.starts_with(prefix) {
        errors.push(FieldError::not_supported(
            &at.child("diskURI"),
            uri,
            &[example],
        ));
    }
}

/// `ValidatePersistentVolumeClaimTemplate`.
pub(super) fn claim_template(template: &Value, at: &Path) -> Errors {
    let mut errors = template_metadata(&template["metadata"], &at.child("metadata"));
    errors.extend(super::volume::claim_spec(
        &template["spec"],
        &at.child("spec"),
    ));
    errors
}

/// `ValidateTemplateObjectMeta`: of an object's metadata, a template has
/// labels and annotations alone.
pub(super) fn template_metadata(metadata: &Value, at: &Path) -> Errors {
    let mut errors = crate::meta::annotations(&metadata["annotations"], &at.child("annotations"));
    errors.extend(crate::meta::labels(
        &metadata["labels"],
        &at.child("labels"),
    ));
    for name in [
        "name",
        "generateName",
        "namespace",
        "selfLink",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "ownerReferences",
        "finalizers",
        "managedFields",
    ] {
        if !crate::kinds::value::blank(&metadata[name]) && metadata[name] != 0 {
            // Upstream's path, which is not the field's name.
            let shown = if name == "uid" { "uID" } else { name };
            errors.push(FieldError::forbidden(&at.child(shown), "cannot be set"));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(kind: &str, value: Value, expected: &[&str]) {
        let mut errors = Vec::new();
        source(kind, &value, false, &Path::new(kind), &mut errors);
        let found: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(found, expected, "{kind} {value}");
    }

    #[test]
    fn words() {
        check(
            "iscsi",
            json!({"targetPortal": "p", "iqn": "iqn.2001-04.com.example:x"}),
            &[],
        );
        check(
            "iscsi",
            json!({"targetPortal": "p", "iqn": "iqn.01"}),
            &["iscsi.iqn: Invalid value: \"iqn.01\": must be valid format"],
        );
        check(
            "iscsi",
            json!({"targetPortal": "p", "iqn": "x", "chapAuthSession": true}),
            &[
                "iscsi.iqn: Invalid value: \"x\": must be valid format starting with iqn, eui, or naa",
                "iscsi.secretRef: Required value",
            ],
        );
        check(
            "fc",
            json!({"targetWWNs": ["a"]}),
            &["fc.lun: Required value: lun is required if targetWWNs is specified"],
        );
        check(
            "quobyte",
            json!({"registry": "h:1,[::1]:2", "volume": "v"}),
            &[],
        );
        check(
            "azureDisk",
            json!({"diskName": "d", "diskURI": "x", "kind": "Shared"}),
            &[
                "azureDisk.diskURI: Unsupported value: \"x\": supported values: \"https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd\"",
            ],
        );
    }
}

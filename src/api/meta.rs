//! `metadata`: what the server fills in, what a client may not change, and
//! what is wrong with it.
//!
//! The rules are those of `k8s.io/apimachinery/pkg/api/validation`, with its
//! wording and order.

use serde_json::{Map, Value, json};

use crate::{FieldError, Path, Status, names};

/// The form that a kind's names have.
#[derive(Clone, Copy, Debug, Default)]
pub enum NameRule {
    /// Lower-case DNS subdomain, as most kinds have.
    #[default]
    Subdomain,
    /// DNS label without dots.
    Label,
    /// DNS label that begins with a letter.
    Label1035,
    /// As [`NameRule::Subdomain`], in the words of newer kinds; the prefix of a
    /// generated name is not judged.
    LongName,
    /// Anything that can be a part of a URL's path.
    PathSegment,
    /// A rule of its own; the flag says that a suffix will follow.
    Custom(fn(&str, bool) -> Vec<String>),
}

impl NameRule {
    /// What is wrong with a name, or with the prefix of a generated one.
    pub fn check(self, name: &str, prefix: bool) -> Vec<String> {
        let masked = if prefix {
            names::mask_trailing_dash(name)
        } else {
            name.to_owned()
        };
        match self {
            Self::Subdomain => names::dns_subdomain(&masked),
            Self::Label => names::dns_label(&masked),
            Self::Label1035 => names::dns_1035_label(&masked),
            Self::LongName if prefix => Vec::new(),
            Self::LongName => names::dns_subdomain(name)
                .into_iter()
                .map(|message| match message {
                    long if long == names::max_length_error(names::SUBDOMAIN_MAX) => {
                        format!("must be no more than {} bytes", names::SUBDOMAIN_MAX)
                    }
                    other => other,
                })
                .collect(),
            Self::PathSegment => names::path_segment(name, prefix),
            Self::Custom(rule) => rule(name, prefix),
        }
    }
}

/// Bytes that all annotations of an object may have together.
const ANNOTATIONS_MAX: usize = 256 << 10;
/// Bytes of a field manager's name.
const MANAGER_MAX: usize = 128;
/// Characters of generated suffixes; no vowels, no look-alikes.
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
const GENERATED_MAX: usize = 63;

fn text<'a>(metadata: &'a Value, name: &str) -> &'a str {
    metadata[name].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

/// The object's `metadata`, made if it has none.
///
/// # Panics
/// When the object is no JSON object, which decoding rules out.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    let metadata = &mut object["metadata"];
    if !metadata.is_object() {
        *metadata = json!({});
    }
    metadata.as_object_mut().expect("made an object just above")
}

/// A name from `generateName`: at most 58 of its bytes and five random
/// characters. `pick(n)` answers a random number below `n`.
pub fn generate_name(prefix: &str, mut pick: impl FnMut(usize) -> usize) -> String {
    let mut end = prefix.len().min(GENERATED_MAX - SUFFIX_LENGTH);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = prefix[..end].to_owned();
    for _ in 0..SUFFIX_LENGTH {
        let at = pick(SUFFIX_ALPHABET.len()) % SUFFIX_ALPHABET.len();
        name.push(char::from(SUFFIX_ALPHABET[at]));
    }
    name
}

/// Drops what only the server sets from an object about to be created.
pub fn wipe_system_fields(object: &mut Value) {
    let metadata = metadata_mut(object);
    for name in [
        "creationTimestamp",
        "uid",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
    ] {
        metadata.remove(name);
    }
}

/// Replaces what the server sets on a new object.
pub fn fill_create(object: &mut Value, uid: &str, now: &str) {
    wipe_system_fields(object);
    let metadata = metadata_mut(object);
    metadata.insert("uid".into(), uid.into());
    metadata.insert("creationTimestamp".into(), now.into());
}

/// Sets or clears `metadata.namespace` as the request's path has it.
///
/// # Errors
/// When the object names another namespace.
pub fn match_namespace(object: &mut Value, namespace: &str) -> Result<(), Status> {
    let metadata = metadata_mut(object);
    let own = metadata
        .get("namespace")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if own == namespace {
        return Ok(());
    }
    if namespace.is_empty() {
        metadata.remove("namespace");
    } else if own.is_empty() {
        metadata.insert("namespace".into(), namespace.into());
    } else {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// Takes from the stored object what an update may leave out or not change.
/// The strategy of the kind runs between [`restore_generation`] and this.
pub fn prepare_update(new: &mut Value, old: &Value) {
    let old = &old["metadata"];
    let metadata = metadata_mut(new);
    let missing = |metadata: &Map<String, Value>, name: &str| {
        metadata
            .get(name)
            .is_none_or(|value| value.is_null() || value == "")
    };
    if missing(metadata, "uid") && !old["uid"].is_null() {
        metadata.insert("uid".into(), old["uid"].clone());
    }
    for name in ["creationTimestamp", "deletionTimestamp"] {
        if !old[name].is_null() {
            metadata.insert(name.into(), old[name].clone());
        }
    }
    let grace = "deletionGracePeriodSeconds";
    if missing(metadata, grace) && !old[grace].is_null() {
        metadata.insert(grace.into(), old[grace].clone());
    }
}

/// Puts the stored generation back: clients do not set it.
pub fn restore_generation(new: &mut Value, old: &Value) {
    set_generation(new, generation(old));
}

/// `metadata.generation`, 0 without one.
pub fn generation(object: &Value) -> i64 {
    object["metadata"]["generation"]
        .as_i64()
        .unwrap_or_default()
}

/// Sets `metadata.generation`; 0 leaves it out.
pub fn set_generation(object: &mut Value, generation: i64) {
    let metadata = metadata_mut(object);
    if generation == 0 {
        metadata.remove("generation");
    } else {
        metadata.insert("generation".into(), generation.into());
    }
}

/// Checks `preconditions` of a delete or update.
///
/// # Errors
/// Why they do not hold, for [`Status::conflict`].
pub fn preconditions(preconditions: &Value, object: &Value) -> Result<(), String> {
    for (name, label) in [("uid", "UID"), ("resourceVersion", "ResourceVersion")] {
        let Some(wanted) = preconditions[name].as_str() else {
            continue;
        };
        let actual = text(&object["metadata"], name);
        if wanted != actual {
            return Err(format!(
                "Precondition failed: {label} in precondition: {wanted}, {label} in object meta: {actual}"
            ));
        }
    }
    Ok(())
}

/// `ValidateObjectMeta`: everything wrong with `metadata`.
pub fn validate(
    metadata: &Value,
    namespaced: bool,
    rule: NameRule,
    path: &Path,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let prefix = text(metadata, "generateName");
    if !prefix.is_empty() {
        for message in rule.check(prefix, true) {
            errors.push(FieldError::invalid(
                &path.child("generateName"),
                prefix,
                message,
            ));
        }
    }
    let name = text(metadata, "name");
    if name.is_empty() {
        errors.push(FieldError::required(
            &path.child("name"),
            "name or generateName is required",
        ));
    } else {
        for message in rule.check(name, false) {
            errors.push(FieldError::invalid(&path.child("name"), name, message));
        }
    }
    let namespace = text(metadata, "namespace");
    let at = path.child("namespace");
    if !namespaced {
        if !namespace.is_empty() {
            errors.push(FieldError::forbidden(&at, "not allowed on this type"));
        }
    } else if namespace.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else {
        for message in names::dns_label(namespace) {
            errors.push(FieldError::invalid(&at, namespace, message));
        }
    }
    let generation = metadata["generation"].as_i64().unwrap_or_default();
    if generation < 0 {
        errors.push(FieldError::invalid(
            &path.child("generation"),
            generation,
            "must be greater than or equal to 0",
        ));
    }
    errors.extend(labels(&metadata["labels"], &path.child("labels")));
    errors.extend(annotations(
        &metadata["annotations"],
        &path.child("annotations"),
    ));
    errors.extend(owner_references(
        list(metadata, "ownerReferences"),
        &path.child("ownerReferences"),
    ));
    errors.extend(finalizers(
        list(metadata, "finalizers"),
        &path.child("finalizers"),
    ));
    errors.extend(managed_fields(
        list(metadata, "managedFields"),
        &path.child("managedFields"),
    ));
    errors
}

/// `ValidateObjectMetaUpdate`: what a change of `metadata` may not do.
pub fn validate_update(new: &Value, old: &Value, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !old["deletionTimestamp"].is_null() {
        let mut extra: Vec<&str> = list(new, "finalizers")
            .iter()
            .filter(|one| !list(old, "finalizers").contains(one))
            .filter_map(Value::as_str)
            .collect();
        extra.sort_unstable();
        extra.dedup();
        if !extra.is_empty() {
            let quoted: Vec<String> = extra.iter().map(|one| format!("{one:?}")).collect();
            errors.push(FieldError::forbidden(
                &path.child("finalizers"),
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    quoted.join(", ")
                ),
            ));
        }
    }
    if text(new, "resourceVersion").is_empty() {
        errors.push(FieldError::invalid(
            &path.child("resourceVersion"),
            "",
            "must be specified for an update",
        ));
    }
    let generation = |metadata: &Value| metadata["generation"].as_i64().unwrap_or_default();
    if generation(new) < generation(old) {
        errors.push(FieldError::invalid(
            &path.child("generation"),
            generation(new),
            "must not be decremented",
        ));
    }
    for name in ["name", "namespace", "uid"] {
        if text(new, name) != text(old, name) {
            errors.push(immutable(&path.child(name), text(new, name)));
        }
    }
    for name in [
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        if new[name] != old[name] {
            errors.push(immutable(&path.child(name), new[name].clone()));
        }
    }
    errors.extend(labels(&new["labels"], &path.child("labels")));
    errors.extend(annotations(&new["annotations"], &path.child("annotations")));
    errors.extend(owner_references(
        list(new, "ownerReferences"),
        &path.child("ownerReferences"),
    ));
    errors.extend(managed_fields(
        list(new, "managedFields"),
        &path.child("managedFields"),
    ));
    errors
}

/// `field is immutable`.
pub fn immutable(path: &Path, value: impl Into<Value>) -> FieldError {
    FieldError::invalid(path, value, "field is immutable")
}

/// `ValidateLabels`.
pub fn labels(labels: &Value, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, value) in labels.as_object().into_iter().flatten() {
        errors.extend(label_name(key, path));
        let value = value.as_str().unwrap_or_default();
        for message in names::label_value(value) {
            errors.push(FieldError::invalid(path, value, message));
        }
    }
    errors
}

/// `ValidateLabelName`.
pub fn label_name(key: &str, path: &Path) -> Vec<FieldError> {
    names::qualified_name(key)
        .into_iter()
        .map(|message| FieldError::invalid(path, key, message))
        .collect()
}

/// `ValidateAnnotations`.
pub fn annotations(annotations: &Value, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut size = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        for message in names::qualified_name(&key.to_lowercase()) {
            errors.push(FieldError::invalid(path, &**key, message));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_MAX {
        errors.push(FieldError::too_long(path, ANNOTATIONS_MAX));
    }
    errors
}

/// `ValidateOwnerReferences`.
pub fn owner_references(references: &[Value], path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut controller: Option<String> = None;
    for reference in references {
        let api_version = text(reference, "apiVersion");
        let version = api_version.rsplit('/').next().unwrap_or_default();
        if version.is_empty() || api_version.matches('/').count() > 1 {
            errors.push(FieldError::invalid(
                &path.child("apiVersion"),
                api_version,
                "version must not be empty",
            ));
        }
        for name in ["kind", "name", "uid"] {
            if text(reference, name).is_empty() {
                errors.push(FieldError::invalid(
                    &path.child(name),
                    "",
                    "must not be empty",
                ));
            }
        }
        if api_version == "v1" && text(reference, "kind") == "Event" {
            errors.push(FieldError::invalid(
                path,
                reference.clone(),
                "/v1, Kind=Event is disallowed from being an owner",
            ));
        }
        if reference["controller"] == true {
            let name = format!("{}/{}", text(reference, "kind"), text(reference, "name"));
            match &controller {
                Some(first) => errors.push(FieldError::invalid(
                    path,
                    references.to_vec(),
                    format!("Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"),
                )),
                None => controller = Some(name),
            }
        }
    }
    errors
}

/// `ValidateFinalizers`.
pub fn finalizers(finalizers: &[Value], path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for one in finalizers.iter().filter_map(Value::as_str) {
        errors.extend(label_name(one, path));
    }
    if finalizers.iter().any(|one| one == "orphan")
        && finalizers.iter().any(|one| one == "foregroundDeletion")
    {
        errors.push(FieldError::invalid(
            path,
            finalizers.to_vec(),
            "finalizer orphan and foregroundDeletion cannot be both set",
        ));
    }
    errors
}

fn managed_fields(entries: &[Value], path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let path = path.index(index);
        let operation = text(entry, "operation");
        if operation != "Apply" && operation != "Update" {
            errors.push(FieldError::invalid(
                &path.child("operation"),
                operation,
                "must be `Apply` or `Update`",
            ));
        }
        let fields = text(entry, "fieldsType");
        if !fields.is_empty() && fields != "FieldsV1" {
            errors.push(FieldError::invalid(
                &path.child("fieldsType"),
                fields,
                "must be `FieldsV1`",
            ));
        }
        errors.extend(field_manager(
            text(entry, "manager"),
            &path.child("manager"),
        ));
        if text(entry, "subresource").len() > 256 {
            errors.push(FieldError::too_long(&path.child("subresource"), 256));
        }
    }
    errors
}

/// `ValidateFieldManager`.
pub fn field_manager(name: &str, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if name.len() > MANAGER_MAX {
        errors.push(FieldError::too_long(path, MANAGER_MAX));
    }
    for (at, c) in name.char_indices().filter(|(_, c)| c.is_control()) {
        errors.push(FieldError::invalid(
            path,
            name,
            format!(
                "invalid character U+{:04X} (at position {at})",
                u32::from(c)
            ),
        ));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names() {
        assert_eq!(generate_name("a-", |_| 0), "a-bbbbb");
        assert_eq!(generate_name(&"x".repeat(80), |n| n - 1).len(), 63);
    }

    #[test]
    fn namespaces() {
        let mut object = json!({"metadata": {"name": "a"}});
        assert!(match_namespace(&mut object, "n").is_ok());
        assert_eq!(object["metadata"]["namespace"], "n");
        assert!(match_namespace(&mut object, "other").is_err());
        assert!(match_namespace(&mut object, "").is_ok());
        assert!(object["metadata"]["namespace"].is_null());
    }

    #[test]
    fn wording() {
        let path = Path::new("metadata");
        let list =
            |errors: Vec<FieldError>| errors.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            list(validate(
                &json!({"namespace": "n"}),
                false,
                NameRule::Subdomain,
                &path
            )),
            [
                "metadata.name: Required value: name or generateName is required",
                "metadata.namespace: Forbidden: not allowed on this type",
            ]
        );
        let old =
            json!({"name": "a", "uid": "1", "deletionTimestamp": "x", "resourceVersion": "1"});
        let new = json!({"name": "b", "uid": "1", "deletionTimestamp": "x", "finalizers": ["x/y"]});
        assert_eq!(
            list(validate_update(&new, &old, &path)),
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"x/y\"}",
                "metadata.resourceVersion: Invalid value: \"\": must be specified for an update",
                "metadata.name: Invalid value: \"b\": field is immutable",
            ]
        );
    }

    #[test]
    fn preconditions_hold_or_say_why() {
        let object = json!({"metadata": {"uid": "1", "resourceVersion": "2"}});
        assert_eq!(preconditions(&json!({"uid": "1"}), &object), Ok(()));
        assert_eq!(
            preconditions(&json!({"resourceVersion": "3"}), &object),
            Err("Precondition failed: ResourceVersion in precondition: 3, ResourceVersion in object meta: 2".to_owned())
        );
    }
}

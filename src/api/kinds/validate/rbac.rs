//! Roles and their bindings.

use serde_json::Value;

use super::common;
use crate::kinds::value::{indexed, invalid, list, text};
use crate::{FieldError, Path, names};

type Errors = Vec<FieldError>;

const GROUP: &str = "rbac.authorization.k8s.io";

/// `ValidateRole` and `ValidateClusterRole`.
pub(in crate::kinds) fn role(role: &Value, cluster: bool) -> Errors {
    let mut errors = Vec::new();
    for (at, rule) in indexed(role, "rules", &Path::root()) {
        if list(rule, "verbs").is_empty() {
            errors.push(FieldError::required(
                &at.child("verbs"),
                "verbs must contain at least one value",
            ));
        }
        let some = |name: &str| !list(rule, name).is_empty();
        if some("nonResourceURLs") {
            let at = at.child("nonResourceURLs");
            let mut wrong = |message: &str| {
                errors.push(FieldError::invalid(
                    &at,
                    rule["nonResourceURLs"].clone(),
                    message,
                ));
            };
            if !cluster {
                wrong("namespaced rules cannot apply to non-resource URLs");
            }
            if some("apiGroups") || some("resources") || some("resourceNames") {
                wrong("rules cannot apply to both regular resources and non-resource URLs");
            }
            continue;
        }
        for (name, what) in [("apiGroups", "api group"), ("resources", "resource")] {
            if !some(name) {
                errors.push(FieldError::required(
                    &at.child(name),
                    format!("resource rules must supply at least one {what}"),
                ));
            }
        }
    }
    let aggregation = &role["aggregationRule"];
    if cluster && aggregation.is_object() {
        let path = Path::new("aggregationRule");
        if list(aggregation, "clusterRoleSelectors").is_empty() {
            errors.push(FieldError::required(
                &path.child("clusterRoleSelectors"),
                "at least one clusterRoleSelector required if aggregationRule is non-nil",
            ));
        }
        for (at, selector) in indexed(aggregation, "clusterRoleSelectors", &path) {
            errors.extend(common::label_selector(selector, &at));
            if crate::LabelSelector::from_object(selector).is_err() {
                let mut error = FieldError::invalid(&at, Value::Null, "invalid label selector.");
                error.shown = Some("null".to_owned());
                errors.push(error);
            }
        }
    }
    errors
}

/// `ValidateRoleBinding` and `ValidateClusterRoleBinding`.
pub(in crate::kinds) fn binding(binding: &Value, cluster: bool) -> Errors {
    let mut errors = Vec::new();
    let (role, path) = (&binding["roleRef"], Path::new("roleRef"));
    let group = text(role, "apiGroup");
    if group != GROUP {
        errors.push(FieldError::not_supported(
            &path.child("apiGroup"),
            group,
            &[GROUP],
        ));
    }
    let known: &[&str] = if cluster {
        &["ClusterRole"]
    } else {
        &["Role", "ClusterRole"]
    };
    let kind = text(role, "kind");
    if !known.contains(&kind) {
        errors.push(FieldError::not_supported(&path.child("kind"), kind, known));
    }
    let name = text(role, "name");
    if name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    } else {
        errors.extend(invalid(
            &path.child("name"),
            name,
            names::path_segment(name, false),
        ));
    }
    for (at, subject) in indexed(binding, "subjects", &Path::root()) {
        let (name, group) = (text(subject, "name"), text(subject, "apiGroup"));
        errors.extend(common::required(subject, "name", &at));
        match text(subject, "kind") {
            "ServiceAccount" => {
                if !name.is_empty() {
                    errors.extend(invalid(&at.child("name"), name, names::dns_subdomain(name)));
                }
                if !group.is_empty() {
                    errors.push(FieldError::not_supported(
                        &at.child("apiGroup"),
                        group,
                        &[""],
                    ));
                }
                if cluster {
                    errors.extend(common::required(subject, "namespace", &at));
                }
            }
            "User" | "Group" => {
                if group != GROUP {
                    errors.push(FieldError::not_supported(
                        &at.child("apiGroup"),
                        group,
                        &[GROUP],
                    ));
                }
            }
            other => errors.push(FieldError::not_supported(
                &at.child("kind"),
                other,
                &["ServiceAccount", "User", "Group"],
            )),
        }
    }
    errors
}

/// `ValidateRoleBindingUpdate`.
pub(in crate::kinds) fn binding_update(new: &Value, old: &Value, cluster: bool) -> Errors {
    let mut errors = binding(new, cluster);
    if new["roleRef"] != old["roleRef"] {
        errors.push(FieldError::invalid(
            &Path::new("roleRef"),
            new["roleRef"].clone(),
            "cannot change roleRef",
        ));
    }
    errors
}

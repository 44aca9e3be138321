//! Validation, one module for each family of kinds.
//!
//! Paths, wording and order are those of upstream's validation, for clients
//! show them and compare them. Metadata is judged in [`crate::meta`].

use serde_json::Value;

use super::value::{invalid, list};
use crate::{FieldError, Path, names};

mod affinity;
mod common;
mod container;
mod volume_kinds;
mod volume_source;
mod windows;

pub(super) mod admission;
pub(super) mod apiextensions;
pub(super) mod apps;
pub(super) mod autoscaling;
pub(super) mod batch;
mod batch_policy;
pub(super) mod certificates;
pub(super) mod config;
pub(super) mod core;
pub(super) mod discovery;
pub(super) mod dynamic;
pub(super) mod event;
pub(super) mod flowcontrol;
pub(super) mod json_schema;
pub(super) mod networking;
pub(super) mod pod;
pub(super) mod pod_status;
pub(super) mod pod_update;
pub(super) mod policy;
pub(super) mod quota;
pub(super) mod rbac;
pub(super) mod service;
pub(super) mod storage;
pub(super) mod volume;

/// Finalizers that are neither standard nor of a domain.
pub(super) fn finalizers(object: &Value) -> Vec<FieldError> {
    let at = Path::new("metadata").child("finalizers");
    list(&object["metadata"], "finalizers")
        .iter()
        .enumerate()
        .filter_map(|(index, name)| core::kube_finalizer(name.as_str()?, &at.index(index)))
        .collect()
}

/// `IsFullyQualifiedDomainName`.
fn fully_qualified(name: &str, at: &Path) -> Vec<FieldError> {
    if name.is_empty() {
        return vec![FieldError::required(at, "")];
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let wrong = names::dns_subdomain(name);
    if !wrong.is_empty() {
        return vec![FieldError::invalid(at, name, wrong.join(","))];
    }
    if !name.contains('.') {
        return vec![FieldError::invalid(
            at,
            name,
            "should be a domain with at least two segments separated by dots",
        )];
    }
    Vec::new()
}

/// `IsDomainPrefixedPath`.
fn domain_prefixed_path(value: &str, at: &Path) -> Vec<FieldError> {
    if value.is_empty() {
        return vec![FieldError::required(at, "")];
    }
    let Some((domain, path)) = value
        .split_once('/')
        .filter(|(domain, path)| !domain.is_empty() && !path.is_empty())
    else {
        return vec![FieldError::invalid(
            at,
            value,
            "must be a domain-prefixed path (such as \"acme.io/foo\")",
        )];
    };
    let mut errors = invalid(at, domain, names::dns_subdomain(domain));
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
    if !path.bytes().all(allowed) {
        errors.push(FieldError::invalid(
            at,
            path,
            names::regex_error("Invalid path", r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+", &[]),
        ));
    }
    errors
}

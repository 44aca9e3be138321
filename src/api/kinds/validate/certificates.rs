//! Certificate signing requests.

use std::collections::BTreeSet;

use base64::Engine as _;
use serde_json::Value;

use crate::kinds::value::{list, text};
use crate::{FieldError, Path, names};

type Errors = Vec<FieldError>;

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// `ValidateCertificateSigningRequestCreate`, all but the request's signature.
pub(in crate::kinds) fn request(request: &Value) -> Errors {
    let (spec, path) = (&request["spec"], Path::new("spec"));
    let mut errors = Vec::new();
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text(spec, "request"))
        .unwrap_or_default();
    let pem = String::from_utf8_lossy(&bytes);
    if !pem.contains("-----BEGIN CERTIFICATE REQUEST-----") {
        errors.push(FieldError::invalid(
            &path.child("request"),
            spec["request"].clone(),
            "PEM block type must be CERTIFICATE REQUEST",
        ));
    }
    let usages = list(spec, "usages");
    let at = path.child("usages");
    if usages.is_empty() {
        errors.push(FieldError::required(&at, ""));
    }
    for (index, usage) in usages.iter().enumerate() {
        let usage = usage.as_str().unwrap_or_default();
        if !USAGES.contains(&usage) {
            errors.push(FieldError::not_supported(&at.index(index), usage, USAGES));
        }
    }
    let mut seen = BTreeSet::new();
    for (index, usage) in usages.iter().enumerate() {
        let usage = usage.as_str().unwrap_or_default();
        if !seen.insert(usage) {
            errors.push(FieldError::duplicate(&at.index(index), usage));
        }
    }
    let signer = text(spec, "signerName");
    let at = path.child("signerName");
    if signer == "kubernetes.io/legacy-unknown" {
        errors.push(FieldError::invalid(
            &at,
            signer,
            "the legacy signerName is not allowed via this API version",
        ));
    } else {
        errors.extend(signer_name(signer, &at));
    }
    if let Some(seconds) = spec["expirationSeconds"].as_i64()
        && seconds < 600
    {
        errors.push(FieldError::invalid(
            &path.child("expirationSeconds"),
            seconds,
            "may not specify a duration less than 600 seconds (10 minutes)",
        ));
    }
    errors
}

/// `ValidateSignerName`: `domain/path`.
fn signer_name(name: &str, at: &Path) -> Errors {
    if name.is_empty() {
        return vec![FieldError::required(at, "")];
    }
    let Some((domain, path)) = name.split_once('/').filter(|(_, path)| !path.contains('/')) else {
        return vec![FieldError::invalid(
            at,
            name,
            "must be a fully qualified domain and path of the form 'example.com/signer-name'",
        )];
    };
    let mut errors = Vec::new();
    for message in names::dns_subdomain(domain) {
        errors.push(FieldError::invalid(
            at,
            domain,
            format!("validating label {domain:?}: {message}"),
        ));
    }
    if domain.split('.').count() < 2 {
        errors.push(FieldError::invalid(
            at,
            domain,
            "should be a domain with at least two segments separated by dots",
        ));
    }
    for message in names::dns_subdomain(path) {
        errors.push(FieldError::invalid(
            at,
            path,
            format!("validating label {path:?}: {message}"),
        ));
    }
    errors
}

//! `CertificateApproval`, `CertificateSigning` and `CertificateSubjectRestriction`:
//! who may approve and sign for whom, and what nobody may ask for.

use std::sync::Arc;

use api::{GroupResource, Status};
use async_trait::async_trait;
use base64::Engine;
use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::{Operation, Plugin, Reader, Review};
use crate::access::{Attributes, Authorizer, MASTERS, User, authorize};

fn is_requests(resource: &GroupResource) -> bool {
    resource.group == "certificates.k8s.io" && resource.resource == "certificatesigningrequests"
}

/// Whom a certificate is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Subject {
    /// Common name.
    pub(crate) common_name: String,
    /// Organisations.
    pub(crate) organizations: Vec<String>,
}

/// The subject of `spec.request`: base64 of PEM of a PKCS #10 request.
pub(crate) fn subject(request: &Value) -> Result<Subject, String> {
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(request.as_str().unwrap_or(""))
        .map_err(|error| error.to_string())?;
    let wrong = "PEM block type must be CERTIFICATE REQUEST";
    let (_, pem) = x509_parser::pem::parse_x509_pem(&bytes).map_err(|_| wrong.to_owned())?;
    if pem.label != "CERTIFICATE REQUEST" {
        return Err(wrong.to_owned());
    }
    let (_, request) =
        X509CertificationRequest::from_der(&pem.contents).map_err(|error| error.to_string())?;
    let subject = &request.certification_request_info.subject;
    let text =
        |name: &x509_parser::x509::AttributeTypeAndValue<'_>| name.as_str().ok().map(str::to_owned);
    Ok(Subject {
        common_name: subject
            .iter_common_name()
            .find_map(text)
            .unwrap_or_default(),
        organizations: subject.iter_organization().filter_map(text).collect(),
    })
}

/// Whether a user may do something in the name of a signer, or of all signers
/// of its domain.
async fn may(authorizers: &[Arc<dyn Authorizer>], user: &User, verb: &str, signer: &str) -> bool {
    let domain = signer.split('/').next().unwrap_or("");
    for name in [signer, &format!("{domain}/*")] {
        let attributes = Attributes {
            verb,
            group: "certificates.k8s.io",
            version: "*",
            resource: "signers",
            name,
            is_resource: true,
            ..Attributes::default()
        };
        if authorize(authorizers, user, &attributes).await.allowed {
            return true;
        }
    }
    false
}

/// Approving needs the right to approve for the signer.
pub struct CertificateApproval {
    authorizers: Vec<Arc<dyn Authorizer>>,
}

impl CertificateApproval {
    /// `authorizers` say who may approve.
    pub fn new(authorizers: Vec<Arc<dyn Authorizer>>) -> Self {
        Self { authorizers }
    }
}

#[async_trait]
impl Plugin for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, subresource: &str) -> bool {
        operation == Operation::Update && subresource == "approval" && is_requests(resource)
    }

    async fn validate(
        &self,
        review: &Review<'_>,
        _reader: &dyn Reader,
    ) -> Result<Vec<String>, Status> {
        let signer = signer(review);
        if may(&self.authorizers, review.user, "approve", signer).await {
            return Ok(Vec::new());
        }
        Err(review.forbidden(&format!(
            "user not permitted to approve requests with signerName {signer:?}"
        )))
    }
}

/// Signing needs the right to sign for the signer.
pub struct CertificateSigning {
    authorizers: Vec<Arc<dyn Authorizer>>,
}

impl CertificateSigning {
    /// `authorizers` say who may sign.
    pub fn new(authorizers: Vec<Arc<dyn Authorizer>>) -> Self {
        Self { authorizers }
    }
}

#[async_trait]
impl Plugin for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, subresource: &str) -> bool {
        operation == Operation::Update && subresource == "status" && is_requests(resource)
    }

    async fn validate(
        &self,
        review: &Review<'_>,
        _reader: &dyn Reader,
    ) -> Result<Vec<String>, Status> {
        let unchanged = |field: &str| {
            review
                .old
                .is_some_and(|old| old["status"][field] == review.object["status"][field])
        };
        if unchanged("certificate") && unchanged("conditions") {
            return Ok(Vec::new());
        }
        let signer = signer(review);
        if may(&self.authorizers, review.user, "sign", signer).await {
            return Ok(Vec::new());
        }
        Err(review.forbidden(&format!(
            "user not permitted to sign requests with signerName {signer:?}"
        )))
    }
}

/// The signer of the request as it is stored.
fn signer<'a>(review: &Review<'a>) -> &'a str {
    review
        .old
        .and_then(|old| old["spec"]["signerName"].as_str())
        .unwrap_or("")
}

/// Nobody becomes a master by a certificate that is asked for.
#[derive(Debug, Default)]
pub struct CertificateSubjectRestriction;

#[async_trait]
impl Plugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, subresource: &str) -> bool {
        operation == Operation::Create && subresource.is_empty() && is_requests(resource)
    }

    async fn validate(
        &self,
        review: &Review<'_>,
        _reader: &dyn Reader,
    ) -> Result<Vec<String>, Status> {
        const SIGNER: &str = "kubernetes.io/kube-apiserver-client";
        let spec = &review.object["spec"];
        if spec["signerName"] != SIGNER {
            return Ok(Vec::new());
        }
        let subject = subject(&spec["request"])
            .map_err(|why| review.forbidden(&format!("failed to parse CSR: {why}")))?;
        if subject.organizations.iter().any(|group| group == MASTERS) {
            return Err(review.forbidden(&format!(
                "use of {SIGNER} signer with {MASTERS} group is not allowed"
            )));
        }
        Ok(Vec::new())
    }
}

//! Signs for the controllers: they ask, the keys stay here.

use std::sync::Arc;
use std::time::Duration;

use controllers::{CertificateSubject, Credentials};
use pki::{Ca, CertificateRequest, TokenKey};
use serde_json::{Map, Value};

/// How long certificates last that do not ask for less: a year.
const LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// What is asked for in any case.
const SHORTEST: Duration = Duration::from_secs(600);

/// The cluster's authorities and its token key.
pub(crate) struct ClusterCredentials {
    pub(crate) client_ca: Arc<Ca>,
    pub(crate) server_ca: Arc<Ca>,
    pub(crate) token_key: Arc<TokenKey>,
}

impl Credentials for ClusterCredentials {
    fn read_request(&self, pem: &[u8]) -> Result<CertificateSubject, String> {
        let request = CertificateRequest::from_pem(pem).map_err(|error| error.to_string())?;
        Ok(CertificateSubject {
            common_name: request.common_name,
            organizations: request.organizations,
            has_dns_names: request.has_dns_names,
            has_addresses: request.has_addresses,
            has_emails: request.has_emails,
            has_uris: request.has_uris,
        })
    }

    fn sign_certificate(
        &self,
        serving: bool,
        pem: &[u8],
        usages: &[String],
        seconds: Option<u64>,
    ) -> Result<String, String> {
        let request = CertificateRequest::from_pem(pem).map_err(|error| error.to_string())?;
        let lifetime = seconds
            .map_or(LIFETIME, Duration::from_secs)
            .clamp(SHORTEST, LIFETIME);
        let ca = if serving {
            &self.server_ca
        } else {
            &self.client_ca
        };
        ca.sign_request(&request, usages, lifetime)
            .map_err(|error| error.to_string())
    }

    fn not_after(&self, pem: &[u8]) -> Option<i64> {
        pki::not_after(pem)
    }

    fn sign_token(&self, claims: &Map<String, Value>) -> Result<String, String> {
        self.token_key
            .sign(claims)
            .map_err(|error| error.to_string())
    }
}

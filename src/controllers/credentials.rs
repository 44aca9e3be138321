//! What controllers need keys for. Whoever holds the keys implements it.

use serde_json::{Map, Value};

/// Whom a certificate is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateSubject {
    /// Common name.
    pub common_name: String,
    /// Organisations.
    pub organizations: Vec<String>,
    /// Whether DNS names are asked for.
    pub has_dns_names: bool,
    /// Whether addresses are asked for.
    pub has_addresses: bool,
    /// Whether mail addresses are asked for.
    pub has_emails: bool,
    /// Whether URIs are asked for.
    pub has_uris: bool,
}

/// Signs certificates and tokens of the cluster.
pub trait Credentials: Send + Sync {
    /// Reads a PKCS #10 request, PEM.
    ///
    /// # Errors
    /// Says what is wrong with it.
    fn read_request(&self, pem: &[u8]) -> Result<CertificateSubject, String>;

    /// Signs a request for some usages, by Kubernetes' names, and for so many
    /// seconds; `serving` for a server's certificate, else for a client's.
    /// Answers with PEM.
    ///
    /// # Errors
    /// Says why not.
    fn sign_certificate(
        &self,
        serving: bool,
        pem: &[u8],
        usages: &[String],
        seconds: Option<u64>,
    ) -> Result<String, String>;

    /// When a certificate (PEM) ends, in seconds since 1970.
    fn not_after(&self, pem: &[u8]) -> Option<i64>;

    /// Signs the claims of a token.
    ///
    /// # Errors
    /// Says why not.
    fn sign_token(&self, claims: &Map<String, Value>) -> Result<String, String>;
}

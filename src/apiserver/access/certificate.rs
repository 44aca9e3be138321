//! Users by client certificate: common name is the user, organizations are the groups.

use std::collections::BTreeMap;

use async_trait::async_trait;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Authenticator, InvalidCredential, User};

/// Trusts the peer certificate that TLS has already verified against the
/// client CA, its validity and its extended key usage included.
#[derive(Debug, Default)]
pub struct ClientCertificates;

#[async_trait]
impl Authenticator for ClientCertificates {
    async fn authenticate(
        &self,
        _request: &http::request::Parts,
        peer: &[CertificateDer<'static>],
    ) -> Result<Option<User>, InvalidCredential> {
        let Some(leaf) = peer.first() else {
            return Ok(None);
        };
        let (_, certificate) = X509Certificate::from_der(leaf)
            .map_err(|error| InvalidCredential(format!("client certificate: {error}")))?;
        let subject = certificate.subject();
        let Some(name) = subject
            .iter_common_name()
            .next()
            .and_then(|name| name.as_str().ok())
        else {
            return Ok(None);
        };
        let groups = subject
            .iter_organization()
            .filter_map(|group| group.as_str().ok())
            .map(str::to_owned)
            .collect();
        let digest: String = Sha256::digest(leaf)
            .iter()
            .map(|octet| format!("{octet:02x}"))
            .collect();
        Ok(Some(User {
            name: name.to_owned(),
            groups,
            extra: BTreeMap::from([(
                "authentication.kubernetes.io/credential-id".to_owned(),
                vec![format!("X509SHA256={digest}")],
            )]),
            ..User::default()
        }))
    }
}

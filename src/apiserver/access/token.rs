//! Users by bearer token.

use std::collections::HashMap;

use async_trait::async_trait;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};

use super::{Authenticator, InvalidCredential, User};

/// The token of `Authorization: Bearer`, if there is one.
pub(crate) fn bearer(request: &http::request::Parts) -> Option<&str> {
    let value = request
        .headers
        .get(http::header::AUTHORIZATION)?
        .to_str()
        .ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// A fixed set of tokens. They are kept and compared as SHA-256 digests, so
/// that a look-up tells nothing about how much of a guess was right.
#[derive(Debug, Default)]
pub struct StaticTokens(HashMap<[u8; 32], User>);

impl StaticTokens {
    /// Adds a token.
    pub fn insert(&mut self, token: &str, user: User) {
        self.0.insert(Sha256::digest(token.as_bytes()).into(), user);
    }
}

#[async_trait]
impl Authenticator for StaticTokens {
    async fn authenticate(
        &self,
        request: &http::request::Parts,
        _peer: &[CertificateDer<'static>],
    ) -> Result<Option<User>, InvalidCredential> {
        let Some(token) = bearer(request) else {
            return Ok(None);
        };
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        Ok(self.0.get(&digest).cloned())
    }
}

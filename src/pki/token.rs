//! Service-account tokens: JSON Web Tokens signed with ES256 (RFC 7515, 7519).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// Payload of a token.
pub type Claims = Map<String, Value>;

/// Longest token that is looked at, in bytes.
const MAX_TOKEN: usize = 16 * 1024;

/// Why a token is refused. The text is safe to log, never to be sent to who presented it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a JSON Web Token.
    #[error("not a JSON web token")]
    Malformed,
    /// Signed with another key or algorithm.
    #[error("signed by an unknown key")]
    Signature,
}

/// The key that signs and verifies tokens.
pub struct TokenKey {
    pair: EcdsaKeyPair,
    id: String,
    random: SystemRandom,
}

impl TokenKey {
    /// Makes a key; returns it with its PKCS #8 form to be kept.
    pub fn generate() -> Result<(Self, Vec<u8>)> {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
            .map_err(|_| Error::Random)?;
        let key = Self::from_pkcs8(document.as_ref()).ok_or(Error::Random)?;
        Ok((key, document.as_ref().to_vec()))
    }

    /// Loads a PKCS #8 key (DER); `None` if it is not a P-256 key.
    pub fn from_pkcs8(der: &[u8]) -> Option<Self> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random).ok()?;
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(pair.public_key().as_ref()));
        Some(Self { pair, id, random })
    }

    /// Signs claims.
    pub fn sign(&self, claims: &Claims) -> Result<String> {
        let header = json!({ "alg": "ES256", "kid": self.id });
        let mut token = URL_SAFE_NO_PAD.encode(header.to_string());
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(Value::Object(claims.clone()).to_string()));
        let signature = self
            .pair
            .sign(&self.random, token.as_bytes())
            .map_err(|_| Error::Random)?;
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok(token)
    }

    /// Checks form and signature; times, audiences and bound objects are the
    /// caller's to check.
    pub fn verify(&self, token: &str) -> std::result::Result<Claims, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let decode = |part: &str| {
            URL_SAFE_NO_PAD
                .decode(part)
                .map_err(|_| TokenError::Malformed)
        };
        let header: Value =
            serde_json::from_slice(&decode(header)?).map_err(|_| TokenError::Malformed)?;
        if header["alg"] != "ES256" {
            return Err(TokenError::Signature);
        }
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key());
        public
            .verify(signed.as_bytes(), &decode(signature)?)
            .map_err(|_| TokenError::Signature)?;
        serde_json::from_slice(&decode(payload)?).map_err(|_| TokenError::Malformed)
    }

    /// The JSON Web Key Set that verifies these tokens (RFC 7517).
    pub fn jwks(&self) -> Value {
        // An uncompressed point: 0x04, then x and y of 32 octets each.
        let point = self.pair.public_key().as_ref();
        json!({ "keys": [{
            "use": "sig",
            "kty": "EC",
            "kid": self.id,
            "crv": "P-256",
            "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(&point[1..33]),
            "y": URL_SAFE_NO_PAD.encode(&point[33..65]),
        }]})
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn verifies_its_own_and_refuses_the_rest() {
        let (key, der) = TokenKey::generate().unwrap();
        let reloaded = TokenKey::from_pkcs8(&der).unwrap();
        let (other, _) = TokenKey::generate().unwrap();
        let mut claims = Claims::new();
        claims.insert("sub".into(), "system:serviceaccount:default:default".into());
        let token = key.sign(&claims).unwrap();
        assert_eq!(reloaded.verify(&token), Ok(claims));
        assert_eq!(other.verify(&token), Err(TokenError::Signature));
        let (signed, _) = token.rsplit_once('.').unwrap();
        let unsigned = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        let payload = signed.split_once('.').unwrap().1;
        for (bad, why) in [
            (format!("{signed}.AAAA"), TokenError::Signature),
            (format!("{unsigned}.{payload}."), TokenError::Signature),
            ("a.b".into(), TokenError::Malformed),
            (String::new(), TokenError::Malformed),
            ("x".repeat(MAX_TOKEN + 1), TokenError::Malformed),
        ] {
            assert_eq!(key.verify(&bad), Err(why), "{bad:.40}");
        }
    }
}

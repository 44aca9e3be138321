//! Images: references, archives, layers, the store they end up in, and pulls.

pub(crate) mod archive;
pub(crate) mod config;
mod endpoint;
pub(crate) mod import;
pub(crate) mod layer;
pub(crate) mod pull;
pub mod reference;
pub mod registries;
pub(crate) mod store;
pub(crate) mod tar;

/// `sha256:…` of bytes.
pub(crate) fn digest(bytes: &[u8]) -> String {
    use sha2::Digest;
    format!("sha256:{}", hex(&sha2::Sha256::digest(bytes)))
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// The 64 digits of a `sha256:` digest; anything else is refused, since the
/// digits become file names.
pub(crate) fn digits(digest: &str) -> cri::Result<&str> {
    digest
        .strip_prefix("sha256:")
        .filter(|d| d.len() == 64 && d.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
        .ok_or_else(|| {
            crate::error::invalid(format!(
                "digest {digest:?} is not sha256: and 64 lower-case hexadecimal digits"
            ))
        })
}

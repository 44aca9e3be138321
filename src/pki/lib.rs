//! Certificate authorities, certificates and service-account tokens.
//!
//! Everything is P-256: keys are small, signing is quick on boards without
//! acceleration, and every Kubernetes client accepts them. Authorities and
//! keys live as PEM files under `<data-dir>/server/tls`, keys with mode 0600,
//! written atomically; what exists is loaded, what is missing is made.

#![forbid(unsafe_code)]

mod authority;
mod files;
mod kubeconfig;
mod request;
pub mod tls;
mod token;

pub use authority::{Ca, Issued, Leaf, Usage};
pub use files::{Pki, ServerNames, write_secret};
pub use kubeconfig::kubeconfig;
pub use request::{CertificateRequest, RequestError, not_after};
pub use token::{Claims, TokenError, TokenKey};

/// What can go wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: std::path::PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// A file does not hold what its name says.
    #[error(
        "{path} is not a usable {what}; restore it from a backup, or remove the tls folder to make new ones (every kubeconfig and token becomes invalid)"
    )]
    Malformed {
        /// Certificate or key.
        what: &'static str,
        /// Which file.
        path: std::path::PathBuf,
        /// The parser's error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A certificate could not be made.
    #[error("signing a certificate for {subject}")]
    Sign {
        /// Common name of the certificate.
        subject: String,
        /// The signer's error.
        #[source]
        source: rcgen::Error,
    },
    /// Certificates or keys that TLS does not accept.
    #[error("setting up TLS")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The operating system gave no randomness.
    #[error("no randomness from the operating system")]
    Random,
}

/// Result of a key or certificate operation.
pub type Result<T> = std::result::Result<T, Error>;

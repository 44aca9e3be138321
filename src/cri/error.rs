//! What can go wrong across the contract, in the terms the kubelet acts on.

/// Result of a runtime, image or network operation.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed operation: what was tried on which object, and why it failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What kind of failure this is.
    pub kind: ErrorKind,
    /// Operation, object and reason, for a person.
    pub message: String,
    /// The error beneath, if any; its text is not repeated in `message`.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Failures the kubelet tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The sandbox, container or image does not exist.
    NotFound,
    /// It exists already.
    AlreadyExists,
    /// The request itself is wrong and will stay wrong (an invalid image name, a bad mount).
    Invalid,
    /// The registry refused the credentials, or wants some.
    Unauthorized,
    /// The command to run does not exist in the container or is not executable.
    /// Becomes `RunContainerError`/`StartError` in a container status.
    CannotRun,
    /// The operation did not end within its deadline.
    DeadlineExceeded,
    /// Anything else; trying again later may help.
    Internal,
}

impl Error {
    /// An error without a source.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// An error that keeps the one beneath it.
    pub fn with_source(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            kind,
            message: message.into(),
            source: Some(source.into()),
        }
    }
}

//! Shorthands for the contract's error, used all over this crate.

use std::path::Path;

use cri::{Error, ErrorKind};

/// The request is wrong and stays wrong.
pub(crate) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

/// It is not there.
pub(crate) fn not_found(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::NotFound, message)
}

/// Something failed that may work later.
pub(crate) fn internal(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Internal, message)
}

/// Adds what was tried to an error.
pub(crate) trait Context<T> {
    /// `what` says operation and object; the error stays the source.
    fn context(self, what: impl FnOnce() -> String) -> cri::Result<T>;
}

impl<T, E: Into<Box<dyn std::error::Error + Send + Sync>>> Context<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> cri::Result<T> {
        self.map_err(|error| Error::with_source(ErrorKind::Internal, what(), error))
    }
}

/// Adds operation and path to an I/O error.
pub(crate) fn at<T>(result: std::io::Result<T>, what: &str, path: &Path) -> cri::Result<T> {
    result.context(|| format!("{what} {}", path.display()))
}

/// Runs blocking work on the blocking pool.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> cri::Result<T> + Send + 'static,
) -> cri::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .context(|| "a blocking task died".into())?
}

//! What stops a reconciler.

/// A failed run; the queue logs it and tries again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The API server refused or could not be reached.
    ///
    /// The client's error prints the whole `Status` twice over, so this one
    /// carries its message instead of passing it on as a source.
    #[error("{action}: {}", message(refusal))]
    Api {
        action: String,
        refusal: Box<client::Error>,
    },
    /// The cluster does not look as the controller needs it to.
    #[error("{0}")]
    Unmet(String),
}

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Names what was being done when a request failed.
pub(crate) trait During<T> {
    fn during(self, action: impl FnOnce() -> String) -> Result<T>;
}

impl<T> During<T> for Result<T, client::Error> {
    fn during(self, action: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|refusal| Error::Api {
            action: action(),
            refusal: Box::new(refusal),
        })
    }
}

/// Takes an answer of "not found" for success: what was to go is gone.
pub(crate) fn ignore_not_found<T>(outcome: Result<T, client::Error>) -> Result<(), client::Error> {
    match outcome {
        Err(error) if !is_not_found(&error) => Err(error),
        _ => Ok(()),
    }
}

pub(crate) fn is_not_found(error: &client::Error) -> bool {
    matches!(error, client::Error::Api(status) if status.is_not_found())
}

pub(crate) fn is_conflict(error: &client::Error) -> bool {
    matches!(error, client::Error::Api(status) if status.is_conflict())
}

pub(crate) fn is_already_exists(error: &client::Error) -> bool {
    matches!(error, client::Error::Api(status) if status.is_already_exists())
}

pub(crate) fn is_invalid(error: &client::Error) -> bool {
    matches!(error, client::Error::Api(status) if status.is_invalid())
}

/// Whether a create was refused because the namespace is being deleted.
pub(crate) fn is_namespace_terminating(error: &client::Error) -> bool {
    let client::Error::Api(status) = error else {
        return false;
    };
    status
        .details
        .iter()
        .flat_map(|details| &details.causes)
        .any(|cause| cause.reason == "NamespaceTerminating")
}

/// The text a user sees in events and conditions: the server's message alone.
pub(crate) fn message(error: &client::Error) -> String {
    match error {
        client::Error::Api(status) => status.message.clone(),
        error => base::Chain(error).to_string(),
    }
}

impl Error {
    /// The text a user sees in events and conditions.
    pub(crate) fn user_message(&self) -> String {
        match self {
            Self::Api { refusal, .. } => message(refusal),
            Self::Unmet(text) => text.clone(),
        }
    }

    /// Whether someone else's write came first: nothing is wrong, and a look
    /// at the fresh object settles it.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Api { refusal, .. } if is_conflict(refusal))
    }
}

//! Subresources that are not parts of the stored object, and resources that
//! store nothing.

mod access;

use std::sync::Arc;

use api::Status;

use crate::engine::Served;
use crate::handlers::Context;
use crate::http::{RequestBody, Response};
use crate::registry::Registry;

/// What serves a request that the registry alone does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    /// A question about access.
    Review,
    /// `serviceaccounts/token`.
    Token,
    /// Known, but nobody serves it in this build.
    Unserved,
}

impl Special {
    /// Finds out whether a request is special.
    pub(crate) fn of(context: &Context<'_>, served: &Served) -> Option<Self> {
        let info = context.info;
        match info.subresource.as_str() {
            "" if access::is_review(served) && info.verb == "create" => Some(Self::Review),
            "token" if info.verb == "create" => Some(Self::Token),
            "" if served.is_stored => None,
            "status" | "finalize" | "approval" | "resize" | "ephemeralcontainers" => None,
            _ => Some(Self::Unserved),
        }
    }

    /// Serves it.
    pub(crate) async fn run(
        self,
        context: &Context<'_>,
        _registry: Arc<Registry>,
        served: &Served,
        body: RequestBody,
    ) -> Result<Response, Status> {
        match self {
            Self::Review => access::review(context, &served.gvk.kind, body).await,
            Self::Token => access::token(context, body).await,
            Self::Unserved => Ok(crate::http::not_found_page()),
        }
    }
}

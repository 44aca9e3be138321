//! Who is asking, and whether they may.
//!
//! [`Authenticator`] turns a request and its peer certificates into a
//! [`User`]; [`Authorizer`] decides about [`Attributes`]. Both are tried in
//! order: the first authenticator that knows the credential wins, the first
//! authorizer that allows wins. Members of `system:masters` are always allowed.

mod certificate;
pub(crate) mod node;
pub mod policy;
pub mod rbac;
pub(crate) mod references;
pub mod reviews;
pub mod rules;
pub mod service_account;
mod token;

pub use certificate::ClientCertificates;
pub use node::{NODES, NodeAuthorizer, node_of};
pub use rbac::Rbac;
pub use reviews::Reviews;
pub use service_account::ServiceAccountTokens;
pub use token::StaticTokens;

use std::borrow::Cow;
use std::collections::BTreeMap;

use async_trait::async_trait;
use rustls::pki_types::CertificateDer;

/// Group whose members may do everything.
pub const MASTERS: &str = "system:masters";
/// Group of everyone who authenticated.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Group of everyone who did not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// User of requests without a credential.
pub const ANONYMOUS: &str = "system:anonymous";

/// `user.Info`: the authenticated subject of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Name, unique among active users.
    pub name: String,
    /// Identifies the user across time; may be empty.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// What else the authenticator knows.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user of a name and groups.
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        Self {
            name: name.into(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            ..Self::default()
        }
    }

    /// The user of a request without a credential.
    pub fn anonymous() -> Self {
        Self::new(ANONYMOUS, &[UNAUTHENTICATED])
    }

    /// Whether the user is a member of a group.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// The same with `system:authenticated` among its groups.
    #[must_use]
    pub(crate) fn authenticated(mut self) -> Self {
        if self.name != ANONYMOUS && !self.in_group(AUTHENTICATED) {
            self.groups.push(AUTHENTICATED.to_owned());
        }
        self
    }
}

/// A credential was given and is not valid; answered with 401.
#[derive(Debug, thiserror::Error)]
#[error("invalid credential: {0}")]
pub struct InvalidCredential(pub String);

/// Recognises users by their credentials.
#[async_trait]
pub trait Authenticator: Send + Sync {
    /// The user this request's credential names; `None` when it carries no
    /// credential of this authenticator's sort.
    async fn authenticate(
        &self,
        request: &http::request::Parts,
        peer: &[CertificateDer<'static>],
    ) -> Result<Option<User>, InvalidCredential>;
}

/// `authorizer.Attributes`: what a request wants to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// `get`, `list`, `create`, …; the lower-case HTTP method for other paths.
    pub verb: &'a str,
    /// Namespace; empty if none.
    pub namespace: &'a str,
    /// API group; empty for core.
    pub group: &'a str,
    /// API version.
    pub version: &'a str,
    /// Resource, such as `pods`.
    pub resource: &'a str,
    /// Subresource, such as `log`; empty if none.
    pub subresource: &'a str,
    /// Object name; empty if none.
    pub name: &'a str,
    /// URL path.
    pub path: &'a str,
    /// Whether this is about a resource; if not, only verb and path count.
    pub is_resource: bool,
    /// Field selector of a list, watch or deletion of many; empty if none.
    pub field_selector: Cow<'a, str>,
}

/// What an authorizer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether the request may proceed. `false` is no opinion: others are asked.
    pub allowed: bool,
    /// Why; shown to the user when nobody allows.
    pub reason: String,
}

impl Decision {
    /// Yes.
    pub fn allow() -> Self {
        Self {
            allowed: true,
            reason: String::new(),
        }
    }

    /// No opinion.
    pub fn no_opinion(reason: impl Into<String>) -> Self {
        Self {
            allowed: false,
            reason: reason.into(),
        }
    }
}

/// Decides about requests.
#[async_trait]
pub trait Authorizer: Send + Sync {
    /// Whether `user` may do this.
    async fn authorize(&self, user: &User, attributes: &Attributes<'_>) -> Decision;
}

/// Asks each authorizer in turn. `system:masters` are allowed before anyone is asked.
pub async fn authorize(
    authorizers: &[std::sync::Arc<dyn Authorizer>],
    user: &User,
    attributes: &Attributes<'_>,
) -> Decision {
    if user.in_group(MASTERS) {
        return Decision::allow();
    }
    let mut reasons = Vec::new();
    for authorizer in authorizers {
        let decision = authorizer.authorize(user, attributes).await;
        if decision.allowed {
            return decision;
        }
        if !decision.reason.is_empty() {
            reasons.push(decision.reason);
        }
    }
    Decision::no_opinion(reasons.join("\n"))
}

/// Paths that need no credential: health and version.
pub fn is_public(path: &str) -> bool {
    matches!(path, "/version" | "/version/")
        || ["/healthz", "/livez", "/readyz"].iter().any(|prefix| {
            path.strip_prefix(prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
}

/// `"x" cannot get resource "pods" …`: the text after `is forbidden:`.
pub fn forbidden_message(user: &User, attributes: &Attributes<'_>, reason: &str) -> String {
    let mut text = if attributes.is_resource {
        let resource = if attributes.subresource.is_empty() {
            attributes.resource.to_owned()
        } else {
            format!("{}/{}", attributes.resource, attributes.subresource)
        };
        let place = if attributes.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {:?}", attributes.namespace)
        };
        format!(
            "User {:?} cannot {} resource {resource:?} in API group {:?} {place}",
            user.name, attributes.verb, attributes.group
        )
    } else {
        format!(
            "User {:?} cannot {} path {:?}",
            user.name, attributes.verb, attributes.path
        )
    };
    if !reason.is_empty() {
        text.push_str(": ");
        text.push_str(reason);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_paths() {
        for (path, public) in [
            ("/healthz", true),
            ("/livez/ping", true),
            ("/readyz", true),
            ("/version", true),
            ("/healthzx", false),
            ("/metrics", false),
            ("/api", false),
        ] {
            assert_eq!(is_public(path), public, "{path}");
        }
    }

    #[test]
    fn forbidden_texts() {
        let user = User::new("eve", &[]);
        let attributes = Attributes {
            verb: "get",
            namespace: "ns",
            resource: "pods",
            subresource: "log",
            is_resource: true,
            ..Attributes::default()
        };
        assert_eq!(
            forbidden_message(&user, &attributes, ""),
            r#"User "eve" cannot get resource "pods/log" in API group "" in the namespace "ns""#
        );
    }
}

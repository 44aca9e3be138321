//! Every resource the API server serves, once each.

use client::Client;
use client::core::ApiResource;
use client::discovery::{Discovery, Scope};

/// A resource and what can be done with it.
#[derive(Clone, Debug)]
pub(crate) struct Discovered {
    pub(crate) resource: ApiResource,
    pub(crate) namespaced: bool,
    pub(crate) verbs: Vec<String>,
}

impl Discovered {
    pub(crate) fn supports(&self, verb: &str) -> bool {
        self.verbs.iter().any(|known| known == verb)
    }

    /// `pods.` or `deployments.apps`: how upstream names a resource in messages.
    pub(crate) fn dotted(&self) -> String {
        format!("{}.{}", self.resource.plural, self.resource.group)
    }
}

/// Asks the API server what it serves: each kind in its most stable version.
pub(crate) async fn resources(client: &Client) -> Result<Vec<Discovered>, client::Error> {
    let discovery = Discovery::new(client.clone()).run_aggregated().await?;
    let mut found = Vec::new();
    for group in discovery.groups() {
        for (resource, capabilities) in group.resources_by_stability() {
            found.push(Discovered {
                resource,
                namespaced: capabilities.scope == Scope::Namespaced,
                verbs: capabilities.operations,
            });
        }
    }
    Ok(found)
}

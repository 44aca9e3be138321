//! Fills ClusterRoles that aggregate others with the rules of those.

use std::sync::Arc;

use client::api::{Patch, PatchParams};
use client::{Action, Api, Client, Informer, NamespacedName, labels};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use serde_json::json;

use crate::context::{Context, run};
use crate::error::{During, Result, ignore_not_found};

const NAME: &str = "clusterrole-aggregation-controller";

pub(crate) fn register(context: &Context) {
    let roles = context.informers.of::<ClusterRole>();
    let client = context.client(NAME);
    let controller = context.controller(NAME);
    let known = roles.clone();
    controller.watch(&roles, move |role| {
        let aggregating = known.filter(|other| aggregates(other, role));
        let mut keys: Vec<_> = aggregating
            .iter()
            .map(|other| NamespacedName::of(&**other))
            .collect();
        keys.push(NamespacedName::of(role));
        keys
    });
    let state = Arc::new((client, roles));
    run(controller, 1, move |key| {
        let state = state.clone();
        async move { reconcile(&state.0, &state.1, &key).await }
    });
}

/// Whether `role` takes its rules from `other`.
fn aggregates(role: &ClusterRole, other: &ClusterRole) -> bool {
    let rule = role.aggregation_rule.as_ref();
    let selectors = rule.and_then(|rule| rule.cluster_role_selectors.as_deref());
    role.metadata.name != other.metadata.name
        && selectors
            .unwrap_or_default()
            .iter()
            .any(|selector| labels::selects(selector, other.metadata.labels.as_ref()))
}

async fn reconcile(
    client: &Client,
    roles: &Informer<ClusterRole>,
    key: &NamespacedName,
) -> Result<Action> {
    let Some(role) = roles
        .get(key)
        .filter(|role| role.aggregation_rule.is_some())
    else {
        return Ok(Action::Done);
    };
    let mut rules: Vec<PolicyRule> = Vec::new();
    for other in roles.filter(|other| aggregates(&role, other)) {
        for rule in other.rules.iter().flatten() {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    if role.rules.as_deref().unwrap_or_default() == rules {
        return Ok(Action::Done);
    }
    let patch = Patch::Merge(json!({
        "metadata": {"resourceVersion": role.metadata.resource_version},
        "rules": rules,
    }));
    let api = Api::<ClusterRole>::all(client.clone());
    ignore_not_found(api.patch(&key.name, &PatchParams::default(), &patch).await)
        .during(|| format!("aggregating cluster role {key}"))?;
    Ok(Action::Done)
}

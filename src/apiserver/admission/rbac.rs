//! Nobody grants what they do not have: the escalation check of roles and bindings.
//!
//! Upstream does this in the storage of the four kinds. `escalate` on a role
//! and `bind` on what a binding refers to lift it.

use std::sync::Arc;

use api::{GroupResource, Status};
use async_trait::async_trait;
use serde_json::Value;

use super::{Operation, Plugin, Reader, Review};
use crate::access::rbac::Rbac;
use crate::access::rules::{Rule, uncovered};
use crate::access::{Attributes, Authorizer, MASTERS};

const GROUP: &str = "rbac.authorization.k8s.io";

/// The check.
pub struct RbacEscalation {
    rbac: Arc<Rbac>,
}

impl RbacEscalation {
    /// A check against what `rbac` says a user may do.
    pub fn new(rbac: Arc<Rbac>) -> Self {
        Self { rbac }
    }

    async fn may(&self, review: &Review<'_>, verb: &str, resource: &str, name: &str) -> bool {
        let attributes = Attributes {
            verb,
            namespace: review.namespace,
            group: GROUP,
            version: "v1",
            resource,
            name,
            is_resource: true,
            ..Attributes::default()
        };
        self.rbac.authorize(review.user, &attributes).await.allowed
    }

    async fn confirm(&self, review: &Review<'_>, wanted: &[Rule]) -> Result<(), Status> {
        let owned = self.rbac.rules(review.user, review.namespace).await?;
        let missing = uncovered(&owned, wanted);
        if missing.is_empty() {
            return Ok(());
        }
        let mut lines: Vec<String> = compact(missing).iter().map(describe).collect();
        lines.sort();
        lines.dedup();
        Err(review.forbidden(&format!(
            "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
            review.user.name,
            Quoted(&review.user.groups),
            lines.join("\n")
        )))
    }

    async fn check_role(&self, review: &Review<'_>) -> Result<(), Status> {
        if self
            .may(review, "escalate", &review.resource.resource, review.name)
            .await
        {
            return Ok(());
        }
        self.confirm(review, &rules(&review.object)).await?;
        let aggregates = |role: &Value| {
            role["aggregationRule"]["clusterRoleSelectors"]
                .as_array()
                .is_some_and(|list| !list.is_empty())
        };
        if aggregates(&review.object) || review.old.is_some_and(aggregates) {
            let everything = [
                Rule {
                    verbs: vec!["*".into()],
                    api_groups: vec!["*".into()],
                    resources: vec!["*".into()],
                    ..Rule::default()
                },
                Rule {
                    verbs: vec!["*".into()],
                    non_resource_urls: vec!["*".into()],
                    ..Rule::default()
                },
            ];
            if self.confirm(review, &everything).await.is_err() {
                return Err(review
                    .forbidden("must have cluster-admin privileges to use the aggregationRule"));
            }
        }
        Ok(())
    }

    async fn check_binding(&self, review: &Review<'_>) -> Result<(), Status> {
        let reference = &review.object["roleRef"];
        let kind = reference["kind"].as_str().unwrap_or("");
        let name = reference["name"].as_str().unwrap_or("");
        let resource = if kind == "ClusterRole" {
            "clusterroles"
        } else {
            "roles"
        };
        if self.may(review, "bind", resource, name).await {
            return Ok(());
        }
        let Some(wanted) = self.rbac.role_rules(kind, review.namespace, name).await? else {
            let group = GroupResource {
                group: GROUP.into(),
                resource: resource.into(),
            };
            return Err(Status::not_found(&group, name));
        };
        self.confirm(review, &wanted).await
    }
}

#[async_trait]
impl Plugin for RbacEscalation {
    fn name(&self) -> &'static str {
        "RbacEscalation"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, _subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update) && resource.group == GROUP
    }

    async fn validate(
        &self,
        review: &Review<'_>,
        _reader: &dyn Reader,
    ) -> Result<Vec<String>, Status> {
        if review.user.in_group(MASTERS) {
            return Ok(Vec::new());
        }
        let fields: &[&str] = match review.resource.resource.as_str() {
            "roles" | "clusterroles" => &["rules", "aggregationRule"],
            _ => &["roleRef", "subjects"],
        };
        // What changes nothing that is granted needs no right to grant.
        if review.old.is_some_and(|old| {
            fields
                .iter()
                .all(|field| old[field] == review.object[field])
        }) {
            return Ok(Vec::new());
        }
        if fields[0] == "rules" {
            self.check_role(review).await?;
        } else {
            self.check_binding(review).await?;
        }
        Ok(Vec::new())
    }
}

fn rules(role: &Value) -> Vec<Rule> {
    role["rules"]
        .as_array()
        .into_iter()
        .flatten()
        .map(Rule::parse)
        .collect()
}

/// Joins rules that differ in their verbs alone.
fn compact(parts: Vec<Rule>) -> Vec<Rule> {
    let mut joined: Vec<Rule> = Vec::new();
    for part in parts {
        let twin = joined.iter_mut().find(|rule| {
            rule.api_groups == part.api_groups
                && rule.resources == part.resources
                && rule.resource_names == part.resource_names
                && rule.non_resource_urls == part.non_resource_urls
        });
        match twin {
            Some(rule) => rule.verbs.extend(part.verbs),
            None => joined.push(part),
        }
    }
    joined
}

/// `{APIGroups:["apps"], Resources:["deployments"], Verbs:["get"]}`.
fn describe(rule: &Rule) -> String {
    let fields = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("ResourceNames", &rule.resource_names),
        ("Verbs", &rule.verbs),
    ];
    let shown: Vec<String> = fields
        .iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(name, list)| {
            let items: Vec<String> = list.iter().map(|item| format!("{item:?}")).collect();
            format!("{name}:[{}]", items.join(" "))
        })
        .collect();
    format!("{{{}}}", shown.join(", "))
}

/// A list as Go's `%q` prints it: `["a" "b"]`.
struct Quoted<'a>(&'a [String]);

impl std::fmt::Debug for Quoted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let items: Vec<String> = self.0.iter().map(|item| format!("{item:?}")).collect();
        write!(f, "[{}]", items.join(" "))
    }
}

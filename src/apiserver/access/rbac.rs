//! RBAC: which rules apply to a user, found through role bindings.
//!
//! Roles and bindings are compiled once for each generation of the four
//! resources, so that a decision walks the bindings of its subjects only and
//! never decodes an object.

use std::collections::HashMap;
use std::sync::Arc;

use api::{GroupResource, Status};
use async_trait::async_trait;
use parking_lot::RwLock;
use serde_json::Value;

use super::rules::Rule;
use super::{Attributes, Authorizer, Decision, User};
use crate::admission::Reader;

const GROUP: &str = "rbac.authorization.k8s.io";
const RESOURCES: [&str; 4] = [
    "clusterroles",
    "clusterrolebindings",
    "roles",
    "rolebindings",
];

/// The RBAC authorizer.
pub struct Rbac {
    reader: Arc<dyn Reader>,
    compiled: RwLock<Option<(Vec<u64>, Arc<Policy>)>>,
}

/// Everything RBAC knows at one moment.
#[derive(Default)]
struct Policy {
    /// `NAMESPACE/NAME` for roles, `/NAME` for cluster roles.
    roles: HashMap<String, Arc<[Rule]>>,
    /// Subject to what it is bound to.
    bindings: HashMap<Subject, Vec<Binding>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    User(String),
    Group(String),
}

struct Binding {
    /// Namespace it holds in; empty is everywhere.
    namespace: String,
    role: String,
    description: String,
}

/// A rule that applies, with the binding that makes it apply.
pub struct Applied<'a> {
    /// The rule.
    pub rule: &'a Rule,
    /// `RoleBinding "x/y" of Role "z" to User "u"`.
    pub by: &'a str,
}

impl Rbac {
    /// RBAC over the roles and bindings that `reader` sees.
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Self {
            reader,
            compiled: RwLock::default(),
        }
    }

    async fn policy(&self) -> Result<Arc<Policy>, Status> {
        let mut generations = Vec::with_capacity(RESOURCES.len());
        for resource in RESOURCES {
            generations.push(self.reader.generation(&group_resource(resource)).await?);
        }
        if let Some((known, policy)) = &*self.compiled.read()
            && *known == generations
        {
            return Ok(policy.clone());
        }
        let mut policy = Policy::default();
        for resource in ["clusterroles", "roles"] {
            for role in self.reader.list(&group_resource(resource), "").await? {
                policy.add_role(&role);
            }
        }
        for resource in ["clusterrolebindings", "rolebindings"] {
            for binding in self.reader.list(&group_resource(resource), "").await? {
                policy.add_binding(&binding, resource == "clusterrolebindings");
            }
        }
        let policy = Arc::new(policy);
        *self.compiled.write() = Some((generations, policy.clone()));
        Ok(policy)
    }

    /// Every rule that applies to a user in a namespace (cluster-wide ones
    /// alone when it is empty).
    pub async fn rules(&self, user: &User, namespace: &str) -> Result<Vec<Rule>, Status> {
        let policy = self.policy().await?;
        let mut rules = Vec::new();
        policy.visit(user, namespace, |applied| {
            rules.push(applied.rule.clone());
            false
        });
        Ok(rules)
    }

    /// The rules of a role that a binding refers to; `None` if it is absent.
    pub async fn role_rules(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Vec<Rule>>, Status> {
        let (resource, namespace) = match kind {
            "ClusterRole" => ("clusterroles", ""),
            _ => ("roles", namespace),
        };
        let role = self
            .reader
            .get(&group_resource(resource), namespace, name, true)
            .await?;
        Ok(role.map(|role| parse_rules(&role)))
    }
}

#[async_trait]
impl Authorizer for Rbac {
    async fn authorize(&self, user: &User, attributes: &Attributes<'_>) -> Decision {
        let policy = match self.policy().await {
            Ok(policy) => policy,
            Err(error) => return Decision::no_opinion(format!("RBAC: {error}")),
        };
        let mut reason = String::new();
        let allowed = policy.visit(user, attributes.namespace, |applied| {
            let allows = applied.rule.allows(attributes);
            if allows {
                reason = format!("RBAC: allowed by {}", applied.by);
            }
            allows
        });
        Decision { allowed, reason }
    }
}

impl Policy {
    fn add_role(&mut self, role: &Value) {
        let key = format!(
            "{}/{}",
            text(&role["metadata"]["namespace"]),
            text(&role["metadata"]["name"])
        );
        self.roles.insert(key, parse_rules(role).into());
    }

    fn add_binding(&mut self, binding: &Value, cluster_wide: bool) {
        let (kind, role_kind) = if cluster_wide {
            ("ClusterRoleBinding", "ClusterRole")
        } else {
            ("RoleBinding", text(&binding["roleRef"]["kind"]))
        };
        let namespace = text(&binding["metadata"]["namespace"]);
        let name = text(&binding["metadata"]["name"]);
        let role_name = text(&binding["roleRef"]["name"]);
        let role = if role_kind == "ClusterRole" {
            format!("/{role_name}")
        } else {
            format!("{namespace}/{role_name}")
        };
        let full = if cluster_wide {
            name.to_owned()
        } else {
            format!("{name}/{namespace}")
        };
        for subject in binding["subjects"].as_array().into_iter().flatten() {
            let subject_name = text(&subject["name"]);
            let (key, shown) = match text(&subject["kind"]) {
                "User" => (
                    Subject::User(subject_name.to_owned()),
                    format!("{subject_name:?}"),
                ),
                "Group" => (
                    Subject::Group(subject_name.to_owned()),
                    format!("{subject_name:?}"),
                ),
                "ServiceAccount" => {
                    let own = text(&subject["namespace"]);
                    (
                        Subject::User(format!("system:serviceaccount:{own}:{subject_name}")),
                        format!("\"{subject_name}/{own}\""),
                    )
                }
                _ => continue,
            };
            self.bindings.entry(key).or_default().push(Binding {
                namespace: namespace.to_owned(),
                role: role.clone(),
                description: format!(
                    "{kind} {full:?} of {role_kind} {role_name:?} to {} {shown}",
                    text(&subject["kind"])
                ),
            });
        }
    }

    /// Shows each rule that applies until `stop` says so; whether it did.
    fn visit(
        &self,
        user: &User,
        namespace: &str,
        mut stop: impl FnMut(Applied<'_>) -> bool,
    ) -> bool {
        let subjects = std::iter::once(Subject::User(user.name.clone()))
            .chain(user.groups.iter().cloned().map(Subject::Group));
        for subject in subjects {
            for binding in self.bindings.get(&subject).into_iter().flatten() {
                if !binding.namespace.is_empty() && binding.namespace != namespace {
                    continue;
                }
                for rule in self
                    .roles
                    .get(&binding.role)
                    .into_iter()
                    .flat_map(|rules| rules.iter())
                {
                    if stop(Applied {
                        rule,
                        by: &binding.description,
                    }) {
                        return true;
                    }
                }
            }
        }
        false
    }
}

fn parse_rules(role: &Value) -> Vec<Rule> {
    role["rules"]
        .as_array()
        .into_iter()
        .flatten()
        .map(Rule::parse)
        .collect()
}

fn group_resource(resource: &str) -> GroupResource {
    GroupResource {
        group: GROUP.into(),
        resource: resource.into(),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn allowed(policy: &Policy, user: &User, request: &Attributes<'_>) -> bool {
        policy.visit(user, request.namespace, |applied| {
            applied.rule.allows(request)
        })
    }

    #[test]
    fn bindings_hold_in_their_namespace() {
        let mut policy = Policy::default();
        let rules = json!([{ "verbs": ["get"], "apiGroups": [""], "resources": ["pods"] }]);
        policy.add_role(&json!({ "metadata": { "name": "reader" }, "rules": rules }));
        policy.add_role(
            &json!({ "metadata": { "name": "local", "namespace": "a" }, "rules": rules }),
        );
        policy.add_binding(
            &json!({
                "metadata": { "name": "b", "namespace": "a" },
                "roleRef": { "kind": "ClusterRole", "name": "reader" },
                "subjects": [
                    { "kind": "ServiceAccount", "name": "sa", "namespace": "x" },
                    { "kind": "Group", "name": "crew" },
                ],
            }),
            false,
        );
        policy.add_binding(
            &json!({
                "metadata": { "name": "c", "namespace": "b" },
                "roleRef": { "kind": "Role", "name": "local" },
                "subjects": [{ "kind": "Group", "name": "crew" }],
            }),
            false,
        );
        let request = |namespace| Attributes {
            verb: "get",
            namespace,
            resource: "pods",
            is_resource: true,
            ..Attributes::default()
        };
        let account = User::new("system:serviceaccount:x:sa", &[]);
        let crew = User::new("u", &["crew"]);
        assert!(allowed(&policy, &account, &request("a")));
        assert!(!allowed(&policy, &account, &request("b")));
        assert!(allowed(&policy, &crew, &request("a")));
        // A role of the same name in another namespace is another role.
        assert!(!allowed(&policy, &crew, &request("b")));
        assert!(!allowed(&policy, &User::new("sa", &[]), &request("a")));
    }
}

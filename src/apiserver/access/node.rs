//! The Node authorizer: a kubelet may do what its own node and pods need.
//!
//! Upstream keeps a graph from objects to nodes up to date; here the pods of
//! the node are looked through when a kubelet asks, which it does seldom: once
//! for each object it begins to watch.

use std::sync::Arc;

use api::{FieldSelector, GroupResource};
use async_trait::async_trait;
use serde_json::Value;

use super::rules::Rule;
use super::{Attributes, Authorizer, Decision, User, policy, references};
use crate::admission::Reader;

/// Group of all kubelets.
pub const NODES: &str = "system:nodes";
/// What the names of kubelets begin with.
const PREFIX: &str = "system:node:";
/// Where nodes have their leases.
pub(crate) const LEASES: &str = "kube-node-lease";
/// A pod that mirrors one of the node's own. It gives no rights: its node made it.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// The node a user is the kubelet of; `None` if it is none.
pub fn node_of(user: &User) -> Option<&str> {
    let name = user.name.strip_prefix(PREFIX)?;
    user.in_group(NODES).then_some(name)
}

/// The authorizer.
pub struct NodeAuthorizer {
    reader: Arc<dyn Reader>,
    rules: Vec<Rule>,
}

impl NodeAuthorizer {
    /// Decides by the pods and volumes that `reader` sees.
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Self {
            reader,
            rules: policy::node_rules(),
        }
    }

    /// Whether an object is any of the node's business.
    async fn related(&self, node: &str, attributes: &Attributes<'_>) -> Decision {
        if attributes.name.is_empty() {
            return Decision::no_opinion("No Object name found");
        }
        for fresh in [false, true] {
            // What this server has not seen yet may have happened a moment ago.
            if fresh
                && self
                    .reader
                    .get(&core("nodes"), "", node, true)
                    .await
                    .is_err()
            {
                break;
            }
            if self.is_related(node, attributes).await {
                return Decision::allow();
            }
        }
        Decision::no_opinion(format!(
            "no relationship found between node '{node}' and this object"
        ))
    }

    async fn is_related(&self, node: &str, attributes: &Attributes<'_>) -> bool {
        let (namespace, name) = (attributes.namespace, attributes.name);
        let spec_names_node = |object: &Value| object["spec"]["nodeName"] == node;
        match attributes.resource {
            "pods" => {
                let pod = self.get(&core("pods"), namespace, name).await;
                pod.is_some_and(|pod| spec_names_node(&pod))
            }
            "volumeattachments" | "resourceslices" => {
                let resource = GroupResource {
                    group: attributes.group.to_owned(),
                    resource: attributes.resource.to_owned(),
                };
                let object = self.get(&resource, "", name).await;
                object.is_some_and(|object| spec_names_node(&object))
            }
            "serviceaccounts" => self
                .pods(node, namespace)
                .await
                .iter()
                .any(|pod| pod["spec"]["serviceAccountName"] == name),
            "configmaps" => self
                .pods(node, namespace)
                .await
                .iter()
                .any(|pod| references::config_maps(pod).contains(&name)),
            "resourceclaims" => self
                .pods(node, namespace)
                .await
                .iter()
                .any(|pod| references::resource_claims(pod).contains(&name)),
            "persistentvolumeclaims" => self
                .pods(node, namespace)
                .await
                .iter()
                .any(|pod| references::claims(pod).iter().any(|claim| claim == name)),
            "persistentvolumes" => {
                let volume = self.get(&core("persistentvolumes"), "", name).await;
                match volume {
                    Some(volume) => self.uses(node, &volume).await,
                    None => false,
                }
            }
            "secrets" => {
                let direct = self
                    .pods(node, namespace)
                    .await
                    .iter()
                    .any(|pod| references::secrets(pod).contains(&name));
                direct || self.secret_of_volume(node, namespace, name).await
            }
            _ => false,
        }
    }

    async fn secret_of_volume(&self, node: &str, namespace: &str, name: &str) -> bool {
        let volumes = self
            .reader
            .list(&core("persistentvolumes"), "")
            .await
            .unwrap_or_default();
        for volume in volumes {
            if references::volume_secrets(&volume).contains(&(namespace, name))
                && self.uses(node, &volume).await
            {
                return true;
            }
        }
        false
    }

    /// Whether a pod of the node uses the claim a volume is bound to.
    async fn uses(&self, node: &str, volume: &Value) -> bool {
        let claim = &volume["spec"]["claimRef"];
        let (Some(namespace), Some(name)) = (claim["namespace"].as_str(), claim["name"].as_str())
        else {
            return false;
        };
        self.pods(node, namespace)
            .await
            .iter()
            .any(|pod| references::claims(pod).iter().any(|own| own == name))
    }

    async fn get(
        &self,
        resource: &GroupResource,
        namespace: &str,
        name: &str,
    ) -> Option<Arc<Value>> {
        self.reader
            .get(resource, namespace, name, false)
            .await
            .ok()
            .flatten()
    }

    /// The pods of a namespace that run on the node and may give it rights.
    async fn pods(&self, node: &str, namespace: &str) -> Vec<Arc<Value>> {
        if namespace.is_empty() {
            return Vec::new();
        }
        let mut pods = self
            .reader
            .select(&core("pods"), namespace, "spec.nodeName", node)
            .await
            .unwrap_or_default();
        pods.retain(|pod| pod["metadata"]["annotations"].get(MIRROR).is_none());
        pods
    }
}

fn core(resource: &str) -> GroupResource {
    GroupResource {
        group: String::new(),
        resource: resource.to_owned(),
    }
}

fn no(reason: &str) -> Decision {
    Decision::no_opinion(reason)
}

/// Whether the request is limited to what a field says.
fn selects(attributes: &Attributes<'_>, field: &str, value: &str) -> bool {
    FieldSelector::parse(&attributes.field_selector)
        .is_ok_and(|selector| selector.exact(field) == Some(value))
}

#[async_trait]
impl Authorizer for NodeAuthorizer {
    async fn authorize(&self, user: &User, attributes: &Attributes<'_>) -> Decision {
        let Some(node) = node_of(user) else {
            return Decision::default();
        };
        if node.is_empty() {
            return Decision::no_opinion(format!("unknown node for user {:?}", user.name));
        }
        if attributes.is_resource {
            let verb = attributes.verb;
            match (
                attributes.group,
                attributes.resource,
                attributes.subresource,
            ) {
                ("", "secrets" | "configmaps", subresource) => {
                    if !matches!(verb, "get" | "list" | "watch") {
                        return no("can only read resources of this type");
                    }
                    if !subresource.is_empty() {
                        return no("cannot read subresource");
                    }
                    if attributes.namespace.is_empty() {
                        return no("can only read namespaced object of this type");
                    }
                    return self.related(node, attributes).await;
                }
                ("", "persistentvolumeclaims", "status") => {
                    if !matches!(verb, "update" | "patch") {
                        return no("can only get/update/patch this type");
                    }
                    return self.related(node, attributes).await;
                }
                ("", "persistentvolumeclaims" | "persistentvolumes", subresource)
                | ("resource.k8s.io", "resourceclaims", subresource)
                | ("storage.k8s.io", "volumeattachments", subresource) => {
                    if verb != "get" {
                        return no("can only get individual resources of this type");
                    }
                    if !subresource.is_empty() {
                        return no("cannot get subresource");
                    }
                    return self.related(node, attributes).await;
                }
                ("", "serviceaccounts", subresource) => {
                    if verb == "get" && subresource.is_empty() {
                        return self.related(node, attributes).await;
                    }
                    if verb != "create" || attributes.name.is_empty() {
                        return no("can only create tokens for individual service accounts");
                    }
                    if subresource != "token" {
                        return no("can only create token subresource of serviceaccount");
                    }
                    return self.related(node, attributes).await;
                }
                ("coordination.k8s.io", "leases", _) => return lease(node, attributes),
                ("storage.k8s.io", "csinodes", subresource) => {
                    return csi_node(node, attributes, subresource);
                }
                ("resource.k8s.io", "resourceslices", subresource) => {
                    if !subresource.is_empty() {
                        return no("cannot authorize ResourceSlice subresources");
                    }
                    return match verb {
                        "create" => Decision::allow(),
                        "get" | "update" | "patch" | "delete" => {
                            self.related(node, attributes).await
                        }
                        "watch" | "list" | "deletecollection" => {
                            if selects(attributes, "spec.nodeName", node) {
                                Decision::allow()
                            } else {
                                no(
                                    "can only list/watch/deletecollection resourceslices with nodeName field selector",
                                )
                            }
                        }
                        _ => no(
                            "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
                        ),
                    };
                }
                ("", "nodes", subresource) => return own_node(node, attributes, subresource),
                ("", "pods", subresource) => {
                    return match (subresource, verb) {
                        ("", "get") => self.related(node, attributes).await,
                        ("", "list" | "watch") => {
                            if selects(attributes, "spec.nodeName", node) {
                                Decision::allow()
                            } else if attributes.name.is_empty() {
                                no("can only list/watch pods with spec.nodeName field selector")
                            } else {
                                self.related(node, attributes).await
                            }
                        }
                        ("", "create" | "delete")
                        | ("status", "update" | "patch")
                        | ("eviction", "create") => Decision::allow(),
                        _ => Decision::default(),
                    };
                }
                ("certificates.k8s.io", "podcertificaterequests", _) => return Decision::default(),
                _ => {}
            }
        }
        if self.rules.iter().any(|rule| rule.allows(attributes)) {
            return Decision::allow();
        }
        Decision::default()
    }
}

const READ_WRITE: [&str; 5] = ["get", "create", "update", "patch", "delete"];

fn lease(node: &str, attributes: &Attributes<'_>) -> Decision {
    if !READ_WRITE.contains(&attributes.verb) {
        return no("can only get, create, update, patch, or delete a node lease");
    }
    if attributes.namespace != LEASES {
        return Decision::no_opinion(format!(
            "can only access leases in the {LEASES:?} system namespace"
        ));
    }
    // The name of a new lease is looked at by admission.
    if attributes.verb != "create" && attributes.name != node {
        return no("can only access node lease with the same name as the requesting node");
    }
    Decision::allow()
}

fn csi_node(node: &str, attributes: &Attributes<'_>, subresource: &str) -> Decision {
    if !READ_WRITE.contains(&attributes.verb) {
        return no("can only get, create, update, patch, or delete a CSINode");
    }
    if !subresource.is_empty() {
        return no("cannot authorize CSINode subresources");
    }
    if attributes.verb != "create" && attributes.name != node {
        return no("can only access CSINode with the same name as the requesting node");
    }
    Decision::allow()
}

fn own_node(node: &str, attributes: &Attributes<'_>, subresource: &str) -> Decision {
    match (subresource, attributes.verb) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Decision::allow(),
        ("", "get" | "list" | "watch") => match attributes.name {
            name if name == node => Decision::allow(),
            "" => Decision::no_opinion(format!(
                "node '{node}' cannot read all nodes, only its own Node object"
            )),
            other => Decision::no_opinion(format!(
                "node '{node}' cannot read '{other}', only its own Node object"
            )),
        },
        _ => Decision::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Status;
    use serde_json::json;

    /// A cluster of one pod `p` in `ns` on node `n`.
    struct Fake;

    #[async_trait]
    impl Reader for Fake {
        async fn get(
            &self,
            resource: &GroupResource,
            namespace: &str,
            name: &str,
            _fresh: bool,
        ) -> Result<Option<Arc<Value>>, Status> {
            let all = self.list(resource, namespace).await?;
            Ok(all
                .into_iter()
                .find(|object| object["metadata"]["name"] == name))
        }

        async fn list(
            &self,
            resource: &GroupResource,
            namespace: &str,
        ) -> Result<Vec<Arc<Value>>, Status> {
            Ok(match resource.resource.as_str() {
                "pods" if namespace == "ns" => vec![Arc::new(json!({
                    "metadata": { "name": "p", "namespace": "ns" },
                    "spec": {
                        "nodeName": "n",
                        "serviceAccountName": "sa",
                        "volumes": [
                            { "name": "s", "secret": { "secretName": "mine" } },
                            { "name": "c", "persistentVolumeClaim": { "claimName": "claim" } },
                        ],
                    },
                }))],
                "persistentvolumes" => vec![Arc::new(json!({
                    "metadata": { "name": "pv" },
                    "spec": {
                        "claimRef": { "namespace": "ns", "name": "claim" },
                        "csi": { "nodeStageSecretRef": { "namespace": "storage", "name": "key" } },
                    },
                }))],
                _ => Vec::new(),
            })
        }

        async fn generation(&self, _: &GroupResource) -> Result<u64, Status> {
            Ok(0)
        }
    }

    #[tokio::test]
    async fn a_node_gets_what_its_pods_need() {
        let authorizer = NodeAuthorizer::new(Arc::new(Fake));
        let own = User::new("system:node:n", &[NODES]);
        let other = User::new("system:node:other", &[NODES]);
        for (verb, resource, subresource, namespace, name, mine, theirs) in [
            ("get", "secrets", "", "ns", "mine", true, false),
            ("watch", "secrets", "", "ns", "mine", true, false),
            ("get", "secrets", "", "ns", "foreign", false, false),
            ("list", "secrets", "", "ns", "", false, false),
            ("delete", "secrets", "", "ns", "mine", false, false),
            ("get", "secrets", "", "storage", "key", true, false),
            ("get", "configmaps", "", "ns", "x", false, false),
            (
                "get",
                "persistentvolumeclaims",
                "",
                "ns",
                "claim",
                true,
                false,
            ),
            ("get", "persistentvolumes", "", "", "pv", true, false),
            (
                "create",
                "serviceaccounts",
                "token",
                "ns",
                "sa",
                true,
                false,
            ),
            (
                "create",
                "serviceaccounts",
                "token",
                "ns",
                "admin",
                false,
                false,
            ),
            ("get", "pods", "", "ns", "p", true, false),
            ("patch", "pods", "status", "ns", "p", true, true),
            ("patch", "pods", "", "ns", "p", false, false),
            ("list", "pods", "", "", "", false, false),
            ("get", "nodes", "", "", "n", true, false),
            ("list", "nodes", "", "", "", false, false),
            ("list", "services", "", "", "", true, true),
            ("create", "events", "", "ns", "", true, true),
            ("create", "deployments", "", "ns", "", false, false),
        ] {
            let attributes = Attributes {
                verb,
                namespace,
                resource,
                subresource,
                name,
                is_resource: true,
                ..Attributes::default()
            };
            let allowed = authorizer.authorize(&own, &attributes).await.allowed;
            assert_eq!(allowed, mine, "{verb} {resource} {name}");
            let allowed = authorizer.authorize(&other, &attributes).await.allowed;
            assert_eq!(allowed, theirs, "another node: {verb} {resource} {name}");
        }
        let mut attributes = Attributes {
            verb: "watch",
            resource: "pods",
            field_selector: "spec.nodeName=n".into(),
            is_resource: true,
            ..Attributes::default()
        };
        assert!(authorizer.authorize(&own, &attributes).await.allowed);
        assert!(!authorizer.authorize(&other, &attributes).await.allowed);
        attributes.field_selector = "spec.nodeName!=n".into();
        assert!(!authorizer.authorize(&own, &attributes).await.allowed);
    }

    #[tokio::test]
    async fn leases_and_reasons() {
        let authorizer = NodeAuthorizer::new(Arc::new(Fake));
        let own = User::new("system:node:n", &[NODES]);
        for (verb, namespace, name, reason) in [
            ("update", LEASES, "n", ""),
            ("create", LEASES, "", ""),
            (
                "update",
                LEASES,
                "m",
                "can only access node lease with the same name as the requesting node",
            ),
            (
                "update",
                "ns",
                "n",
                "can only access leases in the \"kube-node-lease\" system namespace",
            ),
            (
                "list",
                LEASES,
                "",
                "can only get, create, update, patch, or delete a node lease",
            ),
        ] {
            let attributes = Attributes {
                verb,
                namespace,
                group: "coordination.k8s.io",
                resource: "leases",
                name,
                is_resource: true,
                ..Attributes::default()
            };
            let decision = authorizer.authorize(&own, &attributes).await;
            assert_eq!(decision.reason, reason);
            assert_eq!(decision.allowed, reason.is_empty());
        }
        let stranger = User::new("system:node:n", &[]);
        assert_eq!(node_of(&stranger), None);
    }
}

//! `NodeRestriction`: a kubelet changes its own node and pods, and nothing that
//! would draw other pods, or what belongs to them, to itself.
//!
//! [`crate::access::NodeAuthorizer`] decides by names; this looks into objects.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::{GroupResource, Status};
use async_trait::async_trait;
use serde_json::Value;

use super::certificates::subject;
use super::{Operation, Plugin, Reader, Review, is_core};
use crate::access::{Attributes, Authorizer, authorize, node, references};

const MIRROR: &str = "kubernetes.io/config.mirror";
/// Labels that kubelets set on their own nodes.
const LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

/// The plugin.
pub struct NodeRestriction {
    authorizers: Vec<Arc<dyn Authorizer>>,
}

impl NodeRestriction {
    /// `authorizers` say whether a node may ask for tokens of an audience that
    /// no volume of the pod names.
    pub fn new(authorizers: Vec<Arc<dyn Authorizer>>) -> Self {
        Self { authorizers }
    }

    async fn check(&self, review: &Review<'_>, reader: &dyn Reader) -> Result<(), Status> {
        let Some(node) = node::node_of(review.user) else {
            return Ok(());
        };
        if node.is_empty() {
            return Err(review.forbidden(&format!(
                "could not determine node from user {:?}",
                review.user.name
            )));
        }
        let resource = review.resource;
        match (
            resource.group.as_str(),
            resource.resource.as_str(),
            review.subresource,
        ) {
            ("", "pods", "") => pod(review, node, reader).await,
            ("", "pods", "status") => pod_status(review, node),
            ("", "pods", "eviction") => eviction(review, node, reader).await,
            ("", "pods", other) => Err(review.forbidden(&format!(
                "unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"
            ))),
            ("", "nodes", _) => own_node(review, node),
            ("", "persistentvolumeclaims", "status") => claim_status(review, node),
            ("", "persistentvolumeclaims", _) => {
                Err(review.forbidden("may only update PVC status"))
            }
            ("", "serviceaccounts", "token") => self.token(review, node, reader).await,
            ("coordination.k8s.io", "leases", _) => {
                if review.namespace != node::LEASES {
                    return Err(review.forbidden(&format!(
                        "can only access leases in the {:?} system namespace",
                        node::LEASES
                    )));
                }
                same_name(review, node, "node lease")
            }
            ("storage.k8s.io", "csinodes", _) => same_name(review, node, "CSINode"),
            ("resource.k8s.io", "resourceslices", _) => slice(review, node),
            ("certificates.k8s.io", "certificatesigningrequests", _) => signing(review, node),
            ("certificates.k8s.io", "podcertificaterequests", _) => {
                Err(review.forbidden("PodCertificateRequest feature gate is disabled"))
            }
            _ => Ok(()),
        }
    }

    /// A token is for a pod on this node, and for an audience the pod asks for.
    async fn token(
        &self,
        review: &Review<'_>,
        node: &str,
        reader: &dyn Reader,
    ) -> Result<(), Status> {
        let spec = &review.object["spec"];
        let reference = &spec["boundObjectRef"];
        let name = reference["name"].as_str().unwrap_or("");
        if reference["apiVersion"] != "v1" || reference["kind"] != "Pod" || name.is_empty() {
            return Err(review.forbidden("node requested token not bound to a pod"));
        }
        let uid = reference["uid"].as_str().unwrap_or("");
        if uid.is_empty() {
            return Err(review.forbidden("node requested token with a pod binding without a uid"));
        }
        let pod = find(reader, "pods", review.namespace, name).await?;
        if pod["metadata"]["uid"] != uid {
            return Err(review.forbidden(&format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. \
                 The object might have been deleted and then recreated"
            )));
        }
        if pod["spec"]["nodeName"] != node {
            return Err(review
                .forbidden("node requested token bound to a pod scheduled on a different node"));
        }
        let audience = match spec["audiences"].as_array().map(Vec::as_slice) {
            None | Some([]) => "",
            Some([one]) => one.as_str().unwrap_or(""),
            Some(_) => {
                return Err(review.forbidden("node may only request 0 or 1 audiences"));
            }
        };
        if asks_for(reader, &pod, audience).await {
            return Ok(());
        }
        let attributes = Attributes {
            verb: "request-serviceaccounts-token-audience",
            namespace: review.namespace,
            version: "v1",
            resource: audience,
            name: review.name,
            is_resource: true,
            ..Attributes::default()
        };
        if authorize(&self.authorizers, review.user, &attributes)
            .await
            .allowed
        {
            return Ok(());
        }
        Err(review.forbidden(&format!(
            "audience {audience:?} not found in pod spec volume, {} is not authorized to request \
             tokens for this audience",
            review.user.name
        )))
    }
}

#[async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, _subresource: &str) -> bool {
        operation != Operation::Connect
            && (matches!(
                resource.group.as_str(),
                "coordination.k8s.io"
                    | "storage.k8s.io"
                    | "resource.k8s.io"
                    | "certificates.k8s.io"
            ) || ["pods", "nodes", "persistentvolumeclaims", "serviceaccounts"]
                .iter()
                .any(|name| is_core(resource, name)))
    }

    async fn mutate(
        &self,
        review: &mut Review<'_>,
        reader: &dyn Reader,
    ) -> Result<Vec<String>, Status> {
        self.check(review, reader).await?;
        Ok(Vec::new())
    }
}

async fn find(
    reader: &dyn Reader,
    resource: &str,
    namespace: &str,
    name: &str,
) -> Result<Arc<Value>, Status> {
    let resource = GroupResource {
        group: String::new(),
        resource: resource.to_owned(),
    };
    reader
        .get(&resource, namespace, name, true)
        .await?
        .ok_or_else(|| Status::not_found(&resource, name))
}

async fn pod(review: &Review<'_>, node: &str, reader: &dyn Reader) -> Result<(), Status> {
    match review.operation {
        Operation::Create => mirror(review, node, reader).await,
        Operation::Delete => {
            if review
                .old
                .is_some_and(|old| old["spec"]["nodeName"] == node)
            {
                return Ok(());
            }
            Err(review.forbidden(&format!(
                "node {node:?} can only delete pods with spec.nodeName set to itself"
            )))
        }
        Operation::Update | Operation::Connect => Err(review.forbidden(&format!(
            "unexpected operation \"UPDATE\", node {node:?} can only create and delete mirror pods"
        ))),
    }
}

async fn mirror(review: &Review<'_>, node: &str, reader: &dyn Reader) -> Result<(), Status> {
    let pod = &review.object;
    if pod["metadata"]["annotations"].get(MIRROR).is_none() {
        return Err(review.forbidden(&format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
        )));
    }
    if pod["spec"]["nodeName"] != node {
        return Err(review.forbidden(&format!(
            "node {node:?} can only create pods with spec.nodeName set to itself"
        )));
    }
    let owner = match pod["metadata"]["ownerReferences"]
        .as_array()
        .map(Vec::as_slice)
    {
        Some([owner]) => owner,
        None | Some([]) => {
            return Err(review.forbidden(&format!(
                "node {node:?} can only create pods with an owner reference set to itself"
            )));
        }
        Some(_) => {
            return Err(review.forbidden(&format!(
                "node {node:?} can only create pods with a single owner reference set to itself"
            )));
        }
    };
    if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
        return Err(review.forbidden(&format!(
            "node {node:?} can only create pods with an owner reference set to itself"
        )));
    }
    if owner["controller"] != true {
        return Err(review.forbidden(&format!(
            "node {node:?} can only create pods with a controller owner reference set to itself"
        )));
    }
    if owner["blockOwnerDeletion"] == true {
        return Err(review.forbidden(&format!(
            "node {node:?} must not set blockOwnerDeletion on an owner reference"
        )));
    }
    let known = find(reader, "nodes", "", node).await?;
    if owner["uid"] != known["metadata"]["uid"] {
        return Err(review.forbidden(&format!(
            "node {node} UID mismatch: expected {} got {}",
            owner["uid"].as_str().unwrap_or(""),
            known["metadata"]["uid"].as_str().unwrap_or("")
        )));
    }
    match references::needs_api(pod) {
        None => Ok(()),
        Some(what) => Err(review.forbidden(&format!(
            "node {node:?} can not create pods that reference {what}"
        ))),
    }
}

fn unexpected(review: &Review<'_>) -> Status {
    let operation = match review.operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    };
    review.forbidden(&format!("unexpected operation {operation:?}"))
}

fn pod_status(review: &Review<'_>, node: &str) -> Result<(), Status> {
    let Some(old) = review.old.filter(|_| review.operation == Operation::Update) else {
        return Err(unexpected(review));
    };
    if old["spec"]["nodeName"] != node {
        return Err(review.forbidden(&format!(
            "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
        )));
    }
    let new = &review.object;
    if !same(&old["metadata"]["labels"], &new["metadata"]["labels"]) {
        return Err(review.forbidden(&format!(
            "node {node:?} cannot update labels through pod status"
        )));
    }
    let (old, new) = (&old["status"], &new["status"]);
    if !same(&old["resourceClaimStatuses"], &new["resourceClaimStatuses"]) {
        return Err(review.forbidden(&format!(
            "node {node:?} cannot update resource claim statues"
        )));
    }
    if !same(
        &old["extendedResourceClaimStatus"],
        &new["extendedResourceClaimStatus"],
    ) {
        return Err(review.forbidden(&format!(
            "node {node:?} cannot update extended resource claim status"
        )));
    }
    Ok(())
}

/// Equal, where nothing and an empty list or map are the same.
fn same(one: &Value, other: &Value) -> bool {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    one == other || (empty(one) && empty(other))
}

async fn eviction(review: &Review<'_>, node: &str, reader: &dyn Reader) -> Result<(), Status> {
    if review.operation != Operation::Create {
        return Err(unexpected(review));
    }
    let pod = find(reader, "pods", review.namespace, review.object_name()).await?;
    if pod["spec"]["nodeName"] == node {
        return Ok(());
    }
    Err(review.forbidden(&format!(
        "node {node} can only evict pods with spec.nodeName set to itself"
    )))
}

fn own_node(review: &Review<'_>, node: &str) -> Result<(), Status> {
    let asked = review.object_name();
    if asked != node {
        return Err(review.forbidden(&format!(
            "node {node:?} is not allowed to modify node {asked:?}"
        )));
    }
    let new = &review.object;
    match review.operation {
        Operation::Create => {
            if !new["spec"]["configSource"].is_null() {
                return Err(review.forbidden(&format!(
                    "node {node:?} is not allowed to create pods with a non-nil configSource"
                )));
            }
            let forbidden = forbidden_labels(new, &Value::Null);
            if !forbidden.is_empty() {
                return Err(review.forbidden(&format!(
                    "node {node:?} is not allowed to set the following labels: {}",
                    forbidden.join(", ")
                )));
            }
        }
        Operation::Update => {
            let old = review.old.unwrap_or(&Value::Null);
            let source = &new["spec"]["configSource"];
            if !source.is_null() && *source != old["spec"]["configSource"] {
                return Err(review.forbidden(&format!(
                    "node {node:?} is not allowed to update configSource to a new non-nil configSource"
                )));
            }
            if !same(&new["spec"]["taints"], &old["spec"]["taints"]) {
                return Err(
                    review.forbidden(&format!("node {node:?} is not allowed to modify taints"))
                );
            }
            if !same(
                &new["metadata"]["ownerReferences"],
                &old["metadata"]["ownerReferences"],
            ) {
                return Err(review.forbidden(&format!(
                    "node {node:?} is not allowed to modify ownerReferences"
                )));
            }
            let forbidden = forbidden_labels(new, old);
            if !forbidden.is_empty() {
                return Err(review.forbidden(&format!(
                    "is not allowed to modify labels: {}",
                    forbidden.join(", ")
                )));
            }
        }
        Operation::Delete | Operation::Connect => {}
    }
    Ok(())
}

/// Labels that differ and are not a kubelet's to set, in order.
fn forbidden_labels(new: &Value, old: &Value) -> Vec<String> {
    let (new, old) = (&new["metadata"]["labels"], &old["metadata"]["labels"]);
    let keys: BTreeSet<&String> = [new, old]
        .into_iter()
        .filter_map(Value::as_object)
        .flat_map(|labels| labels.keys())
        .collect();
    keys.into_iter()
        .filter(|key| new.get(key.as_str()) != old.get(key.as_str()))
        .filter(|key| is_forbidden(key))
        .cloned()
        .collect()
}

fn is_forbidden(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let within = |parent: &str| {
        domain == parent
            || domain
                .strip_suffix(parent)
                .is_some_and(|rest| rest.ends_with('.'))
    };
    if within("node-restriction.kubernetes.io") {
        return true;
    }
    let kubelets =
        LABELS.contains(&key) || within("kubelet.kubernetes.io") || within("node.kubernetes.io");
    (within("kubernetes.io") || within("k8s.io")) && !kubelets
}

fn claim_status(review: &Review<'_>, node: &str) -> Result<(), Status> {
    let Some(old) = review.old.filter(|_| review.operation == Operation::Update) else {
        return Err(unexpected(review));
    };
    let rest = |claim: &Value| {
        let mut claim = claim.clone();
        for (part, fields) in [
            ("metadata", &["resourceVersion", "managedFields"][..]),
            (
                "status",
                &[
                    "capacity",
                    "conditions",
                    "allocatedResources",
                    "allocatedResourceStatuses",
                ],
            ),
        ] {
            for field in fields {
                if let Some(part) = claim[part].as_object_mut() {
                    part.remove(*field);
                }
            }
        }
        claim
    };
    if rest(old) == rest(&review.object) {
        return Ok(());
    }
    Err(review.forbidden(&format!(
        "node {node:?} is not allowed to update fields other than status.quantity and \
         status.conditions"
    )))
}

fn same_name(review: &Review<'_>, node: &str, what: &str) -> Result<(), Status> {
    if review.object_name() == node {
        return Ok(());
    }
    Err(review.forbidden(&format!(
        "can only access {what} with the same name as the requesting node"
    )))
}

fn slice(review: &Review<'_>, node: &str) -> Result<(), Status> {
    let (slice, verb) = match review.operation {
        Operation::Create => (Some(&review.object), "create"),
        Operation::Delete => (review.old, "delete"),
        Operation::Update | Operation::Connect => return Ok(()),
    };
    if slice.is_some_and(|slice| slice["spec"]["nodeName"] == node) {
        return Ok(());
    }
    Err(review.forbidden(&format!(
        "can only {verb} ResourceSlice with the same NodeName as the requesting node"
    )))
}

/// A request for a kubelet's certificate is in the name of this node.
fn signing(review: &Review<'_>, node: &str) -> Result<(), Status> {
    let spec = &review.object["spec"];
    let kubelets = matches!(
        spec["signerName"].as_str(),
        Some("kubernetes.io/kubelet-serving" | "kubernetes.io/kube-apiserver-client-kubelet")
    );
    if review.operation != Operation::Create || !review.subresource.is_empty() || !kubelets {
        return Ok(());
    }
    let subject = subject(&spec["request"])
        .map_err(|why| review.forbidden(&format!("unable to parse csr: {why}")))?;
    if subject.common_name == format!("system:node:{node}") {
        return Ok(());
    }
    Err(review.forbidden(&format!(
        "can only create a node CSR with CN=system:node:{node}"
    )))
}

/// Whether a volume of the pod needs tokens for an audience.
async fn asks_for(reader: &dyn Reader, pod: &Value, audience: &str) -> bool {
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or("");
    for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
        let projected = volume["projected"]["sources"].as_array();
        if projected.into_iter().flatten().any(|source| {
            let token = &source["serviceAccountToken"];
            token.is_object() && token["audience"].as_str().unwrap_or("") == audience
        }) {
            return true;
        }
        let driver = match volume["csi"]["driver"].as_str() {
            Some(driver) => Some(driver.to_owned()),
            None => driver_of_claim(reader, pod, volume, namespace).await,
        };
        if let Some(driver) = driver {
            let resource = GroupResource {
                group: "storage.k8s.io".to_owned(),
                resource: "csidrivers".to_owned(),
            };
            let known = reader
                .get(&resource, "", &driver, false)
                .await
                .ok()
                .flatten();
            let wants = |driver: &Value| {
                let requests = driver["spec"]["tokenRequests"].as_array();
                requests
                    .into_iter()
                    .flatten()
                    .any(|request| request["audience"].as_str().unwrap_or("") == audience)
            };
            if known.is_some_and(|driver| wants(&driver)) {
                return true;
            }
        }
    }
    false
}

/// The CSI driver behind the claim a volume names.
async fn driver_of_claim(
    reader: &dyn Reader,
    pod: &Value,
    volume: &Value,
    namespace: &str,
) -> Option<String> {
    let one = serde_json::json!({
        "metadata": pod["metadata"],
        "spec": { "volumes": [volume] },
    });
    let name = references::claims(&one).into_iter().next()?;
    let claim = find(reader, "persistentvolumeclaims", namespace, &name)
        .await
        .ok()?;
    let name = claim["spec"]["volumeName"].as_str()?;
    let bound = find(reader, "persistentvolumes", "", name).await.ok()?;
    bound["spec"]["csi"]["driver"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels_of_kubelets() {
        for (key, forbidden) in [
            ("example.com/x", false),
            ("plain", false),
            ("kubernetes.io/hostname", false),
            ("kubelet.kubernetes.io/x", false),
            ("a.node.kubernetes.io/x", false),
            ("node-role.kubernetes.io/master", true),
            ("kubernetes.io/x", true),
            ("sub.k8s.io/x", true),
            ("node-restriction.kubernetes.io/x", true),
            ("a.node-restriction.kubernetes.io/x", true),
            ("notk8s.io/x", false),
        ] {
            assert_eq!(is_forbidden(key), forbidden, "{key}");
        }
        let node = |labels: Value| json!({ "metadata": { "labels": labels } });
        let old = node(json!({ "kubernetes.io/a": "1", "x": "1", "k8s.io/gone": "1" }));
        let new = node(json!({ "kubernetes.io/a": "2", "x": "2", "k8s.io/b": "1" }));
        assert_eq!(
            forbidden_labels(&new, &old),
            ["k8s.io/b", "k8s.io/gone", "kubernetes.io/a"]
        );
        assert!(forbidden_labels(&old, &old).is_empty());
    }
}

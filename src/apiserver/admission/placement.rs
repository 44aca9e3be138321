//! `PodTopologyLabels`, `PodResizeValidator` and `PersistentVolumeClaimResize`:
//! what follows from the node a pod is on, or the class of a claim.

use api::quota::list;
use api::quota::pod::{Basis, Side, totals};
use api::{GroupResource, Quantity, Status};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Operation, Plugin, Reader, Review, is_core};

/// Labels of a node that its pods get too.
const TOPOLOGY: [&str; 2] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
];

async fn node(reader: &dyn Reader, name: &str) -> Result<Option<std::sync::Arc<Value>>, Status> {
    let nodes = GroupResource {
        group: String::new(),
        resource: "nodes".to_owned(),
    };
    reader.get(&nodes, "", name, false).await
}

/// A pod says in which zone and region its node is.
#[derive(Debug, Default)]
pub struct PodTopologyLabels;

#[async_trait]
impl Plugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, subresource: &str) -> bool {
        operation == Operation::Create
            && is_core(resource, "pods")
            && matches!(subresource, "" | "binding")
    }

    async fn mutate(
        &self,
        review: &mut Review<'_>,
        reader: &dyn Reader,
    ) -> Result<Vec<String>, Status> {
        let object = &mut review.object;
        let name = if review.subresource.is_empty() {
            object["spec"]["nodeName"].as_str()
        } else if object["target"]["kind"] == "Node" {
            object["target"]["name"].as_str()
        } else {
            None
        };
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Ok(Vec::new());
        };
        if let Some(node) = node(reader, name).await? {
            for key in TOPOLOGY {
                if let Some(value) = node["metadata"]["labels"].get(key) {
                    if !object["metadata"]["labels"].is_object() {
                        object["metadata"]["labels"] = json!({});
                    }
                    object["metadata"]["labels"][key] = value.clone();
                }
            }
        }
        Ok(Vec::new())
    }
}

/// A pod is not resized beyond what its node has at all.
#[derive(Debug, Default)]
pub struct PodResizeValidator;

#[async_trait]
impl Plugin for PodResizeValidator {
    fn name(&self) -> &'static str {
        "PodResizeValidator"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, subresource: &str) -> bool {
        operation == Operation::Update && is_core(resource, "pods") && subresource == "resize"
    }

    async fn validate(
        &self,
        review: &Review<'_>,
        reader: &dyn Reader,
    ) -> Result<Vec<String>, Status> {
        let pod = &review.object;
        let name = pod["spec"]["nodeName"].as_str().unwrap_or("");
        let unchanged = review
            .old
            .is_some_and(|old| old["metadata"]["generation"] == pod["metadata"]["generation"]);
        if name.is_empty() || unchanged {
            return Ok(Vec::new());
        }
        let Some(node) = node(reader, name).await? else {
            return Err(review.forbidden(&format!("node {name:?} not found")));
        };
        let refuse = |why: &str, reason: &str| {
            let mut status = review.forbidden(why);
            let details = status.details.get_or_insert_default();
            details.insert("causes".into(), json!([{ "reason": reason }]));
            Err(status)
        };
        if let Some(system) = node["metadata"]["labels"]["kubernetes.io/os"].as_str()
            && system != "linux"
        {
            return refuse(
                &format!(
                    "pod resize is only supported on linux nodes, node {name:?} is {system:?}"
                ),
                "UnsupportedPlatform",
            );
        }
        let mut asked = totals(pod, Side::Requests, Basis::Spec);
        list::add(&mut asked, &list::parse(&pod["spec"]["overhead"]));
        let there = list::parse(&node["status"]["allocatable"]);
        let mut short = Vec::new();
        for (name, show) in [
            ("cpu", Quantity::milli as fn(&Quantity) -> i64),
            ("memory", Quantity::value),
        ] {
            let of = |list: &api::quota::ResourceList| list.get(name).cloned().unwrap_or_default();
            let (asked, there) = (of(&asked), of(&there));
            if asked > there {
                short.push(format!(
                    "{name}, requested: {}, allocatable: {}",
                    show(&asked),
                    show(&there)
                ));
            }
        }
        if short.is_empty() {
            return Ok(Vec::new());
        }
        refuse(
            &format!(
                "node didn't have enough allocatable resources: {}",
                short.join("; ")
            ),
            "NodeCapacity",
        )
    }
}

/// A claim grows only if it is bound and its class can grow volumes.
#[derive(Debug, Default)]
pub struct PersistentVolumeClaimResize;

#[async_trait]
impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, subresource: &str) -> bool {
        operation == Operation::Update
            && is_core(resource, "persistentvolumeclaims")
            && subresource.is_empty()
    }

    async fn validate(
        &self,
        review: &Review<'_>,
        reader: &dyn Reader,
    ) -> Result<Vec<String>, Status> {
        let Some(old) = review.old else {
            return Ok(Vec::new());
        };
        let size = |claim: &Value| {
            list::parse(&claim["spec"]["resources"]["requests"])
                .remove("storage")
                .unwrap_or_default()
        };
        if size(&review.object) <= size(old) {
            return Ok(Vec::new());
        }
        if old["status"]["phase"] != "Bound" {
            return Err(review.forbidden("Only bound persistent volume claims can be expanded"));
        }
        let class = class_of(&review.object);
        let mut allowed = false;
        if !class.is_empty() && class == class_of(old) {
            let classes = GroupResource {
                group: "storage.k8s.io".to_owned(),
                resource: "storageclasses".to_owned(),
            };
            let class = reader.get(&classes, "", class, false).await?;
            allowed = class.is_some_and(|class| class["allowVolumeExpansion"] == true);
        }
        if allowed {
            return Ok(Vec::new());
        }
        Err(review.forbidden(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions \
             the pvc must support resize",
        ))
    }
}

fn class_of(claim: &Value) -> &str {
    claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"]
        .as_str()
        .or_else(|| claim["spec"]["storageClassName"].as_str())
        .unwrap_or("")
}

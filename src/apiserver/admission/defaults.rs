//! `TaintNodesByCondition`, `DefaultStorageClass`, `StorageObjectInUseProtection`
//! and `DefaultIngressClass`: small things that new objects get.

use std::sync::Arc;

use api::{GroupResource, Status};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Operation, Plugin, Reader, Review};

fn is(resource: &GroupResource, group: &str, name: &str) -> bool {
    resource.group == group && resource.resource == name
}

/// A new node is tainted not-ready until its kubelet says otherwise.
#[derive(Debug, Default)]
pub struct TaintNodesByCondition;

#[async_trait]
impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, subresource: &str) -> bool {
        operation == Operation::Create && is(resource, "", "nodes") && subresource.is_empty()
    }

    async fn mutate(
        &self,
        review: &mut Review<'_>,
        _reader: &dyn Reader,
    ) -> Result<Vec<String>, Status> {
        let taint = json!({ "key": "node.kubernetes.io/not-ready", "effect": "NoSchedule" });
        let spec = &mut review.object["spec"];
        match spec["taints"].as_array_mut() {
            Some(taints) => {
                let known = taints
                    .iter()
                    .any(|own| own["key"] == taint["key"] && own["effect"] == taint["effect"]);
                if !known {
                    taints.push(taint);
                }
            }
            None => spec["taints"] = json!([taint]),
        }
        Ok(Vec::new())
    }
}

/// Volumes and claims keep a finalizer while they are used.
#[derive(Debug, Default)]
pub struct StorageObjectInUseProtection;

#[async_trait]
impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, subresource: &str) -> bool {
        operation == Operation::Create
            && subresource.is_empty()
            && (is(resource, "", "persistentvolumes")
                || is(resource, "", "persistentvolumeclaims")
                || is(resource, "storage.k8s.io", "volumeattributesclasses"))
    }

    async fn mutate(
        &self,
        review: &mut Review<'_>,
        _reader: &dyn Reader,
    ) -> Result<Vec<String>, Status> {
        let finalizer = match review.resource.resource.as_str() {
            "persistentvolumes" => "kubernetes.io/pv-protection",
            "persistentvolumeclaims" => "kubernetes.io/pvc-protection",
            _ => "kubernetes.io/vac-protection",
        };
        let meta = &mut review.object["metadata"];
        match meta["finalizers"].as_array_mut() {
            Some(list) if list.iter().any(|own| own == finalizer) => {}
            Some(list) => list.push(finalizer.into()),
            None => meta["finalizers"] = json!([finalizer]),
        }
        Ok(Vec::new())
    }
}

/// A claim without a class gets the default one.
#[derive(Debug, Default)]
pub struct DefaultStorageClass;

#[async_trait]
impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, subresource: &str) -> bool {
        operation == Operation::Create
            && is(resource, "", "persistentvolumeclaims")
            && subresource.is_empty()
    }

    async fn mutate(
        &self,
        review: &mut Review<'_>,
        reader: &dyn Reader,
    ) -> Result<Vec<String>, Status> {
        let old_style = "volume.beta.kubernetes.io/storage-class";
        if review.object["spec"].get("storageClassName").is_some()
            || review.object["metadata"]["annotations"]
                .get(old_style)
                .is_some()
        {
            return Ok(Vec::new());
        }
        if let Some(class) = default_of(
            reader,
            "storage.k8s.io",
            "storageclasses",
            &[
                "storageclass.kubernetes.io/is-default-class",
                "storageclass.beta.kubernetes.io/is-default-class",
            ],
        )
        .await?
        {
            review.object["spec"]["storageClassName"] = class["metadata"]["name"].clone();
        }
        Ok(Vec::new())
    }
}

/// An ingress without a class gets the default one.
#[derive(Debug, Default)]
pub struct DefaultIngressClass;

#[async_trait]
impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, subresource: &str) -> bool {
        operation == Operation::Create
            && is(resource, "networking.k8s.io", "ingresses")
            && subresource.is_empty()
    }

    async fn mutate(
        &self,
        review: &mut Review<'_>,
        reader: &dyn Reader,
    ) -> Result<Vec<String>, Status> {
        let old_style = "kubernetes.io/ingress.class";
        if review.object["spec"].get("ingressClassName").is_some()
            || review.object["metadata"]["annotations"]
                .get(old_style)
                .is_some()
        {
            return Ok(Vec::new());
        }
        let key = "ingressclass.kubernetes.io/is-default-class";
        if let Some(class) =
            default_of(reader, "networking.k8s.io", "ingressclasses", &[key]).await?
        {
            review.object["spec"]["ingressClassName"] = class["metadata"]["name"].clone();
        }
        Ok(Vec::new())
    }
}

/// The class that carries one of the annotations as `true`: the newest, then
/// the first by name.
async fn default_of(
    reader: &dyn Reader,
    group: &str,
    resource: &str,
    annotations: &[&str],
) -> Result<Option<Arc<Value>>, Status> {
    let resource = GroupResource {
        group: group.into(),
        resource: resource.into(),
    };
    let mut marked: Vec<_> = reader
        .list(&resource, "")
        .await?
        .into_iter()
        .filter(|class| {
            annotations
                .iter()
                .any(|key| class["metadata"]["annotations"][key] == "true")
        })
        .collect();
    marked.sort_by(|a, b| {
        let stamp = |class: &Value| {
            class["metadata"]["creationTimestamp"]
                .as_str()
                .map(str::to_owned)
        };
        let name = |class: &Value| class["metadata"]["name"].as_str().map(str::to_owned);
        stamp(b).cmp(&stamp(a)).then_with(|| name(a).cmp(&name(b)))
    });
    Ok(marked.into_iter().next())
}

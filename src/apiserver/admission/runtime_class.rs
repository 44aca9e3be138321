//! `RuntimeClass`: a pod's class must exist, and says what it costs and where
//! it runs.

use api::{GroupResource, Status};
use async_trait::async_trait;
use serde_json::Value;
use std::sync::Arc;

use super::{Operation, Plugin, Reader, Review};

/// Sets overhead and placement from the runtime class of a new pod.
#[derive(Debug, Default)]
pub struct RuntimeClass;

const UNLIKE: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
const ALONE: &str =
    "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";

async fn class(review: &Review<'_>, reader: &dyn Reader) -> Result<Option<Arc<Value>>, Status> {
    let Some(name) = review.object["spec"]["runtimeClassName"].as_str() else {
        return Ok(None);
    };
    let classes = GroupResource {
        group: "node.k8s.io".into(),
        resource: "runtimeclasses".into(),
    };
    let mut found = reader.get(&classes, "", name, false).await?;
    if found.is_none() {
        found = reader.get(&classes, "", name, true).await?;
    }
    match found {
        Some(class) => Ok(Some(class)),
        None => Err(review.forbidden(&format!("pod rejected: RuntimeClass {name:?} not found"))),
    }
}

#[async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, subresource: &str) -> bool {
        operation == Operation::Create
            && resource.group.is_empty()
            && resource.resource == "pods"
            && subresource.is_empty()
    }

    async fn mutate(
        &self,
        review: &mut Review<'_>,
        reader: &dyn Reader,
    ) -> Result<Vec<String>, Status> {
        let Some(class) = class(review, reader).await? else {
            return Ok(Vec::new());
        };
        place(&mut review.object["spec"], &class).map_err(|why| review.forbidden(&why))?;
        Ok(Vec::new())
    }

    async fn validate(
        &self,
        review: &Review<'_>,
        reader: &dyn Reader,
    ) -> Result<Vec<String>, Status> {
        let overhead = &review.object["spec"]["overhead"];
        let class = class(review, reader).await?;
        let fixed = class.as_ref().map(|class| &class["overhead"]);
        match fixed.filter(|it| it.is_object()) {
            Some(fixed) if !same(&fixed["podFixed"], overhead) => Err(review.forbidden(UNLIKE)),
            None if !overhead.is_null() => Err(review.forbidden(ALONE)),
            _ => Ok(Vec::new()),
        }
    }
}

/// Whether two lists of resources are the same amounts.
fn same(left: &Value, right: &Value) -> bool {
    let amounts = |list: &Value| -> Vec<(String, Option<api::Quantity>)> {
        list.as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| {
                let amount = value.as_str().and_then(|text| text.parse().ok());
                (name.clone(), amount)
            })
            .collect()
    };
    amounts(left) == amounts(right)
}

/// Adds the overhead, node selector and tolerations of a class to a pod.
fn place(spec: &mut Value, class: &Value) -> Result<(), String> {
    let overhead = &class["overhead"]["podFixed"];
    if class["overhead"].is_object() {
        if spec["overhead"].is_object() && !same(&spec["overhead"], overhead) {
            return Err(UNLIKE.to_owned());
        }
        if spec.get("overhead").is_none_or(Value::is_null) && overhead.is_object() {
            spec["overhead"] = overhead.clone();
        }
    }
    let scheduling = &class["scheduling"];
    for (key, value) in scheduling["nodeSelector"].as_object().into_iter().flatten() {
        match spec.get("nodeSelector").and_then(|own| own.get(key)) {
            Some(own) if own != value => {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                    text(value),
                    text(own)
                ));
            }
            Some(_) => {}
            None => spec["nodeSelector"][key] = value.clone(),
        }
    }
    let added = scheduling["tolerations"].as_array();
    for toleration in added.into_iter().flatten() {
        if !spec["tolerations"].is_array() {
            spec["tolerations"] = Value::Array(Vec::new());
        }
        if let Some(own) = spec["tolerations"].as_array_mut()
            && !own.contains(toleration)
        {
            own.push(toleration.clone());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    #[test]
    fn classes_place_pods() {
        let class = json!({
            "overhead": {"podFixed": {"cpu": "100m"}},
            "scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "t"}]},
        });
        let mut spec = json!({"overhead": {"cpu": "0.1"}});
        place(&mut spec, &class).unwrap();
        assert_eq!(
            spec,
            json!({
                "overhead": {"cpu": "0.1"},
                "nodeSelector": {"a": "b"},
                "tolerations": [{"key": "t"}],
            })
        );
        assert!(place(&mut json!({"overhead": {"cpu": "1"}}), &class).is_err());
        assert!(place(&mut json!({"nodeSelector": {"a": "c"}}), &class).is_err());
    }
}

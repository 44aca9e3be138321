//! `RuntimeClass`: a pod of a class carries its overhead and is placed as it says.

use std::sync::Arc;

use api::quota::list;
use api::{GroupResource, Status};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Operation, Plugin, Reader, Review, is_core};

/// The plugin.
#[derive(Debug, Default)]
pub struct RuntimeClass;

#[async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, subresource: &str) -> bool {
        operation == Operation::Create && is_core(resource, "pods") && subresource.is_empty()
    }

    async fn mutate(
        &self,
        review: &mut Review<'_>,
        reader: &dyn Reader,
    ) -> Result<Vec<String>, Status> {
        let Some(class) = class(review, reader).await? else {
            return Ok(Vec::new());
        };
        let overhead = &class["overhead"];
        if overhead.is_object() {
            let own = &review.object["spec"]["overhead"];
            if own.as_object().is_some_and(|own| !own.is_empty())
                && !same(own, &overhead["podFixed"])
            {
                return Err(review.forbidden(MISMATCH));
            }
            review.object["spec"]["overhead"] = overhead["podFixed"].clone();
        }
        if class["scheduling"].is_object() {
            place(review, &class["scheduling"])?;
        }
        Ok(Vec::new())
    }

    async fn validate(
        &self,
        review: &Review<'_>,
        reader: &dyn Reader,
    ) -> Result<Vec<String>, Status> {
        let class = class(review, reader).await?;
        let own = &review.object["spec"]["overhead"];
        let fixed = class.as_deref().map(|class| &class["overhead"]);
        match fixed.filter(|overhead| overhead.is_object()) {
            Some(overhead) if !same(own, &overhead["podFixed"]) => {
                return Err(review.forbidden(MISMATCH));
            }
            None if !own.is_null() => {
                return Err(review.forbidden(
                    "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
                ));
            }
            _ => {}
        }
        Ok(Vec::new())
    }
}

const MISMATCH: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

async fn class(review: &Review<'_>, reader: &dyn Reader) -> Result<Option<Arc<Value>>, Status> {
    let Some(name) = review.object["spec"]["runtimeClassName"].as_str() else {
        return Ok(None);
    };
    let resource = GroupResource {
        group: "node.k8s.io".to_owned(),
        resource: "runtimeclasses".to_owned(),
    };
    match reader.get(&resource, "", name, true).await? {
        Some(class) => Ok(Some(class)),
        None => Err(review.forbidden(&format!("pod rejected: RuntimeClass {name:?} not found"))),
    }
}

fn same(one: &Value, other: &Value) -> bool {
    list::parse(one) == list::parse(other)
}

/// Adds the class's node selector and tolerations to the pod's.
fn place(review: &mut Review<'_>, scheduling: &Value) -> Result<(), Status> {
    let wanted = scheduling["nodeSelector"].as_object();
    for (key, value) in wanted.into_iter().flatten() {
        let value = value.as_str().unwrap_or("");
        if let Some(own) = review.object["spec"]["nodeSelector"][key].as_str()
            && own != value
        {
            return Err(review.forbidden(&format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; \
                 pod.spec.nodeSelector[{key}] = {own}"
            )));
        }
    }
    let spec = &mut review.object["spec"];
    for (key, value) in wanted.into_iter().flatten() {
        if !spec["nodeSelector"].is_object() {
            spec["nodeSelector"] = json!({});
        }
        spec["nodeSelector"][key] = value.clone();
    }
    let all: Vec<&Value> = [&spec["tolerations"], &scheduling["tolerations"]]
        .into_iter()
        .filter_map(Value::as_array)
        .flatten()
        .collect();
    let merged = merge(&all);
    if !merged.is_empty() {
        spec["tolerations"] = merged.into();
    }
    Ok(())
}

/// Tolerations without those that another one covers.
fn merge(all: &[&Value]) -> Vec<Value> {
    let mut merged: Vec<Value> = Vec::new();
    for (index, one) in all.iter().enumerate() {
        let covered = merged.iter().any(|known| covers(known, one))
            || all[index + 1..]
                .iter()
                .any(|later| later != one && covers(later, one));
        if !covered {
            merged.push((*one).clone());
        }
    }
    merged
}

/// Whether `wide` tolerates all that `narrow` does.
fn covers(wide: &Value, narrow: &Value) -> bool {
    if wide == narrow {
        return true;
    }
    let text =
        |toleration: &Value, field: &str| toleration[field].as_str().unwrap_or("").to_owned();
    let (key, operator) = (text(wide, "key"), text(wide, "operator"));
    if text(narrow, "key") != key && !(key.is_empty() && operator == "Exists") {
        return false;
    }
    let effect = text(wide, "effect");
    if text(narrow, "effect") != effect && !effect.is_empty() {
        return false;
    }
    if effect == "NoExecute"
        && let Some(seconds) = wide["tolerationSeconds"].as_i64()
        && narrow["tolerationSeconds"]
            .as_i64()
            .is_none_or(|narrow| narrow > seconds)
    {
        return false;
    }
    match operator.as_str() {
        "Equal" | "" => {
            text(narrow, "operator") == "Equal" && text(narrow, "value") == text(wide, "value")
        }
        "Exists" => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_merge() {
        let all = json!({ "operator": "Exists" });
        let one = json!({ "key": "a", "operator": "Exists", "effect": "NoSchedule" });
        let value =
            json!({ "key": "a", "operator": "Equal", "value": "v", "effect": "NoSchedule" });
        let other = json!({ "key": "b", "operator": "Exists" });
        for (given, left) in [
            (vec![&one, &value], vec![one.clone()]),
            (vec![&value, &one], vec![one.clone()]),
            (vec![&one, &one], vec![one.clone()]),
            (vec![&one, &other], vec![one.clone(), other.clone()]),
            (vec![&one, &all, &other], vec![all.clone()]),
        ] {
            assert_eq!(merge(&given), left);
        }
    }
}

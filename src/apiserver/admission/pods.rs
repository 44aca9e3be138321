//! `DefaultTolerationSeconds` and `Priority`: what every pod gets.

use api::{GroupResource, Status};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Operation, Plugin, Reader, Review};

/// How long a pod stays on a node that is not ready or unreachable, in seconds.
const TOLERATION_SECONDS: i64 = 300;

fn is_pods(resource: &GroupResource) -> bool {
    resource.group.is_empty() && resource.resource == "pods"
}

/// Tolerates not-ready and unreachable nodes for five minutes.
#[derive(Debug, Default)]
pub struct DefaultTolerationSeconds;

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
            && is_pods(resource)
            && subresource.is_empty()
    }

    async fn mutate(
        &self,
        review: &mut Review<'_>,
        _reader: &dyn Reader,
    ) -> Result<Vec<String>, Status> {
        add_tolerations(&mut review.object["spec"]);
        Ok(Vec::new())
    }
}

fn add_tolerations(spec: &mut Value) {
    for key in [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ] {
        let tolerations = spec["tolerations"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        let tolerated = tolerations.iter().any(|toleration| {
            let own = toleration["key"].as_str().unwrap_or("");
            let effect = toleration["effect"].as_str().unwrap_or("");
            (own == key || own.is_empty()) && (effect == "NoExecute" || effect.is_empty())
        });
        if tolerated {
            continue;
        }
        let toleration = json!({
            "key": key,
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": TOLERATION_SECONDS,
        });
        match spec["tolerations"].as_array_mut() {
            Some(list) => list.push(toleration),
            None => spec["tolerations"] = json!([toleration]),
        }
    }
}

/// Resolves `priorityClassName` to a priority.
#[derive(Debug, Default)]
pub struct Priority;

#[async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
            && subresource.is_empty()
            && (is_pods(resource) || is_classes(resource))
    }

    async fn mutate(
        &self,
        review: &mut Review<'_>,
        reader: &dyn Reader,
    ) -> Result<Vec<String>, Status> {
        if !is_pods(review.resource) {
            return Ok(Vec::new());
        }
        if let Some(old) = review.old {
            for field in ["priority", "preemptionPolicy"] {
                if review.object["spec"][field].is_null() && !old["spec"][field].is_null() {
                    review.object["spec"][field] = old["spec"][field].clone();
                }
            }
            return Ok(Vec::new());
        }
        self.resolve(review, reader).await?;
        Ok(Vec::new())
    }

    async fn validate(
        &self,
        review: &Review<'_>,
        reader: &dyn Reader,
    ) -> Result<Vec<String>, Status> {
        if is_classes(review.resource)
            && review.object["globalDefault"] == true
            && let Some(other) = default_class(reader).await?
        {
            let other = other["metadata"]["name"].as_str().unwrap_or("");
            if review.operation == Operation::Create || other != review.name {
                return Err(review.forbidden(&format!(
                    "PriorityClass {other} is already marked as default. Only one default can exist"
                )));
            }
        }
        Ok(Vec::new())
    }
}

impl Priority {
    async fn resolve(&self, review: &mut Review<'_>, reader: &dyn Reader) -> Result<(), Status> {
        let name = review.object["spec"]["priorityClassName"]
            .as_str()
            .unwrap_or("");
        let class = if name.is_empty() {
            default_class(reader).await?
        } else {
            let class = reader.get(&classes(), "", name, true).await?;
            if class.is_none() {
                return Err(
                    review.forbidden(&format!("no PriorityClass with name {name} was found"))
                );
            }
            class
        };
        let (name, priority, policy) = match &class {
            Some(class) => (
                class["metadata"]["name"].clone(),
                class["value"].as_i64().unwrap_or(0),
                class["preemptionPolicy"].clone(),
            ),
            None => (Value::Null, 0, json!("PreemptLowerPriority")),
        };
        if let Some(given) = review.object["spec"]["priority"].as_i64()
            && given != priority
        {
            return Err(review.forbidden(&format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {priority} from the given PriorityClass name"
            )));
        }
        if let (Some(given), Some(policy)) = (
            review.object["spec"]["preemptionPolicy"].as_str(),
            policy.as_str(),
        ) && given != policy
        {
            return Err(review.forbidden(&format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
            )));
        }
        let spec = &mut review.object["spec"];
        if !name.is_null() {
            spec["priorityClassName"] = name;
        }
        spec["priority"] = priority.into();
        if !policy.is_null() {
            spec["preemptionPolicy"] = policy;
        }
        Ok(())
    }
}

/// The class marked as default; the lowest if there are several.
async fn default_class(reader: &dyn Reader) -> Result<Option<std::sync::Arc<Value>>, Status> {
    let classes = reader.list(&classes(), "").await?;
    Ok(classes
        .into_iter()
        .filter(|class| class["globalDefault"] == true)
        .min_by_key(|class| class["value"].as_i64()))
}

fn classes() -> GroupResource {
    GroupResource {
        group: "scheduling.k8s.io".into(),
        resource: "priorityclasses".into(),
    }
}

fn is_classes(resource: &GroupResource) -> bool {
    resource.group == "scheduling.k8s.io" && resource.resource == "priorityclasses"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_are_added_where_none_stands() {
        let mut spec = json!({});
        add_tolerations(&mut spec);
        assert_eq!(spec["tolerations"].as_array().map(Vec::len), Some(2));
        for (own, expected) in [
            (json!([{ "operator": "Exists" }]), 1),
            (
                json!([{ "key": "node.kubernetes.io/not-ready", "effect": "NoExecute" }]),
                2,
            ),
            (
                json!([{ "key": "node.kubernetes.io/not-ready", "effect": "NoSchedule" }]),
                3,
            ),
        ] {
            let mut spec = json!({ "tolerations": own });
            add_tolerations(&mut spec);
            assert_eq!(
                spec["tolerations"].as_array().map(Vec::len),
                Some(expected),
                "{own}"
            );
        }
    }
}

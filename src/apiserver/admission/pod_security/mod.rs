//! `PodSecurity`: the Pod Security Standards, by the labels of namespaces.
//!
//! [`policy`] reads what a namespace asks for, [`checks`] says what a pod
//! violates. Pods that violate what is enforced are refused; workloads that
//! would make such pods, and namespaces whose pods would not be let in again,
//! are let in with a warning.

mod baseline;
mod checks;
mod policy;
mod restricted;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{GroupKind, GroupResource, Status};
use async_trait::async_trait;
use serde_json::Value;

use super::{Operation, Plugin, Reader, Review, is_core};
use checks::evaluate;
use policy::{Level, Policy, Standard};

/// Pods looked at when a namespace gets stricter.
const MAX_PODS: usize = 3000;
/// Time spent on them.
const MAX_TIME: Duration = Duration::from_secs(1);

/// The plugin.
#[derive(Debug, Default)]
pub struct PodSecurity;

#[async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, subresource: &str) -> bool {
        if !matches!(operation, Operation::Create | Operation::Update) {
            return false;
        }
        if is_core(resource, "pods") {
            return !matches!(
                subresource,
                "exec"
                    | "attach"
                    | "binding"
                    | "eviction"
                    | "log"
                    | "portforward"
                    | "proxy"
                    | "status"
            );
        }
        subresource.is_empty() && (is_core(resource, "namespaces") || template(resource).is_some())
    }

    async fn validate(
        &self,
        review: &Review<'_>,
        reader: &dyn Reader,
    ) -> Result<Vec<String>, Status> {
        if is_core(review.resource, "namespaces") {
            return namespace(review, reader).await;
        }
        let Some(namespace) = reader
            .get(&core("namespaces"), "", review.namespace, false)
            .await?
        else {
            return Err(Status::internal(format!(
                "failed to lookup namespace {:?}",
                review.namespace
            )));
        };
        // Labels that are wrong are told of when the namespace is written.
        let (policy, _) = Policy::of(&namespace);
        match template(review.resource) {
            Some(path) => {
                let template = path
                    .iter()
                    .fold(&review.object, |object, field| &object[*field]);
                Ok(warnings(&policy, template))
            }
            None => pod(review, &policy),
        }
    }
}

fn core(resource: &str) -> GroupResource {
    GroupResource {
        group: String::new(),
        resource: resource.to_owned(),
    }
}

/// Where workloads have the template of their pods.
fn template(resource: &GroupResource) -> Option<&'static [&'static str]> {
    match (resource.group.as_str(), resource.resource.as_str()) {
        ("", "podtemplates") => Some(&["template"]),
        ("", "replicationcontrollers")
        | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => Some(&["spec", "template"]),
        ("batch", "cronjobs") => Some(&["spec", "jobTemplate", "spec", "template"]),
        _ => None,
    }
}

fn pod(review: &Review<'_>, policy: &Policy) -> Result<Vec<String>, Status> {
    if review
        .old
        .is_some_and(|old| !is_significant(&review.object["spec"], &old["spec"]))
    {
        return Ok(Vec::new());
    }
    if let Some(violations) = evaluate(policy.enforce, &review.object) {
        return Err(Status::forbidden(
            review.resource,
            review.object_name(),
            &format!(
                "violates PodSecurity \"{}\": {}",
                policy.enforce,
                violations.details()
            ),
        ));
    }
    Ok(warnings(policy, &review.object))
}

/// Warns of a pod, or of a template of pods, that violates what is warned about.
fn warnings(policy: &Policy, pod: &Value) -> Vec<String> {
    if !pod["spec"].is_object() {
        return Vec::new();
    }
    evaluate(policy.warn, pod)
        .map(|violations| {
            format!(
                "would violate PodSecurity \"{}\": {}",
                policy.warn,
                violations.details()
            )
        })
        .into_iter()
        .collect()
}

/// Whether an update changes what the standards are about: of what can be
/// changed of a pod, only images and added containers.
fn is_significant(new: &Value, old: &Value) -> bool {
    let items = |spec: &Value, field: &str| spec[field].as_array().cloned().unwrap_or_default();
    for field in ["containers", "initContainers"] {
        let (new, old) = (items(new, field), items(old, field));
        if new.len() != old.len()
            || new
                .iter()
                .zip(&old)
                .any(|(new, old)| new["image"] != old["image"])
        {
            return true;
        }
    }
    let known = items(old, "ephemeralContainers");
    items(new, "ephemeralContainers").iter().any(|container| {
        known
            .iter()
            .find(|old| old["name"] == container["name"])
            .is_none_or(|old| old["image"] != container["image"])
    })
}

async fn namespace(review: &Review<'_>, reader: &dyn Reader) -> Result<Vec<String>, Status> {
    let (policy, errors) = Policy::of(&review.object);
    let invalid = || {
        let kind = GroupKind {
            group: String::new(),
            kind: "Namespace".to_owned(),
        };
        Err(Status::invalid(&kind, review.object_name(), &errors))
    };
    let Some(old) = review.old else {
        return if errors.is_empty() {
            Ok(Vec::new())
        } else {
            invalid()
        };
    };
    let (before, old_errors) = Policy::of(old);
    if !errors.is_empty() && errors != old_errors {
        return invalid();
    }
    let (new, old) = (policy.enforce, before.enforce);
    let relaxed = new.version == old.version && new.level <= old.level;
    if new == old || new.level == Level::Privileged || relaxed {
        return Ok(Vec::new());
    }
    let name = review.object_name();
    let pods = reader.list(&core("pods"), name).await?;
    Ok(existing(name, new, &pods))
}

/// Which pods of a namespace violate what it now enforces, by what they violate.
fn existing(namespace: &str, enforce: Standard, pods: &[Arc<Value>]) -> Vec<String> {
    let until = Instant::now() + MAX_TIME;
    let (total, pods) = (pods.len(), prioritise(pods));
    let mut found: BTreeMap<String, (&str, usize)> = BTreeMap::new();
    let mut checked = 0;
    for pod in pods.iter().take(MAX_PODS) {
        checked += 1;
        if let Some(violations) = evaluate(enforce, pod) {
            let name = pod["metadata"]["name"].as_str().unwrap_or("");
            let (first, count) = found.entry(violations.reasons()).or_insert((name, 0));
            *first = name.min(*first);
            *count += 1;
        }
        if Instant::now() > until {
            break;
        }
    }
    let mut warnings = Vec::new();
    if checked < total {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {checked} of {total} \
             existing pods"
        ));
    }
    if !found.is_empty() {
        warnings.push(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \
             \"{enforce}\""
        ));
    }
    let mut each: Vec<String> = found
        .iter()
        .map(|(reasons, (name, count))| match count {
            1 => format!("{name}: {reasons}"),
            2 => format!("{name} (and 1 other pod): {reasons}"),
            many => format!("{name} (and {} other pods): {reasons}", many - 1),
        })
        .collect();
    each.sort();
    warnings.extend(each);
    warnings
}

/// One pod of each controller first, then the rest.
fn prioritise(pods: &[Arc<Value>]) -> Vec<&Value> {
    let mut seen = HashSet::new();
    let (first, rest): (Vec<&Value>, Vec<&Value>) =
        pods.iter().map(|pod| &**pod).partition(|pod| {
            let controller = pod["metadata"]["ownerReferences"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|owner| owner["controller"] == true);
            controller.is_none_or(|owner| seen.insert(owner["uid"].as_str().unwrap_or("")))
        });
    first.into_iter().chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::Version;
    use serde_json::json;

    #[test]
    fn existing_pods_are_grouped_by_what_they_violate() {
        let pod = |name: &str, spec: Value| {
            Arc::new(json!({ "metadata": { "name": name }, "spec": spec }))
        };
        let pods = [
            pod("c", json!({ "hostNetwork": true })),
            pod("b", json!({ "hostPID": true })),
            pod("a", json!({ "hostNetwork": true, "hostIPC": true })),
            pod(
                "d",
                json!({ "containers": [{ "name": "x", "securityContext": { "privileged": true } }] }),
            ),
            pod("e", json!({})),
        ];
        let enforce = Standard {
            level: Level::Baseline,
            version: Version::Latest,
        };
        assert_eq!(
            existing("ns", enforce, &pods),
            [
                "existing pods in namespace \"ns\" violate the new PodSecurity enforce level \"baseline:latest\"",
                "a (and 2 other pods): host namespaces",
                "d: privileged",
            ]
        );
    }

    #[test]
    fn only_images_and_new_containers_matter() {
        let old = json!({ "containers": [{ "name": "a", "image": "i" }], "tolerations": [] });
        let mut new = old.clone();
        new["tolerations"] = json!([{}]);
        assert!(!is_significant(&new, &old));
        new["ephemeralContainers"] = json!([{ "name": "e", "image": "i" }]);
        assert!(is_significant(&new, &old));
        assert!(!is_significant(&new, &new));
        let mut new = old.clone();
        new["containers"][0]["image"] = "j".into();
        assert!(is_significant(&new, &old));
    }
}

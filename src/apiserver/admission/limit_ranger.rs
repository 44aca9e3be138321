//! `LimitRanger`: what a namespace's LimitRanges give containers that say
//! nothing, and what they forbid.

use api::quota::ResourceList;
use api::quota::list;
use api::quota::pod::{Basis, Side, totals};
use api::{GroupResource, Quantity, Status};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Operation, Plugin, Reader, Review, aggregate, is_core};

/// Tells what the plugin has set.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";
/// Beyond this, thousandths overflow.
const MAX_MILLI: i64 = i64::MAX / 1000;

/// The plugin.
#[derive(Debug, Default)]
pub struct LimitRanger;

#[async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, subresource: &str) -> bool {
        match (operation, subresource) {
            (Operation::Create, "") => {
                is_core(resource, "pods") || is_core(resource, "persistentvolumeclaims")
            }
            (Operation::Update, "") => is_core(resource, "persistentvolumeclaims"),
            (Operation::Update, "resize") => is_core(resource, "pods"),
            _ => false,
        }
    }

    async fn mutate(
        &self,
        review: &mut Review<'_>,
        reader: &dyn Reader,
    ) -> Result<Vec<String>, Status> {
        if is_core(review.resource, "pods") && !is_going(review) {
            for range in ranges(review, reader).await? {
                set_defaults(&range, &mut review.object);
            }
        }
        Ok(Vec::new())
    }

    async fn validate(
        &self,
        review: &Review<'_>,
        reader: &dyn Reader,
    ) -> Result<Vec<String>, Status> {
        if is_going(review) {
            return Ok(Vec::new());
        }
        for range in ranges(review, reader).await? {
            let errors = if is_core(review.resource, "pods") {
                check_pod(&range, &review.object)
            } else {
                check_claim(&range, &review.object)
            };
            if let Some(message) = aggregate(errors) {
                return Err(review.forbidden(&message));
            }
        }
        Ok(Vec::new())
    }
}

fn is_going(review: &Review<'_>) -> bool {
    review
        .old
        .is_some_and(|old| !old["metadata"]["deletionTimestamp"].is_null())
}

async fn ranges(
    review: &Review<'_>,
    reader: &dyn Reader,
) -> Result<Vec<std::sync::Arc<Value>>, Status> {
    let resource = GroupResource {
        group: String::new(),
        resource: "limitranges".to_owned(),
    };
    reader.list(&resource, review.namespace).await
}

fn limits<'a>(range: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    range["spec"]["limits"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(move |limit| limit["type"] == kind)
}

/// Gives every container what the range has as defaults and it leaves out.
fn set_defaults(range: &Value, pod: &mut Value) {
    let mut defaults = [ResourceList::new(), ResourceList::new()];
    for limit in limits(range, "Container") {
        for (into, field) in defaults.iter_mut().zip(["defaultRequest", "default"]) {
            into.extend(list::parse(&limit[field]));
        }
    }
    let mut told = Vec::new();
    for (field, what) in [
        ("containers", "container"),
        ("initContainers", "init container"),
    ] {
        for container in pod["spec"][field].as_array_mut().into_iter().flatten() {
            let name = container["name"].as_str().unwrap_or("").to_owned();
            for (defaults, (side, word)) in defaults
                .iter()
                .zip([("requests", "request"), ("limits", "limit")])
            {
                let mut set = Vec::new();
                for (resource, quantity) in defaults {
                    if container["resources"][side].get(resource).is_none() {
                        container["resources"][side][resource] = quantity.to_string().into();
                        set.push(resource.as_str());
                    }
                }
                if !set.is_empty() {
                    told.push(format!("{} {word} for {what} {name}", set.join(", ")));
                }
            }
        }
    }
    if !told.is_empty() {
        let text = format!("LimitRanger plugin set: {}", told.join("; "));
        if !pod["metadata"]["annotations"].is_object() {
            pod["metadata"]["annotations"] = json!({});
        }
        pod["metadata"]["annotations"][ANNOTATION] = text.into();
    }
}

fn check_pod(range: &Value, pod: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    for limit in range["spec"]["limits"].as_array().into_iter().flatten() {
        match limit["type"].as_str() {
            Some("Container") => {
                for field in ["containers", "initContainers"] {
                    for container in pod["spec"][field].as_array().into_iter().flatten() {
                        let requests = list::parse(&container["resources"]["requests"]);
                        let limits = list::parse(&container["resources"]["limits"]);
                        check(limit, "Container", &requests, &limits, &mut errors);
                    }
                }
            }
            Some("Pod") => {
                let requests = totals(pod, Side::Requests, Basis::Spec);
                let limits = totals(pod, Side::Limits, Basis::Spec);
                check(limit, "Pod", &requests, &limits, &mut errors);
            }
            _ => {}
        }
    }
    errors
}

fn check_claim(range: &Value, claim: &Value) -> Vec<String> {
    const KIND: &str = "PersistentVolumeClaim";
    let requests = list::parse(&claim["spec"]["resources"]["requests"]);
    let mut errors = Vec::new();
    for limit in limits(range, KIND) {
        for (name, bound) in list::parse(&limit["min"]) {
            errors.extend(below(KIND, &name, &bound, requests.get(&name), None));
        }
        for (name, bound) in list::parse(&limit["max"]) {
            let said = format!("maximum {name} usage per {KIND} is {bound}");
            match requests.get(&name) {
                None => errors.push(format!("{said}.  No request is specified")),
                Some(asked) if exceeds(asked, &bound) => {
                    errors.push(format!("{said}, but request is {asked}"));
                }
                Some(_) => {}
            }
        }
    }
    errors
}

fn check(
    limit: &Value,
    kind: &str,
    requests: &ResourceList,
    limits: &ResourceList,
    errors: &mut Vec<String>,
) {
    for (name, bound) in list::parse(&limit["min"]) {
        errors.extend(below(
            kind,
            &name,
            &bound,
            requests.get(&name),
            limits.get(&name),
        ));
    }
    for (name, bound) in list::parse(&limit["max"]) {
        errors.extend(above(
            kind,
            &name,
            &bound,
            requests.get(&name),
            limits.get(&name),
        ));
    }
    for (name, bound) in list::parse(&limit["maxLimitRequestRatio"]) {
        errors.extend(ratio(
            kind,
            &name,
            &bound,
            requests.get(&name),
            limits.get(&name),
        ));
    }
}

/// Compares as finely as does not overflow.
fn exceeds(one: &Quantity, other: &Quantity) -> bool {
    if one.value() <= MAX_MILLI && other.value() <= MAX_MILLI {
        one.milli() > other.milli()
    } else {
        one.value() > other.value()
    }
}

fn below(
    kind: &str,
    name: &str,
    bound: &Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let said = format!("minimum {name} usage per {kind} is {bound}");
    let Some(request) = request else {
        return Some(format!("{said}.  No request is specified"));
    };
    if exceeds(bound, request) {
        return Some(format!("{said}, but request is {request}"));
    }
    limit
        .filter(|limit| exceeds(bound, limit))
        .map(|limit| format!("{said}, but limit is {limit}"))
}

fn above(
    kind: &str,
    name: &str,
    bound: &Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let said = format!("maximum {name} usage per {kind} is {bound}");
    let Some(limit) = limit else {
        return Some(format!("{said}.  No limit is specified"));
    };
    if exceeds(limit, bound) {
        return Some(format!("{said}, but limit is {limit}"));
    }
    request
        .filter(|request| exceeds(request, bound))
        .map(|request| format!("{said}, but request is {request}"))
}

fn ratio(
    kind: &str,
    name: &str,
    bound: &Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let said = format!("{name} max limit to request ratio per {kind} is {bound}");
    let Some(request) = request.filter(|request| !request.is_zero()) else {
        return Some(format!(
            "{said}, but no request is specified or request is 0"
        ));
    };
    let Some(limit) = limit.filter(|limit| !limit.is_zero()) else {
        return Some(format!("{said}, but no limit is specified or limit is 0"));
    };
    let ratio = limit.as_f64() / request.as_f64();
    (ratio > bound.as_f64()).then(|| format!("{said}, but provided ratio is {ratio:.6}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_set_and_told_of() {
        let range = json!({ "spec": { "limits": [{
            "type": "Container",
            "default": { "cpu": "300m", "memory": "1Gi" },
            "defaultRequest": { "cpu": "100m" },
        }] } });
        let mut pod = json!({ "metadata": {}, "spec": {
            "containers": [{ "name": "a", "resources": { "limits": { "cpu": "1" } } }],
            "initContainers": [{ "name": "i", "resources": {} }],
        } });
        set_defaults(&range, &mut pod);
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container a; memory limit for container a; \
             cpu request for init container i; cpu, memory limit for init container i"
        );
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({ "requests": { "cpu": "100m" }, "limits": { "cpu": "1", "memory": "1Gi" } })
        );
        let mut full = json!({ "metadata": {}, "spec": { "containers": [] } });
        set_defaults(&range, &mut full);
        assert_eq!(full["metadata"], json!({}));
    }

    #[test]
    fn bounds() {
        let pod = |resources: Value| json!({ "spec": { "containers": [{ "name": "a", "resources": resources }] } });
        for (limit, resources, expected) in [
            (
                json!({ "max": { "cpu": "1" } }),
                json!({ "limits": { "cpu": "2" } }),
                Some("maximum cpu usage per Container is 1, but limit is 2"),
            ),
            (
                json!({ "max": { "cpu": "1" } }),
                json!({}),
                Some("maximum cpu usage per Container is 1.  No limit is specified"),
            ),
            (
                json!({ "min": { "cpu": "1" } }),
                json!({}),
                Some("minimum cpu usage per Container is 1.  No request is specified"),
            ),
            (
                json!({ "min": { "cpu": "1" } }),
                json!({ "requests": { "cpu": "500m" } }),
                Some("minimum cpu usage per Container is 1, but request is 500m"),
            ),
            (
                json!({ "maxLimitRequestRatio": { "cpu": "2" } }),
                json!({ "requests": { "cpu": "1" }, "limits": { "cpu": "3" } }),
                Some(
                    "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
                ),
            ),
            (
                json!({ "maxLimitRequestRatio": { "cpu": "2" } }),
                json!({ "limits": { "cpu": "3" } }),
                Some(
                    "cpu max limit to request ratio per Container is 2, but no request is specified or request is 0",
                ),
            ),
            (
                json!({ "max": { "cpu": "1", "memory": "1Gi" } }),
                json!({ "limits": { "cpu": "2", "memory": "2Gi" } }),
                Some(
                    "[maximum cpu usage per Container is 1, but limit is 2, \
                      maximum memory usage per Container is 1Gi, but limit is 2Gi]",
                ),
            ),
            (
                json!({ "max": { "cpu": "1" }, "min": { "cpu": "1m" } }),
                json!({ "requests": { "cpu": "1m" }, "limits": { "cpu": "1" } }),
                None,
            ),
        ] {
            let mut limit = limit;
            limit["type"] = "Container".into();
            let range = json!({ "spec": { "limits": [limit] } });
            let said = aggregate(check_pod(&range, &pod(resources)));
            assert_eq!(said.as_deref(), expected);
        }
    }

    #[test]
    fn claims_are_bound_by_what_they_ask_for() {
        let range = json!({ "spec": { "limits": [{
            "type": "PersistentVolumeClaim", "min": { "storage": "1Gi" }, "max": { "storage": "2Gi" },
        }] } });
        for (asked, expected) in [
            ("1Gi", None),
            (
                "3Gi",
                Some("maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"),
            ),
            (
                "1",
                Some("minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1"),
            ),
        ] {
            let claim = json!({ "spec": { "resources": { "requests": { "storage": asked } } } });
            assert_eq!(aggregate(check_claim(&range, &claim)).as_deref(), expected);
        }
    }
}

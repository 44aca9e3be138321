//! `pods/eviction`: a deletion that respects disruption budgets.

use std::sync::Arc;

use api::{GroupResource, GroupVersionKind, LabelSelector, Reason, Status};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{call, core, decode, success};
use crate::admission::{Operation, Reader};
use crate::handlers::{Context, method_not_allowed};
use crate::http::{RequestBody, Response};
use crate::registry::{Call, Change, DeleteOptions, Registry, now};

const REFUSAL: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
/// Evictions that the budget's controller has not seen yet, at most.
const DISRUPTED_MAX: usize = 2000;

/// POST of an eviction.
pub(super) async fn evict(
    context: &Context<'_>,
    registry: &Arc<Registry>,
    body: RequestBody,
) -> Result<Response, Status> {
    if context.parts.method != http::Method::POST {
        return Err(method_not_allowed());
    }
    let pods = core(registry, "pods")?;
    let (mut call, _) = call(context, pods.clone(), "CreateOptions")?;
    let gvk = GroupVersionKind::new("policy", "v1", "Eviction");
    let mut eviction = decode(context, &call, body, &gvk).await?;
    let name = eviction["metadata"]["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        eviction["metadata"]["name"] = call.name.clone().into();
    } else if name != call.name {
        return Err(Status::bad_request(
            "name in URL does not match name in Eviction object",
        ));
    }
    api::meta::match_namespace(&mut eviction, &call.namespace)?;
    let mut options = eviction["deleteOptions"].clone();
    if options.is_null() {
        options = json!({});
    }
    call.dry_run |= options["dryRun"]
        .as_array()
        .is_some_and(|all| !all.is_empty());
    registry
        .review_only(&call, Operation::Create, &gvk, eviction)
        .await?;
    let mut delete = DeleteOptions::parse(&options)?;
    let key = pods.key(&call.namespace, &call.name);
    let pod = registry
        .read(&pods, &key)
        .await?
        .ok_or_else(|| pods.not_found(&call.name))?;
    let version = pod.revision.to_string();
    let pod = pod.value();
    if !is_past_budgets(&pod) {
        match allow(registry, &call, &pod).await? {
            Allowed::Yes => {}
            Allowed::AsItIs if delete.resource_version.is_none() => {
                delete.resource_version = Some(version);
            }
            Allowed::AsItIs => {}
        }
    }
    call.subresource = String::new();
    call.options = options;
    mark(registry, &call).await?;
    registry.delete(&call, &delete).await?;
    call.subresource = "eviction".to_owned();
    Ok(success(context, &call, 201))
}

/// Pods that no budget protects.
fn is_past_budgets(pod: &Value) -> bool {
    matches!(
        pod["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed" | "Pending")
    ) || !pod["metadata"]["deletionTimestamp"].is_null()
}

enum Allowed {
    Yes,
    /// As long as the pod does not change meanwhile.
    AsItIs,
}

/// Takes one disruption from the pod's budget.
async fn allow(registry: &Arc<Registry>, call: &Call, pod: &Value) -> Result<Allowed, Status> {
    let budgets = GroupResource {
        group: "policy".to_owned(),
        resource: "poddisruptionbudgets".to_owned(),
    };
    let found: Vec<Arc<Value>> = Reader::list(&**registry, &budgets, &call.namespace)
        .await?
        .into_iter()
        .filter(|budget| {
            LabelSelector::from_object(&budget["spec"]["selector"])
                .is_ok_and(|selector| selector.matches(&pod["metadata"]["labels"]))
        })
        .collect();
    let budget = match found.as_slice() {
        [] => return Ok(Allowed::Yes),
        [one] => one,
        _ => {
            return Err(Status {
                code: 500,
                ..Status::new(
                    Reason::Unknown,
                    "This pod has more than one PodDisruptionBudget, which the eviction \
                     subresource does not support.",
                )
            });
        }
    };
    let ready = pod["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|it| it["type"] == "Ready" && it["status"] == "True");
    if !ready {
        let count = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
        let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
        let healthy = count("currentHealthy") >= count("desiredHealthy");
        if always || (healthy && count("desiredHealthy") > 0) {
            return Ok(Allowed::AsItIs);
        }
    }
    let resource = registry
        .resource("policy", "poddisruptionbudgets")
        .ok_or_else(|| Status::internal("no resource poddisruptionbudgets"))?;
    let spend = internal(
        call,
        resource,
        budget["metadata"]["name"].as_str().unwrap_or_default(),
    );
    registry
        .update(
            &spend,
            &Spend {
                pod: call.name.clone(),
                now: now(),
            },
        )
        .await?;
    Ok(Allowed::Yes)
}

/// The same call for another object, done by the server itself.
fn internal(call: &Call, resource: Arc<crate::registry::Resource>, name: &str) -> Call {
    Call {
        resource,
        version: "v1".to_owned(),
        subresource: "status".to_owned(),
        namespace: call.namespace.clone(),
        name: name.to_owned(),
        user: call.user.clone(),
        dry_run: call.dry_run,
        manager: call.manager.clone(),
        field_validation: String::new(),
        options: json!({}),
        warnings: Mutex::default(),
        empties: Mutex::default(),
    }
}

/// One disruption less in a budget.
struct Spend {
    pod: String,
    now: String,
}

impl Change for Spend {
    fn is_internal(&self) -> bool {
        true
    }

    fn apply(&self, call: &Call, current: Option<&Value>) -> Result<Value, Status> {
        let Some(budget) = current else {
            return Err(call.resource.not_found(&call.name));
        };
        let name = &call.name;
        let count = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
        if count("observedGeneration") < api::meta::generation(budget) {
            return Err(refusal(
                format!("The disruption budget {name} is still being processed by the server."),
                10,
            ));
        }
        let allowed = count("disruptionsAllowed");
        let forbidden = |why: &str| {
            let resource = GroupResource {
                group: "policy".to_owned(),
                resource: "poddisruptionbudget".to_owned(),
            };
            Err(Status::forbidden(&resource, name, why))
        };
        if allowed < 0 {
            return forbidden("pdb disruptions allowed is negative");
        }
        if budget["status"]["disruptedPods"]
            .as_object()
            .is_some_and(|pods| pods.len() > DISRUPTED_MAX)
        {
            return forbidden(
                "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
            );
        }
        if allowed == 0 {
            let condition = budget["status"]["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|it| it["type"] == "DisruptionAllowed" && it["status"] == "False");
            let said = |field: &str| condition.and_then(|it| it[field].as_str()).unwrap_or("");
            let text = if said("reason") == "SyncFailed" && !said("message").is_empty() {
                format!(
                    "The disruption budget {name} does not allow evicting pods currently because \
                     it failed sync: {}",
                    said("message")
                )
            } else if count("currentHealthy") <= count("desiredHealthy") {
                format!(
                    "The disruption budget {name} needs {} healthy pods and has {} currently",
                    count("desiredHealthy"),
                    count("currentHealthy")
                )
            } else {
                format!("The disruption budget {name} does not allow evicting pods currently")
            };
            return Err(refusal(text, 0));
        }
        let mut budget = budget.clone();
        budget["status"]["disruptionsAllowed"] = (allowed - 1).into();
        budget["status"]["disruptedPods"][&self.pod] = self.now.clone().into();
        Ok(budget)
    }
}

/// 429 with the budget's reason.
fn refusal(why: String, seconds: u32) -> Status {
    let mut details = json!({ "causes": [{ "reason": "DisruptionBudget", "message": why }] });
    if seconds > 0 {
        details["retryAfterSeconds"] = seconds.into();
    }
    Status::new(Reason::TooManyRequests, REFUSAL).with_details(details)
}

/// Says in the pod's status why it goes.
async fn mark(registry: &Registry, call: &Call) -> Result<(), Status> {
    struct Mark(String);
    impl Change for Mark {
        fn is_internal(&self) -> bool {
            true
        }

        fn apply(&self, call: &Call, current: Option<&Value>) -> Result<Value, Status> {
            let Some(pod) = current else {
                return Err(call.resource.not_found(&call.name));
            };
            let mut pod = pod.clone();
            if !pod["status"]["conditions"].is_array() {
                pod["status"]["conditions"] = json!([]);
            }
            let condition = json!({
                "type": "DisruptionTarget",
                "status": "True",
                "lastProbeTime": null,
                "lastTransitionTime": self.0,
                "reason": "EvictionByEvictionAPI",
                "message": "Eviction API: evicting",
            });
            let conditions = pod["status"]["conditions"]
                .as_array_mut()
                .expect("made an array above");
            match conditions
                .iter_mut()
                .find(|it| it["type"] == "DisruptionTarget")
            {
                Some(known) if known["status"] == "True" => {}
                Some(known) => *known = condition,
                None => conditions.push(condition),
            }
            Ok(pod)
        }
    }
    registry.update(call, &Mark(now())).await.map(|_| ())
}

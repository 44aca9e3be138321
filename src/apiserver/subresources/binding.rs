//! `bindings` and `pods/binding`: a pod is given its node.

use api::{GroupVersionKind, Status};
use serde_json::{Value, json};

use super::{call, core, decode, success};
use crate::admission::Operation;
use crate::handlers::{Context, method_not_allowed};
use crate::http::{RequestBody, Response};
use crate::registry::{Call, Change, Registry};

struct Bind {
    binding: Value,
    now: String,
}

impl Change for Bind {
    fn is_internal(&self) -> bool {
        true
    }

    fn apply(&self, call: &Call, current: Option<&Value>) -> Result<Value, Status> {
        let resource = &call.resource.group_resource;
        let name = &call.name;
        let Some(pod) = current else {
            return Err(call.resource.not_found(name));
        };
        let conflict = |why: String| Err(Status::conflict(resource, name, &why));
        for (field, label) in [("uid", "UID"), ("resourceVersion", "ResourceVersion")] {
            let wanted = self.binding["metadata"][field].as_str().unwrap_or_default();
            let actual = pod["metadata"][field].as_str().unwrap_or_default();
            if !wanted.is_empty() && wanted != actual {
                return conflict(format!(
                    "Precondition failed: {label} in precondition: {wanted}, {label} in object \
                     meta: {actual}"
                ));
            }
        }
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            return conflict(format!(
                "pod {name} is being deleted, cannot be assigned to a host"
            ));
        }
        if let Some(node) = pod["spec"]["nodeName"]
            .as_str()
            .filter(|node| !node.is_empty())
        {
            return conflict(format!("pod {name} is already assigned to node {node:?}"));
        }
        if pod["spec"]["schedulingGates"]
            .as_array()
            .is_some_and(|gates| !gates.is_empty())
        {
            return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
        }
        let mut pod = pod.clone();
        pod["spec"]["nodeName"] = self.binding["target"]["name"].clone();
        for field in ["annotations", "labels"] {
            for (key, value) in self.binding["metadata"][field]
                .as_object()
                .into_iter()
                .flatten()
            {
                pod["metadata"][field][key] = value.clone();
            }
        }
        let status = &mut pod["status"];
        if let Some(status) = status.as_object_mut() {
            status.remove("nominatedNodeName");
        }
        if !status["conditions"].is_array() {
            status["conditions"] = json!([]);
        }
        let condition = json!({
            "type": "PodScheduled",
            "status": "True",
            "lastProbeTime": null,
            "lastTransitionTime": self.now,
        });
        let conditions = pod["status"]["conditions"]
            .as_array_mut()
            .expect("made an array above");
        match conditions
            .iter_mut()
            .find(|it| it["type"] == "PodScheduled")
        {
            Some(known) if known["status"] == "True" => {}
            Some(known) => *known = condition,
            None => conditions.push(condition),
        }
        Ok(pod)
    }
}

/// POST of a binding.
pub(super) async fn bind(
    context: &Context<'_>,
    registry: &Registry,
    body: RequestBody,
) -> Result<Response, Status> {
    if context.parts.method != http::Method::POST {
        return Err(method_not_allowed());
    }
    let pods = core(registry, "pods")?;
    let (mut call, _) = call(context, pods, "CreateOptions")?;
    let gvk = GroupVersionKind::new("", "v1", "Binding");
    let mut binding = decode(context, &call, body, &gvk).await?;
    let name = binding["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    if call.name.is_empty() {
        call.name = name;
    } else if name.is_empty() {
        binding["metadata"]["name"] = call.name.clone().into();
    } else if name != call.name {
        return Err(Status::bad_request(
            "name in URL does not match name in Binding object",
        ));
    }
    api::meta::match_namespace(&mut binding, &call.namespace)?;
    let target = &binding["target"];
    let kind = target["kind"].as_str().unwrap_or_default();
    let mut wrong = Vec::new();
    if !matches!(kind, "" | "Node") {
        wrong.push(format!(
            "target.kind: Unsupported value: {kind:?}: supported values: \"Node\", \"<empty>\""
        ));
    }
    if target["name"].as_str().unwrap_or_default().is_empty() {
        wrong.push("target.name: Required value".to_owned());
    }
    if !wrong.is_empty() {
        let message = match wrong.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        return Err(Status {
            code: 500,
            ..Status::new(api::Reason::Unknown, message)
        });
    }
    call.subresource = "binding".to_owned();
    let binding = registry
        .review_only(&call, Operation::Create, &gvk, binding)
        .await?;
    let change = Bind {
        binding,
        now: crate::registry::now(),
    };
    registry.update(&call, &change).await?;
    Ok(success(context, &call, 201))
}

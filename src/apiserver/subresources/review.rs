//! Reviews of access and tokens, `TokenRequest`, `ComponentStatus`.

use api::{GroupVersionKind, Status};
use serde_json::json;

use super::{answer, decode, parent};
use crate::admission::Operation;
use crate::handlers::Context;
use crate::handlers::{method_not_allowed, not_found};
use crate::http::{RequestBody, Response};
use crate::registry::{Call, Registry};

/// POST of a review.
pub(super) async fn review(
    context: &Context<'_>,
    body: RequestBody,
    gvk: &GroupVersionKind,
) -> Result<Response, Status> {
    if context.parts.method != http::Method::POST {
        return Err(method_not_allowed());
    }
    let registry = &context.server.inner.registry;
    // Any stored resource: nothing is stored, but a call has one.
    let resource = registry.resource("", "namespaces").ok_or_else(not_found)?;
    let (call, _) = super::call(context, resource, "CreateOptions")?;
    let mut review = decode(context, &call, body, gvk).await?;
    registry.engine.manage_answered(&call, gvk, &mut review);
    let answered = context
        .server
        .inner
        .reviews
        .answer(&gvk.kind, &context.info.namespace, &context.user, review)
        .await
        .ok_or_else(not_found)??;
    Ok(answer(context, Some(&call), 201, &answered))
}

/// POST of `serviceaccounts/NAME/token`.
pub(super) async fn token(
    context: &Context<'_>,
    registry: &Registry,
    body: RequestBody,
) -> Result<Response, Status> {
    if context.parts.method != http::Method::POST {
        return Err(method_not_allowed());
    }
    let (call, _): (Call, _) = super::call(context, parent(context, registry)?, "CreateOptions")?;
    let gvk = GroupVersionKind::new("authentication.k8s.io", "v1", "TokenRequest");
    let request = decode(context, &call, body, &gvk).await?;
    let mut request = registry
        .review_only(&call, Operation::Create, &gvk, request)
        .await?;
    registry.engine.manage_answered(&call, &gvk, &mut request);
    let info = context.info;
    let issued = context
        .server
        .inner
        .reviews
        .tokens()
        .issue(&info.namespace, &info.name, request)
        .await?;
    Ok(answer(context, Some(&call), 201, &issued))
}

/// `componentstatuses`: the store is what there is to tell of.
pub(super) async fn component_statuses(context: &Context<'_>) -> Result<Response, Status> {
    let store = context.server.inner.registry.hub.store();
    let (status, message, error) = match store.revision().await {
        Ok(_) => ("True", "ok".to_owned(), "nil".to_owned()),
        Err(error) => ("False", String::new(), base::Chain(&error).to_string()),
    };
    let item = json!({
        "metadata": { "name": "etcd-0" },
        "conditions": [{
            "type": "Healthy", "status": status, "message": message, "error": error,
        }],
    });
    let mut value = match context.info.name.as_str() {
        "" => json!({ "kind": "ComponentStatusList", "metadata": {}, "items": [item] }),
        "etcd-0" => {
            let mut item = item;
            item["kind"] = "ComponentStatus".into();
            item
        }
        other => {
            let resource = api::GroupResource {
                group: String::new(),
                resource: "componentstatuses".to_owned(),
            };
            return Err(Status::not_found(&resource, other));
        }
    };
    value["apiVersion"] = "v1".into();
    Ok(answer(context, None, 200, &value))
}

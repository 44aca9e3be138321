//! Reviews and token requests: objects that are answered, never stored.

use api::{GroupResource, Status};
use serde_json::Value;

use crate::engine::Served;
use crate::handlers::{Context, read_body};
use crate::http::{Output, RequestBody, Response, accept, json_value};

/// Answers a create of a review kind.
pub(crate) async fn review(
    context: &Context<'_>,
    kind: &str,
    body: RequestBody,
) -> Result<Response, Status> {
    let object = decode(context, kind, body).await?;
    let reviews = &context.server.inner.reviews;
    let answer = reviews
        .answer(kind, &context.info.namespace, &context.user, object)
        .await;
    let missing = || {
        let resource = GroupResource {
            group: context.info.group.clone(),
            resource: context.info.resource.clone(),
        };
        Status::not_found(&resource, &context.info.name)
    };
    let answer = answer.ok_or_else(missing)??;
    Ok(json_value(201, &output(context), &answer))
}

/// Answers a create of `serviceaccounts/NAME/token`.
pub(crate) async fn token(context: &Context<'_>, body: RequestBody) -> Result<Response, Status> {
    let request = decode(context, "TokenRequest", body).await?;
    let info = context.info;
    let answer = context
        .server
        .inner
        .reviews
        .tokens()
        .issue(&info.namespace, &info.name, request)
        .await?;
    Ok(json_value(201, &output(context), &answer))
}

/// Whether a resource holds questions instead of objects.
pub(crate) fn is_review(served: &Served) -> bool {
    matches!(
        (served.gvk.group.as_str(), served.gvk.kind.as_str()),
        ("authentication.k8s.io", "TokenReview" | "SelfSubjectReview")
            | (
                "authorization.k8s.io",
                "SubjectAccessReview"
                    | "LocalSubjectAccessReview"
                    | "SelfSubjectAccessReview"
                    | "SelfSubjectRulesReview"
            )
    )
}

async fn decode(context: &Context<'_>, kind: &str, body: RequestBody) -> Result<Value, Status> {
    let bytes = read_body(body).await?;
    let engine = &context.server.inner.registry.engine;
    let mut object = engine.decode_options(context, &bytes, kind)?;
    let info = context.info;
    object["kind"] = kind.into();
    object["apiVersion"] = match (kind, info.group.as_str()) {
        ("TokenRequest", _) => "authentication.k8s.io/v1".into(),
        (_, group) => format!("{group}/{}", info.version).into(),
    };
    if !object["metadata"].is_object() {
        object["metadata"] = Value::Object(serde_json::Map::new());
    }
    Ok(object)
}

fn output(context: &Context<'_>) -> Output {
    accept(&context.parts.headers, context.query, false, false).unwrap_or_default()
}

//! GET: one object, or a list.

use api::selector::{FieldSelector, LabelSelector};
use api::{Reason, Status};
use serde_json::json;

use super::output::{self, View};
use super::{Context, watch};
use crate::cache::Filter;
use crate::http::Response;
use crate::registry::{ListOptions, VersionMatch};

/// GET of one object, or of its status.
pub(crate) async fn get(context: &Context<'_>, view: View) -> Result<Response, Status> {
    let registry = &context.server.inner.registry;
    let info = context.info;
    let resource = &view.resource;
    let key = resource.key(&info.namespace, &info.name);
    let entry = match version(context)? {
        None => registry.read(resource, &key).await?,
        Some(0) => registry.read_any(resource, &key).await?,
        Some(version) => {
            let cache = registry.cache(resource).await?;
            registry.reach(version).await?;
            cache.get(&key)
        }
    };
    let entry = entry.ok_or_else(|| resource.not_found(&info.name))?;
    Ok(output::one(context, &view, 200, &entry))
}

/// LIST.
pub(crate) async fn list(context: &Context<'_>, view: View) -> Result<Response, Status> {
    let registry = &context.server.inner.registry;
    let filter = filter(context, &view)?;
    let options = list_options(context)?;
    let result = registry.list(&view.resource, &filter, &options).await?;
    Ok(output::list(context, &view, result))
}

/// WATCH, as a query parameter or by the old path.
pub(crate) async fn watch(context: &Context<'_>, view: View) -> Result<Response, Status> {
    watch::watch(context, view).await
}

/// `resourceVersion`.
pub(super) fn version(context: &Context<'_>) -> Result<Option<u64>, Status> {
    let Some(text) = context.query.non_empty("resourceVersion") else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|_| {
        let error = format!(
            "resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: \
             invalid syntax"
        );
        match context.info.verb {
            "watch" => Status {
                code: 500,
                ..Status::new(Reason::Unknown, error)
            },
            _ => Status::bad_request(format!("invalid resource version: {error}")),
        }
    })
}

pub(super) fn version_match(context: &Context<'_>) -> Result<VersionMatch, Status> {
    match context.query.get("resourceVersionMatch").as_deref() {
        None | Some("") => Ok(VersionMatch::Unset),
        Some("NotOlderThan") => Ok(VersionMatch::NotOlderThan),
        Some("Exact") => Ok(VersionMatch::Exact),
        Some(other) => {
            let kind = api::GroupKind {
                group: "meta.k8s.io".into(),
                kind: "ListOptions".into(),
            };
            let mut errors = Vec::new();
            let path = api::Path::new("resourceVersionMatch");
            if context.query.non_empty("resourceVersion").is_none() {
                errors.push(api::FieldError::forbidden(
                    &path,
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            errors.push(api::FieldError::not_supported(
                &path,
                other,
                &["Exact", "NotOlderThan", ""],
            ));
            Err(Status::invalid(&kind, "", &errors))
        }
    }
}

/// An integer parameter, with upstream's words for what is none.
pub(super) fn integer(context: &Context<'_>, name: &str) -> Result<Option<i64>, Status> {
    let Some(text) = context.query.non_empty(name) else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|_| {
        Status::bad_request(format!(
            "strconv.ParseInt: parsing {text:?}: invalid syntax"
        ))
    })
}

pub(super) fn list_options(context: &Context<'_>) -> Result<ListOptions, Status> {
    let limit = integer(context, "limit")?.unwrap_or(0).max(0);
    integer(context, "timeoutSeconds")?;
    if context.query.get("sendInitialEvents").is_some() && !context.query.flag("watch") {
        let kind = api::GroupKind {
            group: "meta.k8s.io".into(),
            kind: "ListOptions".into(),
        };
        return Err(Status::invalid(
            &kind,
            "",
            &[api::FieldError::forbidden(
                &api::Path::new("sendInitialEvents"),
                "sendInitialEvents is forbidden for list",
            )],
        ));
    }
    Ok(ListOptions {
        limit: usize::try_from(limit).unwrap_or(usize::MAX),
        token: context
            .query
            .get("continue")
            .unwrap_or_default()
            .into_owned(),
        resource_version: version(context)?,
        version_match: version_match(context)?,
    })
}

/// Namespace, name and selectors.
pub(super) fn filter(context: &Context<'_>, view: &View) -> Result<Filter, Status> {
    let text = |name| context.query.get(name).unwrap_or_default().into_owned();
    let labels = LabelSelector::parse(&text("labelSelector")).map_err(Status::bad_request)?;
    let fields = FieldSelector::parse(&text("fieldSelector")).map_err(Status::bad_request)?;
    let resource = &view.resource;
    let known = if resource.is("apps", "replicasets") {
        // It has fields of its own, but no version of it lets clients name them.
        Vec::new()
    } else {
        resource.rules.selectable_fields(&json!({}))
    };
    for term in fields.terms() {
        let field = term.field.as_str();
        if matches!(field, "metadata.name" | "metadata.namespace")
            || view.resource.rules.selects_by(field)
        {
            continue;
        }
        return Err(Status::bad_request(if known.is_empty() {
            format!(
                "{field:?} is not a known field selector: only \"metadata.name\", \
                 \"metadata.namespace\""
            )
        } else {
            resource.rules.unknown_field(field)
        }));
    }
    let info = context.info;
    // The name comes from the path of an old-style watch or from the selector.
    Ok(Filter {
        namespace: if view.resource.namespaced {
            info.namespace.clone()
        } else {
            String::new()
        },
        name: info.name.clone(),
        labels,
        fields,
    })
}

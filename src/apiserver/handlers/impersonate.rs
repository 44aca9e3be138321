//! `Impersonate-*` headers: a user who may acts as somebody else.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::Status;
use http::HeaderMap;

use super::{Context, check_access};
use crate::access::{ANONYMOUS, Attributes, UNAUTHENTICATED, User};
use crate::request::decode;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
const GROUP_OF_IDENTITY: &str = "authentication.k8s.io";

/// Whether a request asks to act as somebody else.
pub(super) fn is_asked(headers: &HeaderMap) -> bool {
    headers
        .keys()
        .any(|name| name.as_str().starts_with("impersonate-"))
}

/// The user to act as, once every part of it is allowed.
pub(super) async fn impersonate(context: &Context<'_>) -> Result<Arc<User>, Status> {
    let headers = &context.parts.headers;
    let all = |name: &str| -> Vec<String> {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .map(str::to_owned)
            .collect()
    };
    let mut user = User {
        name: all(USER).into_iter().next().unwrap_or_default(),
        groups: all(GROUP),
        uid: all(UID).into_iter().next().unwrap_or_default(),
        extra: extra(headers),
    };
    if user.name.is_empty() {
        return Err(Status::internal(
            "requested groups, uid or extra without impersonating a user",
        ));
    }
    let account = user
        .name
        .strip_prefix("system:serviceaccount:")
        .and_then(|rest| rest.split_once(':'))
        .map(|(namespace, name)| (namespace.to_owned(), name.to_owned()));
    match &account {
        Some((namespace, name)) => {
            check(context, "", "serviceaccounts", "", namespace, name).await?;
        }
        None => check(context, "", "users", "", "", &user.name).await?,
    }
    for group in &user.groups {
        check(context, "", "groups", "", "", group).await?;
    }
    if !user.uid.is_empty() {
        check(context, GROUP_OF_IDENTITY, "uids", "", "", &user.uid).await?;
    }
    for (key, values) in &user.extra {
        for value in values {
            check(context, GROUP_OF_IDENTITY, "userextras", key, "", value).await?;
        }
    }
    if let Some((namespace, _)) = &account
        && user.groups.is_empty()
    {
        user.groups = vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
        ];
    }
    if user.name == ANONYMOUS && user.groups.is_empty() {
        user.groups = vec![UNAUTHENTICATED.to_owned()];
    }
    Ok(Arc::new(user.authenticated()))
}

async fn check(
    context: &Context<'_>,
    group: &str,
    resource: &str,
    subresource: &str,
    namespace: &str,
    name: &str,
) -> Result<(), Status> {
    check_access(
        context,
        &Attributes {
            verb: "impersonate",
            namespace,
            group,
            version: "v1",
            resource,
            subresource,
            name,
            is_resource: true,
            ..Attributes::default()
        },
    )
    .await
}

fn extra(headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        if let Some(key) = name.as_str().strip_prefix(EXTRA)
            && let Ok(value) = value.to_str()
        {
            extra
                .entry(decode(key).into_owned())
                .or_default()
                .push(value.to_owned());
        }
    }
    extra
}

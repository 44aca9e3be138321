//! Paths and operations.
//!
//! Operations are built in the form of v3; [`to_v2`] turns one into the form
//! of v2.

mod resource;
mod subresource;
mod v2;

use serde_json::{Map, Value, json};

use super::definitions::Dialect;
use crate::scheme::Subresource;

pub(super) use self::resource::of_resource;
pub(super) use self::v2::to_v2;

/// Media types of responses.
const PLAIN: [&str; 3] = [
    "application/json",
    "application/vnd.kubernetes.protobuf",
    "application/yaml",
];
const STREAMS: [&str; 2] = [
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];
/// Media types of patches.
const PATCHES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// What a path is made for: names of the schemas that it needs.
pub(super) struct Names<'a> {
    /// Of the resource's objects.
    pub(super) object: &'a str,
    /// Of its lists.
    pub(super) list: &'a str,
    /// Of what a subresource reads and writes.
    pub(super) subresource: &'a dyn Fn(&Subresource) -> String,
}

/// `getAppsV1APIResources` and the like are made of this.
struct Titles {
    /// `AppsV1`.
    camel: String,
    /// `apps_v1`.
    tag: String,
}

fn titles(group: &str, version: &str) -> Titles {
    let short = match group {
        "" => "core",
        group => group.strip_suffix(".k8s.io").unwrap_or(group),
    };
    let camel: String = short.split('.').map(capital).collect();
    let mut parts = short.split('.');
    let mut tag = parts.next().unwrap_or_default().to_owned();
    parts.for_each(|part| tag.push_str(&capital(part)));
    Titles {
        camel: camel + &capital(version),
        tag: format!("{tag}_{version}"),
    }
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}

/// `/api/v1` or `/apis/GROUP/VERSION`.
pub(super) fn root(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("/api/{version}")
    } else {
        format!("/apis/{group}/{version}")
    }
}

/// The path that lists a group and version's resources.
pub(super) fn resource_list(group: &str, version: &str) -> (String, Value) {
    let titles = titles(group, version);
    let list = format!("{META}.APIResourceList");
    let operation = json!({
        "description": "get available resources",
        "operationId": format!("get{}APIResources", titles.camel),
        "responses": responses(&[("200", &list)], &PLAIN),
        "tags": [titles.tag],
    });
    (
        format!("{}/", root(group, version)),
        json!({ "get": operation }),
    )
}

/// The paths of discovery: `api`, `apis`, `apis/GROUP` or `version`, with the
/// type that each answers with.
pub(super) fn discovery(path: &str) -> Option<(String, Value, &'static str)> {
    let camel = |group: &str| titles(group, "");
    let (id, tag, description, ty) = match path {
        "api" => (
            "getCoreAPIVersions".to_owned(),
            "core".to_owned(),
            "get available API versions",
            "APIVersions",
        ),
        "apis" => (
            "getAPIVersions".to_owned(),
            "apis".to_owned(),
            "get available API versions",
            "APIGroupList",
        ),
        "version" => (
            "getCodeVersion".to_owned(),
            "version".to_owned(),
            "get the version information for this server",
            "Info",
        ),
        path => {
            let titles = camel(path.strip_prefix("apis/").filter(|it| !it.contains('/'))?);
            let tag = titles.tag.trim_end_matches('_').to_owned();
            (
                format!("get{}APIGroup", titles.camel),
                tag,
                "get information of a group",
                "APIGroup",
            )
        }
    };
    let (schema, media) = match ty {
        "Info" => (
            "io.k8s.apimachinery.pkg.version.Info".to_owned(),
            &PLAIN[..1],
        ),
        ty => (format!("{META}.{ty}"), &PLAIN[..]),
    };
    let operation = json!({
        "description": description,
        "operationId": id,
        "responses": responses(&[("200", &schema)], media),
        "tags": [tag],
    });
    Some((format!("/{path}/"), json!({ "get": operation }), ty))
}

fn query(name: &str, kind: &str) -> Value {
    json!({ "in": "query", "name": name, "schema": { "type": kind, "uniqueItems": true } })
}

fn queries(names: &[&str]) -> Vec<Value> {
    let kind = |name: &str| match name {
        "allowWatchBookmarks"
        | "sendInitialEvents"
        | "watch"
        | "force"
        | "orphanDependents"
        | "ignoreStoreReadErrorWithClusterBreakingPotential" => "boolean",
        "limit" | "timeoutSeconds" | "gracePeriodSeconds" => "integer",
        _ => "string",
    };
    names.iter().map(|name| query(name, kind(name))).collect()
}

fn in_path(name: &str, kind: &str) -> Value {
    let description = match name {
        "name" => format!("name of the {kind}"),
        "namespace" => "object name and auth scope, such as for teams and projects".to_owned(),
        _ => "path to the resource".to_owned(),
    };
    json!({
        "description": description, "in": "path", "name": name, "required": true,
        "schema": { "type": "string", "uniqueItems": true },
    })
}

fn responses(codes: &[(&str, &str)], media: &[&str]) -> Value {
    let mut all = Map::new();
    for (code, schema) in codes {
        let description = match *code {
            "200" => "OK",
            "201" => "Created",
            _ => "Accepted",
        };
        let content: Map<String, Value> = media
            .iter()
            .map(|media| {
                (
                    (*media).to_owned(),
                    json!({ "schema": Dialect::V3.reference(schema) }),
                )
            })
            .collect();
        all.insert(
            (*code).to_owned(),
            json!({ "description": description, "content": content }),
        );
    }
    all.insert("401".to_owned(), json!({ "description": "Unauthorized" }));
    Value::Object(all)
}

fn body(schema: &str, media: &[&str], required: bool) -> Value {
    let content: Map<String, Value> = media
        .iter()
        .map(|media| {
            (
                (*media).to_owned(),
                json!({ "schema": Dialect::V3.reference(schema) }),
            )
        })
        .collect();
    let mut body = json!({ "content": content });
    if required {
        body["required"] = true.into();
    }
    body
}

const LIST: [&str; 12] = [
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "shardSelector",
    "timeoutSeconds",
    "watch",
    "pretty",
];
const DELETE: [&str; 5] = [
    "dryRun",
    "gracePeriodSeconds",
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "orphanDependents",
    "propagationPolicy",
];
const WRITE: [&str; 3] = ["dryRun", "fieldManager", "fieldValidation"];

fn article(kind: &str) -> &'static str {
    if kind.starts_with(['A', 'E', 'I', 'O', 'U']) {
        "an"
    } else {
        "a"
    }
}

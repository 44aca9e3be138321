//! Paths and operations.
//!
//! Operations are built in the form of v3; [`to_v2`] turns one into the form
//! of v2.

use serde_json::{Map, Value, json};

use super::definitions::Dialect;
use crate::scheme::{Resource, Subresource};

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

/// Every path of a resource.
pub(super) fn of_resource(resource: &Resource, names: &Names<'_>) -> Vec<(String, Value)> {
    let gvk = &resource.gvk;
    let titles = titles(&gvk.group, &gvk.version);
    let root = root(&gvk.group, &gvk.version);
    let kind = &*gvk.kind;
    let scope = if resource.namespaced {
        "Namespaced"
    } else {
        ""
    };
    let plural = &*resource.plural;
    let has = |verb: &str| resource.verbs.contains(verb);
    let collection = if resource.namespaced {
        format!("{root}/namespaces/{{namespace}}/{plural}")
    } else {
        format!("{root}/{plural}")
    };
    let with_place = |mut parameters: Vec<Value>, name: Option<&str>| {
        if let Some(kind) = name {
            parameters.push(in_path("name", kind));
        }
        if resource.namespaced {
            parameters.push(in_path("namespace", kind));
        }
        parameters
    };
    let operation = |action: &str, id: String, description: String, more: Value| {
        let mut operation = json!({
            "description": description,
            "operationId": id,
            "tags": [titles.tag],
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": {
                "group": gvk.group, "kind": gvk.kind, "version": gvk.version,
            },
        });
        if let (Value::Object(operation), Value::Object(more)) = (&mut operation, more) {
            operation.extend(more);
        }
        operation
    };
    let camel = &titles.camel;
    let media: Vec<&str> = PLAIN.iter().chain(&STREAMS).copied().collect();
    let mut paths = Vec::new();

    let mut here = Map::new();
    if has("list") {
        let parameters = queries(&LIST[..11]);
        let list_media = &media[..];
        let more = json!({ "parameters": parameters, "responses": responses(&[("200", names.list)], list_media) });
        let id = format!("list{camel}{scope}{kind}");
        let description = format!("list or watch objects of kind {kind}");
        here.insert("get".to_owned(), operation("list", id, description, more));
    }
    if has("create") {
        let codes = [
            ("200", names.object),
            ("201", names.object),
            ("202", names.object),
        ];
        let more = json!({
            "parameters": queries(&WRITE),
            "requestBody": body(names.object, &["*/*"], true),
            "responses": responses(&codes, &PLAIN),
        });
        let id = format!("create{camel}{scope}{kind}");
        here.insert(
            "post".to_owned(),
            operation("post", id, format!("create {} {kind}", article(kind)), more),
        );
    }
    if has("deletecollection") {
        let names: Vec<&str> = LIST[1..10].iter().chain(&DELETE).copied().collect();
        let mut names = names;
        names.sort_unstable();
        let more = json!({
            "parameters": queries(&names),
            "requestBody": body(&format!("{META}.DeleteOptions"), &["*/*"], false),
            "responses": responses(&[("200", &format!("{META}.Status"))], &PLAIN),
        });
        let id = format!("delete{camel}Collection{scope}{kind}");
        here.insert(
            "delete".to_owned(),
            operation(
                "deletecollection",
                id,
                format!("delete collection of {kind}"),
                more,
            ),
        );
    }
    if !here.is_empty() {
        let mut parameters = with_place(Vec::new(), None);
        parameters.push(query("pretty", "string"));
        here.insert("parameters".to_owned(), parameters.into());
        paths.push((collection.clone(), Value::Object(here)));
    }

    let mut here = Map::new();
    if has("get") {
        let more = json!({ "responses": responses(&[("200", names.object)], &PLAIN) });
        let id = format!("read{camel}{scope}{kind}");
        here.insert(
            "get".to_owned(),
            operation("get", id, format!("read the specified {kind}"), more),
        );
    }
    here.extend(writes(
        has("update"),
        has("patch"),
        names.object,
        |action, verb, more| {
            let id = format!("{verb}{camel}{scope}{kind}");
            let description = match verb {
                "patch" => format!("partially update the specified {kind}"),
                _ => format!("replace the specified {kind}"),
            };
            operation(action, id, description, more)
        },
    ));
    if has("delete") {
        let deleted = if deletes_to_object(kind) {
            names.object.to_owned()
        } else {
            format!("{META}.Status")
        };
        let more = json!({
            "parameters": queries(&DELETE),
            "requestBody": body(&format!("{META}.DeleteOptions"), &["*/*"], false),
            "responses": responses(&[("200", &deleted), ("202", &deleted)], &PLAIN),
        });
        let id = format!("delete{camel}{scope}{kind}");
        here.insert(
            "delete".to_owned(),
            operation(
                "delete",
                id,
                format!("delete {} {kind}", article(kind)),
                more,
            ),
        );
    }
    let item = format!("{collection}/{{name}}");
    if !here.is_empty() {
        let mut parameters = with_place(Vec::new(), Some(kind));
        parameters.push(query("pretty", "string"));
        here.insert("parameters".to_owned(), parameters.into());
        paths.push((item.clone(), Value::Object(here)));
    }

    if resource.namespaced && has("list") {
        let list_media = &media[..];
        let more = json!({ "responses": responses(&[("200", names.list)], list_media) });
        let id = format!("list{camel}{kind}ForAllNamespaces");
        let description = format!("list or watch objects of kind {kind}");
        let mut names = LIST;
        names.sort_unstable();
        let here = json!({ "get": operation("list", id, description, more), "parameters": queries(&names) });
        paths.push((format!("{root}/{plural}"), here));
    }
    if has("watch") {
        let event = format!("{META}.WatchEvent");
        let mut names = LIST;
        names.sort_unstable();
        let watch = |action: &str, id: String, what: &str| {
            let more = json!({ "responses": responses(&[("200", &event)], &media) });
            let description = format!(
                "watch {what} {kind}. deprecated: use the 'watch' parameter with a list operation instead."
            );
            operation(action, id, description, more)
        };
        let single = watch(
            "watch",
            format!("watch{camel}{scope}{kind}"),
            "changes to an object of kind",
        );
        let several = watch(
            "watchlist",
            format!("watch{camel}{scope}{kind}List"),
            "individual changes to a list of",
        );
        let below = collection.replacen(&root, &format!("{root}/watch"), 1);
        let place = |name: Option<&str>| {
            let mut parameters = with_place(queries(&names), name);
            parameters.sort_by_key(|it| {
                (
                    it["in"] == "query",
                    it["name"].as_str().unwrap_or_default().to_owned(),
                )
            });
            parameters
        };
        paths.push((
            below.clone(),
            json!({ "get": several, "parameters": place(None) }),
        ));
        paths.push((
            format!("{below}/{{name}}"),
            json!({ "get": single, "parameters": place(Some(kind)) }),
        ));
        if resource.namespaced {
            let id = format!("watch{camel}{kind}ListForAllNamespaces");
            let all = watch("watchlist", id, "individual changes to a list of");
            let here = json!({ "get": all, "parameters": queries(&names) });
            paths.push((format!("{root}/watch/{plural}"), here));
        }
    }
    for subresource in &resource.subresources {
        let schema = (names.subresource)(subresource);
        paths.extend(of_subresource(
            resource,
            subresource,
            &item,
            &schema,
            &titles,
        ));
    }
    paths
        .into_iter()
        .map(|(path, it)| (path, lift(it)))
        .collect()
}

/// Moves the parameters that all operations of a path share to the path, and
/// sorts what is on either by name.
fn lift(path: Value) -> Value {
    let Value::Object(mut path) = path else {
        return path;
    };
    let list = |value: Option<Value>| match value {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    let mut shared = list(path.remove("parameters"));
    let mut own: Vec<Vec<Value>> = path
        .values_mut()
        .filter_map(Value::as_object_mut)
        .map(|operation| list(operation.remove("parameters")))
        .collect();
    if let Some(first) = own.first() {
        let everywhere = |it: &&Value| own.iter().all(|list| list.contains(it));
        shared.extend(first.iter().filter(everywhere).cloned().collect::<Vec<_>>());
    }
    let sort = |list: &mut Vec<Value>| {
        list.sort_by_cached_key(|it| it["name"].as_str().unwrap_or_default().to_owned());
    };
    for (operation, list) in path.values_mut().zip(&mut own) {
        list.retain(|it| !shared.contains(it));
        sort(list);
        if !list.is_empty() {
            operation["parameters"] = std::mem::take(list).into();
        }
    }
    sort(&mut shared);
    if !shared.is_empty() {
        path.insert("parameters".to_owned(), shared.into());
    }
    Value::Object(path)
}

/// Kinds whose deletion answers with the object.
fn deletes_to_object(kind: &str) -> bool {
    matches!(
        kind,
        "Pod"
            | "PersistentVolume"
            | "PersistentVolumeClaim"
            | "PodTemplate"
            | "ResourceQuota"
            | "Service"
            | "ServiceAccount"
            | "CSIDriver"
            | "CSINode"
            | "StorageClass"
            | "VolumeAttachment"
            | "VolumeAttributesClass"
            | "DeviceClass"
            | "ResourceClaim"
            | "ResourceClaimTemplate"
            | "ResourceSlice"
            | "DeviceTaintRule"
            | "ResourcePoolStatusRequest"
    )
}

fn article(kind: &str) -> &'static str {
    if kind.starts_with(['A', 'E', 'I', 'O', 'U']) {
        "an"
    } else {
        "a"
    }
}

/// `put` and `patch` of an object or subresource.
fn writes(
    update: bool,
    patch: bool,
    schema: &str,
    make: impl Fn(&str, &str, Value) -> Value,
) -> Vec<(String, Value)> {
    let codes = [("200", schema), ("201", schema)];
    let mut made = Vec::new();
    if update {
        let more = json!({
            "parameters": queries(&WRITE),
            "requestBody": body(schema, &["*/*"], true),
            "responses": responses(&codes, &PLAIN),
        });
        made.push(("put".to_owned(), make("put", "replace", more)));
    }
    if patch {
        let more = json!({
            "parameters": queries(&["dryRun", "fieldManager", "fieldValidation", "force"]),
            "requestBody": body(&format!("{META}.Patch"), &PATCHES, true),
            "responses": responses(&codes, &PLAIN),
        });
        made.push(("patch".to_owned(), make("patch", "patch", more)));
    }
    made
}

fn of_subresource(
    resource: &Resource,
    subresource: &Subresource,
    item: &str,
    schema: &str,
    titles: &Titles,
) -> Vec<(String, Value)> {
    let gvk = &subresource.gvk;
    let (kind, camel) = (&*resource.gvk.kind, &titles.camel);
    let scope = if resource.namespaced {
        "Namespaced"
    } else {
        ""
    };
    let name = &*subresource.name;
    let title = match name {
        "ephemeralcontainers" => "Ephemeralcontainers".to_owned(),
        name => capital(name),
    };
    let connects = gvk.kind.ends_with("Options");
    let mut parameters = vec![in_path("name", &gvk.kind)];
    if resource.namespaced {
        parameters.push(in_path("namespace", &gvk.kind));
    }
    let operation = |action: &str, id: String, description: String, more: Value| {
        let mut operation = json!({
            "description": description,
            "operationId": id,
            "tags": [titles.tag],
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": {
                "group": gvk.group, "kind": gvk.kind, "version": gvk.version,
            },
        });
        if let (Value::Object(operation), Value::Object(more)) = (&mut operation, more) {
            operation.extend(more);
        }
        operation
    };
    let path = format!("{item}/{name}");
    if connects {
        let options: &[&str] = match name {
            "exec" => &["command", "container", "stderr", "stdin", "stdout", "tty"],
            "attach" => &["container", "stderr", "stdin", "stdout", "tty"],
            "portforward" => &["ports"],
            _ => &["path"],
        };
        let typed = |name: &str| {
            let kind = match name {
                "stderr" | "stdin" | "stdout" | "tty" => "boolean",
                "ports" => "integer",
                _ => "string",
            };
            query(name, kind)
        };
        parameters.extend(options.iter().map(|name| typed(name)));
        let methods: &[&str] = match name {
            "proxy" => &["delete", "get", "head", "options", "patch", "post", "put"],
            _ => &["get", "post"],
        };
        let make = |suffix: &str| {
            let mut here = Map::new();
            for method in methods {
                let content = json!({ "*/*": { "schema": { "type": "string" } } });
                let more = json!({ "responses": {
                    "200": { "description": "OK", "content": content },
                    "401": { "description": "Unauthorized" },
                } });
                let id = format!(
                    "connect{camel}{}{scope}{kind}{title}{suffix}",
                    capital(method)
                );
                let description = format!(
                    "connect {} requests to {name} of {kind}",
                    method.to_uppercase()
                );
                here.insert(
                    (*method).to_owned(),
                    operation("connect", id, description, more),
                );
            }
            here
        };
        let mut here = make("");
        here.insert("parameters".to_owned(), parameters.clone().into());
        let mut paths = vec![(path.clone(), Value::Object(here))];
        if name == "proxy" {
            let mut here = make("WithPath");
            parameters.insert(parameters.len() - options.len(), in_path("path", kind));
            here.insert("parameters".to_owned(), parameters.into());
            paths.push((format!("{path}/{{path}}"), Value::Object(here)));
        }
        return paths;
    }
    let verbs = subresource.verbs;
    let mut here = Map::new();
    if verbs.contains("get") {
        let more = if name == "log" {
            let media: Map<String, Value> = PLAIN
                .iter()
                .chain(&["text/plain"])
                .map(|media| {
                    (
                        (*media).to_owned(),
                        json!({ "schema": { "type": "string" } }),
                    )
                })
                .collect();
            let options = [
                "container",
                "follow",
                "insecureSkipTLSVerifyBackend",
                "limitBytes",
                "pretty",
                "previous",
                "sinceSeconds",
                "stream",
                "tailLines",
                "timestamps",
            ];
            for option in options {
                let kind = match option {
                    "container" | "pretty" | "stream" => "string",
                    "limitBytes" | "sinceSeconds" | "tailLines" => "integer",
                    _ => "boolean",
                };
                parameters.push(query(option, kind));
            }
            json!({ "responses": {
                "200": { "description": "OK", "content": media },
                "401": { "description": "Unauthorized" },
            } })
        } else {
            json!({ "responses": responses(&[("200", schema)], &PLAIN) })
        };
        let id = format!("read{camel}{scope}{kind}{title}");
        let description = format!("read {name} of the specified {kind}");
        here.insert("get".to_owned(), operation("get", id, description, more));
    }
    here.extend(writes(
        verbs.contains("update"),
        verbs.contains("patch"),
        schema,
        |action, verb, more| {
            let id = format!("{verb}{camel}{scope}{kind}{title}");
            let what = if verb == "patch" {
                "partially update"
            } else {
                "replace"
            };
            operation(
                action,
                id,
                format!("{what} {name} of the specified {kind}"),
                more,
            )
        },
    ));
    if verbs.contains("create") {
        let codes = [("200", schema), ("201", schema), ("202", schema)];
        let more = json!({
            "requestBody": body(schema, &["*/*"], true),
            "responses": responses(&codes, &PLAIN),
        });
        let id = format!("create{camel}{scope}{kind}{title}");
        here.insert(
            "post".to_owned(),
            operation(
                "post",
                id,
                format!("create {name} of {} {kind}", article(kind)),
                more,
            ),
        );
        parameters.extend(queries(&WRITE));
        parameters.sort_by_key(|it| {
            (
                it["in"] == "query",
                it["name"].as_str().unwrap_or_default().to_owned(),
            )
        });
    }
    if name != "log" {
        parameters.push(query("pretty", "string"));
    }
    here.insert("parameters".to_owned(), parameters.into());
    vec![(path, Value::Object(here))]
}

/// A path of v3 in the form of v2.
pub(super) fn to_v2(path: Value) -> Value {
    let Value::Object(methods) = path else {
        return path;
    };
    let convert = |(name, value): (String, Value)| match name.as_str() {
        "parameters" => (name, parameters_to_v2(value)),
        _ => (name, operation_to_v2(value)),
    };
    Value::Object(methods.into_iter().map(convert).collect())
}

fn parameters_to_v2(parameters: Value) -> Value {
    let Value::Array(list) = parameters else {
        return parameters;
    };
    let flat = |mut parameter: Value| {
        if let Some(Value::Object(schema)) =
            parameter.as_object_mut().and_then(|it| it.remove("schema"))
            && let Value::Object(parameter) = &mut parameter
        {
            parameter.extend(schema);
        }
        parameter
    };
    list.into_iter().map(flat).collect()
}

fn schema_to_v2(schema: &Value) -> Value {
    match schema["$ref"].as_str() {
        Some(reference) => {
            json!({ "$ref": reference.replace("#/components/schemas/", "#/definitions/") })
        }
        None => schema.clone(),
    }
}

fn operation_to_v2(mut operation: Value) -> Value {
    let Value::Object(map) = &mut operation else {
        return operation;
    };
    let mut parameters = match map.remove("parameters").map(parameters_to_v2) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    let mut consumes = vec![Value::from("*/*")];
    if let Some(body) = map.remove("requestBody") {
        let content = body["content"].as_object().cloned().unwrap_or_default();
        if let Some(first) = content.values().next() {
            let mut parameter =
                json!({ "in": "body", "name": "body", "schema": schema_to_v2(&first["schema"]) });
            if body["required"] == true {
                parameter["required"] = true.into();
            }
            parameters.insert(0, parameter);
        }
        consumes = content.keys().cloned().map(Value::from).collect();
    }
    let mut produces: Vec<Value> = Vec::new();
    if let Some(Value::Object(responses)) = map.get_mut("responses") {
        for response in responses.values_mut() {
            let Some(content) = response.as_object_mut().and_then(|it| it.remove("content")) else {
                continue;
            };
            let content = content.as_object().cloned().unwrap_or_default();
            if let Some(first) = content.values().next() {
                response["schema"] = schema_to_v2(&first["schema"]);
            }
            produces = content.keys().cloned().map(Value::from).collect();
        }
    }
    if !parameters.is_empty() {
        map.insert("parameters".to_owned(), parameters.into());
    }
    map.insert("consumes".to_owned(), consumes.into());
    map.insert("produces".to_owned(), produces.into());
    map.insert("schemes".to_owned(), json!(["https"]));
    operation
}

//! The paths of a subresource.

use serde_json::{Map, Value, json};

use super::*;
use crate::scheme::Resource;

/// `put` and `patch` of an object or subresource.
pub(super) fn writes(
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

pub(super) fn of_subresource(
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

//! The paths of a resource.

use serde_json::{Map, Value, json};

use super::subresource::{of_subresource, writes};
use super::*;
use crate::scheme::Resource;

/// Every path of a resource.
pub(in crate::openapi) fn of_resource(
    resource: &Resource,
    names: &Names<'_>,
) -> Vec<(String, Value)> {
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

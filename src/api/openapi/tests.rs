#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

fn of_group<'a>(group: &'a str, version: &'a str) -> impl Iterator<Item = &'static Resource> + 'a {
    let resources = Scheme::builtin().resources().iter();
    resources.filter(move |it| it.gvk.group == group && it.gvk.version == version)
}

fn v3(group: &str, version: &str) -> Value {
    let mut out = Vec::new();
    write_v3(group, version, of_group(group, version), [], &mut out).unwrap();
    serde_json::from_slice(&out).unwrap()
}

#[test]
fn clients_find_what_they_look_for() {
    let document = v3("apps", "v1");
    let patch =
        &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    let parameters = patch["parameters"].as_array().unwrap();
    assert!(parameters.iter().any(|it| it["name"] == "fieldValidation"));
    assert_eq!(
        patch["x-kubernetes-group-version-kind"]["kind"],
        "Deployment"
    );
    let schemas = &document["components"]["schemas"];
    let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(
        deployment["x-kubernetes-group-version-kind"][0]["group"],
        "apps"
    );
    let spec = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(spec["x-kubernetes-patch-merge-key"], "name");
    assert!(
        spec["description"]
            .as_str()
            .is_some_and(|it| !it.is_empty())
    );
}

#[test]
fn every_reference_resolves() {
    let mut out = Vec::new();
    write_v2(Scheme::builtin().resources(), [], &mut out).unwrap();
    let document: Value = serde_json::from_slice(&out).unwrap();
    fn walk(value: &Value, definitions: &Value) {
        match value {
            Value::Object(map) => {
                if let Some(name) = map.get("$ref").and_then(Value::as_str) {
                    let name = name.strip_prefix("#/definitions/").unwrap();
                    assert!(definitions.get(name).is_some(), "{name}");
                }
                map.values().for_each(|it| walk(it, definitions));
            }
            Value::Array(list) => list.iter().for_each(|it| walk(it, definitions)),
            _ => {}
        }
    }
    walk(&document, &document["definitions"]);
    let mut out = Vec::new();
    write_v2_protobuf(Scheme::builtin().resources(), [], &mut out).unwrap();
    assert!(out.starts_with(b"\x0a\x032.0"));
}

/// Descriptions and media types that are off by default aside, documents are
/// those of the reference.
#[test]
fn reference_documents() {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/reference/openapi"
    );
    if !std::path::Path::new(folder).exists() {
        eprintln!("skipped: no documents at {folder}");
        return;
    }
    let mut wrong = Vec::new();
    let mut checked = 0;
    let mut seen = Vec::new();
    for resource in Scheme::builtin().resources() {
        let gv = (&*resource.gvk.group, &*resource.gvk.version);
        if seen.contains(&gv) {
            continue;
        }
        seen.push(gv);
        let (group, version) = gv;
        let name = match group {
            "" => format!("api__{version}"),
            group => format!("apis__{group}__{version}"),
        };
        let text = std::fs::read_to_string(format!("{folder}/v3/{name}_openapi.json")).unwrap();
        let mut expected: Value = serde_json::from_str(&text).unwrap();
        let mut got = v3(group, version);
        plain(&mut expected);
        plain(&mut got);
        compare(
            &name,
            &got["components"]["schemas"],
            &expected["components"]["schemas"],
            &mut wrong,
            &mut checked,
        );
        compare(
            &name,
            &got["paths"],
            &expected["paths"],
            &mut wrong,
            &mut checked,
        );
    }
    for path in ["api", "apis", "apis/apps", "version"] {
        let name = path.replace('/', "__");
        let text = std::fs::read_to_string(format!("{folder}/v3/{name}_openapi.json")).unwrap();
        let mut expected: Value = serde_json::from_str(&text).unwrap();
        let mut out = Vec::new();
        assert!(write_v3_discovery(path, &mut out).unwrap());
        let mut got: Value = serde_json::from_slice(&out).unwrap();
        plain(&mut expected);
        plain(&mut got);
        for part in ["/paths", "/components/schemas"] {
            let (got, expected) = (got.pointer(part).unwrap(), expected.pointer(part).unwrap());
            compare(path, got, expected, &mut wrong, &mut checked);
        }
    }
    let text = std::fs::read_to_string(format!("{folder}/swagger.json")).unwrap();
    let mut expected: Value = serde_json::from_str(&text).unwrap();
    let mut out = Vec::new();
    write_v2(Scheme::builtin().resources(), [], &mut out).unwrap();
    let mut got: Value = serde_json::from_slice(&out).unwrap();
    plain(&mut expected);
    plain(&mut got);
    // Upstream shares parameters by reference and lists media types in another
    // order; what an operation is called and stands for must agree.
    for (path, methods) in expected["paths"].as_object().unwrap() {
        if ["/.well-known", "/logs", "/openid"]
            .iter()
            .any(|it| path.starts_with(it))
        {
            continue;
        }
        for (method, operation) in methods.as_object().unwrap() {
            checked += 1;
            let got = &got["paths"][path][method];
            for name in [
                "operationId",
                "x-kubernetes-action",
                "x-kubernetes-group-version-kind",
            ] {
                if got[name] != operation[name] {
                    wrong.push(format!("v2 {path} {method} {name}: {}", got[name]));
                }
            }
        }
    }
    compare(
        "v2",
        &got["definitions"],
        &expected["definitions"],
        &mut wrong,
        &mut checked,
    );
    eprintln!("{} of {checked} differ", wrong.len());
    assert!(
        wrong.is_empty(),
        "{} of {checked} differ:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(60)].join("\n")
    );
}

fn compare(
    place: &str,
    got: &Value,
    expected: &Value,
    wrong: &mut Vec<String>,
    checked: &mut usize,
) {
    for (key, value) in expected.as_object().unwrap() {
        *checked += 1;
        match got.get(key) {
            None => wrong.push(format!("{place} {key}: missing")),
            Some(got) if got == value => {}
            Some(got) => wrong.push(format!("{place} {key}{}", difference(got, value))),
        }
    }
}

fn difference(a: &Value, b: &Value) -> String {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                match b.get(key) {
                    None => return format!(" .{key}: we alone have {value}"),
                    Some(other) if other != value => {
                        return format!(" .{key}{}", difference(value, other));
                    }
                    _ => {}
                }
            }
            let only = b.keys().find(|key| !a.contains_key(*key));
            only.map(|key| format!(" .{key}: we lack {}", b[key]))
                .unwrap_or_default()
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let at = a
                .iter()
                .zip(b)
                .position(|(a, b)| a != b)
                .unwrap_or_default();
            format!("[{at}]{}", difference(&a[at], &b[at]))
        }
        _ => format!(": {a} against {b}"),
    }
}

/// Without descriptions, CBOR and versions that the table does not know.
fn plain(value: &mut Value) {
    match value {
        Value::Array(list)
            if list
                .iter()
                .any(|it| it["kind"] == "DeleteOptions" || it["kind"] == "WatchEvent") =>
        {
            let unknown = |it: &Value| {
                let group = it["group"].as_str().unwrap_or_default();
                it["version"] == "v1beta1"
                    && matches!(group, "apiextensions.k8s.io" | "apiregistration.k8s.io")
            };
            list.retain(|it| !unknown(it));
        }
        Value::Object(map) => {
            let described = map.get("description").is_some_and(Value::is_string);
            if described {
                map.remove("description");
            }
            map.retain(|key, _| !key.contains("cbor"));
            map.values_mut().for_each(plain);
            // A reference is only wrapped to carry a description or default.
            if let Some(Value::Array(list)) = map.get("allOf")
                && map.len() == 1
                && let Some(Value::Object(only)) = list.first().cloned()
            {
                *map = only;
            }
        }
        Value::Array(list) => list.iter_mut().for_each(plain),
        _ => {}
    }
}

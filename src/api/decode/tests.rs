#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn pod() -> GroupVersionKind {
    GroupVersionKind::new("", "v1", "Pod")
}

fn decode(body: &str, validation: FieldValidation) -> Result<Decoded, Status> {
    object(body.as_bytes(), Format::Json, validation, &pod())
}

#[test]
fn objects_read_as_upstream_writes_them() {
    let body = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "creationTimestamp": null, "labels": {}},
        "spec": {
            "hostNetwork": false, "nodeName": "", "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "c", "image": "i", "unknown": {"deep": [1]},
                "resources": {"requests": {"cpu": 0.5, "memory": "1024Ki"}},
                "livenessProbe": {"httpGet": {"port": "http"}, "periodSeconds": 0},
            }],
        },
    });
    let decoded = decode(&body.to_string(), FieldValidation::Warn).unwrap();
    assert_eq!(
        decoded.warnings,
        [r#"unknown field "spec.containers[0].unknown""#]
    );
    assert_eq!(
        decoded.object,
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "status": {},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "c", "image": "i",
                    "resources": {"requests": {"cpu": "500m", "memory": "1Mi"}},
                    "livenessProbe": {"httpGet": {"port": "http"}},
                }],
            },
        })
    );
}

#[test]
fn refusals_are_worded_as_upstreams() {
    let check = |body: &str, expected: &str| {
        let error = decode(body, FieldValidation::Strict).unwrap_err();
        assert_eq!(error.message, expected, "{body}");
        assert_eq!(error.code, 400);
    };
    check(
        r#"{"kind": "Pod", "spec": {"containers": [{"name": 12}]}}"#,
        "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal number into Go struct field Container.spec.containers.name of type string",
    );
    check(
        r#"{"kind": "Pod", "spec": {"volumes": [{"hostPath": {"path": {}}}]}}"#,
        "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal object into Go struct field HostPathVolumeSource.spec.volumes.VolumeSource.hostPath.path of type string",
    );
    check(
        r#"{"kind": "Pod", "spec": {"containers": "x"}}"#,
        "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container",
    );
    check(
        r#"{"kind": "Pod", "spec": {"priority": 99999999999}}"#,
        "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal number 99999999999 into Go struct field PodSpec.spec.priority of type int32",
    );
    check(
        r#"{"kind": "Pod", "bogus": 1, "metadata": {"name": "a", "name": "b"}}"#,
        "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \"bogus\", duplicate field \"metadata.name\"",
    );
    check(
        r#"{"kind": "Nonsense"}"#,
        "Nonsense in version \"v1\" cannot be handled as a Pod: no kind \"Nonsense\" is registered for version \"v1\" in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
    );
    check(
        r#"{"apiVersion": "v1", "kind": "#,
        "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: unexpected end of JSON input ({\"apiVersion\": \"v1\", \"kind\": )",
    );
    check(
        "",
        "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: unexpected end of JSON input (<empty>)",
    );
    check(
        &"{\"a\":".repeat(5000),
        "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: invalid character '{' exceeded max depth ({\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\": ...)",
    );
    check(
        r#"{"kind": "Pod", "spec": {"containers": [{"resources": {"limits": {"cpu": {}}}}]}}"#,
        "Pod in version \"v1\" cannot be handled as a Pod: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
    );
}

#[test]
fn what_is_stored_knows_no_empty_lists() {
    let gvk = GroupVersionKind::new("rbac.authorization.k8s.io", "v1", "ClusterRole");
    let body = br#"{"metadata": {"name": "r"}, "rules": []}"#;
    let mut role = object(body, Format::Json, FieldValidation::Strict, &gvk)
        .unwrap()
        .object;
    assert_eq!(role["rules"], json!([]));
    let ty = Scheme::builtin().type_of(&gvk).unwrap();
    assert!(forgets(&role, ty));
    persisted(&mut role, ty);
    assert!(!forgets(&role, ty));
    assert_eq!(role["rules"], Value::Null);
}

#[test]
fn yaml_is_read_with_upstreams_booleans() {
    let gvk = GroupVersionKind::new("", "v1", "ConfigMap");
    let body = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: y}\ndata: {a: b}\n";
    let error = object(body, Format::Yaml, FieldValidation::Warn, &gvk).unwrap_err();
    assert_eq!(
        error.message,
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.name of type string"
    );
    let body = b"kind: ConfigMap\nmetadata: {name: z}\ndata: {a: b}\n";
    let decoded = object(body, Format::Yaml, FieldValidation::Warn, &gvk).unwrap();
    assert_eq!(
        decoded.object,
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "z"}, "data": {"a": "b"}})
    );
}

/// The bodies of a recording, fields in the order in which they were sent.
#[derive(serde::Deserialize)]
struct Bodies<'a> {
    #[serde(borrow)]
    steps: Vec<Sent<'a>>,
}

#[derive(serde::Deserialize)]
struct Sent<'a> {
    #[serde(borrow)]
    b: Option<&'a serde_json::value::RawValue>,
}

/// Every recorded refusal of a body that was sent as JSON or YAML to a
/// built-in resource.
#[test]
fn recorded_refusals() {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/reference/golden"
    );
    if !std::path::Path::new(folder).exists() {
        eprintln!("skipped: no recordings at {folder}");
        return;
    }
    let (mut checked, mut wrong) = (0, Vec::new());
    for group in ["fields", "validation", "semantics"] {
        let text = std::fs::read_to_string(format!("{folder}/{group}.jsonl")).unwrap();
        for line in text.lines() {
            let case: Value = serde_json::from_str(line).unwrap();
            let bodies: Bodies<'_> = serde_json::from_str(line).unwrap();
            for (step, sent) in case["steps"].as_array().unwrap().iter().zip(bodies.steps) {
                let message = step["expect"][2]["message"].as_str().unwrap_or_default();
                let path = step["p"].as_str().unwrap();
                if step["m"] != "POST" || step["b"].is_null() {
                    continue;
                }
                let refused = message.contains("cannot be handled as a ")
                    || message.contains("is unrecognized");
                if !refused && step["expect"][0] != 201 {
                    continue;
                }
                let (path, query) = path.split_once('?').unwrap_or((path, ""));
                let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
                let (group, version, rest) = match parts.as_slice() {
                    ["api", version, rest @ ..] => ("", *version, rest),
                    ["apis", group, version, rest @ ..] => (*group, *version, rest),
                    _ => continue,
                };
                let plural = match rest {
                    ["namespaces", _, plural] | [plural] => plural,
                    _ => continue,
                };
                let Some(resource) = Scheme::builtin().resource(group, version, plural) else {
                    continue;
                };
                let body = match &step["b"] {
                    Value::String(text) => text.clone(),
                    _ => sent.b.unwrap().get().to_owned(),
                };
                let content = step["h"]["Content-Type"].as_str().unwrap_or_default();
                let Some(format) = Format::of_content_type(content) else {
                    continue;
                };
                let validation = if query.contains("=Strict") {
                    FieldValidation::Strict
                } else {
                    FieldValidation::Warn
                };
                let got = object(body.as_bytes(), format, validation, &resource.gvk);
                checked += 1;
                let same = |text: &str| {
                    let layouts = [
                        "2006-01-02T15:04:05.000000Z07:00",
                        "2006-01-02T15:04:05Z07:00",
                    ];
                    let text = layouts
                        .iter()
                        .fold(text.to_owned(), |text, it| text.replace(it, "T07:00"));
                    text == message
                };
                match got {
                    Err(error) if refused && same(&error.message) => {}
                    Ok(_) if !refused => {}
                    got => wrong.push(format!(
                        "{}: {:?}\n     {message}",
                        case["id"],
                        got.map_err(|it| it.message)
                    )),
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {checked} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(checked > 500, "{checked}");
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_read(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = object(&data, Format::Json, FieldValidation::Strict, &pod());
        let _ = object(&data, Format::Yaml, FieldValidation::Strict, &pod());
    }

    #[test]
    fn near_json_agrees_with_the_scanner(text in r#"[\[\]{}",:0-9a-z.\\ -]{0,40}"#) {
        let parsed = unstructured(text.as_bytes(), Format::Json, true);
        prop_assert_eq!(parsed.is_err(), syntax::error(text.as_bytes()).is_some(), "{}", text);
        prop_assert_eq!(parsed.is_ok(), serde_json::from_str::<Value>(&text).is_ok(), "{}", text);
    }

    #[test]
    fn reading_again_changes_nothing(
        name in "[a-z]{1,5}", host in any::<bool>(), grace in any::<Option<i64>>(), cpu in 0..5000_i32,
    ) {
        let body = json!({
            "kind": "Pod", "metadata": {"name": name},
            "spec": {
                "hostNetwork": host, "terminationGracePeriodSeconds": grace,
                "containers": [{"name": "c", "resources": {"limits": {"cpu": format!("{cpu}m")}}}],
            },
        });
        let once = decode(&body.to_string(), FieldValidation::Strict).unwrap().object;
        let twice = decode(&once.to_string(), FieldValidation::Strict).unwrap().object;
        prop_assert_eq!(once, twice);
    }
}

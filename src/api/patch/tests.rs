#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn ty(package: &str, name: &str) -> TypeRef<'static> {
    Scheme::builtin().schema().named(package, name).unwrap()
}

fn strategic_merge(original: Value, patch: Value) -> Result<Value, strategic::StrategicError> {
    let Value::Object(patch) = patch else {
        panic!()
    };
    strategic::apply(original, patch, ty("core/v1", "PodSpec"))
}

#[test]
fn merge_patch_follows_the_examples_of_its_rfc() {
    let check = |target: Value, patch: Value, expected: Value| {
        let mut got = target;
        merge::apply(&mut got, &patch);
        assert_eq!(got, expected);
    };
    check(json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"}));
    check(
        json!({"a": "b"}),
        json!({"b": "c"}),
        json!({"a": "b", "b": "c"}),
    );
    check(json!({"a": "b"}), json!({"a": null}), json!({}));
    check(json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"}));
    check(
        json!({"a": {"b": "c"}}),
        json!({"a": {"b": "d", "c": null}}),
        json!({"a": {"b": "d"}}),
    );
    check(
        json!({"a": [{"b": "c"}]}),
        json!({"a": [1]}),
        json!({"a": [1]}),
    );
    check(json!(["a"]), json!(["c"]), json!(["c"]));
    check(
        json!({"e": null}),
        json!({"a": 1}),
        json!({"e": null, "a": 1}),
    );
    check(
        json!({}),
        json!({"a": {"bb": {"ccc": null}}}),
        json!({"a": {"bb": {}}}),
    );
}

#[test]
fn json_patch_follows_the_examples_of_its_rfc() {
    let check = |document: Value, patch: Value, expected: Option<Value>| {
        let (operations, problems) = json::parse(patch.to_string().as_bytes(), true).unwrap();
        assert!(problems.is_empty(), "{problems:?}");
        let mut got = document;
        let applied = json::apply(&mut got, &operations).ok().map(|()| got);
        assert_eq!(applied, expected, "{patch}");
    };
    let one = |op: Value| json!([op]);
    check(
        json!({"foo": "bar"}),
        one(json!({"op": "add", "path": "/baz", "value": "qux"})),
        Some(json!({"foo": "bar", "baz": "qux"})),
    );
    check(
        json!({"foo": ["bar", "baz"]}),
        one(json!({"op": "add", "path": "/foo/1", "value": "qux"})),
        Some(json!({"foo": ["bar", "qux", "baz"]})),
    );
    check(
        json!({"baz": "qux", "foo": "bar"}),
        one(json!({"op": "remove", "path": "/baz"})),
        Some(json!({"foo": "bar"})),
    );
    check(
        json!({"foo": ["bar", "qux", "baz"]}),
        one(json!({"op": "remove", "path": "/foo/1"})),
        Some(json!({"foo": ["bar", "baz"]})),
    );
    check(
        json!({"baz": "qux"}),
        one(json!({"op": "replace", "path": "/baz", "value": "boo"})),
        Some(json!({"baz": "boo"})),
    );
    check(
        json!({"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}}),
        one(json!({"op": "move", "from": "/foo/waldo", "path": "/qux/thud"})),
        Some(json!({"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}})),
    );
    check(
        json!({"foo": ["a", "b", "c"]}),
        one(json!({"op": "move", "from": "/foo/1", "path": "/foo/2"})),
        Some(json!({"foo": ["a", "c", "b"]})),
    );
    check(
        json!({"baz": "qux"}),
        one(json!({"op": "test", "path": "/baz", "value": "bar"})),
        None,
    );
    check(
        json!({"/": 9, "~1": 10}),
        one(json!({"op": "test", "path": "/~01", "value": 10})),
        Some(json!({"/": 9, "~1": 10})),
    );
    check(
        json!({"foo": ["bar"]}),
        one(json!({"op": "add", "path": "/foo/-", "value": ["abc"]})),
        Some(json!({"foo": ["bar", ["abc"]]})),
    );
    check(
        json!({"foo": "bar"}),
        one(json!({"op": "add", "path": "/baz/bat", "value": "qux"})),
        None,
    );
    check(
        json!({"foo": [1, 2]}),
        one(json!({"op": "remove", "path": "/foo/-1"})),
        Some(json!({"foo": [1]})),
    );
    check(json!({}), one(json!({"op": "explode", "path": "/a"})), None);
}

#[test]
fn malformed_patches_are_refused_as_upstream_does() {
    let check = |patch_type, body: &str, code, message: &str| {
        let current = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "1"}});
        let error = apply(
            patch_type,
            &current,
            body.as_bytes(),
            ty("core/v1", "ConfigMap"),
            FieldValidation::Warn,
        )
        .unwrap_err();
        assert_eq!(
            (error.code, error.message.as_str()),
            (code, message),
            "{body}"
        );
    };
    check(
        PatchType::Json,
        r#"{"op": "add"}"#,
        400,
        "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp",
    );
    check(
        PatchType::Json,
        r#"[{"op": 1}]"#,
        400,
        "error decoding patch: json: cannot unmarshal number into Go struct field jsonPatchOp.op of type string",
    );
    check(
        PatchType::Json,
        r#"[{"op": "test", "path": "/data/a", "value": "9"}]"#,
        422,
        "the server rejected our request due to an error in our request",
    );
    check(
        PatchType::Merge,
        "[1]",
        400,
        "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}",
    );
    check(
        PatchType::Merge,
        "{",
        400,
        "error decoding patch: unexpected end of JSON input",
    );
    check(
        PatchType::Merge,
        r#"{"data": {"a": 1}}"#,
        422,
        " \"\" is invalid: patch: Invalid value: \"{\\\"apiVersion\\\":\\\"v1\\\",\\\"data\\\":{\\\"a\\\":1},\\\"kind\\\":\\\"ConfigMap\\\"}\": json: cannot unmarshal number into Go struct field ConfigMap.data of type string",
    );
    let many = format!(
        "[{}]",
        vec![r#"{"op":"test","path":"/kind","value":"ConfigMap"}"#; 10_001].join(",")
    );
    check(
        PatchType::Json,
        &many,
        413,
        "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001",
    );
}

#[test]
fn strategic_merge_knows_its_directives() {
    let check = |original: Value, patch: Value, expected: Value| {
        let shown = patch.to_string();
        let got = strategic_merge(original, patch).unwrap_or_else(|error| json!(error.to_string()));
        assert_eq!(got, expected, "{shown}");
    };
    let two = || json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]});
    check(
        two(),
        json!({"containers": [{"name": "b", "image": "3"}]}),
        json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "3"}]}),
    );
    check(
        two(),
        json!({"containers": [{"name": "a", "$patch": "delete"}]}),
        json!({"containers": [{"name": "b", "image": "2"}]}),
    );
    check(
        two(),
        json!({"containers": [{"name": "c"}, {"$patch": "replace"}]}),
        json!({"containers": [{"name": "c"}]}),
    );
    check(
        two(),
        json!({"containers": [{"name": "c"}]}),
        json!({"containers": [{"name": "c"}, {"name": "a", "image": "1"}, {"name": "b", "image": "2"}]}),
    );
    check(
        two(),
        json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "a", "image": "9"}]}),
        json!({"containers": [{"name": "b", "image": "2"}, {"name": "a", "image": "9"}]}),
    );
    check(
        json!({"containers": [{"name": "a", "args": ["x"], "env": [{"name": "E", "value": "1"}]}]}),
        json!({"containers": [{"name": "a", "args": ["y"], "env": [{"name": "F", "value": "2"}]}]}),
        json!({"containers": [{"name": "a", "args": ["y"], "env": [{"name": "F", "value": "2"}, {"name": "E", "value": "1"}]}]}),
    );
    check(
        json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
        json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}),
        json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}),
    );
    check(
        json!({"nodeSelector": {"a": "1", "b": "2"}}),
        json!({"nodeSelector": {"a": null}}),
        json!({"nodeSelector": {"b": "2"}}),
    );
    check(
        json!({"nodeSelector": {"a": "1"}}),
        json!({"nodeSelector": {"$patch": "replace", "c": "3"}}),
        json!({"nodeSelector": {"c": "3"}}),
    );
    check(
        json!({"tolerations": [{"key": "a"}]}),
        json!({"tolerations": [{"key": "b"}]}),
        json!({"tolerations": [{"key": "b"}]}),
    );
    check(
        json!({}),
        json!({"affinity": {"nodeAffinity": null}}),
        json!({"affinity": {}}),
    );
    check(
        two(),
        json!({"containers": [{"image": "x"}]}),
        json!("map: map[image:x] does not contain declared merge key: name"),
    );
    check(
        two(),
        json!({"containers": [{"name": "c", "$patch": "explode"}]}),
        json!("unknown patch type: explode in map: map[$patch:explode name:c]"),
    );
    check(
        two(),
        json!({"$retainKeys": "x"}),
        json!("invalid patch format of retainKeys"),
    );

    let meta = |original: Value, patch: Value| {
        let Value::Object(patch) = patch else {
            panic!()
        };
        strategic::apply(original, patch, ty("meta/v1", "ObjectMeta")).unwrap()
    };
    assert_eq!(
        meta(
            json!({"finalizers": ["a", "b"]}),
            json!({"$deleteFromPrimitiveList/finalizers": ["a"]})
        ),
        json!({"finalizers": ["b"]})
    );
    assert_eq!(
        meta(
            json!({"finalizers": ["a", "b"]}),
            json!({"$setElementOrder/finalizers": ["c", "b"], "finalizers": ["c"]})
        ),
        json!({"finalizers": ["c", "a", "b"]})
    );
}

fn containers() -> impl Strategy<Value = Value> {
    let container = (
        "[a-d]",
        proptest::option::of("[x-z]"),
        proptest::collection::btree_map("[A-C]", "[0-9]", 0..3),
    );
    proptest::collection::vec(container, 0..4).prop_map(|list| {
        let mut seen = Vec::new();
        let mut containers = Vec::new();
        for (name, image, env) in list {
            if seen.contains(&name) {
                continue;
            }
            seen.push(name.clone());
            let env: Vec<Value> = env
                .into_iter()
                .map(|(name, value)| json!({"name": name, "value": value}))
                .collect();
            let mut container = json!({"name": name, "env": env});
            if let Some(image) = image {
                container["image"] = image.into();
            }
            containers.push(container);
        }
        json!({"containers": containers})
    })
}

proptest! {
    #[test]
    fn strategic_merge_is_idempotent(original in containers(), patch in containers()) {
        let once = strategic_merge(original, patch.clone()).unwrap();
        let twice = strategic_merge(once.clone(), patch).unwrap();
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn strategic_merge_with_oneself_changes_nothing(original in containers()) {
        let merged = strategic_merge(original.clone(), original.clone()).unwrap();
        prop_assert_eq!(merged, original);
    }

    #[test]
    fn any_patch_is_refused_or_applied(body in r#"[\[\]{}",:0-9a-z$/ -]{0,60}"#) {
        let current = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "a"}]}});
        for patch_type in [PatchType::Json, PatchType::Merge, PatchType::Strategic] {
            let _ = apply(patch_type, &current, body.as_bytes(), ty("core/v1", "Pod"), FieldValidation::Strict);
        }
    }
}

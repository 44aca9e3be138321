#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use serde_json::json;

use super::*;

#[test]
fn matching() {
    let labels = json!({"a": "1", "b": "x", "n": "5"});
    for (text, want) in [
        ("", true),
        ("a", true),
        ("!a", false),
        ("!z", true),
        ("a=1", true),
        ("a==1,b=x", true),
        ("a=1,b=y", false),
        ("a!=1", false),
        ("z!=1", true),
        ("b in (x,y)", true),
        ("b in (y)", false),
        ("b notin (y)", true),
        ("z notin (y)", true),
        ("z in ()", false),
        ("n>4", true),
        ("n<4", false),
        ("b>4", false),
        ("a in (in,notin,1)", true),
    ] {
        assert_eq!(
            LabelSelector::parse(text).unwrap().matches(&labels),
            want,
            "{text}"
        );
    }
}

#[test]
fn errors() {
    for (text, want) in [
        ("a=b,", "found '', expected: identifier after ','"),
        (
            ",",
            "found ',', expected: !, identifier, or 'end of string'",
        ),
        (
            "a b",
            "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
        ),
        (
            "a in b",
            "unable to parse requirement: found 'b' expected: '('",
        ),
        ("a=b c", "found 'c', expected: ',' or 'end of string'"),
        (
            "a>x",
            "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
        ),
    ] {
        assert_eq!(LabelSelector::parse(text).unwrap_err(), want, "{text}");
    }
}

#[test]
fn objects() {
    let selector = LabelSelector::from_object(&json!({
        "matchLabels": {"a": "1"},
        "matchExpressions": [{"key": "b", "operator": "NotIn", "values": ["y"]}],
    }))
    .unwrap();
    assert!(selector.matches(&json!({"a": "1"})));
    assert!(!selector.matches(&json!({"a": "1", "b": "y"})));
    assert!(
        !LabelSelector::from_object(&Value::Null)
            .unwrap()
            .matches(&json!({}))
    );
    assert!(
        LabelSelector::from_object(&json!({}))
            .unwrap()
            .matches(&json!({}))
    );
    assert_eq!(selector.to_string(), "a=1,b notin (y)");
}

#[test]
fn fields() {
    let get = |field: &str| (field == "status.phase").then(|| "Running".to_owned());
    for (text, want) in [
        ("", true),
        ("status.phase=Running", true),
        ("status.phase==Running", true),
        ("status.phase!=Running", false),
        ("spec.nodeName=", true),
        ("spec.nodeName!=", false),
    ] {
        assert_eq!(
            FieldSelector::parse(text).unwrap().matches(get),
            want,
            "{text}"
        );
    }
    assert_eq!(
        FieldSelector::parse("foo").unwrap_err(),
        "invalid selector: 'foo'; can't understand 'foo'"
    );
    assert_eq!(
        FieldSelector::parse(r"a=b\,c").unwrap().exact("a"),
        Some("b,c")
    );
}

proptest! {
    #[test]
    fn text_form_is_stable(text in "(!?[a-c]|[a-c](=|!=|==)[x-z]?|[a-c] (in|notin) \\([x-z](,[x-z]){0,2}\\))(,[a-c]=x){0,2}") {
        let once = LabelSelector::parse(&text).unwrap();
        prop_assert_eq!(LabelSelector::parse(&once.to_string()).unwrap(), once);
    }

    #[test]
    fn never_panics(text in "\\PC*") {
        let _ = LabelSelector::parse(&text);
        let _ = FieldSelector::parse(&text);
    }
}

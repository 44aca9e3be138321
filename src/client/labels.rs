//! Label selectors.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

/// Labels of an object, as its metadata carries them.
pub type Labels = BTreeMap<String, String>;

/// Whether a `LabelSelector` selects an object with these labels. An empty
/// selector selects everything; an operator nobody defined selects nothing.
pub fn selects(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    let exact = selector.match_labels.as_ref();
    let requirements = selector.match_expressions.as_deref().unwrap_or_default();
    exact.is_none_or(|exact| selects_map(exact, labels))
        && requirements
            .iter()
            .all(|requirement| meets(requirement, labels))
}

/// Whether every pair of a map selector is among these labels. An empty
/// selector selects everything: callers whose empty selector means nothing
/// (Services) check that first.
pub fn selects_map(selector: &Labels, labels: Option<&Labels>) -> bool {
    selector.iter().all(|(key, value)| {
        labels
            .and_then(|labels| labels.get(key))
            .is_some_and(|is| is == value)
    })
}

/// Whether a `LabelSelector` has no requirement at all.
pub fn selects_everything(selector: &LabelSelector) -> bool {
    selector
        .match_labels
        .as_ref()
        .is_none_or(BTreeMap::is_empty)
        && selector
            .match_expressions
            .as_ref()
            .is_none_or(Vec::is_empty)
}

fn meets(requirement: &LabelSelectorRequirement, labels: Option<&Labels>) -> bool {
    let value = labels.and_then(|labels| labels.get(&requirement.key));
    let among = |value: &String| {
        requirement
            .values
            .as_ref()
            .is_some_and(|values| values.contains(value))
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(among),
        "NotIn" => !value.is_some_and(among),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

/// Writes a `LabelSelector` the way query parameters and `status.selector` carry it.
pub fn to_query(selector: &LabelSelector) -> String {
    let mut parts: Vec<(String, String)> = selector
        .match_labels
        .iter()
        .flatten()
        .map(|(key, value)| (key.clone(), format!("{key}={value}")))
        .collect();
    for requirement in selector.match_expressions.iter().flatten() {
        let key = &requirement.key;
        let mut values = requirement.values.clone().unwrap_or_default();
        values.sort();
        let values = values.join(",");
        let text = match requirement.operator.as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.clone(),
            _ => format!("!{key}"),
        };
        parts.push((key.clone(), text));
    }
    parts.sort();
    parts
        .into_iter()
        .map(|(_, text)| text)
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn check(selector: &str, labels: &str, selected: bool) {
        let selector: LabelSelector = serde_json::from_str(selector).unwrap();
        let labels: Labels = serde_json::from_str(labels).unwrap();
        assert_eq!(
            selects(&selector, Some(&labels)),
            selected,
            "{selector:?} on {labels:?}"
        );
    }

    #[test]
    fn selects_by_every_operator() {
        check("{}", r#"{"a":"b"}"#, true);
        check(r#"{"matchLabels":{"a":"b"}}"#, r#"{"a":"b","c":"d"}"#, true);
        check(r#"{"matchLabels":{"a":"b"}}"#, r#"{"a":"c"}"#, false);
        let with = |operator: &str, values: &str| {
            format!(
                r#"{{"matchExpressions":[{{"key":"a","operator":"{operator}","values":{values}}}]}}"#
            )
        };
        check(&with("In", r#"["b"]"#), r#"{"a":"b"}"#, true);
        check(&with("In", r#"["b"]"#), r#"{}"#, false);
        check(&with("NotIn", r#"["b"]"#), r#"{}"#, true);
        check(&with("NotIn", r#"["b"]"#), r#"{"a":"b"}"#, false);
        check(&with("Exists", "[]"), r#"{"a":""}"#, true);
        check(&with("DoesNotExist", "[]"), r#"{"a":""}"#, false);
        check(&with("DoesNotExist", "[]"), r#"{"b":""}"#, true);
        check(&with("Between", "[]"), r#"{"a":""}"#, false);
    }

    #[test]
    fn writes_queries_in_order_of_keys() {
        let selector: LabelSelector = serde_json::from_str(
            r#"{"matchLabels":{"b":"1"},"matchExpressions":[
                {"key":"a","operator":"In","values":["y","x"]},
                {"key":"c","operator":"DoesNotExist"}]}"#,
        )
        .unwrap();
        assert_eq!(to_query(&selector), "a in (x,y),b=1,!c");
    }
}

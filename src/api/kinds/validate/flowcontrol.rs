//! Group `flowcontrol.apiserver.k8s.io`.

use serde_json::Value;

use super::common;
use crate::kinds::value::{indexed, int, invalid, list, text};
use crate::{FieldError, Path, names};

type Errors = Vec<FieldError>;

const VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "proxy",
    "update",
    "watch",
];

/// `ValidateFlowSchema`.
pub(in crate::kinds) fn schema(schema: &Value) -> Errors {
    let (spec, path) = (&schema["spec"], Path::new("spec"));
    let mut errors = Vec::new();
    let precedence = int(spec, "matchingPrecedence");
    let at = path.child("matchingPrecedence");
    let mut wrong = |message: &str| errors.push(FieldError::invalid(&at, precedence, message));
    if precedence <= 0 {
        wrong("must be a positive value");
    }
    if precedence > 10000 {
        wrong("must not be greater than 10000");
    }
    if precedence == 1 && text(&schema["metadata"], "name") != "exempt" {
        wrong("only the schema named 'exempt' may have matchingPrecedence 1");
    }
    let method = &spec["distinguisherMethod"];
    if method.is_object() && !matches!(text(method, "type"), "ByUser" | "ByNamespace") {
        errors.push(FieldError::not_supported(
            &path.child("distinguisherMethod").child("type"),
            method.clone(),
            &["ByNamespace", "ByUser"],
        ));
    }
    let level = text(&spec["priorityLevelConfiguration"], "name");
    let at = path.child("priorityLevelConfiguration").child("name");
    if level.is_empty() {
        errors.push(FieldError::required(&at, "must reference a priority level"));
    } else {
        errors.extend(invalid(&at, level, names::dns_subdomain(level)));
    }
    for (at, rule) in indexed(spec, "rules", &path) {
        if list(rule, "subjects").is_empty() {
            errors.push(FieldError::required(
                &at.child("subjects"),
                "subjects must contain at least one value",
            ));
        }
        for (at, subject) in indexed(rule, "subjects", &at) {
            self::subject(subject, &at, &mut errors);
        }
        if list(rule, "resourceRules").is_empty() && list(rule, "nonResourceRules").is_empty() {
            errors.push(FieldError::required(
                &at,
                "at least one of resourceRules and nonResourceRules has to be non-empty",
            ));
        }
        for (at, rule) in indexed(rule, "resourceRules", &at) {
            resource_rule(rule, &at, &mut errors);
        }
        for (at, rule) in indexed(rule, "nonResourceRules", &at) {
            verbs(rule, &at, &mut errors);
            let (at, urls) = (at.child("nonResourceURLs"), list(rule, "nonResourceURLs"));
            if urls.is_empty() {
                errors.push(FieldError::required(
                    &at,
                    "nonResourceURLs must contain at least one value",
                ));
            } else if wildcard(urls) {
                if urls.len() > 1 {
                    errors.push(FieldError::invalid(
                        &at,
                        urls.to_vec(),
                        "if '*' is present, must not specify other non-resource URLs",
                    ));
                }
            } else {
                for (index, url) in urls.iter().enumerate() {
                    let url = url.as_str().unwrap_or_default();
                    errors.extend(
                        url_path(url).map(|why| FieldError::invalid(&at.index(index), url, why)),
                    );
                }
            }
        }
    }
    errors
}

fn subject(subject: &Value, at: &Path, errors: &mut Errors) {
    let kind = text(subject, "kind");
    let kinds = [
        ("ServiceAccount", "serviceAccount"),
        ("User", "user"),
        ("Group", "group"),
    ];
    if !kinds.iter().any(|(name, _)| *name == kind) {
        errors.push(FieldError::not_supported(
            &at.child("kind"),
            kind,
            &["Group", "ServiceAccount", "User"],
        ));
        return;
    }
    for (name, field) in kinds {
        let value = &subject[field];
        let at = at.child(field);
        if name != kind {
            if !value.is_null() {
                errors.push(FieldError::forbidden(
                    &at,
                    format!("{field} is forbidden when subject kind is not '{name}'"),
                ));
            }
        } else if value.is_null() {
            errors.push(FieldError::required(
                &at,
                format!("{field} is required when subject kind is '{name}'"),
            ));
        } else {
            errors.extend(common::required(value, "name", &at));
            if name == "ServiceAccount" {
                errors.extend(common::required(value, "namespace", &at));
            }
        }
    }
}

fn wildcard(values: &[Value]) -> bool {
    values.iter().any(|value| value == "*")
}

fn verbs(rule: &Value, at: &Path, errors: &mut Errors) {
    let verbs = list(rule, "verbs");
    let at = at.child("verbs");
    if verbs.is_empty() {
        errors.push(FieldError::required(
            &at,
            "verbs must contain at least one value",
        ));
    } else if wildcard(verbs) {
        if verbs.len() > 1 {
            errors.push(FieldError::invalid(
                &at,
                verbs.to_vec(),
                "if '*' is present, must not specify other verbs",
            ));
        }
    } else if !verbs
        .iter()
        .all(|verb| VERBS.contains(&verb.as_str().unwrap_or_default()))
    {
        errors.push(FieldError::not_supported(&at, verbs.to_vec(), VERBS));
    }
}

fn resource_rule(rule: &Value, at: &Path, errors: &mut Errors) {
    verbs(rule, at, errors);
    for (name, one, many) in [
        ("apiGroups", "api group", "api groups"),
        ("resources", "resource", "resources"),
    ] {
        let values = list(rule, name);
        if values.is_empty() {
            errors.push(FieldError::required(
                &at.child(name),
                format!("resource rules must supply at least one {one}"),
            ));
        } else if values.len() > 1 && wildcard(values) {
            errors.push(FieldError::invalid(
                &at.child(name),
                values.to_vec(),
                format!("if '*' is present, must not specify other {many}"),
            ));
        }
    }
    let namespaces = list(rule, "namespaces");
    let at = at.child("namespaces");
    if namespaces.is_empty() {
        if rule["clusterScope"] != true {
            errors.push(FieldError::required(
                &at,
                "resource rules that are not cluster scoped must supply at least one namespace",
            ));
        }
    } else if wildcard(namespaces) {
        if namespaces.len() > 1 {
            errors.push(FieldError::invalid(
                &at,
                namespaces.to_vec(),
                "if '*' is present, must not specify other namespaces",
            ));
        }
    } else {
        for (index, namespace) in namespaces.iter().enumerate() {
            let namespace = namespace.as_str().unwrap_or_default();
            for message in crate::names::dns_label(namespace) {
                errors.push(FieldError::invalid(
                    &at.index(index),
                    namespace,
                    format!("each member of this list must be '*' or a DNS-1123 label; {message}"),
                ));
            }
        }
    }
}

/// `ValidateNonResourceURLPath`.
fn url_path(path: &str) -> Option<&'static str> {
    let wildcards = path.matches('*').count();
    if path.is_empty() {
        Some("must not be empty")
    } else if path == "/" {
        None
    } else if !path.starts_with('/') {
        Some("must start with slash")
    } else if path.contains(' ') {
        Some("must not contain white-space")
    } else if path.contains("//") {
        Some("must not contain double slash")
    } else if wildcards > 1 || wildcards == 1 && !path.ends_with("/*") {
        Some("wildcard can only do suffix matching")
    } else {
        None
    }
}

/// Conditions of a status, which have distinct types.
pub(in crate::kinds) fn conditions(object: &Value) -> Errors {
    let mut errors = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for (at, condition) in
        crate::kinds::value::indexed(&object["status"], "conditions", &Path::new("status"))
    {
        let (at, kind) = (at.child("type"), text(condition, "type"));
        if !seen.insert(kind) {
            errors.push(FieldError::duplicate(&at, kind));
        }
        if kind.is_empty() {
            errors.push(FieldError::required(&at, ""));
        }
    }
    errors
}

/// `ValidatePriorityLevelConfiguration`.
pub(in crate::kinds) fn level(level: &Value) -> Errors {
    let (spec, path) = (&level["spec"], Path::new("spec"));
    let mut errors = Vec::new();
    let kind = text(spec, "type");
    let at = path.child("type");
    if (text(&level["metadata"], "name") == "exempt") != (kind == "Exempt") {
        errors.push(FieldError::invalid(
            &at,
            kind,
            "must be 'Exempt' if and only if `name` is 'exempt'",
        ));
    }
    let (limited, exempt) = (&spec["limited"], &spec["exempt"]);
    match kind {
        "Exempt" => {
            if !limited.is_null() {
                errors.push(FieldError::forbidden(
                    &path.child("limited"),
                    "must be nil if the type is not Limited",
                ));
            }
            shares(exempt, &path.child("exempt"), &mut errors);
            percent(exempt, &path.child("exempt"), &mut errors);
        }
        "Limited" => {
            if !exempt.is_null() {
                errors.push(FieldError::forbidden(
                    &path.child("exempt"),
                    "must be nil if the type is Limited",
                ));
            }
            let at = path.child("limited");
            if limited.is_object() {
                shares(limited, &at, &mut errors);
                response(
                    &limited["limitResponse"],
                    &at.child("limitResponse"),
                    &mut errors,
                );
                percent(limited, &at, &mut errors);
                if int(limited, "borrowingLimitPercent") < 0 {
                    errors.push(FieldError::invalid(
                        &at.child("borrowingLimitPercent"),
                        int(limited, "borrowingLimitPercent"),
                        "if specified, must be a non-negative integer",
                    ));
                }
            } else {
                errors.push(FieldError::required(
                    &at,
                    "must not be empty when type is Limited",
                ));
            }
        }
        _ => errors.push(FieldError::not_supported(&at, kind, &["Exempt", "Limited"])),
    }
    errors
}

fn shares(holder: &Value, at: &Path, errors: &mut Errors) {
    let number = int(holder, "nominalConcurrencyShares");
    if number < 0 {
        errors.push(FieldError::invalid(
            &at.child("nominalConcurrencyShares"),
            number,
            "must be a non-negative integer",
        ));
    }
}

fn percent(holder: &Value, at: &Path, errors: &mut Errors) {
    let number = int(holder, "lendablePercent");
    if !(0..=100).contains(&number) {
        errors.push(FieldError::invalid(
            &at.child("lendablePercent"),
            number,
            "must be between 0 and 100, inclusive",
        ));
    }
}

fn response(response: &Value, at: &Path, errors: &mut Errors) {
    let queuing = &response["queuing"];
    let at_queuing = at.child("queuing");
    match text(response, "type") {
        "Reject" => {
            if !queuing.is_null() {
                errors.push(FieldError::forbidden(
                    &at_queuing,
                    "must be nil if limited.limitResponse.type is not Limited",
                ));
            }
        }
        "Queue" => {
            if !queuing.is_object() {
                errors.push(FieldError::required(
                    &at_queuing,
                    "must not be empty if limited.limitResponse.type is Limited",
                ));
                return;
            }
            let of = |name: &str| int(queuing, name);
            let (limit, queues, hand) = (of("queueLengthLimit"), of("queues"), of("handSize"));
            let mut wrong = |name: &str, value: i64, message: String| {
                errors.push(FieldError::invalid(&at_queuing.child(name), value, message));
            };
            if limit <= 0 {
                wrong("queueLengthLimit", limit, "must be positive".to_owned());
            }
            if queues <= 0 {
                wrong("queues", queues, "must be positive".to_owned());
            } else if queues > 10_000_000 {
                wrong(
                    "queues",
                    queues,
                    "must not be greater than 10000000".to_owned(),
                );
            }
            if hand <= 0 {
                wrong("handSize", hand, "must be positive".to_owned());
            } else if hand > queues {
                wrong(
                    "handSize",
                    hand,
                    format!("should not be greater than queues ({queues})"),
                );
            }
        }
        other => errors.push(FieldError::not_supported(
            &at.child("type"),
            other,
            &["Queue", "Reject"],
        )),
    }
}

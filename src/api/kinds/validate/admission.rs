//! Group `admissionregistration.k8s.io`. CEL expressions are judged for being
//! there; whether they compile is for the admission plugin that runs them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::common;
use crate::kinds::value::{indexed, invalid, list, text};
use crate::{FieldError, GroupVersion, Path, names};

type Errors = Vec<FieldError>;

const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const MUTATING_OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "UPDATE"];

/// A field that, if it is there, is one of these.
fn optional(holder: &Value, name: &str, known: &[&str], path: &Path, errors: &mut Errors) {
    if let Some(value) = holder[name].as_str()
        && !known.contains(&value)
    {
        errors.push(FieldError::not_supported(&path.child(name), value, known));
    }
}

fn wildcard(values: &[Value]) -> bool {
    values.iter().any(|value| value == "*")
}

fn empties(values: &[Value], at: &Path, errors: &mut Errors) {
    for (index, value) in values.iter().enumerate() {
        if value == "" {
            errors.push(FieldError::required(&at.index(index), ""));
        }
    }
}

/// `validateRuleWithOperations`.
fn rule(rule: &Value, at: &Path, errors: &mut Errors) {
    let alone = |name: &str, what: &str, errors: &mut Errors| {
        let values = list(rule, name);
        let at = at.child(name);
        if values.is_empty() {
            errors.push(FieldError::required(&at, ""));
        }
        if values.len() > 1 && wildcard(values) {
            errors.push(FieldError::invalid(
                &at,
                values.to_vec(),
                format!("if '*' is present, must not specify other {what}"),
            ));
        }
    };
    alone("operations", "operations", errors);
    for (index, operation) in list(rule, "operations").iter().enumerate() {
        let operation = operation.as_str().unwrap_or_default();
        if !OPERATIONS.contains(&operation) {
            errors.push(FieldError::not_supported(
                &at.child("operations").index(index),
                operation,
                OPERATIONS,
            ));
        }
    }
    alone("apiGroups", "API groups", errors);
    alone("apiVersions", "API versions", errors);
    empties(list(rule, "apiVersions"), &at.child("apiVersions"), errors);
    resources(list(rule, "resources"), &at.child("resources"), errors);
    optional(rule, "scope", &["*", "Cluster", "Namespaced"], at, errors);
}

/// `validateResources`.
fn resources(resources: &[Value], at: &Path, errors: &mut Errors) {
    if resources.is_empty() {
        errors.push(FieldError::required(at, ""));
    }
    let (mut whole, mut sub) = (BTreeSet::new(), BTreeSet::new());
    let (mut single, mut double, mut plain) = (false, false, false);
    for (index, resource) in resources.iter().enumerate() {
        let at = at.index(index);
        let resource = resource.as_str().unwrap_or_default();
        match resource {
            "" => {
                errors.push(FieldError::required(&at, ""));
                continue;
            }
            "*/*" => double = true,
            "*" => single = true,
            _ => {}
        }
        let Some((name, part)) = resource.split_once('/') else {
            plain = resource != "*";
            continue;
        };
        if whole.contains(name) {
            errors.push(FieldError::invalid(
                &at,
                resource,
                format!("if '{name}/*' is present, must not specify {resource}"),
            ));
        }
        if sub.contains(part) {
            errors.push(FieldError::invalid(
                &at,
                resource,
                format!("if '*/{part}' is present, must not specify {resource}"),
            ));
        }
        if part == "*" {
            whole.insert(name);
        }
        if name == "*" {
            sub.insert(part);
        }
    }
    if resources.len() > 1 && double {
        errors.push(FieldError::invalid(
            at,
            resources.to_vec(),
            "if '*/*' is present, must not specify other resources",
        ));
    }
    if single && plain {
        errors.push(FieldError::invalid(
            at,
            resources.to_vec(),
            "if '*' is present, must not specify other resources without subresources",
        ));
    }
}

/// `ValidateMutatingWebhookConfiguration` and its validating twin.
pub(in crate::kinds) fn webhooks(configuration: &Value, mutating: bool) -> Errors {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (at, hook) in indexed(configuration, "webhooks", &Path::root()) {
        webhook(hook, mutating, &at, &mut errors);
        let name = text(hook, "name");
        review_versions(hook, &at.child("admissionReviewVersions"), &mut errors);
        if !name.is_empty() && !seen.insert(name) {
            errors.push(FieldError::duplicate(&at.child("name"), name));
        }
    }
    errors
}

fn webhook(hook: &Value, mutating: bool, at: &Path, errors: &mut Errors) {
    let name = text(hook, "name");
    let at_name = at.child("name");
    let wrong = names::dns_subdomain(name);
    if name.is_empty() {
        errors.push(FieldError::required(&at_name, ""));
    } else if !wrong.is_empty() {
        errors.push(FieldError::invalid(&at_name, name, wrong.join(",")));
    } else if name.split('.').count() < 3 {
        errors.push(FieldError::invalid(
            &at_name,
            name,
            "should be a domain with at least three segments separated by dots",
        ));
    }
    for (at, rule) in indexed(hook, "rules", at) {
        self::rule(rule, &at, errors);
    }
    optional(hook, "failurePolicy", &["Fail", "Ignore"], at, errors);
    optional(hook, "matchPolicy", &["Equivalent", "Exact"], at, errors);
    if hook["sideEffects"].is_null() {
        errors.push(FieldError::required(
            &at.child("sideEffects"),
            "must specify one of None, NoneOnDryRun",
        ));
    }
    optional(hook, "sideEffects", &["None", "NoneOnDryRun"], at, errors);
    if let Some(seconds) = hook["timeoutSeconds"].as_i64()
        && !(1..=30).contains(&seconds)
    {
        errors.push(FieldError::invalid(
            &at.child("timeoutSeconds"),
            seconds,
            "the timeout value must be between 1 and 30 seconds",
        ));
    }
    for name in ["namespaceSelector", "objectSelector"] {
        errors.extend(common::label_selector(&hook[name], &at.child(name)));
    }
    if mutating {
        optional(
            hook,
            "reinvocationPolicy",
            &["IfNeeded", "Never"],
            at,
            errors,
        );
    }
    client(&hook["clientConfig"], &at.child("clientConfig"), errors);
    for (at, condition) in indexed(hook, "matchConditions", at) {
        match_condition(condition, &at, errors);
    }
}

pub(super) fn client(config: &Value, at: &Path, errors: &mut Errors) {
    let (url, service) = (config["url"].as_str(), &config["service"]);
    match (url, service.is_object()) {
        (Some(url), false) => {
            let at = at.child("url");
            if !url.starts_with("https://") {
                let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
                errors.push(FieldError::invalid(
                    &at,
                    scheme,
                    "'https' is the only allowed URL scheme; desired format: https://host[/path]",
                ));
            }
        }
        (None, true) => {
            let at = at.child("service");
            // Upstream swaps the two; clients see the swapped paths.
            for (name, shown) in [("namespace", "name"), ("name", "namespace")] {
                if text(service, name).is_empty() {
                    errors.push(FieldError::required(&at.child(shown), ""));
                }
            }
            if let Some(port) = service["port"].as_i64() {
                for message in names::port_number(port) {
                    errors.push(FieldError::invalid(
                        &at.child("port"),
                        port,
                        format!("port is not valid: {message}"),
                    ));
                }
            }
            service_path(text(service, "path"), &at.child("path"), errors);
        }
        _ => errors.push(FieldError::required(
            at,
            "exactly one of url or service is required",
        )),
    }
}

/// The path of a service: segments that are DNS names.
fn service_path(path: &str, at: &Path, errors: &mut Errors) {
    match path {
        "" | "/" => return,
        "//" => {
            errors.push(FieldError::invalid(at, path, "segment[0] may not be empty"));
            return;
        }
        _ => {}
    }
    if !path.starts_with('/') {
        errors.push(FieldError::invalid(at, path, "must start with a '/'"));
    }
    let mut rest = path.chars();
    rest.next();
    let rest = rest.as_str();
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    for (index, step) in rest.split('/').enumerate() {
        if step.is_empty() {
            let why = format!("segment[{index}] may not be empty");
            errors.push(FieldError::invalid(at, path, why));
            continue;
        }
        for message in names::dns_subdomain(step) {
            let why = format!("segment[{index}]: {message}");
            errors.push(FieldError::invalid(at, path, why));
        }
    }
}

fn review_versions(hook: &Value, at: &Path, errors: &mut Errors) {
    let versions = list(hook, "admissionReviewVersions");
    if versions.is_empty() {
        errors.push(FieldError::required(at, "must specify one of v1, v1beta1"));
        return;
    }
    let mut seen = BTreeSet::new();
    for (index, version) in versions.iter().enumerate() {
        let version = version.as_str().unwrap_or_default();
        let at = at.index(index);
        if !seen.insert(version) {
            errors.push(FieldError::invalid(&at, version, "duplicate version"));
            continue;
        }
        errors.extend(invalid(&at, version, names::dns_1035_label(version)));
    }
    if !seen.contains("v1") && !seen.contains("v1beta1") {
        errors.push(FieldError::invalid(
            at,
            versions.to_vec(),
            "must include at least one of v1, v1beta1",
        ));
    }
}

fn match_condition(condition: &Value, at: &Path, errors: &mut Errors) {
    if text(condition, "expression").trim().is_empty() {
        errors.push(FieldError::required(&at.child("expression"), ""));
    }
    let name = text(condition, "name");
    if name.is_empty() {
        errors.push(FieldError::required(&at.child("name"), ""));
    } else {
        errors.extend(invalid(
            &at.child("name"),
            name,
            names::qualified_name(name),
        ));
    }
}

fn match_resources(resources: &Value, at: &Path, errors: &mut Errors) {
    optional(
        resources,
        "matchPolicy",
        &["Equivalent", "Exact"],
        at,
        errors,
    );
    for name in ["namespaceSelector", "objectSelector"] {
        errors.extend(common::label_selector(&resources[name], &at.child(name)));
    }
    for kind in ["resourceRules", "excludeResourceRules"] {
        for (at, rule) in indexed(resources, kind, at) {
            let mut seen = BTreeSet::new();
            for (index, name) in list(rule, "resourceNames").iter().enumerate() {
                let at = at.child("resourceNames").index(index);
                let name = name.as_str().unwrap_or_default();
                errors.extend(invalid(&at, name, names::path_segment(name, false)));
                if !seen.insert(name) {
                    errors.push(FieldError::duplicate(&at, name));
                }
            }
            self::rule(rule, &at, errors);
        }
    }
}

fn mutating_operations(resources: &Value, at: &Path, errors: &mut Errors) {
    for rule in list(resources, "resourceRules") {
        for operation in list(rule, "operations") {
            let operation = operation.as_str().unwrap_or_default();
            if !MUTATING_OPERATIONS.contains(&operation) {
                errors.push(FieldError::not_supported(
                    &at.child("resourceRules").child("operations"),
                    operation,
                    MUTATING_OPERATIONS,
                ));
            }
        }
    }
}

fn param_kind(kind: &Value, at: &Path, errors: &mut Errors) {
    let version = text(kind, "apiVersion");
    let at_version = at.child("apiVersion");
    if version.is_empty() {
        errors.push(FieldError::required(&at_version, ""));
    } else {
        match GroupVersion::parse(version) {
            None => errors.push(FieldError::invalid(
                &at_version,
                version,
                format!("unexpected GroupVersion string: {version}"),
            )),
            Some(parsed) => {
                let group = names::dns_subdomain(&parsed.group);
                if !parsed.group.is_empty() && !group.is_empty() {
                    errors.push(FieldError::invalid(
                        &at_version,
                        parsed.group,
                        group.join(","),
                    ));
                }
                let wrong = names::dns_1035_label(&parsed.version);
                if parsed.version.is_empty() {
                    errors.push(FieldError::invalid(
                        &at_version,
                        version,
                        "version must be specified",
                    ));
                } else if !wrong.is_empty() {
                    errors.push(FieldError::invalid(
                        &at_version,
                        parsed.version,
                        wrong.join(","),
                    ));
                }
            }
        }
    }
    let name = text(kind, "kind");
    let wrong = names::dns_1035_label(&name.to_lowercase());
    if name.is_empty() {
        errors.push(FieldError::required(&at.child("kind"), ""));
    } else if !wrong.is_empty() {
        errors.push(FieldError::invalid(
            &at.child("kind"),
            name,
            format!(
                "may have mixed case, but should otherwise match: {}",
                wrong.join(",")
            ),
        ));
    }
}

/// `ValidateValidatingAdmissionPolicy` and its mutating twin.
pub(in crate::kinds) fn policy(policy: &Value, mutating: bool) -> Errors {
    let (spec, path) = (&policy["spec"], Path::new("spec"));
    let mut errors = Vec::new();
    errors.extend(
        common::one_of(spec, "failurePolicy", &["Fail", "Ignore"], &path).map(|mut error| {
            // An empty policy is a value that is not supported, not one that is missing.
            if spec["failurePolicy"] == "" {
                error = FieldError::not_supported(
                    &path.child("failurePolicy"),
                    "",
                    &["Fail", "Ignore"],
                );
            }
            error
        }),
    );
    if spec["paramKind"].is_object() {
        param_kind(&spec["paramKind"], &path.child("paramKind"), &mut errors);
    }
    let constraints = &spec["matchConstraints"];
    let at = path.child("matchConstraints");
    if constraints.is_object() {
        match_resources(constraints, &at, &mut errors);
        if list(constraints, "resourceRules").is_empty() {
            errors.push(FieldError::required(&at.child("resourceRules"), ""));
        }
        if mutating {
            mutating_operations(constraints, &at, &mut errors);
        }
    } else {
        errors.push(FieldError::required(&at, ""));
    }
    for (at, condition) in indexed(spec, "matchConditions", &path) {
        match_condition(condition, &at, &mut errors);
    }
    if mutating {
        mutations(spec, &path, &mut errors);
    } else {
        validations(spec, &path, &mut errors);
    }
    errors
}

fn mutations(spec: &Value, path: &Path, errors: &mut Errors) {
    if list(spec, "mutations").is_empty() {
        errors.push(FieldError::required(
            &path.child("mutations"),
            "mutations must contain at least one item",
        ));
    }
    for (at, mutation) in indexed(spec, "mutations", path) {
        let (own, other, kind) = match text(mutation, "patchType") {
            "JSONPatch" => ("jsonPatch", "applyConfiguration", "JSONPatch"),
            "ApplyConfiguration" => ("applyConfiguration", "jsonPatch", "ApplyConfiguration"),
            "" => {
                errors.push(FieldError::required(&at.child("patchType"), ""));
                continue;
            }
            unknown => {
                errors.push(FieldError::not_supported(
                    &at.child("patchType"),
                    unknown,
                    &["ApplyConfiguration", "JSONPatch"],
                ));
                continue;
            }
        };
        if !mutation[own].is_object() {
            errors.push(FieldError::required(
                &at.child(own),
                format!("must be specified when patchType is {kind}"),
            ));
        } else if text(&mutation[own], "expression").trim().is_empty() {
            errors.push(FieldError::required(&at.child(own).child("expression"), ""));
        }
        if mutation[other].is_object() {
            errors.push(FieldError::invalid(
                &at.child(other),
                format!("{{{other}}}"),
                format!("must not be specified when patchType is {kind}"),
            ));
        }
    }
    errors.extend(common::one_of(
        spec,
        "reinvocationPolicy",
        &["IfNeeded", "Never"],
        path,
    ));
}

fn validations(spec: &Value, path: &Path, errors: &mut Errors) {
    if list(spec, "validations").is_empty() && list(spec, "auditAnnotations").is_empty() {
        for name in ["validations", "auditAnnotations"] {
            errors.push(FieldError::required(
                &path.child(name),
                "validations or auditAnnotations must contain at least one item",
            ));
        }
    }
    for (at, validation) in indexed(spec, "validations", path) {
        if text(validation, "expression").trim().is_empty() {
            errors.push(FieldError::required(
                &at.child("expression"),
                "expression is not specified",
            ));
        }
        let message = text(validation, "message");
        if !message.is_empty() && message.trim().is_empty() {
            errors.push(FieldError::invalid(
                &at.child("message"),
                message,
                "must be non-empty if specified",
            ));
        } else if message.trim().contains(['\n', '\r']) {
            errors.push(FieldError::invalid(
                &at.child("message"),
                message,
                "must not contain line breaks",
            ));
        }
        optional(
            validation,
            "reason",
            &[
                "Forbidden",
                "Invalid",
                "RequestEntityTooLarge",
                "Unauthorized",
            ],
            &at,
            errors,
        );
    }
}

/// `ValidateValidatingAdmissionPolicyBinding` and its mutating twin.
pub(in crate::kinds) fn binding(binding: &Value, mutating: bool) -> Errors {
    let (spec, path) = (&binding["spec"], Path::new("spec"));
    let mut errors = Vec::new();
    let policy = text(spec, "policyName");
    if policy.is_empty() {
        errors.push(FieldError::required(&path.child("policyName"), ""));
    } else {
        errors.extend(invalid(
            &path.child("policyName"),
            policy,
            names::dns_subdomain(policy),
        ));
    }
    if spec["paramRef"].is_object() {
        param_reference(&spec["paramRef"], &path.child("paramRef"), &mut errors);
    }
    let at = path.child("matchResources");
    match_resources(&spec["matchResources"], &at, &mut errors);
    if mutating {
        mutating_operations(&spec["matchResources"], &at, &mut errors);
        return errors;
    }
    let actions = list(spec, "validationActions");
    let at = path.child("validationActions");
    if actions.is_empty() {
        errors.push(FieldError::required(
            &at,
            "at least one validation action is required",
        ));
    }
    let mut seen = BTreeSet::new();
    for (index, action) in actions.iter().enumerate() {
        let at = at.index(index);
        let action = action.as_str().unwrap_or_default();
        if !matches!(action, "Audit" | "Deny" | "Warn") {
            errors.push(FieldError::not_supported(
                &at,
                action,
                &["Audit", "Deny", "Warn"],
            ));
        }
        if !seen.insert(action) {
            errors.push(FieldError::duplicate(&at, action));
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        errors.push(FieldError::invalid(
            &at,
            actions.to_vec(),
            "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)",
        ));
    }
    errors
}

fn param_reference(reference: &Value, at: &Path, errors: &mut Errors) {
    let name = text(reference, "name");
    let selector = &reference["selector"];
    let both = "name and selector are mutually exclusive";
    if !name.is_empty() {
        errors.extend(invalid(
            &at.child("name"),
            name,
            names::path_segment(name, false),
        ));
        if selector.is_object() {
            errors.push(FieldError::forbidden(&at.child("name"), both));
        }
    }
    if selector.is_object() {
        errors.extend(common::label_selector(selector, &at.child("selector")));
        if !name.is_empty() {
            errors.push(FieldError::forbidden(&at.child("selector"), both));
        }
    }
    if name.is_empty() && !selector.is_object() {
        errors.push(FieldError::required(
            at,
            "one of name or selector must be specified",
        ));
    }
    errors.extend(common::one_of(
        reference,
        "parameterNotFoundAction",
        &["Deny", "Allow"],
        at,
    ));
}

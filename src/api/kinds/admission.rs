//! Group `admissionregistration.k8s.io`.

use serde_json::{Value, json};

use super::value::{default, each, list, object, text, within};
use super::{Column, Context, Kind, Plan, columns, table, validate};
use crate::FieldError;

pub(super) fn of(kind: &str) -> Option<&'static dyn Kind> {
    Some(match kind {
        "MutatingWebhookConfiguration" => &Webhooks { mutating: true },
        "ValidatingWebhookConfiguration" => &Webhooks { mutating: false },
        "ValidatingAdmissionPolicy" => &Policy { mutating: false },
        "MutatingAdmissionPolicy" => &Policy { mutating: true },
        "ValidatingAdmissionPolicyBinding" => &Binding { mutating: false },
        "MutatingAdmissionPolicyBinding" => &Binding { mutating: true },
        _ => return None,
    })
}

struct Webhooks {
    mutating: bool,
}

impl Kind for Webhooks {
    fn plan(&self) -> Plan {
        Plan {
            generation: &[&["webhooks"]],
            ..Plan::PLAIN
        }
    }

    fn default(&self, configuration: &mut Value) {
        let mutating = self.mutating;
        each(configuration, "webhooks", |webhook| {
            default(webhook, "failurePolicy", "Fail");
            default(webhook, "matchPolicy", "Equivalent");
            default(webhook, "namespaceSelector", json!({}));
            default(webhook, "objectSelector", json!({}));
            default(webhook, "timeoutSeconds", 10);
            if mutating {
                default(webhook, "reinvocationPolicy", "Never");
            }
            each(webhook, "rules", |rule| default(rule, "scope", "*"));
            within(object(webhook, "clientConfig"), "service", |service| {
                default(service, "port", 443);
            });
        });
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::admission::webhooks(object, self.mutating)
    }

    fn columns(&self) -> &'static [Column] {
        columns::MUTATINGWEBHOOKCONFIGURATION
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        vec![
            table::name(object),
            list(object, "webhooks").len().into(),
            table::age(object, now),
        ]
    }
}

fn match_resources(resources: &mut Value) {
    default(resources, "matchPolicy", "Equivalent");
    default(resources, "namespaceSelector", json!({}));
    default(resources, "objectSelector", json!({}));
    for name in ["resourceRules", "excludeResourceRules"] {
        each(resources, name, |rule| default(rule, "scope", "*"));
    }
}

struct Policy {
    mutating: bool,
}

impl Kind for Policy {
    fn plan(&self) -> Plan {
        if self.mutating {
            Plan::GENERATION
        } else {
            Plan::SPEC_META
        }
    }

    fn default(&self, policy: &mut Value) {
        let spec = object(policy, "spec");
        default(spec, "failurePolicy", "Fail");
        within(spec, "matchConstraints", match_resources);
        if !self.mutating {
            object(policy, "status");
        }
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::admission::policy(object, self.mutating)
    }

    fn columns(&self) -> &'static [Column] {
        if self.mutating {
            columns::MUTATINGADMISSIONPOLICY
        } else {
            columns::VALIDATINGADMISSIONPOLICY
        }
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let spec = &object["spec"];
        let parameter = &spec["paramKind"];
        let parameter = if parameter.is_object() {
            format!(
                "{}/{}",
                text(parameter, "apiVersion"),
                text(parameter, "kind")
            )
        } else {
            "<unset>".to_owned()
        };
        let name = if self.mutating {
            "mutations"
        } else {
            "validations"
        };
        vec![
            table::name(object),
            list(spec, name).len().into(),
            parameter.into(),
            table::age(object, now),
        ]
    }
}

struct Binding {
    mutating: bool,
}

impl Kind for Binding {
    fn plan(&self) -> Plan {
        Plan::GENERATION
    }

    fn default(&self, binding: &mut Value) {
        within(object(binding, "spec"), "matchResources", match_resources);
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::admission::binding(object, self.mutating)
    }

    fn columns(&self) -> &'static [Column] {
        columns::VALIDATINGADMISSIONPOLICYBINDING
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let spec = &object["spec"];
        let reference = &spec["paramRef"];
        let parameter = match (text(reference, "name"), text(reference, "namespace")) {
            _ if !reference.is_object() => "<unset>".to_owned(),
            ("", _) => "<unset>".to_owned(),
            (name, "") => format!("*/{name}"),
            (name, namespace) => format!("{namespace}/{name}"),
        };
        vec![
            table::name(object),
            text(spec, "policyName").into(),
            parameter.into(),
            table::age(object, now),
        ]
    }
}

//! Group `admissionregistration.k8s.io`.

use serde_json::{Value, json};

use super::value::{default_absent, each, list, object, text, within};
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
            default_absent(webhook, "failurePolicy", "Fail");
            default_absent(webhook, "matchPolicy", "Equivalent");
            default_absent(webhook, "namespaceSelector", json!({}));
            default_absent(webhook, "objectSelector", json!({}));
            default_absent(webhook, "timeoutSeconds", 10);
            if mutating {
                default_absent(webhook, "reinvocationPolicy", "Never");
            }
            each(webhook, "rules", |rule| default_absent(rule, "scope", "*"));
            within(object(webhook, "clientConfig"), "service", |service| {
                default_absent(service, "port", 443);
            });
        });
    }

    fn judges_finalizers(&self) -> bool {
        false
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::admission::webhooks(object, self.mutating)
    }

    fn columns(&self) -> &'static [Column] {
        if self.mutating {
            columns::MUTATINGWEBHOOKCONFIGURATION
        } else {
            columns::VALIDATINGWEBHOOKCONFIGURATION
        }
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
    default_absent(resources, "matchPolicy", "Equivalent");
    default_absent(resources, "namespaceSelector", json!({}));
    default_absent(resources, "objectSelector", json!({}));
    for name in ["resourceRules", "excludeResourceRules"] {
        each(resources, name, |rule| default_absent(rule, "scope", "*"));
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
        default_absent(spec, "failurePolicy", "Fail");
        within(spec, "matchConstraints", match_resources);
        if !self.mutating {
            object(policy, "status");
        }
    }

    fn judges_finalizers(&self) -> bool {
        false
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

    fn judges_finalizers(&self) -> bool {
        false
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::admission::binding(object, self.mutating)
    }

    fn columns(&self) -> &'static [Column] {
        if self.mutating {
            columns::MUTATINGADMISSIONPOLICYBINDING
        } else {
            columns::VALIDATINGADMISSIONPOLICYBINDING
        }
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

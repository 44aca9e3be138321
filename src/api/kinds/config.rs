//! Small kinds of small groups: leases, priority and runtime classes, API services.

use serde_json::{Value, json};

use super::value::{default_absent, object, text};
use super::{Column, Context, Kind, Plan, columns, table, validate};
use crate::FieldError;

pub(super) fn of(kind: &str) -> Option<&'static dyn Kind> {
    Some(match kind {
        "Lease" => &Lease,
        "PriorityClass" => &PriorityClass,
        "RuntimeClass" => &RuntimeClass,
        "APIService" => &ApiService,
        _ => return None,
    })
}

struct Lease;

impl Kind for Lease {
    fn judges_finalizers(&self) -> bool {
        false
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::config::lease(object)
    }

    fn columns(&self) -> &'static [Column] {
        columns::LEASE
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        vec![
            table::name(object),
            text(&object["spec"], "holderIdentity").into(),
            table::age(object, now),
        ]
    }
}

struct PriorityClass;

impl Kind for PriorityClass {
    fn plan(&self) -> Plan {
        Plan {
            generation: &[&["value"]],
            ..Plan::PLAIN
        }
    }

    fn default(&self, class: &mut Value) {
        default_absent(class, "preemptionPolicy", "PreemptLowerPriority");
        if class["value"].is_null() {
            class["value"] = 0.into();
        }
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::config::priority_class(object)
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::config::priority_class_update(new, old)
    }

    fn columns(&self) -> &'static [Column] {
        columns::PRIORITYCLASS
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        vec![
            table::name(object),
            super::value::int(object, "value").into(),
            (object["globalDefault"] == true).into(),
            table::age(object, now),
            text(object, "preemptionPolicy").into(),
        ]
    }
}

struct RuntimeClass;

impl Kind for RuntimeClass {
    fn judges_finalizers(&self) -> bool {
        false
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::config::runtime_class(object)
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::config::runtime_class_update(new, old)
    }

    fn columns(&self) -> &'static [Column] {
        columns::RUNTIMECLASS
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        vec![
            table::name(object),
            text(object, "handler").into(),
            table::age(object, now),
        ]
    }
}

struct ApiService;

impl Kind for ApiService {
    fn plan(&self) -> Plan {
        Plan::STATUS
    }

    fn default(&self, service: &mut Value) {
        super::value::within(object(service, "spec"), "service", |reference| {
            default_absent(reference, "port", 443);
        });
        object(service, "status");
    }

    fn prepare_create(&self, service: &mut Value, context: &Context<'_>) {
        // A service of this server itself is there from the start.
        service["status"] = if service["spec"]["service"].is_null() {
            json!({ "conditions": [{
                "type": "Available",
                "status": "True",
                "lastTransitionTime": context.now,
                "reason": "Local",
                "message": "Local APIServices are always available",
            }] })
        } else {
            json!({})
        };
    }

    fn name_rule(&self) -> crate::meta::NameRule {
        crate::meta::NameRule::PathSegment
    }

    fn judges_finalizers(&self) -> bool {
        false
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::config::api_service(object)
    }

    fn columns(&self) -> &'static [Column] {
        columns::APISERVICE
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let service = &object["spec"]["service"];
        let reference = if service.is_object() {
            format!("{}/{}", text(service, "namespace"), text(service, "name"))
        } else {
            "Local".to_owned()
        };
        let available = super::value::list(&object["status"], "conditions")
            .iter()
            .find(|condition| condition["type"] == "Available");
        let available = match available {
            Some(condition) if condition["status"] == "True" => "True".to_owned(),
            Some(condition) => format!(
                "{} ({})",
                text(condition, "status"),
                text(condition, "reason")
            ),
            None => "Unknown".to_owned(),
        };
        vec![
            table::name(object),
            reference.into(),
            available.into(),
            table::age(object, now),
        ]
    }
}

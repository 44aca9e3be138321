//! Group `flowcontrol.apiserver.k8s.io`.

use serde_json::Value;

use super::value::{default, default_zero, int, list, object, text, within};
use super::{Column, Context, Kind, Plan, columns, table, validate};
use crate::FieldError;

pub(super) fn of(kind: &str) -> Option<&'static dyn Kind> {
    Some(match kind {
        "FlowSchema" => &FlowSchema,
        "PriorityLevelConfiguration" => &PriorityLevel,
        _ => return None,
    })
}

struct FlowSchema;

impl Kind for FlowSchema {
    fn plan(&self) -> Plan {
        Plan::SPEC_META
    }

    fn default(&self, schema: &mut Value) {
        default_zero(object(schema, "spec"), "matchingPrecedence", 1000);
        object(schema, "status");
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::flowcontrol::schema(object)
    }

    fn validate_update(&self, new: &Value, _: &Value, context: &Context<'_>) -> Vec<FieldError> {
        match context.subresource {
            "" => validate::flowcontrol::schema(new),
            _ => validate::flowcontrol::conditions(new),
        }
    }

    fn columns(&self) -> &'static [Column] {
        columns::FLOWSCHEMA
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let spec = &object["spec"];
        let dangling = list(&object["status"], "conditions")
            .iter()
            .find(|condition| condition["type"] == "Dangling")
            .map_or("?", |condition| text(condition, "status"));
        vec![
            table::name(object),
            text(&spec["priorityLevelConfiguration"], "name").into(),
            int(spec, "matchingPrecedence").into(),
            table::or(&spec["distinguisherMethod"], "type", "<none>").into(),
            table::age(object, now),
            dangling.into(),
        ]
    }
}

struct PriorityLevel;

impl Kind for PriorityLevel {
    fn plan(&self) -> Plan {
        Plan::SPEC_META
    }

    fn default(&self, level: &mut Value) {
        let spec = object(level, "spec");
        within(spec, "exempt", |exempt| {
            default(exempt, "nominalConcurrencyShares", 0);
            default(exempt, "lendablePercent", 0);
        });
        within(spec, "limited", |limited| {
            default(limited, "nominalConcurrencyShares", 30);
            default(limited, "lendablePercent", 0);
            within(object(limited, "limitResponse"), "queuing", |queuing| {
                default_zero(queuing, "handSize", 8);
                default_zero(queuing, "queues", 64);
                default_zero(queuing, "queueLengthLimit", 50);
            });
        });
        object(level, "status");
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::flowcontrol::level(object)
    }

    fn validate_update(&self, new: &Value, _: &Value, context: &Context<'_>) -> Vec<FieldError> {
        match context.subresource {
            "" => validate::flowcontrol::level(new),
            _ => validate::flowcontrol::conditions(new),
        }
    }

    fn columns(&self) -> &'static [Column] {
        columns::PRIORITYLEVELCONFIGURATION
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let spec = &object["spec"];
        let limited = &spec["limited"];
        let queuing = &limited["limitResponse"]["queuing"];
        let or_none = |value: &Value| match value {
            Value::Null => Value::from("<none>"),
            value => value.clone(),
        };
        vec![
            table::name(object),
            text(spec, "type").into(),
            or_none(&limited["nominalConcurrencyShares"]),
            or_none(&queuing["queues"]),
            or_none(&queuing["handSize"]),
            or_none(&queuing["queueLengthLimit"]),
            table::age(object, now),
        ]
    }
}

//! `PodDisruptionBudget`.

use serde_json::{Value, json};

use super::value::{default, int, object};
use super::{Column, Context, Kind, Plan, columns, table, validate};
use crate::FieldError;
use crate::meta::NameRule;

pub(super) fn of(kind: &str) -> Option<&'static dyn Kind> {
    (kind == "PodDisruptionBudget").then_some(&Budget as &'static dyn Kind)
}

struct Budget;

fn status() -> Value {
    json!({
        "disruptionsAllowed": 0,
        "currentHealthy": 0,
        "desiredHealthy": 0,
        "expectedPods": 0,
    })
}

impl Kind for Budget {
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn judges_finalizers(&self) -> bool {
        false
    }

    fn plan(&self) -> Plan {
        Plan::SPEC
    }

    fn default(&self, budget: &mut Value) {
        object(budget, "spec");
        let target = object(budget, "status");
        for (name, zero) in status().as_object().into_iter().flatten() {
            default(target, name, zero.clone());
        }
    }

    fn prepare_create(&self, budget: &mut Value, _: &Context<'_>) {
        self.plan().create(budget);
        budget["status"] = status();
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::policy::budget(object)
    }

    fn columns(&self) -> &'static [Column] {
        columns::PODDISRUPTIONBUDGET
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let spec = &object["spec"];
        let amount = |name: &str| match &spec[name] {
            Value::Null => "N/A".to_owned(),
            Value::String(text) => text.clone(),
            number => number.to_string(),
        };
        vec![
            table::name(object),
            amount("minAvailable").into(),
            amount("maxUnavailable").into(),
            int(&object["status"], "disruptionsAllowed").into(),
            table::age(object, now),
        ]
    }
}

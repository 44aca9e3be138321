//! `EndpointSlice`.

use serde_json::Value;

use super::value::{at, each, list, same, text};
use super::{Column, Context, Kind, Plan, columns, table, validate};
use crate::{FieldError, meta};

pub(super) fn of(kind: &str) -> Option<&'static dyn Kind> {
    (kind == "EndpointSlice").then_some(&EndpointSlice as &'static dyn Kind)
}

struct EndpointSlice;

impl Kind for EndpointSlice {
    fn plan(&self) -> Plan {
        Plan {
            generation: &[&["endpoints"], &["ports"], &["addressType"]],
            ..Plan::PLAIN
        }
    }

    fn default(&self, slice: &mut Value) {
        each(slice, "ports", |port| {
            if port["name"].is_null() {
                port["name"] = "".into();
            }
            super::value::default_absent(port, "protocol", "TCP");
        });
        each(slice, "endpoints", |endpoint| {
            super::value::object(endpoint, "conditions");
        });
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _: &Context<'_>) {
        let labels = ["metadata", "labels"];
        let changed = ["addressType", "endpoints", "ports"]
            .iter()
            .any(|name| !same(&new[*name], &old[*name]))
            || !same(at(new, &labels), at(old, &labels));
        if changed {
            meta::set_generation(new, meta::generation(old) + 1);
        }
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::discovery::slice(object)
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::discovery::slice_update(new, old)
    }

    fn columns(&self) -> &'static [Column] {
        columns::ENDPOINTSLICE
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let ports: Vec<String> = list(object, "ports")
            .iter()
            .map(|port| match port["port"].as_i64() {
                Some(number) => number.to_string(),
                None => table::or(port, "name", "*").to_owned(),
            })
            .collect();
        let addresses: Vec<String> = list(object, "endpoints")
            .iter()
            .flat_map(|endpoint| list(endpoint, "addresses"))
            .filter_map(|address| address.as_str().map(str::to_owned))
            .collect();
        vec![
            table::name(object),
            text(object, "addressType").into(),
            table::at_most(&ports, 3, "<unset>").into(),
            table::at_most(&addresses, 3, "<unset>").into(),
            table::age(object, now),
        ]
    }
}

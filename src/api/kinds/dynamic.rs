//! Group `resource.k8s.io`: dynamic resource allocation.

use serde_json::Value;

use super::value::{blank, default, each, int, object, text, within};
use super::{Column, Context, Kind, Plan, columns, table, validate};
use crate::FieldError;
use crate::meta::NameRule;

pub(super) fn of(kind: &str) -> Option<&'static dyn Kind> {
    Some(match kind {
        "ResourceClaim" => &Claim,
        "ResourceClaimTemplate" => &Template,
        "ResourceSlice" => &Slice,
        "DeviceClass" => &Class,
        _ => return None,
    })
}

fn request(request: &mut Value) {
    default(request, "allocationMode", "ExactCount");
    if request["allocationMode"] == "ExactCount" && int(request, "count") == 0 {
        request["count"] = 1.into();
    }
    each(request, "tolerations", |toleration| {
        default(toleration, "operator", "Equal");
    });
}

fn claim_spec(spec: &mut Value) {
    let devices = object(spec, "devices");
    each(devices, "requests", |entry| {
        within(entry, "exactly", request);
        each(entry, "firstAvailable", request);
    });
}

struct Claim;

impl Kind for Claim {
    fn plan(&self) -> Plan {
        Plan::STATUS_META
    }

    fn default(&self, claim: &mut Value) {
        claim_spec(object(claim, "spec"));
        object(claim, "status");
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::dynamic::claim(object)
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> Vec<FieldError> {
        if context.subresource.is_empty() {
            validate::dynamic::claim_update(new, old)
        } else {
            Vec::new()
        }
    }

    fn columns(&self) -> &'static [Column] {
        columns::RESOURCECLAIM
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let status = &object["status"];
        let deleted = !object["metadata"]["deletionTimestamp"].is_null();
        let mut states = Vec::new();
        if deleted {
            states.push("deleted");
        }
        if status["allocation"].is_object() {
            states.push("allocated");
            if !blank(&status["reservedFor"]) {
                states.push("reserved");
            }
        } else if !deleted {
            states.push("pending");
        }
        vec![
            table::name(object),
            states.join(",").into(),
            table::age(object, now),
        ]
    }
}

struct Template;

impl Kind for Template {
    fn default(&self, template: &mut Value) {
        let spec = object(template, "spec");
        object(spec, "metadata");
        claim_spec(object(spec, "spec"));
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::dynamic::template(object)
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::dynamic::template_update(new, old)
    }

    fn columns(&self) -> &'static [Column] {
        columns::RESOURCECLAIMTEMPLATE
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        vec![table::name(object), table::age(object, now)]
    }
}

struct Class;

impl Kind for Class {
    fn name_rule(&self) -> NameRule {
        NameRule::LongName
    }

    fn plan(&self) -> Plan {
        Plan::GENERATION
    }

    fn default(&self, class: &mut Value) {
        object(class, "spec");
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::dynamic::class(object)
    }

    fn columns(&self) -> &'static [Column] {
        columns::DEVICECLASS
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        vec![table::name(object), table::age(object, now)]
    }
}

struct Slice;

impl Kind for Slice {
    fn plan(&self) -> Plan {
        Plan::GENERATION
    }

    fn default(&self, slice: &mut Value) {
        default(object(object(slice, "spec"), "pool"), "generation", 0);
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::dynamic::slice(object)
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::dynamic::slice_update(new, old)
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let spec = &object["spec"];
        vec![
            ("spec.nodeName", text(spec, "nodeName").to_owned()),
            ("spec.driver", text(spec, "driver").to_owned()),
        ]
    }

    fn unknown_field(&self, field: &str) -> String {
        format!("field label not supported for resource.k8s.io/v1, Kind=ResourceSlice: {field}")
    }

    fn columns(&self) -> &'static [Column] {
        columns::RESOURCESLICE
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let spec = &object["spec"];
        vec![
            table::name(object),
            text(spec, "nodeName").into(),
            text(spec, "driver").into(),
            text(&spec["pool"], "name").into(),
            table::age(object, now),
        ]
    }
}

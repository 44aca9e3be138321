//! `Event`, in the core group and in `events.k8s.io`.

use serde_json::{Value, json};

use super::value::{int, object, text};
use super::{Column, Context, Kind, columns, convert, table, validate};
use crate::FieldError;

pub(super) fn of(kind: &str) -> Option<&'static dyn Kind> {
    (kind == "Event").then_some(&Event { core: false } as &'static dyn Kind)
}

/// `Event` of either group. Stored objects have the core form in both.
pub(super) struct Event {
    /// Whether it is served by the core group, whose rules are laxer.
    pub(super) core: bool,
}

/// The event as the core group has it.
fn as_core(event: &Value) -> Value {
    let mut event = event.clone();
    if event["apiVersion"] == "events.k8s.io/v1" {
        convert(&mut event, "events.k8s.io/v1", "v1");
    }
    event
}

impl Kind for Event {
    fn default(&self, event: &mut Value) {
        for name in [
            "firstTimestamp",
            "lastTimestamp",
            "deprecatedFirstTimestamp",
        ] {
            // Times that Go writes as null are left to the encoder.
            if event.get(name).is_some_and(|time| time == "") {
                event[name] = Value::Null;
            }
        }
        if event["apiVersion"] == "events.k8s.io/v1" {
            object(event, "regarding");
            object(event, "deprecatedSource");
        } else {
            object(event, "involvedObject");
            object(event, "source");
            for name in ["reportingComponent", "reportingInstance"] {
                if event[name].is_null() {
                    event[name] = "".into();
                }
            }
        }
    }

    fn validate_metadata(&self, _: &Value, _: bool) -> Vec<FieldError> {
        // Judged with the rest of an event of `events.k8s.io`, and not at all
        // in the core group, for the sake of old recorders.
        Vec::new()
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::event::event(&as_core(object), self.core)
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::event::event_update(&as_core(new), &as_core(old), self.core)
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let event = as_core(object);
        let involved = &event["involvedObject"];
        let source = match text(&event["source"], "component") {
            "" => text(&event, "reportingComponent"),
            component => component,
        };
        let own = |name: &str| text(&event, name).to_owned();
        let of = |name: &str| text(involved, name).to_owned();
        let mut fields = vec![
            ("reason", own("reason")),
            ("type", own("type")),
            ("source", source.to_owned()),
        ];
        // One cache serves both groups: an event answers to the names of each.
        fields.extend([
            ("regarding.kind", of("kind")),
            ("regarding.namespace", of("namespace")),
            ("regarding.name", of("name")),
            ("regarding.uid", of("uid")),
            ("regarding.apiVersion", of("apiVersion")),
            ("regarding.resourceVersion", of("resourceVersion")),
            ("regarding.fieldPath", of("fieldPath")),
            ("reportingController", own("reportingComponent")),
            ("involvedObject.kind", of("kind")),
            ("involvedObject.namespace", of("namespace")),
            ("involvedObject.name", of("name")),
            ("involvedObject.uid", of("uid")),
            ("involvedObject.apiVersion", of("apiVersion")),
            ("involvedObject.resourceVersion", of("resourceVersion")),
            ("involvedObject.fieldPath", of("fieldPath")),
            ("reportingComponent", own("reportingComponent")),
        ]);
        fields
    }

    fn selects_by(&self, field: &str) -> bool {
        let others = if self.core {
            field.starts_with("regarding.") || field == "reportingController"
        } else {
            field.starts_with("involvedObject.") || field == "reportingComponent"
        };
        !others
            && self
                .selectable_fields(&Value::Null)
                .iter()
                .any(|(name, _)| *name == field)
    }

    fn columns(&self) -> &'static [Column] {
        columns::EVENT
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let event = as_core(object);
        let series = &event["series"];
        let first = if event["firstTimestamp"].is_null() {
            table::since(&event["eventTime"], now)
        } else {
            table::since(&event["firstTimestamp"], now)
        };
        let mut last = if event["lastTimestamp"].is_null() {
            first.clone()
        } else {
            table::since(&event["lastTimestamp"], now)
        };
        let mut count = int(&event, "count").max(1);
        if series.is_object() {
            last = table::since(&series["lastObservedTime"], now);
            count = int(series, "count");
        } else if int(&event, "count") != 0 {
            count = int(&event, "count");
        }
        let involved = &event["involvedObject"];
        let kind = text(involved, "kind").to_lowercase();
        let target = match text(involved, "name") {
            "" => kind,
            name => format!("{kind}/{name}"),
        };
        let either = |a: &str, b: &str| {
            if a.is_empty() {
                b.to_owned()
            } else {
                a.to_owned()
            }
        };
        let component = either(
            text(&event["source"], "component"),
            text(&event, "reportingComponent"),
        );
        let instance = either(
            text(&event["source"], "host"),
            text(&event, "reportingInstance"),
        );
        let source = if instance.is_empty() {
            component
        } else {
            format!("{component}, {instance}")
        };
        vec![
            last.into(),
            text(&event, "type").into(),
            text(&event, "reason").into(),
            target.into(),
            text(involved, "fieldPath").into(),
            source.into(),
            text(&event, "message").trim().into(),
            first.into(),
            json!(count),
            table::name(&event),
        ]
    }
}

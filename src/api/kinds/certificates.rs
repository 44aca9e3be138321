//! `CertificateSigningRequest`.

use serde_json::{Value, json};

use super::value::{list, object, remove, restore, text};
use super::{Column, Context, Kind, columns, table, validate};
use crate::FieldError;
use crate::meta::NameRule;

pub(super) fn of(kind: &str) -> Option<&'static dyn Kind> {
    (kind == "CertificateSigningRequest").then_some(&Request as &'static dyn Kind)
}

struct Request;

/// Any name goes that can be part of a URL.
fn any_name(_: &str, _: bool) -> Vec<String> {
    Vec::new()
}

impl Kind for Request {
    fn name_rule(&self) -> NameRule {
        NameRule::Custom(any_name)
    }

    fn default(&self, request: &mut Value) {
        object(request, "status");
    }

    fn prepare_create(&self, request: &mut Value, context: &Context<'_>) {
        // Who asks is what the server knows, never what the client says.
        let spec = object(request, "spec");
        for name in ["username", "uid", "groups", "extra"] {
            remove(spec, name);
        }
        if !context.user.is_empty() {
            spec["username"] = context.user.into();
        }
        if !context.user_uid.is_empty() {
            spec["uid"] = context.user_uid.into();
        }
        if !context.groups.is_empty() {
            spec["groups"] = json!(context.groups);
        }
        if let Some(extra) = context.extra.filter(|extra| !extra.is_empty()) {
            spec["extra"] = json!(extra);
        }
        request["status"] = json!({});
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, context: &Context<'_>) {
        restore(new, old, &["spec"]);
        match context.subresource {
            "approval" => {
                let conditions = new["status"]["conditions"].clone();
                restore(new, old, &["status"]);
                set_conditions(new, old, conditions, context, |kind| kind != "Failed");
            }
            "status" => {
                let conditions = new["status"]["conditions"].clone();
                set_conditions(new, old, conditions, context, |kind| {
                    !matches!(kind, "Approved" | "Denied")
                });
            }
            _ => restore(new, old, &["status"]),
        }
    }

    fn reset_fields(&self, subresource: &str) -> &'static [&'static [&'static str]] {
        match subresource {
            "approval" => &[&["spec"], &["status", "certificate"]],
            "status" => &[&["spec"], &["status", "conditions"]],
            _ => &[&["spec"], &["status"]],
        }
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::certificates::request(object)
    }

    fn validate_update(&self, _: &Value, _: &Value, _: &Context<'_>) -> Vec<FieldError> {
        Vec::new()
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![(
            "spec.signerName",
            text(&object["spec"], "signerName").to_owned(),
        )]
    }

    fn columns(&self) -> &'static [Column] {
        columns::CERTIFICATESIGNINGREQUEST
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let has = |kind: &str| {
            list(status, "conditions")
                .iter()
                .any(|condition| condition["type"] == kind)
        };
        let mut state = if has("Denied") {
            "Denied"
        } else if has("Approved") {
            "Approved"
        } else {
            "Pending"
        }
        .to_owned();
        if has("Failed") {
            state.push_str(",Failed");
        }
        if !text(status, "certificate").is_empty() {
            state.push_str(",Issued");
        }
        let duration = spec["expirationSeconds"]
            .as_i64()
            .map_or_else(|| "<none>".to_owned(), table::duration);
        vec![
            table::name(object),
            table::age(object, now),
            table::or(spec, "signerName", "<none>").into(),
            text(spec, "username").into(),
            duration.into(),
            state.into(),
        ]
    }
}

/// Takes the new conditions of the kinds that this subresource may write, with
/// their times filled in, and the old ones of the others.
fn set_conditions(
    new: &mut Value,
    old: &Value,
    conditions: Value,
    context: &Context<'_>,
    writable: impl Fn(&str) -> bool,
) {
    let before = list(&old["status"], "conditions");
    let kept = before
        .iter()
        .filter(|condition| !writable(text(condition, "type")))
        .cloned();
    let mut out: Vec<Value> = conditions
        .as_array()
        .into_iter()
        .flatten()
        .filter(|condition| writable(text(condition, "type")))
        .cloned()
        .collect();
    out.extend(kept.filter(|kept| {
        !conditions
            .as_array()
            .into_iter()
            .flatten()
            .any(|it| it == kept)
    }));
    for condition in &mut out {
        let known = before
            .iter()
            .find(|known| known["type"] == condition["type"]);
        super::value::default(condition, "lastUpdateTime", context.now);
        let changed = known.is_none_or(|known| known["status"] != condition["status"]);
        if condition["lastTransitionTime"].is_null() {
            condition["lastTransitionTime"] = match known {
                Some(known) if !changed && !known["lastTransitionTime"].is_null() => {
                    known["lastTransitionTime"].clone()
                }
                _ => context.now.into(),
            };
        }
    }
    let status = object(new, "status");
    if out.is_empty() {
        remove(status, "conditions");
    } else {
        status["conditions"] = out.into();
    }
}

//! Group `apiextensions.k8s.io`: definitions of custom resources.

use serde_json::{Value, json};

use super::value::{blank, default, list, restore, same, text};
use super::{Column, Context, Kind, Plan, columns, table, validate};
use crate::custom;
use crate::meta::NameRule;
use crate::{FieldError, Path};

pub(super) fn of(kind: &str) -> Option<&'static dyn Kind> {
    (kind == "CustomResourceDefinition").then_some(&CustomResourceDefinition)
}

struct CustomResourceDefinition;

impl Kind for CustomResourceDefinition {
    fn judges_finalizers(&self) -> bool {
        false
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Subdomain
    }

    fn validate_metadata(&self, object: &Value, namespaced: bool) -> Vec<FieldError> {
        let path = Path::new("metadata");
        let metadata = &object["metadata"];
        let mut errors = crate::meta::validate(metadata, namespaced, self.name_rule(), &path);
        let spec = &object["spec"];
        let wanted = format!("{}.{}", text(&spec["names"], "plural"), text(spec, "group"));
        let name = text(metadata, "name");
        if !name.is_empty() && name != wanted {
            let at = errors
                .iter()
                .rposition(|it| it.field == path.child("name"))
                .map_or(0, |at| at + 1);
            errors.insert(
                at,
                FieldError::invalid(
                    &path.child("name"),
                    name,
                    "must be spec.names.plural+\".\"+spec.group",
                ),
            );
        }
        errors
    }

    fn default(&self, object: &mut Value) {
        if object["spec"].is_object() {
            let spec = &mut object["spec"];
            let kind = text(&spec["names"], "kind").to_owned();
            if !spec["names"].is_object() {
                spec["names"] = json!({ "plural": "", "kind": "" });
            }
            if !kind.is_empty() {
                default(&mut spec["names"], "singular", kind.to_lowercase());
                default(&mut spec["names"], "listKind", format!("{kind}List"));
            }
            if spec["conversion"].is_null() {
                spec["conversion"] = json!({ "strategy": "None" });
            }
            let service = spec.pointer_mut("/conversion/webhook/clientConfig/service");
            if let Some(service) = service.filter(|it| it.is_object() && it["port"].is_null()) {
                service["port"] = 443.into();
            }
        }
        if blank(&object["status"]["storedVersions"])
            && let Some(name) = storage(object)
        {
            object["status"]["storedVersions"] = json!([name]);
        }
        fill_status(object);
    }

    fn prepare_create(&self, object: &mut Value, _: &Context<'_>) {
        object["status"] = json!({});
        if let Some(name) = storage(object) {
            object["status"]["storedVersions"] = json!([name]);
        }
        fill_status(object);
        crate::meta::set_generation(object, 1);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, context: &Context<'_>) {
        if context.subresource == "status" {
            restore(new, old, &["spec"]);
            return;
        }
        restore(new, old, &["status"]);
        if !same(&new["spec"], &old["spec"]) {
            crate::meta::set_generation(new, crate::meta::generation(old) + 1);
        }
        if let Some(name) = storage(new) {
            let known = list(&new["status"], "storedVersions").contains(&name.clone().into());
            if !known {
                let mut stored = list(&new["status"], "storedVersions").to_vec();
                stored.push(name.into());
                new["status"]["storedVersions"] = stored.into();
            }
        }
    }

    fn plan(&self) -> Plan {
        Plan {
            status_keeps: &[&["spec"]],
            ..Plan::SPEC
        }
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::apiextensions::definition(object, None)
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> Vec<FieldError> {
        if context.subresource == "status" {
            return validate::apiextensions::status(&new["status"]);
        }
        validate::apiextensions::definition(new, Some(old))
    }

    fn warnings(&self, new: &Value, old: Option<&Value>, context: &Context<'_>) -> Vec<String> {
        if !context.subresource.is_empty() {
            return Vec::new();
        }
        let formats = |object: &Value| -> Vec<String> {
            list(&object["spec"], "versions")
                .iter()
                .flat_map(|it| custom::unrecognized(&it["schema"]["openAPIV3Schema"]))
                .collect()
        };
        let known = old.map(formats).unwrap_or_default();
        let mut found = formats(new);
        found.retain(|it| !known.contains(it));
        found.sort();
        found.dedup();
        found
            .iter()
            .map(|it| format!("unrecognized format {it:?}"))
            .collect()
    }

    fn columns(&self) -> &'static [Column] {
        columns::PLAIN
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        table::plain_cells(object, now)
    }
}

/// The name of the version that objects are stored in.
fn storage(object: &Value) -> Option<String> {
    let versions = list(&object["spec"], "versions");
    let storage = versions.iter().find(|it| it["storage"] == true)?;
    Some(text(storage, "name").to_owned())
}

/// Fields of `status` that Go always writes.
fn fill_status(object: &mut Value) {
    if !object["status"].is_object() {
        object["status"] = json!({});
    }
    let status = &mut object["status"];
    for (name, empty) in [
        ("conditions", Value::Null),
        ("acceptedNames", json!({ "plural": "", "kind": "" })),
        ("storedVersions", Value::Null),
    ] {
        if status.get(name).is_none_or(Value::is_null) {
            status[name] = empty;
        }
    }
}

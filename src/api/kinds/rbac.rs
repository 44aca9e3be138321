//! Group `rbac.authorization.k8s.io`.

use serde_json::Value;

use super::value::{default, each, list, object, text};
use super::{Column, Context, Kind, columns, table, validate};
use crate::FieldError;
use crate::meta::NameRule;

pub(super) fn of(kind: &str) -> Option<&'static dyn Kind> {
    Some(match kind {
        "Role" => &Role { cluster: false },
        "ClusterRole" => &Role { cluster: true },
        "RoleBinding" => &Binding { cluster: false },
        "ClusterRoleBinding" => &Binding { cluster: true },
        _ => return None,
    })
}

struct Role {
    cluster: bool,
}

impl Kind for Role {
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn default(&self, role: &mut Value) {
        if role["rules"].is_null() {
            role["rules"] = Value::Null;
        }
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::rbac::role(object, self.cluster)
    }
}

struct Binding {
    cluster: bool,
}

const GROUP: &str = "rbac.authorization.k8s.io";

impl Kind for Binding {
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn default(&self, binding: &mut Value) {
        default(object(binding, "roleRef"), "apiGroup", GROUP);
        each(binding, "subjects", |subject| {
            if matches!(text(subject, "kind"), "User" | "Group") {
                default(subject, "apiGroup", GROUP);
            }
        });
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::rbac::binding(object, self.cluster)
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::rbac::binding_update(new, old, self.cluster)
    }

    fn columns(&self) -> &'static [Column] {
        if self.cluster {
            columns::CLUSTERROLEBINDING
        } else {
            columns::ROLEBINDING
        }
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let role = &object["roleRef"];
        let subjects = |kind: &str| {
            let names: Vec<String> = list(object, "subjects")
                .iter()
                .filter(|subject| subject["kind"] == kind)
                .map(|subject| {
                    let name = text(subject, "name");
                    match text(subject, "namespace") {
                        "" if kind == "ServiceAccount" => name.to_owned(),
                        namespace if kind == "ServiceAccount" => format!("{namespace}/{name}"),
                        _ => name.to_owned(),
                    }
                })
                .collect();
            names.join(", ")
        };
        vec![
            table::name(object),
            format!("{}/{}", text(role, "kind"), text(role, "name")).into(),
            table::age(object, now),
            subjects("User").into(),
            subjects("Group").into(),
            subjects("ServiceAccount").into(),
        ]
    }
}

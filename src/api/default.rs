//! Defaults that are plain facts: a field that is not set gets a value.
//!
//! Two tables hold them: the defaults that the API documents, which are part
//! of the schema, and `schema/defaults.txt`, with those that upstream's
//! defaulting functions set without looking at anything else. What depends on
//! other fields is in [`crate::kinds`].

use std::collections::HashMap;
use std::sync::OnceLock;

use serde_json::Value;

use crate::Scheme;
use crate::schema::{Shape, StructRef, TypeRef};

/// Lines `PACKAGE.Type FIELD JSON`, relative to the aliases of the schema.
static FACTS: &str = include_str!("schema/defaults.txt");

/// Sets the defaults of an object of a type, at every depth.
pub fn apply(value: &mut Value, ty: TypeRef<'_>) {
    match (ty.shape(), value) {
        (Shape::Struct(it), Value::Object(map)) => {
            for (name, default) in facts(it) {
                let zero = match map.get(*name) {
                    None | Some(Value::Null) => true,
                    Some(value) => {
                        let pointer = it.field(name).is_some_and(|field| field.is_pointer());
                        !pointer && is_zero(value)
                    }
                };
                if zero {
                    map.insert((*name).to_owned(), default.clone());
                }
            }
            for field in it.fields() {
                match map.get_mut(field.name()) {
                    Some(value) if value.is_object() || value.is_array() => {
                        apply(value, field.ty())
                    }
                    Some(_) => {}
                    None => {
                        // A zero that Go leaves out when it writes is no change.
                        let written = field.is_pointer() || !field.omitempty();
                        if let Some(default) = field.default_value()
                            && (written || !is_zero(default))
                        {
                            map.insert(field.name().to_owned(), default.clone());
                        }
                    }
                }
            }
        }
        (Shape::List(element), Value::Array(list)) if may_hold_structs(element) => {
            list.iter_mut().for_each(|item| apply(item, element));
        }
        (Shape::Map(of), Value::Object(map)) if may_hold_structs(of) => {
            map.values_mut().for_each(|item| apply(item, of));
        }
        _ => {}
    }
}

fn may_hold_structs(ty: TypeRef<'_>) -> bool {
    !matches!(ty.shape(), Shape::Scalar(_))
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(it) => !it,
        Value::Number(it) => it.as_f64() == Some(0.0),
        Value::String(it) => it.is_empty(),
        Value::Array(it) => it.is_empty(),
        Value::Object(it) => it.is_empty(),
    }
}

type Facts = HashMap<(&'static str, &'static str), Vec<(&'static str, Value)>>;

/// The facts about a built-in struct.
fn facts<'a>(it: StructRef<'a>) -> &'a [(&'a str, Value)] {
    static TABLE: OnceLock<Facts> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let mut table = Facts::new();
        let schema = Scheme::builtin().schema();
        for line in FACTS.lines().filter(|line| !line.starts_with('#')) {
            let mut words = line.splitn(3, ' ');
            let (Some(ty), Some(field), Some(json)) = (words.next(), words.next(), words.next())
            else {
                continue;
            };
            let (package, name) = ty.rsplit_once('.').unwrap_or_default();
            let found = schema.named(package, name).and_then(TypeRef::as_struct);
            let found = found.expect("the table names types of the schema");
            let value = serde_json::from_str(json).expect("the table holds JSON");
            let key = (found.package_path(), found.name());
            table.entry(key).or_default().push((field, value));
        }
        table
    });
    table
        .get(&(it.package_path(), it.name()))
        .map(Vec::as_slice)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::*;
    use crate::GroupVersionKind;

    #[test]
    fn every_fact_is_about_a_field() {
        for line in FACTS.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<&str> = line.splitn(3, ' ').collect();
            let (package, name) = words[0].rsplit_once('.').unwrap();
            let ty = Scheme::builtin().schema().named(package, name);
            let it = ty.and_then(TypeRef::as_struct).expect(line);
            assert!(it.field(words[1]).is_some(), "{line}");
            assert!(serde_json::from_str::<Value>(words[2]).is_ok(), "{line}");
        }
    }

    #[test]
    fn pods_get_their_static_defaults() {
        let ty = Scheme::builtin()
            .type_of(&GroupVersionKind::new("", "v1", "Pod"))
            .unwrap();
        let mut pod = json!({
            "metadata": {"name": "p"},
            "spec": {
                "containers": [{"name": "c", "ports": [{"containerPort": 80}], "livenessProbe": {"httpGet": {"port": 80}}}],
                "volumes": [{"name": "s", "secret": {"secretName": "x"}}],
            },
        });
        apply(&mut pod, ty);
        assert_eq!(
            pod["spec"],
            json!({
                "containers": [{
                    "name": "c",
                    "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "livenessProbe": {
                        "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                        "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3,
                    },
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                }],
                "volumes": [{"name": "s", "secret": {"secretName": "x", "defaultMode": 420}}],
                "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {},
                "terminationGracePeriodSeconds": 30, "schedulerName": "default-scheduler",
            })
        );
        let before = pod.clone();
        apply(&mut pod, ty);
        assert_eq!(pod, before);
    }
}

//! The unversioned types, from `schema/internal.txt`.
//!
//! One line a struct, `GROUP.NAME FIELD:TYPE …`, in Go's order, embedded
//! structs unfolded. TYPE is a letter (`s` string, `b` bool, `n` number, `y`
//! bytes, `t` time, `d` duration, `q` quantity, `o` int or string, `r` raw), a
//! struct of the same group, `GROUP.NAME`, or `m.NAME` of `meta/v1`, prefixed
//! by `*`, `[]` and `{}`. `@` is the embedded object metadata. A `?` after the
//! field is `omitempty`.

use std::collections::HashMap;
use std::sync::OnceLock;

use serde_json::{Value, json};

use super::{write_any, write_list, write_map, write_string};
use crate::Scheme;
use crate::schema::StructRef;

const TEXT: &str = include_str!("../schema/internal.txt");

/// What an unversioned pod spec keeps in its security context.
const OF_SECURITY_CONTEXT: [&str; 5] = [
    "hostNetwork",
    "hostPID",
    "hostIPC",
    "shareProcessNamespace",
    "hostUsers",
];

fn lines() -> &'static HashMap<&'static str, &'static str> {
    static LINES: OnceLock<HashMap<&'static str, &'static str>> = OnceLock::new();
    LINES.get_or_init(|| {
        TEXT.lines()
            .map(|line| line.split_once(' ').unwrap_or((line, "")))
            .collect()
    })
}

/// An unversioned struct.
#[derive(Clone, Copy)]
pub(super) struct Table {
    name: &'static str,
    fields: &'static str,
}

/// The unversioned form of a versioned struct.
pub(super) fn of(versioned: StructRef<'_>) -> Option<Table> {
    let path = versioned.package_path().strip_prefix("k8s.io/api/")?;
    let (group, _) = path.split_once('/')?;
    named(&format!("{group}.{}", versioned.name()))
}

fn named(name: &str) -> Option<Table> {
    let (name, fields) = lines().get_key_value(name)?;
    Some(Table { name, fields })
}

impl Table {
    pub(super) fn write(self, value: &Value, out: &mut String) {
        let moved;
        let value = if self.name == "core.PodSpec" {
            moved = with_moved(value);
            &moved
        } else {
            value
        };
        let group = self.name.split('.').next().unwrap_or_default();
        out.push('{');
        let mut first = true;
        for field in self.fields.split(' ').filter(|field| !field.is_empty()) {
            let Some((name, ty)) = field.split_once(':') else {
                continue;
            };
            if name == "@" {
                write_metadata(&value["metadata"], &mut first, out);
                continue;
            }
            let (name, omitempty) = match name.strip_suffix('?') {
                Some(name) => (name, true),
                None => (name, false),
            };
            let value = find(value, name);
            if omitempty && value.is_null() {
                continue;
            }
            if !std::mem::take(&mut first) {
                out.push(',');
            }
            write_string(name, out);
            out.push(':');
            write_typed(value, ty, group, out);
        }
        out.push('}');
    }
}

/// Fields that differ in more than case from what they are called in versions.
const RENAMED: [(&str, &str); 16] = [
    ("CephMonitors", "monitors"),
    ("RBDImage", "image"),
    ("RBDPool", "pool"),
    ("RadosUser", "user"),
    ("DataDiskURI", "diskURI"),
    ("EndpointsName", "endpoints"),
    ("DiscoveryCHAPAuth", "chapAuthDiscovery"),
    ("SessionCHAPAuth", "chapAuthSession"),
    ("IntValue", "int"),
    ("BoolValue", "bool"),
    ("StringValue", "string"),
    ("VersionValue", "version"),
    ("IntValues", "ints"),
    ("BoolValues", "bools"),
    ("StringValues", "strings"),
    ("VersionValues", "versions"),
];

/// The value of a field by its unversioned name.
fn find<'a>(value: &'a Value, name: &str) -> &'a Value {
    let renamed = RENAMED.iter().find(|(own, _)| *own == name);
    let name = renamed.map_or(name, |(_, name)| name);
    value
        .as_object()
        .and_then(|map| map.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)))
        .map_or(&Value::Null, |(_, value)| value)
}

fn with_moved(spec: &Value) -> Value {
    let mut spec = spec.clone();
    let Some(map) = spec.as_object_mut() else {
        return spec;
    };
    let moved: Vec<(&str, Value)> = OF_SECURITY_CONTEXT
        .into_iter()
        .filter_map(|name| Some((name, map.remove(name)?)))
        .collect();
    if !moved.is_empty() {
        let context = map.entry("securityContext").or_insert_with(|| json!({}));
        for (name, value) in moved {
            context[name] = value;
        }
    }
    spec
}

/// Object metadata, which is embedded without a name of its own.
fn write_metadata(metadata: &Value, first: &mut bool, out: &mut String) {
    let Some(ty) = Scheme::builtin().schema().named("meta/v1", "ObjectMeta") else {
        return;
    };
    let text = if metadata.is_object() {
        super::json(metadata, ty)
    } else {
        "{}".to_owned()
    };
    let inner = text.trim_start_matches('{').trim_end_matches('}');
    if !inner.is_empty() {
        *first = false;
        out.push_str(&text[1..text.len() - 1]);
    }
}

fn write_typed(value: &Value, ty: &str, group: &str, out: &mut String) {
    if let Some(inner) = ty.strip_prefix('*') {
        if value.is_null() {
            out.push_str("null");
        } else {
            write_typed(value, inner, group, out);
        }
    } else if let Some(inner) = ty.strip_prefix("[]") {
        match value.as_array() {
            Some(list) => write_list(list, out, |item, out| write_typed(item, inner, group, out)),
            None => out.push_str("null"),
        }
    } else if let Some(inner) = ty.strip_prefix("{}") {
        match value.as_object() {
            Some(map) => write_map(map, out, |item, out| write_typed(item, inner, group, out)),
            None => out.push_str("null"),
        }
    } else if value.is_null() && ty.len() == 1 {
        out.push_str(match ty {
            "s" => "\"\"",
            "b" => "false",
            "n" | "o" => "0",
            "q" => "\"0\"",
            "d" => "\"0s\"",
            _ => "null",
        });
    } else if let Some(name) = ty.strip_prefix("m.") {
        match Scheme::builtin().schema().named("meta/v1", name) {
            Some(ty) if value.is_object() => super::write(value, ty, out),
            _ if value.is_null() => out.push_str("{}"),
            _ => write_any(value, out),
        }
    } else if ty.len() == 1 {
        write_any(value, out);
    } else {
        let full = if ty.contains('.') {
            named(ty)
        } else {
            named(&format!("{group}.{ty}"))
        };
        match full {
            Some(table) => table.write(value, out),
            None => write_any(value, out),
        }
    }
}

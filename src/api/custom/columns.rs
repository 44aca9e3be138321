//! Tables of custom resources.

use serde_json::{Value, json};

use super::jsonpath::JsonPath;
use super::numbers;
use crate::kinds::table;

/// What the name column says of itself.
const NAME: &str = "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";
/// What the column of the time of creation says of itself.
const CREATED: &str = "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// A column of `additionalPrinterColumns`.
#[derive(Clone, Debug)]
pub struct TableColumn {
    name: String,
    kind: String,
    format: String,
    description: String,
    priority: i64,
    path: JsonPath,
}

impl TableColumn {
    /// The columns of a version; the age alone if it names none.
    ///
    /// A path that cannot be parsed takes all columns away, as upstream's does.
    pub(super) fn all(version: &Value) -> Vec<Self> {
        let given = version["additionalPrinterColumns"].as_array();
        let Some(given) = given.filter(|it| !it.is_empty()) else {
            return vec![Self {
                name: "Age".to_owned(),
                kind: "date".to_owned(),
                format: String::new(),
                description: CREATED.to_owned(),
                priority: 0,
                path: JsonPath::parse(".metadata.creationTimestamp").expect("a path"),
            }];
        };
        let mut columns = Vec::new();
        for column in given {
            let text = |name: &str| column[name].as_str().unwrap_or_default().to_owned();
            let path = text("jsonPath");
            let Ok(parsed) = JsonPath::parse(&path) else {
                break;
            };
            let description = match text("description") {
                empty if empty.is_empty() => {
                    format!("Custom resource definition column (in JSONPath format): {path}")
                }
                given => given,
            };
            columns.push(Self {
                name: text("name"),
                kind: text("type"),
                format: text("format"),
                description,
                priority: column["priority"].as_i64().unwrap_or(0),
                path: parsed,
            });
        }
        columns
    }

    /// `columnDefinitions` of a table with these columns.
    pub fn headers(columns: &[Self]) -> Value {
        let name = json!({
            "name": "Name", "type": "string", "format": "name",
            "description": NAME, "priority": 0,
        });
        let rest = columns.iter().map(|it| {
            json!({
                "name": it.name, "type": it.kind, "format": it.format,
                "description": it.description, "priority": it.priority,
            })
        });
        std::iter::once(name).chain(rest).collect()
    }

    /// The cells of an object; `now` is seconds since the Unix epoch.
    pub fn cells(columns: &[Self], object: &Value, now: i64) -> Vec<Value> {
        let name = object["metadata"]["name"].clone();
        let rest = columns.iter().map(|column| column.cell(object, now));
        std::iter::once(name).chain(rest).collect()
    }

    fn cell(&self, object: &Value, now: i64) -> Value {
        let Some(value) = self.path.find(object).first().copied() else {
            return Value::Null;
        };
        match (self.kind.as_str(), value) {
            ("string", value) => print(value),
            (_, Value::Null) => Value::Null,
            ("integer", Value::Number(number)) => match number.as_i64() {
                Some(int) => int.into(),
                // Truncated, as Go's conversion does.
                None => number.as_f64().map_or(Value::Null, |it| (it as i64).into()),
            },
            ("number", Value::Number(number)) => number.clone().into(),
            ("boolean", Value::Bool(flag)) => (*flag).into(),
            ("date", Value::String(time)) => match time.parse::<jiff::Timestamp>() {
                Ok(at) => table::duration(now - at.as_second()).into(),
                Err(_) => "<invalid>".into(),
            },
            _ => Value::Null,
        }
    }
}

/// A value as a template prints it.
fn print(value: &Value) -> Value {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.clone().into(),
        Value::Number(number) if number.is_f64() => {
            numbers::print(number.as_f64().unwrap_or_default()).into()
        }
        other => other.to_string().into(),
    }
}

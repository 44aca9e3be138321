//! Tables: what every kind shares.

use serde_json::{Value, json};

use super::Column;

/// Columns of a kind that has none of its own.
pub const PLAIN: &[Column] = &[
    Column {
        name: "Name",
        kind: "string",
        format: "name",
        description: "",
        priority: 0,
    },
    Column {
        name: "Created At",
        kind: "date",
        format: "",
        description: "",
        priority: 0,
    },
];

/// Cells of [`PLAIN`].
pub fn plain_cells(object: &Value, _now: i64) -> Vec<Value> {
    vec![
        json!(object["metadata"]["name"]),
        json!(object["metadata"]["creationTimestamp"]),
    ]
}

//! Removes what a schema does not know from a value.

use serde_json::Value;

use super::go_quote;
use crate::schema::{Shape, StructRef, TypeRef};

/// Removes unknown fields and returns one `unknown field "path"` for each.
pub fn prune(value: &mut Value, ty: TypeRef<'_>) -> Vec<String> {
    let mut found = Vec::new();
    walk(value, ty, "", &mut found);
    found
}

fn walk(value: &mut Value, ty: TypeRef<'_>, path: &str, found: &mut Vec<String>) {
    match (ty.shape(), value) {
        (Shape::Struct(it), Value::Object(map)) => {
            if !it.preserves_unknown() {
                map.retain(|key, _| {
                    let known = it.field(key).is_some() || is_type_or_meta(it, key);
                    if !known && found.len() < 100 {
                        found.push(format!("unknown field {}", go_quote(&join(path, key))));
                    }
                    known
                });
            }
            for (key, value) in map {
                if let Some(field) = it.field(key) {
                    walk(value, field.ty(), &join(path, key), found);
                }
            }
        }
        (Shape::Map(inner), Value::Object(map)) => {
            for (key, value) in map {
                walk(value, inner, &join(path, key), found);
            }
        }
        (Shape::List(inner), Value::Array(list)) => {
            for (index, value) in list.iter_mut().enumerate() {
                walk(value, inner, &format!("{path}[{index}]"), found);
            }
        }
        _ => {}
    }
}

fn is_type_or_meta(it: StructRef<'_>, key: &str) -> bool {
    (it.is_kind() || it.is_embedded_resource()) && matches!(key, "apiVersion" | "kind" | "metadata")
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::prune;
    use crate::schema::{FieldBuilder, ObjectOptions, OwnedType, Scalar, SchemaBuilder, TypeId};

    #[test]
    fn unknown_fields_go_unless_preserved() {
        let mut builder = SchemaBuilder::new();
        let leaf = FieldBuilder::new("known", TypeId::scalar(Scalar::String));
        let item = builder.object("Item", vec![leaf], ObjectOptions::default());
        let open = ObjectOptions {
            preserve_unknown: true,
            ..ObjectOptions::default()
        };
        let open = builder.object("Open", Vec::new(), open);
        let items = builder.list(item, None);
        let fields = vec![
            FieldBuilder::new("items", items),
            FieldBuilder::new("open", open),
        ];
        let kind = ObjectOptions {
            is_kind: true,
            ..ObjectOptions::default()
        };
        let root = builder.object("Root", fields, kind);
        let ty = OwnedType::built(builder.finish("example.com", "v1").into(), root);
        let mut value = json!({
            "kind": "Root", "metadata": {"name": "x"}, "bogus": 1,
            "items": [{"known": "a", "other": 1}], "open": {"anything": true},
        });
        let found = prune(&mut value, ty.get());
        assert_eq!(
            found,
            [
                r#"unknown field "bogus""#,
                r#"unknown field "items[0].other""#
            ]
        );
        assert_eq!(
            value,
            json!({
                "kind": "Root", "metadata": {"name": "x"},
                "items": [{"known": "a"}], "open": {"anything": true},
            })
        );
    }
}

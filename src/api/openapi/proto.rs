//! OpenAPI v2 as the protobuf messages of gnostic, which older clients ask for.
//!
//! The document's parts are written one by one: a message that occurs several
//! times is merged by whoever reads it.

use std::io::{self, Write};

use serde_json::{Map, Value};

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    varint(out, u64::from(number << 3 | 2));
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn message(out: &mut Vec<u8>, number: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    fill(&mut inner);
    bytes(out, number, &inner);
}

fn text(out: &mut Vec<u8>, number: u32, value: &Value) {
    if let Some(text) = value.as_str().filter(|it| !it.is_empty()) {
        bytes(out, number, text.as_bytes());
    }
}

fn texts(out: &mut Vec<u8>, number: u32, value: &Value) {
    for item in value.as_array().into_iter().flatten() {
        bytes(out, number, item.as_str().unwrap_or_default().as_bytes());
    }
}

fn boolean(out: &mut Vec<u8>, number: u32, value: &Value) {
    if value == true {
        varint(out, u64::from(number << 3));
        out.push(1);
    }
}

/// `Any`, whose text is YAML; JSON is YAML.
fn any(out: &mut Vec<u8>, value: &Value) {
    bytes(out, 2, format!("{value}\n").as_bytes());
}

fn named(out: &mut Vec<u8>, number: u32, name: &str, fill: impl FnOnce(&mut Vec<u8>)) {
    message(out, number, |out| {
        bytes(out, 1, name.as_bytes());
        message(out, 2, fill);
    });
}

fn extensions(out: &mut Vec<u8>, number: u32, map: &Map<String, Value>) {
    for (name, value) in map.iter().filter(|(name, _)| name.starts_with("x-")) {
        named(out, number, name, |out| any(out, value));
    }
}

/// The fields of `Document` apart from paths and definitions.
pub(super) fn head(out: &mut dyn Write) -> io::Result<()> {
    let mut document = Vec::new();
    bytes(&mut document, 1, b"2.0");
    message(&mut document, 2, |out| {
        bytes(out, 1, b"Kubernetes");
        bytes(out, 2, b"v1.36.2");
    });
    message(&mut document, 12, |out| {
        named(out, 1, "BearerToken", |_| {})
    });
    message(&mut document, 13, |out| {
        named(out, 1, "BearerToken", |out| {
            message(out, 2, |out| {
                bytes(out, 1, b"apiKey");
                bytes(out, 2, b"authorization");
                bytes(out, 3, b"header");
                bytes(out, 4, b"Bearer Token authentication");
            });
        });
    });
    out.write_all(&document)
}

/// `Document.paths`.
pub(super) fn paths(
    paths: impl Iterator<Item = (String, Value)>,
    out: &mut dyn Write,
) -> io::Result<()> {
    for (path, value) in paths {
        let mut document = Vec::new();
        message(&mut document, 8, |out| {
            named(out, 2, &path, |out| {
                let methods = ["get", "put", "post", "delete", "options", "head", "patch"];
                for (at, method) in methods.iter().enumerate() {
                    if let Some(Value::Object(it)) = value.get(method) {
                        message(out, at as u32 + 2, |out| operation(out, it));
                    }
                }
                parameters(out, 9, &value["parameters"]);
            });
        });
        out.write_all(&document)?;
    }
    Ok(())
}

fn operation(out: &mut Vec<u8>, it: &Map<String, Value>) {
    let get = |name: &str| it.get(name).unwrap_or(&Value::Null);
    texts(out, 1, get("tags"));
    text(out, 3, get("description"));
    text(out, 5, get("operationId"));
    texts(out, 6, get("produces"));
    texts(out, 7, get("consumes"));
    parameters(out, 8, get("parameters"));
    message(out, 9, |out| {
        for (code, response) in get("responses").as_object().into_iter().flatten() {
            named(out, 1, code, |out| {
                message(out, 1, |out| {
                    text(out, 1, &response["description"]);
                    if let Some(Value::Object(it)) = response.get("schema") {
                        message(out, 2, |out| message(out, 1, |out| schema(out, it)));
                    }
                });
            });
        }
    });
    texts(out, 10, get("schemes"));
    extensions(out, 13, it);
}

fn parameters(out: &mut Vec<u8>, number: u32, list: &Value) {
    for parameter in list.as_array().into_iter().flatten() {
        message(out, number, |out| {
            message(out, 1, |out| {
                let place = parameter["in"].as_str().unwrap_or_default();
                if place == "body" {
                    return message(out, 1, |out| {
                        text(out, 1, &parameter["description"]);
                        text(out, 2, &parameter["name"]);
                        text(out, 3, &parameter["in"]);
                        boolean(out, 4, &parameter["required"]);
                        if let Some(Value::Object(it)) = parameter.get("schema") {
                            message(out, 5, |out| schema(out, it));
                        }
                    });
                }
                // The messages of query and path differ by one field before the type.
                let (kind, shift) = if place == "path" { (4, 0) } else { (3, 1) };
                message(out, 2, |out| {
                    message(out, kind, |out| {
                        boolean(out, 1, &parameter["required"]);
                        text(out, 2, &parameter["in"]);
                        text(out, 3, &parameter["description"]);
                        text(out, 4, &parameter["name"]);
                        text(out, 5 + shift, &parameter["type"]);
                        text(out, 6 + shift, &parameter["format"]);
                        boolean(out, 19 + shift, &parameter["uniqueItems"]);
                    });
                });
            });
        });
    }
}

/// `Document.definitions`.
pub(super) fn definitions(
    definitions: impl Iterator<Item = (String, Value)>,
    out: &mut dyn Write,
) -> io::Result<()> {
    for (name, value) in definitions {
        let mut document = Vec::new();
        message(&mut document, 9, |out| {
            named(out, 1, &name, |out| {
                if let Value::Object(it) = &value {
                    schema(out, it);
                }
            });
        });
        out.write_all(&document)?;
    }
    Ok(())
}

fn schema(out: &mut Vec<u8>, it: &Map<String, Value>) {
    let get = |name: &str| it.get(name).unwrap_or(&Value::Null);
    text(out, 1, get("$ref"));
    text(out, 2, get("format"));
    text(out, 4, get("description"));
    if let Some(default) = it.get("default") {
        message(out, 5, |out| any(out, default));
    }
    texts(out, 19, get("required"));
    if let Value::Object(of) = get("additionalProperties") {
        message(out, 21, |out| message(out, 1, |out| schema(out, of)));
    }
    if get("type").is_string() {
        message(out, 22, |out| text(out, 1, get("type")));
    }
    if let Value::Object(items) = get("items") {
        message(out, 23, |out| message(out, 1, |out| schema(out, items)));
    }
    if let Value::Object(properties) = get("properties") {
        message(out, 25, |out| {
            for (name, property) in properties {
                named(out, 1, name, |out| {
                    if let Value::Object(it) = property {
                        schema(out, it);
                    }
                });
            }
        });
    }
    extensions(out, 31, it);
}

//! Operations of v3 in the form of v2.

use serde_json::{Value, json};

/// A path of v3 in the form of v2.
pub(in crate::openapi) fn to_v2(path: Value) -> Value {
    let Value::Object(methods) = path else {
        return path;
    };
    let convert = |(name, value): (String, Value)| match name.as_str() {
        "parameters" => (name, parameters_to_v2(value)),
        _ => (name, operation_to_v2(value)),
    };
    Value::Object(methods.into_iter().map(convert).collect())
}

fn parameters_to_v2(parameters: Value) -> Value {
    let Value::Array(list) = parameters else {
        return parameters;
    };
    let flat = |mut parameter: Value| {
        if let Some(Value::Object(schema)) =
            parameter.as_object_mut().and_then(|it| it.remove("schema"))
            && let Value::Object(parameter) = &mut parameter
        {
            parameter.extend(schema);
        }
        parameter
    };
    list.into_iter().map(flat).collect()
}

fn schema_to_v2(schema: &Value) -> Value {
    match schema["$ref"].as_str() {
        Some(reference) => {
            json!({ "$ref": reference.replace("#/components/schemas/", "#/definitions/") })
        }
        None => schema.clone(),
    }
}

fn operation_to_v2(mut operation: Value) -> Value {
    let Value::Object(map) = &mut operation else {
        return operation;
    };
    let mut parameters = match map.remove("parameters").map(parameters_to_v2) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    let mut consumes = vec![Value::from("*/*")];
    if let Some(body) = map.remove("requestBody") {
        let content = body["content"].as_object().cloned().unwrap_or_default();
        if let Some(first) = content.values().next() {
            let mut parameter =
                json!({ "in": "body", "name": "body", "schema": schema_to_v2(&first["schema"]) });
            if body["required"] == true {
                parameter["required"] = true.into();
            }
            parameters.insert(0, parameter);
        }
        consumes = content.keys().cloned().map(Value::from).collect();
    }
    let mut produces: Vec<Value> = Vec::new();
    if let Some(Value::Object(responses)) = map.get_mut("responses") {
        for response in responses.values_mut() {
            let Some(content) = response.as_object_mut().and_then(|it| it.remove("content")) else {
                continue;
            };
            let content = content.as_object().cloned().unwrap_or_default();
            if let Some(first) = content.values().next() {
                response["schema"] = schema_to_v2(&first["schema"]);
            }
            produces = content.keys().cloned().map(Value::from).collect();
        }
    }
    if !parameters.is_empty() {
        map.insert("parameters".to_owned(), parameters.into());
    }
    map.insert("consumes".to_owned(), consumes.into());
    map.insert("produces".to_owned(), produces.into());
    map.insert("schemes".to_owned(), json!(["https"]));
    operation
}

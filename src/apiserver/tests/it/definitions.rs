//! Custom resources from their definition to their end.

use serde_json::{Value, json};

use super::World;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const GIZMOS: &str = "/apis/example.com/v1/namespaces/default/gizmos";

fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "gizmos.example.com" },
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": { "plural": "gizmos", "kind": "Gizmo", "shortNames": ["gz"] },
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": { "status": {} },
                "selectableFields": [{ "jsonPath": ".spec.color" }],
                "schema": { "openAPIV3Schema": { "type": "object", "properties": {
                    "spec": { "type": "object", "required": ["size"], "properties": {
                        "size": { "type": "integer", "minimum": 1 },
                        "color": { "type": "string", "default": "blue" },
                    } },
                    "status": { "type": "object", "properties": {
                        "phase": { "type": "string" },
                    } },
                } } },
            }],
        },
    })
}

fn gizmo(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "example.com/v1", "kind": "Gizmo",
        "metadata": { "name": name }, "spec": spec,
    })
}

impl World {
    async fn define(&self, definition: Value) {
        let name = definition["metadata"]["name"].as_str().unwrap().to_owned();
        let (code, answer) = self.send("POST", DEFINITIONS, definition).await;
        assert_eq!(code, 201, "{answer}");
        let path = format!("{DEFINITIONS}?watch=1&fieldSelector=metadata.name={name}");
        let mut events = self.watch(&path).await;
        loop {
            let event = events.next().await.unwrap();
            let conditions = event["object"]["status"]["conditions"].clone();
            let all = conditions.as_array().cloned().unwrap_or_default();
            if all
                .iter()
                .any(|it| it["type"] == "Established" && it["status"] == "True")
            {
                return;
            }
        }
    }
}

#[tokio::test]
async fn custom_resources_are_served_once_established() {
    let world = World::start().await;
    world.define(definition()).await;
    let made = json!({ "size": 3, "unknown": 1 });
    let (code, answer) = world.send("POST", GIZMOS, gizmo("a", made)).await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(answer["spec"], json!({ "size": 3, "color": "blue" }));
    assert_eq!(answer["metadata"]["generation"], 1);
    assert_eq!(
        *world.warnings.lock().unwrap(),
        ["299 - \"unknown field \\\"spec.unknown\\\"\""]
    );

    let (code, answer) = world
        .send("POST", GIZMOS, gizmo("b", json!({ "size": 0 })))
        .await;
    assert_eq!(code, 422);
    assert_eq!(
        answer["message"],
        "Gizmo.example.com \"b\" is invalid: spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"
    );

    let path = format!("{GIZMOS}/a");
    let change = json!({ "spec": { "color": "red" }, "status": { "phase": "x" } });
    let (code, answer) = world.send("PATCH", &path, change.clone()).await;
    assert_eq!(code, 200, "{answer}");
    assert_eq!(
        (&answer["spec"]["color"], &answer["status"]),
        (&json!("red"), &Value::Null)
    );
    assert_eq!(answer["metadata"]["generation"], 2);
    let (code, answer) = world.send("PATCH", &format!("{path}/status"), change).await;
    assert_eq!(
        (code, &answer["status"]["phase"]),
        (200, &json!("x")),
        "{answer}"
    );

    let (_, list) = world
        .send(
            "GET",
            &format!("{GIZMOS}?fieldSelector=spec.color=red"),
            Value::Null,
        )
        .await;
    assert_eq!(
        (&list["kind"], list["items"].as_array().unwrap().len()),
        (&json!("GizmoList"), 1)
    );
    let (_, found) = world.send("GET", "/apis/example.com/v1", Value::Null).await;
    assert_eq!(found["resources"][0]["shortNames"], json!(["gz"]));
    assert_eq!(found["resources"][1]["name"], "gizmos/status");
    world.stop().await;
}

#[tokio::test]
async fn objects_go_before_their_definition() {
    let world = World::start().await;
    world.define(definition()).await;
    let (code, _) = world
        .send("POST", GIZMOS, gizmo("a", json!({ "size": 1 })))
        .await;
    assert_eq!(code, 201);
    let path = format!("{DEFINITIONS}?watch=1&fieldSelector=metadata.name=gizmos.example.com");
    let mut events = world.watch(&path).await;
    let name = format!("{DEFINITIONS}/gizmos.example.com");
    let (code, answer) = world.send("DELETE", &name, Value::Null).await;
    assert_eq!(code, 200, "{answer}");
    while events.next().await.unwrap()["type"] != "DELETED" {}
    let (code, _) = world.send("GET", &name, Value::Null).await;
    assert_eq!(code, 404);
    world.define(definition()).await;
    let (code, list) = world.send("GET", GIZMOS, Value::Null).await;
    assert_eq!((code, &list["items"]), (200, &json!([])));
    world.stop().await;
}

#[tokio::test]
async fn definitions_are_checked() {
    let world = World::start().await;
    let mut wrong = definition();
    wrong["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-preserve-unknown-fields"] =
        false.into();
    wrong["spec"]["scope"] = "Galaxy".into();
    let (code, answer) = world.send("POST", DEFINITIONS, wrong).await;
    assert_eq!(code, 422);
    let message = answer["message"].as_str().unwrap();
    assert!(
        message.contains("spec.scope: Unsupported value: \"Galaxy\""),
        "{message}"
    );
    world.stop().await;
}

//! Custom resources, from their definition to their end.

use serde_json::{Value, json};

use super::World;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "widgets.example.com" },
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": { "plural": "widgets", "kind": "Widget", "shortNames": ["wd"] },
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": {
                    "status": {},
                    "scale": { "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas" },
                },
                "selectableFields": [{ "jsonPath": ".spec.color" }],
                "additionalPrinterColumns": [{ "name": "Color", "type": "string", "jsonPath": ".spec.color" }],
                "schema": { "openAPIV3Schema": {
                    "type": "object",
                    "properties": {
                        "spec": {
                            "type": "object",
                            "required": ["color"],
                            "properties": {
                                "color": { "type": "string", "enum": ["red", "blue"] },
                                "replicas": { "type": "integer", "minimum": 0, "default": 3 },
                            },
                        },
                        "status": { "type": "object", "properties": { "replicas": { "type": "integer" } } },
                    },
                } },
            }],
        },
    })
}

fn widget(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "example.com/v1", "kind": "Widget",
        "metadata": { "name": name }, "spec": spec,
    })
}

/// Creates the definition and waits until it is established.
async fn established(world: &World) {
    establish(world, definition()).await;
}

async fn establish(world: &World, definition: Value) {
    let mut watch = world.watch(&format!("{DEFINITIONS}?watch=1")).await;
    let (code, created) = world.send("POST", DEFINITIONS, definition).await;
    assert_eq!(code, 201, "{created}");
    assert_eq!(created["spec"]["names"]["listKind"], "WidgetList");
    assert_eq!(created["status"]["storedVersions"], json!(["v1"]));
    loop {
        let event = watch.next().await.unwrap();
        let conditions = event["object"]["status"]["conditions"].as_array().cloned();
        let is_done = |it: &Value| it["type"] == "Established" && it["status"] == "True";
        if conditions.unwrap_or_default().iter().any(is_done) {
            return;
        }
    }
}

#[tokio::test]
async fn custom_resources_are_served_as_any_other() {
    let world = World::start().await;
    established(&world).await;
    let (code, list) = world.send("GET", "/apis/example.com/v1", Value::Null).await;
    assert_eq!(code, 200);
    assert_eq!(list["resources"][0]["shortNames"], json!(["wd"]));

    // Defaults are set, unknown fields go, status is not for everyone.
    let mut body = widget("a", json!({ "color": "red", "extra": 1 }));
    body["status"] = json!({ "replicas": 7 });
    let (code, created) = world.send("POST", WIDGETS, body).await;
    assert_eq!(code, 201, "{created}");
    assert_eq!(created["spec"], json!({ "color": "red", "replicas": 3 }));
    assert_eq!(created["status"], Value::Null);
    assert_eq!(created["metadata"]["generation"], 1);

    // What is wrong is said as upstream says it.
    let wrong = widget("b", json!({ "color": "green", "replicas": -1 }));
    let (code, status) = world.send("POST", WIDGETS, wrong).await;
    assert_eq!(code, 422);
    let message = status["message"].as_str().unwrap();
    assert!(
        message.contains(
            "spec.color: Unsupported value: \"green\": supported values: \"red\", \"blue\""
        ),
        "{message}"
    );

    let one = format!("{WIDGETS}/a");
    let (_, changed) = world
        .send("PATCH", &one, json!({ "spec": { "color": "blue" } }))
        .await;
    assert_eq!(changed["metadata"]["generation"], 2);
    let (_, scale) = world
        .send(
            "PATCH",
            &format!("{one}/scale"),
            json!({ "spec": { "replicas": 5 } }),
        )
        .await;
    assert_eq!(scale["spec"]["replicas"], 5);
    for (selector, count) in [("spec.color%3Dblue", 1), ("spec.color%3Dred", 0)] {
        let path = format!("{WIDGETS}?fieldSelector={selector}");
        let (_, list) = world.send("GET", &path, Value::Null).await;
        assert_eq!(list["kind"], "WidgetList");
        assert_eq!(list["items"].as_array().unwrap().len(), count, "{selector}");
    }
    world.stop().await;
}

#[tokio::test]
async fn instances_go_before_their_definition() {
    let world = World::start().await;
    established(&world).await;
    let mut held = widget("held", json!({ "color": "red" }));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    world.send("POST", WIDGETS, held).await;
    world
        .send("POST", WIDGETS, widget("free", json!({ "color": "red" })))
        .await;
    let mut widgets = world.watch(&format!("{WIDGETS}?watch=1")).await;
    let mut definitions = world.watch(&format!("{DEFINITIONS}?watch=1")).await;
    let one = format!("{DEFINITIONS}/widgets.example.com");
    let (code, marked) = world.send("DELETE", &one, Value::Null).await;
    assert_eq!(code, 200);
    assert_eq!(
        marked["metadata"]["finalizers"],
        json!(["customresourcecleanup.apiextensions.k8s.io"])
    );
    // Both are told to go; the one that is held goes when it is let go.
    let path = format!("{WIDGETS}/held");
    loop {
        let held = widgets.next().await.unwrap()["object"]["metadata"].take();
        if held["name"] == "held" && !held["deletionTimestamp"].is_null() {
            break;
        }
    }
    world
        .send(
            "PATCH",
            &path,
            json!({ "metadata": { "finalizers": null } }),
        )
        .await;
    loop {
        let event = definitions.next().await.unwrap();
        if event["type"] == "DELETED" {
            break;
        }
    }
    let (code, _) = world.send("GET", &one, Value::Null).await;
    assert_eq!(code, 404);
    world.stop().await;
}

#[tokio::test]
async fn versions_that_a_webhook_converts_are_not_served() {
    let world = World::start().await;
    let mut body = definition();
    let mut other = body["spec"]["versions"][0].clone();
    other["name"] = "v2".into();
    other["storage"] = false.into();
    body["spec"]["versions"].as_array_mut().unwrap().push(other);
    body["spec"]["conversion"] = json!({
        "strategy": "Webhook",
        "webhook": {
            "clientConfig": { "url": "https://127.0.0.1:1/convert" },
            "conversionReviewVersions": ["v1"],
        },
    });
    establish(&world, body).await;
    for (version, wanted) in [("v1", 200), ("v2", 404)] {
        let path = format!("/apis/example.com/{version}/namespaces/default/widgets");
        let (code, answer) = world.send("GET", &path, Value::Null).await;
        assert_eq!(code, wanted, "{answer}");
    }
    world.stop().await;
}

#[tokio::test]
async fn bad_definitions_are_refused() {
    let world = World::start().await;
    let cases: [(&str, Value, &str); 4] = [
        (
            "/metadata/name",
            json!("other"),
            "must be spec.names.plural",
        ),
        (
            "/spec/scope",
            json!("Global"),
            "supported values: \"Cluster\", \"Namespaced\"",
        ),
        (
            "/spec/versions/0/storage",
            json!(false),
            "exactly one version marked as storage",
        ),
        (
            "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/color",
            json!({ "enum": ["red"] }),
            "type: Required value: must not be empty for specified object fields",
        ),
    ];
    for (pointer, value, part) in cases {
        let mut body = definition();
        *body.pointer_mut(pointer).unwrap() = value;
        let (code, status) = world.send("POST", DEFINITIONS, body).await;
        assert_eq!(code, 422, "{pointer}");
        let message = status["message"].as_str().unwrap();
        assert!(message.contains(part), "{pointer}: {message}");
    }
    world.stop().await;
}

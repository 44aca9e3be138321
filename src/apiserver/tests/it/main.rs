//! The server as a client in the same process sees it, on a real store.

#![allow(clippy::unwrap_used, reason = "tests")]

mod admission;
mod custom;
mod definitions;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use apiserver::access::User;
use apiserver::{ApiServer, Body, Config, Deps, InProcess};
use base::Shutdown;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::ServiceExt;

struct World {
    server: ApiServer,
    client: InProcess,
    stop: Shutdown,
    task: tokio::task::JoinHandle<()>,
    /// `Warning:` headers of the last answer.
    warnings: std::sync::Mutex<Vec<String>>,
    _folder: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = store::sqlite::Config {
            fsync: false,
            ..store::sqlite::Config::default()
        };
        let store = store::sqlite::Sqlite::open(folder.path().join("db"), settings).unwrap();
        let (key, _) = pki::TokenKey::generate().unwrap();
        let deps = Deps::new(store, Arc::new(key));
        let config = Config::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 6443);
        let (server, task) = apiserver::build(config, deps);
        let stop = Shutdown::new();
        let task = tokio::spawn(task.run(stop.clone()));
        let world = Self {
            client: server.in_process(User::new("admin", &["system:masters"])),
            server,
            stop,
            task,
            warnings: std::sync::Mutex::default(),
            _folder: folder,
        };
        let mut namespaces = world.watch("/api/v1/namespaces?watch=1").await;
        loop {
            let event = namespaces.next().await.unwrap();
            if event["object"]["metadata"]["name"] == "default" {
                return world;
            }
        }
    }

    async fn stop(self) {
        self.stop.trigger();
        self.task.await.unwrap();
    }

    async fn send(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.send_as(&self.client, method, path, body).await
    }

    async fn send_as(
        &self,
        client: &InProcess,
        method: &str,
        path: &str,
        body: Value,
    ) -> (u16, Value) {
        let media = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let bytes = match body {
            Value::Null => Bytes::new(),
            body => body.to_string().into(),
        };
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", media)
            .body(Full::new(bytes))
            .unwrap();
        let response = client.clone().oneshot(request).await.unwrap();
        let code = response.status().as_u16();
        let warnings: Vec<String> = response
            .headers()
            .get_all("warning")
            .iter()
            .map(|warning| warning.to_str().unwrap().to_owned())
            .collect();
        *self.warnings.lock().unwrap() = warnings;
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    async fn watch(&self, path: &str) -> Watch {
        let request = http::Request::get(path)
            .body(Full::new(Bytes::new()))
            .unwrap();
        let response = self.client.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        Watch {
            body: response.into_body(),
            rest: Vec::new(),
        }
    }
}

struct Watch {
    body: Body,
    rest: Vec<u8>,
}

impl Watch {
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(Duration::from_secs(20), self.body.frame())
                .await
                .expect("an event in time")?;
            self.rest
                .extend_from_slice(frame.unwrap().data_ref().unwrap());
        }
    }
}

fn map(name: &str, value: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": name, "labels": { "v": value } },
        "data": { "k": value },
    })
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test(flavor = "multi_thread")]
async fn an_object_lives_and_is_watched() {
    let world = World::start().await;
    let mut watch = world
        .watch(&format!("{MAPS}?watch=1&labelSelector=v%3Done"))
        .await;
    let (code, created) = world.send("POST", MAPS, map("a", "one")).await;
    assert_eq!(code, 201, "{created}");
    let (code, read) = world.send("GET", &format!("{MAPS}/a"), Value::Null).await;
    assert_eq!((code, &read), (200, &created));
    let (code, again) = world.send("POST", MAPS, map("a", "one")).await;
    assert_eq!((code, &again["reason"]), (409, &json!("AlreadyExists")));

    let mut stale = created.clone();
    stale["metadata"]["resourceVersion"] = "1".into();
    let (code, conflict) = world.send("PUT", &format!("{MAPS}/a"), stale).await;
    assert_eq!((code, &conflict["reason"]), (409, &json!("Conflict")));

    let patch = json!({ "metadata": { "labels": { "v": "two" } } });
    let (code, _) = world
        .send("PATCH", &format!("{MAPS}/a"), patch.clone())
        .await;
    assert_eq!(code, 200);
    let (_, first) = world.send("GET", &format!("{MAPS}/a"), Value::Null).await;
    let (_, second) = world.send("PATCH", &format!("{MAPS}/a"), patch).await;
    assert_eq!(first, second, "a patch without effect changes nothing");

    assert_eq!(watch.next().await.unwrap()["type"], "ADDED");
    let gone = watch.next().await.unwrap();
    assert_eq!(gone["type"], "DELETED", "it ceased to match");
    assert_eq!(
        gone["object"]["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );

    let from = created["metadata"]["resourceVersion"].as_str().unwrap();
    let mut resumed = world
        .watch(&format!("{MAPS}?watch=1&resourceVersion={from}"))
        .await;
    assert_eq!(resumed.next().await.unwrap()["type"], "MODIFIED");

    let (code, deleted) = world
        .send("DELETE", &format!("{MAPS}/a"), Value::Null)
        .await;
    assert_eq!((code, &deleted["status"]), (200, &json!("Success")));
    assert_eq!(resumed.next().await.unwrap()["type"], "DELETED");
    let (code, _) = world.send("GET", &format!("{MAPS}/a"), Value::Null).await;
    assert_eq!(code, 404);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_go_on_at_their_revision() {
    let world = World::start().await;
    for name in ["a", "b", "c"] {
        assert_eq!(world.send("POST", MAPS, map(name, "x")).await.0, 201);
    }
    let (_, first) = world
        .send("GET", &format!("{MAPS}?limit=2"), Value::Null)
        .await;
    assert_eq!(first["items"].as_array().unwrap().len(), 2);
    assert_eq!(first["metadata"]["remainingItemCount"], 1);
    world
        .send("DELETE", &format!("{MAPS}/c"), Value::Null)
        .await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (code, rest) = world
        .send(
            "GET",
            &format!("{MAPS}?limit=2&continue={token}"),
            Value::Null,
        )
        .await;
    assert_eq!(code, 200, "{rest}");
    assert_eq!(rest["items"][0]["metadata"]["name"], "c", "as it was then");
    assert_eq!(
        rest["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_in_without_leave() {
    let world = World::start().await;
    let nobody = world.server.in_process(User::new("nobody", &[]));
    let (code, refused) = world
        .send_as(&nobody, "GET", &format!("{MAPS}/a"), Value::Null)
        .await;
    assert_eq!((code, &refused["reason"]), (403, &json!("Forbidden")));
    let (code, version) = world.send_as(&nobody, "GET", "/version", Value::Null).await;
    assert_eq!((code, &version["major"]), (200, &json!("1")));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_share_no_address() {
    let world = World::start().await;
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
            "spec": { "type": "NodePort", "ports": [{ "port": 80 }], "selector": { "a": "b" } },
        })
    };
    let (code, first) = world.send("POST", services, service("a")).await;
    assert_eq!(code, 201, "{first}");
    let mut second = service("b");
    second["spec"]["clusterIP"] = first["spec"]["clusterIP"].clone();
    let (code, refused) = world.send("POST", services, second.clone()).await;
    assert_eq!(code, 422, "{refused}");
    world
        .send("DELETE", &format!("{services}/a"), Value::Null)
        .await;
    let (code, second) = world.send("POST", services, second).await;
    assert_eq!(code, 201, "{second}");
    assert!(second["spec"]["ports"][0]["nodePort"].as_u64().unwrap() >= 30000);
    world.stop().await;
}

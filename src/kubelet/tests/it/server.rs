//! The node API as its clients meet it: TLS, HTTP, upgrades.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::world::World;

/// Sends one request; the connection is driven by a task of its own.
async fn send(world: &World, request: Request<Empty<Bytes>>) -> http::Response<Incoming> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(world.certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
    let name = ServerName::try_from("node").unwrap();
    let stream = connector.connect(name, stream).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await.unwrap()
}

fn get(path: &str) -> http::request::Builder {
    Request::get(path)
        .header("host", "node")
        .header("authorization", "Bearer secret")
}

async fn read(world: &World, path: &str) -> (StatusCode, String) {
    let response = send(world, get(path).body(Empty::new()).unwrap()).await;
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

async fn running(world: &World) {
    world.bind("web", json!({"containers": [{"name": "c"}]}));
    world.until_phase("web", "Running").await;
}

#[tokio::test]
async fn answers_only_who_may_ask() {
    let world = World::new().await;
    let ask = |bearer: Option<&'static str>| {
        let mut request = Request::get("/pods").header("host", "node");
        if let Some(bearer) = bearer {
            request = request.header("authorization", bearer);
        }
        send(&world, request.body(Empty::new()).unwrap())
    };
    assert_eq!(ask(None).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(
        ask(Some("Bearer wrong")).await.status(),
        StatusCode::FORBIDDEN
    );
    assert_eq!(ask(Some("Bearer secret")).await.status(), StatusCode::OK);
    world.stop().await;
}

#[tokio::test]
async fn tells_of_pods_and_figures() {
    let world = World::new().await;
    running(&world).await;
    assert_eq!(
        read(&world, "/healthz").await,
        (StatusCode::OK, "ok".into())
    );
    assert_eq!(read(&world, "/nothing").await.0, StatusCode::NOT_FOUND);
    let pods: Value = serde_json::from_str(&read(&world, "/pods").await.1).unwrap();
    assert_eq!(pods["items"][0]["status"]["phase"], "Running");
    let summary: Value = serde_json::from_str(&read(&world, "/stats/summary").await.1).unwrap();
    assert_eq!(summary["pods"][0]["containers"][0]["name"], "c");
    assert!(
        read(&world, "/metrics")
            .await
            .1
            .contains("kubelet_running_pods 1")
    );
    let resource = read(&world, "/metrics/resource").await.1;
    assert!(resource.contains("pod=\"web\""), "{resource}");
    world.stop().await;
}

#[tokio::test]
async fn follows_logs_to_their_end() {
    let world = World::new().await;
    running(&world).await;
    let path = world.log_file("web", "c");
    let write = |text: &str| {
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .unwrap();
        writeln!(file, "2026-01-01T00:00:01Z stdout F {text}").unwrap();
    };
    write("one");
    let (status, text) = read(&world, "/containerLogs/ns/web/c?tailLines=10").await;
    assert_eq!((status, text.as_str()), (StatusCode::OK, "one\n"));
    let (status, text) = read(&world, "/containerLogs/ns/web/c?previous=true").await;
    let want = "previous terminated container \"c\" in pod \"web\" not found\n";
    assert_eq!((status, text.as_str()), (StatusCode::BAD_REQUEST, want));
    assert_eq!(
        read(&world, "/containerLogs/ns/none/c").await.0,
        StatusCode::NOT_FOUND
    );

    let request = get("/containerLogs/ns/web/c?follow=true")
        .body(Empty::new())
        .unwrap();
    let mut body = send(&world, request).await.into_body();
    let mut next = async || {
        let frame = body.frame().await?.unwrap();
        Some(String::from_utf8_lossy(&frame.into_data().unwrap()).into_owned())
    };
    assert_eq!(next().await.unwrap(), "one\n");
    write("two");
    assert_eq!(next().await.unwrap(), "two\n");
    // Rotated away while it is followed.
    std::fs::rename(&path, path.with_extension("log.1")).unwrap();
    write("three");
    assert_eq!(next().await.unwrap(), "three\n");
    world.runtime.keeps_running("c");
    world.runtime.end("c", 0);
    assert_eq!(next().await, None);
    world.stop().await;
}

#[tokio::test]
async fn executes_over_a_websocket() {
    let world = World::new().await;
    running(&world).await;
    world.runtime.exec_answers(5);
    let request = get("/exec/ns/web/c?command=cat&input=1&output=1")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-protocol", "v5.channel.k8s.io")
        .body(Empty::new())
        .unwrap();
    let response = send(&world, request).await;
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Client, None).await;
    socket
        .send(Message::Binary(Bytes::from_static(b"\x00hello")))
        .await
        .unwrap();
    let echoed = socket.next().await.unwrap().unwrap();
    assert_eq!(echoed, Message::Binary(Bytes::from_static(b"\x01hello")));
    socket
        .send(Message::Binary(Bytes::from_static(b"\xff\x00")))
        .await
        .unwrap();
    let last = socket.next().await.unwrap().unwrap().into_data();
    let status: Value = serde_json::from_slice(&last[1..]).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "5");
    let refused = get("/exec/ns/web/none?command=cat&output=1")
        .body(Empty::new())
        .unwrap();
    assert_eq!(send(&world, refused).await.status(), StatusCode::NOT_FOUND);
    world.stop().await;
}

//! The server and the published Service on an API server in memory.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base::{Shutdown, Supervisor};
use client::Informers;
use client::testing::FakeApi;
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use serde_json::{Value, json};
use tokio::net::UdpSocket;

use crate::{Config, Dns, PublishConfig, Sockets, Upstreams, publish};

async fn addresses(server: SocketAddr, name: &str) -> Vec<String> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket
        .send_to(&message.to_vec().unwrap(), server)
        .await
        .unwrap();
    let mut buffer = vec![0; 4096];
    let length = socket.recv(&mut buffer).await.unwrap();
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    answer
        .answers
        .iter()
        .map(|record| record.data.to_string())
        .collect()
}

/// Asks until the answer is this one.
async fn becomes(server: SocketAddr, name: &str, wanted: &[&str]) {
    let wait = async {
        while addresses(server, name).await != wanted {
            tokio::task::yield_now().await;
        }
    };
    let done = tokio::time::timeout(Duration::from_secs(10), wait).await;
    assert!(
        done.is_ok(),
        "{name} is {:?}, not {wanted:?}",
        addresses(server, name).await
    );
}

#[tokio::test]
async fn follows_services_and_endpoints() {
    let api = FakeApi::default();
    let tasks = Arc::new(Supervisor::new(Shutdown::new()));
    let web = "/api/v1/namespaces/default/services/web";
    let slice = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/db-1";
    api.put(web, json!({"spec": {"clusterIP": "10.43.0.9"}}));
    let informers = Informers::new(api.client(), tasks.clone());
    let sockets = Sockets::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let server = sockets.local_addr().unwrap();
    let config = Config {
        sockets: vec![sockets],
        cluster_domain: "cluster.local".into(),
        upstreams: Upstreams::fixed(vec![]),
    };
    let dns = Dns::new(config, &informers).unwrap();
    tasks.spawn("dns", |stop| dns.run(stop));
    let name = "web.default.svc.cluster.local.";
    assert_eq!(addresses(server, name).await, ["10.43.0.9"]);
    api.put(web, json!({"spec": {"clusterIP": "10.43.0.8"}}));
    becomes(server, name, &["10.43.0.8"]).await;
    api.remove(web);
    becomes(server, name, &[]).await;

    api.put(
        "/api/v1/namespaces/default/services/db",
        json!({"spec": {"clusterIP": "None"}}),
    );
    let endpoints = |ip: &str| {
        json!({
            "metadata": {"labels": {"kubernetes.io/service-name": "db"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [ip], "hostname": "db-0"}],
        })
    };
    for ip in ["10.42.0.2", "10.42.0.3"] {
        api.put(slice, endpoints(ip));
        becomes(server, "db.default.svc.cluster.local.", &[ip]).await;
        becomes(server, "db-0.db.default.svc.cluster.local.", &[ip]).await;
    }
    api.remove(slice);
    becomes(server, "db-0.db.default.svc.cluster.local.", &[]).await;
    let outcome = tasks.stop(Duration::from_secs(3)).await;
    assert!(
        outcome.aborted.is_empty() && outcome.panicked.is_empty(),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn publishes_the_servers_of_all_nodes() {
    let api = FakeApi::default();
    let tasks = Arc::new(Supervisor::new(Shutdown::new()));
    let service = "/api/v1/namespaces/kube-system/services/kube-dns";
    let slice = "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices/kube-dns-karve";
    let node = |name: &str| format!("/api/v1/nodes/{name}");
    api.put(&node("a"), json!({"spec": {"podCIDR": "10.42.0.0/24"}}));
    let config = PublishConfig {
        cluster_dns: vec!["10.43.0.10".parse().unwrap()],
    };
    publish(
        config,
        &Informers::new(api.client(), tasks.clone()),
        tasks.clone(),
    );
    let created = api.until("the Service", |api| api.get(service)).await;
    assert_eq!(created["spec"]["clusterIP"], "10.43.0.10");
    assert_eq!(created["metadata"]["labels"]["k8s-app"], "kube-dns");
    let has = |servers: Value| {
        move |api: &FakeApi| {
            let slice = api.get(slice)?;
            let endpoints = slice["endpoints"].as_array()?.clone();
            let found: Vec<Value> = endpoints
                .into_iter()
                .map(|endpoint| endpoint["addresses"][0].clone())
                .collect();
            (json!(found) == servers).then_some(())
        }
    };
    api.until("one server", has(json!(["10.42.0.1"]))).await;
    api.put(&node("b"), json!({"spec": {"podCIDR": "10.42.1.0/24"}}));
    api.until("two servers", has(json!(["10.42.0.1", "10.42.1.1"])))
        .await;
    // Somebody's hand is undone.
    let mut changed = api.get(slice).unwrap();
    changed["endpoints"] = json!([]);
    api.put(slice, changed);
    api.until("two servers again", has(json!(["10.42.0.1", "10.42.1.1"])))
        .await;
    // Another cluster DNS takes over, and gives it back.
    let mut taken = api.get(service).unwrap();
    taken["spec"]["selector"] = json!({"k8s-app": "coredns"});
    api.put(service, taken);
    api.until("withdrawn", |api| api.get(slice).is_none().then_some(()))
        .await;
    api.remove(service);
    api.until("back", has(json!(["10.42.0.1", "10.42.1.1"])))
        .await;
    tasks.stop(Duration::from_secs(3)).await;
}

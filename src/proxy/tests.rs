//! Services on a real kernel: a node, pods and a machine outside, each a fresh
//! network namespace without a way out.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::{Shutdown, Supervisor};
use client::Informers;
use client::testing::FakeApi;
use ipnet::IpNet;
use linux::netlink::{LinkChange, NewLink, Route, RouteEntry};
use linux::nftables::Owner;
use linux::{netns, sysctl};
use serde_json::{Value as Json, json};

use crate::flows::forget_stale;
use crate::render::{Ruleset, State, render};
use crate::{Config, Proxy};

struct Lab {
    folder: tempfile::TempDir,
    made: Vec<PathBuf>,
}

impl Lab {
    /// `None`, with a message, when not root.
    fn new() -> Option<Self> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let uid = status
            .lines()
            .find(|line| line.starts_with("Uid:"))
            .unwrap();
        if uid.split_whitespace().nth(2) != Some("0") {
            eprintln!("skipped: needs root for network namespaces");
            return None;
        }
        let mut lab = Self {
            folder: tempfile::tempdir().unwrap(),
            made: Vec::new(),
        };
        lab.netns("node");
        lab.inside("node", || {
            sysctl::set("net/ipv4/ip_forward", "1").unwrap();
            let mut route = Route::open().unwrap();
            let up = LinkChange {
                up: Some(true),
                ..Default::default()
            };
            route.add_link("karve0", &NewLink::Bridge, &up).unwrap();
            let index = route.link("karve0").unwrap().unwrap().index;
            route
                .add_address(index, "10.42.0.1/32".parse().unwrap())
                .unwrap();
            route.set_route(&direct("10.43.0.0/16", index)).unwrap();
        });
        for (name, ip) in [("a", "10.42.0.2"), ("b", "10.42.0.3"), ("c", "10.42.0.4")] {
            lab.plug(name, ip, "10.42.0.1");
        }
        lab.plug("outside", "192.0.2.9", "192.0.2.1");
        lab.serve("a");
        lab.serve("b");
        Some(lab)
    }

    fn netns(&mut self, name: &str) {
        let path = self.path(name);
        netns::create(&path).unwrap();
        self.made.push(path);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn inside<T: Send>(&self, name: &str, job: impl FnOnce() -> T + Send) -> T {
        netns::run_in(&self.path(name), job).unwrap()
    }

    /// Joins a namespace to the node, which is its gateway.
    fn plug(&mut self, name: &str, ip: &str, gateway: &str) {
        self.netns(name);
        let netns = File::open(self.path(name)).unwrap();
        let up = LinkChange {
            up: Some(true),
            ..Default::default()
        };
        let end = format!("veth-{name}");
        self.inside("node", || {
            let mut route = Route::open().unwrap();
            let veth = NewLink::Veth {
                peer: "eth0",
                peer_mac: None,
                peer_netns: Some(netns.as_fd()),
            };
            route.add_link(&end, &veth, &up).unwrap();
            sysctl::set(&format!("net/ipv4/conf/{end}/route_localnet"), "1").unwrap();
            let index = route.link(&end).unwrap().unwrap().index;
            route
                .add_address(index, format!("{gateway}/32").parse().unwrap())
                .unwrap();
            route
                .set_route(&direct(&format!("{ip}/32"), index))
                .unwrap();
        });
        self.inside(name, || {
            let mut route = Route::open().unwrap();
            let index = route.link("eth0").unwrap().unwrap().index;
            route.set_link(index, &up).unwrap();
            route
                .add_address(index, format!("{ip}/32").parse().unwrap())
                .unwrap();
            route
                .set_route(&direct(&format!("{gateway}/32"), index))
                .unwrap();
            let via = Some(gateway.parse().unwrap());
            route
                .set_route(&RouteEntry {
                    via,
                    ..direct("0.0.0.0/0", index)
                })
                .unwrap();
        });
    }

    /// Answers on port 8080, TCP and UDP, with its own name and the caller.
    fn serve(&self, name: &str) {
        let (tcp, udp) = self.inside(name, || {
            (
                TcpListener::bind("0.0.0.0:8080").unwrap(),
                UdpSocket::bind("0.0.0.0:8080").unwrap(),
            )
        });
        let own = name.to_owned();
        std::thread::spawn(move || {
            while let Ok((mut stream, peer)) = tcp.accept() {
                let _ = write!(stream, "{own} {}", peer.ip());
            }
        });
        let own = name.to_owned();
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(own.as_bytes(), peer);
            }
        });
    }

    fn ask(&self, from: &str, to: &str) -> Result<String, ErrorKind> {
        let to: SocketAddr = to.parse().unwrap();
        self.inside(from, || {
            let ask = || -> std::io::Result<String> {
                let mut stream = TcpStream::connect_timeout(&to, Duration::from_millis(500))?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer)?;
                Ok(answer)
            };
            ask().map_err(|error| error.kind())
        })
    }

    /// Distinct answers to many questions.
    fn answers(&self, from: &str, to: &str) -> BTreeSet<String> {
        (0..24)
            .map(|_| self.ask(from, to).unwrap_or_else(|error| error.to_string()))
            .collect()
    }

    fn owner(&self) -> Owner {
        Owner::open_in(&self.path("node")).unwrap().unwrap()
    }

    fn apply(&self, owner: &mut Owner, ruleset: Ruleset) {
        owner.sync(ruleset.tables).unwrap();
        self.inside("node", || forget_stale(&ruleset.udp)).unwrap();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for path in &self.made {
            netns::delete(path).unwrap();
        }
    }
}

fn direct(to: &str, link: u32) -> RouteEntry {
    let to: IpNet = to.parse().unwrap();
    RouteEntry {
        to,
        via: None,
        link: Some(link),
        on_link: false,
        source: None,
    }
}

/// A Service at `10.43.0.<at>:80` and node port `30000 + at`, TCP and UDP.
fn service(state: &mut State, at: u8, more: Json, endpoints: &[&str]) {
    let name = format!("s{at}");
    let node_port = 30000 + u16::from(at);
    let mut spec = json!({
        "clusterIP": format!("10.43.0.{at}"),
        "ports": [
            {"name": "t", "port": 80, "protocol": "TCP", "nodePort": node_port},
            {"name": "u", "port": 80, "protocol": "UDP", "nodePort": node_port},
        ],
    });
    spec.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    let service = json!({"metadata": {"namespace": "default", "name": name}, "spec": spec});
    let slice = json!({
        "metadata": {
            "namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "ports": [
            {"name": "t", "protocol": "TCP", "port": 8080},
            {"name": "u", "protocol": "UDP", "port": 8080},
        ],
        "endpoints": endpoints.iter().map(|ip| json!({
            "addresses": [ip],
            "nodeName": if ip.starts_with("10.42.0.") { "n" } else { "m" },
        })).collect::<Vec<_>>(),
    });
    state
        .services
        .push(Arc::new(serde_json::from_value(service).unwrap()));
    state
        .slices
        .push(Arc::new(serde_json::from_value(slice).unwrap()));
}

fn state() -> State {
    State {
        node: "n".into(),
        cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
        service_cidrs: vec!["10.43.0.0/16".parse().unwrap()],
        ..State::default()
    }
}

const A: &str = "10.42.0.2";
const B: &str = "10.42.0.3";

#[test]
fn services_answer() {
    let Some(lab) = Lab::new() else { return };
    let mut state = state();
    service(&mut state, 10, json!({}), &[A, B]);
    service(
        &mut state,
        11,
        json!({"externalTrafficPolicy": "Local"}),
        &[A],
    );
    service(
        &mut state,
        12,
        json!({"sessionAffinity": "ClientIP"}),
        &[A, B],
    );
    service(&mut state, 13, json!({}), &[]);
    service(
        &mut state,
        14,
        json!({"internalTrafficPolicy": "Local"}),
        &["10.42.1.2"],
    );
    service(
        &mut state,
        15,
        json!({"externalIPs": ["203.0.113.5"]}),
        &[B],
    );
    lab.apply(&mut lab.owner(), render(&state));

    let both = |client: &str| BTreeSet::from([format!("a {client}"), format!("b {client}")]);
    let only = |answer: &str| BTreeSet::from([answer.to_owned()]);
    assert_eq!(
        lab.answers("c", "10.43.0.10:80"),
        both("10.42.0.4"),
        "pod to ClusterIP"
    );
    assert_eq!(
        lab.answers("node", "10.43.0.10:80"),
        both("10.42.0.1"),
        "node to ClusterIP"
    );
    assert_eq!(
        lab.answers("outside", "192.0.2.1:30010"),
        both("10.42.0.1"),
        "node port"
    );
    assert_eq!(
        lab.answers("c", "192.0.2.1:30010"),
        both("10.42.0.1"),
        "node port from a pod"
    );
    assert_eq!(
        lab.answers("node", "127.0.0.1:30010"),
        both("10.42.0.1"),
        "on loopback"
    );
    assert_eq!(
        lab.answers("outside", "192.0.2.1:30011"),
        only("a 192.0.2.9"),
        "keeps the client"
    );
    assert_eq!(
        lab.answers("c", "203.0.113.5:80"),
        only("b 10.42.0.1"),
        "external address"
    );
    assert_eq!(
        lab.answers("a", "10.43.0.11:80"),
        only("a 10.42.0.1"),
        "to itself"
    );

    let first = lab.ask("c", "10.43.0.12:80").unwrap();
    assert_eq!(lab.answers("c", "10.43.0.12:80"), only(&first), "sticks");
    assert_eq!(
        lab.answers("c", "192.0.2.1:30012").len(),
        1,
        "sticks by node port"
    );

    for from in ["c", "node"] {
        for (to, what) in [
            ("10.43.0.13:80", "no endpoints"),
            ("192.0.2.1:30013", "no endpoints by node port"),
            ("10.43.0.10:81", "no such port"),
        ] {
            let refused = Err(ErrorKind::ConnectionRefused);
            assert_eq!(lab.ask(from, to), refused, "{what} from {from}");
        }
    }
    assert_eq!(
        lab.ask("c", "10.43.0.14:80"),
        Err(ErrorKind::TimedOut),
        "endpoints elsewhere"
    );
    assert_eq!(
        lab.ask("c", "10.43.99.99:80"),
        Err(ErrorKind::TimedOut),
        "nobody's ClusterIP"
    );
}

#[test]
fn udp_flows_leave_endpoints_that_are_gone() {
    let Some(lab) = Lab::new() else { return };
    let mut owner = lab.owner();
    let with = |endpoints: &[&str]| {
        let mut state = state();
        service(&mut state, 10, json!({}), endpoints);
        render(&state)
    };
    lab.apply(&mut owner, with(&[A]));
    for (from, to) in [("c", "10.43.0.10:80"), ("outside", "192.0.2.1:30010")] {
        lab.apply(&mut owner, with(&[A]));
        let socket = lab.inside(from, || UdpSocket::bind("0.0.0.0:0").unwrap());
        socket
            .set_read_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        let ask = || {
            let mut answer = [0; 16];
            socket.send_to(b"?", to).unwrap();
            let (length, _) = socket.recv_from(&mut answer).unwrap();
            String::from_utf8(answer[..length].to_vec()).unwrap()
        };
        assert_eq!(ask(), "a");
        lab.apply(&mut owner, with(&[A, B]));
        assert_eq!(ask(), "a", "the flow stays with an endpoint that stays");
        lab.apply(&mut owner, with(&[B]));
        assert_eq!(ask(), "b");
    }
}

#[test]
fn rules_are_replaced_without_a_gap() {
    let Some(lab) = Lab::new() else { return };
    let mut first = state();
    service(&mut first, 10, json!({}), &[A]);
    let mut second = state();
    for at in 10..60 {
        service(
            &mut second,
            at,
            json!({"sessionAffinity": "ClientIP"}),
            &[A, B],
        );
    }
    lab.apply(&mut lab.owner(), render(&first));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut asked = 0;
            while !done.load(Ordering::Relaxed) {
                lab.ask("c", "10.43.0.10:80").unwrap();
                asked += 1;
            }
            asked
        });
        for _ in 0..10 {
            // As after a restart, knowing nothing.
            lab.apply(&mut lab.owner(), render(&second));
            let mut owner = lab.owner();
            lab.apply(&mut owner, render(&first));
            lab.apply(&mut owner, render(&second));
            lab.apply(&mut owner, render(&first));
        }
        done.store(true, Ordering::Relaxed);
        assert!(asking.join().unwrap() > 0);
    });
}

#[test]
fn the_kernel_takes_ipv6() {
    let Some(lab) = Lab::new() else { return };
    let mut state = state();
    let ip: IpAddr = "fd00:43::10".parse().unwrap();
    let more = json!({
        "clusterIP": ip, "clusterIPs": [ip], "sessionAffinity": "ClientIP",
        "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local",
        "externalIPs": ["2001:db8::5"],
    });
    service(&mut state, 10, more.clone(), &[]);
    let plain = json!({"clusterIP": "fd00:43::11", "clusterIPs": ["fd00:43::11"]});
    service(&mut state, 11, plain, &[]);
    for slice in &mut state.slices {
        let slice = Arc::make_mut(slice);
        slice.address_type = "IPv6".into();
        slice.endpoints = serde_json::from_value(json!([
            {"addresses": ["fd00:42::2"], "nodeName": "n"}, {"addresses": ["fd00:42:1::2"]},
        ]))
        .unwrap();
    }
    state.cluster_cidrs.push("fd00:42::/56".parse().unwrap());
    state.service_cidrs.push("fd00:43::/112".parse().unwrap());
    lab.apply(&mut lab.owner(), render(&state));
    // What people look at can be printed.
    let listing = lab.inside("node", || {
        std::process::Command::new("nft")
            .args(["list", "ruleset"])
            .output()
    });
    if let Ok(listing) = listing {
        assert!(
            listing.status.success(),
            "{}",
            String::from_utf8_lossy(&listing.stderr)
        );
        let text = String::from_utf8(listing.stdout).unwrap();
        assert!(
            text.contains("endpoint-default/s10/tcp/t/fd00.42..2/8080"),
            "{text}"
        );
    }
}

#[test]
fn follows_the_api_and_stays_when_it_ends() {
    let Some(lab) = Lab::new() else {
        return;
    };
    let api = FakeApi::default();
    let service = "/api/v1/namespaces/default/services/s10";
    let slice = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/s10";
    let publish = |endpoints: &[&str]| {
        let mut state = state();
        self::service(&mut state, 10, json!({}), endpoints);
        api.put(service, serde_json::to_value(&*state.services[0]).unwrap());
        api.put(slice, serde_json::to_value(&*state.slices[0]).unwrap());
    };
    publish(&[A]);
    lab.inside("node", || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let tasks = Arc::new(Supervisor::new(Shutdown::new()));
            let informers = Informers::new(api.client(), tasks.clone());
            let config = Config {
                node_name: "n".into(),
                cluster_cidrs: state().cluster_cidrs,
                service_cidrs: state().service_cidrs,
                min_interval: Duration::from_millis(20),
            };
            let proxy = Proxy::new(config, &informers).unwrap();
            let mut synced = proxy.synced();
            tasks.spawn("proxy", |stop| proxy.run(stop));
            synced.wait_for(|synced| *synced).await.unwrap();
            let ask = async |client: &str, wanted: Result<&str, ErrorKind>| {
                let asked = async {
                    loop {
                        let answer = lab.ask("c", client);
                        if answer.as_deref() == wanted.as_ref().copied() {
                            return;
                        }
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                };
                let done = tokio::time::timeout(Duration::from_secs(10), asked).await;
                assert!(done.is_ok(), "never {wanted:?}");
            };
            ask("10.43.0.10:80", Ok("a 10.42.0.4")).await;
            publish(&[B]);
            ask("10.43.0.10:80", Ok("b 10.42.0.4")).await;
            publish(&[]);
            ask("10.43.0.10:80", Err(ErrorKind::ConnectionRefused)).await;
            publish(&[A]);
            ask("10.43.0.10:80", Ok("a 10.42.0.4")).await;
            // Somebody reloads a firewall that begins with `flush ruleset`.
            crate::remove().unwrap();
            ask("10.43.0.10:80", Ok("a 10.42.0.4")).await;
            let outcome = tasks.stop(Duration::from_secs(3)).await;
            assert!(outcome.aborted.is_empty(), "{outcome:?}");
        });
    });
    assert_eq!(
        lab.ask("c", "10.43.0.10:80").as_deref(),
        Ok("a 10.42.0.4"),
        "rules stay"
    );
    lab.inside("node", || crate::remove().unwrap());
    assert!(lab.ask("c", "10.43.0.10:80").is_err());
    let left = lab.inside("node", || {
        linux::nftables::tables(linux::nftables::Family::Ip)
    });
    assert!(left.unwrap().is_empty());
}

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use cri::{PortMapping, Protocol};
use linux::netlink::{LinkChange, NewLink, Route, RouteEntry};
use linux::netns;

use super::*;

/// A node and its pods, each a fresh network namespace without a way out.
struct Sandbox {
    folder: tempfile::TempDir,
    made: Vec<PathBuf>,
}

impl Sandbox {
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
        let mut sandbox = Self {
            folder: tempfile::tempdir().unwrap(),
            made: Vec::new(),
        };
        sandbox.netns("node");
        Some(sandbox)
    }

    fn netns(&mut self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        netns::create(&path).unwrap();
        self.made.push(path.clone());
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a future on the node.
    fn on_node<F: Future<Output = T>, T: Send>(&self, job: impl FnOnce() -> F + Send) -> T {
        netns::run_in(&self.path("node"), || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(job())
        })
        .unwrap()
    }

    fn config(&self) -> Config {
        Config {
            pod_cidrs: vec!["10.42.3.0/24".parse().unwrap()],
            cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
            service_cidrs: vec!["10.43.0.0/16".parse().unwrap()],
            interface: "karve0".into(),
            mtu: None,
            state_dir: self.folder.path().join("state"),
        }
    }

    fn request(&mut self, name: &str) -> PodNetworkRequest {
        let netns = self.netns(name);
        PodNetworkRequest {
            sandbox: PodSandboxId(name.to_owned()),
            namespace: "default".into(),
            name: name.to_owned(),
            netns,
            port_mappings: vec![],
            ingress_bits_per_second: None,
            egress_bits_per_second: None,
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for path in &self.made {
            netns::delete(path).unwrap();
        }
    }
}

/// Answers every connection with the peer's address, until the namespace goes.
fn serve(netns: &Path, address: &str) {
    let listener = netns::run_in(netns, || TcpListener::bind(address).unwrap()).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let _ = write!(stream, "{}", peer.ip());
        }
    });
}

/// Who the server behind `address` thinks is calling.
fn ask(netns: &Path, address: &str) -> std::io::Result<String> {
    let address: SocketAddr = address.parse().unwrap();
    netns::run_in(netns, || {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })
    .unwrap()
}

#[test]
fn pods_reach_each_other_and_the_node() {
    let Some(mut sandbox) = Sandbox::new() else {
        return;
    };
    let (a, b) = (sandbox.request("a"), sandbox.request("b"));
    let config = sandbox.config();
    let node = sandbox.path("node");
    sandbox.on_node(|| async {
        let network = Network::new(config.clone()).unwrap();
        let first = network.set_up(&a).await.unwrap();
        assert_eq!(first.ips, ["10.42.3.2".parse::<IpAddr>().unwrap()]);
        assert_eq!(network.set_up(&a).await.unwrap(), first);
        assert_eq!(
            network.set_up(&b).await.unwrap().ips[0].to_string(),
            "10.42.3.3"
        );
        assert_eq!(network.status(&a.sandbox).await.unwrap(), Some(first));
    });
    serve(&a.netns, "0.0.0.0:80");
    serve(&node, "10.42.3.1:53");
    assert_eq!(ask(&b.netns, "10.42.3.2:80").unwrap(), "10.42.3.3");
    assert_eq!(ask(&b.netns, "10.42.3.1:53").unwrap(), "10.42.3.3");
    assert_eq!(ask(&node, "10.42.3.2:80").unwrap(), "10.42.3.1");
    assert_eq!(ask(&a.netns, "127.0.0.1:80").unwrap(), "127.0.0.1");

    // A restart keeps what is there; what is no longer wanted goes.
    let c = sandbox.request("c");
    sandbox.on_node(|| async {
        let later = Config {
            pod_cidrs: vec![],
            ..config.clone()
        };
        let network = Network::new(later).unwrap();
        assert_eq!(network.ready().await[0].to_string(), "10.42.3.1");
        assert_eq!(
            network.set_up(&a).await.unwrap().ips[0].to_string(),
            "10.42.3.2"
        );
        assert!(matches!(
            network.set_pod_cidrs(&["10.42.4.0/24".parse().unwrap()]),
            Err(Error::InUse { pods: 2, .. })
        ));
        network
            .retain(std::slice::from_ref(&a.sandbox))
            .await
            .unwrap();
        assert_eq!(network.status(&b.sandbox).await.unwrap(), None);
        network.tear_down(&b.sandbox).await.unwrap();
        assert_eq!(
            network.set_up(&c).await.unwrap().ips[0].to_string(),
            "10.42.3.4"
        );
    });
    assert_eq!(ask(&c.netns, "10.42.3.2:80").unwrap(), "10.42.3.4");

    sandbox.on_node(|| async {
        let network = Network::new(config.clone()).unwrap();
        network.remove().unwrap();
        let left: Vec<_> = Route::open()
            .unwrap()
            .links()
            .unwrap()
            .into_iter()
            .map(|link| link.name)
            .collect();
        assert_eq!(left, ["lo"]);
        assert!(!config.state_dir.join("allocations.json").exists());
    });
}

#[test]
fn leaves_the_cluster_masqueraded_and_answers_on_host_ports() {
    let Some(mut sandbox) = Sandbox::new() else {
        return;
    };
    let (mut a, mut b) = (sandbox.request("a"), sandbox.request("b"));
    let port = |host_port, host_ip: Option<&str>| PortMapping {
        protocol: Protocol::Tcp,
        container_port: 80,
        host_port,
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
    };
    a.port_mappings = vec![port(8080, None), port(8081, Some("127.0.0.1"))];
    b.port_mappings = vec![port(8081, Some("192.0.2.1"))];
    let (node, outside) = (sandbox.path("node"), sandbox.netns("outside"));
    // A machine next to the node.
    let mut route = Route::open_in(&node).unwrap().unwrap();
    let peer = std::fs::File::open(&outside).unwrap();
    let veth = NewLink::Veth {
        peer: "eth0",
        peer_mac: None,
        peer_netns: Some(std::os::fd::AsFd::as_fd(&peer)),
    };
    let up = LinkChange {
        up: Some(true),
        ..Default::default()
    };
    route.add_link("uplink", &veth, &up).unwrap();
    let index = route.link("uplink").unwrap().unwrap().index;
    route
        .add_address(index, "192.0.2.1/24".parse().unwrap())
        .unwrap();
    let mut route = Route::open_in(&outside).unwrap().unwrap();
    let index = route.link("eth0").unwrap().unwrap().index;
    route.set_link(index, &up).unwrap();
    route
        .add_address(index, "192.0.2.9/24".parse().unwrap())
        .unwrap();

    let config = sandbox.config();
    sandbox.on_node(|| async {
        let network = Network::new(config.clone()).unwrap();
        network.set_up(&a).await.unwrap();
        network.set_up(&b).await.unwrap();
    });
    serve(&outside, "0.0.0.0:80");
    serve(&a.netns, "0.0.0.0:80");
    serve(&b.netns, "0.0.0.0:80");
    serve(&node, "127.0.0.1:9");
    assert_eq!(
        ask(&a.netns, "192.0.2.9:80").unwrap(),
        "192.0.2.1",
        "masqueraded"
    );
    assert_eq!(
        ask(&outside, "192.0.2.1:8080").unwrap(),
        "192.0.2.9",
        "from outside"
    );
    assert_eq!(
        ask(&node, "192.0.2.1:8080").unwrap(),
        "192.0.2.1",
        "from the node"
    );
    assert_eq!(
        ask(&node, "127.0.0.1:8080").unwrap(),
        "10.42.3.1",
        "on loopback"
    );
    assert_eq!(
        ask(&node, "127.0.0.1:8081").unwrap(),
        "10.42.3.1",
        "on loopback only"
    );
    assert_eq!(
        ask(&b.netns, "192.0.2.1:8080").unwrap(),
        "10.42.3.3",
        "from another pod"
    );
    assert_eq!(
        ask(&a.netns, "192.0.2.1:8080").unwrap(),
        "10.42.3.1",
        "from itself"
    );
    assert_eq!(
        ask(&outside, "192.0.2.1:8081").unwrap(),
        "192.0.2.9",
        "on one address"
    );
    // A pod that routes loopback addresses to the node gets nowhere.
    netns::run_in(&a.netns, || {
        linux::sysctl::set("net/ipv4/conf/all/route_localnet", "1")
    })
    .unwrap()
    .unwrap();
    let mut inside = Route::open_in(&a.netns).unwrap().unwrap();
    let eth0 = inside.link("eth0").unwrap().unwrap().index;
    inside
        .delete_address(1, "127.0.0.1/8".parse().unwrap())
        .unwrap();
    let entry = RouteEntry {
        to: "127.0.0.1/32".parse().unwrap(),
        via: Some("10.42.3.1".parse().unwrap()),
        link: Some(eth0),
        on_link: false,
        source: None,
    };
    inside.set_route(&entry).unwrap();
    assert_eq!(
        ask(&a.netns, "127.0.0.1:9").unwrap_err().kind(),
        std::io::ErrorKind::TimedOut
    );

    // Somebody reloads a firewall that begins with `flush ruleset`.
    sandbox.on_node(|| async {
        let network = Network::new(config.clone()).unwrap();
        let stop = Shutdown::new();
        let flush = async {
            let mut stranger = Owner::open().unwrap();
            tokio::task::yield_now().await;
            stranger.remove(&rules::TABLES).unwrap();
            let back = async {
                while linux::nftables::tables(linux::nftables::Family::Ip)
                    .unwrap()
                    .is_empty()
                {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(5), back)
                .await
                .unwrap();
            stop.trigger();
        };
        tokio::join!(network.run(stop.clone()), flush);
    });
    assert_eq!(ask(&outside, "192.0.2.1:8081").unwrap(), "192.0.2.9");

    sandbox.on_node(|| async {
        let network = Network::new(config.clone()).unwrap();
        network
            .retain(std::slice::from_ref(&a.sandbox))
            .await
            .unwrap();
    });
    assert!(
        ask(&outside, "192.0.2.1:8081").is_err(),
        "the host port went with its pod"
    );
    sandbox.on_node(|| async {
        Network::new(config.clone()).unwrap().remove().unwrap();
        assert!(
            linux::nftables::tables(linux::nftables::Family::Ip)
                .unwrap()
                .is_empty()
        );
    });
}

#[test]
fn sweeps_what_a_lost_state_file_left() {
    let Some(mut sandbox) = Sandbox::new() else {
        return;
    };
    let (a, b) = (sandbox.request("a"), sandbox.request("b"));
    let config = sandbox.config();
    sandbox.on_node(|| async {
        let network = Network::new(config.clone()).unwrap();
        network.set_up(&a).await.unwrap();
        network.set_up(&b).await.unwrap();
        std::fs::remove_file(config.state_dir.join("allocations.json")).unwrap();
        let network = Network::new(config.clone()).unwrap();
        // The same slot again, in the way of what is left of the other pod.
        assert_eq!(
            network.set_up(&b).await.unwrap().ips[0].to_string(),
            "10.42.3.2"
        );
        network
            .retain(std::slice::from_ref(&b.sandbox))
            .await
            .unwrap();
        let links = Route::open().unwrap().links().unwrap();
        let left: Vec<_> = links.into_iter().map(|link| link.name).collect();
        assert_eq!(left, ["lo", "karve0", "vethk2"]);
    });
    serve(&b.netns, "0.0.0.0:80");
    assert_eq!(
        ask(&sandbox.path("node"), "10.42.3.2:80").unwrap(),
        "10.42.3.1"
    );
}

#[test]
fn waits_for_the_pod_cidr() {
    let Some(mut sandbox) = Sandbox::new() else {
        return;
    };
    let pod = sandbox.request("a");
    let config = Config {
        pod_cidrs: vec![],
        ..sandbox.config()
    };
    sandbox.on_node(|| async {
        let network = Network::new(config).unwrap();
        assert_eq!(network.gateways(), None);
        let known = async {
            tokio::task::yield_now().await;
            let dual = [
                "10.42.9.0/24".parse().unwrap(),
                "fd00:42::/64".parse().unwrap(),
            ];
            network.set_pod_cidrs(&dual).unwrap();
        };
        let (status, ()) = tokio::join!(network.set_up(&pod), known);
        let ips: Vec<_> = status
            .unwrap()
            .ips
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(ips, ["10.42.9.2", "fd00:42::2"]);
        serve(&pod.netns, "[::]:80");
        assert_eq!(
            ask(&sandbox.path("node"), "[fd00:42::2]:80").unwrap(),
            "fd00:42::1"
        );
    });
}

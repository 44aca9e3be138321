#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use linux::netlink::Route;
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
            bridge: "karve0".into(),
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
        assert_eq!(network.ready().await[0].to_string(), "10.42.3.1/24");
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

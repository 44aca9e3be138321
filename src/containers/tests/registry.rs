//! Pulls from Debian's `docker-registry` on the loopback interface.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use containers::registries::{HostAuth, HostConfig, Mirror};
use cri::{ContainerRuntime, ErrorKind, ImageService, PullProgress, RegistryAuth};
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::{Client, Reference};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use crate::support::{Node, Tar, busybox_layer, gzip, image_config, on_node, sha};

const REGISTRY: &str = "/usr/bin/docker-registry";
/// `user:secret` by bcrypt.
const HTPASSWD: &str = "user:$2a$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n";

/// A registry of a test's own, ended with it.
struct Registry {
    child: Child,
    host: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    async fn start(node: &Node, protected: bool) -> Option<Self> {
        if !Path::new(REGISTRY).exists() {
            eprintln!("skipped: needs {REGISTRY}; apt-get install docker-registry");
            return None;
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let host = format!("127.0.0.1:{port}");
        let (data, file, users) = (
            node.path("registry"),
            node.path("registry.yml"),
            node.path("users"),
        );
        std::fs::write(&users, HTPASSWD).unwrap();
        let auth = if protected {
            format!(
                "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
                users.display()
            )
        } else {
            String::new()
        };
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: {host}\n{auth}",
            data.display()
        );
        std::fs::write(&file, config).unwrap();
        let child = Command::new(REGISTRY)
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Self {
            child,
            host: host.clone(),
        };
        crate::support::until("the registry listens", || {
            std::net::TcpStream::connect(&host).is_ok()
        })
        .await;
        Some(registry)
    }

    /// Pushes an image for this machine behind an index that names others, too.
    async fn push(
        &self,
        name: &str,
        layers: &[Vec<u8>],
        credentials: &oci_client::secrets::RegistryAuth,
    ) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = ClientConfig {
            protocol: ClientProtocol::Http,
            ..ClientConfig::default()
        };
        let client = Client::new(config);
        let tagged: Reference = format!("{}/{name}", self.host).parse().unwrap();
        client
            .auth(&tagged, credentials, oci_client::RegistryOperation::Push)
            .await
            .unwrap();
        let blob = image_config(layers);
        let mut list = Vec::new();
        for layer in layers {
            let packed = gzip(layer);
            client
                .push_blob(&tagged, packed.clone(), &sha(&packed))
                .await
                .unwrap();
            list.push(serde_json::json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": sha(&packed),
                "size": packed.len(),
            }));
        }
        client
            .push_blob(&tagged, blob.clone(), &sha(&blob))
            .await
            .unwrap();
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = serde_json::to_vec(&serde_json::json!({
            "schemaVersion": 2,
            "mediaType": kind,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": sha(&blob),
                "size": blob.len(),
            },
            "layers": list,
        }))
        .unwrap();
        let by_digest = tagged.clone_with_digest(sha(&manifest));
        let header = |kind: &str| kind.parse().unwrap();
        client
            .push_manifest_raw(&by_digest, manifest.clone(), header(kind))
            .await
            .unwrap();
        let entry = |digest: &str, size: usize, architecture: &str| {
            serde_json::json!({
                "mediaType": kind, "digest": digest, "size": size,
                "platform": { "os": "linux", "architecture": architecture },
            })
        };
        let own = if cfg!(target_arch = "aarch64") {
            "arm64"
        } else {
            "amd64"
        };
        let index = serde_json::to_vec(&serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [entry(&sha(&manifest), manifest.len(), own)],
        }))
        .unwrap();
        client
            .push_manifest_raw(
                &tagged,
                index,
                header("application/vnd.oci.image.index.v1+json"),
            )
            .await
            .unwrap();
    }
}

fn quiet() -> watch::Sender<PullProgress> {
    watch::channel(PullProgress::default()).0
}

const ANONYMOUS: oci_client::secrets::RegistryAuth = oci_client::secrets::RegistryAuth::Anonymous;

#[test]
fn images_are_pulled_and_run() {
    on_node(|mut node: Node| async move {
        let Some(registry) = Registry::start(&node, false).await else {
            return;
        };
        registry
            .push("base/busybox:v1", &[busybox_layer()], &ANONYMOUS)
            .await;
        let name = format!("{}/base/busybox:v1", registry.host);
        let (progress, seen) = watch::channel(PullProgress::default());
        let image = node.runtime.pull_image(&name, &[], progress).await.unwrap();
        assert_eq!(image.repo_tags, [name.as_str()]);
        let last = *seen.borrow();
        assert_eq!(last.total, Some(last.received));
        assert!(last.received > 100_000);
        let sandbox = node.sandbox("pulled").await;
        let (log, _) = node.script(&sandbox, &image.id, "echo pulled").await;
        assert_eq!(log, ["stdout F pulled"]);
        node.runtime.remove_pod_sandbox(&sandbox).await.unwrap();

        // By digest, from what is here and anew.
        let digest = image.repo_digests[0].clone();
        assert_eq!(
            node.runtime.image_status(&digest).await.unwrap(),
            Some(image.clone())
        );
        node.runtime.remove_image(&image.id).await.unwrap();
        let again = node
            .runtime
            .pull_image(&digest, &[], quiet())
            .await
            .unwrap();
        assert_eq!((again.id, again.repo_tags.len()), (image.id, 0));

        for (name, kind) in [
            (
                format!("{}/base/busybox:none", registry.host),
                ErrorKind::NotFound,
            ),
            (format!("{}/none:v1", registry.host), ErrorKind::NotFound),
            ("UPPER".to_owned(), ErrorKind::Invalid),
        ] {
            let error = node
                .runtime
                .pull_image(&name, &[], quiet())
                .await
                .unwrap_err();
            assert_eq!(error.kind, kind, "{error}");
        }

        // A mirror serves a registry that does not exist.
        node.config.registries.mirrors.insert(
            "absent.invalid".into(),
            Mirror {
                endpoint: vec![format!("http://{}", registry.host)],
                rewrite: [("^x/(.*)".to_owned(), "base/$1".to_owned())].into(),
            },
        );
        node.restart().await;
        let mirrored = node
            .runtime
            .pull_image("absent.invalid/x/busybox:v1", &[], quiet())
            .await
            .unwrap();
        assert_eq!(mirrored.repo_tags, ["absent.invalid/x/busybox:v1"]);
    });
}

#[test]
fn credentials_are_tried_in_turn() {
    on_node(|mut node: Node| async move {
        let Some(registry) = Registry::start(&node, true).await else {
            return;
        };
        let basic = oci_client::secrets::RegistryAuth::Basic("user".into(), "secret".into());
        registry
            .push(
                "private:v1",
                &[Tar::new().file("a", 0o644, b"a").done()],
                &basic,
            )
            .await;
        let name = format!("{}/private:v1", registry.host);
        let auth = |password: &str| RegistryAuth {
            username: "user".into(),
            password: password.into(),
            ..RegistryAuth::default()
        };
        for wrong in [vec![], vec![auth("no")]] {
            let error = node
                .runtime
                .pull_image(&name, &wrong, quiet())
                .await
                .unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unauthorized, "{error}");
            assert!(!error.message.contains("secret"));
        }
        let both = [auth("no"), auth("secret")];
        node.runtime
            .pull_image(&name, &both, quiet())
            .await
            .unwrap();
        let host = HostConfig {
            auth: Some(HostAuth {
                username: "user".into(),
                password: "secret".into(),
                ..HostAuth::default()
            }),
            ..HostConfig::default()
        };
        node.config
            .registries
            .configs
            .insert(registry.host.clone(), host);
        node.restart().await;
        node.runtime.pull_image(&name, &[], quiet()).await.unwrap();
    });
}

/// Forwards connections to `host`; the first `broken` of those that carry much
/// are cut after 200 kB.
async fn unreliable(host: String, broken: usize) -> (String, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let cut = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&cut);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = tokio::net::TcpStream::connect(&host).await.unwrap();
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                tokio::spawn(async move {
                    let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
                });
                let (mut buffer, mut sum) = ([0; 8192], 0);
                while let Ok(read) = from_server.read(&mut buffer).await {
                    sum += read;
                    if sum > 200_000 && count.load(Ordering::SeqCst) < broken {
                        count.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    if read == 0 || to_client.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, cut)
}

#[test]
fn broken_downloads_go_on() {
    on_node(|node: Node| async move {
        let Some(registry) = Registry::start(&node, false).await else {
            return;
        };
        let noise: Vec<u8> = (0..2_000_000_u32)
            .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
            .collect();
        registry
            .push(
                "big:v1",
                &[Tar::new().file("noise", 0o644, &noise).done()],
                &ANONYMOUS,
            )
            .await;
        let (address, cut) = unreliable(registry.host.clone(), 3).await;
        let name = format!("{address}/big:v1");
        let pull = node.runtime.pull_image(&name, &[], quiet());
        let image = tokio::time::timeout(Duration::from_secs(60), pull)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(image.size, noise.len() as u64);
        assert_eq!(cut.load(Ordering::SeqCst), 3);
    });
}

#[test]
fn false_blobs_are_refused() {
    on_node(|node: Node| async move {
        let Some(registry) = Registry::start(&node, false).await else {
            return;
        };
        let layer = Tar::new().file("a", 0o644, b"honest").done();
        registry
            .push("honest:v1", std::slice::from_ref(&layer), &ANONYMOUS)
            .await;
        // Someone changes the bytes in the registry's store.
        let packed = gzip(&layer);
        let digest = &sha(&packed)[7..];
        let path = node
            .path("registry/docker/registry/v2/blobs/sha256")
            .join(&digest[..2])
            .join(digest)
            .join("data");
        let mut bytes = packed.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).unwrap();
        let name = format!("{}/honest:v1", registry.host);
        node.runtime
            .pull_image(&name, &[], quiet())
            .await
            .unwrap_err();
        assert!(node.runtime.list_images().await.unwrap().is_empty());
        for folder in ["scratch", "layers", "records"] {
            assert_eq!(
                std::fs::read_dir(node.path("data/images").join(folder))
                    .unwrap()
                    .count(),
                0
            );
        }
    });
}

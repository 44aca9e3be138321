//! A runtime of a test's own, and images made in code.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use containers::registries::Registries;
use containers::{Config, Runtime};
use cri::{
    ContainerConfig, ContainerId, ContainerRuntime, ContainerState, ExitStatus, ImageService,
    PodSandboxConfig, PodSandboxId,
};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use sha2::{Digest, Sha256};

pub(crate) const WAIT: Duration = Duration::from_secs(20);
const BUSYBOX: &str = "/bin/busybox";

/// A runtime in a private mount namespace, with folders and cgroup of its own.
pub(crate) struct Node {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) config: Config,
    folder: tempfile::TempDir,
}

/// Runs a test on a fresh node and checks that nothing is left afterwards.
/// Skips, saying so, where the test cannot run.
pub(crate) fn on_node<F: Future<Output = ()>>(test: impl FnOnce(Node) -> F) {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: needs root");
    }
    if !Path::new(BUSYBOX).exists() {
        return eprintln!("skipped: needs {BUSYBOX}; apt-get install busybox-static");
    }
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).unwrap();
    // Threads of the runtime are made by this one and share its mounts.
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let cgroup_root = PathBuf::from(format!("/karve-test-{}", uuid::Uuid::new_v4().simple()));
    let config = Config {
        data_dir: folder.path().join("data"),
        run_dir: folder.path().join("run"),
        shim_exe: env!("CARGO_BIN_EXE_containers-test-shim").into(),
        cgroup_root: cgroup_root.clone(),
        registries: Registries::default(),
    };
    let place = folder.path().to_owned();
    tokio.block_on(async {
        let runtime = Runtime::open(config.clone()).await.unwrap();
        test(Node {
            runtime,
            config,
            folder,
        })
        .await;
    });
    tokio.shutdown_timeout(Duration::from_secs(5));
    let cgroups = linux::cgroup::Cgroups::detect().unwrap();
    for (_, folder) in cgroups.folders(&cgroup_root) {
        let left: Vec<_> = std::fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|e| e.file_type().unwrap().is_dir())
            .map(|e| e.path())
            .collect();
        assert_eq!(left, Vec::<PathBuf>::new(), "cgroups are left");
    }
    cgroups
        .remove(&cgroup_root, Duration::from_secs(2))
        .unwrap();
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let left: Vec<_> = mounts
        .lines()
        .filter(|l| l.contains(place.to_str().unwrap()))
        .collect();
    assert_eq!(left, Vec::<&str>::new(), "mounts are left");
}

impl Node {
    /// Starts the daemon anew, as after a crash.
    pub(crate) async fn restart(&mut self) {
        self.runtime.close().await;
        self.runtime = Runtime::open(self.config.clone()).await.unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Imports the busybox image; returns its id.
    pub(crate) async fn image(&self) -> String {
        let archive = self.path("busybox.tar");
        std::fs::write(&archive, docker_archive("busybox:test", &[busybox_layer()])).unwrap();
        self.runtime.import(&archive).await.unwrap()[0].id.clone()
    }

    pub(crate) fn pod(&self, name: &str) -> PodSandboxConfig {
        PodSandboxConfig {
            name: name.into(),
            namespace: "default".into(),
            uid: uuid::Uuid::new_v4().to_string(),
            hostname: name.into(),
            log_directory: self.path("logs").join(name),
            pid: cri::NamespaceMode::Container,
            cgroup_parent: format!("/kubepods/besteffort/pod{}", uuid::Uuid::new_v4()),
            ..PodSandboxConfig::default()
        }
    }

    pub(crate) async fn sandbox(&self, name: &str) -> PodSandboxId {
        self.runtime
            .run_pod_sandbox(&self.pod(name))
            .await
            .unwrap()
            .id
    }

    /// Creates and starts a container.
    pub(crate) async fn run(
        &self,
        sandbox: &PodSandboxId,
        config: &ContainerConfig,
    ) -> ContainerId {
        let id = self
            .runtime
            .create_container(sandbox, config)
            .await
            .unwrap();
        self.runtime.start_container(&id).await.unwrap();
        id
    }

    /// Waits for the end of a container.
    pub(crate) async fn exit(&self, id: &ContainerId) -> (ExitStatus, bool) {
        let mut events = self.runtime.events();
        let wait = async {
            loop {
                let status = self.runtime.container_status(id).await.unwrap();
                if let ContainerState::Exited {
                    exit, oom_killed, ..
                } = status.state
                {
                    return (exit, oom_killed);
                }
                events.recv().await.unwrap();
            }
        };
        tokio::time::timeout(WAIT, wait)
            .await
            .expect("the container ends")
    }

    /// Log lines without their times.
    pub(crate) async fn log(&self, id: &ContainerId) -> Vec<String> {
        let path = self.runtime.container_status(id).await.unwrap().log_path;
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines()
            .map(|l| l.split_once(' ').unwrap().1.to_owned())
            .collect()
    }

    /// Runs a shell script to its end; returns its log and exit code.
    pub(crate) async fn script(
        &self,
        sandbox: &PodSandboxId,
        image: &str,
        script: &str,
    ) -> (Vec<String>, i32) {
        let id = self.run(sandbox, &shell(image, script)).await;
        let (exit, _) = self.exit(&id).await;
        (self.log(&id).await, exit.code)
    }
}

pub(crate) fn shell(image: &str, script: &str) -> ContainerConfig {
    ContainerConfig {
        name: "main".into(),
        image: image.into(),
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        log_path: format!("main/{}.log", uuid::Uuid::new_v4()).into(),
        ..ContainerConfig::default()
    }
}

/// Waits until something holds, with a deadline.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + WAIT;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A tar under construction.
pub(crate) struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    /// An entry as it is told, without a check of the name.
    pub(crate) fn entry(
        mut self,
        kind: tar::EntryType,
        name: &str,
        link: &str,
        mode: u32,
        data: &[u8],
    ) -> Self {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(data.len() as u64);
        header.set_device_major(0).unwrap();
        header.set_device_minor(0).unwrap();
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    pub(crate) fn file(self, name: &str, mode: u32, data: &[u8]) -> Self {
        self.entry(tar::EntryType::Regular, name, "", mode, data)
    }

    pub(crate) fn dir(self, name: &str, mode: u32) -> Self {
        self.entry(tar::EntryType::Directory, name, "", mode, b"")
    }

    pub(crate) fn symlink(self, name: &str, to: &str) -> Self {
        self.entry(tar::EntryType::Symlink, name, to, 0o777, b"")
    }

    pub(crate) fn hard_link(self, name: &str, to: &str) -> Self {
        self.entry(tar::EntryType::Link, name, to, 0o755, b"")
    }

    pub(crate) fn done(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

pub(crate) fn busybox_layer() -> Vec<u8> {
    let mut layer = Tar::new()
        .dir("bin", 0o755)
        .dir("etc", 0o755)
        .dir("tmp", 0o1777)
        .file("bin/busybox", 0o755, &std::fs::read(BUSYBOX).unwrap())
        .file("bin/secret", 0o700, b"#!/bin/sh\necho secret\n")
        .file("bin/notexec", 0o644, b"text")
        .file(
            "etc/passwd",
            0o644,
            b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/srv:/bin/sh\n",
        )
        .file("etc/group", 0o644, b"root:x:0:\nweb:x:33:\nlogs:x:50:web\n");
    for name in [
        "sh", "cat", "echo", "sleep", "id", "ls", "head", "yes", "env", "tail", "hostname",
        "mount", "ps", "kill", "touch", "pwd", "grep", "dd", "stty", "mknod", "unshare", "stat",
        "ip", "tr", "readlink", "sysctl", "true", "false", "chmod", "wc",
    ] {
        layer = layer.hard_link(&format!("bin/{name}"), "bin/busybox");
    }
    layer.done()
}

pub(crate) fn sha(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    format!("sha256:{hex}")
}

/// An image config over layers.
pub(crate) fn image_config(layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|l| sha(l)).collect();
    let architecture = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    serde_json::to_vec(&serde_json::json!({
        "os": "linux",
        "architecture": architecture,
        "config": { "Env": ["PATH=/bin", "FROM_IMAGE=yes"], "Cmd": ["/bin/sh"], "WorkingDir": "" },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    }))
    .unwrap()
}

/// What `docker save` writes.
pub(crate) fn docker_archive(name: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let config = image_config(layers);
    let files: Vec<String> = (0..layers.len())
        .map(|n| format!("{n}/layer.tar"))
        .collect();
    let manifest = serde_json::to_vec(&serde_json::json!([{
        "Config": "config.json", "RepoTags": [name], "Layers": files,
    }]))
    .unwrap();
    let mut archive = Tar::new().file("config.json", 0o644, &config);
    for (file, layer) in files.iter().zip(layers) {
        archive = archive.file(file, 0o644, layer);
    }
    archive.file("manifest.json", 0o644, &manifest).done()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An OCI layout with gzip layers behind an index.
pub(crate) fn oci_archive(name: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let blob = |archive: Tar, bytes: &[u8]| {
        let path = format!("blobs/sha256/{}", &sha(bytes)[7..]);
        archive.file(&path, 0o644, bytes)
    };
    let describe = |kind: &str, bytes: &[u8]| serde_json::json!({ "mediaType": kind, "digest": sha(bytes), "size": bytes.len() });
    let config = image_config(layers);
    let mut archive = blob(Tar::new().file("oci-layout", 0o644, b"{}"), &config);
    let mut list = Vec::new();
    for layer in layers {
        let packed = gzip(layer);
        list.push(describe(
            "application/vnd.oci.image.layer.v1.tar+gzip",
            &packed,
        ));
        archive = blob(archive, &packed);
    }
    let manifest = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2,
        "config": describe("application/vnd.oci.image.config.v1+json", &config),
        "layers": list,
    }))
    .unwrap();
    archive = blob(archive, &manifest);
    let mut entry = describe("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["annotations"] = serde_json::json!({ "io.containerd.image.name": name });
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [entry] });
    archive
        .file("index.json", 0o644, &serde_json::to_vec(&index).unwrap())
        .done()
}

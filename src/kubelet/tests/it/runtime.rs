//! A runtime, an image store and a pod network that only keep books.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cri::{
    ContainerConfig, ContainerEvent, ContainerId, ContainerResources, ContainerRuntime,
    ContainerState, ContainerStats, ContainerStatus, Error, ErrorKind, ExecRequest, ExecResult,
    ExitStatus, FsUsage, Image, ImageService, NamespaceMode, PodNetwork, PodNetworkRequest,
    PodNetworkStatus, PodSandboxConfig, PodSandboxId, PodSandboxStats, PodSandboxStatus,
    PullProgress, RegistryAuth, Result, SandboxState, Streams,
};
use parking_lot::Mutex;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

#[derive(Default)]
struct Books {
    sandboxes: BTreeMap<PodSandboxId, PodSandboxStatus>,
    containers: BTreeMap<ContainerId, ContainerStatus>,
    networks: BTreeMap<PodSandboxId, IpAddr>,
    made: u32,
    /// What was asked for, in order.
    log: Vec<String>,
    /// Containers by name that end by themselves as soon as they start.
    exits: BTreeMap<String, i32>,
    /// Exit code of whatever is executed.
    exec_code: i32,
    /// Containers by name that heed no stop signal.
    deaf: Vec<String>,
}

/// The runtime; clones share its books.
#[derive(Clone)]
pub(crate) struct FakeRuntime {
    books: Arc<Mutex<Books>>,
    events: broadcast::Sender<ContainerEvent>,
}

fn now() -> i64 {
    jiff::Timestamp::now().as_nanosecond() as i64
}

fn not_found(what: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("{what} not found"))
}

impl FakeRuntime {
    pub(crate) fn new() -> Self {
        Self {
            books: Arc::default(),
            events: broadcast::Sender::new(64),
        }
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.books.lock().log.clone()
    }

    pub(crate) fn exits_at_once(&self, name: &str, code: i32) {
        self.books.lock().exits.insert(name.into(), code);
    }

    pub(crate) fn keeps_running(&self, name: &str) {
        self.books.lock().exits.remove(name);
    }

    pub(crate) fn ignores_signals(&self, name: &str) {
        self.books.lock().deaf.push(name.into());
    }

    pub(crate) fn exec_answers(&self, code: i32) {
        self.books.lock().exec_code = code;
    }

    pub(crate) fn is_empty(&self) -> bool {
        let books = self.books.lock();
        books.sandboxes.is_empty() && books.containers.is_empty() && books.networks.is_empty()
    }

    pub(crate) fn config_of(&self, name: &str) -> ContainerConfig {
        let books = self.books.lock();
        let mut all = books.containers.values().map(|run| run.config.clone());
        all.find(|config| config.name == name).unwrap()
    }

    /// Ends the running container of this name.
    pub(crate) fn end(&self, name: &str, code: i32) {
        let books = self.books.lock();
        let mut all = books.containers.values();
        let id = all
            .find(|run| run.config.name == name && run.state == ContainerState::Running)
            .unwrap()
            .id
            .clone();
        drop(books);
        self.exit(&id, code);
    }

    fn exit(&self, id: &ContainerId, code: i32) {
        let mut books = self.books.lock();
        let Some(run) = books.containers.get_mut(id) else {
            return;
        };
        if run.state != ContainerState::Running {
            return;
        }
        let exit = ExitStatus { code, signal: 0 };
        run.state = ContainerState::Exited {
            exit,
            oom_killed: false,
            message: String::new(),
        };
        run.finished_at = now();
        let event = ContainerEvent::Exited(run.sandbox.clone(), id.clone());
        drop(books);
        let _ = self.events.send(event);
    }
}

#[async_trait]
impl ContainerRuntime for FakeRuntime {
    async fn run_pod_sandbox(&self, config: &PodSandboxConfig) -> Result<PodSandboxStatus> {
        let mut books = self.books.lock();
        books.made += 1;
        books.log.push(format!("sandbox {}", config.name));
        let status = PodSandboxStatus {
            id: PodSandboxId(format!("s{}", books.made)),
            netns: (config.network == NamespaceMode::Pod).then(|| "/run/netns/x".into()),
            config: config.clone(),
            state: SandboxState::Ready,
            created_at: now(),
        };
        books.sandboxes.insert(status.id.clone(), status.clone());
        Ok(status)
    }

    async fn stop_pod_sandbox(&self, id: &PodSandboxId) -> Result<()> {
        let mut books = self.books.lock();
        books.log.push("stop sandbox".into());
        if let Some(sandbox) = books.sandboxes.get_mut(id) {
            sandbox.state = SandboxState::NotReady;
        }
        Ok(())
    }

    async fn remove_pod_sandbox(&self, id: &PodSandboxId) -> Result<()> {
        let mut books = self.books.lock();
        books.log.push("remove sandbox".into());
        books.sandboxes.remove(id);
        books.containers.retain(|_, run| run.sandbox != *id);
        Ok(())
    }

    async fn list_pod_sandboxes(&self) -> Result<Vec<PodSandboxStatus>> {
        Ok(self.books.lock().sandboxes.values().cloned().collect())
    }

    async fn update_pod_resources(&self, _: &PodSandboxId, to: &ContainerResources) -> Result<()> {
        let line = format!("limit pod {:?}", to.cpu_shares);
        self.books.lock().log.push(line);
        Ok(())
    }

    async fn create_container(
        &self,
        sandbox: &PodSandboxId,
        config: &ContainerConfig,
    ) -> Result<ContainerId> {
        let mut books = self.books.lock();
        let parent = books
            .sandboxes
            .get(sandbox)
            .ok_or_else(|| not_found("sandbox"))?;
        let log_path = parent.config.log_directory.join(&config.log_path);
        books.made += 1;
        let id = ContainerId(format!("c{}", books.made));
        let status = ContainerStatus {
            id: id.clone(),
            sandbox: sandbox.clone(),
            config: config.clone(),
            state: ContainerState::Created,
            created_at: now(),
            started_at: 0,
            finished_at: 0,
            log_path,
            image_id: config.image.clone(),
            user: Some((0, 0, vec![])),
        };
        books.containers.insert(id.clone(), status);
        Ok(id)
    }

    async fn start_container(&self, id: &ContainerId) -> Result<()> {
        let mut books = self.books.lock();
        let run = books
            .containers
            .get_mut(id)
            .ok_or_else(|| not_found("container"))?;
        run.state = ContainerState::Running;
        run.started_at = now();
        let (name, sandbox) = (run.config.name.clone(), run.sandbox.clone());
        books.log.push(format!("start {name}"));
        let code = books.exits.get(&name).copied();
        drop(books);
        let _ = self
            .events
            .send(ContainerEvent::Started(sandbox, id.clone()));
        if let Some(code) = code {
            self.exit(id, code);
        }
        Ok(())
    }

    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<()> {
        let (name, deaf) = {
            let mut books = self.books.lock();
            let Some(run) = books.containers.get(id) else {
                return Ok(());
            };
            let name = run.config.name.clone();
            let deaf = books.deaf.contains(&name);
            books
                .log
                .push(format!("stop {name} {}s", grace.as_secs_f64().round()));
            (name, deaf)
        };
        if deaf {
            tokio::time::sleep(grace).await;
        }
        self.books.lock().log.push(format!("stopped {name}"));
        self.exit(id, if deaf { 137 } else { 0 });
        Ok(())
    }

    async fn remove_container(&self, id: &ContainerId) -> Result<()> {
        self.books.lock().containers.remove(id);
        Ok(())
    }

    async fn list_containers(&self) -> Result<Vec<ContainerStatus>> {
        Ok(self.books.lock().containers.values().cloned().collect())
    }

    async fn container_status(&self, id: &ContainerId) -> Result<ContainerStatus> {
        self.books
            .lock()
            .containers
            .get(id)
            .cloned()
            .ok_or_else(|| not_found("container"))
    }

    async fn update_container_resources(
        &self,
        id: &ContainerId,
        to: &ContainerResources,
    ) -> Result<()> {
        let mut books = self.books.lock();
        let run = books.containers.get_mut(id);
        let run = run.ok_or_else(|| not_found("container"))?;
        run.config.resources = to.clone();
        let line = format!("limit {} {:?}", run.config.name, to.cpu_shares);
        books.log.push(line);
        Ok(())
    }

    /// Echoes its input to its output, then ends.
    async fn exec(&self, _: &ContainerId, request: &ExecRequest) -> Result<Streams> {
        let (stdin, mut input) = tokio::io::duplex(64);
        let (mut output, stdout) = tokio::io::duplex(64);
        let (end, exit) = oneshot::channel();
        let (resize, _) = mpsc::channel(1);
        let code = self.books.lock().exec_code;
        tokio::spawn(async move {
            tokio::io::copy(&mut input, &mut output).await.unwrap();
            drop(output);
            end.send(Ok(ExitStatus { code, signal: 0 })).ok();
        });
        Ok(Streams {
            stdin: request.stdin.then(|| Box::new(stdin) as _),
            stdout: Some(Box::new(stdout)),
            stderr: None,
            resize,
            exit,
        })
    }

    async fn attach(&self, _: &ContainerId, _: &ExecRequest) -> Result<Streams> {
        Err(Error::new(
            ErrorKind::Internal,
            "this runtime has no streams",
        ))
    }

    async fn exec_sync(
        &self,
        id: &ContainerId,
        command: &[String],
        _: Duration,
    ) -> Result<ExecResult> {
        let mut books = self.books.lock();
        let name = books
            .containers
            .get(id)
            .ok_or_else(|| not_found("container"))?
            .config
            .name
            .clone();
        books.log.push(format!("exec {name} {}", command.join(" ")));
        Ok(ExecResult {
            code: books.exec_code,
            ..Default::default()
        })
    }

    async fn container_stats(&self, _: &ContainerId) -> Result<ContainerStats> {
        Ok(ContainerStats::default())
    }

    async fn pod_sandbox_stats(&self, _: &PodSandboxId) -> Result<PodSandboxStats> {
        Ok(PodSandboxStats::default())
    }

    fn events(&self) -> broadcast::Receiver<ContainerEvent> {
        self.events.subscribe()
    }
}

#[async_trait]
impl PodNetwork for FakeRuntime {
    async fn set_up(&self, request: &PodNetworkRequest) -> Result<PodNetworkStatus> {
        let mut books = self.books.lock();
        books.made += 1;
        let ip = IpAddr::from([10, 42, 0, books.made as u8]);
        books.networks.insert(request.sandbox.clone(), ip);
        Ok(PodNetworkStatus { ips: vec![ip] })
    }

    async fn tear_down(&self, sandbox: &PodSandboxId) -> Result<()> {
        self.books.lock().networks.remove(sandbox);
        Ok(())
    }

    async fn status(&self, sandbox: &PodSandboxId) -> Result<Option<PodNetworkStatus>> {
        let ip = self.books.lock().networks.get(sandbox).copied();
        Ok(ip.map(|ip| PodNetworkStatus { ips: vec![ip] }))
    }

    async fn retain(&self, keep: &[PodSandboxId]) -> Result<()> {
        self.books.lock().networks.retain(|id, _| keep.contains(id));
        Ok(())
    }
}

/// Has one image, `present`, and can pull any that is not called `missing`.
#[derive(Clone, Default)]
pub(crate) struct FakeImages;

fn image(name: &str) -> Image {
    Image {
        id: format!("sha256:{name}"),
        repo_tags: vec![format!("docker.io/library/{name}:latest")],
        repo_digests: vec![],
        size: 7,
        uid: None,
        username: String::new(),
        pinned: false,
    }
}

#[async_trait]
impl ImageService for FakeImages {
    async fn image_status(&self, reference: &str) -> Result<Option<Image>> {
        Ok((reference == "present").then(|| image("present")))
    }

    async fn list_images(&self) -> Result<Vec<Image>> {
        Ok(vec![image("present")])
    }

    async fn pull_image(
        &self,
        reference: &str,
        _: &[RegistryAuth],
        _: watch::Sender<PullProgress>,
    ) -> Result<Image> {
        match reference {
            "missing" => Err(Error::new(ErrorKind::NotFound, "no such image: missing")),
            other => Ok(image(other)),
        }
    }

    async fn import(&self, _: &Path) -> Result<Vec<Image>> {
        Ok(vec![])
    }

    async fn remove_image(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn mount_image(&self, _: &str, dir: &Path) -> Result<PathBuf> {
        Ok(dir.join("rootfs"))
    }

    async fn image_fs_usage(&self) -> Result<FsUsage> {
        Ok(FsUsage::default())
    }
}

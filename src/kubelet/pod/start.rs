//! Starting one container.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cri::{ContainerConfig, ErrorKind, Image, Mount, NamespaceMode, PodSandboxId};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Secret};

use super::dns::{host_network_hosts_file, hostname_and_domain, hosts_file};
use super::env::{command_line, environment, service_environment};
use super::hooks;
use super::kill::Killer;
use super::observed::{container_hash, labels};
use super::plan::KillReason;
use super::resources::container_resources;
use super::sandbox::{log_directory, pod_labels};
use super::security;
use super::spec::{ephemeral_containers, format_pod, is_host_network, name, namespace, spec, uid};
use super::worker::Worker;
use crate::events::{Normal, Warning};
use crate::volumes::{MountInput, container_mounts};

/// Why a container did not start.
#[derive(Debug)]
pub(crate) struct StartError {
    /// Waiting reason in its status.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// When another attempt makes sense, if that is known.
    pub(crate) retry_after: Option<Duration>,
}

/// Another attempt after a failure that has no back-off of its own.
const RETRY: Duration = Duration::from_secs(5);

impl StartError {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            retry_after: Some(RETRY),
        }
    }
}

impl Worker {
    /// Starts a container in a sandbox, or says why not.
    pub(super) async fn start_container(
        &mut self,
        sandbox: &PodSandboxId,
        container: &Container,
    ) -> Result<(), StartError> {
        self.check_crash_loop(container)?;
        let node = self.node.clone();
        let pod = self.pod.clone();
        let fail_event = |message: &str| {
            let message = format!("Error: {message}");
            node.events
                .container(&pod, &container.name, Warning, "Failed", message);
        };
        let secrets = self.pull_secrets().await;
        let pull = node
            .puller
            .ensure(&pod, container, &secrets, &mut self.pulls, &node.events);
        let interrupted = self.inbox.clone();
        let image = tokio::select! {
            result = pull => result,
            () = super::worker::stopping(interrupted) => {
                return Err(StartError::new("ContainerCreating", ""));
            }
        };
        let image = image.map_err(|error| {
            fail_event(error.reason);
            StartError {
                reason: error.reason,
                message: error.message,
                retry_after: error.retry_after.or(Some(RETRY * 2)),
            }
        })?;
        let config = self
            .container_config(container, &image)
            .await
            .map_err(|message| {
                fail_event(&message);
                StartError::new("CreateContainerConfigError", message)
            })?;
        let created = node.runtime.create_container(sandbox, &config).await;
        let id = created.map_err(|error| {
            let message = base::Chain(&error).to_string();
            fail_event(&message);
            StartError::new("CreateContainerError", message)
        })?;
        self.track(id.clone()).await;
        node.events.container(
            &pod,
            &container.name,
            Normal,
            "Created",
            "Container created",
        );
        if let Err(error) = node.runtime.start_container(&id).await {
            let message = base::Chain(&error).to_string();
            fail_event(&message);
            self.track(id).await;
            let reason = match error.kind {
                ErrorKind::Invalid => "CreateContainerConfigError",
                _ => "RunContainerError",
            };
            // It has ended by now: the crash loop's back-off decides when to try again.
            return Err(StartError {
                reason,
                message,
                retry_after: Some(Duration::from_secs(1)),
            });
        }
        node.events.container(
            &pod,
            &container.name,
            Normal,
            "Started",
            "Container started",
        );
        let hook = container
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.post_start.as_ref());
        if let Some(hook) = hook {
            let ip = self.observed.ips.first().copied();
            let run = hooks::run(&*node.runtime, &pod, ip, container, &id, hook);
            let interrupted = self.inbox.clone();
            let result = tokio::select! {
                result = run => result,
                () = super::worker::stopping(interrupted) => Ok(()),
            };
            if let Err(message) = result {
                let reason = "FailedPostStartHook";
                node.events.container(
                    &pod,
                    &container.name,
                    Warning,
                    reason,
                    "PostStartHook failed",
                );
                let killer = Killer {
                    runtime: &*node.runtime,
                    events: &node.events,
                    pod: &pod,
                    pod_ip: ip,
                    progress: &self.kill_progress,
                };
                let why = Some("FailedPostStartHook");
                let unknown = KillReason::Unknown;
                if let Err(error) = killer
                    .kill(&id, &container.name, why, unknown, None, None)
                    .await
                {
                    tracing::info!(container = container.name, error = %base::Chain(&error),
                        "stopping the container after its failed postStart hook");
                }
                self.track(id).await;
                return Err(StartError::new("PostStartHookError", message));
            }
        }
        self.track(id).await;
        Ok(())
    }

    /// Refuses to start a container that keeps failing before its time has come.
    fn check_crash_loop(&mut self, container: &Container) -> Result<(), StartError> {
        let Some(last) = self.observed.latest_exited(&container.name) else {
            return Ok(());
        };
        let finished = Timestamp::from_nanosecond(i128::from(last.finished_at)).unwrap_or_default();
        let key = format!("{}/{}", container.name, container_hash(container));
        let now = Timestamp::now();
        if let Some((left, delay)) = self.crashes.remaining(&key, finished, now) {
            self.node.events.container(
                &self.pod,
                &container.name,
                Warning,
                "BackOff",
                format!(
                    "Back-off restarting failed container {} in pod {}",
                    container.name,
                    format_pod(&self.pod)
                ),
            );
            return Err(StartError {
                reason: "CrashLoopBackOff",
                message: format!(
                    "back-off {} restarting failed container={} pod={}",
                    super::go_duration(delay),
                    container.name,
                    format_pod(&self.pod)
                ),
                retry_after: Some(left),
            });
        }
        self.crashes.next(&key, finished, now);
        Ok(())
    }

    pub(super) async fn pull_secrets(&self) -> Vec<Arc<Secret>> {
        let mut found = Vec::new();
        let mut missing = Vec::new();
        for reference in spec(&self.pod).image_pull_secrets.iter().flatten() {
            let handle = self
                .node
                .secrets
                .acquire(namespace(&self.pod), &reference.name);
            match handle.get().await {
                Ok(Some(secret)) => found.push(secret),
                Ok(None) | Err(_) => missing.push(reference.name.as_str()),
            }
        }
        if !missing.is_empty() {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may \
                 not succeed.",
                missing.join(", ")
            );
            let reason = "FailedToRetrieveImagePullSecret";
            self.node.events.pod(&self.pod, Warning, reason, message);
        }
        found
    }

    /// Everything a container is made from.
    async fn container_config(
        &mut self,
        container: &Container,
        image: &Image,
    ) -> Result<ContainerConfig, String> {
        let node = self.node.clone();
        let pod = self.pod.clone();
        node.services.synced().await;
        let services = service_environment(&pod, &node.services.list());
        let sources = self.sources().await?;
        let allocatable = node.allocatable();
        let fields = self.fields(&allocatable);
        let envs = environment(&pod, container, &sources, &services, fields)?;
        let (command, args) = command_line(container, &envs);
        let security = security::effective(
            &pod,
            container,
            image,
            &node.config.root_dir.join("seccomp"),
        )?;
        let attempt = self.next_attempt(&container.name);

        let pod_dir = self.pod_dir();
        let hosts = self.hosts_file_content();
        let volumes = self.volumes.clone();
        let (owned, env) = (container.clone(), envs.clone());
        let read_only_root = security.readonly_rootfs;
        let logs = log_directory(&node.config.log_dir, &pod).join(&container.name);
        let work = move || -> Result<_, String> {
            fs::create_dir_all(&logs).map_err(|error| {
                format!(
                    "create container log directory for container {} failed: {error}",
                    owned.name
                )
            })?;
            let hosts_file = write_hosts(&pod_dir, hosts)?;
            let mut mounts = container_mounts(&MountInput {
                pod_dir: &pod_dir,
                container: &owned,
                volumes: &volumes,
                env: &env,
                hosts_file: hosts_file.as_deref(),
                read_only_root,
            })?;
            let message = termination_file(&pod_dir, &owned)?;
            mounts.extend(message.iter().map(|(host, inside)| Mount {
                host_path: host.clone(),
                container_path: inside.clone(),
                ..Default::default()
            }));
            Ok((mounts, message.map(|(host, _)| host)))
        };
        let result = tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| error.to_string())?;
        let (mounts, message_file) = result?;

        let mut own_labels = pod_labels(&pod);
        own_labels.insert(labels::CONTAINER_NAME.into(), container.name.clone());
        let mut annotations = std::collections::BTreeMap::new();
        annotations.insert(labels::CONTAINER_HASH.into(), container_hash(container));
        let requested = container.image.clone().unwrap_or_default();
        let shown = image.repo_tags.first().cloned().unwrap_or(requested);
        annotations.insert(labels::IMAGE.into(), shown);
        let reference = image.repo_digests.first().unwrap_or(&image.id).clone();
        annotations.insert(labels::IMAGE_REF.into(), reference);
        if let Some(file) = message_file {
            annotations.insert(labels::TERMINATION_PATH.into(), file.display().to_string());
        }
        let policy = container.termination_message_policy.clone();
        annotations.insert(
            labels::TERMINATION_POLICY.into(),
            policy.unwrap_or_default(),
        );
        let mut resources = container_resources(&pod, container, node.memory_capacity);
        resources.oom_score_adj = resources
            .oom_score_adj
            .map(|score| score.max(node.least_oom_score));
        let stop_signal = container
            .lifecycle
            .as_ref()
            .and_then(|l| l.stop_signal.clone());
        Ok(ContainerConfig {
            name: container.name.clone(),
            attempt,
            image: image.id.clone(),
            command,
            args,
            working_dir: container.working_dir.clone().unwrap_or_default(),
            envs,
            mounts,
            devices: Vec::new(),
            log_path: PathBuf::from(&container.name).join(format!("{attempt}.log")),
            stdin: container.stdin.unwrap_or(false),
            stdin_once: container.stdin_once.unwrap_or(false),
            tty: container.tty.unwrap_or(false),
            resources,
            security,
            pid: self.target_pid(container),
            stop_signal,
            log_max_size: node.config.container_log_max_size,
            log_max_files: node.config.container_log_max_files,
            labels: own_labels,
            annotations,
        })
    }

    /// Process namespace of the container an ephemeral one is aimed at.
    fn target_pid(&self, container: &Container) -> Option<NamespaceMode> {
        let mut all = ephemeral_containers(&self.pod).iter();
        let own = all.find(|ephemeral| ephemeral.name == container.name)?;
        let target = own
            .target_container_name
            .as_deref()
            .filter(|name| !name.is_empty())?;
        self.observed
            .latest(target)
            .map(|run| NamespaceMode::Target(run.id.clone()))
    }

    /// Number of this run: one past the last known, in the runtime or by its log.
    fn next_attempt(&self, container: &str) -> u32 {
        let runs = self
            .observed
            .containers
            .iter()
            .filter(|run| run.config.name == container);
        if let Some(last) = runs.map(|run| run.config.attempt).max() {
            return last + 1;
        }
        let logs = log_directory(&self.node.config.log_dir, &self.pod).join(container);
        let names = fs::read_dir(logs).into_iter().flatten().flatten();
        let numbers = names.filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .split('.')
                .next()?
                .parse::<u32>()
                .ok()
        });
        numbers.max().map_or(0, |last| last + 1)
    }

    fn hosts_file_content(&self) -> Option<String> {
        let aliases = spec(&self.pod).host_aliases.clone().unwrap_or_default();
        if is_host_network(&self.pod) {
            let host = fs::read_to_string("/etc/hosts").ok()?;
            return Some(host_network_hosts_file(&host, &aliases));
        }
        let (hostname, domain) = hostname_and_domain(&self.pod, &self.node.config.cluster_domain);
        Some(hosts_file(&self.observed.ips, &hostname, &domain, &aliases))
    }

    /// `ROOT/pods/UID`.
    pub(super) fn pod_dir(&self) -> PathBuf {
        self.node.config.root_dir.join("pods").join(uid(&self.pod))
    }
}

fn write_hosts(pod_dir: &Path, content: Option<String>) -> Result<Option<PathBuf>, String> {
    let Some(content) = content else {
        return Ok(None);
    };
    let path = pod_dir.join("etc-hosts");
    fs::create_dir_all(pod_dir)
        .and_then(|()| match fs::read_to_string(&path) {
            // It is mounted into running containers: rewrite it only if need be.
            Ok(known) if known == content => Ok(()),
            _ => fs::write(&path, content),
        })
        .map_err(|error| format!("writing {path:?}: {error}"))?;
    Ok(Some(path))
}

/// A fresh file for the termination message, and where it goes in the container.
fn termination_file(
    pod_dir: &Path,
    container: &Container,
) -> Result<Option<(PathBuf, PathBuf)>, String> {
    let inside = container
        .termination_message_path
        .as_deref()
        .unwrap_or("/dev/termination-log");
    if inside.is_empty() {
        return Ok(None);
    }
    let dir = pod_dir.join("containers").join(&container.name);
    let path = dir.join(format!("{:08x}", fastrand::u32(..)));
    let make = || -> std::io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        fs::create_dir_all(&dir)?;
        fs::write(&path, "")?;
        // The container's user may be anyone.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))
    };
    make().map_err(|error| format!("making the termination message file {path:?}: {error}"))?;
    Ok(Some((path, inside.into())))
}

/// Removes the logs of one run of a container, rotated ones as well.
pub(crate) fn remove_logs(path: &Path) {
    let (Some(dir), Some(file)) = (
        path.parent(),
        path.file_name().and_then(|name| name.to_str()),
    ) else {
        return;
    };
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let own = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with(file));
        if own && let Err(error) = fs::remove_file(entry.path()) {
            tracing::debug!(path = %entry.path().display(), %error, "removing an old log");
        }
    }
}

/// Name of a pod for logs.
pub(crate) fn shown(pod: &k8s_openapi::api::core::v1::Pod) -> String {
    format!("{}/{}", namespace(pod), name(pod))
}

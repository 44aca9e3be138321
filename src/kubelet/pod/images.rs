//! Having an image when a container starts: pull policies, credentials and
//! back-off.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cri::{ErrorKind, Image, ImageService, PullProgress, RegistryAuth};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use serde::Deserialize;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use super::backoff::{KeyedBackoff, go_duration};
use crate::events::{Normal, Recorder, Warning};

/// Pulls that may run at once on a node.
const PARALLEL_PULLS: usize = 2;

/// Why a container has no image: the waiting reason, a message and when to try again.
#[derive(Debug)]
pub(crate) struct ImageError {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) retry_after: Option<Duration>,
}

/// Pulls images for every pod of a node.
pub(crate) struct Puller {
    images: Arc<dyn ImageService>,
    slots: Semaphore,
    /// Told when an image has been pulled.
    changed: Arc<Notify>,
}

/// What one pod remembers about its pulls.
#[derive(Debug)]
pub(crate) struct PullState {
    backoff: KeyedBackoff,
    errors: HashMap<String, String>,
}

impl Default for PullState {
    fn default() -> Self {
        let backoff = KeyedBackoff::new(Duration::from_secs(10), Duration::from_secs(300));
        Self {
            backoff,
            errors: HashMap::new(),
        }
    }
}

impl Puller {
    pub(crate) fn new(images: Arc<dyn ImageService>, changed: Arc<Notify>) -> Self {
        Self {
            images,
            slots: Semaphore::new(PARALLEL_PULLS),
            changed,
        }
    }

    /// The image of a container (or, without a name, of a volume), pulled if its
    /// policy says so.
    pub(crate) async fn ensure(
        &self,
        pod: &Pod,
        container: &Container,
        secrets: &[Arc<Secret>],
        state: &mut PullState,
        events: &Recorder,
    ) -> Result<Image, ImageError> {
        let requested = container.image.as_deref().unwrap_or_default();
        let fail = |reason, message| {
            Err(ImageError {
                reason,
                message,
                retry_after: None,
            })
        };
        let record = |kind, reason, message: String| match container.name.as_str() {
            // An image volume belongs to the pod as a whole.
            "" => events.pod(pod, kind, reason, message),
            name => events.container(pod, name, kind, reason, message),
        };
        if let Err(why) = check_reference(requested) {
            let message = format!("Failed to apply default image tag {requested:?}: {why}");
            record(Warning, "InspectFailed", message.clone());
            return fail("InvalidImageName", message);
        }
        let policy = container
            .image_pull_policy
            .as_deref()
            .unwrap_or("IfNotPresent");
        if policy != "Always" {
            match self.images.image_status(requested).await {
                Ok(Some(image)) => {
                    let text = "already present on machine and can be accessed by the pod";
                    record(
                        Normal,
                        "Pulled",
                        format!("Container image {requested:?} {text}"),
                    );
                    return Ok(image);
                }
                Ok(None) if policy == "Never" => {
                    let message = format!(
                        "Container image {requested:?} is not present with pull policy of Never"
                    );
                    record(Warning, "ErrImageNeverPull", message.clone());
                    return fail("ErrImageNeverPull", message);
                }
                Ok(None) => {}
                Err(error) => {
                    let error = base::Chain(&error);
                    let message = format!("Failed to inspect image {requested:?}: {error}");
                    record(Warning, "InspectFailed", message.clone());
                    return fail("ImageInspectError", message);
                }
            }
        }
        let now = Timestamp::now();
        let last = state.backoff.updated(requested);
        if let Some((left, _)) = last.and_then(|last| state.backoff.remaining(requested, last, now))
        {
            let mut message = format!("Back-off pulling image {requested:?}");
            record(Normal, "BackOff", message.clone());
            if let Some(error) = state.errors.get(requested) {
                message = format!("{message}: {error}");
            }
            let retry_after = Some(left);
            return Err(ImageError {
                reason: "ImagePullBackOff",
                message,
                retry_after,
            });
        }
        record(Normal, "Pulling", format!("Pulling image {requested:?}"));
        let asked = Instant::now();
        let auth = credentials(requested, secrets);
        let (progress, _) = watch::channel(PullProgress::default());
        let slot = self.slots.acquire().await;
        let began = Instant::now();
        let result = self.images.pull_image(requested, &auth, progress).await;
        drop(slot);
        match result {
            Ok(image) => {
                let (took, waited) = (began.elapsed(), asked.elapsed());
                let message = format!(
                    "Successfully pulled image {requested:?} in {} ({} including waiting). Image \
                     size: {} bytes.",
                    go_duration(took),
                    go_duration(waited),
                    image.size
                );
                record(Normal, "Pulled", message);
                self.changed.notify_one();
                state.errors.remove(requested);
                state.backoff.reset(requested);
                Ok(image)
            }
            Err(error) => {
                let reason = match error.kind {
                    ErrorKind::Invalid => "InvalidImageName",
                    _ => "ErrImagePull",
                };
                let text = base::Chain(&error).to_string();
                record(
                    Warning,
                    "Failed",
                    format!("Failed to pull image {requested:?}: {text}"),
                );
                let now = Timestamp::now();
                state.backoff.next(requested, now, now);
                state
                    .errors
                    .insert(requested.to_owned(), format!("{reason}: {text}"));
                let left = state.backoff.remaining(requested, now, now);
                // The first look after the failure turns it into a back-off.
                let soon = left.map(|(left, _)| left.min(Duration::from_secs(1)));
                Err(ImageError {
                    reason,
                    message: text,
                    retry_after: soon,
                })
            }
        }
    }
}

/// Whether a reference is well formed, as far as a node must know before it asks.
fn check_reference(reference: &str) -> Result<(), String> {
    let invalid = || {
        Err(format!(
            "couldn't parse image name {reference:?}: invalid reference format"
        ))
    };
    let (rest, digest) = match reference.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (reference, None),
    };
    if digest.is_some_and(|digest| {
        !digest.split_once(':').is_some_and(|(algorithm, hex)| {
            !algorithm.is_empty() && hex.len() >= 32 && hex.bytes().all(|b| b.is_ascii_hexdigit())
        })
    }) {
        return invalid();
    }
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if tag.is_some_and(|tag| {
        !tag.starts_with(word)
            || tag.len() > 128
            || !tag.chars().all(|c| word(c) || c == '.' || c == '-')
    }) {
        return invalid();
    }
    let mut parts: Vec<&str> = name.split('/').collect();
    let is_host = |part: &str| part.contains(['.', ':']) || part == "localhost";
    if parts.len() > 1 && is_host(parts[0]) {
        parts.remove(0);
    }
    let component = |part: &str| {
        let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        part.starts_with(lower)
            && part.ends_with(lower)
            && part
                .chars()
                .all(|c| lower(c) || matches!(c, '.' | '_' | '-'))
    };
    match parts.iter().all(|part| component(part)) {
        true => Ok(()),
        false => invalid(),
    }
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: HashMap<String, DockerAuth>,
}

#[derive(Deserialize)]
struct DockerAuth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "registrytoken")]
    registry_token: String,
}

/// Credentials of pull secrets that are for an image's registry, the most
/// specific first.
fn credentials(reference: &str, secrets: &[Arc<Secret>]) -> Vec<RegistryAuth> {
    let repository = repository(reference);
    let mut found = Vec::new();
    for secret in secrets {
        let data = |key: &str| secret.data.as_ref().and_then(|data| data.get(key));
        let auths = if let Some(json) = data(".dockerconfigjson") {
            serde_json::from_slice::<DockerConfig>(&json.0).map(|config| config.auths)
        } else if let Some(json) = data(".dockercfg") {
            serde_json::from_slice::<HashMap<String, DockerAuth>>(&json.0)
        } else {
            continue;
        };
        let Ok(auths) = auths else {
            let name = secret.metadata.name.as_deref().unwrap_or_default();
            tracing::info!(
                secret = name,
                "ignoring a pull secret that is not valid JSON"
            );
            continue;
        };
        for (key, auth) in auths {
            if let Some(weight) = matches(&key, &repository) {
                found.push((weight, auth.into()));
            }
        }
    }
    found.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
    found.into_iter().map(|(_, auth)| auth).collect()
}

impl From<DockerAuth> for RegistryAuth {
    fn from(auth: DockerAuth) -> Self {
        let decoded = STANDARD.decode(auth.auth.trim()).ok();
        let pair = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = pair.as_deref().and_then(|pair| pair.split_once(':'));
        let (username, password) = match pair {
            Some((username, password)) if auth.username.is_empty() => (
                username.to_owned(),
                password.trim_end_matches('\0').to_owned(),
            ),
            _ => (auth.username, auth.password),
        };
        Self {
            username,
            password,
            registry_token: auth.registry_token,
        }
    }
}

/// Registry and path of an image, without tag and digest.
fn repository(reference: &str) -> String {
    let name = reference.split('@').next().unwrap_or_default();
    let name = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    };
    match name.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    }
}

/// How specific a key of a docker config is for a repository; `None` if it is
/// for another one.
fn matches(key: &str, repository: &str) -> Option<usize> {
    let key = key
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    let key = key.trim_end_matches('/');
    let key = key
        .strip_suffix("/v1")
        .or_else(|| key.strip_suffix("/v2"))
        .unwrap_or(key);
    let key = key.replacen("index.docker.io", "docker.io", 1);
    let (key_host, key_path) = key.split_once('/').unwrap_or((&key, ""));
    let (host, path) = repository.split_once('/').unwrap_or((repository, ""));
    let mut labels = host.split('.');
    let mut key_labels = key_host.split('.');
    loop {
        match (key_labels.next(), labels.next()) {
            (None, None) => break,
            (Some(pattern), Some(label)) if glob(pattern, label) => {}
            _ => return None,
        }
    }
    let fits = key_path.is_empty()
        || path == key_path
        || path
            .strip_prefix(key_path)
            .is_some_and(|rest| rest.starts_with('/'));
    fits.then_some(key.len())
}

/// Matches `*` within one label.
fn glob(pattern: &str, label: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == label,
        Some((before, after)) => label.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).any(|at| rest.is_char_boundary(at) && glob(after, &rest[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn references() {
        let check = |reference: &str, want: bool| {
            assert_eq!(check_reference(reference).is_ok(), want, "{reference}");
        };
        check("nginx", true);
        check("nginx:1.27", true);
        check("localhost:5000/a/b_c:v1", true);
        check(
            "registry.example/x@sha256:0123456789abcdef0123456789abcdef",
            true,
        );
        check("", false);
        check("Nginx", false);
        check("nginx:", false);
        check("a b", false);
        check("INVALID IMAGE", false);
        check("x@sha256:zz", false);
        check("a//b", false);
    }

    #[test]
    fn picks_credentials_by_registry() {
        let config = json!({"auths": {
            "https://index.docker.io/v1/": {"username": "hub", "password": "1"},
            "r.example": {"auth": STANDARD.encode("u:p:q")},
            "r.example/team": {"username": "team", "password": "2"},
            "*.wild.example": {"username": "wild", "password": "3"},
        }});
        let secret: Secret = serde_json::from_value(json!({"metadata": {},
            "data": {".dockerconfigjson": STANDARD.encode(config.to_string())}}))
        .unwrap();
        let check = |reference: &str, want: &str| {
            let got = credentials(reference, &[Arc::new(secret.clone())]);
            let got: Vec<_> = got
                .iter()
                .map(|a| format!("{}={}", a.username, a.password))
                .collect();
            assert_eq!(got.join(" "), want, "{reference}");
        };
        check("nginx:1", "hub=1");
        check("r.example/x", "u=p:q");
        check("r.example/team/x:1", "team=2 u=p:q");
        check("r.example/teams/x:1", "u=p:q");
        check("a.wild.example/x", "wild=3");
        check("a.b.wild.example/x", "");
    }
}

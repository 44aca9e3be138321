//! Pulling from a registry.
//!
//! A pull goes through the endpoints of the registry (mirrors first) and, at
//! each, through the credentials, until one serves the manifest. Passing
//! faults are tried again with back-off; a broken download goes on where it
//! broke. Nothing is believed: every manifest, config and layer is checked
//! against its digest, and no download exceeds the size its manifest gave.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::Backoff;
use cri::{ErrorKind, PullProgress, RegistryAuth};
use futures::{StreamExt, TryStreamExt};
use oci_client::client::BlobResponse;
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

use super::config::ImageConfig;
use super::endpoint::{Endpoint, Login, endpoints};
use super::import::{Descriptor, Document, MAX_DOCUMENT, choose};
use super::layer::Hashing;
use super::reference::Reference;
use super::registries::Registries;
use super::store::{Announce, Store};
use super::{digest, digits, layer};
use crate::error::{Context, at, blocking, internal, invalid};

/// Tries of one request.
const TRIES: u32 = 4;
/// Layers downloaded at once.
const DOWNLOADS: usize = 3;
const ACCEPTED: [&str; 4] = [
    manifest::OCI_IMAGE_MEDIA_TYPE,
    manifest::OCI_IMAGE_INDEX_MEDIA_TYPE,
    manifest::IMAGE_MANIFEST_MEDIA_TYPE,
    manifest::IMAGE_MANIFEST_LIST_MEDIA_TYPE,
];

/// Pulls an image; returns its id.
pub(crate) async fn pull(
    store: &Arc<Store>,
    registries: &Registries,
    reference: &str,
    auth: &[RegistryAuth],
    progress: &watch::Sender<PullProgress>,
) -> cri::Result<String> {
    let reference = Reference::parse(reference).map_err(|error| invalid(error.to_string()))?;
    let mut failure: Option<cri::Error> = None;
    for endpoint in endpoints(registries, &reference, auth)? {
        for login in &endpoint.logins {
            let attempt = Attempt {
                store,
                endpoint: &endpoint,
                login,
                progress,
            };
            match attempt.run(&reference).await {
                Ok(id) => return Ok(id),
                Err(error) => {
                    let refused = error.kind == ErrorKind::Unauthorized;
                    // What the registry itself says matters more than a mirror.
                    failure = Some(error);
                    if !refused {
                        break;
                    }
                }
            }
        }
    }
    let error = failure.unwrap_or_else(|| internal("there is no endpoint to ask"));
    Err(cri::Error {
        kind: error.kind,
        message: format!(
            "failed to pull image \"{reference}\": {}",
            base::Chain(&error)
        ),
        source: None,
    })
}

/// One endpoint with one credential.
struct Attempt<'a> {
    store: &'a Arc<Store>,
    endpoint: &'a Endpoint,
    login: &'a Login,
    progress: &'a watch::Sender<PullProgress>,
}

/// Files of one pull, removed with it.
struct Downloads(PathBuf);

impl Drop for Downloads {
    fn drop(&mut self) {
        // The scratch folder is emptied at the next start.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Attempt<'_> {
    async fn run(&self, reference: &Reference) -> cri::Result<String> {
        let (document, top_digest) = self.manifest(reference).await?;
        let config = document
            .config
            .as_ref()
            .ok_or_else(|| invalid("its manifest has no config"))?;
        if config.size > MAX_DOCUMENT {
            return Err(invalid(format!(
                "its config is larger than {MAX_DOCUMENT} bytes"
            )));
        }
        let folder = Downloads(self.store.scratch().join(layer::fresh_name()));
        at(std::fs::create_dir(&folder.0), "creating", &folder.0)?;
        let received = AtomicU64::new(0);
        let file = folder.0.join("config");
        self.blob(config, &file, &received).await?;
        let parsed = ImageConfig::parse(&at(std::fs::read(&file), "reading", &file)?)?;
        if parsed.diff_ids.len() != document.layers.len() {
            return Err(invalid("its manifest and its config differ in layers"));
        }
        let announce = Announce::new(Arc::clone(self.store), parsed);
        let missing: Vec<(usize, &Descriptor)> = document
            .layers
            .iter()
            .enumerate()
            .filter(|(index, _)| !announce.has_layer(*index))
            .collect();
        let total = config.size + missing.iter().map(|(_, layer)| layer.size).sum::<u64>();
        self.progress
            .send_modify(|progress| progress.total = Some(total));
        let received = &received;
        let mut downloads = Vec::new();
        for (index, layer) in missing {
            let file = folder.0.join(index.to_string());
            downloads.push(async move { self.blob(layer, &file, received).await });
        }
        futures::stream::iter(downloads)
            .buffer_unordered(DOWNLOADS)
            .try_collect::<Vec<()>>()
            .await?;
        let names = [
            reference.key(),
            format!("{}@{top_digest}", reference.name()),
        ];
        let layers = document.layers.len();
        blocking(move || {
            let mut announce = announce;
            for index in 0..layers {
                let file = folder.0.join(index.to_string());
                announce.layer(index, || at(File::open(&file), "opening", &file))?;
                // Disk space for the next one; absent if it was here already.
                let _ = std::fs::remove_file(&file);
            }
            announce.commit(names)
        })
        .await
    }

    /// The manifest for this machine, and the digest of what the reference names.
    async fn manifest(&self, reference: &Reference) -> cri::Result<(Document, String)> {
        let remote = self.endpoint.remote(reference);
        let bytes = self.document(&remote).await?;
        let top = digest(&bytes);
        if reference
            .digest
            .as_ref()
            .is_some_and(|expected| *expected != top)
        {
            return Err(invalid(format!("its manifest has digest {top}")));
        }
        let document = Document::parse(&bytes, "its manifest")?;
        let Some(manifests) = &document.manifests else {
            return Ok((document, top));
        };
        let chosen = choose(manifests).ok_or_else(|| {
            cri::Error::new(
                ErrorKind::NotFound,
                format!(
                    "no match for platform linux/{} in manifest",
                    super::config::architecture()
                ),
            )
        })?;
        digits(&chosen.digest)?;
        let bytes = self
            .document(&remote.clone_with_digest(chosen.digest.clone()))
            .await?;
        let actual = digest(&bytes);
        if actual != chosen.digest {
            return Err(invalid(format!(
                "manifest {} has digest {actual}",
                chosen.digest
            )));
        }
        Ok((Document::parse(&bytes, "its manifest")?, top))
    }

    async fn document(&self, remote: &oci_client::Reference) -> cri::Result<Vec<u8>> {
        let mut backoff = backoff();
        for tries in 1.. {
            let client = &self.login.client;
            let answer = client
                .pull_manifest_raw(remote, &self.login.credentials, &ACCEPTED)
                .await;
            match answer {
                Ok((bytes, _)) if bytes.len() as u64 > MAX_DOCUMENT => {
                    return Err(invalid(format!(
                        "its manifest is larger than {MAX_DOCUMENT} bytes"
                    )));
                }
                Ok((bytes, _)) => return Ok(bytes.to_vec()),
                Err(error) if tries < TRIES && is_passing(&error) => {
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                Err(error) => return Err(explain(error)),
            }
        }
        unreachable!("the last try returns")
    }

    /// Downloads a blob to `file` and checks its digest.
    async fn blob(
        &self,
        descriptor: &Descriptor,
        file: &Path,
        received: &AtomicU64,
    ) -> cri::Result<()> {
        digits(&descriptor.digest)?;
        let mut backoff = backoff();
        let mut tries = 1;
        let mut have = 0;
        loop {
            let before = have;
            match self.fetch(descriptor, file, &mut have, received).await {
                Ok(()) => break,
                Err(Fault::Passing(error)) => {
                    if have > before {
                        // Getting on, if in pieces.
                        tries = 0;
                        backoff.reset();
                    }
                    tries += 1;
                    if tries > TRIES {
                        return Err(error);
                    }
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                Err(Fault::Final(error)) => return Err(error),
            }
        }
        let (path, expected) = (file.to_owned(), descriptor.digest.clone());
        blocking(move || {
            let file = at(File::open(&path), "opening", &path)?;
            let (actual, _) = at(Hashing::new(file).finish(), "reading", &path)?;
            if actual == expected {
                Ok(())
            } else {
                Err(invalid(format!(
                    "blob {expected} came with digest {actual}"
                )))
            }
        })
        .await
    }

    /// One go at a blob, from byte `have` on.
    async fn fetch(
        &self,
        descriptor: &Descriptor,
        file: &Path,
        have: &mut u64,
        received: &AtomicU64,
    ) -> Result<(), Fault> {
        let remote = &self.endpoint.any;
        let client = &self.login.client;
        let digest = descriptor.digest.as_str();
        client
            .store_auth_if_needed(remote.resolve_registry(), &self.login.credentials)
            .await;
        let mut stream = if *have == 0 {
            client.pull_blob_stream(remote, digest).await?
        } else {
            match client
                .pull_blob_stream_partial(remote, digest, *have, None)
                .await?
            {
                BlobResponse::Partial(stream) => stream,
                BlobResponse::Full(stream) => {
                    received.fetch_sub(*have, Ordering::Relaxed);
                    *have = 0;
                    stream
                }
            }
        };
        let opened = tokio::fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(*have == 0)
            .append(*have > 0)
            .open(file)
            .await;
        let mut out = at(opened, "opening", file).map_err(Fault::Final)?;
        while let Some(chunk) = stream.next().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => {
                    at(out.flush().await, "writing", file).map_err(Fault::Final)?;
                    return Err(Fault::Passing(internal(format!(
                        "downloading blob {digest}: {error}"
                    ))));
                }
            };
            *have += chunk.len() as u64;
            if *have > descriptor.size {
                return Err(Fault::Final(invalid(format!(
                    "blob {digest} is larger than the {} bytes its manifest gives",
                    descriptor.size
                ))));
            }
            at(out.write_all(&chunk).await, "writing", file).map_err(Fault::Final)?;
            let sum = received.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            let sum = sum + chunk.len() as u64;
            self.progress
                .send_modify(|progress| progress.received = progress.received.max(sum));
        }
        at(out.flush().await, "writing", file).map_err(Fault::Final)?;
        if *have < descriptor.size {
            let message = format!("blob {digest} broke off after {have} bytes");
            return Err(Fault::Passing(internal(message)));
        }
        Ok(())
    }
}

/// Whether trying again makes sense.
enum Fault {
    Passing(cri::Error),
    Final(cri::Error),
}

impl From<OciDistributionError> for Fault {
    fn from(error: OciDistributionError) -> Self {
        if is_passing(&error) {
            Self::Passing(explain(error))
        } else {
            Self::Final(explain(error))
        }
    }
}

fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(300), Duration::from_secs(5))
}

fn is_passing(error: &OciDistributionError) -> bool {
    match error {
        OciDistributionError::RequestError(_) | OciDistributionError::IoError(_) => true,
        OciDistributionError::ServerError { code, .. } => *code >= 500 || *code == 429,
        OciDistributionError::RegistryError { envelope, .. } => envelope
            .errors
            .iter()
            .any(|error| error.code == OciErrorCode::Toomanyrequests),
        _ => false,
    }
}

fn explain(error: OciDistributionError) -> cri::Error {
    let kind = match &error {
        OciDistributionError::AuthenticationFailure(_)
        | OciDistributionError::UnauthorizedError { .. }
        | OciDistributionError::ServerError {
            code: 401 | 403, ..
        } => ErrorKind::Unauthorized,
        OciDistributionError::ImageManifestNotFoundError(_)
        | OciDistributionError::ServerError { code: 404, .. } => ErrorKind::NotFound,
        OciDistributionError::RegistryError { envelope, .. } => {
            let has = |codes: &[OciErrorCode]| {
                envelope
                    .errors
                    .iter()
                    .any(|error| codes.contains(&error.code))
            };
            if has(&[OciErrorCode::Unauthorized, OciErrorCode::Denied]) {
                ErrorKind::Unauthorized
            } else if has(&[
                OciErrorCode::ManifestUnknown,
                OciErrorCode::NameUnknown,
                OciErrorCode::NotFound,
                OciErrorCode::BlobUnknown,
            ]) {
                ErrorKind::NotFound
            } else {
                ErrorKind::Internal
            }
        }
        OciDistributionError::DigestError(_) => ErrorKind::Invalid,
        _ => ErrorKind::Internal,
    };
    match kind {
        ErrorKind::NotFound => cri::Error::with_source(kind, "not found", error),
        ErrorKind::Unauthorized => cri::Error::with_source(kind, "authorization failed", error),
        _ => cri::Error::with_source(kind, "asking the registry", error),
    }
}

/// Reads a PEM file for a client.
pub(super) fn read_pem(path: &Path) -> cri::Result<Vec<u8>> {
    std::fs::read(path).context(|| format!("reading {}", path.display()))
}

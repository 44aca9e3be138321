//! The socket through which `karve image` talks to the running daemon.
//!
//! `/run/karve/karve.sock`, for root alone. A connection carries one request
//! and any number of replies, each a JSON object on a line; the last is
//! [`Reply::Done`] or [`Reply::Failed`]. A line is at most 64 KiB.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use base::Shutdown;
use cri::{Image, ImageService};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// Where the daemon listens.
pub(crate) const SOCKET: &str = "/run/karve/karve.sock";
const MAX_LINE: u64 = 64 * 1024;
/// Connections served at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 16;

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "do")]
pub(crate) enum Request {
    /// Import an archive by its absolute path.
    Import { archive: PathBuf },
    /// Pull an image.
    Pull { reference: String },
    /// List the images.
    List,
    /// Remove a name.
    Remove { reference: String },
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "is")]
pub(crate) enum Reply {
    /// An image that was imported, pulled or listed.
    Image { image: Image },
    /// How far a pull has come, in bytes.
    Progress { received: u64, total: Option<u64> },
    /// The end.
    Done,
    /// The end, with a reason.
    Failed { error: String },
}

/// Binds the socket; a stale one is replaced.
pub(crate) fn bind(path: &Path) -> Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("creating {}", folder.display()))?;
    }
    let _ = std::fs::remove_file(path);
    let listener =
        UnixListener::bind(path).with_context(|| format!("listening on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("protecting {}", path.display()))?;
    Ok(listener)
}

/// Serves the socket until shutdown.
pub(crate) async fn serve(listener: UnixListener, images: Arc<dyn ImageService>, stop: Shutdown) {
    let mut connections = tokio::task::JoinSet::new();
    while let Some(accepted) = stop.guard(listener.accept()).await {
        while connections.try_join_next().is_some() {}
        if connections.len() >= MAX_CONNECTIONS {
            connections.join_next().await;
        }
        match accepted {
            Ok((stream, _)) => {
                let (images, stop) = (images.clone(), stop.clone());
                connections.spawn(async move {
                    if let Some(Err(error)) = stop.guard(answer(stream, images)).await {
                        tracing::debug!(%error, "control socket");
                    }
                });
            }
            Err(error) => tracing::warn!(%error, "accepting on the control socket"),
        }
    }
    connections.shutdown().await;
}

async fn answer(stream: UnixStream, images: Arc<dyn ImageService>) -> Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(MAX_LINE))
        .read_line(&mut line)
        .await?;
    let outcome = match serde_json::from_str(&line) {
        Ok(request) => carry_out(request, images.as_ref(), &mut write).await,
        Err(error) => Err(anyhow::Error::new(error).context("the request is not understood")),
    };
    let last = match outcome {
        Ok(()) => Reply::Done,
        Err(error) => Reply::Failed {
            error: format!("{error:#}"),
        },
    };
    send(&mut write, &last).await
}

async fn carry_out(
    request: Request,
    images: &dyn ImageService,
    to: &mut (impl AsyncWriteExt + Unpin),
) -> Result<()> {
    match request {
        Request::Import { archive } => {
            for image in images.import(&archive).await? {
                send(to, &Reply::Image { image }).await?;
            }
        }
        Request::Pull { reference } => {
            let (sender, mut progress) = watch::channel(cri::PullProgress::default());
            let pull = images.pull_image(&reference, &[], sender);
            tokio::pin!(pull);
            let image = loop {
                tokio::select! {
                    image = &mut pull => break image?,
                    Ok(()) = progress.changed() => {
                        let now = *progress.borrow_and_update();
                        send(to, &Reply::Progress { received: now.received, total: now.total }).await?;
                    }
                }
            };
            send(to, &Reply::Image { image }).await?;
        }
        Request::List => {
            for image in images.list_images().await? {
                send(to, &Reply::Image { image }).await?;
            }
        }
        Request::Remove { reference } => {
            if images.image_status(&reference).await?.is_none() {
                bail!("no image {reference} on this node; `karve image ls` lists them");
            }
            images.remove_image(&reference).await?;
        }
    }
    Ok(())
}

async fn send(to: &mut (impl AsyncWriteExt + Unpin), reply: &Reply) -> Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    to.write_all(&line).await?;
    Ok(())
}

/// Asks the daemon; `each` sees every reply but the last.
pub(crate) async fn ask(
    socket: &Path,
    request: &Request,
    mut each: impl FnMut(Reply),
) -> Result<()> {
    let stream = UnixStream::connect(socket).await.with_context(|| {
        format!(
            "karve does not answer on {}; start it with `karve server` first",
            socket.display()
        )
    })?;
    let (read, mut write) = stream.into_split();
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    write.write_all(&line).await?;
    let mut replies = BufReader::new(read);
    loop {
        let mut line = String::new();
        if (&mut replies).take(MAX_LINE).read_line(&mut line).await? == 0 {
            bail!("karve hung up before it was done; its log says why");
        }
        match serde_json::from_str(&line).context("an answer that is not understood")? {
            Reply::Done => return Ok(()),
            Reply::Failed { error } => bail!("{error}"),
            reply => each(reply),
        }
    }
}

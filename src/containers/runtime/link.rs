//! The daemon's end of a connection to a shim.

use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::shim::protocol::{Reply, Request, frame, take_frame};

/// A connection to a shim: one request, then replies.
#[derive(Debug)]
pub(crate) struct Link {
    socket: UnixStream,
    input: Vec<u8>,
    /// Descriptors that came with replies.
    pub(crate) fds: Vec<OwnedFd>,
}

impl Link {
    /// Connects to the socket in a pod's run state folder and sends a request.
    pub(crate) async fn open(
        run: &Path,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Self> {
        // The name of a socket has 107 bytes at most; by descriptor it fits.
        let folder = std::fs::File::open(run)?;
        let path = format!(
            "/proc/self/fd/{}/{}",
            folder.as_raw_fd(),
            crate::shim::SOCKET
        );
        let socket = UnixStream::connect(path).await?;
        let bytes = frame(request)?;
        let (mut sent, mut first) = (0, fds);
        while sent < bytes.len() {
            let count = socket
                .async_io(Interest::WRITABLE, || {
                    linux::fds::send(socket.as_fd(), &bytes[sent..], first)
                })
                .await?;
            sent += count;
            first = &[];
        }
        Ok(Self {
            socket,
            input: Vec::new(),
            fds: Vec::new(),
        })
    }

    /// The next reply; `None` once the shim has hung up. Can be dropped at
    /// any point without losing anything.
    pub(crate) async fn next(&mut self) -> Result<Option<Reply>> {
        loop {
            if let Some(bytes) = take_frame(&mut self.input)? {
                return Ok(Some(serde_json::from_slice(&bytes)?));
            }
            let mut buffer = [0; 4096];
            let (socket, fds) = (&self.socket, &mut self.fds);
            let count = socket
                .async_io(Interest::READABLE, || {
                    linux::fds::receive(socket.as_fd(), &mut buffer, fds)
                })
                .await?;
            if count == 0 {
                return if self.input.is_empty() {
                    Ok(None)
                } else {
                    Err(Error::new(
                        ErrorKind::UnexpectedEof,
                        "the shim hung up within a reply",
                    ))
                };
            }
            self.input.extend_from_slice(&buffer[..count]);
        }
    }

    /// The first reply, which there must be.
    pub(crate) async fn reply(&mut self) -> Result<Reply> {
        self.next()
            .await?
            .ok_or_else(|| Error::new(ErrorKind::ConnectionReset, "the shim is gone"))
    }
}

/// Sends a request and returns its only reply.
pub(crate) async fn ask(run: &Path, request: &Request) -> Result<Reply> {
    Link::open(run, request, &[]).await?.reply().await
}

/// A reply that must be `Ok`.
pub(crate) async fn order(run: &Path, request: &Request) -> cri::Result<()> {
    use crate::error::Context;
    match ask(run, request)
        .await
        .context(|| "asking the shim".into())?
    {
        Reply::Ok => Ok(()),
        other => Err(failed(other)),
    }
}

/// The error a reply that was not expected stands for.
pub(crate) fn failed(reply: Reply) -> cri::Error {
    match reply {
        Reply::Failed {
            cannot_run: true,
            message,
        } => cri::Error::new(
            cri::ErrorKind::CannotRun,
            format!(
                "failed to create shim task: OCI runtime create failed: \
                 unable to start container process: {message}"
            ),
        ),
        Reply::Failed { message, .. } => crate::error::internal(message),
        other => crate::error::internal(format!("the shim answered {other:?}, which is no answer")),
    }
}

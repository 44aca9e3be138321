//! Exec and attach.
//!
//! The daemon's pipes (or the terminal's master) go straight to the process:
//! the shim only says when it ends. Whoever holds [`Streams`] holds the
//! process: when the receiver of its exit is dropped, the connection closes
//! and the shim kills what was exec'd.

use std::io::Result as IoResult;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use cri::{
    ContainerId, ErrorKind, ExecRequest, ExecResult, ExitStatus, Result, Streams, TerminalSize,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::{mpsc, oneshot};

use super::link::{Link, failed, order};
use super::{Container, Phase, Runtime, Shared};
use crate::error::{Context, internal, invalid};
use crate::files::read_json;
use crate::shim::protocol::{Reply, Request};

/// Most bytes kept of each output of `exec_sync`.
const MAX_OUTPUT: u64 = 16 << 20;
/// How long output may trickle in after the process ended.
const DRAIN: Duration = Duration::from_secs(2);

impl Runtime {
    pub(super) async fn exec_streams(
        &self,
        id: &ContainerId,
        request: &ExecRequest,
    ) -> Result<Streams> {
        let shared = &self.shared;
        let container = shared.container(id)?;
        check_running(&container, id)?;
        if request.command.is_empty() {
            return Err(invalid("exec needs a command"));
        }
        let process = process(shared, &container, id, request)?;
        let uid = container.record.user.uid;
        let ask = Request::Exec {
            id: id.0.clone(),
            process,
            tty: request.tty,
            uid,
        };
        let run = shared.pod_run(&container.record.sandbox);
        let mut ends = Ends::default();
        let mut link = if request.tty {
            Link::open(&run, &ask, &[]).await
        } else {
            let theirs = ends.make(request)?;
            let fds: Vec<BorrowedFd<'_>> = theirs.iter().map(|fd| fd.as_fd()).collect();
            Link::open(&run, &ask, &fds).await
        }
        .context(|| "asking the shim for an exec".into())?;
        let reply = link
            .reply()
            .await
            .context(|| "waiting for an exec to start".into())?;
        let Reply::Started { .. } = reply else {
            return Err(exec_failed(reply));
        };
        let mut terminal = None;
        if request.tty {
            let master = link
                .fds
                .pop()
                .ok_or_else(|| internal("no terminal came along"))?;
            terminal = Some(
                master
                    .try_clone()
                    .context(|| "sharing the terminal".into())?,
            );
            ends.take_terminal(&master, request.stdin, request.stdout)?;
        }
        Ok(self.hand_over(ends, link, terminal, None))
    }

    pub(super) async fn attach_streams(
        &self,
        id: &ContainerId,
        request: &ExecRequest,
    ) -> Result<Streams> {
        let shared = &self.shared;
        let container = shared.container(id)?;
        check_running(&container, id)?;
        let config = &container.record.config;
        if request.tty != config.tty {
            return Err(invalid(if config.tty {
                "the container has a terminal; attach with one"
            } else {
                "the container has no terminal; attach without one"
            }));
        }
        let stdin = request.stdin && (config.stdin || config.tty);
        let stderr = request.stderr && !config.tty;
        let mut ends = Ends::default();
        let wanted = ExecRequest {
            stdin: false,
            stderr,
            ..request.clone()
        };
        let theirs = ends.make(&wanted)?;
        let passed: Vec<BorrowedFd<'_>> = [(request.stdout, &theirs[1]), (stderr, &theirs[2])]
            .into_iter()
            .filter(|(wanted, _)| *wanted)
            .map(|(_, fd)| fd.as_fd())
            .collect();
        let ask = Request::Attach {
            id: id.0.clone(),
            stdin,
            stdout: request.stdout,
            stderr,
        };
        let run = shared.pod_run(&container.record.sandbox);
        let mut link = Link::open(&run, &ask, &passed)
            .await
            .context(|| "asking the shim to attach".into())?;
        drop(theirs);
        let reply = link
            .reply()
            .await
            .context(|| "waiting to be attached".into())?;
        let Reply::Attached = reply else {
            return Err(failed(reply));
        };
        let input = link.fds.pop();
        let terminal = match &input {
            Some(fd) if config.tty => {
                Some(fd.try_clone().context(|| "sharing the terminal".into())?)
            }
            _ => None,
        };
        let mut close_input = None;
        if stdin && let Some(input) = input {
            let (closed, on_close) = oneshot::channel();
            let sender = sender(input)?;
            ends.stdin = Some(Box::new(Input {
                inner: Some(sender),
                closed: Some(closed),
            }));
            if config.stdin_once && !config.tty {
                close_input = Some((on_close, run, id.clone()));
            }
        }
        Ok(self.hand_over(ends, link, terminal, close_input))
    }

    /// Makes [`Streams`] and the task behind them.
    fn hand_over(
        &self,
        ends: Ends,
        mut link: Link,
        terminal: Option<OwnedFd>,
        close_input: Option<(oneshot::Receiver<()>, std::path::PathBuf, ContainerId)>,
    ) -> Streams {
        let (resize, mut sizes) = mpsc::channel::<TerminalSize>(4);
        let (mut report, exit) = oneshot::channel();
        self.supervisor.spawn("streams", |stop| async move {
            let close = async {
                if let Some((on_close, run, id)) = close_input {
                    // Shut down or dropped: either way no more input comes.
                    let _ = on_close.await;
                    // The container may have ended by now.
                    let _ = order(&run, &Request::CloseInput { id: id.0 }).await;
                }
                std::future::pending::<()>().await
            };
            tokio::pin!(close);
            let mut resizing = true;
            let outcome = loop {
                tokio::select! {
                    () = stop.triggered() => return,
                    () = report.closed() => return,
                    () = &mut close => {}
                    size = sizes.recv(), if resizing => match (size, &terminal) {
                        (None, _) => resizing = false,
                        (Some(size), Some(terminal)) => set_size(terminal.as_fd(), size),
                        (Some(_), None) => {}
                    },
                    reply = link.next() => break match reply {
                        Ok(Some(Reply::Ended { code, signal })) => {
                            Some(Ok(ExitStatus { code, signal }))
                        }
                        Ok(Some(other)) => Some(Err(failed(other))),
                        Ok(None) | Err(_) => None,
                    },
                }
            };
            if let Some(outcome) = outcome {
                // Nobody may be interested any more.
                let _ = report.send(outcome);
            }
        });
        Streams {
            stdin: ends.stdin,
            stdout: ends.stdout,
            stderr: ends.stderr,
            resize,
            exit,
        }
    }

    pub(super) async fn exec_to_end(
        &self,
        id: &ContainerId,
        command: &[String],
        timeout: Duration,
    ) -> Result<ExecResult> {
        let request = ExecRequest {
            command: command.to_vec(),
            stdout: true,
            stderr: true,
            ..ExecRequest::default()
        };
        let run = async {
            let mut streams = self.exec_streams(id, &request).await?;
            let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
            let status = {
                let read = async {
                    tokio::join!(
                        collect(streams.stdout.take(), &mut stdout),
                        collect(streams.stderr.take(), &mut stderr),
                    );
                };
                tokio::pin!(read);
                let mut exit = streams.exit;
                // Output must be taken while the process runs.
                let ended = tokio::select! {
                    ended = &mut exit => {
                        // What outlives the command may hold its output open.
                        let _ = tokio::time::timeout(DRAIN, read).await;
                        ended
                    }
                    () = &mut read => exit.await,
                };
                ended.map_err(|_| internal("how the command ended is not known"))??
            };
            Ok(ExecResult {
                stdout,
                stderr,
                code: status.code,
            })
        };
        if timeout.is_zero() {
            return run.await;
        }
        tokio::time::timeout(timeout, run)
            .await
            .unwrap_or_else(|_| {
                Err(cri::Error::new(
                    ErrorKind::DeadlineExceeded,
                    format!(
                        "command {:?} timed out after {timeout:?}",
                        command.join(" ")
                    ),
                ))
            })
    }
}

async fn collect(stream: Option<Box<dyn AsyncRead + Send + Unpin>>, into: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    // What was read before an error is what there is.
    if (&mut stream)
        .take(MAX_OUTPUT)
        .read_to_end(into)
        .await
        .is_ok()
    {
        // Past the limit the command must still not block.
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }
}

fn check_running(container: &Container, id: &ContainerId) -> Result<()> {
    match &*container.phase.borrow() {
        Phase::Running { .. } => Ok(()),
        _ => Err(invalid(format!("container {id} is not running"))),
    }
}

fn exec_failed(reply: Reply) -> cri::Error {
    match reply {
        Reply::Failed {
            cannot_run: true,
            message,
        } => cri::Error::new(
            ErrorKind::CannotRun,
            format!(
                "OCI runtime exec failed: exec failed: unable to start container process: {message}"
            ),
        ),
        other => failed(other),
    }
}

fn process(
    shared: &Arc<Shared>,
    container: &Container,
    id: &ContainerId,
    request: &ExecRequest,
) -> Result<Box<serde_json::value::RawValue>> {
    let file = shared
        .container_dir(&container.record.sandbox, id)
        .join("config.json");
    let spec: serde_json::Value =
        read_json(&file)?.ok_or_else(|| internal(format!("{} is missing", file.display())))?;
    let process = crate::spec::exec_process(&spec["process"], &request.command, request.tty);
    serde_json::value::to_raw_value(&process).context(|| "encoding the process".into())
}

fn set_size(terminal: BorrowedFd<'_>, size: TerminalSize) {
    let size = Winsize {
        ws_row: size.height,
        ws_col: size.width,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // The terminal may be gone already.
    let _ = tcsetwinsize(terminal, size);
}

/// The daemon's ends of the streams.
#[derive(Default)]
struct Ends {
    stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
}

impl Ends {
    /// Makes the wanted pipes; returns the process's ends, `/dev/null` for
    /// those not wanted.
    fn make(&mut self, request: &ExecRequest) -> Result<[OwnedFd; 3]> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC).context(|| "making a pipe".into());
        let null = |write: bool| -> Result<OwnedFd> {
            let file = std::fs::OpenOptions::new()
                .read(!write)
                .write(write)
                .open("/dev/null");
            Ok(OwnedFd::from(crate::error::at(
                file,
                "opening",
                std::path::Path::new("/dev/null"),
            )?))
        };
        let stdin = if request.stdin {
            let (read, write) = pipe()?;
            self.stdin = Some(Box::new(Input {
                inner: Some(sender(write)?),
                closed: None,
            }));
            read
        } else {
            null(false)?
        };
        let output =
            |wanted: bool| -> Result<(OwnedFd, Option<Box<dyn AsyncRead + Send + Unpin>>)> {
                if !wanted {
                    return Ok((null(true)?, None));
                }
                let (read, write) = pipe()?;
                Ok((write, Some(Box::new(receiver(read)?))))
            };
        let (stdout, ours) = output(request.stdout)?;
        self.stdout = ours;
        let (stderr, ours) = output(request.stderr)?;
        self.stderr = ours;
        Ok([stdin, stdout, stderr])
    }

    fn take_terminal(&mut self, master: &OwnedFd, stdin: bool, stdout: bool) -> Result<()> {
        let share = || master.try_clone().context(|| "sharing the terminal".into());
        if stdin {
            self.stdin = Some(Box::new(sender(share()?)?));
        }
        if stdout {
            self.stdout = Some(Box::new(Terminal(receiver(share()?)?)));
        }
        Ok(())
    }
}

fn sender(fd: OwnedFd) -> Result<Sender> {
    rustix::io::ioctl_fionbio(&fd, true)
        .map_err(std::io::Error::from)
        .and_then(|()| Sender::from_owned_fd_unchecked(fd))
        .context(|| "preparing an input stream".into())
}

fn receiver(fd: OwnedFd) -> Result<Receiver> {
    rustix::io::ioctl_fionbio(&fd, true)
        .map_err(std::io::Error::from)
        .and_then(|()| Receiver::from_owned_fd_unchecked(fd))
        .context(|| "preparing an output stream".into())
}

/// A terminal's output; that nobody holds the other side is its end.
struct Terminal(Receiver);

impl AsyncRead for Terminal {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<IoResult<()>> {
        match Pin::new(&mut self.0).poll_read(cx, buffer) {
            Poll::Ready(Err(error))
                if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) =>
            {
                Poll::Ready(Ok(()))
            }
            other => other,
        }
    }
}

/// An input that shutting down closes, and that tells so. (A pipe's own writer
/// closes only when it is dropped.)
struct Input {
    inner: Option<Sender>,
    closed: Option<oneshot::Sender<()>>,
}

impl AsyncWrite for Input {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<IoResult<usize>> {
        match &mut self.inner {
            Some(inner) => Pin::new(inner).poll_write(cx, bytes),
            None => Poll::Ready(Err(std::io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<IoResult<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<IoResult<()>> {
        self.inner = None;
        if let Some(closed) = self.closed.take() {
            // The container may be over.
            let _ = closed.send(());
        }
        Poll::Ready(Ok(()))
    }
}

//! `exec`, `attach` and `run`: the streams of a command joined to a client.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cri::{ContainerState, ContainerStatus, ErrorKind, ExecRequest, Streams};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::Server;
use super::query::Query;
use super::reply::{Reply, Upgrade, error, full, text};
use crate::pod::{PodView, find_container};
use crate::streaming::{
    Channel, Out, Outcome, Remote, RemoteProtocol, Wanted, negotiate_remote, serve_spdy,
    serve_websocket,
};

const CHUNK: usize = 32 << 10;
const RUN_TIMEOUT: Duration = Duration::from_secs(4 * 3600);

fn wanted(query: &Query) -> Wanted {
    let tty = query.flag(&["tty"]);
    Wanted {
        stdin: query.flag(&["input", "stdin"]),
        stdout: query.flag(&["output", "stdout"]),
        // A terminal has one output only.
        stderr: query.flag(&["error", "stderr"]) && !tty,
        tty,
    }
}

/// The running container of this name.
fn find_running(view: &PodView, container: &str) -> Result<ContainerStatus, String> {
    let newest = view.observed.latest(container);
    match newest.filter(|run| run.state == ContainerState::Running) {
        Some(run) => Ok(run.clone()),
        None => Err(format!("container not found (\"{container}\")")),
    }
}

/// Runs a command in a container for a client.
pub(super) async fn exec(
    server: &Arc<Server>,
    request: Request<Incoming>,
    view: &PodView,
    container: &str,
) -> Reply {
    let query = Query::of(request.uri());
    let run = match find_running(view, container) {
        Ok(run) => run,
        Err(message) => return error(StatusCode::NOT_FOUND, &message),
    };
    let wanted = wanted(&query);
    let command: Vec<String> = query.all("command").map(Into::into).collect();
    if command.is_empty() {
        return error(StatusCode::BAD_REQUEST, "you must specify a command");
    }
    let exec = ExecRequest {
        command,
        stdin: wanted.stdin,
        stdout: wanted.stdout,
        stderr: wanted.stderr,
        tty: wanted.tty,
    };
    let runtime = server.shared.runtime.clone();
    join(request, wanted, move || async move {
        runtime.exec(&run.id, &exec).await
    })
}

/// Joins a client to the first process of a container.
pub(super) async fn attach(
    server: &Arc<Server>,
    request: Request<Incoming>,
    view: &PodView,
    container: &str,
) -> Reply {
    let query = Query::of(request.uri());
    let run = match find_running(view, container) {
        Ok(run) => run,
        Err(message) => return error(StatusCode::NOT_FOUND, &message),
    };
    let spec = find_container(&view.pod, container);
    let wanted = wanted(&query);
    // Whether there is a terminal is the container's matter; the client only
    // says what streams it opens.
    let tty = spec.is_some_and(|spec| spec.tty.unwrap_or(false));
    let attach = ExecRequest {
        command: Vec::new(),
        stdin: wanted.stdin,
        stdout: wanted.stdout,
        stderr: wanted.stderr && !tty,
        tty,
    };
    let runtime = server.shared.runtime.clone();
    join(request, wanted, move || async move {
        runtime.attach(&run.id, &attach).await
    })
}

/// Runs a command to its end and answers with what it printed.
pub(super) async fn run(
    server: &Arc<Server>,
    request: &Request<Incoming>,
    view: &PodView,
    container: &str,
) -> Reply {
    let query = Query::of(request.uri());
    let found = match find_running(view, container) {
        Ok(found) => found,
        Err(message) => return error(StatusCode::NOT_FOUND, &message),
    };
    let words = query
        .get("cmd")
        .unwrap_or_default()
        .split(' ')
        .filter(|word| !word.is_empty());
    let command: Vec<String> = words.map(Into::into).collect();
    match server
        .shared
        .runtime
        .exec_sync(&found.id, &command, RUN_TIMEOUT)
        .await
    {
        Ok(result) => {
            let mut output = BytesMut::from(&result.stdout[..]);
            output.extend_from_slice(&result.stderr);
            let status = match result.code {
                0 => StatusCode::OK,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            text(status, output.freeze())
        }
        Err(failed) => error(
            StatusCode::INTERNAL_SERVER_ERROR,
            &base::Chain(&failed).to_string(),
        ),
    }
}

/// Upgrades the connection and joins it to the streams `start` opens.
fn join<S, F>(request: Request<Incoming>, wanted: Wanted, start: S) -> Reply
where
    S: FnOnce() -> F + Send + 'static,
    F: Future<Output = cri::Result<Streams>> + Send + 'static,
{
    if !(wanted.stdin || wanted.stdout || wanted.stderr) {
        let message = "you must specify at least 1 of stdin, stdout, stderr";
        return error(StatusCode::BAD_REQUEST, message);
    }
    let negotiated = match negotiate_remote(request.headers()) {
        Ok(negotiated) => negotiated,
        Err((status, message)) => return error(status, &message),
    };
    let protocol = negotiated.protocol;
    let upgrade: Upgrade = Box::pin(async move {
        let io = match hyper::upgrade::on(request).await {
            Ok(io) => TokioIo::new(io),
            Err(failed) => {
                tracing::debug!(error = %failed, "upgrading a node API connection");
                return;
            }
        };
        match protocol {
            RemoteProtocol::WebSocket { version, base64 } => {
                let (remote, wire) = serve_websocket(io, version, base64);
                tokio::join!(wire, converse(remote, wanted, start));
            }
            RemoteProtocol::Spdy { version } => {
                let (remote, wire) = serve_spdy(io, version, wanted);
                tokio::join!(wire, converse(remote, wanted, start));
            }
        }
    });
    Reply {
        response: negotiated.response.map(|()| full("")),
        upgrade: Some(upgrade),
    }
}

async fn converse<S, F>(remote: Remote, wanted: Wanted, start: S)
where
    S: FnOnce() -> F,
    F: Future<Output = cri::Result<Streams>>,
{
    let output = remote.output.clone();
    let outcome = match start().await {
        Ok(streams) => pump(streams, remote, wanted).await,
        Err(error) => Some(failure(&error)),
    };
    if let Some(outcome) = outcome {
        output.send(Out::Finish(outcome)).await.ok();
    }
}

fn failure(error: &cri::Error) -> Outcome {
    match error.kind {
        // Shells report a command that is not there like this, too.
        ErrorKind::CannotRun | ErrorKind::Invalid | ErrorKind::NotFound => {
            let text = base::Chain(error).to_string();
            Outcome::Error(format!("error executing command in container: {text}"))
        }
        _ => Outcome::Error(base::Chain(error).to_string()),
    }
}

/// Copies between a command and its client until the command ends (its
/// outcome) or the client hangs up (`None`).
async fn pump(streams: Streams, remote: Remote, wanted: Wanted) -> Option<Outcome> {
    let Streams {
        stdin,
        stdout,
        stderr,
        resize,
        exit,
    } = streams;
    let Remote {
        stdin: mut typed,
        resize: mut sizes,
        output,
    } = remote;
    let input = async move {
        let mut stdin = stdin.filter(|_| wanted.stdin);
        while let Some(data) = typed.recv().await {
            if let Some(pipe) = &mut stdin {
                let written = async {
                    pipe.write_all(&data).await?;
                    pipe.flush().await
                };
                if written.await.is_err() {
                    // The command does not read any more; let the client type on.
                    stdin = None;
                }
            }
        }
        if let Some(pipe) = &mut stdin {
            pipe.shutdown().await.ok();
        }
    };
    let resizing = async move {
        while let Some(size) = sizes.recv().await {
            if resize.send(size).await.is_err() {
                break;
            }
        }
    };
    let gone = output.clone();
    let outputs = async {
        tokio::join!(
            copy(stdout.filter(|_| wanted.stdout), Channel::Stdout, &output),
            copy(stderr.filter(|_| wanted.stderr), Channel::Stderr, &output),
        );
        match exit.await {
            Ok(Ok(status)) if status.code == 0 => Outcome::Success,
            Ok(Ok(status)) => Outcome::Exit(status.code),
            Ok(Err(error)) => failure(&error),
            // How the process of an attach ended is not known.
            Err(_) => Outcome::Success,
        }
    };
    let both_inputs = async {
        tokio::join!(input, resizing);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        outcome = outputs => Some(outcome),
        () = both_inputs => None,
        () = gone.closed() => None,
    }
}

async fn copy(
    from: Option<Box<dyn AsyncRead + Send + Unpin>>,
    channel: Channel,
    to: &mpsc::Sender<Out>,
) {
    let Some(mut from) = from else { return };
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK);
        match from.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let data: Bytes = buffer.split().freeze();
                if to.send(Out::Data(channel, data)).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use cri::ExitStatus;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn pumps_until_the_command_ends() {
        let (stdin, mut command_in) = tokio::io::duplex(64);
        let (mut command_out, stdout) = tokio::io::duplex(64);
        let (resize, _sizes) = mpsc::channel(1);
        let (end, exit) = oneshot::channel();
        let streams = Streams {
            stdin: Some(Box::new(stdin)),
            stdout: Some(Box::new(stdout)),
            stderr: None,
            resize,
            exit,
        };
        let (typed, stdin) = mpsc::channel(4);
        let (_resize, sizes) = mpsc::channel(4);
        let (output, mut shown) = mpsc::channel(4);
        let remote = Remote {
            stdin,
            resize: sizes,
            output,
        };
        let wanted = Wanted {
            stdin: true,
            stdout: true,
            stderr: false,
            tty: false,
        };
        let command = async {
            let mut line = [0; 3];
            command_in.read_exact(&mut line).await.unwrap();
            command_out.write_all(&line).await.unwrap();
            let mut rest = Vec::new();
            command_in.read_to_end(&mut rest).await.unwrap();
            drop(command_out);
            end.send(Ok(ExitStatus { code: 2, signal: 0 })).unwrap();
        };
        let client = async {
            typed.send("abc".into()).await.unwrap();
            drop(typed);
            assert_eq!(
                shown.recv().await,
                Some(Out::Data(Channel::Stdout, "abc".into()))
            );
            std::future::pending::<()>().await;
        };
        let outcome = tokio::select! {
            (outcome, ()) = async { tokio::join!(pump(streams, remote, wanted), command) } => outcome,
            () = client => unreachable!(),
        };
        assert_eq!(outcome, Some(Outcome::Exit(2)));
    }
}

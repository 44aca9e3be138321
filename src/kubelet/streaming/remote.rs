//! Remote commands over SPDY: a stream for each channel.

use std::collections::HashMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::spdy::{Incoming, session};
use super::{Channel, Out, Remote, Wanted, Wire, parse_size, remote};

/// How long a client may take to open its streams.
const OPENING: Duration = Duration::from_secs(30);
/// How long a client may take to hang up once it has been told the end.
const GOODBYE: Duration = Duration::from_secs(5);

/// Serves a remote command; the future carries data until it is over.
pub(crate) fn serve_spdy<T>(
    io: T,
    version: u8,
    wanted: Wanted,
) -> (Remote, impl Future<Output = ()> + Send)
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (remote, wire) = remote();
    let run = async move {
        let (connection, incoming) = session(io);
        let mut connection = std::pin::pin!(connection);
        let mut serve = std::pin::pin!(serve(incoming, wire, version, wanted));
        tokio::select! {
            result = &mut connection => log(result),
            () = &mut serve => {
                if let Ok(result) = tokio::time::timeout(GOODBYE, connection).await {
                    log(result);
                }
            }
        }
    };
    (remote, run)
}

fn log(result: Result<(), super::spdy::Error>) {
    if let Err(error) = result {
        tracing::debug!(error = %base::Chain(&error), "remote command over SPDY");
    }
}

/// Names of the streams the client is going to open.
fn expected(version: u8, wanted: Wanted) -> Vec<&'static str> {
    let mut names = vec!["error"];
    let mut add = |wanted: bool, name| {
        if wanted {
            names.push(name);
        }
    };
    add(wanted.stdin, "stdin");
    add(wanted.stdout, "stdout");
    add(wanted.stderr && !wanted.tty, "stderr");
    add(wanted.tty && version >= 3, "resize");
    names
}

async fn open(
    incoming: &mut mpsc::Receiver<Incoming>,
    names: &[&str],
) -> Option<HashMap<String, Incoming>> {
    let mut streams = HashMap::new();
    while !names.iter().all(|name| streams.contains_key(*name)) {
        let stream = incoming.recv().await?;
        let kind = stream
            .headers
            .get("streamtype")
            .unwrap_or_default()
            .to_owned();
        if !names.contains(&kind.as_str()) {
            tracing::debug!(kind, "unexpected stream");
            stream.writer.reset().await.ok();
            continue;
        }
        streams.insert(kind, stream);
    }
    Some(streams)
}

async fn serve(mut incoming: mpsc::Receiver<Incoming>, wire: Wire, version: u8, wanted: Wanted) {
    let names = expected(version, wanted);
    let opened = tokio::time::timeout(OPENING, open(&mut incoming, &names)).await;
    let Ok(Some(mut streams)) = opened else {
        tracing::debug!(?names, "the client did not open its streams");
        return;
    };
    let Wire {
        stdin,
        resize,
        mut output,
    } = wire;
    let input = streams.remove("stdin");
    let sizes = streams.remove("resize");
    let read_stdin = async {
        if let Some(mut input) = input {
            while let Some(data) = input.reader.recv().await {
                if stdin.send(data).await.is_err() {
                    break;
                }
            }
            input.writer.finish().await.ok();
        }
        drop(stdin);
        std::future::pending::<()>().await;
    };
    let read_sizes = async {
        if let Some(mut sizes) = sizes {
            let mut rest = BytesMut::new();
            while let Some(data) = sizes.reader.recv().await {
                rest.extend_from_slice(&data);
                // Sizes follow one another without anything between them.
                while let Some(end) = rest.iter().position(|byte| *byte == b'}') {
                    let message = rest.split_to(end + 1);
                    if let Some(size) = parse_size(message.trim_ascii()) {
                        resize.send(size).await.ok();
                    }
                }
                if rest.len() > 1024 {
                    rest.clear();
                }
            }
        }
        std::future::pending::<()>().await;
    };
    let write = async {
        while let Some(out) = output.recv().await {
            let (name, data, last) = match out {
                Out::Data(Channel::Stdout, data) => ("stdout", data, false),
                Out::Data(Channel::Stderr, data) => ("stderr", data, false),
                Out::Finish(outcome) if version >= 4 => ("error", outcome.status(), true),
                Out::Finish(outcome) => ("error", Bytes::from(outcome.text()), true),
            };
            if let Some(stream) = streams.get(name)
                && !data.is_empty()
                && stream.writer.send(data).await.is_err()
            {
                return;
            }
            if last {
                break;
            }
        }
        for name in ["stdout", "stderr", "error"] {
            if let Some(stream) = streams.get(name) {
                stream.writer.finish().await.ok();
            }
        }
    };
    tokio::select! {
        () = read_stdin => {}
        () = read_sizes => {}
        () = write => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::streaming::Outcome;
    use crate::streaming::spdy::TestClient;
    use cri::TerminalSize;

    #[tokio::test]
    async fn carries_a_remote_command() {
        let (near, far) = tokio::io::duplex(256);
        let wanted = Wanted {
            stdin: true,
            stdout: true,
            stderr: true,
            tty: true,
        };
        let (mut remote, run) = serve_spdy(near, 4, wanted);
        let serve = async {
            assert_eq!(remote.stdin.recv().await.unwrap(), "in");
            assert_eq!(
                remote.resize.recv().await.unwrap(),
                TerminalSize {
                    width: 8,
                    height: 2
                }
            );
            assert_eq!(remote.stdin.recv().await, None);
            remote
                .output
                .send(Out::Data(Channel::Stdout, "out".into()))
                .await
                .unwrap();
            remote
                .output
                .send(Out::Finish(Outcome::Success))
                .await
                .unwrap();
        };
        let drive = async {
            let mut client = TestClient::new(far);
            let error = client.open(&[("streamtype", "error")]).await;
            let stdin = client.open(&[("streamtype", "stdin")]).await;
            let stdout = client.open(&[("streamtype", "stdout")]).await;
            let resize = client.open(&[("streamtype", "resize")]).await;
            client.send(stdin, b"in", true).await;
            client.send(resize, b"{\"Width\":8,\"Hei", false).await;
            client.send(resize, b"ght\":2}\n", false).await;
            let mut got: HashMap<u32, Vec<u8>> = HashMap::new();
            let mut open = 2;
            while open > 0 {
                let (id, data, fin) = client.data().await.unwrap();
                got.entry(id).or_default().extend_from_slice(&data);
                open -= i32::from(fin && id != stdin);
            }
            assert_eq!(got[&stdout], b"out");
            assert!(String::from_utf8_lossy(&got[&error]).contains("Success"));
        };
        tokio::join!(serve, drive, run);
    }

    #[test]
    fn expects_streams() {
        let all = Wanted {
            stdin: true,
            stdout: true,
            stderr: true,
            tty: false,
        };
        assert_eq!(expected(4, all), ["error", "stdin", "stdout", "stderr"]);
        let tty = Wanted { tty: true, ..all };
        assert_eq!(expected(4, tty), ["error", "stdin", "stdout", "resize"]);
        assert_eq!(expected(2, tty), ["error", "stdin", "stdout"]);
    }
}

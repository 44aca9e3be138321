//! Remote commands over WebSocket: the first byte of a message is its channel.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::{Channel, Out, Remote, Wire, parse_size, remote};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// In version 5: the next byte names a channel that is closed.
const CLOSE: u8 = 255;

/// Largest message taken from a client.
const MAX_MESSAGE: usize = 1 << 20;
/// How long a client may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(5);

/// Limits of every WebSocket connection.
pub(super) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
}

/// The close message of an orderly end; clients take one without a code for an error.
pub(super) fn goodbye() -> Message {
    Message::Close(Some(CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    }))
}

/// Serves a remote command; the future carries messages until it is over.
pub(crate) fn serve_websocket<T>(
    io: T,
    version: u8,
    base64: bool,
) -> (Remote, impl Future<Output = ()> + Send)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (remote, wire) = remote();
    let run = async move {
        let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config())).await;
        let (mut sink, mut stream) = socket.split();
        let Wire {
            stdin,
            resize,
            output,
        } = wire;
        let format = Format { version, base64 };
        {
            let mut reader = std::pin::pin!(read(&mut stream, format, stdin, resize));
            let writer = std::pin::pin!(write(&mut sink, format, output));
            tokio::select! {
                // The client is gone: whatever else there is to say is lost.
                () = &mut reader => {}
                () = writer => {
                    // Everything is said; wait for the client's answer to the close.
                    let _ = tokio::time::timeout(GOODBYE, reader).await;
                }
            }
        }
        if let Ok(socket) = sink.reunite(stream) {
            socket.into_inner().shutdown().await.ok();
        }
    };
    (remote, run)
}

#[derive(Clone, Copy)]
struct Format {
    version: u8,
    base64: bool,
}

impl Format {
    fn encode(self, channel: u8, data: &[u8]) -> Message {
        if self.base64 {
            let mut text = String::with_capacity(1 + data.len().div_ceil(3) * 4);
            text.push(char::from(b'0' + channel));
            STANDARD.encode_string(data, &mut text);
            return Message::text(text);
        }
        let mut frame = BytesMut::with_capacity(1 + data.len());
        frame.put_u8(channel);
        frame.put_slice(data);
        Message::Binary(frame.freeze())
    }

    fn decode(self, message: Message) -> Option<(u8, Bytes)> {
        let mut data = match message {
            Message::Binary(data) => data,
            Message::Text(text) => Bytes::from(text),
            _ => return None,
        };
        if data.is_empty() {
            return None;
        }
        let channel = data.split_to(1)[0];
        if !self.base64 {
            return Some((channel, data));
        }
        let decoded = STANDARD.decode(&data).ok()?;
        Some((channel.checked_sub(b'0')?, decoded.into()))
    }
}

async fn read<T: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut SplitStream<WebSocketStream<T>>,
    format: Format,
    stdin: mpsc::Sender<Bytes>,
    resize: mpsc::Sender<cri::TerminalSize>,
) {
    let mut stdin = Some(stdin);
    while let Some(Ok(message)) = stream.next().await {
        let Some((channel, data)) = format.decode(message) else {
            continue;
        };
        match channel {
            STDIN => {
                // Before version 5 nothing says that input ends; an empty message is none.
                if let Some(stdin) = stdin.as_ref().filter(|_| !data.is_empty()) {
                    stdin.send(data).await.ok();
                }
            }
            RESIZE => {
                if let Some(size) = parse_size(&data) {
                    resize.send(size).await.ok();
                }
            }
            CLOSE if format.version >= 5 && data.first() == Some(&STDIN) => stdin = None,
            _ => {}
        }
    }
}

async fn write<T: AsyncRead + AsyncWrite + Unpin>(
    sink: &mut SplitSink<WebSocketStream<T>, Message>,
    format: Format,
    mut output: mpsc::Receiver<Out>,
) {
    while let Some(out) = output.recv().await {
        let message = match out {
            Out::Data(Channel::Stdout, data) => format.encode(STDOUT, &data),
            Out::Data(Channel::Stderr, data) => format.encode(STDERR, &data),
            Out::Finish(outcome) => {
                let last = match format.version {
                    4.. => Some(outcome.status()),
                    _ => Some(Bytes::from(outcome.text())).filter(|text| !text.is_empty()),
                };
                if let Some(last) = last {
                    sink.send(format.encode(ERROR, &last)).await.ok();
                }
                break;
            }
        };
        if sink.send(message).await.is_err() {
            return;
        }
    }
    sink.send(goodbye()).await.ok();
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::streaming::Outcome;
    use cri::TerminalSize;
    use proptest::prelude::*;

    async fn client(io: tokio::io::DuplexStream) -> WebSocketStream<tokio::io::DuplexStream> {
        WebSocketStream::from_raw_socket(io, Role::Client, None).await
    }

    #[tokio::test]
    async fn carries_a_remote_command() {
        let (near, far) = tokio::io::duplex(1024);
        let (mut remote, run) = serve_websocket(near, 5, false);
        let serve = async {
            assert_eq!(remote.stdin.recv().await.unwrap(), "in");
            assert_eq!(
                remote.resize.recv().await.unwrap(),
                TerminalSize {
                    width: 3,
                    height: 2
                }
            );
            assert_eq!(
                remote.stdin.recv().await,
                None,
                "the client closed its input"
            );
            remote
                .output
                .send(Out::Data(Channel::Stderr, "err".into()))
                .await
                .unwrap();
            remote
                .output
                .send(Out::Finish(Outcome::Exit(7)))
                .await
                .unwrap();
        };
        let drive = async {
            let mut client = client(far).await;
            let send = |data: &'static [u8]| Message::Binary(Bytes::from_static(data));
            client.send(send(b"\x00in")).await.unwrap();
            client
                .send(send(b"\x04{\"Width\":3,\"Height\":2}"))
                .await
                .unwrap();
            client.send(send(b"\xff\x00")).await.unwrap();
            assert_eq!(client.next().await.unwrap().unwrap(), send(b"\x02err"));
            let last = client.next().await.unwrap().unwrap().into_data();
            assert_eq!(last[0], ERROR);
            assert!(String::from_utf8_lossy(&last[1..]).contains("\"NonZeroExitCode\""));
            assert_eq!(client.next().await.unwrap().unwrap(), goodbye());
            while client.next().await.is_some() {}
        };
        tokio::join!(serve, drive, run);
    }

    #[tokio::test]
    async fn version_one_says_nothing_on_success() {
        let (near, far) = tokio::io::duplex(1024);
        let (remote, run) = serve_websocket(near, 1, true);
        let serve = async {
            remote
                .output
                .send(Out::Data(Channel::Stdout, "hi".into()))
                .await
                .unwrap();
            remote
                .output
                .send(Out::Finish(Outcome::Success))
                .await
                .unwrap();
        };
        let drive = async {
            let mut client = client(far).await;
            assert_eq!(
                client.next().await.unwrap().unwrap(),
                Message::text("1aGk=")
            );
            assert!(matches!(client.next().await, Some(Ok(Message::Close(_)))));
            while client.next().await.is_some() {}
        };
        tokio::join!(serve, drive, run);
    }

    proptest! {
        #[test]
        fn decodes_what_it_encodes(
            channel in 0_u8..5, data in prop::collection::vec(any::<u8>(), 0..300), base64: bool
        ) {
            let format = Format { version: 4, base64 };
            let got = format.decode(format.encode(channel, &data)).unwrap();
            prop_assert_eq!(got, (channel, Bytes::from(data)));
        }

        #[test]
        fn takes_any_message(data in prop::collection::vec(any::<u8>(), 0..50), base64: bool) {
            Format { version: 5, base64 }.decode(Message::Binary(data.into()));
        }
    }
}

//! A byte stream through the binary messages of a WebSocket.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message};

/// Largest message sent.
const MAX_SENT: usize = 32 << 10;

/// Reads and writes bytes through a WebSocket.
pub(crate) struct Tunnel<T> {
    socket: WebSocketStream<T>,
    rest: Bytes,
    said_goodbye: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Tunnel<T> {
    /// The server's end, on a connection whose handshake is done.
    pub(crate) async fn new(io: T) -> Self {
        let config = super::websocket::config();
        let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
        Self {
            socket,
            rest: Bytes::new(),
            said_goodbye: false,
        }
    }
}

fn broken(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tunnel<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(context)) {
                Some(Ok(Message::Binary(data))) => self.rest = data,
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Ok(_)) => {}
                Some(Err(Error::ConnectionClosed | Error::AlreadyClosed)) => {
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            }
        }
        let length = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest[..length]);
        self.rest.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tunnel<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut socket = Pin::new(&mut self.socket);
        ready!(socket.as_mut().poll_ready(context)).map_err(broken)?;
        let length = data.len().min(MAX_SENT);
        let message = Message::Binary(Bytes::copy_from_slice(&data[..length]));
        socket.start_send(message).map_err(broken)?;
        Poll::Ready(Ok(length))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket)
            .poll_flush(context)
            .map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut socket = Pin::new(&mut this.socket);
        if !this.said_goodbye {
            ready!(socket.as_mut().poll_ready(context)).map_err(broken)?;
            socket
                .as_mut()
                .start_send(super::websocket::goodbye())
                .map_err(broken)?;
            this.said_goodbye = true;
        }
        ready!(socket.as_mut().poll_flush(context)).map_err(broken)?;
        Pin::new(socket.get_mut().get_mut()).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use futures::{SinkExt, StreamExt};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn is_a_byte_stream() {
        let (near, far) = tokio::io::duplex(256);
        let serve = async {
            let mut tunnel = Tunnel::new(near).await;
            let mut data = [0; 6];
            tunnel.read_exact(&mut data).await.unwrap();
            assert_eq!(&data, b"abcdef");
            tunnel.write_all(b"back").await.unwrap();
            tunnel.flush().await.unwrap();
            assert_eq!(tunnel.read(&mut data).await.unwrap(), 0);
        };
        let drive = async {
            let mut client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
            client.send(Message::Binary("abc".into())).await.unwrap();
            client.send(Message::Ping("x".into())).await.unwrap();
            client.send(Message::Binary("def".into())).await.unwrap();
            let mut got = Vec::new();
            while got.len() < 4 {
                if let Message::Binary(data) = client.next().await.unwrap().unwrap() {
                    got.extend_from_slice(&data);
                }
            }
            assert_eq!(got, b"back");
            client.close(None).await.unwrap();
        };
        tokio::join!(serve, drive);
    }
}

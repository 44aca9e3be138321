//! A connection with its streams.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::Error;
use super::frame::{Frame, FrameReader};
use super::headers::{Decoder, Encoder, Headers};

/// Streams open at once on a connection.
const MAX_STREAMS: usize = 512;
/// Pieces waiting to be read on a stream.
const INBOX: usize = 16;
/// Frames waiting to be written on a connection.
const OUTBOX: usize = 32;
const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 3;
const CANCEL: u32 = 5;

/// A stream the client opened.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) id: u32,
    pub(crate) headers: Headers,
    /// What the client sends; ends when it closes its half.
    pub(crate) reader: mpsc::Receiver<Bytes>,
    pub(crate) writer: StreamWriter,
}

/// The server's half of a stream.
#[derive(Clone, Debug)]
pub(crate) struct StreamWriter {
    id: u32,
    outbox: mpsc::Sender<Frame>,
}

/// The connection is gone.
#[derive(Debug, thiserror::Error)]
#[error("the client has hung up")]
pub(crate) struct HungUp;

impl StreamWriter {
    async fn put(&self, frame: Frame) -> Result<(), HungUp> {
        self.outbox.send(frame).await.map_err(|_| HungUp)
    }

    /// Sends data.
    pub(crate) async fn send(&self, data: Bytes) -> Result<(), HungUp> {
        self.put(Frame::Data {
            id: self.id,
            fin: false,
            data,
        })
        .await
    }

    /// Says that there is no more.
    pub(crate) async fn finish(&self) -> Result<(), HungUp> {
        self.put(Frame::Data {
            id: self.id,
            fin: true,
            data: Bytes::new(),
        })
        .await
    }

    /// Ends the stream in both directions.
    pub(crate) async fn reset(&self) -> Result<(), HungUp> {
        self.put(Frame::Rst {
            id: self.id,
            status: CANCEL,
        })
        .await
    }
}

/// Serves a connection: streams arrive through the receiver while the future
/// runs. It ends when the client hangs up, breaks the protocol, or when every
/// writer and the receiver are dropped and all is written.
pub(crate) fn session<T>(
    io: T,
) -> (
    impl Future<Output = Result<(), Error>> + Send,
    mpsc::Receiver<Incoming>,
)
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (accept, incoming) = mpsc::channel(INBOX);
    let (outbox, frames) = mpsc::channel(OUTBOX);
    let run = async move {
        let (read, write) = tokio::io::split(io);
        // Writing goes on for as long as there may be new streams, or old ones
        // have something to say.
        let (taking, weak) = (accept.clone(), outbox.downgrade());
        let keep_open = async {
            taking.closed().await;
            drop(outbox);
            std::future::pending::<()>().await;
        };
        let reader = Reader {
            frames: FrameReader::new(read),
            accept,
            outbox: weak,
        };
        tokio::select! {
            result = reader.run() => result,
            result = write_frames(write, frames) => result,
            () = keep_open => Ok(()),
        }
    };
    (run, incoming)
}

struct Reader<R> {
    frames: FrameReader<R>,
    accept: mpsc::Sender<Incoming>,
    outbox: mpsc::WeakSender<Frame>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    async fn run(mut self) -> Result<(), Error> {
        let mut decoder = Decoder::new();
        let mut inboxes: HashMap<u32, mpsc::Sender<Bytes>> = HashMap::new();
        let mut last_id = 0;
        while let Some(frame) = self.frames.next().await? {
            match frame {
                Frame::SynStream { id, fin, headers } => {
                    // Decoded whatever becomes of it: the context goes on.
                    let headers = decoder.decode(&headers)?;
                    if id % 2 == 0 || id <= last_id {
                        return Err(Error::Protocol("a stream id that is even or not rising"));
                    }
                    last_id = id;
                    let Some(outbox) = self.outbox.upgrade() else {
                        return Ok(());
                    };
                    inboxes.retain(|_, inbox| !inbox.is_closed());
                    if inboxes.len() >= MAX_STREAMS {
                        let refuse = Frame::Rst {
                            id,
                            status: REFUSED_STREAM,
                        };
                        outbox.send(refuse).await.ok();
                        continue;
                    }
                    let (inbox, reader) = mpsc::channel(INBOX);
                    if !fin {
                        inboxes.insert(id, inbox);
                    }
                    let reply = Frame::SynReply {
                        id,
                        fin: false,
                        headers: Bytes::new(),
                    };
                    outbox.send(reply).await.ok();
                    let writer = StreamWriter { id, outbox };
                    if self
                        .accept
                        .send(Incoming {
                            id,
                            headers,
                            reader,
                            writer,
                        })
                        .await
                        .is_err()
                    {
                        return Ok(());
                    }
                }
                Frame::Data { id, fin, data } => {
                    if let Some(inbox) = inboxes.get(&id)
                        && !data.is_empty()
                    {
                        // A reader that lost interest loses the data only.
                        inbox.send(data).await.ok();
                    }
                    if fin {
                        inboxes.remove(&id);
                    }
                }
                Frame::Rst { id, .. } => {
                    inboxes.remove(&id);
                }
                Frame::Ping { id } if id % 2 == 1 => {
                    if let Some(outbox) = self.outbox.upgrade() {
                        outbox.send(Frame::Ping { id }).await.ok();
                    }
                }
                Frame::SynReply { id, .. } => {
                    if let Some(outbox) = self.outbox.upgrade() {
                        outbox
                            .send(Frame::Rst {
                                id,
                                status: PROTOCOL_ERROR,
                            })
                            .await
                            .ok();
                    }
                }
                Frame::Ping { .. } | Frame::GoAway { .. } | Frame::Other => {}
            }
        }
        Ok(())
    }
}

async fn write_frames<W: AsyncWrite + Unpin>(
    mut io: W,
    mut frames: mpsc::Receiver<Frame>,
) -> Result<(), Error> {
    let mut encoder = Encoder::new();
    let mut buffer = BytesMut::new();
    while let Some(mut frame) = frames.recv().await {
        if let Frame::SynReply { headers, .. } = &mut frame
            && headers.is_empty()
        {
            *headers = encoder.encode(&Headers::default())?;
        }
        frame.encode(&mut buffer);
        // What else waits goes out with it.
        while buffer.len() < 64 << 10 {
            let Ok(mut next) = frames.try_recv() else {
                break;
            };
            if let Frame::SynReply { headers, .. } = &mut next
                && headers.is_empty()
            {
                *headers = encoder.encode(&Headers::default())?;
            }
            next.encode(&mut buffer);
        }
        io.write_all(&buffer).await?;
        io.flush().await?;
        buffer.clear();
    }
    io.shutdown().await?;
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use tokio::io::{DuplexStream, ReadHalf, WriteHalf};

    /// The client's half of SPDY, as far as tests need it.
    pub(crate) struct TestClient {
        frames: FrameReader<ReadHalf<DuplexStream>>,
        io: WriteHalf<DuplexStream>,
        encoder: Encoder,
        next_id: u32,
    }

    impl TestClient {
        pub(crate) fn new(io: DuplexStream) -> Self {
            let (read, write) = tokio::io::split(io);
            Self {
                frames: FrameReader::new(read),
                io: write,
                encoder: Encoder::new(),
                next_id: 1,
            }
        }

        async fn put(&mut self, frame: Frame) {
            let mut wire = BytesMut::new();
            frame.encode(&mut wire);
            self.io.write_all(&wire).await.unwrap();
        }

        pub(crate) async fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
            let id = self.next_id;
            self.next_id += 2;
            let headers = headers
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            let headers = self.encoder.encode(&Headers(headers.collect())).unwrap();
            self.put(Frame::SynStream {
                id,
                fin: false,
                headers,
            })
            .await;
            id
        }

        pub(crate) async fn send(&mut self, id: u32, data: &[u8], fin: bool) {
            self.put(Frame::Data {
                id,
                fin,
                data: Bytes::copy_from_slice(data),
            })
            .await;
        }

        /// The next data that is not empty or an end, by stream; `None` at the end.
        pub(crate) async fn data(&mut self) -> Option<(u32, Bytes, bool)> {
            loop {
                match self.frames.next().await.unwrap()? {
                    Frame::Data { id, fin, data } => return Some((id, data, fin)),
                    Frame::Rst { id, .. } => return Some((id, Bytes::new(), true)),
                    _ => {}
                }
            }
        }
    }

    #[tokio::test]
    async fn carries_streams() {
        let (near, far) = tokio::io::duplex(64);
        let (run, mut incoming) = session(near);
        let serve = async move {
            let mut first = incoming.recv().await.unwrap();
            assert_eq!(first.headers.get("StreamType"), Some("stdin"));
            let second = incoming.recv().await.unwrap();
            assert_eq!((first.id, second.id), (1, 3));
            assert_eq!(first.reader.recv().await.unwrap(), "abc");
            assert_eq!(first.reader.recv().await, None);
            second.writer.send("out".into()).await.unwrap();
            second.writer.finish().await.unwrap();
        };
        let drive = async {
            let mut client = TestClient::new(far);
            let stdin = client.open(&[("streamtype", "stdin")]).await;
            let stdout = client.open(&[("streamtype", "stdout")]).await;
            client.send(stdin, b"abc", false).await;
            client.send(stdin, b"", true).await;
            client.put(Frame::Ping { id: 1 }).await;
            let mut got = Vec::new();
            while let Some((id, data, fin)) = client.data().await {
                assert_eq!(id, stdout);
                got.extend_from_slice(&data);
                if fin {
                    break;
                }
            }
            assert_eq!(got, b"out");
        };
        let (result, (), ()) = tokio::join!(run, serve, drive);
        result.unwrap();
    }

    #[tokio::test]
    async fn ends_on_a_broken_peer() {
        for bad in [
            &b"\x80\x02\0\x01\0\0\0\0"[..],
            b"\x80\x03\0\x01\0\0\0\x0aabcdefghij",
            b"\0\0",
        ] {
            let (near, mut far) = tokio::io::duplex(64);
            let (run, _incoming) = session(near);
            far.write_all(bad).await.unwrap();
            drop(far);
            assert!(run.await.is_err(), "{bad:?}");
        }
    }
}

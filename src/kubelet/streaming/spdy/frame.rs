//! Frames: reading them off a connection and laying them out.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::Error;

const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const FLAG_FIN: u8 = 1;
const ID_MASK: u32 = 0x7fff_ffff;

/// Largest control frame taken.
const MAX_CONTROL: usize = 64 << 10;
/// Data frames are handed on in pieces of at most this size.
const MAX_PIECE: usize = 32 << 10;

/// A frame, its header block still compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    SynStream {
        id: u32,
        fin: bool,
        headers: Bytes,
    },
    SynReply {
        id: u32,
        fin: bool,
        headers: Bytes,
    },
    Rst {
        id: u32,
        status: u32,
    },
    Ping {
        id: u32,
    },
    GoAway {
        last: u32,
    },
    Data {
        id: u32,
        fin: bool,
        data: Bytes,
    },
    /// Of no interest to us, but not wrong.
    Other,
}

impl Frame {
    /// Appends the frame. Data must fit into 24 bits of length.
    pub(super) fn encode(&self, into: &mut BytesMut) {
        let mut control = |kind: u16, flags: u8, payload: &dyn Fn(&mut BytesMut)| {
            into.put_u16(0x8000 | VERSION);
            into.put_u16(kind);
            let at = into.len();
            into.put_u32(0);
            payload(into);
            let length = (into.len() - at - 4) as u32;
            into[at..at + 4].copy_from_slice(&(u32::from(flags) << 24 | length).to_be_bytes());
        };
        match self {
            Self::SynStream { id, fin, headers } => {
                control(SYN_STREAM, u8::from(*fin), &|into| {
                    into.put_u32(*id);
                    into.put_u32(0);
                    into.put_u16(0);
                    into.put_slice(headers);
                });
            }
            Self::SynReply { id, fin, headers } => control(SYN_REPLY, u8::from(*fin), &|into| {
                into.put_u32(*id);
                into.put_slice(headers);
            }),
            Self::Rst { id, status } => control(RST_STREAM, 0, &|into| {
                into.put_u32(*id);
                into.put_u32(*status);
            }),
            Self::Ping { id } => control(PING, 0, &|into| into.put_u32(*id)),
            Self::GoAway { last } => control(GOAWAY, 0, &|into| {
                into.put_u32(*last);
                into.put_u32(0);
            }),
            Self::Data { id, fin, data } => {
                into.put_u32(id & ID_MASK);
                into.put_u32(u32::from(*fin) << 24 | data.len() as u32 & 0xff_ffff);
                into.put_slice(data);
            }
            Self::Other => {}
        }
    }
}

/// Reads frames off a connection.
pub(super) struct FrameReader<R> {
    io: R,
    /// What is left of a data frame: stream, end flag and bytes.
    data: Option<(u32, bool, usize)>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(io: R) -> Self {
        Self { io, data: None }
    }

    /// The next frame or piece of one; `None` at a clean end.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, Error> {
        if let Some((id, fin, left)) = self.data.take() {
            return self.piece(id, fin, left).await.map(Some);
        }
        let mut head = [0; 8];
        let first = self.io.read(&mut head).await?;
        if first == 0 {
            return Ok(None);
        }
        self.io.read_exact(&mut head[first..]).await?;
        let mut head = &head[..];
        let word = head.get_u32();
        let rest = head.get_u32();
        let (flags, length) = ((rest >> 24) as u8, (rest & 0xff_ffff) as usize);
        let fin = flags & FLAG_FIN != 0;
        if word & !ID_MASK == 0 {
            return self.piece(word, fin, length).await.map(Some);
        }
        let (version, kind) = ((word >> 16) as u16 & 0x7fff, word as u16);
        if version != VERSION {
            return Err(Error::Protocol("a version that is not 3"));
        }
        if length > MAX_CONTROL {
            return Err(Error::Protocol("a control frame that is too large"));
        }
        let mut payload = BytesMut::zeroed(length);
        self.io.read_exact(&mut payload).await?;
        parse(kind, fin, payload.freeze()).map(Some)
    }

    async fn piece(&mut self, id: u32, fin: bool, left: usize) -> Result<Frame, Error> {
        let mut data = BytesMut::zeroed(left.min(MAX_PIECE));
        self.io.read_exact(&mut data).await?;
        let left = left - data.len();
        if left > 0 {
            self.data = Some((id, fin, left));
        }
        Ok(Frame::Data {
            id,
            fin: fin && left == 0,
            data: data.freeze(),
        })
    }
}

fn parse(kind: u16, fin: bool, mut payload: Bytes) -> Result<Frame, Error> {
    let short = || Error::Protocol("a control frame that is too short");
    let id = |payload: &mut Bytes| {
        payload
            .try_get_u32()
            .map(|id| id & ID_MASK)
            .map_err(|_| short())
    };
    Ok(match kind {
        SYN_STREAM => {
            let stream = id(&mut payload)?;
            // The associated stream, priority and slot.
            if payload.len() < 6 {
                return Err(short());
            }
            payload.advance(6);
            Frame::SynStream {
                id: stream,
                fin,
                headers: payload,
            }
        }
        SYN_REPLY => Frame::SynReply {
            id: id(&mut payload)?,
            fin,
            headers: payload,
        },
        RST_STREAM => {
            let stream = id(&mut payload)?;
            Frame::Rst {
                id: stream,
                status: payload.try_get_u32().map_err(|_| short())?,
            }
        }
        PING => Frame::Ping {
            id: payload.try_get_u32().map_err(|_| short())?,
        },
        GOAWAY => Frame::GoAway {
            last: id(&mut payload)?,
        },
        // SETTINGS, HEADERS, WINDOW_UPDATE and whatever else there may be. A
        // HEADERS frame would move the compression context; no client sends one.
        8 => return Err(Error::Protocol("a HEADERS frame")),
        _ => Frame::Other,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    fn frames() -> impl Strategy<Value = Frame> {
        let id = 1_u32..=ID_MASK;
        let bytes = prop::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from);
        prop_oneof![
            (id.clone(), any::<bool>(), bytes.clone())
                .prop_map(|(id, fin, headers)| Frame::SynStream { id, fin, headers }),
            (id.clone(), any::<bool>(), bytes.clone())
                .prop_map(|(id, fin, headers)| Frame::SynReply { id, fin, headers }),
            (id.clone(), any::<u32>()).prop_map(|(id, status)| Frame::Rst { id, status }),
            any::<u32>().prop_map(|id| Frame::Ping { id }),
            id.clone().prop_map(|last| Frame::GoAway { last }),
            (id, any::<bool>(), bytes).prop_map(|(id, fin, data)| Frame::Data { id, fin, data }),
        ]
    }

    fn read_all(data: &[u8]) -> Result<Vec<Frame>, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut reader = FrameReader::new(data);
            let mut frames = Vec::new();
            while let Some(frame) = reader.next().await? {
                frames.push(frame);
            }
            Ok(frames)
        })
    }

    proptest! {
        #[test]
        fn reads_what_it_lays_out(sent in prop::collection::vec(frames(), 0..10)) {
            let mut wire = BytesMut::new();
            sent.iter().for_each(|frame| frame.encode(&mut wire));
            prop_assert_eq!(read_all(&wire).unwrap(), sent);
        }

        #[test]
        fn survives_any_bytes(data in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read_all(&data);
        }
    }

    #[test]
    fn cuts_long_data_into_pieces() {
        let data = Bytes::from(vec![7; MAX_PIECE * 2 + 5]);
        let mut wire = BytesMut::new();
        Frame::Data {
            id: 3,
            fin: true,
            data,
        }
        .encode(&mut wire);
        let got = read_all(&wire).unwrap();
        let ends: Vec<bool> = got
            .iter()
            .map(|frame| matches!(frame, Frame::Data { fin: true, .. }))
            .collect();
        assert_eq!(ends, [false, false, true]);
    }

    #[test]
    fn refuses_what_is_wrong() {
        let check = |bytes: &[u8]| assert!(read_all(bytes).is_err(), "{bytes:?}");
        check(&[0x80, 2, 0, 1, 0, 0, 0, 0]);
        check(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]);
        check(&[0x80, 3, 0, 1, 0, 0, 0, 2, 0, 0]);
        check(&[0, 0, 0, 1, 0, 0, 0, 9, 1]);
    }
}

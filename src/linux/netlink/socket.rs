//! A netlink socket: requests, acknowledgements, dumps, batches.
//!
//! Blocking on purpose: the kernel answers a netlink request before `send`
//! returns, so there is nothing to wait for that a thread pool would help with.

use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname,
    recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use super::attributes::{Attributes, Parse, text};

pub(crate) const HEADER: usize = 16;
pub(crate) const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
pub(crate) const ACK: u16 = libc::NLM_F_ACK as u16;
pub(crate) const DUMP: u16 = libc::NLM_F_DUMP as u16;
pub(crate) const CREATE: u16 = libc::NLM_F_CREATE as u16;
pub(crate) const EXCL: u16 = libc::NLM_F_EXCL as u16;
pub(crate) const REPLACE: u16 = libc::NLM_F_REPLACE as u16;
pub(crate) const APPEND: u16 = libc::NLM_F_APPEND as u16;

const CAPPED: u16 = 0x100;
const ACK_TLVS: u16 = 0x200;
const ACK_MESSAGE: u16 = 1;

/// The kernel refused, or could not be asked.
#[derive(Debug, thiserror::Error)]
pub struct Error {
    operation: String,
    detail: Option<String>,
    #[source]
    errno: Errno,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.operation)?;
        if let Some(detail) = &self.detail {
            write!(f, " ({detail})")?;
        }
        Ok(())
    }
}

impl Error {
    pub(crate) fn new(operation: impl Into<String>, errno: Errno) -> Self {
        Self {
            operation: operation.into(),
            detail: None,
            errno,
        }
    }

    /// The kernel's reason.
    pub fn errno(&self) -> Errno {
        self.errno
    }

    /// Whether the object does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(
            self.errno,
            Errno::ENOENT | Errno::ENODEV | Errno::ESRCH | Errno::EADDRNOTAVAIL
        )
    }

    /// Whether the object exists already.
    pub fn is_already_there(&self) -> bool {
        self.errno == Errno::EEXIST
    }
}

/// A message to the kernel.
#[derive(Clone, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    /// The family's fixed header, such as `ifinfomsg`.
    pub(crate) header: &'a [u8],
    pub(crate) attributes: &'a Attributes,
}

impl Request<'_> {
    /// Appends the message in wire form.
    pub(crate) fn write(&self, sequence: u32, out: &mut Vec<u8>) {
        let body = self.header.len().next_multiple_of(4) + self.attributes.as_bytes().len();
        let length = u32::try_from(HEADER + body).expect("messages are far below 4 GiB");
        out.extend_from_slice(&length.to_ne_bytes());
        out.extend_from_slice(&self.kind.to_ne_bytes());
        out.extend_from_slice(&self.flags.to_ne_bytes());
        out.extend_from_slice(&sequence.to_ne_bytes());
        out.extend_from_slice(&0u32.to_ne_bytes());
        out.extend_from_slice(self.header);
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend_from_slice(self.attributes.as_bytes());
    }
}

/// A message from the kernel: type and everything behind the netlink header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) kind: u16,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// The attributes behind a family header of this many bytes.
    pub(crate) fn attributes(&self, header: usize) -> Parse<'_> {
        Parse(self.body.get(header..).unwrap_or_default())
    }
}

/// A refusal within a batch.
pub(crate) struct Refusal {
    pub(crate) sequence: u32,
    pub(crate) errno: Errno,
    pub(crate) detail: Option<String>,
}

impl Refusal {
    pub(crate) fn into_error(self, operation: String) -> Error {
        Error {
            operation,
            detail: self.detail,
            errno: self.errno,
        }
    }
}

/// One netlink socket. It belongs to the network namespace of the thread that
/// opened it, whichever thread uses it.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
    send_buffer: usize,
}

impl Socket {
    pub(crate) fn open(protocol: SockProtocol) -> Result<Self, Error> {
        let failed = |errno| Error::new("opening a netlink socket", errno);
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol).map_err(failed)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(failed)?;
        // The kernel answers within `send`; this only turns a kernel bug into an error.
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(10, 0)).map_err(failed)?;
        extended_errors(&fd);
        Ok(Self {
            fd,
            sequence: 0,
            buffer: vec![0; 64 * 1024],
            send_buffer: 0,
        })
    }

    /// Sends one request and waits for its acknowledgement.
    pub(crate) fn execute(
        &mut self,
        request: Request<'_>,
        operation: impl FnOnce() -> String,
    ) -> Result<Vec<Reply>, Error> {
        let flags = request.flags | REQUEST;
        let wants_ack = flags & DUMP != DUMP;
        let flags = if wants_ack { flags | ACK } else { flags };
        let sequence = self.next_sequence();
        let mut message = Vec::new();
        Request { flags, ..request }.write(sequence, &mut message);
        let outcome = self
            .send(&message)
            .map_err(|errno| Refusal {
                sequence,
                errno,
                detail: None,
            })
            .and_then(|()| self.replies(sequence));
        outcome.map_err(|refusal| refusal.into_error(operation()))
    }

    pub(crate) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// The port the kernel gave this socket.
    pub(crate) fn port(&self) -> Result<u32, Error> {
        getsockname::<NetlinkAddr>(self.fd.as_raw_fd())
            .map(|address| address.pid())
            .map_err(|errno| Error::new("reading the port of a netlink socket", errno))
    }

    /// Goes on counting from `next`, after a batch that numbered itself.
    pub(crate) fn skip_sequences(&mut self, next: u32) {
        self.sequence = next;
    }

    pub(crate) fn send(&mut self, message: &[u8]) -> Result<(), Errno> {
        // A datagram has to fit the send buffer with the kernel's own overhead.
        let wanted = message.len() * 2 + 64 * 1024;
        if wanted > self.send_buffer.max(128 * 1024) {
            setsockopt(&self.fd, sockopt::SndBufForce, &wanted)
                .or_else(|_| setsockopt(&self.fd, sockopt::SndBuf, &wanted))?;
            self.send_buffer = wanted;
        }
        send(self.fd.as_raw_fd(), message, MsgFlags::empty()).map(drop)
    }

    fn replies(&mut self, sequence: u32) -> Result<Vec<Reply>, Refusal> {
        let failed = |errno| Refusal {
            sequence,
            errno,
            detail: None,
        };
        let mut replies = Vec::new();
        loop {
            let received = self.receive().map_err(failed)?;
            for message in Messages(&self.buffer[..received]) {
                if message.sequence != sequence {
                    continue;
                }
                match message.ending() {
                    Some(None) => return Ok(replies),
                    Some(Some(refusal)) => return Err(refusal),
                    None => {
                        replies.push(Reply {
                            kind: message.kind,
                            body: message.body.to_vec(),
                        });
                    }
                }
            }
        }
    }

    /// Collects refusals until the message numbered `last` is answered, or the
    /// one numbered `first`, which stands for the batch as a whole, is refused.
    pub(crate) fn batch_outcome(&mut self, first: u32, last: u32) -> Result<(), Refusal> {
        let failed = |errno| Refusal {
            sequence: first,
            errno,
            detail: None,
        };
        let mut refused: Option<Refusal> = None;
        loop {
            let received = match self.receive() {
                Ok(received) => received,
                // Refusals of a long batch may overflow the receive buffer; one is enough.
                Err(Errno::ENOBUFS) if refused.is_some() => 0,
                Err(errno) => return Err(refused.unwrap_or_else(|| failed(errno))),
            };
            for message in Messages(&self.buffer[..received]) {
                let Some(ending) = message.ending() else {
                    continue;
                };
                let ours = message.sequence.wrapping_sub(first) <= last.wrapping_sub(first);
                if !ours {
                    continue;
                }
                if let Some(refusal) = ending {
                    // The first refusal is the cause, later ones are often its consequence.
                    refused.get_or_insert(refusal);
                }
                if message.sequence == last || (message.sequence == first && refused.is_some()) {
                    return refused.map_or(Ok(()), Err);
                }
            }
        }
    }

    fn receive(&mut self) -> Result<usize, Errno> {
        loop {
            let size = match recv(
                self.fd.as_raw_fd(),
                &mut self.buffer,
                MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC,
            ) {
                Err(Errno::EINTR) => continue,
                size => size?,
            };
            if size > self.buffer.len() {
                self.buffer.resize(size.next_power_of_two(), 0);
            }
            return recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty());
        }
    }
}

/// Asks for the kernel's own words on errors. Old kernels have none.
fn extended_errors(fd: &OwnedFd) {
    for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
        let on: libc::c_int = 1;
        // SAFETY: the pointer and length describe `on`, which outlives the call.
        unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_NETLINK,
                option,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            );
        }
    }
}

/// A message the kernel sent on its own.
pub(crate) struct Notification<'a> {
    pub(crate) kind: u16,
    /// Port of the socket that caused it.
    pub(crate) port: u32,
    pub(crate) body: &'a [u8],
}

/// The notifications of a datagram.
pub(crate) fn notifications(datagram: &[u8]) -> impl Iterator<Item = Notification<'_>> {
    Messages(datagram).map(|message| Notification {
        kind: message.kind,
        port: message.port,
        body: message.body,
    })
}

struct Message<'a> {
    kind: u16,
    port: u32,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

impl Message<'_> {
    /// `None` for data, `Some(None)` for success, `Some(Some(_))` for a refusal.
    fn ending(&self) -> Option<Option<Refusal>> {
        let error = i32::from(self.kind) == libc::NLMSG_ERROR;
        if !error && i32::from(self.kind) != libc::NLMSG_DONE {
            return None;
        }
        let code = self.body.get(..4).map_or(0, |code| {
            i32::from_ne_bytes(code.try_into().expect("the slice has four bytes"))
        });
        if code >= 0 {
            return Some(None);
        }
        let mut detail = None;
        if error && self.flags & ACK_TLVS != 0 {
            // Behind the code: the header of the request, and unless capped its body.
            let request = self.body.get(4..8).map_or(HEADER, |length| {
                let length = u32::from_ne_bytes(length.try_into().expect("four bytes"));
                if self.flags & CAPPED != 0 {
                    HEADER
                } else {
                    length as usize
                }
            });
            let attributes = self.body.get(4 + request.next_multiple_of(4)..);
            detail = Parse(attributes.unwrap_or_default())
                .find(ACK_MESSAGE)
                .map(text);
        }
        let errno = Errno::from_raw(-code);
        Some(Some(Refusal {
            sequence: self.sequence,
            errno,
            detail,
        }))
    }
}

struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let word = |at: usize| -> Option<[u8; 4]> { self.0.get(at..at + 4)?.try_into().ok() };
        let length = u32::from_ne_bytes(word(0)?) as usize;
        let [kind_low, kind_high, flags_low, flags_high] = word(4)?;
        let sequence = u32::from_ne_bytes(word(8)?);
        let port = u32::from_ne_bytes(word(12)?);
        let body = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes([kind_low, kind_high]),
            flags: u16::from_ne_bytes([flags_low, flags_high]),
            port,
            sequence,
            body,
        })
    }
}

//! The shim's end of a connection.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::protocol::{Reply, Request, frame, take_frame};

/// What a connection is for, once its request is known.
#[derive(Debug)]
pub(super) enum Role {
    /// Its request is not complete yet.
    Fresh,
    /// A helper works for it.
    Waiting,
    /// It wants to hear of changes.
    Watcher,
    /// It owns an exec'd process.
    Exec { pid: i32 },
    /// It follows a container's streams.
    Attached { id: String, stdin: bool },
}

/// A connection from the daemon.
#[derive(Debug)]
pub(super) struct Connection {
    socket: UnixStream,
    input: Vec<u8>,
    fds: Vec<OwnedFd>,
    output: Vec<u8>,
    pub(super) role: Role,
    /// Close once everything is sent.
    pub(super) closing: bool,
    /// The other side hung up, or broke the protocol.
    pub(super) dead: bool,
}

impl Connection {
    pub(super) fn new(socket: UnixStream) -> std::io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            input: Vec::new(),
            fds: Vec::new(),
            output: Vec::new(),
            role: Role::Fresh,
            closing: false,
            dead: false,
        })
    }

    /// Reads what is there; returns the request with its descriptors once it
    /// is complete.
    pub(super) fn receive(&mut self) -> Option<(Request, Vec<OwnedFd>)> {
        let mut buffer = [0; 8192];
        loop {
            match linux::fds::receive(&self.socket, &mut buffer, &mut self.fds) {
                Ok(0) => {
                    self.dead = true;
                    break;
                }
                Ok(count) if matches!(self.role, Role::Fresh) => {
                    self.input.extend_from_slice(&buffer[..count]);
                }
                // One request a connection: more is not of this protocol.
                Ok(_) => self.dead = true,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.dead = true;
                    break;
                }
            }
        }
        match take_frame(&mut self.input) {
            Ok(None) => None,
            Ok(Some(bytes)) => match serde_json::from_slice(&bytes) {
                Ok(request) => {
                    self.input = Vec::new();
                    Some((request, std::mem::take(&mut self.fds)))
                }
                Err(error) => {
                    self.fail(
                        false,
                        format!("the shim does not know this request: {error}"),
                    );
                    None
                }
            },
            Err(_) => {
                self.dead = true;
                None
            }
        }
    }

    /// Sends a reply; descriptors go with its first byte.
    pub(super) fn send(&mut self, reply: &Reply, fds: &[BorrowedFd<'_>]) {
        let Ok(bytes) = frame(reply) else {
            self.dead = true;
            return;
        };
        if fds.is_empty() || !self.output.is_empty() {
            self.output.extend(bytes);
            return self.flush();
        }
        match linux::fds::send(&self.socket, &bytes, fds) {
            Ok(count) => self.output.extend_from_slice(&bytes[count..]),
            Err(_) => self.dead = true,
        }
    }

    /// The last reply of this connection.
    pub(super) fn finish(&mut self, reply: &Reply) {
        self.send(reply, &[]);
        self.closing = true;
    }

    pub(super) fn fail(&mut self, cannot_run: bool, message: String) {
        self.finish(&Reply::Failed {
            cannot_run,
            message,
        });
    }

    /// Sends what is waiting, as far as the socket takes it.
    pub(super) fn flush(&mut self) {
        while !self.output.is_empty() {
            match linux::fds::send(&self.socket, &self.output, &[]) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.dead = true;
                    return;
                }
            }
        }
    }

    pub(super) fn wants_to_write(&self) -> bool {
        !self.output.is_empty()
    }

    /// Whether it can be dropped.
    pub(super) fn is_over(&self) -> bool {
        self.dead || self.closing && self.output.is_empty()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

//! One container as its shim holds it: streams, log, followers.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use jiff::Timestamp;

use super::log::{Lines, Log, Stream};
use super::protocol::{EXIT_FILE, Exited, Io, STARTED_FILE, Started};
use crate::files::replace;

/// How much may wait for a slow follower before the container has to.
const MAX_PENDING: usize = 256 << 10;

/// A copy of an output for someone attached.
#[derive(Debug)]
pub(super) struct Sink {
    pub(super) connection: u64,
    pub(super) stream: Stream,
    pub(super) file: File,
    pub(super) pending: Vec<u8>,
    pub(super) broken: bool,
}

impl Sink {
    pub(super) fn flush(&mut self) {
        while !self.pending.is_empty() {
            match self.file.write(&self.pending) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.broken = true;
                    self.pending.clear();
                }
            }
        }
    }
}

/// One output of the container.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) stream: Stream,
    pub(super) file: File,
    lines: Lines,
    /// Nothing more comes.
    pub(super) over: bool,
}

impl Output {
    pub(super) fn new(stream: Stream, fd: OwnedFd) -> std::io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self {
            stream,
            file: File::from(fd),
            lines: Lines::new(stream),
            over: false,
        })
    }
}

#[derive(Debug)]
pub(super) struct Container {
    pub(super) dir: PathBuf,
    pub(super) io: Io,
    pub(super) log: Log,
    /// Set once it runs.
    pub(super) pid: Option<i32>,
    pub(super) outputs: Vec<Output>,
    /// Write end of its input, or the terminal's master.
    pub(super) input: Option<OwnedFd>,
    pub(super) sinks: Vec<Sink>,
    pub(super) exit: Option<Exited>,
}

impl Container {
    /// Whether a follower is so far behind that reading has to wait.
    pub(super) fn is_throttled(&self) -> bool {
        self.sinks
            .iter()
            .any(|sink| sink.pending.len() > MAX_PENDING)
    }

    /// Reads one output once. Returns whether there may be more.
    pub(super) fn pump(&mut self, index: usize, buffer: &mut [u8]) -> bool {
        let Some(output) = self.outputs.get_mut(index) else {
            return false;
        };
        let at = Timestamp::now();
        let mut lines = Vec::new();
        let more = match output.file.read(buffer) {
            Ok(0) => {
                output.over = true;
                false
            }
            Ok(count) => {
                let bytes = &buffer[..count];
                output.lines.cut(bytes, at, &mut lines);
                for sink in self.sinks.iter_mut().filter(|s| s.stream == output.stream) {
                    if !sink.broken {
                        sink.pending.extend_from_slice(bytes);
                        sink.flush();
                    }
                }
                true
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            // A terminal nobody holds open says `EIO`.
            Err(_) => {
                output.over = true;
                false
            }
        };
        if output.over {
            output.lines.end(at, &mut lines);
        }
        if !lines.is_empty() {
            self.log.write(&lines);
        }
        more
    }

    /// Takes what is left in the pipes and closes them.
    pub(super) fn drain(&mut self, buffer: &mut [u8]) {
        for index in 0..self.outputs.len() {
            while !self.outputs[index].over && self.pump(index, buffer) {}
            let mut lines = Vec::new();
            self.outputs[index].lines.end(Timestamp::now(), &mut lines);
            if !lines.is_empty() {
                self.log.write(&lines);
            }
        }
        self.outputs.clear();
        self.input = None;
    }

    /// Notes on disk that it runs.
    pub(super) fn started(&mut self, pid: i32) -> std::io::Result<()> {
        self.pid = Some(pid);
        let started = Started {
            pid,
            at: crate::files::now(),
        };
        replace(&self.dir.join(STARTED_FILE), &serde_json::to_vec(&started)?)
    }

    /// Notes on disk that it is over.
    pub(super) fn ended(&mut self, exit: Exited) -> std::io::Result<()> {
        self.pid = None;
        let bytes = serde_json::to_vec(&exit)?;
        self.exit = Some(exit);
        replace(&self.dir.join(EXIT_FILE), &bytes)
    }

    /// Follows the given outputs for a connection.
    pub(super) fn follow(
        &mut self,
        connection: u64,
        stream: Stream,
        fd: OwnedFd,
    ) -> std::io::Result<()> {
        rustix::io::ioctl_fionbio(fd.as_fd(), true)?;
        self.sinks.push(Sink {
            connection,
            stream,
            file: File::from(fd),
            pending: Vec::new(),
            broken: false,
        });
        Ok(())
    }

    /// The connection hung up.
    pub(super) fn unfollow(&mut self, connection: u64) {
        self.sinks.retain(|sink| sink.connection != connection);
    }
}

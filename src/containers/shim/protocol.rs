//! What daemon and shim say to each other.
//!
//! A frame is a length (four bytes, little endian) and that much JSON; file
//! descriptors travel with a frame's first byte. Each connection carries one
//! request. `Watch`, `Exec` and `Attach` stay open: replies follow until one
//! side hangs up, and hanging up is how either side learns that the other is
//! gone.

use serde::{Deserialize, Serialize};

/// Largest frame; an exec'd command line with its environment fits.
pub(crate) const MAX_FRAME: usize = 4 << 20;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Changes from now on.
    Watch,
    /// Starts process 1 of a PID namespace the pod's containers share.
    PidNamespace,
    /// Creates and starts the container whose folder has that name.
    Start { id: String },
    /// Sends a signal to a container's first process, or kills all it has.
    Kill { id: String, signal: i32, all: bool },
    /// Runs `process` (an OCI process object) in a container. Without a
    /// terminal three descriptors come along: its stdin, stdout and stderr.
    Exec {
        id: String,
        process: Box<serde_json::value::RawValue>,
        tty: bool,
        uid: u32,
    },
    /// Copies output to the descriptors that come along, in that order.
    Attach {
        id: String,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
    /// Ends the input of a container.
    CloseInput { id: String },
    /// Forgets an ended container.
    Forget { id: String },
    /// Ends the shim; refused while a container runs.
    Shutdown,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Ok,
    /// A container or exec'd process runs. With a terminal the descriptor of
    /// its master comes along.
    Started {
        pid: i32,
    },
    /// Attached. The descriptor of the container's input comes along if it has one.
    Attached,
    /// The process of this exec or attach ended.
    Ended {
        code: i32,
        signal: i32,
    },
    /// To watchers: a container ended; its exit file is written.
    Exited {
        id: String,
    },
    /// It did not work.
    Failed {
        cannot_run: bool,
        message: String,
    },
}

/// What the daemon leaves in a container's folder for the shim.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Io {
    pub(crate) log: std::path::PathBuf,
    pub(crate) log_max_size: u64,
    pub(crate) log_max_files: u32,
    pub(crate) stdin: bool,
    pub(crate) stdin_once: bool,
    pub(crate) tty: bool,
    /// Owner of the pipes, so that the process may reopen `/dev/stdout`.
    pub(crate) uid: u32,
    /// Cgroup, relative to each hierarchy.
    pub(crate) cgroup: std::path::PathBuf,
}

/// `started.json`: the container ran.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Started {
    pub(crate) pid: i32,
    pub(crate) at: i64,
}

/// `exit.json`: the container is over.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Exited {
    pub(crate) code: i32,
    pub(crate) signal: i32,
    pub(crate) oom_killed: bool,
    pub(crate) at: i64,
    /// Why it never ran.
    pub(crate) message: String,
}

pub(crate) const IO_FILE: &str = "io.json";
pub(crate) const STARTED_FILE: &str = "started.json";
pub(crate) const EXIT_FILE: &str = "exit.json";

/// A frame's bytes.
pub(crate) fn frame<T: Serialize>(message: &T) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - 4;
    if length > MAX_FRAME {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            format!("a message of {length} bytes; at most {MAX_FRAME} are possible"),
        ));
    }
    // At most MAX_FRAME, so it fits.
    bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(bytes)
}

/// Takes the first whole frame off a buffer.
pub(crate) fn take_frame(buffer: &mut Vec<u8>) -> std::io::Result<Option<Vec<u8>>> {
    let Some(head) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*head) as usize;
    if length > MAX_FRAME {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            "an oversized frame",
        ));
    }
    if buffer.len() < 4 + length {
        return Ok(None);
    }
    let rest = buffer.split_off(4 + length);
    let mut whole = std::mem::replace(buffer, rest);
    whole.drain(..4);
    Ok(Some(whole))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in(texts in proptest::collection::vec(".{0,40}", 0..5), cut in 0usize..50) {
            let mut stream = Vec::new();
            for text in &texts {
                stream.extend(frame(text).unwrap());
            }
            let (mut buffer, mut out) = (Vec::new(), Vec::new());
            for piece in stream.chunks(cut + 1) {
                buffer.extend(piece);
                while let Some(bytes) = take_frame(&mut buffer).unwrap() {
                    out.push(serde_json::from_slice::<String>(&bytes).unwrap());
                }
            }
            prop_assert_eq!(out, texts);
            prop_assert!(buffer.is_empty());
        }
    }
}

//! The wire beneath exec, attach and port-forward.
//!
//! Two transports carry the same thing: WebSocket with a channel byte before
//! each message ([`websocket`]), and SPDY/3.1 with a stream for each channel
//! ([`spdy`], [`remote()`]). Port-forwarding over WebSocket tunnels a whole SPDY
//! connection ([`tunnel`]). Everything here is transport: what runs at the
//! other end is the server's business.

mod negotiate;
mod remote;
pub(crate) mod spdy;
mod tunnel;
mod websocket;

use bytes::Bytes;
use cri::TerminalSize;
use serde_json::json;
use tokio::sync::mpsc;

pub(crate) use negotiate::{ForwardTransport, RemoteProtocol, negotiate_forward, negotiate_remote};
pub(crate) use remote::serve_spdy;
pub(crate) use tunnel::Tunnel;
pub(crate) use websocket::serve_websocket;

/// Messages waiting in either direction; a slow side makes the other wait.
const QUEUE: usize = 16;

/// Streams of a remote command that the client asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) tty: bool,
}

/// An output of a remote command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Channel {
    Stdout,
    Stderr,
}

/// What goes to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Out {
    Data(Channel, Bytes),
    /// The last thing that is said.
    Finish(Outcome),
}

/// How a remote command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    Exit(i32),
    Error(String),
}

impl Outcome {
    /// As a `Status` object.
    fn status(&self) -> Bytes {
        let status = match self {
            Self::Success => json!({"metadata": {}, "status": "Success"}),
            Self::Exit(code) => json!({"metadata": {}, "status": "Failure",
                "message": self.text(), "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}}),
            Self::Error(message) => json!({"metadata": {}, "status": "Failure",
                "message": format!("Internal error occurred: {message}"),
                "reason": "InternalError",
                "details": {"causes": [{"message": message}]}, "code": 500}),
        };
        status.to_string().into()
    }

    /// For the protocols that send plain text; empty for success.
    fn text(&self) -> String {
        match self {
            Self::Success => String::new(),
            Self::Exit(code) => {
                format!("command terminated with non-zero exit code: exit status {code}")
            }
            Self::Error(message) => message.clone(),
        }
    }
}

/// The server's end of a remote command.
#[derive(Debug)]
pub(crate) struct Remote {
    /// What the client types; ends when it closes its input or hangs up.
    pub(crate) stdin: mpsc::Receiver<Bytes>,
    /// New terminal sizes.
    pub(crate) resize: mpsc::Receiver<TerminalSize>,
    /// Refused once the client has hung up.
    pub(crate) output: mpsc::Sender<Out>,
}

/// The transport's end of a remote command.
#[derive(Debug)]
struct Wire {
    stdin: mpsc::Sender<Bytes>,
    resize: mpsc::Sender<TerminalSize>,
    output: mpsc::Receiver<Out>,
}

fn remote() -> (Remote, Wire) {
    let (stdin_sender, stdin) = mpsc::channel(QUEUE);
    let (resize_sender, resize) = mpsc::channel(QUEUE);
    let (output, output_receiver) = mpsc::channel(QUEUE);
    let wire = Wire {
        stdin: stdin_sender,
        resize: resize_sender,
        output: output_receiver,
    };
    (
        Remote {
            stdin,
            resize,
            output,
        },
        wire,
    )
}

/// A terminal size as clients send it: `{"Width":80,"Height":24}`.
fn parse_size(message: &[u8]) -> Option<TerminalSize> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Size {
        width: u16,
        height: u16,
    }
    let size: Size = serde_json::from_slice(message).ok()?;
    Some(TerminalSize {
        width: size.width,
        height: size.height,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        let check = |outcome: Outcome, want: serde_json::Value| {
            let got: serde_json::Value =
                serde_json::from_slice(&outcome.status()).expect("it is JSON");
            assert_eq!(got, want);
        };
        check(
            Outcome::Success,
            json!({"metadata": {}, "status": "Success"}),
        );
        let message = "command terminated with non-zero exit code: exit status 3";
        check(
            Outcome::Exit(3),
            json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                "message": message,
                "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}}),
        );
        let size = TerminalSize {
            width: 80,
            height: 24,
        };
        assert_eq!(parse_size(br#"{"Width":80,"Height":24}"#), Some(size));
        assert_eq!(parse_size(b"{"), None);
    }
}

//! SPDY/3.1, the server's half, as far as Kubernetes' clients speak it.
//!
//! Streams are opened by the client only. Clients neither send nor heed window
//! updates, so there is no flow control by window: a stream that is not read
//! stops the connection's reader, and TCP passes that on.
//!
//! Not here, because no client uses it: server push, priorities, settings.

mod frame;
mod headers;
mod session;

#[cfg(test)]
pub(crate) use session::tests::TestClient;
pub(crate) use session::{Incoming, StreamWriter, session};

/// What a peer did wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The connection failed or ended within a frame.
    #[error("SPDY connection")]
    Io(#[from] std::io::Error),
    /// The peer broke the protocol.
    #[error("SPDY protocol violation: {0}")]
    Protocol(&'static str),
}

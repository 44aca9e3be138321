//! What every crate leans on: task supervision, shutdown, back-off and error chains.
//!
//! Nothing here knows Kubernetes. Tasks are named, owned and joined: a task
//! that is spawned through [`Supervisor`] is cancelled, drained and, past its
//! deadline, aborted; there is no spawn-and-forget in Karve.

#![forbid(unsafe_code)]

mod backoff;
mod chain;
mod shutdown;
mod supervisor;
pub mod time;

pub use backoff::Backoff;
pub use chain::Chain;
pub use shutdown::Shutdown;
pub use supervisor::{Outcome, Supervisor};

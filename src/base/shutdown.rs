//! The signal to stop.

use tokio_util::sync::CancellationToken;

/// A clonable handle that tells tasks to stop. Cancelling it is final.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// A handle nobody has cancelled yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks everything that holds this handle, or a child of it, to stop.
    pub fn trigger(&self) {
        self.0.cancel();
    }

    /// Whether stopping was asked for.
    pub fn is_triggered(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Completes once stopping is asked for.
    pub async fn triggered(&self) {
        self.0.cancelled().await;
    }

    /// A handle that stops with this one and can be stopped on its own.
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }

    /// Runs `future` until it ends or stopping is asked for; `None` if stopped.
    pub async fn guard<F: Future>(&self, future: F) -> Option<F::Output> {
        self.0.run_until_cancelled(future).await
    }
}

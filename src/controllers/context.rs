//! What every loop is given.

use std::sync::Arc;
use std::time::Duration;

use base::Supervisor;
use client::{Action, Client, Controller, EventRecorder, Informers, NamespacedName};

use crate::Config;
use crate::error::Result;

/// When to look again after someone else's write came first.
const AFTER_CONFLICT: Duration = Duration::from_millis(20);

/// Shared by all loops of one [`register`](crate::register).
pub(crate) struct Context {
    pub(crate) tasks: Arc<Supervisor>,
    pub(crate) informers: Informers,
    pub(crate) config: Config,
    pub(crate) events: EventRecorder,
}

impl Context {
    /// The client of a controller's own identity,
    /// `system:serviceaccount:kube-system:NAME`.
    pub(crate) fn client(&self, name: &str) -> Client {
        (self.config.clients)(name)
    }

    pub(crate) fn controller(&self, name: &'static str) -> Controller {
        Controller::new(name, self.tasks.clone())
    }

    pub(crate) fn recorder(&self, component: &str) -> EventRecorder {
        self.events.named(component)
    }
}

/// Runs a controller's workers. A conflict is not a failure: the key runs
/// again once the informer has had time to see the other write.
pub(crate) fn run<T>(
    controller: Controller,
    workers: usize,
    reconcile: impl Fn(NamespacedName) -> T + Send + Sync + 'static,
) where
    T: Future<Output = Result<Action>> + Send + 'static,
{
    controller.run(workers, move |key| {
        let outcome = reconcile(key);
        async move {
            match outcome.await {
                Err(error) if error.is_conflict() => {
                    tracing::debug!(%error, "conflict");
                    Ok(Action::After(AFTER_CONFLICT))
                }
                outcome => outcome,
            }
        }
    });
}

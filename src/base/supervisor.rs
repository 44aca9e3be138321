//! Named, owned and joined tasks.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::{Id, JoinSet};

use crate::Shutdown;

/// Owns tasks by name: cancels, drains and, past a deadline, aborts them.
///
/// Tasks receive a [`Shutdown`] and return when it triggers. A task that
/// panics takes the process down in release builds (`panic = "abort"`); in
/// tests it is reported by [`Supervisor::stop`].
#[derive(Debug, Default)]
pub struct Supervisor {
    shutdown: Shutdown,
    tasks: Mutex<Tasks>,
}

#[derive(Debug, Default)]
struct Tasks {
    set: JoinSet<()>,
    names: HashMap<Id, String>,
}

/// How [`Supervisor::stop`] ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Names of the tasks that panicked.
    pub panicked: Vec<String>,
    /// Names of the tasks that had not ended at the deadline and were aborted.
    pub aborted: Vec<String>,
}

impl Supervisor {
    /// A supervisor whose tasks stop when `shutdown` triggers.
    pub fn new(shutdown: Shutdown) -> Self {
        Self {
            shutdown,
            tasks: Mutex::default(),
        }
    }

    /// The signal this supervisor's tasks obey.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Starts a task. It is told to stop through the [`Shutdown`] it is given.
    pub fn spawn<F, T>(&self, name: impl Into<String>, task: F)
    where
        F: FnOnce(Shutdown) -> T,
        T: Future<Output = ()> + Send + 'static,
    {
        let future = task(self.shutdown.clone());
        let mut tasks = self.tasks.lock();
        while let Some(ended) = tasks.set.try_join_next_with_id() {
            if let Ok((id, ())) = ended {
                tasks.names.remove(&id);
            }
        }
        let id = tasks.set.spawn(future).id();
        tasks.names.insert(id, name.into());
    }

    /// Triggers shutdown, waits up to `deadline` for every task, aborts the rest.
    pub async fn stop(&self, deadline: Duration) -> Outcome {
        self.shutdown.trigger();
        let Tasks { mut set, mut names } = std::mem::take(&mut *self.tasks.lock());
        let mut outcome = Outcome {
            panicked: Vec::new(),
            aborted: Vec::new(),
        };
        let drain = async {
            while let Some(ended) = set.join_next_with_id().await {
                let (id, panicked) = match ended {
                    Ok((id, ())) => (id, false),
                    Err(error) => (error.id(), error.is_panic()),
                };
                if let Some(name) = names.remove(&id)
                    && panicked
                {
                    outcome.panicked.push(name);
                }
            }
        };
        if tokio::time::timeout(deadline, drain).await.is_err() {
            set.abort_all();
            outcome.aborted = names.into_values().collect();
            outcome.aborted.sort();
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn drains_the_willing_and_aborts_the_rest() {
        let supervisor = Supervisor::new(Shutdown::new());
        supervisor.spawn("willing", |stop| async move { stop.triggered().await });
        supervisor.spawn("deaf", |_| std::future::pending());
        let outcome = supervisor.stop(Duration::from_secs(1)).await;
        assert_eq!(
            outcome,
            Outcome {
                panicked: vec![],
                aborted: vec!["deaf".into()]
            }
        );
    }
}

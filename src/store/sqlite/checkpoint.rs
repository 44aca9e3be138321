//! Moving the write-ahead log into the database file without a stall.
//!
//! A checkpoint in the writer would keep every waiting transaction waiting for
//! two fsyncs and up to a thousand pages, so SQLite's own is off. When the log
//! has [`LOG_PAGES`], a passing thread copies it, passively, while writes go
//! on. What they added meanwhile is little; the writer copies that itself after
//! its next batch, and with the log copied to its end the next write starts the
//! log over. A read that holds an older snapshot at that moment postpones this
//! by a round. Should that happen again and again, until the log has
//! [`LARGE_PAGES`], the writer waits for such reads, up to [`PATIENCE`].

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;

use super::open::{BUSY_TIMEOUT, connect_checkpointer};
use super::{Config, Shared};

/// Pages in the log that make a checkpoint worthwhile: 4 MiB.
const LOG_PAGES: i32 = 1000;

/// Pages in the log that are worth a short wait.
const LARGE_PAGES: i32 = 4 * LOG_PAGES;

/// The longest that a write waits for reads to let go of the log.
const PATIENCE: Duration = Duration::from_millis(10);

thread_local! {
    /// Pages in the log after this thread's last commit.
    static PAGES: Cell<i32> = const { Cell::new(0) };
}

/// The writer's view of the log.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    running: Option<JoinHandle<()>>,
    /// Pages in the log that start the next round.
    next: i32,
    config: Config,
    path: PathBuf,
}

impl Checkpoints {
    /// Follows the log of `connection`, which commits on this thread.
    pub(crate) fn new(connection: &Connection, shared: &Arc<Shared>) -> Self {
        connection.wal_hook(Some(|_, pages| {
            PAGES.set(pages);
            Ok(())
        }));
        let (config, path) = (shared.config.clone(), shared.path.clone());
        Self {
            running: None,
            next: LOG_PAGES,
            config,
            path,
        }
    }

    /// Call it after a commit.
    pub(crate) fn after_commit(&mut self, connection: &Connection) {
        let pages = PAGES.get();
        if self.running.as_ref().is_some_and(JoinHandle::is_finished) {
            self.join();
            if pages < LARGE_PAGES {
                report(passive(connection));
            } else {
                report(patient(connection));
            }
            self.next = pages + LOG_PAGES;
        } else if self.running.is_none() && pages >= self.next {
            let (config, path) = (self.config.clone(), self.path.clone());
            let thread = std::thread::Builder::new().name("store-checkpoint".into());
            let work = move || {
                report(connect_checkpointer(&path, &config).and_then(|own| passive(&own)));
            };
            match thread.stack_size(256 << 10).spawn(work) {
                Ok(running) => self.running = Some(running),
                Err(error) => {
                    tracing::warn!(%error, "no thread for a checkpoint; the writer does it");
                    report(passive(connection));
                    self.next = pages + LOG_PAGES;
                }
            }
        } else if pages < LOG_PAGES {
            // The log has started over.
            self.next = LOG_PAGES;
        }
    }

    /// Call it when the disk was full: starting the log over takes no new room,
    /// and its pages may be most of what is left.
    pub(crate) fn make_room(&mut self, connection: &Connection) {
        self.join();
        report(patient(connection));
    }

    /// Waits for a checkpoint that is still going on.
    pub(crate) fn join(&mut self) {
        if let Some(running) = self.running.take()
            && running.join().is_err()
        {
            tracing::error!("a checkpoint panicked");
        }
    }
}

fn passive(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
}

fn patient(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(PATIENCE)?;
    let outcome = connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()));
    connection.busy_timeout(BUSY_TIMEOUT)?;
    outcome
}

/// A checkpoint that fails loses nothing: the log has it all, and the next one
/// tries again.
fn report(outcome: rusqlite::Result<()>) {
    if let Err(error) = outcome {
        tracing::warn!(%error, "checkpoint of the store failed; its log grows until one succeeds");
    }
}

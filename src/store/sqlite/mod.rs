//! The store over one SQLite database.
//!
//! # Layout
//!
//! `versions` is a log: one row per write, never updated, its id the revision
//! and the position within it, so that every write lands on the last page of
//! one B-tree. Which row is whose is known in memory only (`index`), built by
//! one scan at the start. With `a` put, `a` and `b` put in one transaction, and
//! `a` deleted:
//!
//! ```text
//! id (revision.position)  key  created  version  lease  value
//! 2.0                     a    2        1        0      x'31'
//! 3.0                     a    2        2        0      x'32'
//! 3.1                     b    3        1        0      x'33'
//! 4.0                     a    0        0        0      NULL      tombstone
//!
//! index:  a → head 4.0 (tombstone), older [2.0, 3.0]
//!         b → head 3.1 {created 3, version 1, lease 0}
//! ```
//!
//! `leases` holds each lease's id and granted time; `meta` two revisions:
//! `compacted`, before which nothing can be read, and `swept`, up to which the
//! rows that nobody can read are gone.
//!
//! # Threads
//!
//! ```text
//! callers ──bounded queue──► writer ──► versions ──► index ──► hub ──► watches
//!    │                         ▲
//!    ├─ short reads: index and cached values, on the spot
//!    ├─ other reads: a few connections, on the runtime's blocking threads
//!    └─ lease timer ───────────┘   asks the writer to end a lease
//! ```
//!
//! Nothing here wakes without a request or a lease's deadline.
//!
//! # Invariants
//!
//! - A write is answered, seen by reads and told to watches only once it is
//!   durable, and in revision order.
//! - A row enters the index after the table and leaves it before the table.
//! - Locks are taken in the order observer, index, leases, hub, values, and never across
//!   an await.
//!
//! # What was not chosen
//!
//! A second table or SQL index over keys, as kine has: every write would dirty
//! pages all over a second B-tree, which an SD card pays for, and every read of
//! now would walk it. `AUTO_VACUUM`: see `compact`. Checkpoints by SQLite
//! itself: see `checkpoint`. Memory-mapped reads: see `open`.

mod cache;
mod checkpoint;
mod compact;
mod duplicates;
#[cfg(test)]
mod faults;
mod hub;
mod index;
mod keys;
mod lease;
mod open;
mod read;
mod row;
mod txn;
mod watch;
mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, oneshot};

use self::cache::Values;
use self::hub::Hub;
use self::index::Index;
use self::lease::Leases;
use self::read::Readers;
use self::writer::{Command, Writer};
use crate::{
    Error, LeaseId, LeaseInfo, Observer, RangeRequest, RangeResult, Result, Revision, Store, Txn,
    TxnResult, WatchEvent, WatchRequest,
};

/// Settings of a [`Sqlite`] store.
#[derive(Clone, Debug)]
pub struct Config {
    /// Make every write durable before answering. Without it, a power cut
    /// loses the last writes or the database: for throw-away clusters only.
    pub fsync: bool,
    /// Bytes of latest values to keep in memory.
    pub cache_bytes: usize,
    /// Connections for reading.
    pub readers: usize,
    /// Page cache of the writing connection, in KiB.
    pub writer_cache_kib: u32,
    /// Page cache of each reading connection, in KiB.
    pub reader_cache_kib: u32,
    /// Transactions that may wait for the writer; the next caller waits for a place.
    pub write_queue: usize,
    /// Revisions that may wait for a watcher; one more ends its watch.
    pub watch_queue: usize,
    /// Shortest time between two unasked [`WatchEvent::Progress`]; they are
    /// sent along with writes only.
    pub progress_interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            fsync: true,
            cache_bytes: 1 << 20,
            readers: 2,
            writer_cache_kib: 512,
            reader_cache_kib: 256,
            write_queue: 1024,
            watch_queue: 1024,
            progress_interval: Duration::from_secs(10),
        }
    }
}

/// What a store has done since it was opened, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Transactions evaluated, reading ones, too.
    pub transactions: u64,
    /// Commits to disk; with many writers at once, fewer than transactions.
    pub commits: u64,
    /// Keys in the index.
    pub keys: u64,
    /// Watches that have caught up.
    pub watchers: u64,
}

/// A [`Store`] over one SQLite database. Dropping it, or [`Sqlite::close`],
/// finishes what is queued and ends its threads.
#[derive(Debug)]
pub struct Sqlite {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Command>,
    threads: Mutex<Option<Threads>>,
}

#[derive(Debug)]
struct Threads {
    writer: JoinHandle<()>,
    leases: JoinHandle<()>,
    /// Let go last, so that whoever opens next finds everything closed.
    _lock: File,
}

/// What callers, the writer and the watches share.
#[derive(Debug)]
struct Shared {
    path: PathBuf,
    config: Config,
    index: RwLock<Index>,
    leases: Leases,
    hub: Mutex<Hub>,
    values: Mutex<Values>,
    observer: Mutex<Observing>,
    readers: Readers,
    counters: Counters,
    /// SQLite's code for how the next commit fails.
    #[cfg(test)]
    fault: Mutex<Option<std::ffi::c_int>>,
}

/// Who is told of every write, if anybody.
#[derive(Default)]
struct Observing(Option<Weak<dyn Observer>>);

impl std::fmt::Debug for Observing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() {
            "Observing"
        } else {
            "Nobody"
        })
    }
}

#[derive(Debug, Default)]
struct Counters {
    transactions: AtomicU64,
    commits: AtomicU64,
}

impl Sqlite {
    /// Opens the database at `path`, or creates it there with mode 0600.
    ///
    /// Blocks while it reads the bookkeeping of every row. Fails with
    /// [`Error::Unusable`] if the file cannot be used, without touching it.
    pub fn open(path: impl AsRef<Path>, config: Config) -> Result<Arc<Self>> {
        let path = path.as_ref();
        let opened = open::open(path, &config)?;
        let leases = Leases::default();
        for (id, granted) in opened.leases {
            leases.grant(id, granted);
        }
        for (key, head) in opened.index.heads() {
            if head.lease != 0 {
                let key = Bytes::copy_from_slice(key);
                leases.lock().attach(&key, 0, head.lease);
            }
        }
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            leases,
            hub: Mutex::new(Hub::new(
                opened.index.revision,
                config.watch_queue,
                config.progress_interval,
            )),
            values: Mutex::new(Values::new(config.cache_bytes)),
            observer: Mutex::default(),
            readers: Readers::new(&config),
            counters: Counters::default(),
            #[cfg(test)]
            fault: Mutex::default(),
            index: RwLock::new(opened.index),
            config,
        });
        let (queue, commands) = mpsc::channel(shared.config.write_queue.max(1));
        let no_thread = |error: std::io::Error| {
            open::unusable(
                path,
                "no thread could be started for it",
                Some(Box::from(error)),
            )
        };
        let (connection, unfinished) = (opened.connection, opened.unfinished);
        let writer = {
            let shared = Arc::clone(&shared);
            thread("store-writer", move || {
                Writer::new(shared, connection, commands, unfinished).run();
            })
            .map_err(no_thread)?
        };
        let leases = {
            let (shared, queue) = (Arc::clone(&shared), queue.clone());
            let end = move |id| queue.blocking_send(Command::Expire(id)).is_ok();
            thread("store-leases", move || shared.leases.run_timer(end)).map_err(no_thread)?
        };
        let threads = Threads {
            writer,
            leases,
            _lock: opened.lock,
        };
        Ok(Arc::new(Self {
            shared,
            queue,
            threads: Mutex::new(Some(threads)),
        }))
    }

    /// Finishes what is queued, ends every watch and closes the database.
    /// Everything asked later fails with [`Error::Closed`].
    pub async fn close(&self) {
        // A writer that is gone already leaves nothing to finish.
        let _ = self.queue.send(Command::Stop).await;
        let Some(threads) = self.threads.lock().take() else {
            return;
        };
        let shared = Arc::clone(&self.shared);
        let ended = tokio::task::spawn_blocking(move || threads.join(&shared)).await;
        if ended.is_err() {
            tracing::warn!("the runtime ended before the store was closed");
        }
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        Stats {
            transactions: self.shared.counters.transactions.load(Ordering::Relaxed),
            commits: self.shared.counters.commits.load(Ordering::Relaxed),
            keys: self.shared.index.read().len() as u64,
            watchers: self.shared.hub.lock().len() as u64,
        }
    }

    /// Sends a command and waits for its answer.
    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T>>) -> Command,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.queue
            .send(command(reply))
            .await
            .map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }
}

impl Threads {
    fn join(self, shared: &Shared) {
        let writer = self.writer.join();
        shared.leases.close();
        let leases = self.leases.join();
        shared.hub.lock().close();
        shared.readers.close();
        if writer.is_err() || leases.is_err() {
            tracing::error!("a thread of the store panicked");
        }
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        let Some(threads) = self.threads.lock().take() else {
            return;
        };
        // The queue may be full; then the writer is told once it has taken some.
        let mut stop = Command::Stop;
        while let Err(mpsc::error::TrySendError::Full(back)) = self.queue.try_send(stop) {
            stop = back;
            std::thread::yield_now();
        }
        threads.join(&self.shared);
    }
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.into())
        .stack_size(1 << 20)
        .spawn(work)
}

#[async_trait]
impl Store for Sqlite {
    async fn range(&self, request: RangeRequest) -> Result<RangeResult> {
        read::range(&self.shared, request).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult> {
        duplicates::check(&txn)?;
        self.ask(|reply| Command::Txn(txn, reply)).await
    }

    async fn watch(&self, request: WatchRequest) -> Result<BoxStream<'static, Result<WatchEvent>>> {
        watch::watch(&self.shared, request)
    }

    fn observe(&self, observer: Weak<dyn Observer>) -> Option<Revision> {
        let mut observing = self.shared.observer.lock();
        observing.0 = Some(observer);
        Some(Revision(self.shared.index.read().revision))
    }

    async fn request_progress(&self) -> Result<()> {
        self.shared.hub.lock().tell_progress(true);
        Ok(())
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.ask(|reply| Command::Compact(revision.0, reply)).await
    }

    async fn lease_grant(&self, id: LeaseId, ttl: Duration) -> Result<LeaseId> {
        self.ask(|reply| Command::Grant(id, ttl, reply)).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Duration> {
        self.shared.leases.keep_alive(id.0)
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<()> {
        self.ask(|reply| Command::Revoke(id, reply)).await
    }

    async fn lease_info(&self, id: LeaseId) -> Result<LeaseInfo> {
        self.shared.leases.info(id.0)
    }

    async fn leases(&self) -> Result<Vec<LeaseId>> {
        Ok(self.shared.leases.ids())
    }

    async fn revision(&self) -> Result<Revision> {
        Ok(Revision(self.shared.index.read().revision))
    }

    async fn compacted_revision(&self) -> Result<Revision> {
        Ok(Revision(self.shared.index.read().compacted))
    }

    async fn size(&self) -> Result<u64> {
        let bytes = |suffix: &str| {
            let mut name = self.shared.path.as_os_str().to_owned();
            name.push(suffix);
            std::fs::metadata(PathBuf::from(name)).map_or(0, |metadata| metadata.len())
        };
        Ok(bytes("") + bytes("-wal"))
    }
}

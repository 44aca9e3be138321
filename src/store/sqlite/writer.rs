//! The one writer.
//!
//! Every change passes through a bounded queue to this thread. It takes all
//! that wait, evaluates them in order, writes the outcome in one SQLite
//! transaction with one fsync, makes it visible to readers and watchers, and
//! only then answers. The longer an fsync takes, the more transactions share
//! the next.
//!
//! When the commit fails, nothing of the batch becomes visible and all of its
//! callers get [`Error::Write`]. When it is unknown whether it failed (an fsync
//! that returns an error may have written, and asking again proves nothing),
//! the store also refuses every later write until it is opened again, which
//! reads what the disk really has; reads go on.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};

use super::Shared;
use super::checkpoint::Checkpoints;
use super::compact::{Compaction, Deleted, set_meta};
use super::hub::Hub;
use super::open::{COMPACTED, unusable};
use super::read::Table;
use super::txn::{Batch, Change, Evaluator, key_value};
use super::watch::event;
use crate::{Commit, Error, LeaseId, Result, Revision, Txn, TxnResult};

/// What the writer is asked to do.
#[derive(Debug)]
pub(crate) enum Command {
    Txn(Txn, oneshot::Sender<Result<TxnResult>>),
    Compact(u64, oneshot::Sender<Result<()>>),
    Grant(LeaseId, Duration, oneshot::Sender<Result<LeaseId>>),
    Revoke(LeaseId, oneshot::Sender<Result<()>>),
    /// A lease ran out.
    Expire(i64),
    /// Finish what is queued before it, and end.
    Stop,
}

/// An outcome that waits for the commit.
enum Answer {
    Txn(oneshot::Sender<Result<TxnResult>>, Result<TxnResult>),
    Done(oneshot::Sender<Result<()>>, Result<()>),
    Granted(oneshot::Sender<Result<LeaseId>>, Result<LeaseId>),
    Expired(i64),
}

/// Commands in one batch, and bytes of values after which it takes no more.
const MOST_COMMANDS: usize = 1024;
const MOST_BYTES: usize = 8 << 20;

/// When to try again to end a lease.
const RETRY: Duration = Duration::from_secs(5);

/// The writer thread's state.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    connection: Connection,
    queue: mpsc::Receiver<Command>,
    compaction: Option<Compaction>,
    /// Whether compaction waits for the next successful write.
    compaction_failed: bool,
    checkpoints: Checkpoints,
    /// Whether a commit's durability is unknown.
    refusing: bool,
}

impl Writer {
    /// Must be called on the thread it is to run on.
    pub(crate) fn new(
        shared: Arc<Shared>,
        connection: Connection,
        queue: mpsc::Receiver<Command>,
        unfinished: Option<u64>,
    ) -> Self {
        let checkpoints = Checkpoints::new(&connection, &shared);
        let compaction = unfinished.map(|revision| Compaction::new(revision, None));
        let (compaction_failed, refusing) = (false, false);
        Self {
            shared,
            connection,
            queue,
            compaction,
            compaction_failed,
            checkpoints,
            refusing,
        }
    }

    /// Works until told to stop or nobody can send any more.
    pub(crate) fn run(mut self) {
        let mut stop = false;
        while !stop {
            let compacting = self.compaction.is_some() && !self.compaction_failed;
            let first = match compacting {
                true => match self.queue.try_recv() {
                    Ok(command) => Some(command),
                    Err(TryRecvError::Empty) => {
                        self.compact_step();
                        continue;
                    }
                    Err(TryRecvError::Disconnected) => None,
                },
                false => self.queue.blocking_recv(),
            };
            let Some(first) = first else { break };
            let commands;
            (commands, stop) = self.drain(first);
            self.batch(commands);
            if self.compaction.as_ref().is_some_and(Compaction::walks) {
                self.compact_step();
            }
        }
        self.queue.close();
        self.checkpoints.join();
    }

    /// Takes all that wait; whether [`Command::Stop`] was among them.
    fn drain(&mut self, first: Command) -> (Vec<Command>, bool) {
        let mut commands = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(command) = next {
            match &command {
                Command::Stop => return (commands, true),
                Command::Txn(txn, _) => bytes += txn.bytes(),
                _ => {}
            }
            commands.push(command);
            // A store that refuses writes still answers reads; alone, so that
            // a write beside them does not spoil them.
            let full = commands.len() >= MOST_COMMANDS || bytes >= MOST_BYTES || self.refusing;
            next = if full {
                None
            } else {
                self.queue.try_recv().ok()
            };
        }
        (commands, false)
    }

    fn batch(&mut self, commands: Vec<Command>) {
        let mut transactions = 0;
        let (mut batch, mut answers) = {
            let index = self.shared.index.read();
            let leases = self.shared.leases.lock();
            let mut batch = Batch::new(index.revision);
            let mut answers = Vec::with_capacity(commands.len());
            let mut on = Evaluator {
                index: &index,
                batch: &mut batch,
                leases: &leases,
                values: &self.shared.values,
                table: Table {
                    path: &self.shared.path,
                    connection: &self.connection,
                },
            };
            for command in commands {
                let answer = match command {
                    Command::Txn(txn, reply) => {
                        transactions += 1;
                        Answer::Txn(reply, on.run(txn))
                    }
                    Command::Compact(at, reply) => Answer::Done(reply, compact(&mut on, at)),
                    Command::Grant(id, ttl, reply) => {
                        Answer::Granted(reply, grant(&mut on, id, ttl))
                    }
                    Command::Revoke(id, reply) => Answer::Done(reply, on.end_lease(id.0)),
                    Command::Expire(id) if leases.is_ending(id) => match on.end_lease(id) {
                        Ok(()) => Answer::Expired(id),
                        // Someone revoked it in this very batch.
                        Err(_) => continue,
                    },
                    Command::Expire(_) | Command::Stop => continue,
                };
                answers.push(answer);
            }
            (batch, answers)
        };
        if batch.writes() {
            match self.commit(&batch) {
                Ok(()) => {
                    self.publish(&mut batch);
                    self.compaction_failed = false;
                    self.checkpoints.after_commit(&self.connection);
                }
                Err(failure) => {
                    self.fail(&mut answers, failure);
                    transactions = 0;
                }
            }
        }
        self.shared
            .counters
            .transactions
            .fetch_add(transactions, Ordering::Relaxed);
        for answer in answers {
            // Whoever does not wait any more has no use for the answer.
            match answer {
                Answer::Txn(reply, outcome) => drop(reply.send(outcome)),
                Answer::Done(reply, outcome) => drop(reply.send(outcome)),
                Answer::Granted(reply, outcome) => drop(reply.send(outcome)),
                Answer::Expired(_) => {}
            }
        }
    }

    /// Makes a batch durable.
    fn commit(&mut self, batch: &Batch) -> std::result::Result<(), Failure> {
        if self.refusing {
            return Err(Failure::Refused);
        }
        let compaction = self.compaction.as_ref();
        let write = |connection: &Connection| {
            insert(connection, batch)?;
            compaction
                .map(|compaction| compaction.delete(connection, true))
                .transpose()
        };
        let deleted = match transact(&self.shared, &mut self.connection, write) {
            Ok(deleted) => deleted,
            Err(failure) => {
                self.failed(&failure);
                return Err(failure);
            }
        };
        self.deleted(deleted);
        Ok(())
    }

    /// Draws the consequences of a failed commit for those to come.
    fn failed(&mut self, failure: &Failure) {
        match failure {
            Failure::Failed(error) if is_full(error) => {
                self.checkpoints.make_room(&self.connection);
            }
            Failure::Unknown(_) => self.refusing = true,
            Failure::Failed(_) | Failure::Refused => {}
        }
    }

    fn deleted(&mut self, deleted: Option<Deleted>) {
        if let (Some(compaction), Some(deleted)) = (&mut self.compaction, deleted)
            && compaction.deleted(&deleted)
        {
            self.compaction = None;
        }
    }

    /// Makes a durable batch visible, in revision order.
    fn publish(&mut self, batch: &mut Batch) {
        let shared = Arc::clone(&self.shared);
        // Held from before the index moves until the observer knows, so that
        // one that comes in between is not told of less than it was promised.
        let observing = shared.observer.lock();
        {
            let mut index = shared.index.write();
            for change in &batch.log {
                index.push(&change.key, change.version);
            }
            index.revision = batch.revision;
            if let Some(compacted) = batch.compacted {
                index.compacted = compacted;
            }
        }
        if let Some(observer) = observing.0.as_ref().and_then(Weak::upgrade) {
            observer.observe(&commits(batch, false), Revision(batch.revision));
        }
        drop(observing);
        if let Some(compacted) = batch.compacted {
            self.compaction = Some(Compaction::new(compacted, self.compaction.take()));
        }
        {
            let mut leases = shared.leases.lock();
            for change in &batch.log {
                let before = change.prev.map_or(0, |prev| prev.lease);
                leases.attach(&change.key, before, change.version.lease);
            }
            for id in &batch.ended {
                leases.remove(*id);
            }
        }
        for (id, millis) in &batch.granted {
            if !batch.ended.contains(id) {
                shared.leases.grant(*id, Duration::from_millis(*millis));
            }
        }
        let mut hub = shared.hub.lock();
        if hub.len() > 0 {
            self.read_previous(batch, &hub);
            hub.publish(&commits(batch, true), batch.revision);
        } else {
            hub.publish(&[], batch.revision);
        }
        drop(hub);
        let mut values = shared.values.lock();
        for change in batch.log.drain(..) {
            if let Some(prev) = change.prev {
                values.remove(prev.slot.row());
            }
            if !change.version.slot.is_tombstone() {
                values.insert(change.version.slot.row(), change.value);
            }
        }
    }

    /// Fetches the values before that a watcher wants and nobody has at hand.
    fn read_previous(&self, batch: &mut Batch, hub: &Hub) {
        let table = Table {
            path: &self.shared.path,
            connection: &self.connection,
        };
        for change in &mut batch.log {
            let Some(prev) = change.prev else { continue };
            if change.prev_value.is_none() && hub.wants_previous(&change.key) {
                match table.value(prev.slot) {
                    Ok(value) => change.prev_value = Some(value),
                    Err(error) => {
                        let error = base::Chain(&error).to_string();
                        tracing::error!(error, "an event goes without the version before");
                    }
                }
            }
        }
    }

    /// Turns the answers of a batch that was not committed into errors.
    fn fail(&self, answers: &mut [Answer], failure: Failure) {
        let error = self.shared.errors_of(failure);
        for answer in answers {
            match answer {
                Answer::Txn(_, outcome) if outcome.is_ok() => *outcome = Err(error()),
                Answer::Done(_, outcome) if outcome.is_ok() => *outcome = Err(error()),
                Answer::Granted(_, outcome) if outcome.is_ok() => *outcome = Err(error()),
                Answer::Expired(id) => {
                    let error = base::Chain(&error()).to_string();
                    tracing::warn!(lease = *id, error, "ending a lease; trying again");
                    self.shared.leases.retry(*id, RETRY);
                }
                _ => {}
            }
        }
    }

    /// One step of a compaction, on its own.
    fn compact_step(&mut self) {
        let Some(compaction) = &mut self.compaction else {
            return;
        };
        if compaction.walks() {
            compaction.walk(&self.shared.index);
            return;
        }
        if self.refusing {
            self.compaction_failed = true;
            return;
        }
        let compaction = &*compaction;
        let delete = |connection: &Connection| compaction.delete(connection, false);
        match transact(&self.shared, &mut self.connection, delete) {
            Ok(deleted) => {
                self.deleted(Some(deleted));
                self.checkpoints.after_commit(&self.connection);
            }
            Err(failure) => {
                self.failed(&failure);
                self.compaction_failed = true;
                let error = self.shared.errors_of(failure)();
                let error = base::Chain(&error).to_string();
                tracing::warn!(error, "compaction waits for the next write");
            }
        }
    }
}

/// How a commit failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nothing of it is on disk.
    Failed(rusqlite::Error),
    /// It may or may not be on disk.
    Unknown(rusqlite::Error),
    /// An earlier one failed so that this was not tried.
    Refused,
}

/// An error that all of a batch share.
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
struct SharedError(Arc<rusqlite::Error>);

impl Shared {
    /// Makes as many errors of a failure as are needed.
    fn errors_of(&self, failure: Failure) -> impl Fn() -> Error {
        let (source, unknown) = match failure {
            Failure::Failed(error) => (Some(SharedError(Arc::new(error))), false),
            Failure::Unknown(error) => (Some(SharedError(Arc::new(error))), true),
            Failure::Refused => (None, true),
        };
        move || match &source {
            Some(source) if !unknown => Error::Write(Box::new(source.clone())),
            source => {
                let reason = "a write failed and may or may not be on disk, so all further writes \
                              are refused; check the disk and the kernel's log, then restart";
                let source = source.clone().map(|source| Box::from(source) as _);
                unusable(&self.path, reason, source)
            }
        }
    }
}

fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
}

/// Runs `write` in a transaction and makes it durable.
fn transact<T>(
    shared: &Shared,
    connection: &mut Connection,
    write: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> std::result::Result<T, Failure> {
    let begun = connection.transaction_with_behavior(TransactionBehavior::Immediate);
    let transaction = begun.map_err(Failure::Failed)?;
    // Dropping it rolls back, also what spilled into the log: without a commit
    // frame behind them, those pages do not count.
    let written = write(&transaction).map_err(Failure::Failed)?;
    #[cfg(test)]
    let committed = match shared.fault.lock().take() {
        Some(code) => Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(code),
            None,
        )),
        None => transaction.commit(),
    };
    #[cfg(not(test))]
    let committed = transaction.commit();
    committed.map_err(|error| match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy) => Failure::Failed(error),
        _ => Failure::Unknown(error),
    })?;
    shared.counters.commits.fetch_add(1, Ordering::Relaxed);
    Ok(written)
}

fn insert(connection: &Connection, batch: &Batch) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO versions (id, created, version, lease, key, value) VALUES (?, ?, ?, ?, ?, ?)",
    )?;
    for change in &batch.log {
        let [id, created, version, lease] = change.version.encode();
        let value = (!change.version.slot.is_tombstone()).then_some(change.value.as_ref());
        insert.execute((id, created, version, lease, change.key.as_ref(), value))?;
    }
    for (id, millis) in &batch.granted {
        let millis = i64::try_from(*millis).unwrap_or(i64::MAX);
        let sql = "INSERT INTO leases (id, ttl) VALUES (?, ?)";
        connection.prepare_cached(sql)?.execute((id, millis))?;
    }
    for id in &batch.ended {
        connection
            .prepare_cached("DELETE FROM leases WHERE id = ?")?
            .execute([id])?;
    }
    if let Some(compacted) = batch.compacted {
        set_meta(connection, COMPACTED, compacted)?;
    }
    Ok(())
}

fn compact(on: &mut Evaluator<'_>, at: u64) -> Result<()> {
    let compacted = on.batch.compacted.unwrap_or(on.index.compacted);
    if at <= compacted {
        return Err(Error::Compacted(Revision(compacted)));
    }
    if at > on.index.revision {
        return Err(Error::Future(Revision(on.index.revision)));
    }
    on.batch.compacted = Some(at);
    Ok(())
}

fn grant(on: &mut Evaluator<'_>, id: LeaseId, ttl: Duration) -> Result<LeaseId> {
    let taken = |on: &Evaluator<'_>, id| {
        on.leases.contains(id) || on.batch.granted.iter().any(|(granted, _)| *granted == id)
    };
    let id = match id.0 {
        0 => loop {
            let id = fastrand::i64(1..);
            if !taken(on, id) {
                break id;
            }
        },
        id if taken(on, id) => return Err(Error::LeaseExists),
        id => id,
    };
    let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    on.batch.granted.push((id, millis));
    Ok(LeaseId(id))
}

/// One list of events per revision, with the versions before where they are at
/// hand and wanted.
fn commits(batch: &Batch, with_previous: bool) -> Vec<Arc<Commit>> {
    let same = |a: &Change, b: &Change| a.version.slot.revision() == b.version.slot.revision();
    let commit = |changes: &[Change]| {
        let events = changes.iter().map(|change| {
            let prev = change.prev.filter(|_| with_previous);
            let prev = prev.zip(change.prev_value.clone());
            let prev = prev.map(|(prev, value)| key_value(change.key.clone(), &prev, value));
            event(
                change.key.clone(),
                &change.version,
                change.value.clone(),
                prev,
            )
        });
        let revision = Revision(changes[0].version.slot.revision());
        Arc::new(Commit {
            revision,
            events: events.collect(),
        })
    };
    batch.log.chunk_by(same).map(commit).collect()
}

//! Reading: from memory where that is all it takes, else on a small pool of
//! connections, off the async runtime's threads.
//!
//! A read that needs the table takes its SQLite snapshot while it holds the
//! index's lock. Rows enter the table before the index, and leave the index
//! before the table, so every row the index named is in the snapshot, and what
//! compaction deletes meanwhile is not missed.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension};
use tokio::sync::Semaphore;

use super::index::{Found, Index};
use super::keys::KeyRange;
use super::open::{broken, connect_reader, damaged, unusable};
use super::row::{Slot, Version, decode_value};
use super::txn::key_value;
use super::{Config, Shared};
use crate::{Error, RangeRequest, RangeResult, Result, Revision};

/// Keys a read may visit on the caller's thread; more go to the pool.
const INLINE_KEYS: usize = 256;

/// The table of versions, through some connection.
#[derive(Clone, Copy)]
pub(crate) struct Table<'a> {
    pub(crate) path: &'a Path,
    pub(crate) connection: &'a Connection,
}

impl Table<'_> {
    /// A version's value.
    pub(crate) fn value(&self, slot: Slot) -> Result<Bytes> {
        self.row("SELECT value FROM versions WHERE id = ?", slot, |row| {
            let value = decode_value(slot.row(), row.get_ref(0)?);
            Ok(value
                .map(Bytes::copy_from_slice)
                .map_err(|bad| damaged(self.path, bad)))
        })
    }

    /// What the index does not keep of an older version.
    pub(crate) fn version(&self, slot: Slot) -> Result<Version> {
        let sql = "SELECT id, created, version, lease FROM versions WHERE id = ?";
        self.row(sql, slot, |row| {
            let columns = [
                row.get_ref(0)?,
                row.get_ref(1)?,
                row.get_ref(2)?,
                row.get_ref(3)?,
            ];
            Ok(Version::decode(columns).map_err(|bad| damaged(self.path, bad)))
        })
    }

    fn row<T>(
        &self,
        sql: &str,
        slot: Slot,
        read: impl FnOnce(&rusqlite::Row<'_>) -> rusqlite::Result<Result<T>>,
    ) -> Result<T> {
        let query = || {
            let mut statement = self.connection.prepare_cached(sql)?;
            statement.query_row([slot.row()], read).optional()
        };
        query()
            .map_err(|error| broken(self.path, error))?
            .unwrap_or_else(|| {
                let row = slot.row();
                let reason = format!("row {row} of versions is missing; restore a snapshot of it");
                Err(unusable(self.path, reason, None))
            })
    }
}

/// A few connections for reading, opened when they are first needed.
#[derive(Debug)]
pub(crate) struct Readers {
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    /// A pool of up to `config.readers`.
    pub(crate) fn new(config: &Config) -> Self {
        let permits = Arc::new(Semaphore::new(config.readers.max(1)));
        Self {
            idle: Mutex::default(),
            permits,
        }
    }

    /// Closes it: who waits is told, idle connections go.
    pub(crate) fn close(&self) {
        self.permits.close();
        self.idle.lock().clear();
    }
}

/// A consistent view of the table, at or after the index it was taken with.
pub(crate) struct Snapshot<'a> {
    transaction: rusqlite::Transaction<'a>,
    path: &'a Path,
}

impl<'a> Snapshot<'a> {
    /// Takes it; call it with the index locked.
    fn take(path: &'a Path, connection: &'a Connection) -> Result<Self> {
        let begin = || {
            let transaction = connection.unchecked_transaction()?;
            // A deferred transaction starts with its first read.
            transaction
                .prepare_cached("SELECT 1 FROM meta LIMIT 1")?
                .exists([])?;
            Ok(transaction)
        };
        let transaction = begin().map_err(|error| broken(path, error))?;
        Ok(Self { transaction, path })
    }

    /// The table in it.
    pub(crate) fn table(&self) -> Table<'_> {
        Table {
            path: self.path,
            connection: &self.transaction,
        }
    }
}

/// Runs `plan` on the locked index, and `read` with what it returned on a
/// snapshot that holds all the index names, on a thread for blocking work.
pub(crate) async fn with_snapshot<P, T>(
    shared: &Arc<Shared>,
    plan: impl FnOnce(&Index) -> Result<P> + Send + 'static,
    read: impl FnOnce(&Shared, &Snapshot<'_>, P) -> Result<T> + Send + 'static,
) -> Result<T>
where
    T: Send + 'static,
{
    let permit = Arc::clone(&shared.readers.permits).acquire_owned().await;
    let permit = permit.map_err(|_| Error::Closed)?;
    let shared = Arc::clone(shared);
    let work = tokio::task::spawn_blocking(move || {
        let path = shared.path.as_path();
        let idle = shared.readers.idle.lock().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => connect_reader(path, &shared.config).map_err(|error| broken(path, error))?,
        };
        let outcome = (|| {
            let index = shared.index.read();
            let planned = plan(&index)?;
            let snapshot = Snapshot::take(path, &connection)?;
            drop(index);
            read(&shared, &snapshot, planned)
        })();
        if !shared.readers.permits.is_closed() {
            shared.readers.idle.lock().push(connection);
        }
        drop(permit);
        outcome
    });
    match work.await {
        Ok(outcome) => outcome,
        // The runtime is going down and has dropped the work.
        Err(error) if error.is_cancelled() => Err(Error::Closed),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Which versions a range returns.
struct Plan {
    revision: u64,
    count: u64,
    found: Vec<(Bytes, Found)>,
}

/// Answers a range request.
pub(crate) async fn range(shared: &Arc<Shared>, request: RangeRequest) -> Result<RangeResult> {
    if let Some(result) = inline(shared, &request)? {
        return Ok(result);
    }
    let for_plan = request.clone();
    with_snapshot(
        shared,
        move |index| plan(index, &for_plan, usize::MAX).map(|plan| plan.expect("no bound")),
        move |shared, snapshot, plan| {
            let table = snapshot.table();
            let mut kvs = Vec::with_capacity(plan.found.len());
            for (key, found) in plan.found {
                let version = match found {
                    Found::Head(version) => version,
                    Found::Older(slot) => table.version(slot)?,
                };
                let row = version.slot.row();
                let value = match request.keys_only {
                    true => Bytes::new(),
                    false => {
                        let cached = shared.values.lock().get(row);
                        cached.map_or_else(|| table.value(version.slot), Ok)?
                    }
                };
                // Whoever reads one key now may read it again; a long list
                // would only push everything else out.
                if request.end.is_none() && !request.keys_only && matches!(found, Found::Head(_)) {
                    shared.values.lock().insert(row, value.clone());
                }
                kvs.push(key_value(key, &version, value));
            }
            Ok(finish(&request, plan.revision, plan.count, kvs))
        },
    )
    .await
}

/// Answers from memory, if the answer is short and there.
fn inline(shared: &Shared, request: &RangeRequest) -> Result<Option<RangeResult>> {
    let index = shared.index.read();
    let Some(plan) = plan(&index, request, INLINE_KEYS)? else {
        return Ok(None);
    };
    let mut values = shared.values.lock();
    let mut kvs = Vec::with_capacity(plan.found.len());
    for (key, found) in plan.found {
        let Found::Head(version) = found else {
            return Ok(None);
        };
        let value = match request.keys_only {
            true => Bytes::new(),
            false => match values.get(version.slot.row()) {
                Some(value) => value,
                None => return Ok(None),
            },
        };
        kvs.push(key_value(key, &version, value));
    }
    Ok(Some(finish(request, plan.revision, plan.count, kvs)))
}

fn finish(
    request: &RangeRequest,
    revision: u64,
    count: u64,
    kvs: Vec<crate::KeyValue>,
) -> RangeResult {
    let more = !request.count_only && count > kvs.len() as u64;
    RangeResult {
        revision: Revision(revision),
        kvs,
        more,
        count,
    }
}

/// Finds the versions; `None` if that visits more than `budget` keys.
fn plan(index: &Index, request: &RangeRequest, budget: usize) -> Result<Option<Plan>> {
    let at = match request.revision.filter(|revision| revision.0 != 0) {
        None => index.revision,
        Some(Revision(at)) if at > index.revision => {
            return Err(Error::Future(Revision(index.revision)));
        }
        Some(Revision(at)) if at < index.compacted => {
            return Err(Error::Compacted(Revision(index.compacted)));
        }
        Some(Revision(at)) => at,
    };
    let most = match (request.count_only, request.limit) {
        (true, _) => 0,
        (false, 0) => usize::MAX,
        (false, limit) => limit,
    };
    let range = KeyRange::new(request.key.clone(), request.end.clone());
    let mut plan = Plan {
        revision: index.revision,
        count: 0,
        found: Vec::new(),
    };
    for (visited, (key, entry)) in index.range(&range).enumerate() {
        if visited == budget {
            return Ok(None);
        }
        let live = entry.at(at).filter(|found| !found.slot().is_tombstone());
        if let Some(found) = live {
            plan.count += 1;
            if plan.found.len() < most {
                plan.found.push((range.share(key), found));
            }
        }
    }
    Ok(Some(plan))
}

/// A row of history, as a watch reads it.
pub(crate) struct HistoryRow {
    pub(crate) key: Bytes,
    pub(crate) version: Version,
    pub(crate) value: Bytes,
}

/// Where a chunk of history ends, whatever comes first; always behind a whole
/// revision.
const CHUNK_ROWS: usize = 2000;
const CHUNK_SCANNED: usize = 20_000;
const CHUNK_BYTES: usize = 1 << 20;

impl Table<'_> {
    /// Reads the writes to `range` of the revisions `from..=to` in order, or
    /// of the first of them; and the first revision that was not read.
    pub(crate) fn history(
        &self,
        range: &KeyRange,
        from: u64,
        to: u64,
    ) -> Result<(Vec<HistoryRow>, u64)> {
        let failed = |error| broken(self.path, error);
        let sql = "SELECT id, created, version, lease, key, value FROM versions \
                   WHERE id >= ? AND id < ? ORDER BY id";
        let mut statement = self.connection.prepare_cached(sql).map_err(failed)?;
        let bounds = [super::row::first_row(from), super::row::first_row(to + 1)];
        let mut rows = statement.query(bounds).map_err(failed)?;
        let mut read = Vec::new();
        let (mut scanned, mut bytes, mut last) = (0, 0, from);
        while let Some(row) = rows.next().map_err(failed)? {
            let column = |n| row.get_ref(n).map_err(failed);
            let version = Version::decode([column(0)?, column(1)?, column(2)?, column(3)?])
                .map_err(|bad| damaged(self.path, bad))?;
            let revision = version.slot.revision();
            let full = read.len() >= CHUNK_ROWS || scanned >= CHUNK_SCANNED || bytes >= CHUNK_BYTES;
            if full && revision > last {
                return Ok((read, revision));
            }
            last = revision;
            scanned += 1;
            let row = version.slot.row();
            let copied = |value: std::result::Result<&[u8], _>| {
                value
                    .map(Bytes::copy_from_slice)
                    .map_err(|bad| damaged(self.path, bad))
            };
            let key: ValueRef<'_> = column(4)?;
            let key = super::row::decode_key(row, key).map_err(|bad| damaged(self.path, bad))?;
            if !range.contains(key) {
                continue;
            }
            let key = Bytes::copy_from_slice(key);
            let value = copied(decode_value(row, column(5)?))?;
            bytes += key.len() + value.len();
            read.push(HistoryRow {
                key,
                version,
                value,
            });
        }
        Ok((read, to + 1))
    }
}

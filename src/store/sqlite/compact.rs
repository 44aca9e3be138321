//! Compaction in small steps between the writer's batches.
//!
//! From the moment a compaction is acknowledged, older revisions are refused.
//! What is left is housekeeping, and a write never waits for more than one step
//! of it:
//!
//! 1. Walk the index, a slice of keys at a time, taking superseded versions out
//!    and noting their rows.
//! 2. Sort the rows and delete them in that order: a page of the table, which
//!    holds neighbours in history, is then rewritten about once and not once
//!    per row. While there are writes, a few rows go along in their
//!    transactions and cost no fsync; otherwise a larger step has its own.
//!
//! Rows leave the index first, so no read looks for a row that is gone. A
//! process that dies in between finds `swept` behind `compacted` at its next
//! start and begins again. Free pages are reused by the rows to come; the file
//! does not shrink (vacuuming would write every moved page twice, and the next
//! minutes' history needs the room anyway).

use std::collections::VecDeque;
use std::ops::Bound;

use parking_lot::RwLock;
use rusqlite::Connection;

use super::index::Index;
use super::open::SWEPT;

/// Keys one step looks at, with the index locked.
const STEP_KEYS: usize = 2000;
/// Rows one step takes out of the index, or deletes when nothing else is to do.
const STEP_ROWS: usize = 500;
/// Rows that go along with a batch of writes.
const ALONGSIDE_ROWS: usize = 50;

/// A compaction that is going on.
#[derive(Debug)]
pub(crate) struct Compaction {
    revision: u64,
    /// Where the walk goes on; `None` once it is through.
    cursor: Option<Bound<Box<[u8]>>>,
    /// Rows to delete; in order once the walk is through.
    rows: VecDeque<i64>,
}

impl Compaction {
    /// Starts one, on top of `before` if that is not through.
    pub(crate) fn new(revision: u64, before: Option<Self>) -> Self {
        let rows = before.map(|before| before.rows).unwrap_or_default();
        Self {
            revision,
            cursor: Some(Bound::Unbounded),
            rows,
        }
    }

    /// Whether the next step walks the index, which needs no transaction.
    pub(crate) fn walks(&self) -> bool {
        self.cursor.is_some()
    }

    /// Walks a slice of the index.
    pub(crate) fn walk(&mut self, index: &RwLock<Index>) {
        let Some(cursor) = self.cursor.take() else {
            return;
        };
        let mut rows = Vec::new();
        let next = index
            .write()
            .compact(self.revision, cursor, STEP_KEYS, STEP_ROWS, &mut rows);
        self.rows.extend(rows);
        if next.is_none() {
            self.rows.make_contiguous().sort_unstable();
        }
        self.cursor = next;
    }

    /// Deletes rows within the caller's transaction: a few alongside writes,
    /// more when it has that transaction for itself. Returns how many, for
    /// [`Compaction::deleted`] once that is committed.
    pub(crate) fn delete(
        &self,
        connection: &Connection,
        alongside: bool,
    ) -> rusqlite::Result<Deleted> {
        if self.walks() {
            return Ok(Deleted {
                rows: 0,
                last: false,
            });
        }
        let most = if alongside { ALONGSIDE_ROWS } else { STEP_ROWS };
        let rows = self.rows.len().min(most);
        let mut statement = connection.prepare_cached("DELETE FROM versions WHERE id = ?")?;
        for row in self.rows.iter().take(rows) {
            statement.execute([row])?;
        }
        let last = rows == self.rows.len();
        if last {
            set_meta(connection, SWEPT, self.revision)?;
        }
        Ok(Deleted { rows, last })
    }

    /// Goes on behind rows whose deletion was committed; whether it is through.
    pub(crate) fn deleted(&mut self, deleted: &Deleted) -> bool {
        self.rows.drain(..deleted.rows);
        deleted.last
    }
}

/// What a transaction deletes.
#[derive(Debug)]
pub(crate) struct Deleted {
    rows: usize,
    last: bool,
}

/// Sets a number in `meta`.
pub(crate) fn set_meta(connection: &Connection, name: &str, value: u64) -> rusqlite::Result<()> {
    let sql = "INSERT INTO meta (name, value) VALUES (?, ?) \
               ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    let value = i64::try_from(value).expect("revisions have 43 bits");
    connection.prepare_cached(sql)?.execute((name, value))?;
    Ok(())
}

//! Evaluating transactions against the index and what their batch wrote so far.
//!
//! A batch is what one SQLite transaction will hold. Its transactions are
//! evaluated one after the other, each seeing those before it, and nothing is
//! written while that happens: a transaction that fails is taken back by
//! cutting the batch's log, and its neighbours never notice.

use std::collections::BTreeMap;

use bytes::Bytes;
use parking_lot::Mutex;

use super::cache::Values;
use super::index::{Entry, Found, Index};
use super::keys::KeyRange;
use super::lease::Book;
use super::read::Table;
use super::row::{MAX_WRITES, Slot, Version};
use crate::{
    Compare, CompareOp, CompareTarget, Error, KeyValue, LeaseId, Op, OpResult, RangeRequest,
    RangeResult, Result, Revision, Txn, TxnResult,
};

/// One write of a batch.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) key: Bytes,
    pub(crate) version: Version,
    /// Empty in a tombstone.
    pub(crate) value: Bytes,
    /// The version before, if the key was there.
    pub(crate) prev: Option<Version>,
    /// Its value, if it was at hand.
    pub(crate) prev_value: Option<Bytes>,
}

/// The writes that wait for one commit.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Published revision before it.
    base: u64,
    /// Revision after the transactions evaluated so far.
    pub(crate) revision: u64,
    /// Writes in order.
    pub(crate) log: Vec<Change>,
    /// Where in the log a key's writes are.
    keys: BTreeMap<Bytes, Vec<usize>>,
    /// Where in the log the current transaction starts.
    mark: usize,
    /// Leases granted, with their time in milliseconds.
    pub(crate) granted: Vec<(i64, u64)>,
    /// Leases ended.
    pub(crate) ended: Vec<i64>,
    /// Revision to compact at.
    pub(crate) compacted: Option<u64>,
}

impl Batch {
    /// An empty batch on top of `revision`.
    pub(crate) fn new(revision: u64) -> Self {
        Self {
            base: revision,
            revision,
            ..Self::default()
        }
    }

    /// Whether there is anything to commit.
    pub(crate) fn writes(&self) -> bool {
        !self.log.is_empty()
            || !self.granted.is_empty()
            || !self.ended.is_empty()
            || self.compacted.is_some()
    }

    /// Revision that a read in the current transaction is answered at.
    fn current(&self) -> u64 {
        self.revision + u64::from(self.log.len() > self.mark)
    }

    fn push(&mut self, change: Change) {
        self.keys
            .entry(change.key.clone())
            .or_default()
            .push(self.log.len());
        self.log.push(change);
    }

    /// Ends the current transaction: it has happened, or it never did.
    fn end(&mut self, keep: bool) {
        if keep {
            self.revision = self.current();
        } else {
            for change in self.log.drain(self.mark..) {
                if let Some(writes) = self.keys.get_mut(&change.key) {
                    writes.pop();
                    if writes.is_empty() {
                        self.keys.remove(&change.key);
                    }
                }
            }
        }
        self.mark = self.log.len();
    }

    /// The batch's last write of a key that a read at `revision` sees.
    fn at(&self, writes: &[usize], revision: u64) -> Option<Found> {
        let seen = |at: &&usize| self.log[**at].version.slot.revision() <= revision;
        let last = writes.iter().rev().find(seen)?;
        Some(Found::Head(self.log[*last].version))
    }

    fn value(&self, slot: Slot) -> Option<Bytes> {
        let at = self
            .log
            .partition_point(|change| change.version.slot.row() < slot.row());
        let change = self
            .log
            .get(at)
            .filter(|change| change.version.slot == slot)?;
        Some(change.value.clone())
    }
}

/// What a transaction is evaluated on.
pub(crate) struct Evaluator<'a> {
    pub(crate) index: &'a Index,
    pub(crate) batch: &'a mut Batch,
    pub(crate) leases: &'a Book,
    pub(crate) values: &'a Mutex<Values>,
    pub(crate) table: Table<'a>,
}

impl Evaluator<'_> {
    /// Runs a transaction: its writes are in the batch afterwards, or, if it
    /// fails, nothing of it is.
    pub(crate) fn run(&mut self, txn: Txn) -> Result<TxnResult> {
        let result = self.txn(txn);
        self.batch.end(result.is_ok());
        let mut result = result?;
        stamp(&mut result, Revision(self.batch.revision));
        Ok(result)
    }

    /// Ends a lease and deletes its keys, in one revision unless they are more
    /// than one can hold.
    pub(crate) fn end_lease(&mut self, id: i64) -> Result<()> {
        let known = self.leases.contains(id) || self.batch.granted.iter().any(|(g, _)| *g == id);
        if !known || self.batch.ended.contains(&id) {
            return Err(Error::LeaseNotFound);
        }
        let written = self.batch.log.iter().map(|change| &change.key);
        let mut keys: Vec<Bytes> = self.leases.keys(id).chain(written).cloned().collect();
        keys.sort();
        keys.dedup();
        for key in keys {
            let Some(head) = self.head(&key).filter(|head| head.lease == id) else {
                continue;
            };
            if self.position() == MAX_WRITES {
                self.batch.end(true);
            }
            self.write_tombstone(key, head, None)?;
        }
        self.batch.end(true);
        self.batch.ended.push(id);
        Ok(())
    }

    fn txn(&mut self, txn: Txn) -> Result<TxnResult> {
        let mut succeeded = true;
        for compare in &txn.compares {
            if !self.holds(compare)? {
                succeeded = false;
                break;
            }
        }
        let steps = if succeeded { txn.success } else { txn.failure };
        let results = steps
            .into_iter()
            .map(|step| self.step(step))
            .collect::<Result<_>>()?;
        Ok(TxnResult {
            revision: Revision::default(),
            succeeded,
            results,
        })
    }

    fn step(&mut self, step: Op) -> Result<OpResult> {
        match step {
            Op::Range(request) => self.range(request).map(OpResult::Range),
            Op::Put {
                key,
                value,
                lease,
                prev_kv,
            } => self.put(key, value, lease, prev_kv).map(OpResult::Put),
            Op::Delete { key, end, prev_kv } => self.delete(KeyRange::new(key, end), prev_kv),
            Op::Txn(txn) => self.txn(txn).map(OpResult::Txn),
        }
    }

    fn put(
        &mut self,
        key: Bytes,
        value: Bytes,
        lease: LeaseId,
        prev_kv: bool,
    ) -> Result<Option<KeyValue>> {
        let granted = || self.batch.granted.iter().any(|(id, _)| *id == lease.0);
        if lease.0 != 0
            && (!(self.leases.contains(lease.0) || granted())
                || self.batch.ended.contains(&lease.0))
        {
            return Err(Error::LeaseNotFound);
        }
        let prev = self.head(&key).filter(|head| !head.slot.is_tombstone());
        let returned = match prev {
            Some(version) if prev_kv => Some(self.key_value(&key, version, true)?),
            _ => None,
        };
        let slot = self.next_slot(false)?;
        let version = Version {
            slot,
            created: prev.map_or(slot.revision(), |prev| prev.created),
            version: prev.map_or(0, |prev| prev.version) + 1,
            lease: lease.0,
        };
        let prev_value = match &returned {
            Some(kv) => Some(kv.value.clone()),
            None => prev.and_then(|prev| self.value_at_hand(prev.slot)),
        };
        self.batch.push(Change {
            key,
            version,
            value,
            prev,
            prev_value,
        });
        Ok(returned)
    }

    fn delete(&mut self, range: KeyRange, prev_kv: bool) -> Result<OpResult> {
        let (found, count) = self.find(&range, u64::MAX, usize::MAX);
        let mut returned = Vec::new();
        for (key, found) in found {
            let version = self.version(found)?;
            let value = match prev_kv {
                true => {
                    let kv = self.key_value(&key, version, true)?;
                    let value = kv.value.clone();
                    returned.push(kv);
                    Some(value)
                }
                false => None,
            };
            self.write_tombstone(key, version, value)?;
        }
        Ok(OpResult::Delete(count, returned))
    }

    fn write_tombstone(&mut self, key: Bytes, prev: Version, value: Option<Bytes>) -> Result<()> {
        let slot = self.next_slot(true)?;
        let prev_value = value.or_else(|| self.value_at_hand(prev.slot));
        let version = Version {
            slot,
            created: 0,
            version: 0,
            lease: 0,
        };
        self.batch.push(Change {
            key,
            version,
            value: Bytes::new(),
            prev: Some(prev),
            prev_value,
        });
        Ok(())
    }

    fn position(&self) -> u64 {
        (self.batch.log.len() - self.batch.mark) as u64
    }

    fn next_slot(&self, tombstone: bool) -> Result<Slot> {
        if self.position() == MAX_WRITES {
            let what = format!("a transaction can write at most {MAX_WRITES} keys");
            return Err(Error::Write(what.into()));
        }
        Ok(Slot::new(
            self.batch.revision + 1,
            self.position(),
            tombstone,
        ))
    }

    fn range(&mut self, request: RangeRequest) -> Result<RangeResult> {
        let current = self.batch.current();
        let at = match request.revision.filter(|revision| revision.0 != 0) {
            None => u64::MAX,
            Some(Revision(at)) if at > current => return Err(Error::Future(Revision(current))),
            Some(Revision(at)) if at < self.index.compacted => {
                return Err(Error::Compacted(Revision(self.index.compacted)));
            }
            Some(Revision(at)) => at,
        };
        let most = match (request.count_only, request.limit) {
            (true, _) => 0,
            (false, 0) => usize::MAX,
            (false, limit) => limit,
        };
        let range = KeyRange::new(request.key, request.end);
        let (found, count) = self.find(&range, at, most);
        let mut kvs = Vec::with_capacity(found.len());
        for (key, found) in found {
            let version = self.version(found)?;
            kvs.push(self.key_value(&key, version, !request.keys_only)?);
        }
        let more = !request.count_only && count > kvs.len() as u64;
        Ok(RangeResult {
            revision: Revision(current),
            kvs,
            more,
            count,
        })
    }

    fn holds(&mut self, compare: &Compare) -> Result<bool> {
        let range = KeyRange::new(compare.key.clone(), compare.end.clone());
        let (found, _) = self.find(&range, u64::MAX, usize::MAX);
        if found.is_empty() {
            return Ok(compare_absent(compare));
        }
        for (key, found) in found {
            let version = self.version(found)?;
            let ordering = match &compare.target {
                CompareTarget::CreateRevision(target) => version.created.cmp(&target.0),
                CompareTarget::ModRevision(target) => version.slot.revision().cmp(&target.0),
                CompareTarget::Version(target) => version.version.cmp(target),
                CompareTarget::Lease(target) => version.lease.cmp(&target.0),
                CompareTarget::Value(target) => {
                    self.key_value(&key, version, true)?.value.cmp(target)
                }
            };
            if !holds(compare.op, ordering) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The latest version of a key, a tombstone perhaps.
    fn head(&self, key: &Bytes) -> Option<Version> {
        match self.batch.keys.get(key).and_then(|writes| writes.last()) {
            Some(last) => Some(self.batch.log[*last].version),
            None => self.index.get(key).map(Entry::head).copied(),
        }
    }

    /// The first `most` keys of a range that are there at `revision`, and how
    /// many there are in all.
    fn find(&self, range: &KeyRange, at: u64, most: usize) -> (Vec<(Bytes, Found)>, u64) {
        let mut found = Vec::new();
        let mut count = 0;
        let mut take = |key: &[u8], version: Option<Found>| {
            if let Some(version) = version.filter(|version| !version.slot().is_tombstone()) {
                count += 1;
                if found.len() < most {
                    found.push((range.share(key), version));
                }
            }
        };
        let Some(bounds) = range.bounds() else {
            return (found, count);
        };
        let mut writes = self.batch.keys.range::<[u8], _>(bounds).peekable();
        for (key, entry) in self.index.range(range) {
            while let Some((written, at_log)) = writes.next_if(|(written, _)| ***written < *key) {
                take(written, self.batch.at(at_log, at));
            }
            let over = writes.next_if(|(written, _)| ***written == *key);
            let over = over.and_then(|(_, at_log)| self.batch.at(at_log, at));
            take(key, over.or_else(|| entry.at(at)));
        }
        for (written, at_log) in writes {
            take(written, self.batch.at(at_log, at));
        }
        (found, count)
    }

    fn version(&self, found: Found) -> Result<Version> {
        match found {
            Found::Head(version) => Ok(version),
            Found::Older(slot) => self.table.version(slot),
        }
    }

    fn key_value(&self, key: &Bytes, version: Version, with_value: bool) -> Result<KeyValue> {
        let value = match with_value {
            false => Bytes::new(),
            true => match self.value_at_hand(version.slot) {
                Some(value) => value,
                None => self.table.value(version.slot)?,
            },
        };
        Ok(key_value(key.clone(), &version, value))
    }

    fn value_at_hand(&self, slot: Slot) -> Option<Bytes> {
        match slot.revision() > self.batch.base {
            true => self.batch.value(slot),
            false => self.values.lock().get(slot.row()),
        }
    }
}

/// Puts the pieces of a version together.
pub(crate) fn key_value(key: Bytes, version: &Version, value: Bytes) -> KeyValue {
    KeyValue {
        key,
        value,
        create_revision: Revision(version.created),
        mod_revision: Revision(version.slot.revision()),
        version: version.version,
        lease: LeaseId(version.lease),
    }
}

fn stamp(result: &mut TxnResult, revision: Revision) {
    result.revision = revision;
    for result in &mut result.results {
        if let OpResult::Txn(nested) = result {
            stamp(nested, revision);
        }
    }
}

/// An absent key has zero in every field, but no value to compare.
fn compare_absent(compare: &Compare) -> bool {
    let ordering = match &compare.target {
        CompareTarget::CreateRevision(target) | CompareTarget::ModRevision(target) => {
            0.cmp(&target.0)
        }
        CompareTarget::Version(target) => 0.cmp(target),
        CompareTarget::Lease(target) => 0.cmp(&target.0),
        CompareTarget::Value(_) => return false,
    };
    holds(compare.op, ordering)
}

fn holds(op: CompareOp, ordering: std::cmp::Ordering) -> bool {
    match op {
        CompareOp::Equal => ordering.is_eq(),
        CompareOp::NotEqual => ordering.is_ne(),
        CompareOp::Greater => ordering.is_gt(),
        CompareOp::Less => ordering.is_lt(),
    }
}

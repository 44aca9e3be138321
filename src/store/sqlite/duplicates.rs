//! No transaction writes a key twice, whichever branches of it run.
//!
//! This is etcd's rule and is judged before the transaction takes the writer's
//! time: no two puts of a key, and no put of a key in a range that is deleted.
//! The two branches of a nested transaction may put the same key, since only
//! one of them runs.

use std::collections::HashSet;

use bytes::Bytes;

use super::keys::KeyRange;
use crate::{Error, Op, Result, Txn};

/// Refuses a transaction that could write a key twice.
pub(crate) fn check(txn: &Txn) -> Result<()> {
    for branch in [&txn.success, &txn.failure] {
        // Most transactions have one step.
        if branch.len() > 1 || matches!(branch.first(), Some(Op::Txn(_))) {
            Writes::of(branch)?;
        }
    }
    Ok(())
}

#[derive(Default)]
struct Writes {
    puts: HashSet<Bytes>,
    deletes: Vec<KeyRange>,
}

impl Writes {
    fn of(steps: &[Op]) -> Result<Self> {
        let mut all = Self::default();
        for step in steps {
            if let Op::Delete { key, end, .. } = step {
                all.deletes.push(KeyRange::new(key.clone(), end.clone()));
            }
        }
        for step in steps {
            let Op::Txn(txn) = step else { continue };
            let success = Self::of(&txn.success)?;
            let failure = Self::of(&txn.failure)?;
            for key in success.puts.union(&failure.puts) {
                all.check_put(key)?;
            }
            all.puts.extend(success.puts);
            all.puts.extend(failure.puts);
            all.deletes.extend(success.deletes);
            all.deletes.extend(failure.deletes);
        }
        for step in steps {
            if let Op::Put { key, .. } = step {
                all.check_put(key)?;
                all.puts.insert(key.clone());
            }
        }
        Ok(all)
    }

    fn check_put(&self, key: &Bytes) -> Result<()> {
        let deleted = || self.deletes.iter().any(|range| range.contains(key));
        if self.puts.contains(key) || deleted() {
            return Err(Error::DuplicateKey);
        }
        Ok(())
    }
}

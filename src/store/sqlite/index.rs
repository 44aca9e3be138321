//! The index in memory: for every key, where its versions are.
//!
//! A key costs its bytes and about a hundred more. Its latest version is held
//! in full, because compares and reads of now want it; of older ones only the
//! row is known, eight bytes each, and the table tells the rest.
//!
//! Say `a` was put in revisions 2 and 3, deleted in 4 and put again in 6, and
//! `b` was put in 5 (`2.0` is the first write of revision 2, `t` a tombstone):
//!
//! ```text
//! a: head 6.0 {created 6, version 1}   older [2.0, 3.0, 4.0t]
//! b: head 5.0 {created 5, version 1}   older []
//! ```
//!
//! A read at revision 3 takes the last version not behind it: `a` from row 3.0,
//! no `b`. At 4 and 5 `a` is a tombstone and so absent.
//!
//! Compacting at revision 5 keeps what a read at 5 or later sees, and every row
//! of revision 5 itself, so that a watch can still start there:
//!
//! ```text
//! compact(5):  a: head 6.0  older []   (2.0 and 3.0 are superseded by 4.0t,
//!                                       which nothing needs from 5 on)
//!              b: head 5.0  older []
//! compact(3) would have been:
//!              a: head 6.0  older [3.0, 4.0t]
//! ```

use std::collections::BTreeMap;
use std::ops::Bound;

use super::keys::KeyRange;
use super::row::{Slot, Version};

/// Every key and its versions, as of the last published revision.
#[derive(Debug)]
pub(crate) struct Index {
    /// Boxed, because `Bytes` would take 16 more here and another allocation
    /// for each key that was read once.
    keys: BTreeMap<Box<[u8]>, Entry>,
    /// Last published revision.
    pub(crate) revision: u64,
    /// Oldest revision that can be read; 0 while nothing was compacted.
    pub(crate) compacted: u64,
}

/// One key's versions.
#[derive(Debug)]
pub(crate) struct Entry {
    head: Version,
    #[allow(
        clippy::box_collection,
        reason = "8 bytes instead of 24 in every key, and most keys have no history"
    )]
    older: Option<Box<Vec<Slot>>>,
}

/// A version as far as the index knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Found {
    /// A latest one: all but the value.
    Head(Version),
    /// An older one: only its row.
    Older(Slot),
}

impl Found {
    /// Where it is.
    pub(crate) fn slot(&self) -> Slot {
        match self {
            Self::Head(version) => version.slot,
            Self::Older(slot) => *slot,
        }
    }
}

impl Entry {
    /// The latest version, a tombstone perhaps.
    pub(crate) fn head(&self) -> &Version {
        &self.head
    }

    /// The version a read at `revision` sees, a tombstone perhaps.
    pub(crate) fn at(&self, revision: u64) -> Option<Found> {
        if self.head.slot.revision() <= revision {
            return Some(Found::Head(self.head));
        }
        let older = self.older.as_deref()?;
        let after = older.partition_point(|slot| slot.revision() <= revision);
        Some(Found::Older(older[after.checked_sub(1)?]))
    }

    /// The version before the one at `slot`.
    fn before(&self, slot: Slot) -> Option<Slot> {
        let older = self.older.as_deref()?;
        let after = older.partition_point(|other| other.row() < slot.row());
        Some(older[after.checked_sub(1)?])
    }

    fn push(&mut self, version: Version) {
        self.older.get_or_insert_default().push(self.head.slot);
        self.head = version;
    }

    /// How many of its oldest versions a compaction at `revision` forgets:
    /// those before the one a read at `revision` sees, and that one if it is a
    /// tombstone, but none of `revision` itself.
    fn forgotten(&self, revision: u64) -> usize {
        let older = self.older.as_deref().map_or(&[][..], Vec::as_slice);
        let until = |revision: u64| match self.head.slot.revision() <= revision {
            true => older.len() + 1,
            false => older.partition_point(|slot| slot.revision() <= revision),
        };
        let Some(seen) = until(revision).checked_sub(1) else {
            return 0;
        };
        let dead = older.get(seen).unwrap_or(&self.head.slot).is_tombstone();
        (seen + usize::from(dead)).min(until(revision - 1))
    }

    /// Takes the oldest `count` versions out; whether none is left.
    fn forget(&mut self, count: usize, rows: &mut Vec<i64>) -> bool {
        let mut rest = count;
        if let Some(older) = self.older.as_deref_mut() {
            let taken = count.min(older.len());
            rest -= taken;
            rows.extend(older.drain(..taken).map(Slot::row));
            if older.is_empty() {
                self.older = None;
            } else if older.capacity() > 2 * older.len() {
                older.shrink_to_fit();
            }
        }
        if rest > 0 {
            rows.push(self.head.slot.row());
        }
        rest > 0
    }
}

impl Index {
    /// An empty index at the revision of an empty store.
    pub(crate) fn new() -> Self {
        Self {
            keys: BTreeMap::new(),
            revision: 1,
            compacted: 0,
        }
    }

    /// Adds a version; those of a key come in order.
    pub(crate) fn push(&mut self, key: &[u8], version: Version) {
        match self.keys.get_mut(key) {
            Some(entry) => entry.push(version),
            None => {
                self.keys.insert(
                    key.into(),
                    Entry {
                        head: version,
                        older: None,
                    },
                );
            }
        }
    }

    /// A key's versions.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.keys.get(key)
    }

    /// The version of `key` before the one at `slot`, unless there was none.
    pub(crate) fn before(&self, key: &[u8], slot: Slot) -> Option<Slot> {
        self.keys
            .get(key)?
            .before(slot)
            .filter(|slot| !slot.is_tombstone())
    }

    /// Keys of a range, in order; deleted ones, too.
    pub(crate) fn range(&self, range: &KeyRange) -> impl Iterator<Item = (&[u8], &Entry)> {
        let bounds = range.bounds();
        bounds
            .into_iter()
            .flat_map(|bounds| self.keys.range::<[u8], _>(bounds))
            .map(|(key, entry)| (&**key, entry))
    }

    /// Keys it knows, deleted ones that are not compacted yet, too.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Every key and its latest version.
    pub(crate) fn heads(&self) -> impl Iterator<Item = (&[u8], &Version)> {
        self.keys.iter().map(|(key, entry)| (&**key, &entry.head))
    }

    /// One slice of a compaction at `revision`: looks at up to `most_keys`
    /// keys behind `cursor`, forgets up to `most_rows` versions and adds their
    /// rows to `rows`. Returns where to go on, `None` at the end.
    pub(crate) fn compact(
        &mut self,
        revision: u64,
        cursor: Bound<Box<[u8]>>,
        most_keys: usize,
        most_rows: usize,
        rows: &mut Vec<i64>,
    ) -> Option<Bound<Box<[u8]>>> {
        let mut gone = Vec::new();
        let mut left = most_rows;
        let mut next = None;
        for (seen, (key, entry)) in self.keys.range_mut((cursor, Bound::Unbounded)).enumerate() {
            let forgotten = entry.forgotten(revision);
            let taken = forgotten.min(left);
            left -= taken;
            if taken > 0 && entry.forget(taken, rows) {
                gone.push(key.clone());
            }
            if taken < forgotten || seen == most_keys {
                next = Some(Bound::Included(key.clone()));
                break;
            }
        }
        for key in gone {
            self.keys.remove(&key);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The index of the module's example.
    fn example() -> Index {
        let mut index = Index::new();
        for (key, revision, created, version) in [
            ("a", 2, 2, 1),
            ("a", 3, 2, 2),
            ("a", 4, 0, 0),
            ("b", 5, 5, 1),
            ("a", 6, 6, 1),
        ] {
            let slot = Slot::new(revision, 0, version == 0);
            index.push(
                key.as_bytes(),
                Version {
                    slot,
                    created,
                    version,
                    lease: 0,
                },
            );
        }
        index.revision = 6;
        index
    }

    fn rows(index: &Index, key: &str) -> Vec<u64> {
        let Some(entry) = index.get(key.as_bytes()) else {
            return Vec::new();
        };
        let older = entry.older.as_deref().into_iter().flatten();
        older
            .chain([&entry.head.slot])
            .map(|slot| slot.revision())
            .collect()
    }

    #[test]
    fn reads_see_the_last_version_not_behind_them() {
        let index = example();
        for (key, revision, seen) in [
            ("a", 1, None),
            ("a", 2, Some(2)),
            ("a", 3, Some(3)),
            ("a", 5, Some(4)),
            ("a", 6, Some(6)),
            ("a", 99, Some(6)),
            ("b", 4, None),
            ("b", 5, Some(5)),
        ] {
            let found = index
                .get(key.as_bytes())
                .and_then(|entry| entry.at(revision));
            assert_eq!(
                found.map(|found| found.slot().revision()),
                seen,
                "{key} at {revision}"
            );
        }
    }

    #[test]
    fn the_version_before_is_none_after_a_delete() {
        let index = example();
        for (slot, before) in [
            (Slot::new(2, 0, false), None),
            (Slot::new(3, 0, false), Some(Slot::new(2, 0, false))),
            (Slot::new(4, 0, true), Some(Slot::new(3, 0, false))),
            (Slot::new(6, 0, false), None),
        ] {
            assert_eq!(index.before(b"a", slot), before, "before {slot:?}");
        }
    }

    #[test]
    fn compaction_keeps_what_can_still_be_seen() {
        for (revision, a, b) in [
            (1, vec![2, 3, 4, 6], vec![5]),
            (2, vec![2, 3, 4, 6], vec![5]),
            (3, vec![3, 4, 6], vec![5]),
            (4, vec![4, 6], vec![5]),
            (5, vec![6], vec![5]),
            (6, vec![6], vec![5]),
        ] {
            for (most_keys, most_rows) in [(100, 100), (1, 1), (1, 100), (100, 1)] {
                let mut index = example();
                let mut gone = Vec::new();
                let mut cursor = Some(Bound::Unbounded);
                while let Some(from) = cursor {
                    cursor = index.compact(revision, from, most_keys, most_rows, &mut gone);
                }
                assert_eq!(
                    (rows(&index, "a"), rows(&index, "b")),
                    (a.clone(), b.clone())
                );
                assert_eq!(
                    gone.len(),
                    5 - a.len() - b.len(),
                    "rows to delete at {revision}"
                );
            }
        }
    }

    #[test]
    fn a_deleted_key_leaves_nothing() {
        let mut index = example();
        index.push(
            b"a",
            Version {
                slot: Slot::new(7, 0, true),
                created: 0,
                version: 0,
                lease: 0,
            },
        );
        index.push(
            b"b",
            Version {
                slot: Slot::new(8, 0, false),
                created: 5,
                version: 2,
                lease: 0,
            },
        );
        let mut gone = Vec::new();
        assert_eq!(
            index.compact(8, Bound::Unbounded, 100, 100, &mut gone),
            None
        );
        assert_eq!((rows(&index, "a"), rows(&index, "b")), (vec![], vec![8]));
        assert_eq!(index.len(), 1);
        assert_eq!(gone.len(), 6);
    }
}

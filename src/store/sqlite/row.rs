//! Versions of keys and the table rows they are.
//!
//! A row's id is its place in history, so that the table grows at its right
//! edge only and a revision's rows lie side by side:
//!
//! ```text
//! bit  63   62 .......... 20   19 ..... 0
//!      0    revision           position within the transaction
//! ```
//!
//! 43 bits of revision last 27 years at ten thousand writes a second; 20 bits
//! of position let one transaction write 1 048 576 keys.

use rusqlite::types::ValueRef;

const POSITION_BITS: u32 = 20;

/// Keys one transaction may write.
pub(crate) const MAX_WRITES: u64 = 1 << POSITION_BITS;

/// Last revision there can be.
const MAX_REVISION: u64 = (1 << (63 - POSITION_BITS)) - 1;

/// Where a version is: its row, and whether that is a tombstone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Slot(u64);

impl Slot {
    const TOMBSTONE: u64 = 1 << 63;

    /// The slot of the write at `position` of `revision`.
    pub(crate) fn new(revision: u64, position: u64, tombstone: bool) -> Self {
        debug_assert!(revision <= MAX_REVISION && position < MAX_WRITES);
        let mark = if tombstone { Self::TOMBSTONE } else { 0 };
        Self(revision << POSITION_BITS | position | mark)
    }

    /// Id of the row.
    pub(crate) fn row(self) -> i64 {
        i64::try_from(self.0 & !Self::TOMBSTONE).expect("63 bits are left")
    }

    /// Revision that wrote it.
    pub(crate) fn revision(self) -> u64 {
        (self.0 & !Self::TOMBSTONE) >> POSITION_BITS
    }

    /// Whether the key was deleted here.
    pub(crate) fn is_tombstone(self) -> bool {
        self.0 & Self::TOMBSTONE != 0
    }
}

/// Id of the first row `revision` can have.
pub(crate) fn first_row(revision: u64) -> i64 {
    Slot::new(revision.min(MAX_REVISION), 0, false).row()
}

/// A version of a key without key and value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// Where it is.
    pub(crate) slot: Slot,
    /// Revision that created the key; 0 in a tombstone.
    pub(crate) created: u64,
    /// Writes since creation, from 1; 0 in a tombstone.
    pub(crate) version: u64,
    /// Lease; 0 is none.
    pub(crate) lease: i64,
}

impl Version {
    /// The columns `id`, `created`, `version` and `lease` of its row.
    pub(crate) fn encode(&self) -> [i64; 4] {
        let number = |n: u64| i64::try_from(n).expect("revisions and versions have 43 bits");
        [
            self.slot.row(),
            number(self.created),
            number(self.version),
            self.lease,
        ]
    }

    /// Reads the columns `id`, `created`, `version` and `lease`. Nothing that
    /// a damaged file may hold gets past it.
    pub(crate) fn decode(columns: [ValueRef<'_>; 4]) -> Result<Self, BadRow> {
        let [id, created, version, lease] = columns;
        let row = integer(id, "id")?;
        let bad = |what| BadRow { row, what };
        let id = u64::try_from(row).map_err(|_| bad("its id is negative"))?;
        let at_row = |error: BadRow| BadRow {
            row,
            what: error.what,
        };
        let created = integer(created, "created").map_err(at_row)?;
        let created = u64::try_from(created).map_err(|_| bad("created is negative"))?;
        let version = integer(version, "version").map_err(at_row)?;
        let version = u64::try_from(version).map_err(|_| bad("version is negative"))?;
        let lease = integer(lease, "lease").map_err(at_row)?;
        let slot = Slot(if version == 0 {
            id | Slot::TOMBSTONE
        } else {
            id
        });
        if slot.revision() < 2 {
            return Err(bad("no write has a revision below 2"));
        }
        match version {
            0 if created != 0 || lease != 0 => Err(bad("a tombstone has neither age nor lease")),
            0 => Ok(Self {
                slot,
                created,
                version,
                lease,
            }),
            _ if created < 2 || created > slot.revision() => {
                Err(bad("it was created at a revision that cannot be"))
            }
            _ => Ok(Self {
                slot,
                created,
                version,
                lease,
            }),
        }
    }
}

/// Reads a key column.
pub(crate) fn decode_key(row: i64, key: ValueRef<'_>) -> Result<&[u8], BadRow> {
    match key {
        ValueRef::Blob(key) => Ok(key),
        _ => Err(BadRow {
            row,
            what: "its key is not a blob",
        }),
    }
}

/// Reads a value column; a tombstone's is null.
pub(crate) fn decode_value(row: i64, value: ValueRef<'_>) -> Result<&[u8], BadRow> {
    match value {
        ValueRef::Blob(value) => Ok(value),
        ValueRef::Null => Ok(&[]),
        _ => Err(BadRow {
            row,
            what: "its value is not a blob",
        }),
    }
}

fn integer(value: ValueRef<'_>, column: &'static str) -> Result<i64, BadRow> {
    let what = match column {
        "id" => "its id is not a number",
        "created" => "created is not a number",
        "version" => "version is not a number",
        _ => "lease is not a number",
    };
    match value {
        ValueRef::Integer(number) => Ok(number),
        _ => Err(BadRow { row: 0, what }),
    }
}

/// A row no Karve has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("row {row} of versions is damaged: {what}")]
pub(crate) struct BadRow {
    row: i64,
    what: &'static str,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use proptest::prelude::*;

    fn arbitrary_value() -> impl Strategy<Value = rusqlite::types::Value> {
        use rusqlite::types::Value;
        prop_oneof![
            4 => (-4_i64..1 << 30).prop_map(Value::Integer),
            4 => any::<i64>().prop_map(Value::Integer),
            1 => Just(Value::Null),
            1 => any::<f64>().prop_map(Value::Real),
            1 => ".{0,8}".prop_map(Value::Text),
            1 => proptest::collection::vec(any::<u8>(), 0..8).prop_map(Value::Blob),
        ]
    }

    proptest! {
        #[test]
        fn rows_round_trip(
            revision in 2..=MAX_REVISION,
            position in 0..MAX_WRITES,
            back in any::<u64>(),
            version in 0_u64..1 << 43,
            lease in any::<i64>(),
        ) {
            let tombstone = version == 0;
            let slot = Slot::new(revision, position, tombstone);
            let created = if tombstone { 0 } else { revision - back % (revision - 1) };
            let lease = if tombstone { 0 } else { lease };
            let before = Version { slot, created, version, lease };
            let after = Version::decode(before.encode().map(ValueRef::Integer)).unwrap();
            prop_assert_eq!(before, after);
            prop_assert_eq!(slot.revision(), revision);
            prop_assert_eq!(slot.is_tombstone(), tombstone);
            prop_assert!(slot.row() >= first_row(revision));
        }

        #[test]
        fn any_columns_are_read_or_refused(columns in proptest::array::uniform4(arbitrary_value())) {
            let [a, b, c, d] = &columns;
            if let Ok(version) = Version::decode([a.into(), b.into(), c.into(), d.into()]) {
                // What is accepted is exactly what would be written.
                let again = version.encode().map(rusqlite::types::Value::Integer);
                prop_assert_eq!(columns, again);
            }
        }
    }
}

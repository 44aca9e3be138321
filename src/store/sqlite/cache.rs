//! Values of latest versions in memory, up to a cap.
//!
//! A compare-and-swap that fails reads what is there, and an event carries the
//! value before: both are mostly of keys written a moment ago. First in, first
//! out with a second chance for those that were read since.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

/// Bytes that an entry costs besides its value.
const OVERHEAD: usize = 96;

/// Values by row.
#[derive(Debug)]
pub(crate) struct Values {
    rows: HashMap<i64, Cached>,
    /// Rows as they came; those that left `rows` since are skipped.
    order: VecDeque<i64>,
    bytes: usize,
    most_bytes: usize,
}

#[derive(Debug)]
struct Cached {
    value: Bytes,
    read: bool,
}

impl Values {
    /// An empty cache that never holds more than `most_bytes`.
    pub(crate) fn new(most_bytes: usize) -> Self {
        Self {
            rows: HashMap::new(),
            order: VecDeque::new(),
            bytes: 0,
            most_bytes,
        }
    }

    /// A row's value, if it is here.
    pub(crate) fn get(&mut self, row: i64) -> Option<Bytes> {
        let cached = self.rows.get_mut(&row)?;
        cached.read = true;
        Some(cached.value.clone())
    }

    /// Adds a value; one that would take an eighth of the cache is not kept.
    pub(crate) fn insert(&mut self, row: i64, value: Bytes) {
        let cost = value.len() + OVERHEAD;
        if cost > self.most_bytes / 8 {
            return;
        }
        if let Some(before) = self.rows.insert(row, Cached { value, read: false }) {
            self.bytes -= before.value.len() + OVERHEAD;
        } else {
            self.order.push_back(row);
        }
        self.bytes += cost;
        while self.bytes > self.most_bytes {
            self.evict();
        }
        if self.order.len() > 2 * self.rows.len() + 64 {
            self.order.retain(|row| self.rows.contains_key(row));
        }
    }

    /// Forgets a row that was superseded.
    pub(crate) fn remove(&mut self, row: i64) {
        if let Some(cached) = self.rows.remove(&row) {
            self.bytes -= cached.value.len() + OVERHEAD;
        }
    }

    fn evict(&mut self) {
        let row = self
            .order
            .pop_front()
            .expect("every row here is in the order");
        match self.rows.get_mut(&row) {
            Some(cached) if cached.read => {
                cached.read = false;
                self.order.push_back(row);
            }
            Some(_) => self.remove(row),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn stays_below_its_cap_and_never_answers_wrong(
            steps in proptest::collection::vec((0_u8..3, 0_i64..40, 0_usize..300), 1..400),
        ) {
            let mut cache = Values::new(4096);
            let mut latest = HashMap::new();
            for (step, row, length) in steps {
                match step {
                    0 => {
                        let value = Bytes::from(vec![u8::try_from(row).unwrap_or(0); length]);
                        cache.insert(row, value.clone());
                        latest.insert(row, value);
                    }
                    1 => {
                        cache.remove(row);
                        latest.remove(&row);
                    }
                    _ => {
                        if let Some(value) = cache.get(row) {
                            prop_assert_eq!(Some(&value), latest.get(&row));
                        }
                    }
                }
                let held: usize = cache.rows.values().map(|c| c.value.len() + OVERHEAD).sum();
                prop_assert_eq!(held, cache.bytes);
                prop_assert!(held <= 4096);
                prop_assert!(cache.order.len() <= 2 * cache.rows.len() + 65);
            }
        }
    }
}

//! Ranges of keys.

use std::ops::Bound;

use bytes::Bytes;

/// The keys a request speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeyRange {
    /// This key.
    One(Bytes),
    /// From the first, inclusive, to the second, exclusive.
    Between(Bytes, Bytes),
    /// This key and all behind it.
    From(Bytes),
}

/// Bounds as an ordered map takes them.
pub(crate) type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

impl KeyRange {
    /// Reads `key` and `end` as a request gives them: no end is the one key,
    /// an end of `\0` is everything from the key on.
    pub(crate) fn new(key: Bytes, end: Option<Bytes>) -> Self {
        match end {
            None => Self::One(key),
            Some(end) if end.as_ref() == b"\0" => Self::From(key),
            Some(end) => Self::Between(key, end),
        }
    }

    /// Whether `key` is in the range.
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => key == one,
            Self::Between(first, end) => key >= first.as_ref() && key < end.as_ref(),
            Self::From(first) => key >= first.as_ref(),
        }
    }

    /// `key`, which is in the range, as bytes to hand out; a range of one key
    /// has them already.
    pub(crate) fn share(&self, key: &[u8]) -> Bytes {
        match self {
            Self::One(one) => one.clone(),
            _ => Bytes::copy_from_slice(key),
        }
    }

    /// The bounds for an ordered map; `None` if no key can be in the range
    /// (which an ordered map would panic on).
    pub(crate) fn bounds(&self) -> Option<Bounds<'_>> {
        match self {
            Self::One(one) => Some((Bound::Included(one), Bound::Included(one))),
            Self::Between(first, end) if first >= end => None,
            Self::Between(first, end) => Some((Bound::Included(first), Bound::Excluded(end))),
            Self::From(first) => Some((Bound::Included(first), Bound::Unbounded)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(key: &'static str, end: Option<&'static str>) -> KeyRange {
        KeyRange::new(key.into(), end.map(Into::into))
    }

    #[test]
    fn contains_what_the_bounds_say() {
        for (key, end, inside, outside) in [
            ("b", None, vec!["b"], vec!["a", "ba", ""]),
            ("b", Some("d"), vec!["b", "c", "cz"], vec!["a", "d"]),
            ("b", Some("\0"), vec!["b", "c", "zz"], vec!["a", ""]),
            ("b", Some("b"), vec![], vec!["a", "b", "c"]),
            ("d", Some("b"), vec![], vec!["b", "c", "d"]),
            ("b", Some(""), vec![], vec!["", "b", "c"]),
            ("", Some("\0"), vec!["", "a"], vec![]),
        ] {
            let range = range(key, end);
            for key in inside {
                assert!(range.contains(key.as_bytes()), "{key:?} in {range:?}");
                let bounds = range.bounds().expect("not empty");
                assert!(std::ops::RangeBounds::<[u8]>::contains(
                    &bounds,
                    key.as_bytes()
                ));
            }
            for key in outside {
                assert!(!range.contains(key.as_bytes()), "{key:?} not in {range:?}");
            }
        }
    }
}

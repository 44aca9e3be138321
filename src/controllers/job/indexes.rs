//! Sets of completion indexes as text: `1,3-5,7`.

use std::collections::BTreeSet;

/// A set of completion indexes.
pub(super) type Indexes = BTreeSet<i32>;

/// Reads the text; parts that are no numbers are left out.
pub(super) fn parse(text: Option<&str>) -> Indexes {
    let mut indexes = Indexes::new();
    for part in text.unwrap_or_default().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<i32>(), last.trim().parse()) {
            indexes.extend(first..=last);
        }
    }
    indexes
}

/// Writes the text; two neighbours are listed, more are a range.
pub(super) fn format(indexes: &Indexes) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut rest = indexes.iter().copied().peekable();
    while let Some(first) = rest.next() {
        let mut last = first;
        while rest.peek() == Some(&(last + 1)) {
            last += 1;
            rest.next();
        }
        match last - first {
            0 => parts.push(first.to_string()),
            1 => parts.push(format!("{first},{last}")),
            _ => parts.push(format!("{first}-{last}")),
        }
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_ranges() {
        assert_eq!(format(&Indexes::from([0, 2, 3, 5, 6, 7])), "0,2,3,5-7");
        assert_eq!(format(&Indexes::new()), "");
    }

    proptest::proptest! {
        #[test]
        fn reads_what_it_writes(indexes in proptest::collection::btree_set(0..100_i32, 0..50)) {
            proptest::prop_assert_eq!(parse(Some(&format(&indexes))), indexes);
        }
    }
}

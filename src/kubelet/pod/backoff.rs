//! Back-off that remembers: delays grow with every use of a key and start over
//! once it has been quiet for twice the longest delay.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

#[derive(Clone, Copy, Debug)]
struct Entry {
    delay: Duration,
    updated: Timestamp,
}

/// Delays by key.
#[derive(Debug)]
pub(crate) struct KeyedBackoff {
    first: Duration,
    longest: Duration,
    entries: HashMap<String, Entry>,
}

fn since(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

impl KeyedBackoff {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            entries: HashMap::new(),
        }
    }

    /// What is left of the delay that began at `from`, and how long it is in
    /// all; `None` if it is over.
    pub(crate) fn remaining(
        &self,
        key: &str,
        from: Timestamp,
        now: Timestamp,
    ) -> Option<(Duration, Duration)> {
        let entry = self.entries.get(key)?;
        if since(entry.updated, from) > self.longest * 2 {
            return None;
        }
        let left = entry.delay.checked_sub(since(from, now))?;
        (!left.is_zero()).then_some((left, entry.delay))
    }

    /// When the key was used last.
    pub(crate) fn updated(&self, key: &str) -> Option<Timestamp> {
        self.entries.get(key).map(|entry| entry.updated)
    }

    /// Uses a key: its delay doubles, or starts over if its last use is long
    /// before `event`.
    pub(crate) fn next(&mut self, key: &str, event: Timestamp, now: Timestamp) {
        let (first, longest) = (self.first, self.longest);
        self.entries
            .entry(key.to_owned())
            .and_modify(|entry| {
                entry.delay = match since(entry.updated, event) > longest * 2 {
                    true => first,
                    false => (entry.delay * 2).min(longest),
                };
                entry.updated = now;
            })
            .or_insert(Entry {
                delay: first,
                updated: now,
            });
    }

    /// Forgets a key.
    pub(crate) fn reset(&mut self, key: &str) {
        self.entries.remove(key);
    }
}

/// A whole number of milliseconds as Go writes it: `10s`, `1m20s`, `1.5s`, `120ms`.
pub(crate) fn go_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    if milliseconds < 1000 {
        return match milliseconds {
            0 => "0s".into(),
            _ => format!("{milliseconds}ms"),
        };
    }
    let (total, fraction) = (milliseconds / 1000, milliseconds % 1000);
    let fraction = match fraction {
        0 => String::new(),
        _ => format!(".{fraction:03}").trim_end_matches('0').to_owned(),
    };
    let (hours, minutes, seconds) = (total / 3600, total / 60 % 60, total % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}{fraction}s"),
        (0, _) => format!("{minutes}m{seconds}{fraction}s"),
        _ => format!("{hours}h{minutes}m{seconds}{fraction}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    #[test]
    fn grows_and_forgets() {
        let seconds = Duration::from_secs;
        let mut backoff = KeyedBackoff::new(seconds(10), seconds(300));
        assert_eq!(
            backoff.remaining("c", at(0), at(0)),
            None,
            "the first time is free"
        );
        backoff.next("c", at(0), at(0));
        assert_eq!(
            backoff.remaining("c", at(5), at(8)),
            Some((seconds(7), seconds(10)))
        );
        assert_eq!(backoff.remaining("c", at(5), at(15)), None);
        backoff.next("c", at(5), at(15));
        assert_eq!(
            backoff.remaining("c", at(20), at(20)),
            Some((seconds(20), seconds(20)))
        );
        for _ in 0..10 {
            backoff.next("c", at(20), at(20));
        }
        assert_eq!(
            backoff.remaining("c", at(20), at(20)),
            Some((seconds(300), seconds(300)))
        );
        assert_eq!(
            backoff.remaining("c", at(621), at(621)),
            None,
            "it ran for ten minutes"
        );
        backoff.next("c", at(621), at(621));
        assert_eq!(
            backoff.remaining("c", at(621), at(621)),
            Some((seconds(10), seconds(10)))
        );
    }

    #[test]
    fn durations_read_like_go() {
        let check = |milliseconds, want: &str| {
            assert_eq!(go_duration(Duration::from_millis(milliseconds)), want);
        };
        check(0, "0s");
        check(120, "120ms");
        check(1500, "1.5s");
        check(10_000, "10s");
        check(80_000, "1m20s");
        check(300_000, "5m0s");
        check(3_600_000, "1h0m0s");
    }
}

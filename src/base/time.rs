//! Wall-clock times as Kubernetes writes them.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// `metav1.Time`: RFC 3339 in UTC with whole seconds, such as `2026-01-31T12:00:00Z`.
pub fn rfc3339(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC)
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}

/// `metav1.MicroTime`: RFC 3339 in UTC with exactly six fractional digits.
pub fn rfc3339_micro(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC)
        .strftime("%Y-%m-%dT%H:%M:%S.%6fZ")
        .to_string()
}

/// RFC 3339 in UTC with nine fractional digits, as CRI log lines carry it.
pub fn rfc3339_nano(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC)
        .strftime("%Y-%m-%dT%H:%M:%S.%9fZ")
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        let at = Timestamp::new(1_700_000_000, 1_002_003).expect("in range");
        assert_eq!(rfc3339(at), "2023-11-14T22:13:20Z");
        assert_eq!(rfc3339_micro(at), "2023-11-14T22:13:20.001002Z");
        assert_eq!(rfc3339_nano(at), "2023-11-14T22:13:20.001002003Z");
    }
}

//! Numbers of objects as the API carries them.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// A number of things; the API counts in `int32`.
pub(crate) fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// A status counter, which is absent rather than zero.
pub(crate) fn nonzero(number: i32) -> Option<i32> {
    (number != 0).then_some(number)
}

/// An absolute number or a percentage of `total`, rounded up or down. Text
/// that is no percentage counts as zero: validation keeps it out.
pub(crate) fn scaled(value: Option<&IntOrString>, total: i32, round_up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let percent = text
                .strip_suffix('%')
                .and_then(|text| text.parse::<i64>().ok());
            let exact = percent.unwrap_or(0) * i64::from(total);
            let rounded = if round_up {
                (exact + 99).div_euclid(100)
            } else {
                exact.div_euclid(100)
            };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_as_asked() {
        let percent = IntOrString::String("25%".to_owned());
        for (total, up, down) in [(10, 3, 2), (4, 1, 1), (0, 0, 0), (1, 1, 0)] {
            assert_eq!(scaled(Some(&percent), total, true), up, "{total} up");
            assert_eq!(scaled(Some(&percent), total, false), down, "{total} down");
        }
        assert_eq!(scaled(Some(&IntOrString::Int(3)), 10, true), 3);
        assert_eq!(scaled(None, 10, true), 0);
    }
}

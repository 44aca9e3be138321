//! Resource quantities, as far as a node computes with them.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Named quantities, such as a container's `requests`.
pub(crate) type ResourceList = BTreeMap<String, Quantity>;

const NANO: i128 = 1_000_000_000;

/// The quantity in billionths, or `None` if it is not well formed.
fn nanos(text: &str) -> Option<i128> {
    let end = text
        .find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-'))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (negative, number) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    // Exact for nine fractional digits, which is all a quantity can hold.
    let mut value = if whole.is_empty() {
        0
    } else {
        whole.parse::<i128>().ok()?
    };
    let fraction = &fraction[..fraction.len().min(9)];
    value = value.checked_mul(NANO)?;
    if !fraction.is_empty() {
        value += fraction.parse::<i128>().ok()? * 10_i128.pow(9 - fraction.len() as u32);
    }
    let scaled = match suffix {
        "" => value,
        "n" => value / NANO,
        "u" => value / 1_000_000,
        "m" => value / 1_000,
        "k" => value.checked_mul(1_000)?,
        "M" => value.checked_mul(1_000_000)?,
        "G" => value.checked_mul(1_000_000_000)?,
        "T" => value.checked_mul(1_000_000_000_000)?,
        "P" => value.checked_mul(1_000_000_000_000_000)?,
        "E" => value.checked_mul(1_000_000_000_000_000_000)?,
        "Ki" => value.checked_mul(1 << 10)?,
        "Mi" => value.checked_mul(1 << 20)?,
        "Gi" => value.checked_mul(1 << 30)?,
        "Ti" => value.checked_mul(1 << 40)?,
        "Pi" => value.checked_mul(1 << 50)?,
        "Ei" => value.checked_mul(1 << 60)?,
        other => {
            let exponent: i32 = other.strip_prefix(['e', 'E'])?.parse().ok()?;
            let factor = 10_i128.checked_pow(exponent.unsigned_abs())?;
            if exponent < 0 {
                value / factor
            } else {
                value.checked_mul(factor)?
            }
        }
    };
    Some(if negative { -scaled } else { scaled })
}

fn round_up(nanos: i128, unit: i128) -> i64 {
    let up = nanos.div_euclid(unit) + i128::from(nanos.rem_euclid(unit) != 0);
    i64::try_from(up).unwrap_or(i64::MAX)
}

/// Whole units, rounded up; 0 for a quantity that is not well formed.
pub(crate) fn value(quantity: &Quantity) -> i64 {
    round_up(nanos(&quantity.0).unwrap_or(0), NANO)
}

/// Thousandths, rounded up; 0 for a quantity that is not well formed.
pub(crate) fn milli_value(quantity: &Quantity) -> i64 {
    round_up(nanos(&quantity.0).unwrap_or(0), NANO / 1000)
}

/// `value` divided by `divisor`, rounded up (the downward API's arithmetic).
pub(crate) fn divide_up(quantity: &Quantity, divisor: &Quantity) -> i64 {
    let divisor = nanos(&divisor.0)
        .filter(|divisor| *divisor > 0)
        .unwrap_or(NANO);
    round_up(nanos(&quantity.0).unwrap_or(0), divisor)
}

/// A count or a number of bytes.
pub(crate) fn of(value: i64) -> Quantity {
    Quantity(value.to_string())
}

/// Bytes written in `Ki`, as nodes report memory.
pub(crate) fn of_kibi(bytes: u64) -> Quantity {
    Quantity(format!("{}Ki", bytes >> 10))
}

/// CPU given in thousandths.
pub(crate) fn of_milli(milli: i64) -> Quantity {
    if milli % 1000 == 0 {
        of(milli / 1000)
    } else {
        Quantity(format!("{milli}m"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses() {
        let check = |text: &str, whole: i64, milli: i64| {
            let quantity = Quantity(text.into());
            assert_eq!(
                (value(&quantity), milli_value(&quantity)),
                (whole, milli),
                "{text}"
            );
        };
        check("0", 0, 0);
        check("100m", 1, 100);
        check("1.5", 2, 1500);
        check(".5", 1, 500);
        check("64Mi", 64 << 20, (64 << 20) * 1000);
        check("1k", 1000, 1_000_000);
        check("1e3", 1000, 1_000_000);
        check("5E-1", 1, 500);
        check("1n", 1, 1);
        check("-2", -2, -2000);
        check("nonsense", 0, 0);
        check("", 0, 0);
    }

    #[test]
    fn divides_as_the_downward_api_does() {
        let check = |value: &str, divisor: &str, want: i64| {
            let got = divide_up(&Quantity(value.into()), &Quantity(divisor.into()));
            assert_eq!(got, want, "{value} / {divisor}");
        };
        check("250m", "1", 1);
        check("250m", "1m", 250);
        check("64Mi", "1Mi", 64);
        check("65Mi", "1Gi", 1);
        check("2", "0", 2);
    }
}

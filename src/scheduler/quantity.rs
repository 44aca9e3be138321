//! Quantities as whole numbers of what the scheduler counts in.

/// A quantity such as `1500m`, `2Gi` or `1e3` in thousandths, rounded up.
/// `None` for text that is no quantity.
pub(crate) fn milli(text: &str) -> Option<i64> {
    let text = text.trim();
    let end = text
        .find(|letter: char| !(letter.is_ascii_digit() || "+-.".contains(letter)))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (numerator, denominator) = scale(suffix)?;
    let (negative, number) = match number.strip_prefix('-') {
        Some(number) => (true, number),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    // Digits beyond the eighteenth decimal cannot matter to a thousandth.
    let fraction = &fraction[..fraction.len().min(18)];
    let digits: i128 = format!("0{whole}{fraction}").parse().ok()?;
    let divisor = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)? * denominator;
    let product = digits.checked_mul(numerator)?.checked_mul(1000)?;
    let rounded = product / divisor + i128::from(product % divisor != 0);
    let value = i64::try_from(rounded).unwrap_or(i64::MAX);
    Some(if negative { -value } else { value })
}

/// A quantity in units, rounded up. Byte counts whose thousandths would not
/// fit are read as well.
pub(crate) fn units(text: &str) -> Option<i64> {
    let text = text.trim();
    let end = text
        .find(|letter: char| !(letter.is_ascii_digit() || "+-.".contains(letter)))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (numerator, denominator) = scale(suffix)?;
    let product = i128::from(milli(number)?).checked_mul(numerator)?;
    let divisor = 1000 * denominator;
    let rounded = product.div_euclid(divisor) + i128::from(product.rem_euclid(divisor) != 0);
    Some(i64::try_from(rounded).unwrap_or(i64::MAX))
}

fn scale(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
            if exponent < 0 { (1, power) } else { (power, 1) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_quantities() {
        let cases = [
            ("1", Some(1000), Some(1)),
            ("1500m", Some(1500), Some(2)),
            ("0.5", Some(500), Some(1)),
            (".5", Some(500), Some(1)),
            ("2Ki", Some(2_048_000), Some(2048)),
            ("1e3", Some(1_000_000), Some(1000)),
            ("1E-3", Some(1), Some(1)),
            ("100n", Some(1), Some(1)),
            ("16Gi", Some(17_179_869_184_000), Some(17_179_869_184)),
            ("", None, None),
            ("x", None, None),
            ("1Zi", None, None),
        ];
        for (text, thousandths, whole) in cases {
            assert_eq!(milli(text), thousandths, "{text} in thousandths");
            assert_eq!(units(text), whole, "{text} in units");
        }
        assert_eq!(units("8Ei"), Some(i64::MAX));
    }
}

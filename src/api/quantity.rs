//! `resource.Quantity`: a fixed-point number with a suffix, such as `1500m` or `2Gi`.
//!
//! A quantity remembers the family of its suffix and is written again in that
//! family, in canonical form: no fraction, the largest suffix that loses no
//! precision. Some spellings that are nearly canonical (`+1`, `1.500`) are kept
//! as they are, because upstream does so and clients compare what they read.
//!
//! Invariants: values below 1n are rounded away from zero to 1n; binary
//! quantities are capped at 2^63-1. Numbers of more than 38 significant digits
//! are refused, where upstream computes with arbitrary precision.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// The family of a quantity's suffix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `12e6`.
    DecimalExponent,
    /// `12Mi`.
    BinarySi,
    /// `12M`.
    #[default]
    DecimalSi,
}

/// Why a text is no quantity. The wording is upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not number and suffix at all.
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    /// The number is malformed or too long.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// The suffix is unknown.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// A parsed quantity: `mantissa * 10^exponent`.
#[derive(Clone, Debug, Default)]
pub struct Quantity {
    mantissa: i128,
    exponent: i32,
    format: Format,
    /// The text it was parsed from, where upstream writes that again.
    text: Option<String>,
}

/// The canonical form of a quantity's text.
///
/// # Errors
/// When `text` is no quantity.
pub fn canonical(text: &str) -> Result<String, QuantityError> {
    Ok(text.trim().parse::<Quantity>()?.to_string())
}

const NANO: i32 = -9;
/// Digits that upstream's fast path takes.
const FAST_DIGITS: i32 = 18;

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        if text.is_empty() {
            return Err(QuantityError::Format);
        }
        if text == "0" {
            return Ok(Self {
                text: Some(text.to_owned()),
                ..Self::default()
            });
        }
        let parts = split(text)?;
        let (base, exponent, format) = interpret(parts.suffix).ok_or(QuantityError::Suffix)?;
        let digits = format!("{}{}", parts.whole, parts.fraction);
        let count = i32::try_from(digits.len()).map_err(|_| QuantityError::Numeric)?;
        let fraction = i32::try_from(parts.fraction.len()).map_err(|_| QuantityError::Numeric)?;

        let fast = if base == 10 {
            FAST_DIGITS - count >= 0 && exponent - fraction >= NANO
        } else {
            parts.fraction.is_empty() && 15 - count - (exponent as f32 * 3.0 / 10.0) as i32 > 0
        };
        let significant = digits.trim_start_matches('0');
        let mut mantissa: i128 = if significant.is_empty() {
            0
        } else {
            significant.parse().map_err(|_| QuantityError::Numeric)?
        };
        if fast {
            let scale = if base == 10 { exponent - fraction } else { 0 };
            let keep = if base == 10 {
                scale % 3 == 0 && !digits.ends_with("000") && !digits.starts_with('0')
            } else {
                exponent % 10 == 0 && mantissa & 7 != 0
            };
            if base == 2 {
                mantissa <<= exponent;
            }
            return Ok(Self {
                mantissa: if parts.negative { -mantissa } else { mantissa },
                exponent: scale,
                format,
                text: keep.then(|| text.to_owned()),
            });
        }
        slow(mantissa, -fraction, base, exponent, format, parts.negative)
    }
}

/// The rounding and capping that numbers outside the fast path need.
fn slow(
    mut mantissa: i128,
    mut scale: i32,
    base: u8,
    exponent: i32,
    mut format: Format,
    negative: bool,
) -> Result<Quantity, QuantityError> {
    if base == 10 {
        scale = scale.checked_add(exponent).ok_or(QuantityError::Numeric)?;
    } else {
        mantissa = mantissa
            .checked_mul(1 << exponent)
            .ok_or(QuantityError::Numeric)?;
    }
    if mantissa != 0 && scale < NANO {
        let drop = u32::try_from(NANO - scale).unwrap_or(u32::MAX);
        mantissa = match 10i128.checked_pow(drop) {
            Some(divisor) => mantissa / divisor + i128::from(mantissa % divisor != 0),
            None => 1,
        };
        scale = NANO;
    }
    let mut out = Quantity {
        mantissa,
        exponent: scale,
        format,
        text: None,
    };
    if format == Format::BinarySi {
        if out > Quantity::new(i64::MAX.into(), 0, format) {
            out = Quantity::new(i64::MAX.into(), 0, format);
        } else if mantissa != 0 && out < Quantity::new(1, 0, format) {
            format = Format::DecimalSi;
            out.format = format;
        }
    }
    if negative {
        out.mantissa = -out.mantissa;
    }
    Ok(out)
}

struct Parts<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

/// Splits sign, digits, fraction and suffix; leading zeros are dropped.
fn split(text: &str) -> Result<Parts<'_>, QuantityError> {
    let negative = text.starts_with('-');
    let rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    let rest = rest.trim_start_matches('0');
    let end =
        |text: &str, f: &dyn Fn(u8) -> bool| text.bytes().position(|b| !f(b)).unwrap_or(text.len());
    let digit = |b: u8| b.is_ascii_digit();
    let (mut whole, rest) = rest.split_at(end(rest, &digit));
    if whole.is_empty() {
        whole = "0";
    }
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(end(rest, &digit)),
        None => ("", rest),
    };
    let letters = end(suffix, &|b| b"eEinumkKMGTP".contains(&b));
    let tail = &suffix[letters..];
    let tail = tail.strip_prefix(['-', '+']).unwrap_or(tail);
    if !tail.bytes().all(digit) {
        return Err(QuantityError::Format);
    }
    Ok(Parts {
        negative,
        whole,
        fraction,
        suffix,
    })
}

/// Base, exponent and family of a suffix.
fn interpret(suffix: &str) -> Option<(u8, i32, Format)> {
    if let Some((_, exponent)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Some((10, *exponent, Format::DecimalSi));
    }
    if let Some((_, exponent)) = BINARY.iter().find(|(name, _)| *name == suffix) {
        return Some((2, *exponent, Format::BinarySi));
    }
    let number = suffix.strip_prefix(['e', 'E'])?;
    let exponent: i64 = number.parse().ok()?;
    Some((10, i32::try_from(exponent).ok()?, Format::DecimalExponent))
}

const DECIMAL: &[(&str, i32)] = &[
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];

const BINARY: &[(&str, i32)] = &[
    ("Ki", 10),
    ("Mi", 20),
    ("Gi", 30),
    ("Ti", 40),
    ("Pi", 50),
    ("Ei", 60),
];

impl Quantity {
    /// `mantissa * 10^exponent`, written in `format`.
    pub fn new(mantissa: i128, exponent: i32, format: Format) -> Self {
        Self {
            mantissa,
            exponent,
            format,
            text: None,
        }
    }

    /// A whole number.
    pub fn from_integer(value: i64, format: Format) -> Self {
        Self::new(value.into(), 0, format)
    }

    /// Thousandths, written as a decimal.
    pub fn from_milli(value: i64) -> Self {
        Self::new(value.into(), -3, Format::DecimalSi)
    }

    /// Whether it is zero.
    pub fn is_zero(&self) -> bool {
        self.mantissa == 0
    }

    /// -1, 0 or 1.
    pub fn sign(&self) -> i32 {
        self.mantissa.signum() as i32
    }

    /// The family of its suffix.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The value in units of `10^scale`, rounded away from zero and capped to what an `i64` holds.
    pub fn scaled(&self, scale: i32) -> i64 {
        let shift = self.exponent - scale;
        let value = if shift >= 0 {
            10i128
                .checked_pow(shift as u32)
                .and_then(|factor| self.mantissa.checked_mul(factor))
                .unwrap_or(i128::MAX * self.mantissa.signum())
        } else {
            match 10i128.checked_pow(shift.unsigned_abs()) {
                Some(divisor) => {
                    let rest = self.mantissa % divisor;
                    self.mantissa / divisor + rest.signum()
                }
                None => self.mantissa.signum(),
            }
        };
        value.clamp(i64::MIN.into(), i64::MAX.into()) as i64
    }

    /// The value rounded away from zero to a whole number.
    pub fn value(&self) -> i64 {
        self.scaled(0)
    }

    /// The value in thousandths, rounded away from zero.
    pub fn milli(&self) -> i64 {
        self.scaled(-3)
    }

    /// The nearest floating-point number.
    pub fn as_f64(&self) -> f64 {
        self.mantissa as f64 * 10f64.powi(self.exponent)
    }

    /// Rounds away from zero to a multiple of `10^scale`.
    pub fn round_up(&mut self, scale: i32) {
        if self.exponent >= scale {
            return;
        }
        self.text = None;
        let divisor = 10i128.checked_pow((scale - self.exponent) as u32);
        self.mantissa = match divisor {
            Some(divisor) => self.mantissa / divisor + (self.mantissa % divisor).signum(),
            None => self.mantissa.signum(),
        };
        self.exponent = scale;
    }

    /// Adds; a zero takes the other's format. Saturates.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, i128::saturating_add);
    }

    /// Subtracts; a zero takes the other's format. Saturates.
    pub fn sub(&mut self, other: &Self) {
        self.combine(other, i128::saturating_sub);
    }

    fn combine(&mut self, other: &Self, f: fn(i128, i128) -> i128) {
        if self.is_zero() {
            self.format = other.format;
        }
        self.text = None;
        let scale = self.exponent.min(other.exponent);
        self.mantissa = f(self.at(scale), other.at(scale));
        self.exponent = scale;
    }

    /// The mantissa for a smaller exponent, saturated.
    fn at(&self, scale: i32) -> i128 {
        if self.mantissa == 0 {
            return 0;
        }
        10i128
            .checked_pow((self.exponent - scale).unsigned_abs())
            .and_then(|factor| self.mantissa.checked_mul(factor))
            .unwrap_or(i128::MAX * self.mantissa.signum())
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// By value; the format does not count.
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        let scale = self.exponent.min(other.exponent);
        self.at(scale).cmp(&other.at(scale))
    }
}

/// The canonical form.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = &self.text {
            return f.write_str(text);
        }
        if self.mantissa == 0 {
            return f.write_str("0");
        }
        let (mut mantissa, mut exponent) = (self.mantissa, self.exponent);
        while mantissa % 10 == 0 {
            mantissa /= 10;
            exponent += 1;
        }
        let small =
            *self > Self::new(-1024, 0, self.format) && *self < Self::new(1024, 0, self.format);
        if self.format == Format::BinarySi && !small && exponent >= 0 {
            let mut value = self.at(0);
            if self.exponent < 0 {
                value = i128::from(self.value());
            }
            let mut power = 0;
            while value % 1024 == 0 && power < 6 {
                value /= 1024;
                power += 1;
            }
            let suffix = if power == 0 { "" } else { BINARY[power - 1].0 };
            return write!(f, "{value}{suffix}");
        }
        while exponent % 3 != 0 {
            mantissa = mantissa.saturating_mul(10);
            exponent -= 1;
        }
        if self.format == Format::DecimalExponent {
            return match exponent {
                0 => write!(f, "{mantissa}"),
                _ => write!(f, "{mantissa}e{exponent}"),
            };
        }
        // Beyond the known suffixes upstream writes none.
        let suffix = DECIMAL
            .iter()
            .find(|(_, known)| *known == exponent)
            .map_or("", |(name, _)| name);
        write!(f, "{mantissa}{suffix}")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn canonical_forms() {
        for (text, want) in [
            ("0", "0"),
            ("0.0", "0"),
            ("00", "0"),
            ("1", "1"),
            ("+1", "+1"),
            ("-1", "-1"),
            ("1.5", "1500m"),
            ("1.500", "1.500"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1000", "1k"),
            ("1e3", "1e3"),
            ("1E3", "1E3"),
            ("12e4", "120e3"),
            ("1024Ki", "1Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("0.1m", "100u"),
            ("0.1n", "1n"),
            ("1Gi", "1Gi"),
            ("1536Mi", "1536Mi"),
            ("100E", "100E"),
            ("123456789012345678901", "123456789012345678901"),
            ("9Ei", "9223372036854775807"),
        ] {
            assert_eq!(canonical(text).as_deref(), Ok(want), "{text}");
        }
    }

    #[test]
    fn errors() {
        for (text, want) in [
            ("", QuantityError::Format),
            ("1x", QuantityError::Format),
            ("abc", QuantityError::Format),
            ("1mm", QuantityError::Suffix),
            ("1KB", QuantityError::Format),
            ("1K", QuantityError::Suffix),
            ("1.2.3", QuantityError::Format),
        ] {
            assert_eq!(canonical(text), Err(want), "{text}");
        }
    }

    #[test]
    fn arithmetic() {
        let mut sum: Quantity = "1500m".parse().unwrap();
        sum.add(&"1".parse().unwrap());
        assert_eq!(sum.to_string(), "2500m");
        let mut sum = Quantity::default();
        sum.add(&"1Gi".parse().unwrap());
        sum.add(&"1Gi".parse().unwrap());
        assert_eq!(sum.to_string(), "2Gi");
        sum.sub(&"2Gi".parse().unwrap());
        assert!(sum.is_zero());
        assert!("1Ki".parse::<Quantity>().unwrap() > "1k".parse().unwrap());
        let mut fine: Quantity = "100u".parse().unwrap();
        assert_eq!(fine.value(), 1);
        fine.round_up(-3);
        assert_eq!(fine.to_string(), "1m");
    }

    proptest! {
        #[test]
        fn canonical_form_is_stable(whole in 0u64..1_000_000_000, fraction in 0u32..1000, suffix in "(n|u|m|k|M|G|T|Ki|Mi|Gi|e3|e-3)?") {
            let text = format!("{whole}.{fraction}{suffix}");
            let once = canonical(&text).unwrap();
            let twice = canonical(&once).unwrap();
            prop_assert_eq!(&once, &twice);
            prop_assert_eq!(text.parse::<Quantity>().unwrap(), once.parse::<Quantity>().unwrap());
        }

        #[test]
        fn never_panics(text in "\\PC*") {
            let _ = canonical(&text);
        }

        #[test]
        fn addition_commutes(a in any::<i64>(), b in any::<i64>(), x in -9i32..9, y in -9i32..9) {
            let (a, b) = (Quantity::new(a.into(), x, Format::DecimalSi), Quantity::new(b.into(), y, Format::DecimalSi));
            let (mut left, mut right) = (a.clone(), b.clone());
            left.add(&b);
            right.add(&a);
            prop_assert_eq!(left, right);
        }
    }
}

//! Sums of quantities.

use std::fmt;

/// An amount in thousandths, written as Kubernetes writes quantities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Amount {
    milli: i128,
    /// Whether it was given in powers of two. Written so, too, if it fits.
    binary: bool,
}

impl Amount {
    /// A number of things.
    pub(crate) fn of(count: usize) -> Self {
        Self {
            milli: i128::try_from(count).unwrap_or(i128::MAX / 1000) * 1000,
            binary: false,
        }
    }

    /// Reads a quantity, rounding up to thousandths.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let end = text
            .find(|letter: char| !(letter.is_ascii_digit() || letter == '.'))
            .unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let fraction = &fraction[..fraction.len().min(12)];
        let digits: i128 = format!("0{whole}{fraction}").parse().ok()?;
        let (up, down): (i128, i128) = match suffix {
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
        };
        let divisor = 10_i128
            .pow(u32::try_from(fraction.len()).ok()?)
            .checked_mul(down)?;
        let product = digits.checked_mul(up)?.checked_mul(1000)?;
        let milli = product / divisor + i128::from(product % divisor != 0);
        Some(Self {
            milli,
            binary: suffix.ends_with('i'),
        })
    }

    /// The sum of both.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            milli: self.milli.saturating_add(other.milli),
            binary: self.binary || other.binary,
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.milli % 1000 != 0 {
            return write!(f, "{}m", self.milli);
        }
        let units = self.milli / 1000;
        let suffixes = if self.binary {
            ["Ei", "Pi", "Ti", "Gi", "Mi", "Ki"]
        } else {
            ["E", "P", "T", "G", "M", "k"]
        };
        let base: i128 = if self.binary { 1024 } else { 1000 };
        for (place, suffix) in suffixes.iter().enumerate() {
            let size = base.pow(6 - u32::try_from(place).unwrap_or(0));
            if units != 0 && units % size == 0 {
                return write!(f, "{}{suffix}", units / size);
            }
        }
        write!(f, "{units}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_written_as_quantities() {
        let cases: [(&[&str], &str); 6] = [
            (&[], "0"),
            (&["500m", "0.5"], "1"),
            (&["250m", "1"], "1250m"),
            (&["1Gi", "512Mi"], "1536Mi"),
            (&["1k", "500"], "1500"),
            (&["1e3"], "1k"),
        ];
        for (parts, sum) in cases {
            let parts = parts.iter().filter_map(|part| Amount::parse(part));
            assert_eq!(parts.fold(Amount::default(), Amount::plus).to_string(), sum);
        }
        assert_eq!(Amount::of(3).to_string(), "3");
        assert_eq!(Amount::parse("x"), None);
    }
}

//! Numbers as Go holds and prints them.
//!
//! Objects without a Go type hold integers of 64 bits where the text was one
//! and fits, doubles otherwise.

use serde_json::{Number, Value};

/// A number as Go holds it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum GoNumber {
    Int(i64),
    Float(f64),
}

impl GoNumber {
    pub(crate) fn of(number: &Number) -> Self {
        match number.as_i64() {
            Some(int) => Self::Int(int),
            None => Self::Float(number.as_f64().unwrap_or(f64::MAX)),
        }
    }

    pub(crate) fn as_f64(self) -> f64 {
        match self {
            // What Go's conversion does, too.
            Self::Int(int) => int as f64,
            Self::Float(float) => float,
        }
    }

    /// Whether it is an integer, if perhaps written with a point.
    pub(crate) fn is_integral(self) -> bool {
        match self {
            Self::Int(_) => true,
            Self::Float(float) => is_integral(float),
        }
    }
}

/// A double that JSON may write as an integer: not past 2^53.
pub(crate) fn is_integral(float: f64) -> bool {
    const MOST: f64 = 9_007_199_254_740_991.0;
    float.fract() == 0.0 && float.abs() <= MOST
}

/// `%v` of a double.
pub(crate) fn print(float: f64) -> String {
    if float == 0.0 {
        return "0".to_owned();
    }
    let exponent = float.abs().log10().floor();
    if !(-4.0..21.0).contains(&exponent) {
        let text = format!("{float:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(rest) => ('-', rest),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    format!("{float}")
}

/// Writes doubles that are integers as integers, which is how Go writes them.
pub(crate) fn settle(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(float) = number.as_f64().filter(|_| number.is_f64())
                && float.fract() == 0.0
                && float.abs() < 9.2e18
            {
                *number = Number::from(float as i64);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(settle),
        Value::Object(map) => map.values_mut().for_each(settle),
        _ => {}
    }
}

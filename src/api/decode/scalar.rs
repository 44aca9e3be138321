//! Leaves with a form of their own: times, durations, base64.

use super::syntax::go_quote;

/// Parses as Go's `time.Parse` with the layout of `metav1.Time` or, with
/// `micros`, of `metav1.MicroTime`. The result is normalised to UTC; `None` is
/// the zero time, which is written as `null`.
pub(crate) fn time(text: &str, micros: bool) -> Result<Option<String>, String> {
    let layout = if micros {
        "2006-01-02T15:04:05.000000Z07:00"
    } else {
        "2006-01-02T15:04:05Z07:00"
    };
    let parser = TimeParser {
        text,
        rest: text,
        layout,
    };
    let (seconds, nanos) = parser.parse(micros)?;
    if (seconds, nanos) == (ZERO, 0) {
        return Ok(None);
    }
    Ok(Some(format_time(seconds, nanos, micros)))
}

/// Seconds of 0001-01-01T00:00:00Z since the Unix epoch.
pub(crate) const ZERO: i64 = -62_135_596_800;

/// A time as `metav1.Time` or `metav1.MicroTime` is written.
pub(crate) fn format_time(seconds: i64, nanos: u32, micros: bool) -> String {
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    let of_day = seconds.rem_euclid(86_400);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let fraction = if micros {
        format!(".{:06}", nanos / 1000)
    } else {
        String::new()
    };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// Seconds since the epoch and nanoseconds of a time that [`time`] wrote.
pub(crate) fn parse_written(text: &str) -> Option<(i64, u32)> {
    let micros = text.contains('.');
    let layout = "2006-01-02T15:04:05Z07:00";
    let parser = TimeParser {
        text,
        rest: text,
        layout,
    };
    parser.parse(micros).ok()
}

struct TimeParser<'a> {
    text: &'a str,
    rest: &'a str,
    layout: &'static str,
}

impl TimeParser<'_> {
    fn cannot<T>(&self, at: &str, element: &str) -> Result<T, String> {
        Err(format!(
            "parsing time {} as {}: cannot parse {} as {}",
            go_quote(self.text),
            go_quote(self.layout),
            go_quote(at),
            go_quote(element)
        ))
    }

    fn range<T>(&self, what: &str) -> Result<T, String> {
        Err(format!(
            "parsing time {}: {what} out of range",
            go_quote(self.text)
        ))
    }

    fn literal(&mut self, literal: &str) -> Result<(), String> {
        match self.rest.strip_prefix(literal) {
            Some(rest) => self.rest = rest,
            None => return self.cannot(self.rest, literal),
        }
        Ok(())
    }

    fn number(&mut self, width: usize, element: &str) -> Result<i64, String> {
        let digits = self
            .rest
            .get(..width)
            .filter(|it| it.bytes().all(|b| b.is_ascii_digit()));
        let Some(digits) = digits else {
            return self.cannot(self.rest, element);
        };
        self.rest = &self.rest[width..];
        Ok(digits.parse().unwrap_or_default())
    }

    fn parse(mut self, micros: bool) -> Result<(i64, u32), String> {
        let year = self.number(4, "2006")?;
        self.literal("-")?;
        let month = self.number(2, "01")?;
        if !(1..=12).contains(&month) {
            return self.range("month");
        }
        self.literal("-")?;
        let day = self.number(2, "02")?;
        self.literal("T")?;
        // Go takes a single digit for the hour.
        let two = self.rest.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
        let hour = self.number(if two { 2 } else { 1 }, "15")?;
        if hour > 23 {
            return self.range("hour");
        }
        self.literal(":")?;
        let minute = self.number(2, "04")?;
        if minute > 59 {
            return self.range("minute");
        }
        self.literal(":")?;
        let second = self.number(2, "05")?;
        if second > 59 {
            return self.range("second");
        }
        let mut nanos = 0;
        let digits = self.rest.as_bytes();
        let length = match digits.first() {
            Some(b'.' | b',') => digits[1..]
                .iter()
                .take_while(|b| b.is_ascii_digit())
                .count(),
            _ => 0,
        };
        if micros {
            if length < 6 {
                return self.cannot(self.rest, ".000000");
            }
            let fraction = &self.rest[1..7];
            nanos = fraction.parse::<u32>().unwrap_or_default() * 1000;
            self.rest = &self.rest[7..];
        } else if length > 0 {
            let fraction = &self.rest[1..=length];
            let nine: String = fraction
                .chars()
                .chain("000000000".chars())
                .take(9)
                .collect();
            nanos = nine.parse().unwrap_or_default();
            self.rest = &self.rest[length + 1..];
        }
        let mut offset = 0;
        if let Some(rest) = self.rest.strip_prefix('Z') {
            self.rest = rest;
        } else {
            let at = self.rest;
            let bytes = at.as_bytes();
            let sign = match bytes.first() {
                Some(b'+') => 1,
                Some(b'-') => -1,
                _ => return self.cannot(at, "Z07:00"),
            };
            let digit = |i: usize| {
                bytes
                    .get(i)
                    .filter(|b| b.is_ascii_digit())
                    .map(|b| i64::from(b - b'0'))
            };
            let (Some(a), Some(b), Some(b':'), Some(c), Some(d)) =
                (digit(1), digit(2), bytes.get(3), digit(4), digit(5))
            else {
                return self.cannot(at, "Z07:00");
            };
            let (hours, minutes) = (a * 10 + b, c * 10 + d);
            if hours > 24 {
                return self.range("time zone offset hour");
            }
            if minutes > 60 {
                return self.range("time zone offset minute");
            }
            offset = sign * (hours * 3600 + minutes * 60);
            self.rest = &at[6..];
        }
        if !self.rest.is_empty() {
            return Err(format!(
                "parsing time {}: extra text: {}",
                go_quote(self.text),
                go_quote(self.rest)
            ));
        }
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let last = match month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        if !(1..=last).contains(&day) {
            return self.range("day");
        }
        let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
        Ok((seconds, nanos))
    }
}

/// Days since the epoch of a date of the proleptic Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The date of a number of days since the epoch.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

/// Parses as Go's `time.ParseDuration`, into nanoseconds.
pub(crate) fn parse_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", go_quote(text));
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let whole = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (integer, after) = rest.split_at(whole);
        let (mut fraction, mut after) = ("", after);
        if let Some(dot) = after.strip_prefix('.') {
            let length = dot.bytes().take_while(u8::is_ascii_digit).count();
            (fraction, after) = dot.split_at(length);
        }
        if integer.is_empty() && fraction.is_empty() || whole > 19 {
            return Err(invalid());
        }
        let unit: String = after
            .chars()
            .take_while(|c| *c != '.' && !c.is_ascii_digit())
            .collect();
        let scale: i128 = match unit.as_str() {
            "" => {
                return Err(format!("time: missing unit in duration {}", go_quote(text)));
            }
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => {
                return Err(format!(
                    "time: unknown unit {} in duration {}",
                    go_quote(&unit),
                    go_quote(text)
                ));
            }
        };
        rest = &after[unit.len()..];
        total += integer.parse::<i128>().unwrap_or_default() * scale;
        let fraction = &fraction[..fraction.len().min(18)];
        if !fraction.is_empty() {
            let value: i128 = fraction.parse().unwrap_or_default();
            total += value * scale / 10_i128.pow(fraction.len() as u32);
        }
        if total > i128::from(i64::MAX) + i128::from(negative) {
            return Err(invalid());
        }
    }
    Ok((if negative { -total } else { total }) as i64)
}

/// Nanoseconds as Go's `Duration.String` prints them.
pub(crate) fn format_duration(nanos: i64) -> String {
    let magnitude = nanos.unsigned_abs();
    let sign = if nanos < 0 { "-" } else { "" };
    let decimal = |value: u64, unit: u64| {
        let text = format!(
            "{}.{:0width$}",
            value / unit,
            value % unit,
            width = unit.ilog10() as usize
        );
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match magnitude {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{magnitude}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", decimal(magnitude, 1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", decimal(magnitude, 1_000_000)),
        _ => {
            let seconds = decimal(magnitude % 60_000_000_000, 1_000_000_000);
            let minutes = magnitude / 60_000_000_000;
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

/// Decodes as Go's `base64.StdEncoding`, which skips line breaks; the error is
/// the offset that Go reports.
pub(crate) fn base64(text: &str) -> Result<Vec<u8>, usize> {
    use base64::Engine as _;
    let engine = &base64::engine::general_purpose::STANDARD;
    if let Ok(bytes) = engine.decode(text) {
        return Ok(bytes);
    }
    // The slow way, for line breaks and the place of an error.
    let src = text.as_bytes();
    let (mut out, mut quantum, mut at) = (Vec::new(), Vec::with_capacity(4), 0);
    loop {
        let Some(&byte) = src.get(at) else {
            return match quantum.len() {
                0 => Ok(out),
                length => Err(at - length),
            };
        };
        at += 1;
        let value = match byte {
            b'\n' | b'\r' => continue,
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' if quantum.len() >= 2 => {
                let skip = |at: &mut usize| {
                    while matches!(src.get(*at), Some(b'\n' | b'\r')) {
                        *at += 1;
                    }
                };
                if quantum.len() == 2 {
                    skip(&mut at);
                    match src.get(at) {
                        None => return Err(src.len()),
                        Some(b'=') => at += 1,
                        Some(_) => return Err(at - 1),
                    }
                }
                skip(&mut at);
                if at < src.len() {
                    return Err(at);
                }
                push_quantum(&mut out, &quantum);
                return Ok(out);
            }
            _ => return Err(at - 1),
        };
        quantum.push(value);
        if quantum.len() == 4 {
            push_quantum(&mut out, &quantum);
            quantum.clear();
        }
    }
}

fn push_quantum(out: &mut Vec<u8>, quantum: &[u8]) {
    let bits = quantum
        .iter()
        .fold(0_u32, |bits, value| bits << 6 | u32::from(*value));
    let bits = bits << (6 * (4 - quantum.len()));
    out.extend_from_slice(&bits.to_be_bytes()[1..quantum.len()]);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn times_are_utc_seconds() {
        let check = |text: &str, micros, expected: &str| {
            let got = time(text, micros)
                .map(Option::unwrap_or_default)
                .unwrap_or_else(|e| e);
            assert_eq!(got, expected, "{text}");
        };
        check("2024-02-29T12:00:00+02:00", false, "2024-02-29T10:00:00Z");
        check("2024-02-29T12:00:00.75Z", false, "2024-02-29T12:00:00Z");
        check("0001-01-01T00:00:00Z", false, "");
        check(
            "2024-02-29T12:00:00.123456Z",
            true,
            "2024-02-29T12:00:00.123456Z",
        );
        check(
            "",
            false,
            r#"parsing time "" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "2006""#,
        );
        check(
            "2024-01-01",
            false,
            r#"parsing time "2024-01-01" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "T""#,
        );
        check(
            "2023-02-29T12:00:00Z",
            false,
            r#"parsing time "2023-02-29T12:00:00Z": day out of range"#,
        );
        check(
            "2023-13-29T12:00:00Z",
            false,
            r#"parsing time "2023-13-29T12:00:00Z": month out of range"#,
        );
        check(
            "2024-02-29T12:00:00Z",
            true,
            r#"parsing time "2024-02-29T12:00:00Z" as "2006-01-02T15:04:05.000000Z07:00": cannot parse "Z" as ".000000""#,
        );
    }

    #[test]
    fn durations_round_trip() {
        let check = |text: &str, expected: &str| {
            let got = parse_duration(text)
                .map(format_duration)
                .unwrap_or_else(|e| e);
            assert_eq!(got, expected, "{text}");
        };
        check("1h30m", "1h30m0s");
        check("1.5s", "1.5s");
        check("-90s", "-1m30s");
        check("1500us", "1.5ms");
        check("0", "0s");
        check("12", "time: missing unit in duration \"12\"");
        check("", "time: invalid duration \"\"");
    }

    #[test]
    fn base64_reports_gos_offsets() {
        let check = |text: &str, expected: Result<&str, usize>| {
            assert_eq!(
                base64(text),
                expected.map(|it| it.as_bytes().to_vec()),
                "{text}"
            );
        };
        check("aGVsbG8=", Ok("hello"));
        check("aGVs\nbG8=\n", Ok("hello"));
        check("~~not valid~~", Err(0));
        check("aGVsbG8", Err(4));
        check("aGVsbG8=x", Err(8));
        check("aGVsb===", Err(5));
    }
}

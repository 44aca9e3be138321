//! Cron schedules: five fields, or one of the usual names.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

/// How far ahead a schedule is searched: a 29 February may be eight years off.
const YEARS: i16 = 9;

/// When a CronJob runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether the fields for days restrict anything: if both do, either will do.
    any_day: bool,
    any_weekday: bool,
}

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Schedule {
    /// Reads a schedule; the error says which part is wrong.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = match text.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            text => text,
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(format!(
                "expected exactly 5 fields, found {}: [{text}]",
                fields.len()
            ));
        };
        let weekday_bits = field(weekdays, 0, 7, &WEEKDAYS)?;
        Ok(Self {
            minutes: field(minutes, 0, 59, &[])?,
            hours: field(hours, 0, 23, &[])?,
            days: field(days, 1, 31, &[])?,
            months: field(months, 1, 12, &MONTHS)?,
            // Sunday is 0 and 7.
            weekdays: (weekday_bits | weekday_bits >> 7) & 0x7f,
            any_day: days.starts_with(['*', '?']),
            any_weekday: weekdays.starts_with(['*', '?']),
        })
    }

    fn is_day(&self, at: DateTime) -> bool {
        let day = has(self.days, at.day());
        let weekday = has(self.weekdays, at.weekday().to_sunday_zero_offset());
        if self.any_day || self.any_weekday {
            day && weekday
        } else {
            day || weekday
        }
    }

    /// The first time after `after`; `None` if there is none in years.
    pub(super) fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let start = after.to_zoned(zone.clone()).datetime();
        let start = start.with().second(0).subsec_nanosecond(0).build().ok()?;
        let mut at = start.checked_add(Span::new().minutes(1)).ok()?;
        let last = start.year().checked_add(YEARS)?;
        while at.year() <= last {
            let midnight = at.with().hour(0).minute(0).build().ok()?;
            if !has(self.months, at.month()) {
                let first = midnight.with().day(1).build().ok()?;
                at = first.checked_add(Span::new().months(1)).ok()?;
            } else if !self.is_day(at) {
                at = midnight.checked_add(Span::new().days(1)).ok()?;
            } else if !has(self.hours, at.hour()) {
                let hour = at.with().minute(0).build().ok()?;
                at = hour.checked_add(Span::new().hours(1)).ok()?;
            } else if !has(self.minutes, at.minute()) {
                at = at.checked_add(Span::new().minutes(1)).ok()?;
            } else {
                // A time the clocks skip or repeat resolves to one that is
                // later than where we came from, or is passed over.
                let found = at.to_zoned(zone.clone()).ok()?.timestamp();
                if found > after {
                    return Some(found);
                }
                at = at.checked_add(Span::new().minutes(1)).ok()?;
            }
        }
        None
    }
}

fn has(bits: u64, number: i8) -> bool {
    u32::try_from(number).is_ok_and(|number| bits & (1 << number) != 0)
}

fn field(text: &str, least: u32, most: u32, names: &[&str]) -> Result<u64, String> {
    let mut bits = 0;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => {
                let step: u32 = step
                    .parse()
                    .map_err(|_| format!("failed to parse {part}"))?;
                (range, Some(step))
            }
            None => (part, None),
        };
        let (first, last) = match range {
            // Only as a number is Sunday 7, too.
            "*" | "?" => (least, if names.len() == 7 { 6 } else { most }),
            range => match range.split_once('-') {
                Some((first, last)) => (value(first, names)?, value(last, names)?),
                None => {
                    let first = value(range, names)?;
                    (first, if step.is_some() { most } else { first })
                }
            },
        };
        let step = step.unwrap_or(1);
        if step == 0 || first < least || last > most || first > last {
            return Err(format!("{part} is not within {least}-{most}"));
        }
        for number in (first..=last).step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
            bits |= 1 << number;
        }
    }
    Ok(bits)
}

fn value(text: &str, names: &[&str]) -> Result<u32, String> {
    let lower = text.to_ascii_lowercase();
    if let Some(place) = names.iter().position(|name| *name == lower) {
        // Months count from one, days of the week from zero.
        let first = u32::from(names.len() == 12);
        return Ok(u32::try_from(place).unwrap_or(0) + first);
    }
    text.parse()
        .map_err(|_| format!("failed to parse int from {text}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn check(schedule: &str, after: &str, next: Option<&str>) {
        let found = Schedule::parse(schedule)
            .unwrap()
            .next(after.parse().unwrap(), &TimeZone::UTC)
            .map(|at| at.to_string());
        assert_eq!(found.as_deref(), next, "{schedule} after {after}");
    }

    #[test]
    fn finds_the_next_time() {
        let at = "2026-01-31T12:34:56Z";
        check("* * * * *", at, Some("2026-01-31T12:35:00Z"));
        check("*/15 * * * *", at, Some("2026-01-31T12:45:00Z"));
        check("0 9-17/4 * * mon-fri", at, Some("2026-02-02T09:00:00Z"));
        check("@monthly", at, Some("2026-02-01T00:00:00Z"));
        check("0 0 29 2 *", at, Some("2028-02-29T00:00:00Z"));
        check("0 0 31 2 *", at, None);
        check("0 0 13 * 5", at, Some("2026-02-06T00:00:00Z"));
        check("5 4 * * 7", at, Some("2026-02-01T04:05:00Z"));
        check("30 12 31 JAN ?", at, Some("2027-01-31T12:30:00Z"));
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        for text in [
            "",
            "* * * *",
            "60 * * * *",
            "* * 0 * *",
            "a * * * *",
            "*/0 * * * *",
            "5-1 * * * *",
        ] {
            assert!(Schedule::parse(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn the_next_time_is_later_and_on_the_minute(seconds in 0..4_000_000_000_i64) {
            let after = Timestamp::from_second(seconds).unwrap();
            let next = Schedule::parse("7,40 */5 * * 1-3").unwrap().next(after, &TimeZone::UTC).unwrap();
            proptest::prop_assert!(next > after);
            proptest::prop_assert_eq!(next.as_second() % 60, 0);
        }
    }
}

//! Formats of strings: which are checked, and how.

use std::net::Ipv6Addr;
use std::sync::OnceLock;

use regex::Regex;
use serde_json::Value;

use super::pattern::compile;
use super::schema::JsonType;
use crate::names;

/// Formats of strings without their dashes, as they are compared.
const STRINGS: [&str; 26] = [
    "bsonobjectid",
    "uri",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "cidr",
    "mac",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "isbn",
    "isbn10",
    "isbn13",
    "creditcard",
    "ssn",
    "hexcolor",
    "rgbcolor",
    "byte",
    "password",
    "date",
    "duration",
    "datetime",
    "k8sshortname",
    "k8slongname",
];

fn plain(format: &str) -> String {
    format.replace('-', "")
}

/// Whether a format has a meaning for values of a type.
pub(super) fn is_recognized(json_type: &str, format: &str) -> bool {
    match json_type {
        "" | "string" => STRINGS.contains(&&*plain(format)),
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => false,
    }
}

/// Whether values are held against a format: not if it is unknown or of another type.
pub(super) fn is_checked(json_type: JsonType, is_int_or_string: bool, format: &str) -> bool {
    // Two types are as good as none.
    let name = if is_int_or_string {
        ""
    } else {
        json_type.name()
    };
    !format.is_empty() && is_recognized(name, format)
}

/// Every format of a `JSONSchemaProps` that nobody checks.
pub(crate) fn unrecognized(json: &Value) -> Vec<String> {
    let mut found = Vec::new();
    collect(json, &mut found);
    found
}

fn collect(json: &Value, found: &mut Vec<String>) {
    let format = json["format"].as_str().unwrap_or_default();
    let json_type = json["type"].as_str().unwrap_or_default();
    if !format.is_empty() && !is_recognized(json_type, format) {
        found.push(format.to_owned());
    }
    super::structural::each_below(json, &mut |below| collect(below, found));
}

/// Whether a format is one that strings are held against.
pub(super) fn is_of_strings(format: &str) -> bool {
    STRINGS.contains(&&*plain(format))
}

/// Whether a text has a format.
pub(super) fn matches(format: &str, text: &str) -> bool {
    match &*plain(format) {
        "bsonobjectid" => text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit()),
        "uri" => is_uri(text),
        "email" => is_email(text),
        "hostname" => is_hostname(text),
        "ipv4" => is_ipv4(text),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "mac" => is_mac(text),
        "uuid" => is_uuid(text, None),
        "uuid3" => is_uuid(text, Some('3')),
        "uuid4" => is_uuid(text, Some('4')),
        "uuid5" => is_uuid(text, Some('5')),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "creditcard" => is_credit_card(text),
        "ssn" => is_ssn(text),
        "hexcolor" => is_hex_color(text),
        "rgbcolor" => is_rgb_color(text),
        "byte" => is_base64(text),
        "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        "duration" => is_duration(text),
        "datetime" => is_date_time(text),
        "k8sshortname" => names::dns_label(text).is_empty(),
        "k8slongname" => names::dns_subdomain(text).is_empty(),
        _ => true,
    }
}

/// An absolute URI or path, without spaces.
fn is_uri(text: &str) -> bool {
    if text.is_empty() || text.bytes().any(|b| b <= b' ' || b == 0x7f) {
        return false;
    }
    if text.starts_with('/') {
        return true;
    }
    let Some((scheme, rest)) = text.split_once(':') else {
        return false;
    };
    let mut bytes = scheme.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic())
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        && !rest.is_empty()
}

fn is_email(text: &str) -> bool {
    let address = match text.trim().strip_suffix('>') {
        Some(inner) => inner.rsplit_once('<').map_or("", |(_, address)| address),
        None => text.trim(),
    };
    let Some((local, domain)) = address.rsplit_once('@') else {
        return false;
    };
    let atom = |part: &str| {
        !part.is_empty()
            && part
                .chars()
                .all(|c| c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c))
    };
    let quoted = local.len() > 2 && local.starts_with('"') && local.ends_with('"');
    let literal = domain.starts_with('[') && domain.ends_with(']');
    (quoted || local.split('.').all(atom)) && (literal || domain.split('.').all(atom))
}

fn is_hostname(text: &str) -> bool {
    static HOSTNAME: OnceLock<Option<Regex>> = OnceLock::new();
    const PATTERN: &str = r"^([a-zA-Z0-9\p{S}\p{L}]((-?[a-zA-Z0-9\p{S}\p{L}]{0,62})?)|([a-zA-Z0-9\p{S}\p{L}](([a-zA-Z0-9-\p{S}\p{L}]{0,61}[a-zA-Z0-9\p{S}\p{L}])?)(\.)){1,}([a-zA-Z\p{L}]){2,63})$";
    let known = HOSTNAME.get_or_init(|| compile(PATTERN).ok());
    known.as_ref().is_some_and(|it| it.is_match(text))
        && text.len() <= 255
        && text.split('.').all(|label| label.len() <= 63)
}

/// Leading zeros are let pass, as before Go 1.17.
fn is_ipv4(text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    if text.contains(':') {
        return text.contains('.') && text.parse::<Ipv6Addr>().is_ok();
    }
    let octet = |part: &&str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_digit())
            && part.parse::<u64>().is_ok_and(|it| it < 256)
    };
    parts.len() == 4 && parts.iter().all(octet)
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else {
        return false;
    };
    let most = if is_ipv4(address) && !address.contains(':') {
        32
    } else if address.parse::<Ipv6Addr>().is_ok() {
        128
    } else {
        return false;
    };
    !bits.is_empty()
        && bits.bytes().all(|b| b.is_ascii_digit())
        && bits.parse::<u32>().is_ok_and(|it| it <= most)
}

fn is_mac(text: &str) -> bool {
    let hex = |part: &str, width: usize| {
        part.len() == width && part.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let groups = |separator: char, width: usize, counts: &[usize]| {
        let parts: Vec<&str> = text.split(separator).collect();
        counts.contains(&parts.len()) && parts.iter().all(|part| hex(part, width))
    };
    groups(':', 2, &[6, 8, 20]) || groups('-', 2, &[6, 8, 20]) || groups('.', 4, &[3, 4, 10])
}

fn is_uuid(text: &str, version: Option<char>) -> bool {
    let bytes = text.as_bytes();
    let mut digits = String::with_capacity(32);
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            // A dash may stand between groups, once.
            b'-' if matches!(digits.len(), 8 | 12 | 16 | 20) && bytes[at - 1] != b'-' => {}
            byte if byte.is_ascii_hexdigit() => digits.push(char::from(byte.to_ascii_lowercase())),
            _ => return false,
        }
    }
    let at = |index: usize| digits.as_bytes().get(index).map(|b| char::from(*b));
    let variant = matches!(at(16), Some('8' | '9' | 'a' | 'b'));
    digits.len() == 32
        && bytes.last() != Some(&b'-')
        && match version {
            None => true,
            Some('3') => at(12) == Some('3'),
            Some(version) => at(12) == Some(version) && variant,
        }
}

/// Digits of a number that may be divided by spaces and dashes.
fn divided(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, ' ' | '-')).collect()
}

fn is_isbn10(text: &str) -> bool {
    let digits = divided(text);
    let bytes = digits.as_bytes();
    if bytes.len() != 10 || !bytes[..9].iter().all(u8::is_ascii_digit) {
        return false;
    }
    let last = match bytes[9] {
        b'X' => 10,
        digit if digit.is_ascii_digit() => u32::from(digit - b'0'),
        _ => return false,
    };
    let sum: u32 = bytes[..9]
        .iter()
        .zip(1..)
        .map(|(digit, weight)| weight * u32::from(digit - b'0'))
        .sum();
    (sum + 10 * last).is_multiple_of(11)
}

fn is_isbn13(text: &str) -> bool {
    let digits = divided(text);
    let bytes = digits.as_bytes();
    if bytes.len() != 13 || !bytes.iter().all(u8::is_ascii_digit) {
        return false;
    }
    let sum: u32 = bytes
        .iter()
        .enumerate()
        .map(|(at, digit)| u32::from(digit - b'0') * if at % 2 == 0 { 1 } else { 3 })
        .sum();
    sum.is_multiple_of(10)
}

fn is_credit_card(text: &str) -> bool {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(10)).collect();
    let number: String = digits.iter().map(ToString::to_string).collect();
    let begins = |prefixes: &[&str], lengths: &[usize]| {
        lengths.contains(&number.len()) && prefixes.iter().any(|it| number.starts_with(it))
    };
    let known = begins(&["4"], &[13, 16, 19])
        || begins(&["51", "52", "53", "54", "55"], &[16])
        || begins(&["2"], &[16])
        || begins(
            &["6011", "65", "62", "50", "56", "57", "58", "6"],
            &[16, 17, 18, 19],
        )
        || begins(&["34", "37"], &[15])
        || begins(
            &["300", "301", "302", "303", "304", "305", "36", "38"],
            &[14],
        )
        || begins(&["2131", "1800"], &[15])
        || begins(&["35"], &[16]);
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(at, digit)| {
            let value = if at % 2 == 1 { digit * 2 } else { *digit };
            if value > 9 { value - 9 } else { value }
        })
        .sum();
    known && sum.is_multiple_of(10)
}

fn is_ssn(text: &str) -> bool {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes[at].is_ascii_digit();
    let gap = |at: usize| matches!(bytes[at], b'-' | b' ');
    bytes.len() == 11 && [0, 1, 2, 4, 5, 7, 8, 9, 10].into_iter().all(digit) && gap(3) && gap(6)
}

fn is_hex_color(text: &str) -> bool {
    let digits = text.strip_prefix('#').unwrap_or(text);
    matches!(digits.len(), 3 | 6) && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_rgb_color(text: &str) -> bool {
    let Some(inner) = text
        .strip_prefix("rgb(")
        .and_then(|it| it.strip_suffix(')'))
    else {
        return false;
    };
    let channel = |part: &str| {
        let part = part.trim();
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_digit())
            && (part == "0" || !part.starts_with('0'))
            && part.parse::<u32>().is_ok_and(|it| it < 256)
    };
    let parts: Vec<&str> = inner.split(',').collect();
    parts.len() == 3 && parts.iter().all(|part| channel(part))
}

fn is_base64(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    let padding = text.len() - body.len();
    text.len().is_multiple_of(4)
        && !text.is_empty()
        && padding <= 2
        && body
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
}

/// Go's durations, or numbers with units such as `3 days`.
fn is_duration(text: &str) -> bool {
    /// The last word of each unit may go on, as in `minutes`.
    const UNITS: [&[&str]; 8] = [
        &["ns", "nano"],
        &["us", "\u{b5}s", "micro"],
        &["ms", "milli"],
        &["s", "sec"],
        &["m", "min"],
        &["h", "hr", "hour"],
        &["d", "day"],
        &["w", "wk", "week"],
    ];
    if is_go_duration(text) {
        return true;
    }
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        rest = rest[start..].trim_start_matches(|c: char| c.is_ascii_digit());
        let unit = rest.trim_start();
        let end = unit
            .find(|c: char| !c.is_ascii_alphabetic() && c != '\u{b5}')
            .unwrap_or(unit.len());
        let name = unit[..end].to_lowercase();
        let known = UNITS.iter().any(|words| {
            words.contains(&&*name) || words.last().is_some_and(|last| name.starts_with(last))
        });
        if known {
            return true;
        }
        rest = &unit[end..];
    }
    false
}

/// `time.ParseDuration`.
fn is_go_duration(text: &str) -> bool {
    const UNITS: [&str; 8] = ["ns", "us", "\u{b5}s", "\u{3bc}s", "ms", "s", "m", "h"];
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    while !rest.is_empty() {
        let end = rest.find(|c| !is_number(c)).unwrap_or(rest.len());
        if rest[..end].parse::<f64>().is_err() {
            return false;
        }
        rest = &rest[end..];
        let end = rest.find(is_number).unwrap_or(rest.len());
        if !UNITS.contains(&&rest[..end]) {
            return false;
        }
        rest = &rest[end..];
    }
    true
}

fn is_date_time(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let Some((date, time)) = lower.split_once('t') else {
        return false;
    };
    let Some(seconds) = time.find(['z', '+', '-']) else {
        return false;
    };
    let (clock, zone) = time.split_at(seconds);
    let two = |text: &str, most: u32| {
        text.len() == 2
            && text.bytes().all(|b| b.is_ascii_digit())
            && text.parse::<u32>().is_ok_and(|it| it <= most)
    };
    let zone_fits = zone == "z"
        || zone[1..]
            .split_once(':')
            .is_some_and(|(hours, minutes)| two(hours, 23) && two(minutes, 59));
    let (whole, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let parts: Vec<&str> = whole.split(':').collect();
    let clock_fits =
        matches!(parts.as_slice(), [h, m, s] if two(h, 23) && two(m, 59) && two(s, 59));
    date.len() == 10
        && date.parse::<jiff::civil::Date>().is_ok()
        && clock_fits
        && !fraction.is_empty()
        && fraction.bytes().all(|b| b.is_ascii_digit())
        && zone_fits
}

//! YAML into JSON values, by the rules of YAML 1.1 that upstream's parser keeps:
//! `y` and `on` are booleans, `0755` is octal, `<<` merges.

use std::borrow::Cow;
use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, Tag};
use serde_json::{Map, Number, Value};

use super::syntax::{MAX_DEPTH, go_quote};

/// A converted document and what strict validation has against it.
pub(crate) struct Converted {
    pub(crate) value: Value,
    pub(crate) duplicates: Vec<String>,
}

/// Nodes that aliases may add to a document.
const MAX_ALIASED: usize = 400_000;

/// Converts the first document; the error is a message beginning `yaml: `.
pub(crate) fn to_json(bytes: &[u8]) -> Result<Converted, String> {
    let text =
        std::str::from_utf8(bytes).map_err(|_| "yaml: invalid leading UTF-8 octet".to_owned())?;
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) =
            event.map_err(|error| refusal(&error.info(), error.marker().line(), text))?;
        let line = span.start.line();
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar(&text, style, tag.as_deref())?;
                builder.node(value, 1, anchor, line)?;
            }
            Event::SequenceStart(_, anchor, _) => builder.open(Open::List(Vec::new()), anchor)?,
            Event::MappingStart(_, anchor, _) => {
                builder.open(Open::Map(Map::new(), Vec::new(), None), anchor)?;
            }
            Event::SequenceEnd | Event::MappingEnd => builder.close(line)?,
            Event::Alias(id) => builder.alias(id, line)?,
            Event::DocumentEnd => break,
            _ => {}
        }
    }
    Ok(Converted {
        value: builder.root,
        duplicates: builder.duplicates,
    })
}

/// A parser's complaint in the words of upstream's. `line` counts from one;
/// upstream names no line for what is wrong in the first one.
fn refusal(info: &str, line: usize, text: &str) -> String {
    // What its scanner finds is counted from one, what its parser finds from zero.
    let (problem, line) = match info {
        "unclosed quote" => ("found unexpected end of stream".into(), line),
        "unclosed bracket '['" => ("did not find expected ',' or ']'".into(), line.max(2) - 1),
        "unclosed bracket '{'" => ("did not find expected ',' or '}'".into(), line.max(2) - 1),
        "recursion limit exceeded" => (format!("exceeded max depth of {MAX_DEPTH}"), 0),
        "while parsing node, found unknown anchor" => {
            let alias = text.lines().nth(line.saturating_sub(1)).and_then(|it| {
                let (_, name) = it.rsplit_once('*')?;
                name.split(|c: char| !c.is_alphanumeric() && c != '-' && c != '_')
                    .next()
            });
            let name = alias.unwrap_or_default();
            (format!("unknown anchor '{name}' referenced"), 0)
        }
        _ if info.starts_with("unexpected character") => {
            ("found character that cannot start any token".into(), line)
        }
        _ => match info.split_once(", ") {
            Some((context, problem)) if context.starts_with("while parsing a block") => {
                (problem.to_owned(), line.max(1) - 1)
            }
            Some((context, problem)) if context.starts_with("while ") => (problem.to_owned(), line),
            _ => (info.to_owned(), line),
        },
    };
    let unclosed = info.starts_with("unclosed bracket");
    if line > 1 || unclosed || line == 1 && info.starts_with("while parsing a block") {
        format!("yaml: line {line}: {problem}")
    } else {
        format!("yaml: {problem}")
    }
}

#[derive(Default)]
struct Builder {
    open: Vec<(Open, usize, usize)>,
    anchors: HashMap<usize, (Value, usize)>,
    aliased: usize,
    root: Value,
    duplicates: Vec<String>,
}

enum Open {
    List(Vec<Value>),
    /// Entries, values to merge, and the key that waits for its value.
    Map(Map<String, Value>, Vec<Value>, Option<Key>),
}

enum Key {
    Name(String, usize),
    Merge,
}

impl Builder {
    fn open(&mut self, open: Open, anchor: usize) -> Result<(), String> {
        if self.open.len() >= MAX_DEPTH {
            return Err(format!("yaml: exceeded max depth of {MAX_DEPTH}"));
        }
        self.open.push((open, anchor, 1));
        Ok(())
    }

    fn close(&mut self, line: usize) -> Result<(), String> {
        let Some((open, anchor, size)) = self.open.pop() else {
            return Ok(());
        };
        let value = match open {
            Open::List(list) => Value::Array(list),
            Open::Map(mut map, merges, _) => {
                for merge in merges {
                    merge_into(&mut map, merge)?;
                }
                Value::Object(map)
            }
        };
        self.node(value, size, anchor, line)
    }

    fn alias(&mut self, id: usize, line: usize) -> Result<(), String> {
        let (_, size) = self
            .anchors
            .get(&id)
            .ok_or("yaml: unknown anchor referenced")?;
        self.aliased += size;
        if self.aliased > MAX_ALIASED {
            return Err("yaml: document contains excessive aliasing".to_owned());
        }
        let (value, size) = self.anchors[&id].clone();
        self.node(value, size, 0, line)
    }

    fn node(
        &mut self,
        value: Value,
        size: usize,
        anchor: usize,
        line: usize,
    ) -> Result<(), String> {
        if anchor != 0 {
            self.anchors.insert(anchor, (value.clone(), size));
        }
        let Some((parent, _, total)) = self.open.last_mut() else {
            self.root = value;
            return Ok(());
        };
        *total += size;
        match parent {
            Open::List(list) => list.push(value),
            Open::Map(map, merges, waiting) => match waiting.take() {
                None => {
                    *waiting = Some(match value {
                        Value::String(text) if text == "<<" => Key::Merge,
                        Value::String(text) => Key::Name(text, line),
                        Value::Bool(it) => Key::Name(it.to_string(), line),
                        Value::Number(it) => Key::Name(it.to_string(), line),
                        Value::Null => {
                            return Err("unsupported map key of type: <nil>".to_owned());
                        }
                        other => return Err(format!("yaml: invalid map key: {other}")),
                    });
                }
                Some(Key::Merge) => merges.push(value),
                Some(Key::Name(name, line)) => {
                    if map.contains_key(&name) {
                        let name = go_quote(&name);
                        self.duplicates
                            .push(format!("line {line}: key {name} already set in map"));
                    }
                    map.insert(name, value);
                }
            },
        }
        Ok(())
    }
}

fn merge_into(map: &mut Map<String, Value>, merge: Value) -> Result<(), String> {
    match merge {
        Value::Object(entries) => {
            for (key, value) in entries {
                map.entry(key).or_insert(value);
            }
            Ok(())
        }
        Value::Array(list) => list.into_iter().try_for_each(|it| merge_into(map, it)),
        _ => Err("yaml: map merge requires map or sequence of maps as the value".to_owned()),
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, String> {
    let tag = tag.map(ToString::to_string).unwrap_or_default();
    let short = tag.rsplit([':', '!']).next().unwrap_or_default();
    match short {
        "str" => return Ok(text.into()),
        "binary" => {
            let joined: String = text.split_whitespace().collect();
            let bytes = super::scalar::base64(&joined)
                .map_err(|_| "yaml: !!binary value contains invalid base64 data".to_owned())?;
            return Ok(String::from_utf8_lossy(&bytes).into());
        }
        "" if style != ScalarStyle::Plain => return Ok(text.into()),
        _ => {}
    }
    let value = resolve(text);
    match (short, &value) {
        ("float", Value::Number(it)) => Ok(number(it.as_f64().unwrap_or_default())),
        ("int", Value::Number(_)) | ("bool", Value::Bool(_)) | ("null", Value::Null) => Ok(value),
        ("int" | "float" | "bool" | "null", _) => {
            Err(format!("yaml: cannot decode `{text}` as a !!{short}"))
        }
        _ => Ok(value),
    }
}

/// What a plain scalar is.
fn resolve(text: &str) -> Value {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return true.into();
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return false.into();
        }
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        _ => {}
    }
    let first = text.as_bytes()[0];
    if !matches!(first, b'0'..=b'9' | b'+' | b'-' | b'.') {
        return text.into();
    }
    let plain: Cow<'_, str> = if text.contains('_') && first != b'.' {
        text.replace('_', "").into()
    } else {
        text.into()
    };
    if let Some(integer) = integer(&plain) {
        return integer;
    }
    if is_float(&plain)
        && let Ok(value) = plain.parse::<f64>()
        && value.is_finite()
    {
        return number(value);
    }
    text.into()
}

/// An integer with the prefixes that Go knows: `0x`, `0o`, `0b` and a mere `0`.
fn integer(text: &str) -> Option<Value> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if !digits.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    let magnitude = i128::from(u64::from_str_radix(digits, radix).ok()?);
    let value = if negative { -magnitude } else { magnitude };
    match i64::try_from(value) {
        Ok(value) => Some(value.into()),
        Err(_) => u64::try_from(value).ok().map(Into::into),
    }
}

fn is_float(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let all_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let mantissa_fits = match mantissa.split_once('.') {
        Some(("", fraction)) => !fraction.is_empty() && all_digits(fraction),
        Some((whole, fraction)) => all_digits(whole) && all_digits(fraction),
        None => !mantissa.is_empty() && all_digits(mantissa),
    };
    mantissa_fits
        && exponent.is_none_or(|it| {
            let digits = it.strip_prefix(['-', '+']).unwrap_or(it);
            !digits.is_empty() && all_digits(digits)
        })
}

fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 9.0e15 {
        return (value as i64).into();
    }
    Value::Number(Number::from_f64(value).unwrap_or_else(|| 0.into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    #[test]
    fn documents_become_json() {
        let check = |text: &str, expected: Value| {
            assert_eq!(to_json(text.as_bytes()).unwrap().value, expected, "{text}");
        };
        check(
            "a: b\nc: [1, 2.5, y, ~, '1']",
            json!({"a": "b", "c": [1, 2.5, true, null, "1"]}),
        );
        check(
            "mode: 0755\nhex: 0x1F\nbig: 1_000",
            json!({"mode": 493, "hex": 31, "big": 1000}),
        );
        check(
            "when: 2024-01-01\nv: 1.2.3\nm: 10Mi",
            json!({"when": "2024-01-01", "v": "1.2.3", "m": "10Mi"}),
        );
        check(
            "a: &x {k: 1}\nb:\n  <<: *x\n  l: 2",
            json!({"a": {"k": 1}, "b": {"k": 1, "l": 2}}),
        );
        check("1: a\ntrue: b", json!({"1": "a", "true": "b"}));
        check("text: |\n  two\n  lines\n", json!({"text": "two\nlines\n"}));
        check("a: 1\n---\nb: 2\n", json!({"a": 1}));
        check("v: !!str 12", json!({"v": "12"}));
        check("", Value::Null);
    }

    #[test]
    fn duplicates_are_noted_and_bombs_refused() {
        let converted = to_json(b"a: 1\nb: 2\na: 3\n").unwrap();
        assert_eq!(
            converted.duplicates,
            ["line 3: key \"a\" already set in map"]
        );
        assert_eq!(converted.value["a"], 3);
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..12 {
            let items = vec![format!("*a{}", level - 1); 10].join(",");
            bomb.push_str(&format!("a{level}: &a{level} [{items}]\n"));
        }
        assert_eq!(
            to_json(bomb.as_bytes()).err().unwrap(),
            "yaml: document contains excessive aliasing"
        );
        assert!(to_json(b"a: [1\nb: }").is_err());
        assert!(to_json("[".repeat(10_000).as_bytes()).is_err());
    }

    #[test]
    fn complaints_are_worded_as_upstream_words_them() {
        for (text, expected) in [
            ("a: b: c", "mapping values are not allowed in this context"),
            ("\"unterminated", "found unexpected end of stream"),
            ("a: *x", "unknown anchor 'x' referenced"),
            ("{a", "line 1: did not find expected ',' or '}'"),
            ("@foo", "found character that cannot start any token"),
            ("- - -\n -x", "line 1: did not find expected '-' indicator"),
        ] {
            let error = to_json(text.as_bytes()).err().unwrap();
            assert_eq!(error, format!("yaml: {expected}"), "{text:?}");
        }
    }
}

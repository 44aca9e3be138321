//! JSON into a typed value, in one pass.
//!
//! The result is what upstream would write after reading the same bytes into
//! its Go struct: unknown fields are gone, nulls and empty values are left out
//! or written out as the struct's tags say, quantities and times are in their
//! canonical form. Errors are those of `encoding/json`.

use std::borrow::Cow;

use base64::Engine as _;
use serde_json::{Map, Number, Value};

use super::scalar;
use super::syntax::{self, MAX_DEPTH, go_quote};
use crate::schema::{FieldRef, Scalar, Shape, StructRef, TypeRef};

/// A typed value with what strict validation has against it.
#[derive(Debug, Default)]
pub(crate) struct Typed {
    pub(crate) value: Value,
    /// `unknown field "x"`, `duplicate field "y"`.
    pub(crate) strict: Vec<String>,
    /// Paths of lists and maps that were given, empty, and left out.
    pub(crate) empties: Vec<String>,
}

/// Most strict errors that are kept.
const MAX_STRICT: usize = 100;

/// Decodes a document. The error is upstream's message.
pub(crate) fn typed(data: &[u8], ty: TypeRef<'_>, strict: bool) -> Result<Typed, String> {
    let mut reader = Reader::new(data, strict);
    match reader.document(ty) {
        Ok(value) => match reader.saved {
            Some(error) => Err(error.to_string()),
            None => Ok(Typed {
                value,
                strict: reader.strict_errors,
                empties: reader.empties,
            }),
        },
        Err(stop) => Err(syntax::error(data).unwrap_or_else(|| stop.to_string())),
    }
}

/// Decodes a document that has no schema; duplicate fields are noted.
pub(crate) fn untyped(data: &[u8], strict: bool) -> Result<Typed, String> {
    let mut reader = Reader::new(data, strict);
    let value = reader.space().any(0).and_then(|value| reader.end(value));
    match value {
        Ok(value) => Ok(Typed {
            value,
            strict: reader.strict_errors,
            empties: Vec::new(),
        }),
        Err(stop) => Err(syntax::error(data).unwrap_or_else(|| stop.to_string())),
    }
}

/// `apiVersion` and `kind` at the top of a document, found as upstream does
/// before it knows the type. The error is that of `encoding/json`.
pub(crate) fn type_meta(data: &[u8]) -> Result<(String, String), String> {
    if let Some(error) = syntax::error(data) {
        return Err(error);
    }
    let mut reader = Reader::new(data, false);
    let (mut version, mut kind) = (String::new(), String::new());
    let mut found: Option<String> = None;
    reader.space();
    if reader.peek() != Some(b'{') {
        return match reader.kind_of_value() {
            "null" => Ok((version, kind)),
            other => Err(format!(
                "json: cannot unmarshal {other} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}"
            )),
        };
    }
    let mut first = true;
    let walked = (|| {
        while reader.next_key(&mut first)? {
            let key = reader.key()?;
            let (name, slot) = if key.eq_ignore_ascii_case("apiVersion") {
                ("apiVersion", &mut version)
            } else if key.eq_ignore_ascii_case("kind") {
                ("kind", &mut kind)
            } else {
                reader.skip(1)?;
                continue;
            };
            match reader.kind_of_value() {
                "string" => *slot = reader.string()?.into_owned(),
                "null" => reader.skip(1)?,
                other => {
                    reader.skip(1)?;
                    found.get_or_insert_with(|| {
                        format!("json: cannot unmarshal {other} into Go struct field .{name} of type string")
                    });
                }
            }
        }
        Ok::<(), Stop>(())
    })();
    match (walked, found) {
        (Err(stop), _) => Err(stop.to_string()),
        (Ok(()), Some(error)) => Err(error),
        (Ok(()), None) => Ok((version, kind)),
    }
}

/// Why decoding ended early.
enum Stop {
    /// Malformed; the message is found by [`syntax::error`].
    Syntax,
    /// What a type with its own decoder said.
    Failed(Failure),
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Syntax => f.write_str("invalid JSON"),
            Self::Failed(failure) => failure.fmt(f),
        }
    }
}

enum Failure {
    /// `json.UnmarshalTypeError`.
    Type {
        value: String,
        go_type: String,
        /// Name of the struct and path of fields; empty at the top.
        place: Option<(String, Vec<String>)>,
    },
    Text(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Type {
                value,
                go_type,
                place: Some((name, fields)),
            } => write!(
                f,
                "json: cannot unmarshal {value} into Go struct field {name}.{} of type {go_type}",
                fields.join(".")
            ),
            Self::Type { value, go_type, .. } => {
                write!(
                    f,
                    "json: cannot unmarshal {value} into Go value of type {go_type}"
                )
            }
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// A decoded value, and whether Go would hold something other than its zero value.
type Held = (Value, bool);

struct Reader<'a> {
    data: &'a [u8],
    at: usize,
    strict: bool,
    strict_errors: Vec<String>,
    empties: Vec<String>,
    /// Path for strict errors: keys and indices.
    path: Vec<Step<'a>>,
    /// Go's stack of fields for type errors, and the struct of the last one.
    fields: Vec<&'a str>,
    within: Option<&'a str>,
    /// The first type error; decoding goes on after it, as upstream's does.
    saved: Option<Failure>,
}

enum Step<'a> {
    Key(Cow<'a, str>),
    Index(usize),
}

impl<'a> Reader<'a> {
    fn new(data: &'a [u8], strict: bool) -> Self {
        Self {
            data,
            at: 0,
            strict,
            strict_errors: Vec::new(),
            empties: Vec::new(),
            path: Vec::new(),
            fields: Vec::new(),
            within: None,
            saved: None,
        }
    }

    fn document<'t: 'a>(&mut self, ty: TypeRef<'t>) -> Result<Value, Stop> {
        self.space();
        let (mut value, _) = self.value(ty, false, 0)?;
        if value.is_null()
            && let Some(it) = ty.as_struct()
        {
            value = zero_struct(it);
        }
        self.end(value)
    }

    fn end(&mut self, value: Value) -> Result<Value, Stop> {
        self.space();
        if self.at < self.data.len() {
            return Err(Stop::Syntax);
        }
        Ok(value)
    }

    fn space(&mut self) -> &mut Self {
        while matches!(self.data.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
        self
    }

    fn peek(&self) -> Option<u8> {
        self.data.get(self.at).copied()
    }

    /// What `encoding/json` calls the value that begins here.
    fn kind_of_value(&self) -> &'static str {
        match self.peek() {
            Some(b'{') => "object",
            Some(b'[') => "array",
            Some(b'"') => "string",
            Some(b't' | b'f') => "bool",
            Some(b'n') => "null",
            _ => "number",
        }
    }

    /// Moves to the next key of an object; false at its end.
    fn next_key(&mut self, first: &mut bool) -> Result<bool, Stop> {
        self.next_item(first, b'{', b'}')
    }

    fn next_item(&mut self, first: &mut bool, open: u8, close: u8) -> Result<bool, Stop> {
        self.space();
        if *first {
            debug_assert_eq!(self.peek(), Some(open));
            self.at += 1;
            self.space();
        }
        let next = self.peek();
        if next == Some(close) {
            self.at += 1;
            return Ok(false);
        }
        if !*first {
            if next != Some(b',') {
                return Err(Stop::Syntax);
            }
            self.at += 1;
            self.space();
        }
        *first = false;
        Ok(true)
    }

    /// Reads a key and its colon; the value comes next.
    fn key(&mut self) -> Result<Cow<'a, str>, Stop> {
        if self.peek() != Some(b'"') {
            return Err(Stop::Syntax);
        }
        let key = self.string()?;
        self.space();
        if self.peek() != Some(b':') {
            return Err(Stop::Syntax);
        }
        self.at += 1;
        self.space();
        Ok(key)
    }

    fn literal(&mut self, word: &str) -> Result<(), Stop> {
        if !self.data[self.at..].starts_with(word.as_bytes()) {
            return Err(Stop::Syntax);
        }
        self.at += word.len();
        Ok(())
    }

    fn string(&mut self) -> Result<Cow<'a, str>, Stop> {
        let start = self.at + 1;
        let mut at = start;
        let data = self.data;
        loop {
            match data.get(at) {
                Some(b'"') => {
                    self.at = at + 1;
                    return Ok(String::from_utf8_lossy(&data[start..at]));
                }
                Some(b'\\') => break,
                Some(0..0x20) | None => return Err(Stop::Syntax),
                Some(_) => at += 1,
            }
        }
        let mut out = String::from_utf8_lossy(&data[start..at]).into_owned();
        loop {
            let run = at;
            while matches!(data.get(at), Some(b) if *b >= 0x20 && *b != b'"' && *b != b'\\') {
                at += 1;
            }
            out.push_str(&String::from_utf8_lossy(&data[run..at]));
            match data.get(at) {
                Some(b'"') => {
                    self.at = at + 1;
                    return Ok(Cow::Owned(out));
                }
                Some(b'\\') => at += 1,
                _ => return Err(Stop::Syntax),
            }
            out.push(match data.get(at) {
                Some(b'b') => '\x08',
                Some(b'f') => '\x0c',
                Some(b'n') => '\n',
                Some(b'r') => '\r',
                Some(b't') => '\t',
                Some(b'\\') => '\\',
                Some(b'/') => '/',
                Some(b'"') => '"',
                Some(b'u') => {
                    let unit = |at: usize| {
                        let digits = data
                            .get(at..at + 4)
                            .filter(|d| d.iter().all(u8::is_ascii_hexdigit))?;
                        u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
                    };
                    let high = unit(at + 1).ok_or(Stop::Syntax)?;
                    at += 4;
                    let mut c = char::from_u32(high);
                    if (0xd800..0xdc00).contains(&high)
                        && data.get(at + 1..at + 3) == Some(b"\\u")
                        && let Some(low) = unit(at + 3)
                        && (0xdc00..0xe000).contains(&low)
                    {
                        c = char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00));
                        at += 6;
                    }
                    c.unwrap_or(char::REPLACEMENT_CHARACTER)
                }
                _ => return Err(Stop::Syntax),
            });
            at += 1;
        }
    }

    /// The text of a number.
    fn number(&mut self) -> Result<&'a str, Stop> {
        let start = self.at;
        let mut at = self.at;
        while matches!(
            self.data.get(at),
            Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')
        ) {
            at += 1;
        }
        self.at = at;
        let text = std::str::from_utf8(&self.data[start..at]).map_err(|_| Stop::Syntax)?;
        if !is_number(text.as_bytes()) {
            return Err(Stop::Syntax);
        }
        Ok(text)
    }

    /// Passes over a value.
    fn skip(&mut self, depth: usize) -> Result<(), Stop> {
        if depth > MAX_DEPTH {
            return Err(Stop::Syntax);
        }
        match self.peek() {
            Some(b'{') => {
                let mut first = true;
                while self.next_key(&mut first)? {
                    self.key()?;
                    self.skip(depth + 1)?;
                }
                Ok(())
            }
            Some(b'[') => {
                let mut first = true;
                while self.next_item(&mut first, b'[', b']')? {
                    self.skip(depth + 1)?;
                }
                Ok(())
            }
            Some(b'"') => self.string().map(drop),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            Some(b'n') => self.literal("null"),
            _ => self.number().map(drop),
        }
    }

    /// Passes over a value and returns its bytes.
    fn raw(&mut self, depth: usize) -> Result<&'a [u8], Stop> {
        let start = self.at;
        self.skip(depth)?;
        Ok(&self.data[start..self.at])
    }

    fn strict_error(&mut self, what: &str, name: &str) {
        if !self.strict || self.strict_errors.len() >= MAX_STRICT {
            return;
        }
        let path = self.path_of(name);
        let error = format!("{what} field {}", go_quote(&path));
        if !self.strict_errors.contains(&error) {
            self.strict_errors.push(error);
        }
    }

    /// The path of a field of the object that is being read.
    fn path_of(&self, name: &str) -> String {
        let mut path = String::new();
        for step in &self.path {
            match step {
                Step::Key(key) => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(key);
                }
                Step::Index(index) => path.push_str(&format!("[{index}]")),
            }
        }
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(name);
        path
    }

    /// A type error at this place.
    fn type_error(&self, value: impl Into<String>, go_type: impl Into<String>) -> Failure {
        self.placed(Failure::Type {
            value: value.into(),
            go_type: go_type.into(),
            place: None,
        })
    }

    /// An error with this place before its own.
    fn placed(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Type {
                value,
                go_type,
                place,
            } => {
                let mut fields: Vec<String> =
                    self.fields.iter().map(|it| (*it).to_owned()).collect();
                let place = match (self.within, place) {
                    (None, place) => place,
                    (Some(name), None) => Some((name.to_owned(), fields)),
                    (Some(name), Some((_, inner))) => {
                        fields.push(inner.join("."));
                        Some((name.to_owned(), fields))
                    }
                };
                Failure::Type {
                    value,
                    go_type,
                    place,
                }
            }
            text => text,
        }
    }

    fn save(&mut self, failure: Failure) {
        self.saved.get_or_insert(failure);
    }

    /// Decodes a value of any JSON type.
    fn any(&mut self, depth: usize) -> Result<Value, Stop> {
        if depth > MAX_DEPTH {
            return Err(Stop::Syntax);
        }
        let level = self.path.len();
        match self.peek() {
            Some(b'{') => {
                let (mut map, mut first) = (Map::new(), true);
                while self.next_key(&mut first)? {
                    let key = self.key()?;
                    if map.contains_key(&*key) {
                        self.strict_error("duplicate", &key);
                    }
                    if self.strict {
                        self.path.push(Step::Key(key.clone()));
                    }
                    let value = self.any(depth + 1)?;
                    self.path.truncate(level);
                    map.insert(key.into_owned(), value);
                }
                Ok(Value::Object(map))
            }
            Some(b'[') => {
                let (mut list, mut first) = (Vec::new(), true);
                while self.next_item(&mut first, b'[', b']')? {
                    if self.strict {
                        self.path.push(Step::Index(list.len()));
                    }
                    list.push(self.any(depth + 1)?);
                    self.path.truncate(level);
                }
                Ok(Value::Array(list))
            }
            Some(b'"') => Ok(Value::String(self.string()?.into_owned())),
            Some(b't') => self.literal("true").map(|()| Value::Bool(true)),
            Some(b'f') => self.literal("false").map(|()| Value::Bool(false)),
            Some(b'n') => self.literal("null").map(|()| Value::Null),
            _ => {
                let text = self.number()?;
                Ok(any_number(text))
            }
        }
    }

    /// Decodes a value of a type. A `null` for a pointer, list or map is [`Value::Null`].
    fn value<'t: 'a>(
        &mut self,
        ty: TypeRef<'t>,
        pointer: bool,
        depth: usize,
    ) -> Result<Held, Stop> {
        if depth > MAX_DEPTH {
            return Err(Stop::Syntax);
        }
        let shape = ty.shape();
        if self.peek() == Some(b'n') {
            self.literal("null")?;
            let value = if pointer { Value::Null } else { zero_of(shape) };
            // A duration has no null of its own.
            if !pointer && matches!(shape, Shape::Scalar(Scalar::Duration)) {
                let error = Failure::Text("time: invalid duration \"\"".to_owned());
                return Err(Stop::Failed(error));
            }
            return Ok((value, false));
        }
        match shape {
            Shape::Struct(it) => self.object(it, ty, depth),
            Shape::List(element) => self.list(element, ty, depth),
            Shape::Map(value) => self.map(value, ty, depth),
            Shape::Scalar(scalar) => self.scalar(scalar, ty, depth),
        }
    }

    fn mismatch(&mut self, ty: TypeRef<'_>, depth: usize) -> Result<Held, Stop> {
        let kind = self.kind_of_value();
        let error = self.type_error(kind, ty.go_name());
        self.skip(depth)?;
        self.save(error);
        Ok((Value::Null, false))
    }

    fn list<'t: 'a>(
        &mut self,
        element: TypeRef<'t>,
        ty: TypeRef<'_>,
        depth: usize,
    ) -> Result<Held, Stop> {
        if self.peek() != Some(b'[') {
            return self.mismatch(ty, depth);
        }
        let level = self.path.len();
        let (mut list, mut first) = (Vec::new(), true);
        while self.next_item(&mut first, b'[', b']')? {
            if self.strict {
                self.path.push(Step::Index(list.len()));
            }
            list.push(self.value(element, false, depth + 1)?.0);
            self.path.truncate(level);
        }
        Ok((Value::Array(list), true))
    }

    fn map<'t: 'a>(
        &mut self,
        ty: TypeRef<'t>,
        whole: TypeRef<'_>,
        depth: usize,
    ) -> Result<Held, Stop> {
        if self.peek() != Some(b'{') {
            return self.mismatch(whole, depth);
        }
        let level = self.path.len();
        let (fields, within) = (self.fields.len(), self.within);
        let (mut map, mut first) = (Map::new(), true);
        while self.next_key(&mut first)? {
            let key = self.key()?;
            if map.contains_key(&*key) {
                self.strict_error("duplicate", &key);
            }
            if self.strict {
                self.path.push(Step::Key(key.clone()));
            }
            let value = self.value(ty, false, depth + 1)?.0;
            self.path.truncate(level);
            self.fields.truncate(fields);
            self.within = within;
            map.insert(key.into_owned(), value);
        }
        Ok((Value::Object(map), true))
    }

    fn object<'t: 'a>(
        &mut self,
        it: StructRef<'t>,
        ty: TypeRef<'_>,
        depth: usize,
    ) -> Result<Held, Stop> {
        if self.peek() != Some(b'{') {
            return self.mismatch(ty, depth);
        }
        let level = self.path.len();
        let (fields, within) = (self.fields.len(), self.within);
        let mut seen = 0_u128;
        let mut nonzero = false;
        let (mut map, mut first) = (Map::new(), true);
        while self.next_key(&mut first)? {
            let key = self.key()?;
            let Some((index, field)) = it
                .fields()
                .enumerate()
                .find(|(_, field)| field.name() == key)
            else {
                self.strict_error("unknown", &key);
                self.skip(depth + 1)?;
                continue;
            };
            let bit = 1_u128 << (index & 127);
            if seen & bit != 0 {
                self.strict_error("duplicate", field.name());
            }
            seen |= bit;
            let embeds = self.fields.len();
            self.fields.extend(field.embeds().map(|(name, _)| name));
            self.fields[embeds..].reverse();
            self.within = Some(it.name());
            self.fields.push(field.name());
            if self.strict {
                self.path.push(Step::Key(Cow::Borrowed(field.name())));
            }
            let (value, held) = self.value(field.ty(), field.is_pointer(), depth + 1)?;
            self.path.truncate(level);
            self.fields.truncate(fields);
            self.within = within;
            nonzero |= held || field.is_pointer() && !value.is_null();
            let empty = match &value {
                Value::Array(list) => list.is_empty(),
                Value::Object(map) => map.is_empty(),
                _ => false,
            };
            put(&mut map, field, value, held);
            if empty && self.strict && !map.contains_key(field.name()) {
                let path = self.path_of(field.name());
                self.empties.push(path);
            }
        }
        for (index, field) in it.fields().enumerate() {
            if seen & 1 << (index & 127) == 0
                && let Some(zero) = written_zero(field)
            {
                map.insert(field.name().to_owned(), zero);
            }
        }
        Ok((Value::Object(map), nonzero))
    }

    /// Bytes given as a list of numbers.
    fn byte_array(&mut self, depth: usize) -> Result<Held, Stop> {
        let (mut bytes, mut first) = (Vec::new(), true);
        while self.next_item(&mut first, b'[', b']')? {
            match self.kind_of_value() {
                "number" => {
                    let text = self.number()?;
                    match text.parse::<u8>() {
                        Ok(byte) => bytes.push(byte),
                        Err(_) => {
                            let error = self.type_error(format!("number {text}"), "uint8");
                            self.save(error);
                        }
                    }
                }
                kind => {
                    let error = self.type_error(kind, "uint8");
                    self.skip(depth + 1)?;
                    if kind == "null" {
                        bytes.push(0);
                    } else {
                        self.save(error);
                    }
                }
            }
        }
        let text = base64::engine::general_purpose::STANDARD.encode(bytes);
        Ok((Value::String(text), true))
    }

    fn scalar<'t: 'a>(
        &mut self,
        scalar: Scalar,
        ty: TypeRef<'t>,
        depth: usize,
    ) -> Result<Held, Stop> {
        let kind = self.kind_of_value();
        match scalar {
            Scalar::String => {
                if kind != "string" {
                    return self.mismatch(ty, depth);
                }
                let text = self.string()?.into_owned();
                let held = !text.is_empty();
                Ok((Value::String(text), held))
            }
            Scalar::Bool => {
                let value = match self.peek() {
                    Some(b't') => true,
                    Some(b'f') => false,
                    _ => return self.mismatch(ty, depth),
                };
                self.literal(if value { "true" } else { "false" })?;
                Ok((Value::Bool(value), value))
            }
            Scalar::Int32 | Scalar::Int64 | Scalar::Uint64 | Scalar::Float64 => {
                if kind != "number" {
                    return self.mismatch(ty, depth);
                }
                let text = self.number()?;
                match parse_number(scalar, text) {
                    Some(number) => {
                        let held = number.as_f64() != Some(0.0);
                        Ok((Value::Number(number), held))
                    }
                    None => {
                        let error = self.type_error(format!("number {text}"), ty.go_name());
                        self.save(error);
                        Ok((Value::Null, false))
                    }
                }
            }
            Scalar::Bytes => match kind {
                "string" => {
                    let text = self.string()?;
                    match scalar::base64(&text) {
                        Ok(bytes) => {
                            let text = base64::engine::general_purpose::STANDARD.encode(bytes);
                            Ok((Value::String(text), true))
                        }
                        Err(at) => {
                            self.save(Failure::Text(format!(
                                "illegal base64 data at input byte {at}"
                            )));
                            Ok((Value::Null, false))
                        }
                    }
                }
                "array" => self.byte_array(depth),
                _ => self.mismatch(ty, depth),
            },
            Scalar::Time | Scalar::MicroTime | Scalar::Duration => {
                if kind != "string" {
                    return Err(Stop::Failed(self.type_error(kind, "string")));
                }
                let text = self.string()?;
                let parsed = match scalar {
                    Scalar::Duration => scalar::parse_duration(&text)
                        .map(scalar::format_duration)
                        .map(Some),
                    _ => scalar::time(&text, scalar == Scalar::MicroTime),
                };
                match parsed {
                    Ok(Some(text)) => {
                        let held = text != "0s";
                        Ok((Value::String(text), held))
                    }
                    Ok(None) => Ok((Value::Null, false)),
                    Err(error) => Err(Stop::Failed(Failure::Text(error))),
                }
            }
            Scalar::Quantity => {
                let raw = String::from_utf8_lossy(self.raw(depth)?);
                let text = raw
                    .strip_prefix('"')
                    .and_then(|it| it.strip_suffix('"'))
                    .unwrap_or(&raw);
                match crate::quantity::canonical(text.trim()) {
                    Ok(text) => {
                        let held = text != "0";
                        Ok((Value::String(text), held))
                    }
                    Err(error) => Err(Stop::Failed(Failure::Text(error.to_string()))),
                }
            }
            Scalar::IntOrString => match kind {
                "string" => Ok((Value::String(self.string()?.into_owned()), true)),
                "number" => {
                    let text = self.number()?;
                    match text.parse::<i32>() {
                        Ok(number) => Ok((number.into(), number != 0)),
                        Err(_) => Err(Stop::Failed(
                            self.type_error(format!("number {text}"), "int32"),
                        )),
                    }
                }
                _ => Err(Stop::Failed(self.type_error(kind, "int32"))),
            },
            Scalar::FieldsV1 | Scalar::RawExtension | Scalar::Json | Scalar::Any => {
                if scalar == Scalar::Any {
                    return Ok((self.any(depth)?, true));
                }
                let raw = self.raw(depth)?;
                let mut inner = Reader::new(raw, false);
                Ok((inner.any(depth)?, true))
            }
            Scalar::SchemaOrBool | Scalar::SchemaOrArray | Scalar::SchemaOrStrings => {
                let raw = self.raw(depth)?;
                self.schema_or(scalar, ty, raw, depth)
            }
        }
    }

    /// The unions of `apiextensions`, which upstream decodes apart and not strictly.
    fn schema_or<'t: 'a>(
        &mut self,
        scalar: Scalar,
        ty: TypeRef<'t>,
        raw: &'a [u8],
        depth: usize,
    ) -> Result<Held, Stop> {
        let schema = ty
            .sibling("JSONSchemaProps")
            .expect("the type is beside its unions");
        let mut inner = Reader::new(raw, false);
        let decoded = match (scalar, inner.peek()) {
            (_, Some(b'{')) => inner.value(schema, false, depth),
            (Scalar::SchemaOrBool, Some(b't')) => Ok((Value::Bool(true), true)),
            (Scalar::SchemaOrBool, Some(b'f')) => Ok((Value::Bool(false), true)),
            (Scalar::SchemaOrBool, _) => {
                let error = "boolean or JSON schema expected".to_owned();
                Err(Stop::Failed(Failure::Text(error)))
            }
            (_, Some(b'[')) => {
                let (mut list, mut first) = (Vec::new(), true);
                let mut filled = || {
                    while inner.next_item(&mut first, b'[', b']')? {
                        list.push(match scalar {
                            Scalar::SchemaOrArray => inner.value(schema, false, depth + 1)?.0,
                            _ if inner.peek() == Some(b'"') => {
                                Value::String(inner.string()?.into_owned())
                            }
                            _ => {
                                let kind = inner.kind_of_value();
                                return Err(Stop::Failed(inner.type_error(kind, "string")));
                            }
                        });
                    }
                    Ok(())
                };
                filled().map(|()| {
                    if list.is_empty() {
                        (Value::Null, false)
                    } else {
                        (Value::Array(list), true)
                    }
                })
            }
            _ => Ok((Value::Null, false)),
        };
        match (decoded, inner.saved) {
            (Ok(held), None) => Ok(held),
            (Ok(_), Some(failure)) | (Err(Stop::Failed(failure)), _) => {
                Err(Stop::Failed(self.placed(failure)))
            }
            (Err(Stop::Syntax), _) => Err(Stop::Syntax),
        }
    }
}

fn is_number(text: &[u8]) -> bool {
    let digits = |at: &mut usize| {
        let start = *at;
        while text.get(*at).is_some_and(u8::is_ascii_digit) {
            *at += 1;
        }
        *at > start
    };
    let mut at = usize::from(text.first() == Some(&b'-'));
    if text.get(at) == Some(&b'0') {
        at += 1;
    } else if !digits(&mut at) {
        return false;
    }
    if text.get(at) == Some(&b'.') {
        at += 1;
        if !digits(&mut at) {
            return false;
        }
    }
    if matches!(text.get(at), Some(b'e' | b'E')) {
        at += 1;
        if matches!(text.get(at), Some(b'+' | b'-')) {
            at += 1;
        }
        if !digits(&mut at) {
            return false;
        }
    }
    at == text.len()
}

fn parse_number(scalar: Scalar, text: &str) -> Option<Number> {
    match scalar {
        Scalar::Int32 => text.parse::<i32>().ok().map(Into::into),
        Scalar::Int64 => text.parse::<i64>().ok().map(Into::into),
        Scalar::Uint64 => text.parse::<u64>().ok().map(Into::into),
        _ => text
            .parse::<f64>()
            .ok()
            .filter(|it| it.is_finite())
            .map(float),
    }
}

/// A double as Go writes it: without a fraction if it is whole.
fn float(value: f64) -> Number {
    if value.fract() == 0.0 && value.abs() < 9.0e15 {
        Number::from(value as i64)
    } else {
        Number::from_f64(value).unwrap_or_else(|| 0.into())
    }
}

fn any_number(text: &str) -> Value {
    if let Ok(number) = text.parse::<i64>() {
        return Value::Number(number.into());
    }
    let value = text.parse::<f64>().unwrap_or_default();
    Value::Number(Number::from_f64(value).unwrap_or_else(|| 0.into()))
}

/// Puts a decoded field into its object, or leaves it out as Go's tags say.
fn put(map: &mut Map<String, Value>, field: FieldRef<'_>, value: Value, held: bool) {
    let omitted = if field.is_pointer() {
        value.is_null() && (field.omitempty() || field.omitzero())
    } else {
        field.omitzero() && !held
            || field.omitempty()
                && match &value {
                    Value::Null => !writes_null(field.ty().shape()),
                    Value::Bool(it) => !it,
                    Value::Number(it) => {
                        it.as_f64() == Some(0.0)
                            && !matches!(field.ty().shape(), Shape::Scalar(Scalar::IntOrString))
                    }
                    Value::String(it) => {
                        it.is_empty()
                            && !matches!(
                                field.ty().shape(),
                                Shape::Scalar(Scalar::IntOrString | Scalar::RawExtension)
                            )
                    }
                    Value::Array(it) => {
                        it.is_empty() && matches!(field.ty().shape(), Shape::List(_))
                    }
                    Value::Object(it) => {
                        it.is_empty() && matches!(field.ty().shape(), Shape::Map(_))
                    }
                }
    };
    if omitted {
        map.remove(field.name());
    } else {
        map.insert(field.name().to_owned(), value);
    }
}

/// Whether the zero value is a struct in Go, which omitempty does not leave
/// out, and is written as `null`.
fn writes_null(shape: Shape<'_>) -> bool {
    matches!(
        shape,
        Shape::Scalar(
            Scalar::Time
                | Scalar::MicroTime
                | Scalar::RawExtension
                | Scalar::Json
                | Scalar::FieldsV1
                | Scalar::SchemaOrArray
                | Scalar::SchemaOrStrings
        )
    )
}

/// What Go writes for a field that was not given; `None` leaves it out.
pub(crate) fn written_zero(field: FieldRef<'_>) -> Option<Value> {
    if field.omitzero() {
        return None;
    }
    if field.is_pointer() {
        return (!field.omitempty()).then_some(Value::Null);
    }
    let shape = field.ty().shape();
    let is_struct = match shape {
        Shape::Struct(_) => true,
        Shape::Scalar(
            Scalar::Quantity | Scalar::IntOrString | Scalar::Duration | Scalar::SchemaOrBool,
        ) => true,
        shape => writes_null(shape),
    };
    (is_struct || !field.omitempty()).then(|| zero_of(shape))
}

/// The zero value of a type as Go writes it.
fn zero_of(shape: Shape<'_>) -> Value {
    match shape {
        Shape::Struct(it) => zero_struct(it),
        Shape::List(_) | Shape::Map(_) => Value::Null,
        Shape::Scalar(scalar) => match scalar {
            Scalar::String => Value::String(String::new()),
            Scalar::Bool | Scalar::SchemaOrBool => Value::Bool(false),
            Scalar::Int32
            | Scalar::Int64
            | Scalar::Uint64
            | Scalar::Float64
            | Scalar::IntOrString => 0.into(),
            Scalar::Quantity => "0".into(),
            Scalar::Duration => "0s".into(),
            _ => Value::Null,
        },
    }
}

fn zero_struct(it: StructRef<'_>) -> Value {
    let fields = it.fields();
    Value::Object(
        fields
            .filter_map(|field| Some((field.name().to_owned(), written_zero(field)?)))
            .collect(),
    )
}

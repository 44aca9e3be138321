//! JSON into a typed value, in one pass.
//!
//! The result is what upstream would write after reading the same bytes into
//! its Go struct: unknown fields are gone, nulls and empty values are left out
//! or written out as the struct's tags say, quantities and times are in their
//! canonical form. Errors are those of `encoding/json`.

mod failure;
mod leaf;
mod lex;
mod zero;

use std::borrow::Cow;

use serde_json::{Map, Value};

use self::failure::{Failure, Stop};
use self::leaf::any_number;
use self::zero::{put, zero_of, zero_struct};
use super::syntax::{self, MAX_DEPTH, go_quote};
use crate::schema::{Scalar, Shape, StructRef, TypeRef};

pub(crate) use self::zero::written_zero;

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
}

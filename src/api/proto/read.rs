//! Messages into values.

use base64::Engine as _;
use serde_json::{Map, Number, Value, json};

use super::ProtoError;
use super::write::props;
use crate::decode::scalar;
use crate::schema::{Member, Scalar, Shape, StructRef, TypeRef};

/// Messages nested deeper than this are refused.
const MAX_DEPTH: usize = 200;

/// Decodes a message into the value of a type; unknown fields are passed over.
/// Zero values stay: [`crate::decode::normalise`] leaves out what Go omits.
///
/// # Errors
///
/// When the bytes are not such a message.
pub fn decode(raw: &[u8], ty: TypeRef<'_>) -> Result<Value, ProtoError> {
    contents(raw, ty, 0)
}

/// Walks over a message.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    fn varint(&mut self) -> Result<u64, ProtoError> {
        let mut value = 0_u64;
        for shift in (0..).step_by(7) {
            if shift >= 64 {
                return Err(ProtoError::Overflow);
            }
            let (byte, rest) = self.rest.split_first().ok_or(ProtoError::End)?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        Ok(value)
    }

    /// The next field number and wire type; `None` at the end.
    pub(super) fn tag(&mut self) -> Result<Option<(u32, u8)>, ProtoError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let (number, wire) = (tag >> 3, (tag & 7) as u8);
        if number == 0 || number > 0x1fff_ffff || wire == 4 {
            return Err(ProtoError::Tag(number, wire));
        }
        Ok(Some((number as u32, wire)))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], ProtoError> {
        if length > i64::MAX as u64 {
            return Err(ProtoError::Negative);
        }
        let length = usize::try_from(length).map_err(|_| ProtoError::End)?;
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(ProtoError::End)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], ProtoError> {
        let length = self.varint()?;
        self.take(length)
    }

    pub(super) fn text(&mut self) -> Result<String, ProtoError> {
        Ok(String::from_utf8_lossy(self.bytes()?).into_owned())
    }

    pub(super) fn skip(&mut self, wire: u8) -> Result<(), ProtoError> {
        match wire {
            0 => self.varint().map(drop),
            1 => self.take(8).map(drop),
            2 => self.bytes().map(drop),
            3 => {
                let mut depth = 1;
                while depth > 0 {
                    let tag = self.varint()?;
                    match tag & 7 {
                        3 => depth += 1,
                        4 => depth -= 1,
                        wire => self.skip(wire as u8)?,
                    }
                }
                Ok(())
            }
            5 => self.take(4).map(drop),
            _ => Err(ProtoError::Tag(0, wire)),
        }
    }
}

fn contents(raw: &[u8], ty: TypeRef<'_>, depth: usize) -> Result<Value, ProtoError> {
    if depth > MAX_DEPTH {
        return Err(ProtoError::Depth);
    }
    match ty.shape() {
        Shape::Struct(it) => {
            let mut object = Map::new();
            members(raw, it, 0, &mut object, depth)?;
            Ok(Value::Object(object))
        }
        Shape::List(element) => {
            let mut list = Vec::new();
            let mut reader = Reader::new(raw);
            while let Some((number, wire)) = reader.tag()? {
                match number {
                    1 => list.push(single(&mut reader, wire, element, "items", depth)?),
                    _ => reader.skip(wire)?,
                }
            }
            Ok(Value::Array(list))
        }
        Shape::Map(_) => Ok(Value::Null),
        Shape::Scalar(scalar) => message(raw, scalar, ty, depth),
    }
}

fn members(
    raw: &[u8],
    it: StructRef<'_>,
    level: u8,
    object: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtoError> {
    if depth > MAX_DEPTH {
        return Err(ProtoError::Depth);
    }
    let members_here = it.members(level);
    let mut reader = Reader::new(raw);
    while let Some((number, wire)) = reader.tag()? {
        let Ok(at) = members_here.binary_search_by_key(&number, |(number, _)| *number) else {
            reader.skip(wire)?;
            continue;
        };
        let field = match members_here[at].1 {
            Member::Embed(level) => {
                if wire != 2 {
                    let field = it.name().to_owned();
                    return Err(ProtoError::WireType { wire, field });
                }
                members(reader.bytes()?, it, level, object, depth + 1)?;
                continue;
            }
            Member::Field(field) => field,
        };
        let (name, ty) = (field.name(), field.ty());
        match ty.shape() {
            Shape::List(element) if !ty.is_message() => {
                let list = object.entry(name).or_insert_with(|| json!([]));
                let Value::Array(list) = list else { continue };
                let packed = wire == 2
                    && matches!(
                        element.shape(),
                        Shape::Scalar(
                            Scalar::Bool | Scalar::Int32 | Scalar::Int64 | Scalar::Uint64
                        )
                    );
                if packed {
                    let mut inner = Reader::new(reader.bytes()?);
                    while !inner.rest.is_empty() {
                        list.push(single(&mut inner, 0, element, name, depth + 1)?);
                    }
                } else {
                    list.push(single(&mut reader, wire, element, name, depth + 1)?);
                }
            }
            Shape::Map(of) => {
                if wire != 2 {
                    let field = name.to_owned();
                    return Err(ProtoError::WireType { wire, field });
                }
                let mut entry = Reader::new(reader.bytes()?);
                let (mut key, mut value) = (String::new(), None);
                while let Some((number, wire)) = entry.tag()? {
                    match (number, wire) {
                        (1, 2) => key = entry.text()?,
                        (2, wire) => value = Some(single(&mut entry, wire, of, name, depth + 1)?),
                        (_, wire) => entry.skip(wire)?,
                    }
                }
                let value = match value {
                    Some(value) => value,
                    None => contents_of_nothing(of, depth)?,
                };
                if let Value::Object(map) = object.entry(name).or_insert_with(|| json!({})) {
                    map.insert(key, value);
                }
            }
            _ => {
                let value = single(&mut reader, wire, ty, name, depth + 1)?;
                object.insert(name.to_owned(), value);
            }
        }
    }
    Ok(())
}

/// The value of a map entry that names none.
fn contents_of_nothing(ty: TypeRef<'_>, depth: usize) -> Result<Value, ProtoError> {
    match ty.shape() {
        Shape::Scalar(Scalar::String | Scalar::Bytes) => Ok("".into()),
        _ => contents(&[], ty, depth + 1),
    }
}

fn single(
    reader: &mut Reader<'_>,
    wire: u8,
    ty: TypeRef<'_>,
    name: &str,
    depth: usize,
) -> Result<Value, ProtoError> {
    let shape = ty.shape();
    let expected = match shape {
        Shape::Scalar(Scalar::Bool | Scalar::Int32 | Scalar::Int64 | Scalar::Uint64) => 0,
        Shape::Scalar(Scalar::Float64) => 1,
        _ => 2,
    };
    if wire != expected {
        let field = name.to_owned();
        return Err(ProtoError::WireType { wire, field });
    }
    let Shape::Scalar(scalar) = shape else {
        return contents(reader.bytes()?, ty, depth + 1);
    };
    Ok(match scalar {
        Scalar::String => reader.text()?.into(),
        Scalar::Bool => (reader.varint()? != 0).into(),
        Scalar::Int32 => (reader.varint()? as i32).into(),
        Scalar::Int64 => (reader.varint()? as i64).into(),
        Scalar::Uint64 => reader.varint()?.into(),
        Scalar::Float64 => {
            let bytes = reader.take(8)?;
            let bytes = bytes.try_into().map_err(|_| ProtoError::End)?;
            Number::from_f64(f64::from_le_bytes(bytes)).map_or(Value::Null, Value::Number)
        }
        Scalar::Bytes => {
            let bytes = reader.bytes()?;
            base64::engine::general_purpose::STANDARD
                .encode(bytes)
                .into()
        }
        _ => message(reader.bytes()?, scalar, ty, depth + 1)?,
    })
}

fn message(raw: &[u8], scalar: Scalar, ty: TypeRef<'_>, depth: usize) -> Result<Value, ProtoError> {
    let mut reader = Reader::new(raw);
    match scalar {
        Scalar::Time | Scalar::MicroTime => {
            if raw.is_empty() {
                return Ok(Value::Null);
            }
            let (mut seconds, mut nanos) = (0, 0);
            while let Some((number, wire)) = reader.tag()? {
                match (number, wire) {
                    (1, 0) => seconds = reader.varint()? as i64,
                    (2, 0) => nanos = reader.varint()? as i32,
                    (_, wire) => reader.skip(wire)?,
                }
            }
            // Years beyond four digits have no JSON form.
            let seconds = seconds.clamp(scalar::ZERO, 253_402_300_799);
            let nanos = u32::try_from(nanos).unwrap_or_default().min(999_999_999);
            let micros = scalar == Scalar::MicroTime;
            Ok(scalar::format_time(seconds, nanos, micros).into())
        }
        Scalar::Duration => {
            let mut nanos = 0;
            while let Some((number, wire)) = reader.tag()? {
                match (number, wire) {
                    (1, 0) => nanos = reader.varint()? as i64,
                    (_, wire) => reader.skip(wire)?,
                }
            }
            Ok(scalar::format_duration(nanos).into())
        }
        Scalar::Quantity => {
            let mut text = String::new();
            while let Some((number, wire)) = reader.tag()? {
                match (number, wire) {
                    (1, 2) => text = reader.text()?,
                    (_, wire) => reader.skip(wire)?,
                }
            }
            Ok(if text.is_empty() {
                "0".into()
            } else {
                text.into()
            })
        }
        Scalar::IntOrString => {
            let (mut kind, mut number_value, mut text) = (0, 0, String::new());
            while let Some((number, wire)) = reader.tag()? {
                match (number, wire) {
                    (1, 0) => kind = reader.varint()?,
                    (2, 0) => number_value = reader.varint()? as i32,
                    (3, 2) => text = reader.text()?,
                    (_, wire) => reader.skip(wire)?,
                }
            }
            Ok(if kind == 1 {
                text.into()
            } else {
                number_value.into()
            })
        }
        Scalar::FieldsV1 | Scalar::RawExtension | Scalar::Json | Scalar::Any => {
            let mut value = Value::Null;
            while let Some((number, wire)) = reader.tag()? {
                match (number, wire) {
                    (1, 2) => {
                        let raw = reader.bytes()?;
                        let parsed = crate::decode::unstructured(raw, crate::Format::Json, false);
                        value = parsed.map_err(ProtoError::Json)?.0;
                    }
                    (_, wire) => reader.skip(wire)?,
                }
            }
            Ok(value)
        }
        Scalar::SchemaOrBool | Scalar::SchemaOrArray | Scalar::SchemaOrStrings => {
            let (mut allows, mut schema, mut items) = (false, None, Vec::new());
            while let Some((number, wire)) = reader.tag()? {
                match (scalar, number, wire) {
                    (Scalar::SchemaOrBool, 1, 0) => allows = reader.varint()? != 0,
                    (Scalar::SchemaOrBool, 2, 2) | (_, 1, 2) => {
                        schema = Some(contents(reader.bytes()?, props(ty), depth + 1)?);
                    }
                    (Scalar::SchemaOrStrings, 2, 2) => items.push(reader.text()?.into()),
                    (Scalar::SchemaOrArray, 2, 2) => {
                        items.push(contents(reader.bytes()?, props(ty), depth + 1)?);
                    }
                    (_, _, wire) => reader.skip(wire)?,
                }
            }
            Ok(match (scalar, schema) {
                (_, Some(schema)) => schema,
                (Scalar::SchemaOrBool, None) => allows.into(),
                _ if items.is_empty() => Value::Null,
                _ => Value::Array(items),
            })
        }
        Scalar::String
        | Scalar::Bool
        | Scalar::Int32
        | Scalar::Int64
        | Scalar::Uint64
        | Scalar::Float64
        | Scalar::Bytes => Ok(Value::Null),
    }
}

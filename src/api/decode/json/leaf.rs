//! Scalars, and the unions of `apiextensions`.

use base64::Engine as _;
use serde_json::{Number, Value};

use super::failure::{Failure, Stop};
use super::{Held, Reader};
use crate::decode::scalar;
use crate::schema::{Scalar, TypeRef};

impl<'a> Reader<'a> {
    /// Bytes given as a list of numbers.
    pub(super) fn byte_array(&mut self, depth: usize) -> Result<Held, Stop> {
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

    pub(super) fn scalar<'t: 'a>(
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
    pub(super) fn schema_or<'t: 'a>(
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

pub(super) fn any_number(text: &str) -> Value {
    if let Ok(number) = text.parse::<i64>() {
        return Value::Number(number.into());
    }
    let value = text.parse::<f64>().unwrap_or_default();
    Value::Number(Number::from_f64(value).unwrap_or_else(|| 0.into()))
}

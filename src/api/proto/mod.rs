//! Objects as `application/vnd.kubernetes.protobuf`.
//!
//! An object is a message inside `runtime.Unknown` behind the magic `k8s\0`.
//! The table gives messages and numbers, so every built-in type is transcoded
//! between its JSON value and the bytes that upstream's generated code writes:
//! fields by number, those without a pointer in Go always, maps by key.

mod read;
mod write;

use serde_json::Value;

use crate::schema::TypeRef;

pub use read::decode;
pub use write::encode;

/// What every encoded object begins with.
pub const MAGIC: &[u8] = b"k8s\0";

/// Why bytes are not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtoError {
    /// Without the prefix.
    #[error(
        "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
    )]
    Magic,
    /// Nothing at all.
    #[error("empty data")]
    Nothing,
    /// The prefix alone.
    #[error("empty body")]
    Empty,
    /// A length of more than 63 bits.
    #[error("proto: negative length found during unmarshaling")]
    Negative,
    /// Cut off.
    #[error("unexpected EOF")]
    End,
    /// A number of more than 64 bits.
    #[error("proto: integer overflow")]
    Overflow,
    /// A field of another wire type than its message says.
    #[error("proto: wrong wireType = {wire} for field {field}")]
    WireType {
        /// Wire type found.
        wire: u8,
        /// Field, by its JSON name.
        field: String,
    },
    /// A tag that is no tag.
    #[error("proto: illegal tag {0} (wire type {1})")]
    Tag(u64, u8),
    /// Nested too deep.
    #[error("proto: exceeded max depth")]
    Depth,
    /// Bytes that must be JSON and are not.
    #[error("{0}")]
    Json(String),
}

/// `runtime.Unknown`: an encoded object with the names of its type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// `apiVersion`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// The message.
    pub raw: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// Opens an encoded object.
    ///
    /// # Errors
    ///
    /// Without the magic, or malformed.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ProtoError> {
        if bytes.is_empty() {
            return Err(ProtoError::Nothing);
        }
        let message = bytes.strip_prefix(MAGIC).ok_or(ProtoError::Magic)?;
        if message.is_empty() {
            return Err(ProtoError::Empty);
        }
        let mut reader = read::Reader::new(message);
        let mut envelope = Self::default();
        while let Some((number, wire)) = reader.tag()? {
            match (number, wire) {
                (1, 2) => {
                    let mut meta = read::Reader::new(reader.bytes()?);
                    while let Some((number, wire)) = meta.tag()? {
                        match (number, wire) {
                            (1, 2) => envelope.api_version = meta.text()?,
                            (2, 2) => envelope.kind = meta.text()?,
                            _ => meta.skip(wire)?,
                        }
                    }
                }
                (2, 2) => envelope.raw = reader.bytes()?,
                _ => reader.skip(wire)?,
            }
        }
        Ok(envelope)
    }

    /// The bytes on the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut meta = Vec::with_capacity(self.api_version.len() + self.kind.len() + 8);
        write::bytes(&mut meta, 1, self.api_version.as_bytes());
        write::bytes(&mut meta, 2, self.kind.as_bytes());
        let mut out = Vec::with_capacity(self.raw.len() + meta.len() + 24);
        out.extend_from_slice(MAGIC);
        write::bytes(&mut out, 1, &meta);
        write::bytes(&mut out, 2, self.raw);
        write::bytes(&mut out, 3, b"");
        write::bytes(&mut out, 4, b"");
        out
    }
}

/// An object with its envelope; `apiVersion` and `kind` are the object's.
pub fn encode_object(object: &Value, ty: TypeRef<'_>) -> Vec<u8> {
    let text = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
    let raw = encode(object, ty);
    Envelope {
        api_version: text("apiVersion"),
        kind: text("kind"),
        raw: &raw,
    }
    .to_bytes()
}

/// A list whose items are encoded already, each as [`encode`] does.
pub fn encode_list<'a>(
    api_version: &str,
    kind: &str,
    metadata: &Value,
    items: impl IntoIterator<Item = &'a [u8]>,
) -> Vec<u8> {
    let scheme = crate::Scheme::builtin();
    let meta = scheme.schema().named("meta/v1", "ListMeta");
    let meta = encode(metadata, meta.expect("the table has ListMeta"));
    let mut raw = Vec::new();
    write::bytes(&mut raw, 1, &meta);
    for item in items {
        write::bytes(&mut raw, 2, item);
    }
    Envelope {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        raw: &raw,
    }
    .to_bytes()
}

/// One frame of a watch: `metav1.WatchEvent` around an object that has its
/// envelope, behind four bytes of length.
pub fn watch_frame(event_type: &str, object: &[u8]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(object.len() + 8);
    write::bytes(&mut raw, 1, object);
    let mut event = Vec::with_capacity(raw.len() + 32);
    write::bytes(&mut event, 1, event_type.as_bytes());
    write::bytes(&mut event, 2, &raw);
    let mut frame = Vec::with_capacity(event.len() + 4);
    frame.extend_from_slice(&(event.len() as u32).to_be_bytes());
    frame.extend_from_slice(&event);
    frame
}

#[cfg(test)]
mod tests;

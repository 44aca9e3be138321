//! One object as it is stored, cached and sent: the same bytes.
//!
//! The store holds `{"kind":K,"apiVersion":V,"metadata":{…},…}` without a
//! resource version, which only the store can know. Because every value of a
//! resource begins with the same prefix, putting the version in is one copy:
//! it becomes the first field of `metadata`. List items leave kind and
//! `apiVersion` away, which is a slice of the same bytes.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde_json::Value;

use crate::custom::Custom;

const VERSION_FIELD: &[u8] = b"\"resourceVersion\":\"";

/// How objects of one resource are written down.
#[derive(Debug)]
pub(crate) struct Codec {
    /// `{"kind":K,"apiVersion":V,"metadata":{`
    prefix: Vec<u8>,
    /// Where `"metadata"` begins in it.
    item: usize,
    api_version: String,
    /// What defines the objects: they are read by its schemas of today.
    custom: Option<Arc<Custom>>,
}

impl Codec {
    pub(crate) fn new(kind: &str, api_version: &str) -> Self {
        let head = format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",");
        Self {
            item: head.len(),
            prefix: format!("{head}\"metadata\":{{").into_bytes(),
            api_version: api_version.to_owned(),
            custom: None,
        }
    }

    /// The codec of a custom resource.
    pub(crate) fn custom(kind: &str, api_version: &str, custom: Arc<Custom>) -> Self {
        Self {
            custom: Some(custom),
            ..Self::new(kind, api_version)
        }
    }

    /// The stored form of an object: its `kind`, `apiVersion` and
    /// `metadata.resourceVersion` are replaced by the codec's own.
    pub(crate) fn encode(&self, object: &Value) -> Vec<u8> {
        let mut out = Vec::with_capacity(1024);
        out.extend_from_slice(&self.prefix);
        let mut first = true;
        if let Some(metadata) = object["metadata"].as_object() {
            for (key, value) in metadata {
                if key != "resourceVersion" && key != "selfLink" {
                    write_field(&mut out, &mut first, key, value);
                }
            }
        }
        out.push(b'}');
        let mut first = false;
        if let Some(fields) = object.as_object() {
            for (key, value) in fields {
                if !matches!(key.as_str(), "kind" | "apiVersion" | "metadata") {
                    write_field(&mut out, &mut first, key, value);
                }
            }
        }
        out.push(b'}');
        out
    }

    /// The sent form of stored bytes. `None` if they are not JSON at all.
    pub(crate) fn splice(&self, stored: &[u8], revision: u64) -> Option<Bytes> {
        if let Some(custom) = &self.custom {
            let mut object: Value = serde_json::from_slice(stored).ok()?;
            custom.definition.from_storage(&mut object);
            let encoded = self.encode(&object);
            return Some(self.with_version(&encoded[self.prefix.len()..], revision));
        }
        let Some(rest) = stored.strip_prefix(self.prefix.as_slice()) else {
            // Written by somebody else, through etcd's API: bring it into form.
            let object: Value = serde_json::from_slice(stored).ok()?;
            return self.splice(&self.encode(&object), revision);
        };
        Some(self.with_version(rest, revision))
    }

    fn with_version(&self, rest: &[u8], revision: u64) -> Bytes {
        if revision == 0 {
            // An object that a dry run would have created has no version.
            let mut out = Vec::with_capacity(self.prefix.len() + rest.len());
            out.extend_from_slice(&self.prefix);
            out.extend_from_slice(rest);
            return out.into();
        }
        let mut digits = [0u8; 20];
        let mut at = digits.len();
        let mut left = revision;
        loop {
            at -= 1;
            // A remainder of ten fits a byte.
            digits[at] = b'0' + (left % 10) as u8;
            left /= 10;
            if left == 0 {
                break;
            }
        }
        let digits = &digits[at..];
        let end: &[u8] = if rest.first() == Some(&b'}') {
            b"\""
        } else {
            b"\","
        };
        let parts = [&self.prefix, VERSION_FIELD, digits, end, rest];
        // Exactly as long as it must be: it is kept for as long as the object is.
        let mut out = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
        for part in parts {
            out.extend_from_slice(part);
        }
        out.into()
    }

    /// What follows the resource version in the sent form.
    fn rest<'a>(&self, sent: &'a [u8]) -> &'a [u8] {
        if !sent[self.prefix.len()..].starts_with(VERSION_FIELD) {
            return &sent[self.prefix.len()..];
        }
        let start = self.prefix.len() + VERSION_FIELD.len();
        let digits = sent[start..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        let rest = &sent[start + digits + 1..];
        rest.strip_prefix(b",").unwrap_or(rest)
    }

    /// Whether an object in sent form was stored as `stored`.
    pub(crate) fn same(&self, sent: &[u8], stored: &[u8]) -> bool {
        stored.strip_prefix(self.prefix.as_slice()) == Some(self.rest(sent))
    }

    pub(crate) fn api_version(&self) -> &str {
        &self.api_version
    }
}

fn write_field(out: &mut Vec<u8>, first: &mut bool, key: &str, value: &Value) {
    if !std::mem::take(first) {
        out.push(b',');
    }
    serde_json::to_writer(&mut *out, key).expect("a string is JSON and a vector takes it");
    out.push(b':');
    serde_json::to_writer(&mut *out, value).expect("a value is JSON and a vector takes it");
}

/// What selectors look at.
#[derive(Debug, Default)]
pub(crate) struct Selectable {
    pub labels: Vec<(String, String)>,
    pub fields: Vec<(&'static str, String)>,
    /// Fields that a definition makes selectable.
    pub declared: Vec<(String, String)>,
}

/// One version of one object.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Key below the resource: `NAMESPACE/NAME` or `NAME`.
    pub key: Arc<str>,
    /// The object as it is sent.
    pub bytes: Bytes,
    /// Where `"metadata"` begins in it.
    item: usize,
    /// Its resource version.
    pub revision: u64,
    selectable: OnceLock<Box<Selectable>>,
}

impl Entry {
    /// From the store; `None` if the value is not JSON.
    pub(crate) fn new(codec: &Codec, key: Arc<str>, stored: &[u8], revision: u64) -> Option<Self> {
        Some(Self::sent(
            codec,
            key,
            codec.splice(stored, revision)?,
            revision,
        ))
    }

    fn sent(codec: &Codec, key: Arc<str>, bytes: Bytes, revision: u64) -> Self {
        Self {
            key,
            bytes,
            item: codec.item,
            revision,
            selectable: OnceLock::new(),
        }
    }

    /// The same with a key that is shared.
    pub(crate) fn with_key(mut self, key: Arc<str>) -> Self {
        self.key = key;
        self
    }

    /// The same object with another resource version.
    pub(crate) fn at(&self, codec: &Codec, revision: u64) -> Self {
        let bytes = codec.with_version(codec.rest(&self.bytes), revision);
        Self::sent(codec, self.key.clone(), bytes, revision)
    }

    /// Appends the object as an item of a typed list: without kind and version.
    pub(crate) fn write_item(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        out.extend_from_slice(&self.bytes[self.item..]);
    }

    /// The object as a tree.
    pub(crate) fn value(&self) -> Value {
        serde_json::from_slice(&self.bytes).expect("a codec wrote these bytes from a value")
    }

    /// Labels and fields, found out once.
    pub(crate) fn selectable(&self, rules: &dyn api::kinds::Kind) -> &Selectable {
        self.selectable.get_or_init(|| {
            let object = self.value();
            let labels = object["metadata"]["labels"]
                .as_object()
                .map(|labels| {
                    labels
                        .iter()
                        .map(|(key, value)| {
                            (key.clone(), value.as_str().unwrap_or_default().to_owned())
                        })
                        .collect()
                })
                .unwrap_or_default();
            Box::new(Selectable {
                labels,
                fields: rules.selectable_fields(&object),
                declared: rules.declared_fields(&object),
            })
        })
    }

    /// Namespace; empty for cluster-scoped objects.
    pub(crate) fn namespace(&self) -> &str {
        self.key
            .split_once('/')
            .map_or("", |(namespace, _)| namespace)
    }

    /// Name.
    pub(crate) fn name(&self) -> &str {
        self.key
            .split_once('/')
            .map_or(&*self.key, |(_, name)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn splices_the_version_in_and_out() {
        let codec = Codec::new("Pod", "v1");
        let object = json!({
            "apiVersion": "x", "kind": "Pod", "spec": {"a": 1},
            "metadata": {"name": "p", "resourceVersion": "7", "labels": {"a": "b"}},
        });
        let stored = codec.encode(&object);
        assert_eq!(
            std::str::from_utf8(&stored).expect("JSON"),
            r#"{"kind":"Pod","apiVersion":"v1","metadata":{"labels":{"a":"b"},"name":"p"},"spec":{"a":1}}"#
        );
        let entry = Entry::new(&codec, "ns/p".into(), &stored, 120).expect("JSON");
        assert_eq!(
            entry.bytes,
            r#"{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"120","labels":{"a":"b"},"name":"p"},"spec":{"a":1}}"#
        );
        assert!(codec.same(&entry.bytes, &stored));
        let later = entry.at(&codec, 3);
        assert_eq!(later.value()["metadata"]["resourceVersion"], "3");
        assert!(codec.same(&later.bytes, &stored));
        let mut item = Vec::new();
        entry.write_item(&mut item);
        assert!(item.starts_with(br#"{"metadata":{"resourceVersion":"120","#));
    }

    #[test]
    fn foreign_bytes_are_brought_into_form() {
        let codec = Codec::new("Pod", "v1");
        let sent = codec
            .splice(br#" {"metadata":{"name":"p"},"kind":"Pod"}"#, 5)
            .expect("JSON");
        assert_eq!(
            sent,
            r#"{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"5","name":"p"}}"#
        );
        assert!(codec.splice(b"k8s\0", 5).is_none());
        assert_eq!(
            codec.splice(b"{}", 5).expect("JSON"),
            r#"{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"5"}}"#
        );
    }
}

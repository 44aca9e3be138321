#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{GroupVersion, GroupVersionKind, Scheme, decode as json_decode};

fn ty(api_version: &str, kind: &str) -> Option<TypeRef<'static>> {
    let gv = GroupVersion::parse(api_version)?;
    Scheme::builtin().type_of(&GroupVersionKind::new(gv.group, gv.version, kind))
}

#[test]
fn small_objects_have_known_bytes() {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}});
    let bytes = encode_object(&object, ty("v1", "ConfigMap").unwrap());
    let expected = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x1b\
        \x0a\x11\x0a\x01a\x12\0\x1a\0\x22\0\x2a\0\x32\0\x38\0\x42\0\x12\x06\x0a\x01k\x12\x01v\x1a\0\x22\0";
    assert_eq!(bytes, expected, "{bytes:02x?}");
    let envelope = Envelope::parse(&bytes).unwrap();
    assert_eq!(
        (&*envelope.api_version, &*envelope.kind),
        ("v1", "ConfigMap")
    );
    let decoded = decode(envelope.raw, ty("v1", "ConfigMap").unwrap()).unwrap();
    let mut decoded = json_decode::normalise(&decoded, ty("v1", "ConfigMap").unwrap()).unwrap();
    json_decode::name_type(&mut decoded, &GroupVersionKind::new("", "v1", "ConfigMap"));
    assert_eq!(decoded, object);
}

#[test]
fn damaged_bytes_are_refused() {
    assert_eq!(Envelope::parse(b"{}"), Err(ProtoError::Magic));
    assert_eq!(Envelope::parse(b"k8s\0\x12\x05a"), Err(ProtoError::End));
    assert_eq!(
        decode(b"\x0d\0\0\0\0", ty("v1", "Pod").unwrap()),
        Err(ProtoError::WireType {
            wire: 5,
            field: "metadata".to_owned()
        })
    );
}

#[test]
fn a_frame_is_length_and_event() {
    let frame = watch_frame("ADDED", b"xyz");
    assert_eq!(frame, b"\0\0\0\x0e\x0a\x05ADDED\x12\x05\x0a\x03xyz");
}

/// Every fixture of upstream's serialisation: each form becomes the other.
#[test]
fn upstream_fixtures() {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/reference/api-testdata"
    );
    let Ok(entries) = std::fs::read_dir(folder) else {
        eprintln!("skipped: no fixtures at {folder}");
        return;
    };
    let (mut checked, mut wrong) = (0, Vec::new());
    for entry in entries {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|it| it != "json") {
            continue;
        }
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let object: Value = serde_json::from_str(&text).unwrap();
        let stem = name.trim_end_matches(".json");
        let (rest, kind) = stem.rsplit_once('.').unwrap();
        let (group, version) = rest.rsplit_once('.').unwrap();
        let version = &*match group {
            "core" => version.to_owned(),
            group => format!("{group}/{version}"),
        };
        let Some(ty) = ty(version, kind) else {
            wrong.push(format!("{name}: unknown type"));
            continue;
        };
        checked += 1;
        let expected = std::fs::read(path.with_extension("pb")).unwrap();
        let got = encode_object(&object, ty);
        if got != expected {
            let at = got
                .iter()
                .zip(&expected)
                .position(|(a, b)| a != b)
                .unwrap_or(got.len().min(expected.len()));
            let around = |bytes: &[u8]| {
                let window =
                    &bytes[at.saturating_sub(24).min(bytes.len())..(at + 12).min(bytes.len())];
                String::from_utf8_lossy(window).escape_debug().to_string()
            };
            wrong.push(format!(
                "{name}: protobuf differs at {at}\n   {}\n   {}",
                around(&got),
                around(&expected)
            ));
        }
        let strict = json_decode::bytes(text.as_bytes(), ty, true);
        match strict {
            Ok((value, strict)) if value == object && strict.is_empty() => {}
            Ok((value, strict)) => wrong.push(format!(
                "{name}: JSON differs {strict:?} {}",
                difference(&value, &object)
            )),
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
        let envelope = Envelope::parse(&expected).unwrap();
        match decode(envelope.raw, ty).map(|value| json_decode::normalise(&value, ty)) {
            Ok(Ok(mut value)) => {
                for name in ["apiVersion", "kind"] {
                    if let Some(it) = object.get(name) {
                        value[name] = it.clone();
                    }
                }
                if value != object {
                    wrong.push(format!(
                        "{name}: decoded differs: {}",
                        difference(&value, &object)
                    ));
                }
            }
            other => wrong.push(format!("{name}: {other:?}")),
        }
    }
    assert!(
        wrong.is_empty(),
        "{} problems of {checked}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(checked > 150);
}

fn difference(a: &Value, b: &Value) -> String {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                match b.get(key) {
                    None => return format!(".{key}: only {value} in the first"),
                    Some(other) if other != value => {
                        return format!(".{key}{}", difference(value, other));
                    }
                    _ => {}
                }
            }
            let only = b.keys().find(|key| !a.contains_key(*key));
            only.map(|key| format!(".{key}: only {} in the second", b[key]))
                .unwrap_or_default()
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let at = a
                .iter()
                .zip(b)
                .position(|(a, b)| a != b)
                .unwrap_or_default();
            format!("[{at}]{}", difference(&a[at], &b[at]))
        }
        _ => format!(": {a} against {b}"),
    }
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_read(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&data, ty("v1", "Pod").unwrap());
        let _ = decode(&data, ty("apiextensions.k8s.io/v1", "CustomResourceDefinition").unwrap());
        let _ = Envelope::parse(&[MAGIC, &data].concat());
    }
}

//! The decoders, by name, with inputs to start from.

use api::patch::{self, PatchType};
use api::schema::TypeRef;
use api::{
    FieldSelector, FieldValidation, Format, GroupVersionKind, LabelSelector, Scheme, decode,
};

/// One decoder.
pub(crate) struct Target {
    /// What it decodes.
    pub name: &'static str,
    /// Inputs that reach most of it.
    pub seeds: &'static [&'static [u8]],
    /// Decodes, and holds what must hold of what it accepts.
    pub run: fn(&[u8]),
}

const POD: &[u8] = br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","labels":{"k":"v"},"creationTimestamp":null},"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80}],"resources":{"limits":{"cpu":"100m","memory":1e3}},"livenessProbe":{"httpGet":{"port":"http"}}}],"terminationGracePeriodSeconds":30}}"#;

const CRD: &[u8] = br#"{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"a.b"},"spec":{"versions":[{"name":"v1","schema":{"openAPIV3Schema":{"type":"object","properties":{"x":{"items":[{"type":"string"}],"additionalProperties":false,"default":{"a":[1]},"dependencies":{"y":["z"]}}}}}}]}}"#;

const SECRET: &[u8] =
    br#"{"kind":"Secret","data":{"a":"aGk=","b":[1,2]},"type":"\u00e9\ud83d\ude00"}"#;

/// Every decoder of the crate.
pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "json",
        seeds: &[POD, CRD, SECRET],
        run: |data| object(data, Format::Json),
    },
    Target {
        name: "yaml",
        seeds: &[
            POD,
            b"apiVersion: v1\nkind: ConfigMap\nmetadata: &m {name: w}\ndata:\n  a: |\n    x\n  b: >-\n    y\n  <<: *m\n",
            b"a: !!binary aGk=\nb: !!int 0x1F\nc: [~, y, 1_000, .5]\n? k\n: v\n--- \nd: 'x'\n",
        ],
        run: |data| object(data, Format::Yaml),
    },
    Target {
        name: "protobuf",
        seeds: &[
            b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x1b\x0a\x11\x0a\x01a\x12\0\x1a\0\x22\0\x2a\0\x32\0\x38\0\x42\0\x12\x06\x0a\x01k\x12\x01v\x1a\0\x22\0",
            b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12\x12\x0a\x03\x0a\x01a\x12\x0b\x12\x09\x0a\x01c\x12\x01i\x32\x01x\x1a\0",
        ],
        run: |data| {
            object(data, Format::Protobuf);
            let _ = api::proto::decode(data, ty("v1", "Pod"));
        },
    },
    Target {
        name: "patches",
        seeds: &[
            br#"[{"op":"add","path":"/metadata/labels/a~1b","value":"x"},{"op":"move","from":"/spec/containers/0","path":"/spec/containers/-"},{"op":"test","path":"/kind","value":"Pod"}]"#,
            br#"{"metadata":{"labels":{"k":null}},"spec":{"containers":[{"name":"c","$patch":"delete"}],"$retainKeys":["containers"]}}"#,
            br#"{"spec":{"$setElementOrder/containers":[{"name":"c"},{"name":"d"}],"containers":[{"name":"d","image":"x"}]},"metadata":{"$deleteFromPrimitiveList/finalizers":["a"]}}"#,
        ],
        run: patches,
    },
    Target {
        name: "selectors",
        seeds: &[
            b"a=b,c!=d,e in (f,g),h notin (),!i,j>1,k",
            b"metadata.name=a,status.phase!=b\\,c",
        ],
        run: |data| {
            let Ok(text) = std::str::from_utf8(data) else {
                return;
            };
            if let Ok(selector) = LabelSelector::parse(text) {
                let again = LabelSelector::parse(&selector.to_string());
                assert_eq!(again.as_ref(), Ok(&selector), "{text:?}");
            }
            let _ = FieldSelector::parse(text);
        },
    },
    Target {
        name: "quantities",
        seeds: &[b"1.5Gi", b"-100m", b"1e-9", b"9223372036854775807n", b".001E"],
        run: |data| {
            let Ok(text) = std::str::from_utf8(data) else {
                return;
            };
            if let Ok(once) = api::quantity::canonical(text) {
                assert_eq!(api::quantity::canonical(&once).as_ref(), Ok(&once), "{text:?}");
            }
        },
    },
    Target {
        name: "field_sets",
        seeds: &[
            br#"{"f:metadata":{"f:labels":{".":{},"f:a":{}}},"f:spec":{"f:ports":{"k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{}},"v:1":{},"i:0":{}}}}"#,
        ],
        run: |data| {
            if let Ok((value, _)) = decode::unstructured(data, Format::Json, false) {
                let set = api::managed::set::FieldSet::from_value(&value);
                let again = api::managed::set::FieldSet::from_value(&set.to_value());
                assert_eq!(again, set, "{value}");
                let entries = serde_json::json!([{
                    "manager": "m", "operation": "Update", "apiVersion": "v1", "fieldsV1": value,
                }]);
                let _ = api::managed::decode(&entries);
            }
        },
    },
];

fn ty(version: &str, kind: &str) -> TypeRef<'static> {
    Scheme::builtin()
        .type_of(&GroupVersionKind::new("", version, kind))
        .expect("the table has the core kinds")
}

/// A body as whatever it says it is, or a pod.
fn object(data: &[u8], format: Format) {
    let expected = GroupVersionKind::new("", "v1", "Pod");
    for validation in [FieldValidation::Ignore, FieldValidation::Strict] {
        let Ok(decoded) = decode::object(data, format, validation, &expected) else {
            continue;
        };
        // What was written is read again as the same, and has a protobuf form.
        let Some(ty) = Scheme::builtin().type_of(&decoded.gvk) else {
            continue;
        };
        let again = decode::normalise(&decoded.object, ty);
        assert_eq!(again.as_ref(), Ok(&decoded.object));
        let _ = api::proto::encode_object(&decoded.object, ty);
    }
    if format != Format::Protobuf {
        let _ = decode::unstructured(data, format, true);
    }
}

fn patches(data: &[u8]) {
    let ty = ty("v1", "Pod");
    let Ok((pod, _)) = decode::bytes(POD, ty, false) else {
        return;
    };
    for kind in [PatchType::Json, PatchType::Merge, PatchType::Strategic] {
        let _ = patch::apply(kind, &pod, data, ty, FieldValidation::Strict);
    }
}

//! The descriptions that the build collected.

use std::collections::HashMap;
use std::io::Read as _;

static COMPRESSED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.deflate"));

/// Descriptions of types and fields, unpacked for the time of one document.
pub(super) struct Descriptions {
    text: String,
}

impl Descriptions {
    pub(super) fn unpack() -> Self {
        let mut text = String::new();
        let mut decoder = flate2::read::DeflateDecoder::new(COMPRESSED);
        if decoder.read_to_string(&mut text).is_err() {
            text.clear();
        }
        Self { text }
    }

    pub(super) fn index(&self) -> Index<'_> {
        let mut types: HashMap<&str, Description<'_>> = HashMap::new();
        let mut current = "";
        for line in self.text.lines() {
            let Some((name, text)) = line.split_once('\t') else {
                continue;
            };
            match name.strip_prefix(' ') {
                Some(field) => {
                    let ty = types.entry(current).or_default();
                    ty.fields.push((field, text));
                }
                None => {
                    current = name;
                    types.entry(name).or_default().text = text;
                }
            }
        }
        Index { types }
    }
}

#[derive(Default)]
struct Description<'a> {
    text: &'a str,
    fields: Vec<(&'a str, &'a str)>,
}

/// Descriptions by OpenAPI name.
pub(super) struct Index<'a> {
    types: HashMap<&'a str, Description<'a>>,
}

impl Index<'_> {
    pub(super) fn of_type(&self, name: &str) -> Option<String> {
        let text = self.types.get(name)?.text;
        (!text.is_empty()).then(|| unescape(text))
    }

    pub(super) fn of_field(&self, name: &str, field: &str) -> Option<String> {
        let ty = self.types.get(name)?;
        let (_, text) = ty.fields.iter().find(|(it, _)| *it == field)?;
        Some(unescape(text))
    }
}

/// Undoes the escapes of a Rust string literal.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some('u') => {
                let digits: String = chars.by_ref().skip(1).take_while(|c| *c != '}').collect();
                let code = u32::from_str_radix(&digits, 16)
                    .ok()
                    .and_then(char::from_u32);
                out.extend(code);
            }
            Some(c) => out.push(c),
            None => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_fields_are_described() {
        let descriptions = Descriptions::unpack();
        let index = descriptions.index();
        let container = "io.k8s.api.core.v1.ContainerPort";
        assert!(
            index
                .of_type(container)
                .is_some_and(|it| it.contains("network port"))
        );
        assert!(
            index
                .of_field(container, "protocol")
                .is_some_and(|it| it.contains("\"TCP\""))
        );
        let pod = index.of_field("io.k8s.api.core.v1.Pod", "metadata");
        assert!(pod.is_some_and(|it| it.contains("metadata")));
    }
}

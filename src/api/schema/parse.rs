//! Reads the text form of the table.

use std::sync::OnceLock;

use super::{
    Body, Embed, Expr, FIRST_TYPE, Field, Fields, LIST, ListAttrs, ListType, MAP, More, Package,
    SCALARS, Schema, Struct, Type, flag,
};

/// Indexes the packages and types of a table; fields wait until they are asked for.
pub(crate) fn table(text: &'static str) -> Schema {
    let mut packages: Vec<Package> = Vec::with_capacity(80);
    let mut types: Vec<Type> = Vec::with_capacity(1500);
    let mut rest = text;
    while let Some((line, after)) = rest.split_once('\n') {
        rest = after;
        let mut words = line.split(' ');
        let tag = words.next().unwrap_or_default();
        let mut word = || words.next().unwrap_or_default();
        match tag {
            "P" => {
                let start = types.len() as u32;
                packages.push(Package {
                    alias: word().into(),
                    path: word().into(),
                    group: match word() {
                        "_" => None,
                        "-" => Some("".into()),
                        group => Some(group.into()),
                    },
                    version: word().into(),
                    types: (start, start),
                });
                continue;
            }
            "N" => {
                let (name, target) = (word(), word());
                types.push(Type {
                    package: packages.len() as u16 - 1,
                    name: name.into(),
                    is_message: words.any(|it| it == "m"),
                    body: Body::Alias(target, OnceLock::new()),
                });
            }
            "T" => {
                let mut length = 0;
                while rest[length..].starts_with(' ') {
                    length += rest[length..]
                        .find('\n')
                        .map_or(rest.len() - length, |at| at + 1);
                }
                let name = word();
                let mut is_message = false;
                let mut body = Struct {
                    head: line,
                    lines: &rest[..length],
                    ..Struct::default()
                };
                for attribute in words {
                    match attribute {
                        "m" => is_message = true,
                        "s" => body.in_openapi = true,
                        "k" => body.is_kind = true,
                        "mt=a" => body.atomic = true,
                        _ => {}
                    }
                }
                rest = &rest[length..];
                types.push(Type {
                    package: packages.len() as u16 - 1,
                    name: name.into(),
                    is_message,
                    body: Body::Struct(Box::new(body)),
                });
            }
            _ => continue,
        }
        if let Some(package) = packages.last_mut() {
            package.types.1 = types.len() as u32;
        }
    }
    Schema { packages, types }
}

/// Parses a type as fields of `package` write it; true for a pointer.
pub(super) fn expr(schema: &Schema, package: u16, text: &str) -> (Expr, bool) {
    let (mut rest, mut wraps, mut shift, mut pointer) = (text, 0, 0, false);
    loop {
        if let Some(after) = rest.strip_prefix('*') {
            pointer |= shift == 0;
            rest = after;
        } else if let Some(after) = rest.strip_prefix("[]") {
            wraps |= LIST << shift;
            shift += 2;
            rest = after;
        } else if let Some(after) = rest.strip_prefix("{}") {
            wraps |= MAP << shift;
            shift += 2;
            rest = after;
        } else {
            break;
        }
    }
    let base = match SCALARS.iter().position(|(name, _)| *name == rest) {
        Some(scalar) => scalar as u16,
        None => {
            let (package, name) = match rest.rsplit_once('.') {
                Some((alias, name)) => {
                    let found = schema.packages.iter().position(|it| it.alias == alias);
                    (
                        found.expect("the generator names packages of the table"),
                        name,
                    )
                }
                None => (package as usize, rest),
            };
            let index = schema.find(package, name);
            index.expect("the generator names types of the table") as u16 + FIRST_TYPE
        }
    };
    (Expr { base, wraps }, pointer)
}

/// Parses the fields of a struct of `package`.
pub(super) fn fields(schema: &Schema, package: u16, lines: &'static str) -> Fields {
    let (mut fields, mut embeds, mut inside) = (Vec::new(), Vec::<Embed>::new(), 0);
    for line in lines.lines() {
        if line == " >" {
            inside = embeds[usize::from(inside) - 1].parent;
        } else if let Some(rest) = line.strip_prefix(" < ") {
            let (name, number) = rest.split_once(' ').unwrap_or((rest, ""));
            embeds.push(Embed {
                name,
                number: number.parse().unwrap_or_default(),
                parent: inside,
            });
            inside = embeds.len() as u8;
        } else {
            fields.push(field(schema, package, line, inside));
        }
    }
    Fields {
        fields: fields.into(),
        embeds: embeds.into(),
    }
}

fn field(schema: &Schema, package: u16, line: &'static str, embed: u8) -> Field {
    // A default is the last attribute and may hold spaces.
    let (line, default) = match line.split_once(" d=") {
        Some((line, default)) => (line, Some(default)),
        None => (line, None),
    };
    let mut words = line[1..].split(' ');
    let mut word = || words.next().unwrap_or_default();
    let name = word();
    let (ty, pointer) = expr(schema, package, word());
    let mut flags = if pointer { flag::POINTER } else { 0 };
    let number = word().parse().unwrap_or_default();
    for letter in word().bytes() {
        flags |= match letter {
            b'o' => flag::OMITEMPTY,
            b'z' => flag::OMITZERO,
            b'r' => flag::REQUIRED,
            b'n' => flag::NULLABLE,
            b'h' => flag::HIDDEN,
            b'q' => flag::QUOTED,
            _ => 0,
        };
    }
    let mut more = More::default();
    let mut any = false;
    let mut list_type = None;
    let mut keys = Vec::new();
    for attribute in words {
        any = true;
        match attribute.split_once('=') {
            Some(("ps", value)) => more.patch_strategy = value.into(),
            Some(("pk", value)) => more.patch_merge_key = value.into(),
            Some(("lt", value)) => {
                list_type = Some(match value {
                    "s" => ListType::Set,
                    "m" => ListType::Map,
                    _ => ListType::Atomic,
                });
            }
            Some(("lk", value)) => keys = value.split(',').map(Into::into).collect(),
            Some(("mt", value)) => more.map_atomic = Some(value == "a"),
            _ => {}
        }
    }
    more.list = list_type.map(|list_type| ListAttrs { list_type, keys });
    if let Some(default) = default {
        more.default = serde_json::from_str(default).ok();
    }
    Field {
        name: name.into(),
        ty,
        flags,
        number,
        embed,
        more: (any || default.is_some()).then(|| Box::new(more)),
    }
}

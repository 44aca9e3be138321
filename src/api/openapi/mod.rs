//! OpenAPI documents, made from the table when somebody asks for one.
//!
//! Documents are large and rarely read: they are written straight into a
//! compressor ([`std::io::Write`]) one path and one definition at a time, and
//! nothing of them stays in memory. Resources may be the built-in ones or
//! custom ones of the same form. Descriptions are those of the `k8s-openapi`
//! crate.

mod custom;
mod definitions;
mod describe;
mod paths;
mod proto;

use std::io::{self, Write};
use std::sync::OnceLock;

use serde_json::{Map, Value, json};
use sha2::Digest as _;

pub use self::custom::Custom;
use self::definitions::{Definitions, Dialect};
use self::describe::Descriptions;
use self::paths::Names;
use crate::schema::TypeRef;
use crate::scheme::{Resource, Scheme, Subresource};

/// The media type that clients ask for OpenAPI v2 as protobuf by.
pub const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// The media type that answers carry: the asked one is not well-formed.
pub const V2_PROTOBUF_ANSWER: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// `/openapi/v3`: where each group and version's document is. A document is
/// named by its path without the leading slash, such as `apis/apps/v1`; the
/// hash changes when it may have changed.
pub fn v3_index<'a>(documents: impl IntoIterator<Item = (&'a str, String)>) -> Value {
    let paths: Map<String, Value> = documents
        .into_iter()
        .map(|(path, hash)| {
            let url = format!("/openapi/v3/{path}?hash={hash}");
            (path.to_owned(), json!({ "serverRelativeURL": url }))
        })
        .collect();
    json!({ "paths": paths })
}

/// The hash of a document of built-in resources; `salt` tells apart what the
/// table does not, such as the resources that are served.
pub fn hash(path: &str, salt: &str) -> String {
    static TABLE: OnceLock<[u8; 32]> = OnceLock::new();
    let table = TABLE.get_or_init(|| sha2::Sha256::digest(crate::scheme::TABLE).into());
    let mut hasher = sha2::Sha512::new();
    hasher.update(table);
    hasher.update(env!("CARGO_PKG_VERSION"));
    hasher.update(path);
    hasher.update([0]);
    hasher.update(salt);
    hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect()
}

/// Writes the v3 document of one group and version as JSON.
///
/// # Errors
///
/// Those of `out`.
pub fn write_v3<'a>(
    group: &str,
    version: &str,
    resources: impl IntoIterator<Item = &'a Resource>,
    customs: impl IntoIterator<Item = &'a Custom>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut builder = Builder::new();
    builder.group(group, version);
    let own = (group.to_owned(), version.to_owned());
    let core = (String::new(), "v1".to_owned());
    builder
        .group_versions
        .retain(|it| *it == own || *it == core);
    if !builder.group_versions.contains(&own) {
        builder.group_versions.push(own);
    }
    for resource in resources {
        builder.resource(resource);
    }
    for custom in customs {
        builder.custom(custom);
    }
    builder.finish(Dialect::V3, out)
}

/// Writes the v3 document of one of discovery's own paths as JSON: `api`,
/// `apis`, `apis/GROUP` or `version`. False if it is none of them.
///
/// # Errors
///
/// Those of `out`.
pub fn write_v3_discovery(path: &str, out: &mut dyn Write) -> io::Result<bool> {
    let mut builder = Builder::new();
    if !builder.discovery(path) {
        return Ok(false);
    }
    builder.finish(Dialect::V3, out)?;
    Ok(true)
}

/// Writes the v2 document of everything that is served as JSON.
///
/// # Errors
///
/// Those of `out`.
pub fn write_v2<'a>(
    resources: impl IntoIterator<Item = &'a Resource>,
    customs: impl IntoIterator<Item = &'a Custom>,
    out: &mut dyn Write,
) -> io::Result<()> {
    all(resources, customs).finish(Dialect::V2, out)
}

/// Writes the v2 document as [`V2_PROTOBUF`].
///
/// # Errors
///
/// Those of `out`.
pub fn write_v2_protobuf<'a>(
    resources: impl IntoIterator<Item = &'a Resource>,
    customs: impl IntoIterator<Item = &'a Custom>,
    out: &mut dyn Write,
) -> io::Result<()> {
    all(resources, customs).finish_protobuf(out)
}

fn all<'a>(
    resources: impl IntoIterator<Item = &'a Resource>,
    customs: impl IntoIterator<Item = &'a Custom>,
) -> Builder<'a> {
    let mut builder = Builder::new();
    let mut seen = Vec::new();
    for resource in resources {
        let gv = (resource.gvk.group.clone(), resource.gvk.version.clone());
        if !seen.contains(&gv) {
            builder.group(&gv.0, &gv.1);
            if !gv.0.is_empty() {
                builder.discovery(&format!("apis/{}", gv.0));
            }
            seen.push(gv);
        }
        builder.resource(resource);
    }
    for custom in customs {
        let gvk = &custom.resource.gvk;
        builder.group(&gvk.group, &gvk.version);
        builder.discovery(&format!("apis/{}", gvk.group));
        builder.custom(custom);
    }
    for path in ["api", "apis", "version"] {
        builder.discovery(path);
    }
    builder
}

struct Builder<'a> {
    definitions: Definitions<'a>,
    paths: Vec<(String, Value)>,
    group_versions: Vec<(String, String)>,
    customs: Vec<&'a Custom>,
}

impl<'a> Builder<'a> {
    fn new() -> Self {
        let group_versions = Scheme::builtin().schema().group_versions();
        Self {
            definitions: Definitions::default(),
            paths: Vec::new(),
            group_versions,
            customs: Vec::new(),
        }
    }

    fn meta(&mut self, name: &str) {
        let ty = Scheme::builtin().schema().named("meta/v1", name);
        self.definitions
            .add(ty.expect("the table has the types of meta/v1"));
    }

    fn discovery(&mut self, path: &str) -> bool {
        let Some((path, value, ty)) = paths::discovery(path) else {
            return false;
        };
        let package = if ty == "Info" { "version" } else { "meta/v1" };
        let ty = Scheme::builtin().schema().named(package, ty);
        self.definitions
            .add(ty.expect("the table has the types of discovery"));
        self.paths.push((path, value));
        true
    }

    fn group(&mut self, group: &str, version: &str) {
        self.meta("APIResourceList");
        self.paths.push(paths::resource_list(group, version));
    }

    fn resource(&mut self, resource: &'a Resource) {
        let object = self.definitions.add(resource.type_ref());
        let mut list = String::new();
        if resource.verbs.contains("list") {
            list = match list_type(resource) {
                Some(ty) => self.definitions.add(ty),
                None => format!("{object}List"),
            };
        }
        let verbs = resource.verbs;
        let subresources = || resource.subresources.iter().map(|it| it.verbs);
        if verbs.contains("watch") {
            self.meta("WatchEvent");
        }
        if verbs.contains("delete") {
            self.meta("DeleteOptions");
            self.meta("Status");
        }
        if verbs.contains("patch") || subresources().any(|it| it.contains("patch")) {
            self.meta("Patch");
        }
        for subresource in &resource.subresources {
            if let Some(ty) = subresource_type(resource, subresource) {
                self.definitions.add(ty);
            }
        }
        let names = Names {
            object: &object,
            list: &list,
            subresource: &|it| {
                let ty = subresource_type(resource, it).and_then(TypeRef::as_struct);
                ty.map(|it| it.openapi_name())
                    .unwrap_or_else(|| object.clone())
            },
        };
        self.paths.extend(paths::of_resource(resource, &names));
    }

    fn custom(&mut self, custom: &'a Custom) {
        for name in [
            "WatchEvent",
            "DeleteOptions",
            "Status",
            "Patch",
            "ObjectMeta",
            "ListMeta",
        ] {
            self.meta(name);
        }
        for subresource in &custom.resource.subresources {
            if subresource.foreign
                && let Some(ty) = Scheme::builtin().type_of(&subresource.gvk)
            {
                self.definitions.add(ty);
            }
        }
        let (object, list) = (custom.name(), custom.list_name());
        let names = Names {
            object: &object,
            list: &list,
            subresource: &|it| match Scheme::builtin().type_of(&it.gvk) {
                Some(ty) if it.foreign => ty
                    .as_struct()
                    .map_or_else(|| object.clone(), |it| it.openapi_name()),
                _ => object.clone(),
            },
        };
        let mut paths = paths::of_resource(&custom.resource, &names);
        for (_, path) in &mut paths {
            custom::without_typed_media(path);
        }
        self.paths.extend(paths);
        self.customs.push(custom);
    }

    fn sorted_paths(&mut self) -> Vec<(String, Value)> {
        let mut paths = std::mem::take(&mut self.paths);
        paths.sort_by(|a, b| a.0.cmp(&b.0));
        paths.dedup_by(|a, b| a.0 == b.0);
        paths
    }

    fn finish(mut self, dialect: Dialect, out: &mut dyn Write) -> io::Result<()> {
        let unpacked = Descriptions::unpack();
        let index = unpacked.index();
        let key = |name: &str| Value::from(name).to_string();
        let (head, middle, tail) = match dialect {
            Dialect::V3 => (
                r#"{"openapi":"3.0.0","info":{"title":"Kubernetes","version":"unversioned"},"paths":{"#,
                r#"},"components":{"schemas":{"#,
                r#"},"securitySchemes":{"BearerToken":{"type":"apiKey","description":"Bearer Token authentication","name":"authorization","in":"header"}}}}"#,
            ),
            Dialect::V2 => (
                r#"{"swagger":"2.0","info":{"title":"Kubernetes","version":"v1.36.2"},"paths":{"#,
                r#"},"definitions":{"#,
                r#"},"securityDefinitions":{"BearerToken":{"type":"apiKey","description":"Bearer Token authentication","name":"authorization","in":"header"}},"security":[{"BearerToken":[]}]}"#,
            ),
        };
        out.write_all(head.as_bytes())?;
        for (at, (path, value)) in self.sorted_paths().into_iter().enumerate() {
            let value = match dialect {
                Dialect::V3 => value,
                Dialect::V2 => paths::to_v2(value),
            };
            let comma = if at == 0 { "" } else { "," };
            write!(out, "{comma}{}:{value}", key(&path))?;
        }
        out.write_all(middle.as_bytes())?;
        for (at, (name, definition)) in self.definitions.all.iter().enumerate() {
            let schema = definitions::schema(*definition, dialect, &index, &self.group_versions);
            let comma = if at == 0 { "" } else { "," };
            write!(out, "{comma}{}:{schema}", key(name))?;
        }
        for custom in &self.customs {
            for (name, schema) in custom.definitions(dialect, &index) {
                write!(out, ",{}:{schema}", key(&name))?;
            }
        }
        out.write_all(tail.as_bytes())
    }

    fn finish_protobuf(mut self, out: &mut dyn Write) -> io::Result<()> {
        let unpacked = Descriptions::unpack();
        let index = unpacked.index();
        proto::head(out)?;
        let paths = self
            .sorted_paths()
            .into_iter()
            .map(|(path, value)| (path, paths::to_v2(value)));
        proto::paths(paths, out)?;
        let definitions = self.definitions.all.iter().map(|(name, definition)| {
            let schema =
                definitions::schema(*definition, Dialect::V2, &index, &self.group_versions);
            (name.clone(), schema)
        });
        let customs = self.customs.iter();
        let customs = customs.flat_map(|it| it.definitions(Dialect::V2, &index));
        proto::definitions(definitions.chain(customs), out)
    }
}

/// The type of a resource's lists, where the table has it.
fn list_type(resource: &Resource) -> Option<TypeRef<'static>> {
    let kind = resource.list_kind()?;
    let gvk = crate::GroupVersionKind {
        kind,
        ..resource.gvk.clone()
    };
    Scheme::builtin().type_of(&gvk)
}

/// The type that a subresource reads and writes; `None` for one that connects.
fn subresource_type<'a>(resource: &'a Resource, subresource: &Subresource) -> Option<TypeRef<'a>> {
    if subresource.gvk == resource.gvk {
        return Some(resource.type_ref());
    }
    if subresource.gvk.kind.ends_with("Options") {
        return None;
    }
    Scheme::builtin().type_of(&subresource.gvk)
}

#[cfg(test)]
mod tests;

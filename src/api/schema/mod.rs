//! The schema table: every type as data, behind cheap handles.
//!
//! A [`Schema`] is an arena of types. The built-in one is compiled into the
//! binary as text and indexed at start; the fields of a type are parsed the
//! first time somebody looks at them, so that a process pays only for the
//! types it meets. Schemas of custom resources are built with
//! [`SchemaBuilder`] and read through the same handles: [`TypeRef`],
//! [`StructRef`], [`FieldRef`].
//!
//! # The text form
//!
//! One line each, words separated by one space, written by `scripts/gen-schema`:
//!
//! ```text
//! P ALIAS GOPATH GROUP VERSION       a package; `-` is the core group, `_` none
//! N NAME TYPE [m]                    a named string, list or map of that package
//! T NAME [ATTRIBUTES]                a struct; its fields follow, indented
//!  NAME TYPE NUMBER FLAGS [ATTRIBUTES]
//! ```
//!
//! TYPE is a scalar (`string`, `int32`, `quantity`, …), a name of the same
//! package or `ALIAS.Name`, prefixed by `*`, `[]` and `{}` (map with string
//! keys). NUMBER is the protobuf field number. Lines ` < NAME NUMBER` and ` >`
//! enclose the fields of an embedded struct. FLAGS: `o` omitempty, `z` omitzero, `r` required, `n` nullable,
//! `h` absent from OpenAPI, `q` quoted number, `-` none. Attributes of fields:
//! `ps=` patch strategy, `pk=` patch merge key, `lt=` list type (`a`tomic,
//! `s`et, `m`ap), `lk=` its keys, `mt=` map type (`a`tomic, `g`ranular), `d=`
//! default. Attributes of structs: `m` is a protobuf message, `s` is in
//! OpenAPI, `k` is a kind, `mt=`, `u=` unions, `g=` its group-version-kind
//! where that is not the package's.

mod build;
mod handle;
mod owned;
mod parse;

use std::borrow::Cow;
use std::sync::OnceLock;

use serde_json::Value;

pub(crate) use parse::table;

pub use owned::OwnedType;

pub use build::{FieldBuilder, ObjectOptions, SchemaBuilder, TypeId};

/// Text that is a slice of the built-in table or owned by a schema built at run time.
type Text = Cow<'static, str>;

/// A type as fields name it: lists and maps around a base.
///
/// `wraps` holds two bits a level, the outermost lowest: 1 list, 2 map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expr {
    base: u16,
    wraps: u16,
}

const LIST: u16 = 1;
const MAP: u16 = 2;

/// Bases below this are scalars, those above are indices of types.
const FIRST_TYPE: u16 = 32;

const SCALARS: [(&str, Scalar); 19] = [
    ("string", Scalar::String),
    ("bool", Scalar::Bool),
    ("int32", Scalar::Int32),
    ("int64", Scalar::Int64),
    ("uint64", Scalar::Uint64),
    ("float64", Scalar::Float64),
    ("bytes", Scalar::Bytes),
    ("time", Scalar::Time),
    ("microtime", Scalar::MicroTime),
    ("duration", Scalar::Duration),
    ("quantity", Scalar::Quantity),
    ("intorstring", Scalar::IntOrString),
    ("fieldsv1", Scalar::FieldsV1),
    ("raw", Scalar::RawExtension),
    ("json", Scalar::Json),
    ("any", Scalar::Any),
    ("schemaorbool", Scalar::SchemaOrBool),
    ("schemaorarray", Scalar::SchemaOrArray),
    ("schemaorstrings", Scalar::SchemaOrStrings),
];

/// A type whose values are leaves to the engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// A string.
    String,
    /// A boolean.
    Bool,
    /// 32 bits, signed.
    Int32,
    /// 64 bits, signed.
    Int64,
    /// 64 bits, unsigned.
    Uint64,
    /// A double.
    Float64,
    /// Bytes, base64 in JSON.
    Bytes,
    /// `metav1.Time`: RFC 3339 in UTC, whole seconds.
    Time,
    /// `metav1.MicroTime`: RFC 3339 in UTC, six decimals.
    MicroTime,
    /// `metav1.Duration`, such as `1h30m0s`.
    Duration,
    /// `resource.Quantity`.
    Quantity,
    /// `intstr.IntOrString`.
    IntOrString,
    /// `metav1.FieldsV1`: a set of field paths.
    FieldsV1,
    /// `runtime.RawExtension`: an object of any kind.
    RawExtension,
    /// `apiextensions.JSON`: anything.
    Json,
    /// `interface{}`: anything.
    Any,
    /// `apiextensions.JSONSchemaPropsOrBool`.
    SchemaOrBool,
    /// `apiextensions.JSONSchemaPropsOrArray`.
    SchemaOrArray,
    /// `apiextensions.JSONSchemaPropsOrStringArray`.
    SchemaOrStrings,
}

impl Scalar {
    /// The Go type as `encoding/json` prints it.
    pub fn go_name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Bool => "bool",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Uint64 => "uint64",
            Self::Float64 => "float64",
            Self::Bytes => "[]uint8",
            Self::Time => "v1.Time",
            Self::MicroTime => "v1.MicroTime",
            Self::Duration => "v1.Duration",
            Self::Quantity => "resource.Quantity",
            Self::IntOrString => "intstr.IntOrString",
            Self::FieldsV1 => "v1.FieldsV1",
            Self::RawExtension => "runtime.RawExtension",
            Self::Json => "v1.JSON",
            Self::Any => "interface {}",
            Self::SchemaOrBool => "v1.JSONSchemaPropsOrBool",
            Self::SchemaOrArray => "v1.JSONSchemaPropsOrArray",
            Self::SchemaOrStrings => "v1.JSONSchemaPropsOrStringArray",
        }
    }
}

/// `x-kubernetes-list-type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType {
    /// Replaced as a whole; what a list without a type is.
    Atomic,
    /// Distinct scalars.
    Set,
    /// Objects told apart by [`ListAttrs::keys`].
    Map,
}

/// How a list is merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListAttrs {
    /// `x-kubernetes-list-type`.
    pub list_type: ListType,
    /// `x-kubernetes-list-map-keys`.
    pub keys: Vec<Text>,
}

/// A Go package, which is one group and version.
#[derive(Debug)]
pub(crate) struct Package {
    alias: Text,
    path: Text,
    group: Option<Text>,
    version: Text,
    /// Range of its types in [`Schema::types`], sorted by name.
    types: (u32, u32),
}

/// One type of the arena.
#[derive(Debug)]
struct Type {
    package: u16,
    name: Text,
    is_message: bool,
    body: Body,
}

#[derive(Debug)]
enum Body {
    /// A named string, list or map; the text of what it is of, and that once parsed.
    Alias(&'static str, OnceLock<Expr>),
    /// A run-time list, with its attributes.
    List(Expr, ListAttrs),
    /// A run-time map; whether it is atomic.
    Map(Expr, bool),
    /// A struct.
    Struct(Box<Struct>),
}

#[derive(Debug, Default)]
struct Struct {
    head: &'static str,
    lines: &'static str,
    fields: OnceLock<Fields>,
    in_openapi: bool,
    is_kind: bool,
    atomic: bool,
    preserve_unknown: bool,
    embedded_resource: bool,
    inline: bool,
}

/// The fields of a struct, with the structs that it embeds.
#[derive(Debug, Default)]
struct Fields {
    fields: Box<[Field]>,
    embeds: Box<[Embed]>,
}

/// An embedded struct, whose fields are JSON fields of the struct around it.
#[derive(Debug)]
struct Embed {
    name: &'static str,
    number: u16,
    /// One more than the index of the embedding that this one is inside; 0 for none.
    parent: u8,
}

/// One field of a struct; fields of embedded structs are among them.
#[derive(Debug)]
pub(crate) struct Field {
    name: Text,
    ty: Expr,
    flags: u8,
    number: u16,
    /// One more than the index of the embedding that it is inside; 0 for none.
    embed: u8,
    more: Option<Box<More>>,
}

mod flag {
    pub(super) const OMITEMPTY: u8 = 1;
    pub(super) const OMITZERO: u8 = 2;
    pub(super) const REQUIRED: u8 = 4;
    pub(super) const NULLABLE: u8 = 8;
    pub(super) const HIDDEN: u8 = 16;
    pub(super) const QUOTED: u8 = 32;
    pub(super) const POINTER: u8 = 64;
}

/// What few fields have.
#[derive(Debug, Default)]
struct More {
    patch_strategy: Text,
    patch_merge_key: Text,
    list: Option<ListAttrs>,
    map_atomic: Option<bool>,
    default: Option<Value>,
}

/// An arena of types.
#[derive(Debug)]
pub struct Schema {
    packages: Vec<Package>,
    types: Vec<Type>,
}

/// A type: a cheap handle to what a [`Schema`] says about it.
#[derive(Clone, Copy)]
pub struct TypeRef<'a> {
    schema: &'a Schema,
    expr: Expr,
}

/// What a type is.
#[derive(Clone, Copy, Debug)]
pub enum Shape<'a> {
    /// A leaf.
    Scalar(Scalar),
    /// A list of this.
    List(TypeRef<'a>),
    /// A map from strings to this.
    Map(TypeRef<'a>),
    /// An object with fields.
    Struct(StructRef<'a>),
}

/// A struct.
#[derive(Clone, Copy)]
pub struct StructRef<'a> {
    schema: &'a Schema,
    index: u32,
}

/// What a number of a protobuf message stands for.
#[derive(Clone, Copy)]
pub(crate) enum Member<'a> {
    /// A field.
    Field(FieldRef<'a>),
    /// An embedded struct, as the level of its members.
    Embed(u8),
}

/// A field of a struct.
#[derive(Clone, Copy)]
pub struct FieldRef<'a> {
    schema: &'a Schema,
    embeds: &'a [Embed],
    field: &'a Field,
}

impl Schema {
    /// Whether a package of this group and version is known.
    pub(crate) fn has_group_version(&self, group: &str, version: &str) -> bool {
        let same = |it: &Package| it.group.as_deref() == Some(group) && it.version == version;
        self.packages.iter().any(same)
    }

    /// Every group and version that objects can be of, sorted.
    pub(crate) fn group_versions(&self) -> Vec<(String, String)> {
        let known = |it: &Package| Some((it.group.as_deref()?.to_owned(), it.version.to_string()));
        let own = ["apidiscovery.k8s.io", "meta.k8s.io"];
        let objects = |(group, _): &(String, String)| !own.contains(&group.as_str());
        let mut all: Vec<_> = self
            .packages
            .iter()
            .filter_map(known)
            .filter(objects)
            .collect();
        all.sort();
        all
    }

    fn find(&self, package: usize, name: &str) -> Option<u32> {
        let (start, end) = self.packages[package].types;
        let types = &self.types[start as usize..end as usize];
        types
            .binary_search_by(|ty| (*ty.name).cmp(name))
            .ok()
            .map(|at| start + at as u32)
    }

    /// The type `name` of the package with this Go path, alias or OpenAPI prefix.
    pub fn named(&self, package: &str, name: &str) -> Option<TypeRef<'_>> {
        let package = self
            .packages
            .iter()
            .position(|it| it.alias == package || it.path == package)?;
        self.find(package, name).map(|index| self.type_at(index))
    }

    pub(crate) fn kind(&self, group: &str, version: &str, kind: &str) -> Option<TypeRef<'_>> {
        self.packages
            .iter()
            .enumerate()
            .filter(|(_, it)| it.group.as_deref() == Some(group) && it.version == version)
            .find_map(|(package, _)| self.find(package, kind))
            .map(|index| self.type_at(index))
            .filter(|ty| ty.as_struct().is_some_and(StructRef::is_kind))
    }

    /// Every struct, in the table's order.
    pub fn structs(&self) -> impl Iterator<Item = StructRef<'_>> {
        (0..self.types.len() as u32).filter_map(|index| self.type_at(index).as_struct())
    }

    fn type_at(&self, index: u32) -> TypeRef<'_> {
        TypeRef {
            schema: self,
            expr: Expr {
                base: index as u16 + FIRST_TYPE,
                wraps: 0,
            },
        }
    }
}

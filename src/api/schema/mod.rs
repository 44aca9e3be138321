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
mod parse;

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use serde_json::Value;

pub(crate) use parse::table;

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

impl<'a> TypeRef<'a> {
    fn with(self, expr: Expr) -> Self {
        Self { expr, ..self }
    }

    fn named_type(self) -> Option<&'a Type> {
        (self.expr.wraps == 0 && self.expr.base >= FIRST_TYPE)
            .then(|| &self.schema.types[(self.expr.base - FIRST_TYPE) as usize])
    }

    /// What it is, names of strings, lists and maps seen through.
    pub fn shape(self) -> Shape<'a> {
        let inner = Expr {
            base: self.expr.base,
            wraps: self.expr.wraps >> 2,
        };
        match self.expr.wraps & 3 {
            LIST => return Shape::List(self.with(inner)),
            MAP => return Shape::Map(self.with(inner)),
            _ => {}
        }
        let Some(ty) = self.named_type() else {
            return Shape::Scalar(SCALARS[self.expr.base as usize].1);
        };
        match &ty.body {
            Body::Alias(text, parsed) => {
                let expr = *parsed.get_or_init(|| parse::expr(self.schema, ty.package, text).0);
                self.with(expr).shape()
            }
            Body::List(element, _) => Shape::List(self.with(*element)),
            Body::Map(value, _) => Shape::Map(self.with(*value)),
            Body::Struct(_) => Shape::Struct(StructRef {
                schema: self.schema,
                index: u32::from(self.expr.base - FIRST_TYPE),
            }),
        }
    }

    /// The struct that it is.
    pub fn as_struct(self) -> Option<StructRef<'a>> {
        match self.shape() {
            Shape::Struct(it) => Some(it),
            _ => None,
        }
    }

    /// The Go type as `encoding/json` prints it: `int32`, `v1.PodSpec`, `[]v1.Container`.
    pub fn go_name(self) -> String {
        let inner = Expr {
            base: self.expr.base,
            wraps: self.expr.wraps >> 2,
        };
        match self.expr.wraps & 3 {
            LIST => return format!("[]{}", self.with(inner).go_name()),
            MAP => return format!("map[string]{}", self.with(inner).go_name()),
            _ => {}
        }
        match self.named_type() {
            None => SCALARS[self.expr.base as usize].1.go_name().to_owned(),
            Some(ty) => {
                let path = &self.schema.packages[ty.package as usize].path;
                let package = path.rsplit('/').next().unwrap_or_default();
                format!("{package}.{}", ty.name)
            }
        }
    }

    /// Whether a named list or map is a protobuf message of its own, with its
    /// items in field 1 (`ExtraValue`, `Verbs`).
    pub fn is_message(self) -> bool {
        self.named_type().is_some_and(|ty| ty.is_message)
    }

    /// The type `name` of the package that declares this one, or of the one
    /// that declares the unions of JSON schemas.
    pub(crate) fn sibling(self, name: &str) -> Option<Self> {
        match self.named_type() {
            Some(ty) => self
                .schema
                .find(ty.package as usize, name)
                .map(|index| self.schema.type_at(index)),
            None => self.schema.named("apiextensions/v1", name),
        }
    }

    /// How a list of a schema built at run time is merged.
    pub fn list_attrs(self) -> Option<&'a ListAttrs> {
        match &self.named_type()?.body {
            Body::List(_, attrs) => Some(attrs),
            _ => None,
        }
    }

    /// Whether the value is replaced as a whole: a struct or map with
    /// `x-kubernetes-map-type: atomic`.
    pub fn is_atomic(self) -> bool {
        match self.named_type().map(|ty| &ty.body) {
            Some(Body::Struct(it)) => it.atomic,
            Some(Body::Map(_, atomic)) => *atomic,
            _ => false,
        }
    }
}

impl std::fmt::Debug for TypeRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.go_name())
    }
}

impl<'a> StructRef<'a> {
    fn ty(self) -> &'a Type {
        &self.schema.types[self.index as usize]
    }

    fn body(self) -> &'a Struct {
        match &self.ty().body {
            Body::Struct(it) => it,
            _ => unreachable!("a StructRef is only made of structs"),
        }
    }

    fn package(self) -> &'a Package {
        &self.schema.packages[self.ty().package as usize]
    }

    /// This struct as a type.
    pub fn as_type(self) -> TypeRef<'a> {
        self.schema.type_at(self.index)
    }

    /// Its name, such as `PodSpec`.
    pub fn name(self) -> &'a str {
        &self.ty().name
    }

    /// Go path of its package, such as `k8s.io/api/core/v1`.
    pub fn package_path(self) -> &'a str {
        &self.package().path
    }

    /// API group of its package; empty for core, `None` for a package that is no group.
    pub fn group(self) -> Option<&'a str> {
        self.package().group.as_deref()
    }

    /// API version of its package.
    pub fn version(self) -> &'a str {
        &self.package().version
    }

    /// Its name in OpenAPI, such as `io.k8s.api.core.v1.PodSpec`.
    pub fn openapi_name(self) -> String {
        let path = &*self.package().path;
        let (host, rest) = path.split_once('/').unwrap_or((path, ""));
        let mut host: Vec<&str> = host.split('.').collect();
        host.reverse();
        format!(
            "{}.{}.{}",
            host.join("."),
            rest.replace('/', "."),
            self.name()
        )
    }

    /// Whether it is a protobuf message.
    pub fn is_message(self) -> bool {
        self.ty().is_message
    }

    /// Whether it is among OpenAPI's definitions.
    pub fn in_openapi(self) -> bool {
        self.body().in_openapi
    }

    /// Whether it has `kind` and `apiVersion` of its own.
    pub fn is_kind(self) -> bool {
        self.body().is_kind
    }

    /// Whether it keeps fields that it does not know.
    pub fn preserves_unknown(self) -> bool {
        self.body().preserve_unknown
    }

    /// Whether it is an object with `apiVersion`, `kind` and `metadata` inside another.
    pub fn is_embedded_resource(self) -> bool {
        self.body().embedded_resource
    }

    /// Whether OpenAPI shows it in the place where it is used, not by reference.
    pub fn is_inline(self) -> bool {
        self.body().inline
    }

    /// The value of an attribute of the struct's line, such as `u=`.
    pub fn attribute(self, name: &str) -> Option<&'a str> {
        let mut words = self.body().head.split(' ');
        words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    /// Its fields in Go's order.
    pub fn fields(self) -> impl ExactSizeIterator<Item = FieldRef<'a>> + DoubleEndedIterator {
        let Fields { fields, embeds } = self.raw_fields();
        let schema = self.schema;
        fields.iter().map(move |field| FieldRef {
            schema,
            embeds,
            field,
        })
    }

    /// What the protobuf message at this level of embedding holds, by number;
    /// level 0 is the struct itself.
    pub(crate) fn members(self, level: u8) -> Vec<(u32, Member<'a>)> {
        let Fields { fields, embeds } = self.raw_fields();
        let mut members = Vec::with_capacity(fields.len());
        for (index, embed) in embeds.iter().enumerate() {
            if embed.parent == level && embed.number != 0 {
                members.push((u32::from(embed.number), Member::Embed(index as u8 + 1)));
            }
        }
        for field in fields {
            if field.embed == level && field.number != 0 {
                let schema = self.schema;
                let it = FieldRef {
                    schema,
                    embeds,
                    field,
                };
                members.push((u32::from(field.number), Member::Field(it)));
            }
        }
        members.sort_by_key(|(number, _)| *number);
        members
    }

    fn raw_fields(self) -> &'a Fields {
        let body = self.body();
        body.fields
            .get_or_init(|| parse::fields(self.schema, self.ty().package, body.lines))
    }

    /// The field with this JSON name.
    pub fn field(self, name: &str) -> Option<FieldRef<'a>> {
        self.fields().find(|field| field.field.name == name)
    }
}

impl std::fmt::Debug for StructRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.as_type().go_name())
    }
}

impl PartialEq for StructRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.schema, other.schema) && self.index == other.index
    }
}

impl<'a> FieldRef<'a> {
    /// JSON name.
    pub fn name(self) -> &'a str {
        &self.field.name
    }

    /// Its type; see [`FieldRef::is_pointer`].
    pub fn ty(self) -> TypeRef<'a> {
        TypeRef {
            schema: self.schema,
            expr: self.field.ty,
        }
    }

    fn has(self, flag: u8) -> bool {
        self.field.flags & flag != 0
    }

    /// Whether Go has a pointer here, so that zero values are written.
    pub fn is_pointer(self) -> bool {
        self.has(flag::POINTER)
    }

    /// Whether Go leaves out empty values.
    pub fn omitempty(self) -> bool {
        self.has(flag::OMITEMPTY)
    }

    /// Whether Go leaves out zero values, structs among them.
    pub fn omitzero(self) -> bool {
        self.has(flag::OMITZERO)
    }

    /// Whether OpenAPI lists it as required.
    pub fn is_required(self) -> bool {
        self.has(flag::REQUIRED)
    }

    /// Whether `null` is a value.
    pub fn is_nullable(self) -> bool {
        self.has(flag::NULLABLE)
    }

    /// Whether OpenAPI leaves it out.
    pub fn is_hidden(self) -> bool {
        self.has(flag::HIDDEN)
    }

    /// Whether a number is written as a string.
    pub fn is_quoted(self) -> bool {
        self.has(flag::QUOTED)
    }

    /// Protobuf field number; 0 for none.
    pub fn number(self) -> u32 {
        u32::from(self.field.number)
    }

    /// The embedded structs that it sits in, innermost first: Go name and
    /// protobuf number.
    pub fn embeds(self) -> impl Iterator<Item = (&'a str, u32)> {
        let mut at = self.field.embed;
        std::iter::from_fn(move || {
            let embed = &self.embeds[usize::from(at).checked_sub(1)?];
            at = embed.parent;
            Some((embed.name, u32::from(embed.number)))
        })
    }

    /// `x-kubernetes-patch-strategy`: empty, `merge`, `retainKeys` or `merge,retainKeys`.
    pub fn patch_strategy(self) -> &'a str {
        self.field.more.as_ref().map_or("", |it| &it.patch_strategy)
    }

    /// `x-kubernetes-patch-merge-key`, or empty.
    pub fn patch_merge_key(self) -> &'a str {
        self.field
            .more
            .as_ref()
            .map_or("", |it| &it.patch_merge_key)
    }

    /// How the list in it is merged by server-side apply; `None` is atomic.
    pub fn list_attrs(self) -> Option<&'a ListAttrs> {
        let own = self.field.more.as_ref().and_then(|it| it.list.as_ref());
        own.or_else(|| self.ty().list_attrs())
    }

    /// Its own `x-kubernetes-map-type`: whether it is atomic.
    pub fn map_type_atomic(self) -> Option<bool> {
        self.field.more.as_ref().and_then(|it| it.map_atomic)
    }

    /// Whether the map or struct in it is replaced as a whole.
    pub fn is_atomic(self) -> bool {
        self.map_type_atomic()
            .unwrap_or_else(|| self.ty().is_atomic())
    }

    /// The default that the API documents, zero values apart.
    pub fn default_value(self) -> Option<&'a Value> {
        self.field.more.as_ref().and_then(|it| it.default.as_ref())
    }
}

impl std::fmt::Debug for FieldRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?}", self.name(), self.ty())
    }
}

/// A type that is held beyond a borrow: of the built-in schema, or of one
/// built at run time and kept alive by this handle.
#[derive(Clone)]
pub struct OwnedType {
    schema: Source,
    expr: Expr,
}

#[derive(Clone)]
enum Source {
    Builtin(&'static Schema),
    Built(Arc<Schema>),
}

impl OwnedType {
    /// A built-in type.
    pub fn builtin(ty: TypeRef<'static>) -> Self {
        Self {
            schema: Source::Builtin(ty.schema),
            expr: ty.expr,
        }
    }

    /// A type of a schema built at run time.
    pub fn built(schema: Arc<Schema>, id: TypeId) -> Self {
        Self {
            schema: Source::Built(schema),
            expr: id.0,
        }
    }

    /// The handle.
    pub fn get(&self) -> TypeRef<'_> {
        TypeRef {
            schema: match &self.schema {
                Source::Builtin(schema) => schema,
                Source::Built(schema) => schema,
            },
            expr: self.expr,
        }
    }
}

impl std::fmt::Debug for OwnedType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.get().fmt(f)
    }
}

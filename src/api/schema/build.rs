//! Schemas built at run time, for custom resources.

use std::sync::OnceLock;

use serde_json::Value;

use super::{
    Body, Expr, FIRST_TYPE, Field, Fields, LIST, ListAttrs, MAP, More, Package, SCALARS, Scalar,
    Schema, Struct, Type, flag,
};

/// A type of a schema under construction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeId(pub(super) Expr);

impl TypeId {
    /// A leaf.
    pub fn scalar(scalar: Scalar) -> Self {
        let base = SCALARS.iter().position(|(_, it)| *it == scalar);
        Self(Expr {
            base: base.expect("the table of scalars is complete") as u16,
            wraps: 0,
        })
    }
}

/// A field under construction.
#[derive(Debug)]
pub struct FieldBuilder(Field);

impl FieldBuilder {
    /// An optional field.
    pub fn new(name: impl Into<String>, ty: TypeId) -> Self {
        Self(Field {
            name: name.into().into(),
            ty: ty.0,
            flags: flag::OMITEMPTY | flag::POINTER,
            number: 0,
            embed: 0,
            more: None,
        })
    }

    /// Marks it required.
    #[must_use]
    pub fn required(mut self) -> Self {
        self.0.flags |= flag::REQUIRED;
        self
    }

    /// Allows `null`.
    #[must_use]
    pub fn nullable(mut self) -> Self {
        self.0.flags |= flag::NULLABLE;
        self
    }

    /// Gives it a default.
    #[must_use]
    pub fn default_value(mut self, value: Value) -> Self {
        let more = self.0.more.get_or_insert_with(|| Box::new(More::default()));
        more.default = Some(value);
        self
    }
}

/// Builds a [`Schema`], leaves first.
#[derive(Debug, Default)]
pub struct SchemaBuilder {
    types: Vec<Type>,
}

impl SchemaBuilder {
    /// An empty schema.
    pub fn new() -> Self {
        Self::default()
    }

    fn push(&mut self, name: String, body: Body) -> TypeId {
        self.types.push(Type {
            package: 0,
            name: name.into(),
            is_message: false,
            body,
        });
        TypeId(Expr {
            base: (self.types.len() - 1) as u16 + FIRST_TYPE,
            wraps: 0,
        })
    }

    /// How many more types fit.
    pub fn room(&self) -> usize {
        usize::from(u16::MAX - FIRST_TYPE).saturating_sub(self.types.len())
    }

    /// A list; atomic without attributes.
    pub fn list(&mut self, element: TypeId, attrs: Option<ListAttrs>) -> TypeId {
        match attrs {
            Some(attrs) => self.push(String::new(), Body::List(element.0, attrs)),
            None => self.wrap(element, LIST),
        }
    }

    /// A map; merged key by key unless atomic.
    pub fn map(&mut self, value: TypeId, atomic: bool) -> TypeId {
        if atomic {
            self.push(String::new(), Body::Map(value.0, true))
        } else {
            self.wrap(value, MAP)
        }
    }

    fn wrap(&mut self, inner: TypeId, wrap: u16) -> TypeId {
        if inner.0.wraps >> 14 != 0 {
            let name = String::new();
            return match wrap {
                MAP => self.push(name, Body::Map(inner.0, false)),
                _ => {
                    let attrs = ListAttrs {
                        list_type: super::ListType::Atomic,
                        keys: Vec::new(),
                    };
                    self.push(name, Body::List(inner.0, attrs))
                }
            };
        }
        TypeId(Expr {
            base: inner.0.base,
            wraps: inner.0.wraps << 2 | wrap,
        })
    }

    /// An object.
    pub fn object(
        &mut self,
        name: impl Into<String>,
        fields: Vec<FieldBuilder>,
        options: ObjectOptions,
    ) -> TypeId {
        let cell = OnceLock::new();
        let fields: Box<[Field]> = fields.into_iter().map(|it| it.0).collect();
        let embeds = Box::default();
        cell.set(Fields { fields, embeds })
            .expect("the cell is new");
        let body = Struct {
            fields: cell,
            is_kind: options.is_kind,
            in_openapi: true,
            atomic: options.atomic,
            preserve_unknown: options.preserve_unknown,
            embedded_resource: options.embedded_resource,
            inline: !options.is_kind,
            ..Struct::default()
        };
        self.push(name.into(), Body::Struct(Box::new(body)))
    }

    /// The schema of one group and version.
    pub fn finish(self, group: &str, version: &str) -> Schema {
        let end = self.types.len() as u32;
        Schema {
            packages: vec![Package {
                alias: "".into(),
                path: format!("{group}/{version}").into(),
                group: Some(group.to_owned().into()),
                version: version.to_owned().into(),
                types: (0, end),
            }],
            types: self.types,
        }
    }
}

/// What an object of [`SchemaBuilder::object`] is beyond its fields.
#[derive(Clone, Copy, Debug, Default)]
pub struct ObjectOptions {
    /// Has `kind` and `apiVersion` of its own.
    pub is_kind: bool,
    /// Is replaced as a whole by server-side apply.
    pub atomic: bool,
    /// Keeps unknown fields.
    pub preserve_unknown: bool,
    /// Is an object inside another.
    pub embedded_resource: bool,
}

//! What a handle tells about its type.

use super::*;

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

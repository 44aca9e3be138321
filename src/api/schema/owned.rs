//! Types that outlive a borrow.

use std::sync::Arc;

use super::*;

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

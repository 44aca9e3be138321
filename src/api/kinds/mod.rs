//! What is truly per kind: defaults beyond the table, strategy, validation,
//! selectable fields and table columns. One file for each kind or family.

use serde_json::Value;

use crate::{FieldError, GroupKind};

/// What a strategy or validation may look at beside the object.
#[derive(Clone, Debug, Default)]
pub struct Context<'a> {
    /// Version the request speaks, such as `v1`.
    pub version: &'a str,
    /// Subresource written, such as `status`; empty for the object itself.
    pub subresource: &'a str,
    /// Who writes: user name.
    pub user: &'a str,
    /// Who writes: groups.
    pub groups: &'a [String],
    /// Now, as `metav1.Time`.
    pub now: &'a str,
}

/// A column of a `meta.k8s.io` Table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Header.
    pub name: &'static str,
    /// `string`, `integer`, `boolean`, `date`, …
    pub kind: &'static str,
    /// `name` for the name column, else empty.
    pub format: &'static str,
    /// What it shows.
    pub description: &'static str,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: u8,
}

/// The rules of one kind. Every method has the rule of a plain kind as its default.
///
/// Order on create: table defaults, [`Kind::default`], [`Kind::prepare_create`],
/// metadata validation, [`Kind::validate_create`]. On update: table defaults,
/// [`Kind::default`], [`Kind::prepare_update`], metadata validation,
/// [`Kind::validate_update`].
pub trait Kind: Sync {
    /// Defaults that the schema table cannot express. Also run on objects read
    /// from a patch or apply.
    fn default(&self, _object: &mut Value) {}

    /// Drops what a client may not set on create (`status`), sets generation.
    fn prepare_create(&self, _object: &mut Value, _context: &Context<'_>) {}

    /// Keeps what a client may not change (status by spec writes, spec by
    /// status writes), raises generation.
    fn prepare_update(&self, _new: &mut Value, _old: &Value, _context: &Context<'_>) {}

    /// Everything wrong with a new object, in upstream's order.
    fn validate_create(&self, _object: &Value, _context: &Context<'_>) -> Vec<FieldError> {
        Vec::new()
    }

    /// Everything wrong with a change, in upstream's order.
    fn validate_update(
        &self,
        _new: &Value,
        _old: &Value,
        _context: &Context<'_>,
    ) -> Vec<FieldError> {
        Vec::new()
    }

    /// `Warning:` headers for a write.
    fn warnings(&self, _new: &Value, _old: Option<&Value>, _context: &Context<'_>) -> Vec<String> {
        Vec::new()
    }

    /// Fields beside `metadata.name` and `metadata.namespace` that field
    /// selectors may name, each with its value in this object.
    fn selectable_fields(&self, _object: &Value) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// Columns of its table.
    fn columns(&self) -> &'static [Column] {
        table::PLAIN
    }

    /// The cells of its row; `now` is seconds since the Unix epoch, for ages.
    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        table::plain_cells(object, now)
    }
}

pub mod table;

/// The rules of a built-in kind; those of a plain kind if it has none of its own.
pub fn of(_kind: &GroupKind) -> &'static dyn Kind {
    struct Plain;
    impl Kind for Plain {}
    &Plain
}

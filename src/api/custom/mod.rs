//! Custom resources: what a `CustomResourceDefinition` says, compiled.
//!
//! A definition's schemas become [`Schema`] trees. Pruning, defaults, checks
//! of values, list types and server-side apply all run on that one form, with
//! the semantics of upstream's structural schemas. The tree is not the arena
//! of [`crate::schema`]: a custom schema may say of one value that it has
//! fields, free fields and rules at once, which the types of Go structs cannot.
//! Server-side apply, patches and tables run on the engines of the built-in
//! kinds; [`Node`] is what joins them.

mod coerce;
mod columns;
mod default;
mod definition;
mod formats;
mod jsonpath;
mod lists;
mod node;
mod numbers;
mod pattern;
mod prune;
mod rules;
mod schema;
mod strategy;
mod structural;

pub(crate) use coerce::{coerce, embedded_errors};
pub use columns::TableColumn;
pub(crate) use default::{drop_nulls, set as set_defaults};
pub use definition::{Definition, Scale, Version, compare_versions};
pub(crate) use formats::unrecognized;
pub use jsonpath::JsonPath;
pub use node::Node;
pub(crate) use pattern::compile as compile_pattern;
pub(crate) use prune::prune;
pub(crate) use rules::check;
pub use schema::Schema;
pub(crate) use structural::{each_below, is_structural, structural_errors, unsupported};

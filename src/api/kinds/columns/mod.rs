//! Columns of the kinds' tables.
//!
//! The files beside this one are data, one for each group: a section in
//! brackets for each kind, then a line for each column with its header, its
//! type and what it shows:
//!
//! ```text
//! [POD]
//! Name | string:name | @meta.v1.ObjectMeta.name
//! Node | string wide | @core.v1.PodSpec.nodeName
//! ```
//!
//! A type may carry a format after a colon, and `wide` for columns of `-o wide`.
//! `@TYPE.FIELD` stands for that field's documentation, which the build takes
//! from the `k8s-openapi` crate, without the sentence after ` - ` if there is one.
//! Sections become constants of the same name.

use super::Column;

include!(concat!(env!("OUT_DIR"), "/columns.rs"));

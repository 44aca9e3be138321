//! Kubernetes types as data.
//!
//! One compact table, generated from facts, describes every built-in type;
//! generic engines run on it: decoding with field validation, pruning,
//! defaulting, patches, server-side apply, protobuf, OpenAPI, discovery. Custom
//! resources compile into the same form. What is truly per kind (validation,
//! create/update strategy, table columns) is one small file under [`kinds`].
//!
//! Objects are `serde_json::Value` trees. Nothing here does I/O.

#![forbid(unsafe_code)]

pub mod apply;
pub mod custom;
pub mod decode;
pub mod default;
pub mod field;
pub mod golang;
pub mod gvk;
pub mod kinds;
pub mod managed;
pub mod meta;
pub mod names;
pub mod openapi;
pub mod patch;
pub mod proto;
pub mod quantity;
pub mod quota;
pub mod schema;
pub mod scheme;
pub mod selector;
pub mod status;

pub use decode::{FieldValidation, Format};
pub use field::{ErrorType, FieldError, Path};
pub use gvk::{GroupKind, GroupResource, GroupVersion, GroupVersionKind, GroupVersionResource};
pub use quantity::Quantity;
pub use schema::{FieldRef, OwnedType, Scalar, Schema, Shape, StructRef, TypeRef};
pub use scheme::{Resource, Scheme, Subresource, Verbs, storage_version_hash};
pub use selector::{FieldSelector, LabelSelector};
pub use status::{Reason, Status};

//! The Common Expression Language (CEL) as Kubernetes has it.
//!
//! Validation rules of custom resources (`x-kubernetes-validations`) are
//! compiled by [`schema::SchemaRules`] when a definition is written and run on
//! every object of its kind.

#![forbid(unsafe_code)]

pub mod schema;

//! The SQLite store from outside.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "sqlite/basics.rs"]
mod basics;
#[path = "sqlite/support.rs"]
mod support;

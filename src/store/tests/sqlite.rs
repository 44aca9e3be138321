//! The SQLite store from outside.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "sqlite/basics.rs"]
mod basics;
#[path = "sqlite/crash.rs"]
mod crash;
#[path = "sqlite/housekeeping.rs"]
mod housekeeping;
#[path = "sqlite/model.rs"]
mod model;
#[path = "sqlite/opening.rs"]
mod opening;
#[path = "sqlite/support.rs"]
mod support;

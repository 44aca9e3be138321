//! x
use super::super::Context;
use crate::FieldError;
use serde_json::Value;
pub(in crate::kinds) fn deployment(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn deployment_update(_0: &Value, _1: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn deployment_status(_0: &Value, _1: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn replica_set(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn replica_set_update(_0: &Value, _1: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn replica_set_status(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn replication_controller(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn replication_controller_update(_0: &Value, _1: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn daemon_set(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn daemon_set_update(_0: &Value, _1: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn stateful_set(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn stateful_set_update(_0: &Value, _1: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn controller_revision(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn controller_revision_update(_0: &Value, _1: &Value) -> Vec<FieldError> {
    Vec::new()
}

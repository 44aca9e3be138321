//! x
use super::super::Context;
use crate::FieldError;
use serde_json::Value;
pub(in crate::kinds) fn node(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn node_update(_0: &Value, _1: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn namespace(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn namespace_status(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn config_map(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn config_map_update(_0: &Value, _1: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn secret(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn secret_update(_0: &Value, _1: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn endpoints(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}

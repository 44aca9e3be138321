//! x
use super::super::Context;
use crate::FieldError;
use serde_json::Value;
pub(in crate::kinds) fn claim(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn claim_update(_0: &Value, _1: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn template(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn template_update(_0: &Value, _1: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn class(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn slice(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn slice_update(_0: &Value, _1: &Value) -> Vec<FieldError> {
    Vec::new()
}

//! x
use super::super::Context;
use crate::FieldError;
use serde_json::Value;
pub(in crate::kinds) fn lease(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn priority_class(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn priority_class_update(_0: &Value, _1: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn runtime_class(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn runtime_class_update(_0: &Value, _1: &Value) -> Vec<FieldError> {
    Vec::new()
}

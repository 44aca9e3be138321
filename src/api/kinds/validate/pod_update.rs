//! x
use super::super::Context;
use crate::FieldError;
use serde_json::Value;
pub(in crate::kinds) fn pod_update(_0: &Value, _1: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn ephemeral_update(_0: &Value, _1: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn resize(_0: &Value, _1: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn status_update(_0: &Value, _1: &Value) -> Vec<FieldError> {
    Vec::new()
}

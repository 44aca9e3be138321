//! x
use super::super::Context;
use crate::FieldError;
use serde_json::Value;
pub(in crate::kinds) fn service(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn service_update(_0: &Value, _1: &Value) -> Vec<FieldError> {
    Vec::new()
}

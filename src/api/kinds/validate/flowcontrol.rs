//! x
use super::super::Context;
use crate::FieldError;
use serde_json::Value;
pub(in crate::kinds) fn schema(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn level(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}

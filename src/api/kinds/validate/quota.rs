//! x
use super::super::Context;
use crate::FieldError;
use serde_json::Value;
pub(in crate::kinds) fn limit_range(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn resource_quota(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}

//! x
use super::super::Context;
use crate::FieldError;
use serde_json::Value;
pub(in crate::kinds) fn template(_0: &Value, _1: &crate::Path) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn pod(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}

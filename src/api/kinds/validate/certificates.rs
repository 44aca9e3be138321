//! x
use super::super::Context;
use crate::FieldError;
use serde_json::Value;
pub(in crate::kinds) fn request(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}

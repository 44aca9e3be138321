//! x
use super::super::Context;
use crate::FieldError;
use serde_json::Value;
pub(in crate::kinds) fn role(_0: &Value, _1: bool) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn binding(_0: &Value, _1: bool) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn binding_update(_0: &Value, _1: &Value, _2: bool) -> Vec<FieldError> {
    Vec::new()
}

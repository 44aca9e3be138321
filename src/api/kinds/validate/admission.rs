//! x
use super::super::Context;
use crate::FieldError;
use serde_json::Value;
pub(in crate::kinds) fn webhooks(_0: &Value, _1: bool) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn policy(_0: &Value, _1: bool) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn binding(_0: &Value, _1: bool) -> Vec<FieldError> {
    Vec::new()
}

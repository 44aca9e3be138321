//! x
use super::super::Context;
use crate::FieldError;
use serde_json::Value;
pub(in crate::kinds) fn event(_0: &Value, _1: &Context<'_>) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn event_update(_0: &Value, _1: &Value, _2: &Context<'_>) -> Vec<FieldError> {
    Vec::new()
}

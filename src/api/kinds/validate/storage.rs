//! x
use super::super::Context;
use crate::FieldError;
use serde_json::Value;
pub(in crate::kinds) fn storage_class(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn storage_class_update(_0: &Value, _1: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn csi_driver(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn csi_driver_update(_0: &Value, _1: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn csi_node(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn capacity(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn capacity_update(_0: &Value, _1: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn attachment(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn attachment_update(_0: &Value, _1: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn attributes_class(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn attributes_class_update(_0: &Value, _1: &Value) -> Vec<FieldError> {
    Vec::new()
}

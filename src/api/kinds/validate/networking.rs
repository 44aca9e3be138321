//! x
use super::super::Context;
use crate::FieldError;
use serde_json::Value;
pub(in crate::kinds) fn ingress(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn ingress_class(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn ingress_class_update(_0: &Value, _1: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn network_policy(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn ip_address(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn ip_address_update(_0: &Value, _1: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn service_cidr(_0: &Value) -> Vec<FieldError> {
    Vec::new()
}
pub(in crate::kinds) fn service_cidr_update(_0: &Value, _1: &Value) -> Vec<FieldError> {
    Vec::new()
}

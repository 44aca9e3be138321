//! Bodies to objects.

use api::{FieldValidation, GroupVersionKind, Status, decode};
use serde_json::Value;

use super::{Engine, custom};
use crate::handlers::Context;
use crate::http::{Format, content_format};
use crate::registry::Call;

/// The decoder's name of a format.
fn wire(format: Format) -> decode::Format {
    match format {
        Format::Json => decode::Format::Json,
        Format::Yaml => decode::Format::Yaml,
        Format::Protobuf => decode::Format::Protobuf,
    }
}

impl Call {
    pub(crate) fn validation(&self) -> FieldValidation {
        FieldValidation::parse(&self.field_validation).unwrap_or_default()
    }
}

impl Engine {
    /// Decodes the body of a create or update: checked against its type,
    /// pruned, defaulted and in the storage version.
    pub(crate) fn decode(
        &self,
        call: &Call,
        gvk: &GroupVersionKind,
        format: Format,
        bytes: &[u8],
    ) -> Result<Value, Status> {
        let mut object = self.decode_kind(call, gvk, format, bytes)?;
        self.default(call, &mut object);
        Ok(self.in_storage_version(&call.resource, &call.version, object))
    }

    /// Decodes a body that must be of one kind, without defaults.
    pub(crate) fn decode_kind(
        &self,
        call: &Call,
        gvk: &GroupVersionKind,
        format: Format,
        bytes: &[u8],
    ) -> Result<Value, Status> {
        if let Some(definition) = custom::definition(call)
            && gvk.group == definition.group
        {
            return custom::decode(call, definition, gvk, format, bytes);
        }
        let decoded = decode::object(bytes, wire(format), call.validation(), gvk)?;
        if decoded.gvk.group_version() != gvk.group_version() {
            return Err(Status::bad_request(format!(
                "the API version in the data ({}) does not match the expected API version ({})",
                decoded.gvk.group_version(),
                gvk.group_version()
            )));
        }
        call.warn(decoded.warnings);
        *call.empties.lock() = decoded.empties;
        Ok(decoded.object)
    }

    /// Sets what the client left out.
    pub(crate) fn default(&self, call: &Call, object: &mut Value) {
        if let Some(definition) = custom::definition(call) {
            definition.default(&call.version, object);
            return;
        }
        let gvk = call.resource.gvk(&call.version);
        if let Some(ty) = self.scheme.type_of(&gvk) {
            api::default::apply(object, ty);
        }
        call.resource.rules.default(object);
    }

    /// What a patch made of an object in the request's version, checked
    /// against its type and pruned. The field validation of the request is
    /// applied where `strict`.
    pub(crate) fn retype(
        &self,
        call: &Call,
        gvk: &GroupVersionKind,
        object: &Value,
    ) -> Result<Value, String> {
        let ty = self
            .scheme
            .type_of(gvk)
            .ok_or_else(|| format!("no type for {}", gvk.kind))?;
        let validation = call.validation();
        let strict = validation != FieldValidation::Ignore;
        let (object, problems) = decode::retype(object, ty, strict)?;
        match validation {
            FieldValidation::Strict if !problems.is_empty() => {
                Err(format!("strict decoding error: {}", problems.join(", ")))
            }
            FieldValidation::Warn => {
                call.warn(problems);
                Ok(object)
            }
            _ => Ok(object),
        }
    }

    /// Decodes an options object of a body.
    pub(crate) fn decode_options(
        &self,
        context: &Context<'_>,
        bytes: &[u8],
        kind: &str,
    ) -> Result<Value, Status> {
        let format = content_format(&context.parts.headers, true)?;
        let gvk = GroupVersionKind::new("", "v1", kind);
        if format == Format::Json {
            decode::options_kind(bytes, kind)?;
        }
        // Options may come under any group's name.
        let decoded = decode::object(bytes, wire(format), FieldValidation::Ignore, &gvk)?;
        Ok(decoded.object)
    }
}

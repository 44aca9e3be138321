//! Bodies to objects.

use api::{GroupVersionKind, Status};
use serde_json::Value;

use super::Engine;
use crate::handlers::Context;
use crate::http::{Format, content_format};
use crate::registry::Call;

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
        let mut object = parse(format, bytes, gvk)?;
        let given =
            |object: &Value, field: &str| object[field].as_str().unwrap_or_default().to_owned();
        let expected = gvk.group_version().to_string();
        let (kind, version) = (given(&object, "kind"), given(&object, "apiVersion"));
        if !kind.is_empty() && kind != gvk.kind || !version.is_empty() && version != expected {
            return Err(Status::bad_request(format!(
                "the API version in the data ({version}) does not match the expected API version \
                 ({expected})"
            )));
        }
        object["kind"] = gvk.kind.clone().into();
        object["apiVersion"] = expected.into();
        call.resource.rules.default(&mut object);
        Ok(self.to_storage(&call.resource, &call.version, object))
    }

    /// Decodes an options object of a body.
    pub(crate) fn decode_options(
        &self,
        context: &Context<'_>,
        bytes: &[u8],
        kind: &str,
    ) -> Result<Value, Status> {
        let format = content_format(&context.parts.headers, true)?;
        parse(format, bytes, &GroupVersionKind::new("", "v1", kind))
    }
}

fn parse(format: Format, bytes: &[u8], gvk: &GroupVersionKind) -> Result<Value, Status> {
    let wrong = |why: String| {
        Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {why}",
            gvk.kind, gvk.version, gvk.kind
        ))
    };
    let value: Value = match format {
        Format::Yaml => {
            serde_yaml_ng::from_slice(bytes).map_err(|error| wrong(error.to_string()))?
        }
        _ => serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?,
    };
    if value.is_object() {
        Ok(value)
    } else {
        Err(wrong("the body is not an object".to_owned()))
    }
}

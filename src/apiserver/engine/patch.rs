//! PATCH bodies as changes.

use api::{Reason, Status};
use http::header::CONTENT_TYPE;
use serde_json::Value;

use super::Engine;
use crate::handlers::Context;
use crate::registry::{Call, Change};

enum Kind {
    Merge,
}

/// A patch, ready to be applied to whatever the object is by then.
pub(crate) struct Patch<'a> {
    engine: &'a Engine,
    kind: Kind,
    body: Value,
}

impl<'a> Patch<'a> {
    /// Reads a patch by its content type.
    pub(crate) fn parse(
        context: &'a Context<'_>,
        _call: &Call,
        bytes: &[u8],
    ) -> Result<Self, Status> {
        let media = context
            .parts
            .headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.split(';').next())
            .unwrap_or_default()
            .trim();
        let kind = match media {
            "application/merge-patch+json" | "application/strategic-merge-patch+json" => {
                Kind::Merge
            }
            _ => return Err(crate::handlers::unsupported_media()),
        };
        let body = serde_json::from_slice(bytes).map_err(|error| {
            Status::new(Reason::BadRequest, format!("error decoding patch: {error}"))
        })?;
        Ok(Self {
            engine: &context.server.inner.registry.engine,
            kind,
            body,
        })
    }
}

impl Change for Patch<'_> {
    fn apply(&self, call: &Call, current: Option<&Value>) -> Result<Value, Status> {
        let Some(current) = current else {
            return Err(call.resource.not_found(&call.name));
        };
        let mut object = self
            .engine
            .from_storage(&call.resource, &call.version, current.clone());
        match self.kind {
            Kind::Merge => merge(&mut object, &self.body),
        }
        Ok(self
            .engine
            .to_storage(&call.resource, &call.version, object))
    }
}

fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    for (key, value) in patch {
        if value.is_null() {
            if let Some(target) = target.as_object_mut() {
                target.remove(key);
            }
        } else {
            merge(&mut target[key.as_str()], value);
        }
    }
}

//! PATCH bodies as changes.

use api::managed::Node;
use api::patch::{self, PatchType};
use api::{FieldError, FieldValidation, GroupKind, GroupVersionKind, Path, Status, decode};
use http::header::CONTENT_TYPE;
use serde_json::Value;

use super::{Engine, custom};
use crate::handlers::Context;
use crate::registry::{Call, Change, now};

/// A patch, ready to be applied to whatever the object is by then.
pub(crate) struct Patch<'a> {
    engine: &'a Engine,
    kind: PatchType,
    body: &'a [u8],
    /// Server-side apply takes over what others own.
    force: bool,
}

impl<'a> Patch<'a> {
    /// Reads a patch by its content type.
    pub(crate) fn parse(context: &'a Context<'_>, body: &'a [u8]) -> Result<Self, Status> {
        let media = context
            .parts
            .headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let Some(kind) = PatchType::of_content_type(media) else {
            return Err(crate::handlers::unsupported_media());
        };
        let query = context.query;
        let mut errors = Vec::new();
        if kind == PatchType::Apply {
            if query.non_empty("fieldManager").is_none() {
                errors.push(FieldError::required(
                    &Path::new("fieldManager"),
                    "is required for apply patch",
                ));
            }
        } else if query.get("force").is_some() {
            errors.push(FieldError::forbidden(
                &Path::new("force"),
                "may not be specified for non-apply patch",
            ));
        }
        if !errors.is_empty() {
            let kind = GroupKind {
                group: "meta.k8s.io".to_owned(),
                kind: "PatchOptions".to_owned(),
            };
            return Err(Status::invalid(&kind, "", &errors));
        }
        Ok(Self {
            engine: &context.server.inner.registry.engine,
            kind,
            body,
            force: query.flag("force"),
        })
    }

    /// Applies the patch to an object of a kind that need not be the
    /// resource's, in the version of the request.
    pub(crate) fn apply_to(
        &self,
        call: &Call,
        gvk: &GroupVersionKind,
        object: &Value,
    ) -> Result<Value, Status> {
        if let Some(definition) = custom::definition(call)
            && gvk.group == definition.group
        {
            return custom::patch(call, definition, self.kind, object, self.body);
        }
        let ty = self.engine.type_of(gvk)?;
        let patched = patch::apply(self.kind, object, self.body, ty, call.validation())?;
        call.warn(patched.warnings);
        Ok(patched.object)
    }

    /// Server-side apply.
    fn apply_configuration(
        &self,
        call: &Call,
        gvk: &GroupVersionKind,
        live: Option<&Value>,
    ) -> Result<Value, Status> {
        let validation = call.validation();
        let strict = validation != FieldValidation::Ignore;
        let (config, problems) = decode::unstructured(self.body, decode::Format::Yaml, strict)
            .map_err(|error| {
                Status::bad_request(format!(
                    "error decoding YAML: error converting YAML to JSON: {error}"
                ))
            })?;
        let kind = match &config {
            Value::Array(_) => "array",
            Value::String(_) => "string",
            Value::Number(_) => "number",
            Value::Bool(_) => "bool",
            Value::Null | Value::Object(_) => "",
        };
        if !kind.is_empty() {
            return Err(Status::bad_request(format!(
                "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: \
                 cannot unmarshal {kind} into Go value of type map[string]interface {{}}"
            )));
        }
        match validation {
            FieldValidation::Strict if !problems.is_empty() => {
                return Err(Status::bad_request(format!(
                    "error strict decoding YAML: error converting YAML to JSON: {}",
                    problems.join(", ")
                )));
            }
            FieldValidation::Warn => call.warn(problems),
            _ => {}
        }
        let api_version = gvk.group_version().to_string();
        if config["apiVersion"] != api_version || config["kind"] != gvk.kind {
            return Err(Status::bad_request(format!(
                "invalid object type: {}",
                api::apply::kind_of(&config)
            )));
        }
        if let Some(definition) = custom::definition(call) {
            return self
                .engine
                .apply_custom(call, definition, live, &config, self.force);
        }
        let ty = self.engine.type_of(gvk)?;
        let now = now();
        let object = api::apply::apply(
            &Node::from(ty),
            live,
            &config,
            self.force,
            &self.engine.write(call, &api_version, &now),
            &|object, version| self.engine.in_version(gvk, object, version),
        )?;
        self.engine
            .retype(call, gvk, &object)
            .map_err(|error| decode::refused(gvk, gvk, &error))
    }
}

impl Change for Patch<'_> {
    fn creates(&self) -> bool {
        self.kind == PatchType::Apply
    }

    fn manages_fields(&self) -> bool {
        self.kind == PatchType::Apply
    }

    fn apply(&self, call: &Call, current: Option<&Value>) -> Result<Value, Status> {
        let resource = &call.resource;
        let gvk = resource.gvk(&call.version);
        let current = current.map(|current| {
            self.engine
                .in_request_version(resource, &call.version, current.clone())
        });
        let mut object = match (self.kind, &current) {
            (PatchType::Apply, current) => {
                self.apply_configuration(call, &gvk, current.as_ref())?
            }
            (_, Some(current)) => self.apply_to(call, &gvk, current)?,
            (_, None) => return Err(resource.not_found(&call.name)),
        };
        self.engine.default(call, &mut object);
        Ok(self
            .engine
            .in_storage_version(resource, &call.version, object))
    }
}

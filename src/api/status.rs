//! `metav1.Status`: every error the API answers with.

use serde_json::{Map, Value, json};

use crate::{FieldError, GroupKind, GroupResource};

/// `metav1.StatusReason`, the machine-readable why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are upstream's and say it all")]
pub enum Reason {
    Unknown,
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Invalid,
    ServerTimeout,
    StoreReadError,
    Timeout,
    TooManyRequests,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    InternalError,
    Expired,
    ServiceUnavailable,
}

impl Reason {
    /// HTTP status code.
    pub fn code(self) -> u16 {
        match self {
            Self::Unknown | Self::InternalError | Self::ServerTimeout | Self::StoreReadError => 500,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::NotAcceptable => 406,
            Self::AlreadyExists | Self::Conflict => 409,
            Self::Gone | Self::Expired => 410,
            Self::RequestEntityTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::Invalid => 422,
            Self::TooManyRequests => 429,
            Self::BadRequest => 400,
            Self::ServiceUnavailable => 503,
            Self::Timeout => 504,
        }
    }

    /// The reason on the wire; empty for [`Reason::Unknown`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "NotFound",
            Self::AlreadyExists => "AlreadyExists",
            Self::Conflict => "Conflict",
            Self::Gone => "Gone",
            Self::Invalid => "Invalid",
            Self::ServerTimeout => "ServerTimeout",
            Self::StoreReadError => "StorageReadError",
            Self::Timeout => "Timeout",
            Self::TooManyRequests => "TooManyRequests",
            Self::BadRequest => "BadRequest",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::NotAcceptable => "NotAcceptable",
            Self::RequestEntityTooLarge => "RequestEntityTooLarge",
            Self::UnsupportedMediaType => "UnsupportedMediaType",
            Self::InternalError => "InternalError",
            Self::Expired => "Expired",
            Self::ServiceUnavailable => "ServiceUnavailable",
        }
    }
}

/// A failed request, ready to be sent.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// Why, for machines.
    pub reason: Reason,
    /// Why, for people.
    pub message: String,
    /// `details`: name, group, kind, uid, causes, retryAfterSeconds. `None` leaves it out.
    pub details: Option<Map<String, Value>>,
    /// `metadata`, which carries the `continue` token of an expired list.
    pub metadata: Map<String, Value>,
}

impl Status {
    /// A status of a reason with its usual code and no details.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            code: reason.code(),
            reason,
            message: message.into(),
            details: None,
            metadata: Map::new(),
        }
    }

    /// The same with `details`.
    #[must_use]
    pub fn with_details(mut self, details: Value) -> Self {
        self.details = match details {
            Value::Object(map) => Some(map),
            _ => None,
        };
        self
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    /// 500: `Internal error occurred: …`.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        let message = message.to_string();
        Self::new(
            Reason::InternalError,
            format!("Internal error occurred: {message}"),
        )
        .with_details(json!({ "causes": [{ "message": message }] }))
    }

    /// 404: `pods "x" not found`.
    pub fn not_found(resource: &GroupResource, name: &str) -> Self {
        Self::new(Reason::NotFound, format!("{resource} {name:?} not found"))
            .with_details(resource_details(resource, name))
    }

    /// 409: `pods "x" already exists`.
    pub fn already_exists(resource: &GroupResource, name: &str) -> Self {
        Self::new(
            Reason::AlreadyExists,
            format!("{resource} {name:?} already exists"),
        )
        .with_details(resource_details(resource, name))
    }

    /// 409: `Operation cannot be fulfilled on pods "x": why`.
    pub fn conflict(resource: &GroupResource, name: &str, why: &str) -> Self {
        Self::new(
            Reason::Conflict,
            format!("Operation cannot be fulfilled on {resource} {name:?}: {why}"),
        )
        .with_details(resource_details(resource, name))
    }

    /// 403: `pods "x" is forbidden: why`, or `pods is forbidden: why` without a name.
    pub fn forbidden(resource: &GroupResource, name: &str, why: &str) -> Self {
        let what = if name.is_empty() {
            resource.to_string()
        } else {
            format!("{resource} {name:?}")
        };
        Self::new(Reason::Forbidden, format!("{what} is forbidden: {why}"))
            .with_details(resource_details(resource, name))
    }

    /// 422: `Pod "x" is invalid: …` with one cause for each error.
    pub fn invalid(kind: &GroupKind, name: &str, errors: &[FieldError]) -> Self {
        let what = if kind.group.is_empty() {
            kind.kind.clone()
        } else {
            format!("{}.{}", kind.kind, kind.group)
        };
        let mut unique: Vec<String> = Vec::new();
        for error in errors {
            let text = error.to_string();
            if !unique.contains(&text) {
                unique.push(text);
            }
        }
        let list = match unique.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let causes: Vec<Value> = errors
            .iter()
            .map(|error| {
                json!({
                    "reason": error.kind.reason(),
                    "message": error.body(),
                    "field": error.field.to_string(),
                })
            })
            .collect();
        let mut details = Map::new();
        if !name.is_empty() {
            details.insert("name".into(), name.into());
        }
        if !kind.group.is_empty() {
            details.insert("group".into(), kind.group.clone().into());
        }
        if !kind.kind.is_empty() {
            details.insert("kind".into(), kind.kind.clone().into());
        }
        details.insert("causes".into(), causes.into());
        Self {
            details: Some(details),
            ..Self::new(
                Reason::Invalid,
                format!("{what} {name:?} is invalid: {list}"),
            )
        }
    }

    /// The `Status` object.
    pub fn to_value(&self) -> Value {
        let mut object = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": self.metadata,
            "status": "Failure",
            "message": self.message,
            "code": self.code,
        });
        if self.reason != Reason::Unknown {
            object["reason"] = self.reason.as_str().into();
        }
        if let Some(details) = &self.details {
            object["details"] = Value::Object(details.clone());
        }
        object
    }
}

/// `details` that name an object by its resource, as upstream's errors do.
fn resource_details(resource: &GroupResource, name: &str) -> Value {
    let mut details = Map::new();
    if !name.is_empty() {
        details.insert("name".into(), name.into());
    }
    if !resource.group.is_empty() {
        details.insert("group".into(), resource.group.clone().into());
    }
    details.insert("kind".into(), resource.resource.clone().into());
    Value::Object(details)
}

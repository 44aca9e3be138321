//! Errors of single fields, as `k8s.io/apimachinery/pkg/util/validation/field` words them.

use std::fmt;

use serde_json::Value;

/// Where in an object a field is: `spec.containers[0].image`, `metadata.labels[a/b]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// A path that begins with one field name.
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// The path of the whole object, printed as `<nil>` where upstream has no path.
    pub fn root() -> Self {
        Self::default()
    }

    /// A field below this one.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() {
            Self::new(name)
        } else {
            Self(format!("{}.{name}", self.0))
        }
    }

    /// An element of this list.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// A value of this map.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

/// `field.ErrorType`: what is wrong. [`ErrorType::reason`] is the cause's reason on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorType {
    /// Names something that does not exist.
    NotFound,
    /// Missing.
    Required,
    /// Occurs twice.
    Duplicate,
    /// Malformed.
    Invalid,
    /// Not one of the known values.
    NotSupported,
    /// Well-formed but not allowed here.
    Forbidden,
    /// Longer than allowed; the detail is the limit in bytes.
    TooLong,
    /// More items than allowed.
    TooMany,
    /// The server failed while validating.
    Internal,
    /// Of another JSON type.
    TypeInvalid,
}

impl ErrorType {
    /// `metav1.CauseType` on the wire.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::Internal => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
        }
    }
}

/// One wrong field. Displays as `field.Error` does, the field's path first.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// What is wrong.
    pub kind: ErrorType,
    /// Where.
    pub field: Path,
    /// The value, as it is printed; unused for Required, Forbidden, TooLong, TooMany and Internal.
    pub value: Value,
    /// More.
    pub detail: String,
    /// The value as Go prints it, where that is not as JSON prints [`Self::value`].
    pub shown: Option<String>,
}

impl FieldError {
    /// Any error.
    pub fn new(
        kind: ErrorType,
        field: &Path,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            field: field.clone(),
            value: value.into(),
            detail: detail.into(),
            shown: None,
        }
    }

    /// Missing.
    pub fn required(field: &Path, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Required, field, "", detail)
    }

    /// Malformed.
    pub fn invalid(field: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Invalid, field, value, detail)
    }

    /// Malformed, without showing how.
    pub fn omitted(field: &Path, detail: impl Into<String>) -> Self {
        let mut error = Self::new(ErrorType::Invalid, field, Value::Null, detail);
        error.shown = Some(String::new());
        error
    }

    /// Not allowed here.
    pub fn forbidden(field: &Path, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Forbidden, field, "", detail)
    }

    /// Occurs twice.
    pub fn duplicate(field: &Path, value: impl Into<Value>) -> Self {
        Self::new(ErrorType::Duplicate, field, value, "")
    }

    /// Names something that does not exist.
    pub fn not_found(field: &Path, value: impl Into<Value>) -> Self {
        Self::new(ErrorType::NotFound, field, value, "")
    }

    /// Not one of `supported`, which is listed in the order given.
    pub fn not_supported(field: &Path, value: impl Into<Value>, supported: &[&str]) -> Self {
        let list: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
        Self::new(
            ErrorType::NotSupported,
            field,
            value,
            format!("supported values: {}", list.join(", ")),
        )
    }

    /// Longer than `max` bytes.
    pub fn too_long(field: &Path, max: usize) -> Self {
        Self::new(
            ErrorType::TooLong,
            field,
            "",
            format!("may not be more than {max} bytes"),
        )
    }

    /// More than `max` of `actual` items.
    pub fn too_many(field: &Path, actual: usize, max: usize) -> Self {
        Self::new(
            ErrorType::TooMany,
            field,
            actual,
            format!("must have at most {max} items"),
        )
    }

    /// The message without the path, as `causes[].message` carries it.
    pub fn body(&self) -> String {
        let mut text = self.kind.prefix().to_owned();
        match self.kind {
            ErrorType::Required
            | ErrorType::Forbidden
            | ErrorType::TooLong
            | ErrorType::Internal => {}
            _ if self.shown.as_deref() == Some("") => {}
            _ => {
                text.push_str(": ");
                match &self.shown {
                    Some(shown) => text.push_str(shown),
                    None => text.push_str(&go_value(&self.value)),
                }
            }
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// A value as upstream prints it in an error: strings quoted, `null` for nil,
/// objects as JSON.
fn go_value(value: &Value) -> String {
    match value {
        Value::String(text) => crate::decode::go_quote(text),
        other => {
            let mut out = String::new();
            crate::golang::write_any(other, &mut out);
            out
        }
    }
}

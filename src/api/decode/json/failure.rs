//! Why JSON could not be decoded, in the words of `encoding/json`.

/// Why decoding ended early.
pub(super) enum Stop {
    /// Malformed; the message is found by `decode::syntax`.
    Syntax,
    /// What a type with its own decoder said.
    Failed(Failure),
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Syntax => f.write_str("invalid JSON"),
            Self::Failed(failure) => failure.fmt(f),
        }
    }
}

pub(super) enum Failure {
    /// `json.UnmarshalTypeError`.
    Type {
        value: String,
        go_type: String,
        /// Name of the struct and path of fields; empty at the top.
        place: Option<(String, Vec<String>)>,
    },
    Text(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Type {
                value,
                go_type,
                place: Some((name, fields)),
            } => write!(
                f,
                "json: cannot unmarshal {value} into Go struct field {name}.{} of type {go_type}",
                fields.join(".")
            ),
            Self::Type { value, go_type, .. } => {
                write!(
                    f,
                    "json: cannot unmarshal {value} into Go value of type {go_type}"
                )
            }
            Self::Text(text) => f.write_str(text),
        }
    }
}

//! RFC 6902: JSON patch, with the latitude of the library that upstream uses:
//! negative indices count from the end, `replace` of a missing key adds it.

use std::sync::OnceLock;

use serde_json::Value;

use crate::decode;
use crate::schema::{FieldBuilder, ObjectOptions, OwnedType, Scalar, SchemaBuilder, TypeId};
use crate::status::{Reason, Status};

/// Most operations in one patch.
pub const MAX_OPERATIONS: usize = 10_000;

/// Most bytes that `copy` operations may add together.
const MAX_COPIED: usize = 3 * 1024 * 1024;

/// Why a patch does not apply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonPatchError {
    /// The place is not there.
    #[error("{operation} operation does not apply: doc is missing path: {path}: missing value")]
    Missing {
        /// Operation.
        operation: String,
        /// JSON pointer.
        path: String,
    },
    /// Not an index of the array.
    #[error("Unable to access invalid index: {0}: invalid index referenced")]
    Index(String),
    /// `test` found something else.
    #[error("testing value {0} failed: test failed")]
    Test(String),
    /// An operation without a member that it needs.
    #[error("operation missing {0} field: missing value")]
    Member(&'static str),
    /// Not an operation.
    #[error("Unexpected kind: {0}")]
    Kind(String),
    /// The whole document can only become an object or array.
    #[error("replace operation value must be object or array")]
    Root,
    /// Copies that grow without end.
    #[error(
        "Unable to complete the copy, the accumulated size increase of copy is {0}, exceeding the limit {MAX_COPIED}"
    )]
    Copied(usize),
}

/// One operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    op: String,
    path: Option<String>,
    from: Option<String>,
    value: Value,
}

impl Operation {
    /// The places that it goes to.
    pub(super) fn pointers(&self) -> impl Iterator<Item = &str> {
        self.path.as_deref().into_iter().chain(self.from.as_deref())
    }
}

/// Reads a patch, with the problems that strict validation has with it.
///
/// # Errors
///
/// 400 if it is not a list of operations, 413 if it is too long.
pub fn parse(body: &[u8], strict: bool) -> Result<(Vec<Operation>, Vec<String>), Status> {
    let decoded = decode::bytes(body, operations().get(), strict);
    let (patch, problems) =
        decoded.map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
    let list = match patch {
        Value::Array(list) => list,
        _ => Vec::new(),
    };
    if list.len() > MAX_OPERATIONS {
        let message = format!(
            "Request entity too large: The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            list.len()
        );
        return Err(Status::new(Reason::RequestEntityTooLarge, message));
    }
    let operations = list.into_iter().map(|mut it| {
        let text = |name: &str| it[name].as_str().map(str::to_owned);
        Operation {
            op: text("op").unwrap_or_else(|| "unknown".to_owned()),
            path: text("path"),
            from: text("from"),
            value: it["value"].take(),
        }
    });
    let problems = problems
        .into_iter()
        .map(|it| format!("json patch {it}"))
        .collect();
    Ok((operations.collect(), problems))
}

/// The type of a patch, so that errors name it as upstream's do.
fn operations() -> &'static OwnedType {
    static TYPE: OnceLock<OwnedType> = OnceLock::new();
    TYPE.get_or_init(|| {
        let mut builder = SchemaBuilder::new();
        let text = TypeId::scalar(Scalar::String);
        let fields = vec![
            FieldBuilder::new("op", text),
            FieldBuilder::new("path", text),
            FieldBuilder::new("from", text),
            FieldBuilder::new("value", TypeId::scalar(Scalar::Any)),
        ];
        let item = builder.object("jsonPatchOp", fields, ObjectOptions::default());
        let list = builder.list(item, None);
        OwnedType::built(builder.finish("endpoints", "handlers").into(), list)
    })
}

/// Applies operations in order. On an error the document is left half changed.
///
/// # Errors
///
/// When an operation does not apply.
pub fn apply(document: &mut Value, operations: &[Operation]) -> Result<(), JsonPatchError> {
    let mut copied = 0;
    for operation in operations {
        let path = || {
            operation
                .path
                .as_deref()
                .ok_or(JsonPatchError::Member("path"))
        };
        let from = || {
            operation
                .from
                .as_deref()
                .ok_or(JsonPatchError::Member("from"))
        };
        match operation.op.as_str() {
            "add" => add(document, path()?, operation.value.clone(), "add")?,
            "remove" => drop(remove(document, path()?, "remove")?),
            "replace" => replace(document, path()?, &operation.value)?,
            "move" => {
                let value = remove(document, from()?, "move")?;
                add(document, path()?, value, "move")?;
            }
            "copy" => {
                let value = get(document, from()?, "copy")?;
                copied += value.to_string().len();
                if copied > MAX_COPIED {
                    return Err(JsonPatchError::Copied(copied));
                }
                add(document, path()?, value, "copy")?;
            }
            "test" => {
                let path = path()?;
                let found = match path {
                    "" => document.clone(),
                    path => get(document, path, "test")?,
                };
                if found != operation.value {
                    return Err(JsonPatchError::Test(path.to_owned()));
                }
            }
            other => return Err(JsonPatchError::Kind(other.to_owned())),
        }
    }
    Ok(())
}

/// The container that a pointer's last token is in, and that token.
fn find<'a>(
    document: &'a mut Value,
    path: &str,
    operation: &str,
) -> Result<(&'a mut Value, String), JsonPatchError> {
    let missing = || JsonPatchError::Missing {
        operation: operation.to_owned(),
        path: path.to_owned(),
    };
    let unescape = |token: &str| token.replace("~1", "/").replace("~0", "~");
    // What is before the first slash is passed over, as upstream does.
    let (_, tokens) = path.split_once('/').ok_or_else(missing)?;
    let mut tokens = tokens.split('/');
    let last = tokens.next_back().ok_or_else(missing)?;
    let mut at = document;
    for token in tokens {
        let token = unescape(token);
        at = match at {
            Value::Object(map) => map.get_mut(&token).ok_or_else(missing)?,
            Value::Array(list) => {
                let index = index(&token, list.len(), 0)?;
                &mut list[index]
            }
            _ => return Err(missing()),
        };
    }
    if !at.is_object() && !at.is_array() {
        return Err(missing());
    }
    Ok((at, unescape(last)))
}

/// An index of an array of this length, or one of `beyond` places after it.
fn index(token: &str, length: usize, beyond: usize) -> Result<usize, JsonPatchError> {
    let invalid = || JsonPatchError::Index(token.to_owned());
    let number: i64 = token.parse().map_err(|_| invalid())?;
    let places = length + beyond;
    let at = if number < 0 {
        number + places as i64
    } else {
        number
    };
    usize::try_from(at)
        .ok()
        .filter(|at| *at < places)
        .ok_or_else(invalid)
}

fn get(document: &mut Value, path: &str, operation: &str) -> Result<Value, JsonPatchError> {
    let (container, key) = find(document, path, operation)?;
    match container {
        Value::Array(list) => Ok(list[index(&key, list.len(), 0)?].clone()),
        container => Ok(container.get(&key).cloned().unwrap_or_default()),
    }
}

fn add(
    document: &mut Value,
    path: &str,
    value: Value,
    operation: &str,
) -> Result<(), JsonPatchError> {
    let (container, key) = find(document, path, operation)?;
    match container {
        Value::Array(list) if key == "-" => list.push(value),
        Value::Array(list) => {
            let at = index(&key, list.len(), 1)?;
            list.insert(at, value);
        }
        Value::Object(map) => drop(map.insert(key, value)),
        _ => {}
    }
    Ok(())
}

fn remove(document: &mut Value, path: &str, operation: &str) -> Result<Value, JsonPatchError> {
    let (container, key) = find(document, path, operation)?;
    match container {
        Value::Array(list) => {
            let at = index(&key, list.len(), 0)?;
            Ok(list.remove(at))
        }
        Value::Object(map) => map.remove(&key).ok_or_else(|| JsonPatchError::Missing {
            operation: operation.to_owned(),
            path: path.to_owned(),
        }),
        _ => Ok(Value::Null),
    }
}

fn replace(document: &mut Value, path: &str, value: &Value) -> Result<(), JsonPatchError> {
    if path.is_empty() {
        if !value.is_object() && !value.is_array() {
            return Err(JsonPatchError::Root);
        }
        document.clone_from(value);
        return Ok(());
    }
    let (container, key) = find(document, path, "replace")?;
    match container {
        Value::Array(list) => {
            let at = index(&key, list.len(), 0)?;
            list[at].clone_from(value);
        }
        Value::Object(map) => drop(map.insert(key, value.clone())),
        _ => {}
    }
    Ok(())
}

//! Bytes of a request into an object of its type.
//!
//! [`object`] does what upstream's codec does: it finds `apiVersion` and
//! `kind`, decodes into that type with type checks, prunes what the type does
//! not know and says so under field validation, and words every refusal as
//! upstream does. The object comes back as upstream would write it.

mod json;
mod prune;
pub(crate) mod scalar;
mod syntax;
mod yaml;

use serde_json::Value;

use crate::schema::{Shape, TypeRef};
use crate::{GroupVersion, GroupVersionKind, Scheme, Status};

pub use prune::prune;
pub(crate) use syntax::go_quote;

/// The `fieldValidation` parameter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drops unknown and duplicate fields silently.
    Ignore,
    /// Drops them with a warning each; what requests get that do not ask.
    #[default]
    Warn,
    /// Refuses them.
    Strict,
}

impl FieldValidation {
    /// Parses the parameter; empty is [`FieldValidation::Warn`].
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Warn" => Some(Self::Warn),
            "Ignore" => Some(Self::Ignore),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// How a body is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

impl Format {
    /// The format of a `Content-Type`; JSON where there is none.
    pub fn of_content_type(content_type: &str) -> Option<Self> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "" | "application/json" => Some(Self::Json),
            "application/yaml" => Some(Self::Yaml),
            "application/vnd.kubernetes.protobuf" => Some(Self::Protobuf),
            _ => None,
        }
    }
}

/// A decoded object.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The object, `apiVersion` and `kind` filled in.
    pub object: Value,
    /// What it is.
    pub gvk: GroupVersionKind,
    /// What field validation has against it; empty unless it was asked to warn.
    pub warnings: Vec<String>,
    /// Paths of lists and maps that were given, empty: the object leaves them
    /// out, errors about them do not.
    pub empties: Vec<String>,
}

/// Decodes the body of a create or update of a built-in kind.
///
/// `expected` is the kind that the request's resource takes.
///
/// # Errors
///
/// 400 with upstream's message.
pub fn object(
    body: &[u8],
    format: Format,
    validation: FieldValidation,
    expected: &GroupVersionKind,
) -> Result<Decoded, Status> {
    let unrecognized = |error: String| {
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): {error} ({})",
            expected.kind,
            summary(body)
        ))
    };
    let converted;
    let (data, duplicates) = match format {
        Format::Json => (body, Vec::new()),
        Format::Yaml => {
            let yaml = yaml::to_json(body).map_err(unrecognized)?;
            converted = serde_json::to_vec(&yaml.value).unwrap_or_default();
            (&*converted, yaml.duplicates)
        }
        Format::Protobuf => return protobuf(body, expected),
    };
    let (api_version, kind) = json::type_meta(data).map_err(|error| {
        unrecognized(format!(
            "couldn't get version/kind; json parse error: {error}"
        ))
    })?;
    let Some(version) = GroupVersion::parse(&api_version) else {
        return Err(unrecognized(format!(
            "unexpected GroupVersion string: {api_version}"
        )));
    };
    let gvk = with_defaults(version, kind, expected);
    let refused = |error: String| refused(&gvk, expected, &error);
    let ty = registered(&gvk).map_err(refused)?;
    if gvk.kind != expected.kind
        && let Some(own) = Scheme::builtin().type_of(expected)
    {
        return Err(refused(unconvertible(ty, own)));
    }
    let strict = validation != FieldValidation::Ignore;
    let typed = json::typed(data, ty, strict).map_err(refused)?;
    let mut problems = Vec::new();
    if strict && !duplicates.is_empty() {
        problems.push(format!(
            "yaml: unmarshal errors:\n  {}",
            duplicates.join("\n  ")
        ));
    }
    problems.extend(typed.strict);
    if validation == FieldValidation::Strict && !problems.is_empty() {
        return Err(refused(format!(
            "strict decoding error: {}",
            problems.join(", ")
        )));
    }
    let mut object = typed.value;
    if typed
        .empties
        .iter()
        .any(|path| path == "metadata.managedFields")
    {
        // An empty list is how clients clear the owners of fields.
        object["metadata"]["managedFields"] = Value::Array(Vec::new());
    }
    name_type(&mut object, &gvk);
    Ok(Decoded {
        object,
        gvk,
        warnings: problems,
        empties: typed.empties,
    })
}

/// Whether a body holds options of this kind, in the words of the codec for
/// options.
///
/// # Errors
///
/// 400 with upstream's message.
pub fn options_kind(body: &[u8], expected: &str) -> Result<(), Status> {
    let (version, kind) = json::type_meta(body).map_err(|error| {
        Status::bad_request(format!(
            "couldn't get version/kind; json parse error: {error}"
        ))
    })?;
    if kind.is_empty() || kind == expected {
        return Ok(());
    }
    let version = if version.is_empty() {
        "meta.k8s.io/v1"
    } else {
        &version
    };
    Err(Status::bad_request(format!(
        "no kind {} is registered for version {} in scheme \"pkg/apis/meta/internalversion/scheme/register.go:27\"",
        go_quote(&kind),
        go_quote(version)
    )))
}

/// What upstream says of an object that is not of the kind that it converts to.
pub(crate) fn unconvertible(from: TypeRef<'_>, to: TypeRef<'_>) -> String {
    let name = to.as_struct().map_or_else(String::new, |it| {
        let path = it.package_path();
        let group = path.strip_prefix("k8s.io/api/").unwrap_or(path);
        let group = group.split('/').next().unwrap_or_default();
        format!("{group}.{}", it.name())
    });
    format!(
        "converting ({}) to ({name}): unknown conversion",
        from.go_name()
    )
}

fn protobuf(body: &[u8], expected: &GroupVersionKind) -> Result<Decoded, Status> {
    let unrecognized = |error: String| {
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): {error} ({})",
            expected.kind,
            summary(body)
        ))
    };
    let envelope =
        crate::proto::Envelope::parse(body).map_err(|error| unrecognized(error.to_string()))?;
    let Some(version) = GroupVersion::parse(&envelope.api_version) else {
        let version = envelope.api_version;
        return Err(unrecognized(format!(
            "unexpected GroupVersion string: {version}"
        )));
    };
    let gvk = with_defaults(version, envelope.kind.clone(), expected);
    let refused = |error: String| refused(&gvk, expected, &error);
    let ty = registered(&gvk).map_err(refused)?;
    let decoded =
        crate::proto::decode(envelope.raw, ty).map_err(|error| refused(error.to_string()))?;
    let mut object = normalise(&decoded, ty).map_err(refused)?;
    name_type(&mut object, &gvk);
    Ok(Decoded {
        object,
        gvk,
        warnings: Vec::new(),
        empties: Vec::new(),
    })
}

/// Reads a value again as its type: what decoding does to a body, for objects
/// that a patch or an admission plugin made.
///
/// # Errors
///
/// Upstream's message about the first field of a wrong type.
pub fn normalise(value: &Value, ty: TypeRef<'_>) -> Result<Value, String> {
    retype(value, ty, false).map(|(value, _)| value)
}

/// The same with what strict validation has against the value.
///
/// # Errors
///
/// Upstream's message about the first field of a wrong type.
pub fn retype(
    value: &Value,
    ty: TypeRef<'_>,
    strict: bool,
) -> Result<(Value, Vec<String>), String> {
    let data = serde_json::to_vec(value).map_err(|error| error.to_string())?;
    json::typed(&data, ty, strict).map(|it| (it.value, it.strict))
}

/// Makes an object what upstream reads back from its store: built-in kinds are
/// stored as protobuf, which does not tell an empty list or map from none, so
/// those that are written at all become `null`.
pub fn persisted(value: &mut Value, ty: TypeRef<'_>) {
    match (ty.shape(), value) {
        (Shape::Struct(it), Value::Object(map)) => {
            for field in it.fields() {
                let Some(value) = map.get_mut(field.name()) else {
                    continue;
                };
                let empty = match (field.ty().shape(), &*value) {
                    (Shape::List(_), Value::Array(list)) => list.is_empty(),
                    (Shape::Map(_), Value::Object(map)) => map.is_empty(),
                    _ => false,
                };
                if empty {
                    *value = Value::Null;
                } else {
                    persisted(value, field.ty());
                }
            }
        }
        (Shape::List(of), Value::Array(list)) => list.iter_mut().for_each(|it| persisted(it, of)),
        (Shape::Map(of), Value::Object(map)) => {
            for value in map.values_mut() {
                if value.is_null() && is_bytes(of) {
                    *value = Value::String(String::new());
                }
                persisted(value, of);
            }
        }
        _ => {}
    }
}

fn is_bytes(ty: TypeRef<'_>) -> bool {
    matches!(ty.shape(), Shape::Scalar(crate::Scalar::Bytes))
}

/// Whether [`persisted`] would change anything.
pub fn forgets(value: &Value, ty: TypeRef<'_>) -> bool {
    match (ty.shape(), value) {
        (Shape::Struct(it), Value::Object(map)) => it.fields().any(|field| {
            map.get(field.name())
                .is_some_and(|value| match (field.ty().shape(), value) {
                    (Shape::List(_), Value::Array(list)) if list.is_empty() => true,
                    (Shape::Map(_), Value::Object(map)) if map.is_empty() => true,
                    _ => forgets(value, field.ty()),
                })
        }),
        (Shape::List(of), Value::Array(list)) => list.iter().any(|it| forgets(it, of)),
        (Shape::Map(of), Value::Object(map)) => map
            .values()
            .any(|it| forgets(it, of) || it.is_null() && is_bytes(of)),
        _ => false,
    }
}

/// Decodes JSON bytes into a type, whatever `kind` they name.
///
/// # Errors
///
/// Upstream's message about syntax or types.
pub fn bytes(data: &[u8], ty: TypeRef<'_>, strict: bool) -> Result<(Value, Vec<String>), String> {
    json::typed(data, ty, strict).map(|it| (it.value, it.strict))
}

/// Decodes JSON or YAML without a schema, for custom resources and patches,
/// with the duplicate fields as `duplicate field "x"`.
///
/// # Errors
///
/// Upstream's message about syntax.
pub fn unstructured(
    body: &[u8],
    format: Format,
    strict: bool,
) -> Result<(Value, Vec<String>), String> {
    if format == Format::Yaml {
        let yaml = yaml::to_json(body)?;
        let mut problems = Vec::new();
        if strict && !yaml.duplicates.is_empty() {
            problems.push(format!(
                "yaml: unmarshal errors:\n  {}",
                yaml.duplicates.join("\n  ")
            ));
        }
        return Ok((yaml.value, problems));
    }
    json::untyped(body, strict).map(|it| (it.value, it.strict))
}

/// Upstream's refusal of a body that is a known kind but not what was asked for.
pub fn refused(gvk: &GroupVersionKind, expected: &GroupVersionKind, error: &str) -> Status {
    Status::bad_request(format!(
        "{} in version {} cannot be handled as a {}: {error}",
        gvk.kind,
        go_quote(&gvk.version),
        expected.kind
    ))
}

fn registered(gvk: &GroupVersionKind) -> Result<TypeRef<'static>, String> {
    Scheme::builtin().type_of(gvk).ok_or_else(|| {
        format!(
            "no kind {} is registered for version {} in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
            go_quote(&gvk.kind),
            go_quote(&gvk.group_version().to_string())
        )
    })
}

/// What the data says, completed by what is expected.
fn with_defaults(
    version: GroupVersion,
    kind: String,
    expected: &GroupVersionKind,
) -> GroupVersionKind {
    let kind = if kind.is_empty() {
        expected.kind.clone()
    } else {
        kind
    };
    let mut gvk = GroupVersionKind::new(version.group, version.version, kind);
    if gvk.version.is_empty() && gvk.group.is_empty() {
        gvk.group.clone_from(&expected.group);
    }
    if gvk.version.is_empty() && gvk.group == expected.group {
        gvk.version.clone_from(&expected.version);
    }
    gvk
}

/// Writes `apiVersion` and `kind` into an object.
pub fn name_type(object: &mut Value, gvk: &GroupVersionKind) {
    if let Value::Object(map) = object {
        map.insert("kind".to_owned(), gvk.kind.clone().into());
        map.insert(
            "apiVersion".to_owned(),
            gvk.group_version().to_string().into(),
        );
    }
}

/// The beginning of a body, for error messages.
fn summary(body: &[u8]) -> String {
    let (head, tail) = match body.get(..30) {
        Some(head) if body.len() > 30 => (head, " ..."),
        _ => (body, ""),
    };
    match head.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{tail}", String::from_utf8_lossy(head)),
        Some(_) => {
            let hex: String = head.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{hex}{tail}")
        }
    }
}

#[cfg(test)]
mod tests;

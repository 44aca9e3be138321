//! Which representation a client wants, and which one it sent.

use api::{Reason, Status};
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};

use crate::request::Query;

/// How an object is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Format {
    #[default]
    Json,
    Yaml,
    Protobuf,
}

impl Format {
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

/// What an object is turned into before it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Shape {
    #[default]
    Object,
    /// `meta.k8s.io` `Table`.
    Table,
    /// `PartialObjectMetadata`, or its list.
    Metadata,
}

/// The outcome of negotiation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Output {
    pub format: Format,
    pub shape: Shape,
    /// Version of `meta.k8s.io` for shapes that are not the object itself.
    pub meta_version: &'static str,
    pub pretty: bool,
}

const ALL: &[Format] = &[Format::Json, Format::Yaml, Format::Protobuf];

/// Chooses the representation for `Accept`. `protobuf` says whether the
/// resource can be written as protobuf, `list` whether a list is answered.
pub(crate) fn accept(
    headers: &HeaderMap,
    query: Query<'_>,
    protobuf: bool,
    shapes: bool,
) -> Result<Output, Status> {
    let mut output = Output {
        pretty: wants_pretty(headers, query),
        ..Output::default()
    };
    let header = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect::<Vec<_>>()
        .join(",");
    if header.trim().is_empty() {
        return Ok(output);
    }
    let mut ranges: Vec<MediaRange<'_>> = header.split(',').filter_map(MediaRange::parse).collect();
    ranges.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    let formats: Vec<Format> = ALL
        .iter()
        .copied()
        .filter(|format| protobuf || *format != Format::Protobuf)
        .collect();
    for range in &ranges {
        if range.quality <= 0.0 {
            continue;
        }
        let Some(format) = range.format(&formats) else {
            continue;
        };
        let Some((shape, version)) = range.shape() else {
            continue;
        };
        if shape != Shape::Object && !shapes {
            continue;
        }
        if shape == Shape::Table && format == Format::Protobuf {
            return Err(Status::new(
                Reason::NotAcceptable,
                "only the following media types are accepted when converting to \
                 meta.k8s.io/v1, Kind=Table: application/json, application/yaml",
            ));
        }
        output.format = format;
        output.shape = shape;
        output.meta_version = version;
        return Ok(output);
    }
    // The router turns away what no representation matches, the serializer
    // what asks for a conversion that does not exist.
    if ranges.iter().any(|range| range.format(&formats).is_some()) {
        return Err(not_acceptable(&formats));
    }
    let list: Vec<&str> = formats.iter().map(|format| format.media_type()).collect();
    Err(Status::new(
        Reason::NotAcceptable,
        format!(
            "406: Not Acceptable\n\nAvailable representations: {}, \
             application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch",
            list.join(", ")
        ),
    )
    .with_details(serde_json::json!({})))
}

fn not_acceptable(formats: &[Format]) -> Status {
    let list: Vec<&str> = formats.iter().map(|format| format.media_type()).collect();
    Status::new(
        Reason::NotAcceptable,
        format!(
            "only the following media types are accepted: {}",
            list.join(", ")
        ),
    )
}

/// Reads `Content-Type`; JSON when there is none.
pub(crate) fn content_format(headers: &HeaderMap, protobuf: bool) -> Result<Format, Status> {
    let text = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let media = text.split(';').next().unwrap_or_default().trim();
    match media.to_ascii_lowercase().as_str() {
        "" | "application/json" => Ok(Format::Json),
        "application/yaml" => Ok(Format::Yaml),
        "application/vnd.kubernetes.protobuf" if protobuf => Ok(Format::Protobuf),
        _ => {
            let list: Vec<&str> = ALL
                .iter()
                .filter(|format| protobuf || **format != Format::Protobuf)
                .map(|format| format.media_type())
                .collect();
            Err(Status::new(
                Reason::UnsupportedMediaType,
                format!(
                    "the body of the request was in an unknown format - accepted media types \
                     include: {}",
                    list.join(", ")
                ),
            ))
        }
    }
}

/// `?pretty`, or a person's tool as the user agent.
fn wants_pretty(headers: &HeaderMap, query: Query<'_>) -> bool {
    match query.get("pretty") {
        Some(value) => matches!(&*value, "" | "1" | "t" | "T" | "true" | "TRUE" | "True"),
        None => headers
            .get(USER_AGENT)
            .and_then(|agent| agent.to_str().ok())
            .is_some_and(|agent| {
                ["curl", "Wget", "Mozilla/5.0"]
                    .iter()
                    .any(|tool| agent.starts_with(tool))
            }),
    }
}

struct MediaRange<'a> {
    main: &'a str,
    sub: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    quality: f32,
}

impl<'a> MediaRange<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let (main, sub) = parts.next()?.split_once('/')?;
        let mut quality = 1.0;
        let mut parameters = Vec::new();
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            if key == "q" {
                quality = value.parse().unwrap_or(1.0);
            } else {
                parameters.push((key, value.trim_matches('"')));
            }
        }
        Some(Self {
            main,
            sub,
            parameters,
            quality,
        })
    }

    fn format(&self, formats: &[Format]) -> Option<Format> {
        formats.iter().copied().find(|format| {
            let (main, sub) = format
                .media_type()
                .split_once('/')
                .expect("media types have a slash");
            (self.main == "*" && self.sub == "*")
                || (self.main == main && (self.sub == "*" || self.sub == sub))
        })
    }

    fn parameter(&self, name: &str) -> &'a str {
        self.parameters
            .iter()
            .find(|(key, _)| *key == name)
            .map_or("", |(_, value)| value)
    }

    /// The conversion `as`, `g` and `v` ask for; `None` if there is no such.
    fn shape(&self) -> Option<(Shape, &'static str)> {
        let kind = self.parameter("as");
        if kind.is_empty() {
            return Some((Shape::Object, ""));
        }
        let version = match (self.parameter("g"), self.parameter("v")) {
            ("meta.k8s.io", "v1") => "meta.k8s.io/v1",
            ("meta.k8s.io", "v1beta1") => "meta.k8s.io/v1beta1",
            _ => return None,
        };
        match kind {
            "Table" => Some((Shape::Table, version)),
            "PartialObjectMetadata" | "PartialObjectMetadataList" => {
                Some((Shape::Metadata, version))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn check(header: &str) -> Result<(Format, Shape), String> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, header.parse().unwrap());
        accept(&headers, Query(""), true, true)
            .map(|output| (output.format, output.shape))
            .map_err(|status| status.message)
    }

    #[test]
    fn accepts() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        assert_eq!(check(table), Ok((Format::Json, Shape::Table)));
        assert_eq!(check("*/*"), Ok((Format::Json, Shape::Object)));
        assert_eq!(
            check("application/vnd.kubernetes.protobuf,application/json"),
            Ok((Format::Protobuf, Shape::Object))
        );
        assert_eq!(
            check("application/json;q=0.5, application/yaml"),
            Ok((Format::Yaml, Shape::Object))
        );
        assert_eq!(
            check("application/json;as=Nope;v=v1;g=meta.k8s.io, application/json"),
            Ok((Format::Json, Shape::Object))
        );
        assert_eq!(
            check("text/html").unwrap_err(),
            "406: Not Acceptable\n\nAvailable representations: application/json, \
             application/yaml, application/vnd.kubernetes.protobuf, \
             application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"
        );
    }
}

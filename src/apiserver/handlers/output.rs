//! Objects and lists in the representation a client asked for.

use std::sync::Arc;

use api::Status;
use api::custom::TableColumn;
use bytes::Bytes;
use http::HeaderValue;
use serde_json::{Map, Value, json};

use super::Context;
use crate::cache::Entry;
use crate::http::{Body, Format, Output, Response, Shape, json_value, object};
use crate::registry::{ListResult, Resource};

/// Lists larger than this are streamed in chunks of about this size.
const CHUNK: usize = 128 * 1024;

/// How objects of one resource and version are shown to one client.
#[derive(Clone)]
pub(crate) struct View {
    pub resource: Arc<Resource>,
    pub version: String,
    pub output: Output,
    /// `includeObject` of tables.
    pub include: Include,
}

/// What rows of a table carry beside their cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Include {
    None,
    #[default]
    Metadata,
    Object,
}

impl View {
    pub(crate) fn new(
        context: &Context<'_>,
        resource: Arc<Resource>,
        output: Output,
    ) -> Result<Self, Status> {
        let include = match context.query.get("includeObject").as_deref() {
            None | Some("" | "Metadata") => Include::Metadata,
            Some("None") => Include::None,
            Some("Object") => Include::Object,
            Some(other) => {
                return Err(Status::bad_request(format!(
                    "Unable to convert to Table as requested: includeObject: Invalid value: \
                     {other:?}: must be 'Metadata', 'Object', 'None', or empty"
                )));
            }
        };
        Ok(Self {
            resource,
            version: context.info.version.clone(),
            output,
            include,
        })
    }

    /// Whether stored bytes are the answer as they are.
    pub(crate) fn is_verbatim(&self) -> bool {
        self.output.format == Format::Json
            && self.output.shape == Shape::Object
            && self.version == self.resource.storage_version
    }

    /// The object in the client's version.
    pub(crate) fn value(&self, context: &crate::engine::Engine, entry: &Entry) -> Value {
        context.in_request_version(&self.resource, &self.version, entry.value())
    }

    /// The object, shaped.
    pub(crate) fn shaped(
        &self,
        engine: &crate::engine::Engine,
        entry: &Entry,
        headers: bool,
    ) -> Value {
        let value = self.value(engine, entry);
        match self.output.shape {
            Shape::Object => value,
            Shape::Metadata => self.partial(value),
            Shape::Table => {
                let metadata = json!({
                    "resourceVersion": value["metadata"]["resourceVersion"],
                });
                self.table(metadata, vec![value], headers)
            }
        }
    }

    /// An object's `PartialObjectMetadata`.
    fn partial(&self, mut value: Value) -> Value {
        if let Some(metadata) = value.get_mut("metadata") {
            self.resource.rules.row_metadata(metadata);
        }
        partial(value, self.output.meta_version)
    }

    /// A `Table` of objects.
    pub(crate) fn table(&self, metadata: Value, objects: Vec<Value>, headers: bool) -> Value {
        let rules = &self.resource.rules;
        let custom = self.resource.custom.as_ref().and_then(|custom| {
            let definition = &custom.definition;
            Some(&definition.version(&self.version)?.columns)
        });
        let now = jiff::Timestamp::now().as_second();
        let rows: Vec<Value> = objects
            .into_iter()
            .map(|value| {
                let cells = match custom {
                    Some(columns) => TableColumn::cells(columns, &value, now),
                    None => rules.cells(&value, now),
                };
                let mut row = Map::new();
                row.insert("cells".into(), cells.into());
                let conditions = rules.row_conditions(&value);
                if !conditions.is_empty() {
                    row.insert("conditions".into(), conditions.into());
                }
                match self.include {
                    Include::None => {
                        row.insert("object".into(), Value::Null);
                    }
                    Include::Metadata => {
                        row.insert("object".into(), self.partial(value));
                    }
                    Include::Object => {
                        row.insert("object".into(), value);
                    }
                }
                Value::Object(row)
            })
            .collect();
        let columns: Value = if let Some(columns) = custom.filter(|_| headers) {
            TableColumn::headers(columns)
        } else if headers {
            rules
                .columns()
                .iter()
                .map(|column| {
                    json!({
                        "name": column.name,
                        "type": column.kind,
                        "format": column.format,
                        "description": column.description,
                        "priority": column.priority,
                    })
                })
                .collect()
        } else {
            Value::Null
        };
        json!({
            "kind": "Table",
            "apiVersion": self.output.meta_version,
            "metadata": metadata,
            "columnDefinitions": columns,
            "rows": rows,
        })
    }
}

/// `PartialObjectMetadata` of an object.
pub(crate) fn partial(mut value: Value, meta_version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": meta_version,
        "metadata": value["metadata"].take(),
    })
}

/// One object.
pub(crate) fn one(context: &Context<'_>, view: &View, code: u16, entry: &Entry) -> Response {
    let mut response = if view.is_verbatim() && !view.output.pretty {
        object(code, Format::Json.media_type(), entry.bytes.clone())
    } else {
        let engine = &context.server.inner.registry.engine;
        any(context, view, code, &view.shaped(engine, entry, true))
    };
    if view.output.shape != Shape::Object {
        // Caches must not mix representations of one URL.
        response
            .headers_mut()
            .insert(http::header::VARY, HeaderValue::from_static("Accept"));
    }
    response
}

/// A tree in the client's format, protobuf included.
pub(crate) fn any(context: &Context<'_>, view: &View, code: u16, value: &Value) -> Response {
    if view.output.format == Format::Protobuf {
        return match context.server.inner.registry.engine.to_protobuf(value) {
            Ok(bytes) => object(code, Format::Protobuf.media_type(), bytes),
            Err(status) => crate::http::write_status(&status, &Output::default()),
        };
    }
    json_value(code, &view.output, value)
}

fn list_metadata(list: &ListResult) -> Value {
    let mut metadata = json!({ "resourceVersion": list.revision.to_string() });
    if !list.token.is_empty() {
        metadata["continue"] = list.token.clone().into();
    }
    if let Some(remaining) = list.remaining {
        metadata["remainingItemCount"] = remaining.into();
    }
    metadata
}

/// A list.
pub(crate) fn list(context: &Context<'_>, view: &View, list: ListResult) -> Response {
    let engine = &context.server.inner.registry.engine;
    let metadata = list_metadata(&list);
    if view.is_verbatim() && !view.output.pretty {
        return verbatim_list(view, &metadata, list.entries);
    }
    let objects = list.entries.iter().map(|entry| view.value(engine, entry));
    let value = match view.output.shape {
        Shape::Table => view.table(metadata, objects.collect(), true),
        Shape::Metadata => json!({
            "kind": "PartialObjectMetadataList",
            "apiVersion": view.output.meta_version,
            "metadata": metadata,
            "items": objects
                .map(|value| view.partial(value))
                .collect::<Vec<_>>(),
        }),
        Shape::Object => {
            let items: Vec<Value> = objects
                .map(|mut value| {
                    if let Some(fields) = value.as_object_mut()
                        && view.resource.is_builtin
                    {
                        fields.remove("kind");
                        fields.remove("apiVersion");
                    }
                    value
                })
                .collect();
            json!({
                "kind": view.resource.list_kind(),
                "apiVersion": view.resource.gvk(&view.version).group_version().to_string(),
                "metadata": metadata,
                "items": items,
            })
        }
    };
    any(context, view, 200, &value)
}

/// Concatenates stored bytes; nothing is decoded.
fn verbatim_list(view: &View, metadata: &Value, entries: Vec<Arc<Entry>>) -> Response {
    let mut head = format!(
        "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
        view.resource.list_kind(),
        view.resource.codec.api_version(),
    )
    .into_bytes();
    let size: usize = entries.iter().map(|entry| entry.bytes.len()).sum();
    let typed = view.resource.is_builtin;
    if size <= CHUNK {
        head.reserve(size);
        write_items(&mut head, &mut entries.iter(), &mut true, typed, usize::MAX);
        head.extend_from_slice(b"]}\n");
        return object(200, Format::Json.media_type(), head);
    }
    let mut first = true;
    let mut at = 0;
    let mut head = Some(head);
    let mut done = false;
    let chunks = std::iter::from_fn(move || {
        if done {
            return None;
        }
        let mut chunk = head.take().unwrap_or_default();
        chunk.reserve(CHUNK + CHUNK / 4);
        let mut rest = entries[at..].iter();
        at += write_items(&mut chunk, &mut rest, &mut first, typed, CHUNK);
        if at == entries.len() {
            chunk.extend_from_slice(b"]}\n");
            done = true;
        }
        Some(Ok::<_, crate::http::BoxError>(Bytes::from(chunk)))
    });
    let mut response = object(200, Format::Json.media_type(), Bytes::new());
    *response.body_mut() = Body::stream(futures::stream::iter(chunks));
    response
}

/// Writes items until `out` is about `enough` long; returns how many.
fn write_items(
    out: &mut Vec<u8>,
    entries: &mut std::slice::Iter<'_, Arc<Entry>>,
    first: &mut bool,
    typed: bool,
    enough: usize,
) -> usize {
    let mut count = 0;
    for entry in entries {
        if !std::mem::take(first) {
            out.push(b',');
        }
        if typed {
            entry.write_item(out);
        } else {
            out.extend_from_slice(&entry.bytes);
        }
        count += 1;
        if out.len() >= enough {
            break;
        }
    }
    count
}

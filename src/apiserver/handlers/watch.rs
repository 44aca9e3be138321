//! WATCH answers: one frame a line.

use std::sync::Arc;
use std::time::Duration;

use api::Status;
use bytes::{Bytes, BytesMut};
use futures::{FutureExt, Stream, StreamExt};
use serde_json::{Value, json};

use super::Context;
use super::output::View;
use super::read::{filter, integer, version, version_match};
use crate::cache::{Entry, EventType, json_frame};
use crate::engine::Engine;
use crate::http::{Body, BoxError, Format, Response, Shape, object, websocket};
use crate::registry::{Frame, Registry, WatchOptions};

/// Frames that are ready together are sent together, up to about this size.
const CHUNK: usize = 64 * 1024;

pub(super) async fn watch(context: &Context<'_>, view: View) -> Result<Response, Status> {
    let registry = context.server.inner.registry.clone();
    let query = context.query;
    let options = WatchOptions {
        resource_version: version(context)?,
        version_match: version_match(context)?,
        send_initial_events: query
            .get("sendInitialEvents")
            .map(|_| query.flag("sendInitialEvents")),
        bookmarks: query.flag("allowWatchBookmarks"),
        timeout: integer(context, "timeoutSeconds")?
            .and_then(|seconds| u64::try_from(seconds).ok())
            .filter(|seconds| *seconds > 0)
            .map(Duration::from_secs),
        has_token: query.non_empty("continue").is_some(),
    };
    let filter = filter(context, &view)?;
    let frames = registry.watch(&view.resource, filter, &options).await?;
    let media = match view.output.format {
        Format::Protobuf if view.output.shape == Shape::Object => {
            "application/vnd.kubernetes.protobuf;stream=watch"
        }
        _ => "application/json",
    };
    if websocket::is_wanted(&context.parts.headers) {
        return Ok(messages(context, view, frames));
    }
    let mut response = object(200, media, Bytes::new());
    *response.body_mut() = Body::stream(encode(registry, view, frames));
    Ok(response)
}

/// Answers with a WebSocket: each event is one message.
fn messages(
    context: &Context<'_>,
    view: View,
    frames: impl Stream<Item = Frame> + Send + 'static,
) -> Response {
    let handshake = match websocket::Handshake::watch(context.parts) {
        Ok(handshake) => handshake,
        Err(refusal) => return *refusal,
    };
    let binary = view.output.format == Format::Protobuf && view.output.shape == Shape::Object;
    let mut encoder = Encoder {
        registry: context.server.inner.registry.clone(),
        view,
        headers: true,
    };
    let framing = match binary {
        true => websocket::Framing::Binary,
        false => websocket::Framing::Text,
    };
    let chunks = frames.map(move |frame| Ok(without_length(encoder.frame(&frame))));
    handshake.send(&context.server.inner.tasks, framing, chunks)
}

/// A message has a length of its own: that of a protobuf frame is left out.
fn without_length(frame: Bytes) -> Bytes {
    match frame.split_first_chunk() {
        Some((length, rest)) if u32::from_be_bytes(*length) as usize == rest.len() => {
            frame.slice(length.len()..)
        }
        _ => frame,
    }
}

/// Encodes frames, joining those that are ready at once into one chunk.
fn encode(
    registry: Arc<Registry>,
    view: View,
    frames: impl Stream<Item = Frame> + Send + 'static,
) -> impl Stream<Item = Result<Bytes, BoxError>> + Send {
    let encoder = Encoder {
        registry,
        view,
        headers: true,
    };
    let state = (Box::pin(frames), encoder, false);
    futures::stream::unfold(state, |(mut frames, mut encoder, ended)| async move {
        if ended {
            return None;
        }
        let first = frames.next().await?;
        let first = encoder.frame(&first);
        if first.len() >= CHUNK {
            return Some((Ok(first), (frames, encoder, false)));
        }
        let mut chunk: Option<BytesMut> = None;
        let mut ended = false;
        loop {
            match frames.next().now_or_never() {
                None => break,
                Some(None) => {
                    ended = true;
                    break;
                }
                Some(Some(frame)) => {
                    let chunk = chunk.get_or_insert_with(|| BytesMut::from(&first[..]));
                    chunk.extend_from_slice(&encoder.frame(&frame));
                    if chunk.len() >= CHUNK {
                        break;
                    }
                }
            }
        }
        let out = chunk.map_or(first, BytesMut::freeze);
        Some((Ok(out), (frames, encoder, ended)))
    })
}

struct Encoder {
    registry: Arc<Registry>,
    view: View,
    /// The next table carries column definitions: only the first one does.
    headers: bool,
}

impl Encoder {
    fn engine(&self) -> &Engine {
        &self.registry.engine
    }

    fn frame(&mut self, frame: &Frame) -> Bytes {
        match frame {
            Frame::Initial(entry) => {
                if self.view.is_verbatim() {
                    json_frame("ADDED", &entry.bytes)
                } else {
                    self.entry(EventType::Added, entry)
                }
            }
            Frame::Change(kind, event) => {
                if self.view.is_verbatim() {
                    event.frame(*kind)
                } else {
                    self.entry(*kind, event.object(*kind))
                }
            }
            Frame::Bookmark(revision, initial_end) => {
                let value = self.bookmark(*revision, *initial_end);
                self.value("BOOKMARK", &value)
            }
            Frame::Error(status) => self.value("ERROR", &status.to_value()),
        }
    }

    fn entry(&mut self, kind: EventType, entry: &Entry) -> Bytes {
        let headers = std::mem::take(&mut self.headers);
        let value = self.view.shaped(self.engine(), entry, headers);
        self.value(kind.as_str(), &value)
    }

    fn value(&self, kind: &str, value: &Value) -> Bytes {
        if self.view.output.format == Format::Protobuf
            && self.view.output.shape == Shape::Object
            && let Some(frame) = self.engine().protobuf_frame(kind, value)
        {
            return frame;
        }
        json_frame(kind, &serde_json::to_vec(value).expect("a value is JSON"))
    }

    fn bookmark(&mut self, revision: u64, initial_end: bool) -> Value {
        let mut metadata = json!({
            "resourceVersion": revision.to_string(),
            "creationTimestamp": null,
        });
        if initial_end {
            metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let gvk = self.view.resource.gvk(&self.view.version);
        let object = json!({
            "kind": gvk.kind,
            "apiVersion": gvk.group_version().to_string(),
            "metadata": metadata,
        });
        match self.view.output.shape {
            Shape::Object => self.engine().zeroed(&gvk, object),
            Shape::Metadata => super::output::partial(object, self.view.output.meta_version),
            Shape::Table => {
                let headers = std::mem::take(&mut self.headers);
                let metadata = json!({ "resourceVersion": revision.to_string() });
                self.view.table(metadata, vec![object], headers)
            }
        }
    }
}

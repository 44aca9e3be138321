//! An API server in memory, for tests: get, list, watch, create, merge patch
//! and delete, without validation. Enabled by the feature `testing`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The server; clones share its objects. Objects have the paths the API gives
/// them: `/api/v1/namespaces/default/services/web`.
#[derive(Clone, Debug)]
pub struct FakeApi {
    state: Arc<Mutex<State>>,
    events: broadcast::Sender<Event>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Value>,
    revision: u64,
}

#[derive(Clone, Debug)]
struct Event {
    path: String,
    kind: &'static str,
    object: Value,
}

impl Default for FakeApi {
    fn default() -> Self {
        Self {
            state: Arc::default(),
            events: broadcast::Sender::new(4096),
            changed: watch::Sender::new(()),
        }
    }
}

impl FakeApi {
    /// A client of this server.
    pub fn client(&self) -> crate::Client {
        crate::Client::new(self.clone(), "default")
    }

    /// The object at a path.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.state.lock().objects.get(path).cloned()
    }

    /// Creates or replaces an object.
    pub fn put(&self, path: &str, mut object: Value) {
        let mut state = self.state.lock();
        state.revision += 1;
        object["metadata"]["resourceVersion"] = json!(state.revision.to_string());
        object["metadata"]["name"] = json!(path.rsplit('/').next());
        if let Some((namespace, _)) = path
            .split_once("/namespaces/")
            .and_then(|(_, rest)| rest.split_once('/'))
        {
            object["metadata"]["namespace"] = json!(namespace);
        }
        let uid = json!(format!("uid-{path}"));
        object["metadata"]["uid"] = uid;
        let known = state.objects.insert(path.to_owned(), object.clone());
        let kind = if known.is_some() { "MODIFIED" } else { "ADDED" };
        self.tell(path, kind, object);
    }

    /// Removes an object; false if there is none.
    pub fn remove(&self, path: &str) -> bool {
        let mut state = self.state.lock();
        state.revision += 1;
        let Some(mut object) = state.objects.remove(path) else {
            return false;
        };
        object["metadata"]["resourceVersion"] = json!(state.revision.to_string());
        self.tell(path, "DELETED", object);
        true
    }

    /// Waits until the objects give this answer.
    ///
    /// # Panics
    /// If that takes longer than twenty seconds.
    pub async fn until<T>(&self, what: &str, mut found: impl FnMut(&Self) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        let wait = async {
            loop {
                if let Some(found) = found(self) {
                    return found;
                }
                changed.changed().await.expect("the sender lives in self");
            }
        };
        match tokio::time::timeout(Duration::from_secs(20), wait).await {
            Ok(found) => found,
            Err(_) => panic!("never came true: {what}\n{:#?}", self.state.lock().objects),
        }
    }

    /// Call with the state locked, so that events come in order.
    fn tell(&self, path: &str, kind: &'static str, object: Value) {
        // Without watchers nobody receives it.
        let _ = self.events.send(Event {
            path: path.to_owned(),
            kind,
            object,
        });
        self.changed.send_replace(());
    }

    async fn handle(self, request: Request<kube::client::Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body
            .collect()
            .await
            .map(|body| body.to_bytes())
            .unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let (path, query) = (parts.uri.path(), parts.uri.query().unwrap_or_default());
        match parts.method {
            Method::POST => {
                let name = body["metadata"]["name"].as_str().unwrap_or_default();
                let path = format!("{path}/{name}");
                if self.get(&path).is_some() {
                    return failure(StatusCode::CONFLICT, "AlreadyExists");
                }
                self.put(&path, body);
                self.reply_with(&path)
            }
            Method::PATCH => match self.get(path) {
                Some(mut object) => {
                    merge(&mut object, &body);
                    self.put(path, object);
                    self.reply_with(path)
                }
                None => failure(StatusCode::NOT_FOUND, "NotFound"),
            },
            Method::DELETE if self.remove(path) => reply(
                StatusCode::OK,
                &json!({"kind": "Status", "status": "Success"}),
            ),
            Method::GET if query.contains("watch=true") => self.watch(path, query),
            Method::GET if is_collection(path) => {
                let state = self.state.lock();
                let items: Vec<&Value> = state
                    .objects
                    .iter()
                    .filter(|(known, object)| shows(known, object, path, query))
                    .map(|(_, object)| object)
                    .collect();
                let metadata = json!({"resourceVersion": state.revision.to_string()});
                let list = json!({"kind": "List", "apiVersion": "v1", "items": items, "metadata": metadata});
                reply(StatusCode::OK, &list)
            }
            Method::GET => self.reply_with(path),
            _ => failure(StatusCode::NOT_FOUND, "NotFound"),
        }
    }

    fn reply_with(&self, path: &str) -> Response<Body> {
        match self.get(path) {
            Some(object) => reply(StatusCode::OK, &object),
            None => failure(StatusCode::NOT_FOUND, "NotFound"),
        }
    }

    fn watch(&self, path: &str, query: &str) -> Response<Body> {
        // Changes between the list and this watch are found by their revision.
        let state = self.state.lock();
        let since: u64 = parameter(query, "resourceVersion").parse().unwrap_or(0);
        let receiver = self.events.subscribe();
        let missed: Vec<Event> = state
            .objects
            .iter()
            .filter(|(_, object)| {
                let revision = object["metadata"]["resourceVersion"].as_str();
                revision
                    .and_then(|revision| revision.parse().ok())
                    .unwrap_or(0u64)
                    > since
            })
            .map(|(path, object)| Event {
                path: path.clone(),
                kind: "MODIFIED",
                object: object.clone(),
            })
            .collect();
        let live = stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.ok().map(|event| (event, receiver))
        });
        let (path, query) = (path.to_owned(), query.to_owned());
        let lines = stream::iter(missed).chain(live).filter_map(move |event| {
            let fits = shows(&event.path, &event.object, &path, &query);
            let line = json!({"type": event.kind, "object": event.object});
            let frame = Ok::<_, Infallible>(Frame::data(Bytes::from(format!("{line}\n"))));
            std::future::ready(fits.then_some(frame))
        });
        Response::new(StreamBody::new(lines).boxed_unsync())
    }
}

fn reply(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())).boxed_unsync());
    *response.status_mut() = status;
    response
}

fn failure(status: StatusCode, reason: &str) -> Response<Body> {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "reason": reason, "message": reason, "code": status.as_u16(),
    });
    reply(status, &body)
}

fn parameter<'a>(query: &'a str, name: &str) -> &'a str {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
        .unwrap_or_default()
}

/// Collections end with a plural where objects end with a name: the path
/// behind the version has an odd number of parts.
fn is_collection(path: &str) -> bool {
    let prefix = if path.starts_with("/apis/") { 4 } else { 3 };
    path.split('/').count() % 2 == (prefix + 1) % 2
}

/// Whether an object is in a collection, which may span namespaces, and
/// matches the field selector.
fn shows(known: &str, object: &Value, collection: &str, query: &str) -> bool {
    let own = known.rsplit_once('/').map_or("", |(own, _)| own);
    let across = own
        .split_once("/namespaces/")
        .map(|(base, rest)| format!("{base}/{}", rest.rsplit('/').next().unwrap_or_default()));
    let selector = parameter(query, "fieldSelector").replace("%3D", "=");
    let selected = selector.split_once('=').is_none_or(|(field, value)| {
        object.pointer(&format!("/{}", field.replace('.', "/"))) == Some(&json!(value))
    });
    (own == collection || across.as_deref() == Some(collection)) && selected
}

/// RFC 7386.
fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in fields {
        if value.is_null() {
            into.as_object_mut().map(|fields| fields.remove(key));
        } else {
            merge(&mut into[key], value);
        }
    }
}

impl tower::Service<Request<kube::client::Body>> for FakeApi {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move { Ok(server.handle(request).await) })
    }
}

//! An API server in memory: lists, watches, patches and deletes, no validation.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use client::Client;
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

#[derive(Clone)]
struct Event {
    collection: String,
    kind: &'static str,
    object: Value,
}

#[derive(Default)]
struct State {
    /// Objects by path: `/api/v1/namespaces/NS/pods/NAME`.
    objects: BTreeMap<String, Value>,
    revision: u64,
}

/// The server; clones share its objects.
#[derive(Clone)]
pub(crate) struct FakeApi {
    state: Arc<Mutex<State>>,
    events: broadcast::Sender<Event>,
    changed: watch::Sender<u64>,
}

impl FakeApi {
    pub(crate) fn new() -> Self {
        Self {
            state: Arc::default(),
            events: broadcast::Sender::new(1024),
            changed: watch::Sender::new(0),
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.clone(), "default")
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.state.lock().objects.get(path).cloned()
    }

    /// Objects whose path begins like this.
    pub(crate) fn under(&self, prefix: &str) -> Vec<Value> {
        let state = self.state.lock();
        let found = state
            .objects
            .iter()
            .filter(|(path, _)| path.starts_with(prefix));
        found.map(|(_, object)| object.clone()).collect()
    }

    /// Creates or replaces an object.
    pub(crate) fn put(&self, path: &str, mut object: Value) {
        let mut state = self.state.lock();
        state.revision += 1;
        let revision = state.revision;
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        let kind = match state.objects.insert(path.to_owned(), object.clone()) {
            Some(_) => "MODIFIED",
            None => "ADDED",
        };
        drop(state);
        self.tell(path, kind, object);
    }

    pub(crate) fn remove(&self, path: &str) -> bool {
        let mut state = self.state.lock();
        let removed = state.objects.remove(path);
        state.revision += 1;
        drop(state);
        match removed {
            Some(object) => {
                self.tell(path, "DELETED", object);
                true
            }
            None => false,
        }
    }

    fn tell(&self, path: &str, kind: &'static str, object: Value) {
        let collection = path.rsplit_once('/').unwrap().0.to_owned();
        let _ = self.events.send(Event {
            collection,
            kind,
            object,
        });
        self.changed.send_modify(|revision| *revision += 1);
    }

    /// Waits until something is true of the objects.
    pub(crate) async fn until<T>(
        &self,
        what: &str,
        mut found: impl FnMut(&Self) -> Option<T>,
    ) -> T {
        let mut changed = self.changed.subscribe();
        let wait = async {
            loop {
                if let Some(found) = found(self) {
                    return found;
                }
                changed.changed().await.unwrap();
            }
        };
        let deadline = std::time::Duration::from_secs(20);
        match tokio::time::timeout(deadline, wait).await {
            Ok(found) => found,
            Err(_) => panic!(
                "never came true: {what}\n{:#}",
                json!(self.under("/api/v1/namespaces"))
            ),
        }
    }

    async fn handle(self, request: Request<kube::client::Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let mut path = parts.uri.path().to_owned();
        let subresource = ["/status", "/token"]
            .into_iter()
            .find(|sub| path.ends_with(sub));
        if let Some(subresource) = subresource {
            path.truncate(path.len() - subresource.len());
        }
        let missing = || {
            reply(
                StatusCode::NOT_FOUND,
                &json!({"kind": "Status", "code": 404,
            "status": "Failure", "reason": "NotFound", "message": "not found"}),
            )
        };
        match (parts.method, subresource) {
            (Method::POST, Some("/token")) => reply(
                StatusCode::CREATED,
                &json!({
                "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
                "metadata": {}, "spec": {"audiences": []},
                "status": {"token": "a-token", "expirationTimestamp": "2099-01-01T00:00:00Z"}}),
            ),
            (Method::POST, _) => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                let mut object = body;
                object["metadata"]["uid"] = json!(format!("uid-{path}"));
                self.put(&path, object);
                reply(StatusCode::CREATED, &self.get(&path).unwrap())
            }
            (Method::PATCH, _) => match self.get(&path) {
                Some(mut object) => {
                    merge(&mut object, &body);
                    self.put(&path, object);
                    reply(StatusCode::OK, &self.get(&path).unwrap())
                }
                None => missing(),
            },
            (Method::DELETE, _) => match self.remove(&path) {
                true => reply(
                    StatusCode::OK,
                    &json!({"kind": "Status", "status": "Success"}),
                ),
                false => missing(),
            },
            (Method::GET, _) if query.contains("watch=true") => self.watch(&path, &query),
            (Method::GET, _) => {
                if let Some(object) = self.get(&path) {
                    return reply(StatusCode::OK, &object);
                }
                if !is_collection(&path) {
                    return missing();
                }
                let state = self.state.lock();
                let wanted = Selector::of(&query);
                let items: Vec<Value> = state
                    .objects
                    .iter()
                    .filter(|(known, object)| {
                        in_collection(known.rsplit_once('/').unwrap().0, &path)
                            && wanted.matches(object)
                    })
                    .map(|(_, object)| object.clone())
                    .collect();
                let list = json!({"kind": "List", "apiVersion": "v1", "items": items,
                    "metadata": {"resourceVersion": state.revision.to_string()}});
                reply(StatusCode::OK, &list)
            }
            _ => missing(),
        }
    }

    fn watch(&self, path: &str, query: &str) -> Response<Body> {
        // Changes between the list and this watch are found by their revision.
        let state = self.state.lock();
        let since: u64 = parameter(query, "resourceVersion").parse().unwrap_or(0);
        let receiver = self.events.subscribe();
        let revision = |object: &Value| -> u64 {
            object["metadata"]["resourceVersion"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap()
        };
        let missed: Vec<Event> = state
            .objects
            .iter()
            .filter(|(_, object)| revision(object) > since)
            .map(|(known, object)| Event {
                collection: known.rsplit_once('/').unwrap().0.to_owned(),
                kind: "MODIFIED",
                object: object.clone(),
            })
            .collect();
        let live = stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.ok().map(|event| (event, receiver))
        });
        let (path, wanted) = (path.to_owned(), Selector::of(query));
        let lines = stream::iter(missed).chain(live).filter_map(move |event| {
            let fits = in_collection(&event.collection, &path) && wanted.matches(&event.object);
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

fn parameter<'a>(query: &'a str, name: &str) -> &'a str {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .clone()
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
        .unwrap_or_default()
}

struct Selector(Option<(String, String)>);

impl Selector {
    fn of(query: &str) -> Self {
        let text = parameter(query, "fieldSelector").replace("%3D", "=");
        Self(
            text.split_once('=')
                .map(|(key, value)| (key.to_owned(), value.to_owned())),
        )
    }

    fn matches(&self, object: &Value) -> bool {
        self.0.as_ref().is_none_or(|(key, value)| {
            object.pointer(&format!("/{}", key.replace('.', "/"))) == Some(&json!(value))
        })
    }
}

const NAMESPACED: [&str; 6] = [
    "pods",
    "events",
    "leases",
    "configmaps",
    "secrets",
    "services",
];

fn is_collection(path: &str) -> bool {
    let last = path.rsplit('/').next().unwrap();
    NAMESPACED.contains(&last) || last == "nodes"
}

/// Whether objects of one collection show in another, which may span namespaces.
fn in_collection(own: &str, asked: &str) -> bool {
    own == asked
        || own
            .split("/namespaces/")
            .next()
            .map(|base| format!("{base}/{}", own.rsplit('/').next().unwrap()))
            == Some(asked.to_owned())
}

/// A strategic merge, with the few merge keys statuses need.
fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in fields {
        let merge_key = match key.as_str() {
            "conditions" => Some("type"),
            "podIPs" | "hostIPs" => Some("ip"),
            _ => None,
        };
        match (value, merge_key) {
            (Value::Null, _) => {
                into.as_object_mut().unwrap().remove(key);
            }
            (Value::Array(items), Some(merge_key)) => {
                let mut list = into[key].as_array().cloned().unwrap_or_default();
                for item in items {
                    let same = |known: &&mut Value| known[merge_key] == item[merge_key];
                    if item["$patch"] == "delete" {
                        list.retain(|known| known[merge_key] != item[merge_key]);
                    } else if let Some(known) = list.iter_mut().find(same) {
                        merge(known, item);
                    } else {
                        list.push(item.clone());
                    }
                }
                into[key] = Value::Array(list);
            }
            (Value::Array(items), None) => {
                let items = items.iter().filter(|item| item.get("$patch").is_none());
                into[key] = items.cloned().collect();
            }
            (Value::Object(_), _) => merge(&mut into[key], value),
            _ => into[key] = value.clone(),
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
        let api = self.clone();
        Box::pin(async move { Ok(api.handle(request).await) })
    }
}

//! Short ways to say what the tests do.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use store::sqlite::{Config, Sqlite};
use store::{
    Event, EventKind, KeyValue, LeaseId, Op, OpResult, RangeRequest, Result, Revision, Store, Txn,
    TxnResult, WatchEvent, WatchRequest,
};

/// A store in a folder of its own.
pub(crate) struct Fixture {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) store: Arc<Sqlite>,
    config: Config,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with(Config {
            fsync: false,
            ..Config::default()
        })
    }

    pub(crate) fn with(config: Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Sqlite::open(folder.path().join("state.db"), config.clone()).unwrap();
        Self {
            folder,
            store,
            config,
        }
    }

    /// Closes the store and opens it again.
    pub(crate) async fn reopen(&mut self) {
        self.store.close().await;
        self.store =
            Sqlite::open(self.folder.path().join("state.db"), self.config.clone()).unwrap();
    }
}

pub(crate) type Watching = BoxStream<'static, Result<WatchEvent>>;

pub(crate) fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Op {
    Op::Put {
        key: key.into(),
        value: value.into(),
        lease: LeaseId(0),
        prev_kv: false,
    }
}

pub(crate) fn delete(key: impl Into<Bytes>) -> Op {
    Op::Delete {
        key: key.into(),
        end: None,
        prev_kv: false,
    }
}

pub(crate) fn get(key: impl Into<Bytes>) -> RangeRequest {
    RangeRequest {
        key: key.into(),
        ..RangeRequest::default()
    }
}

pub(crate) fn everything() -> RangeRequest {
    RangeRequest {
        end: Some(Bytes::from_static(b"\0")),
        ..RangeRequest::default()
    }
}

pub(crate) fn watch_everything(start: Option<u64>) -> WatchRequest {
    WatchRequest {
        end: Some(Bytes::from_static(b"\0")),
        start: start.map(Revision),
        prev_kv: true,
        ..WatchRequest::default()
    }
}

pub(crate) async fn run(store: &dyn Store, steps: Vec<Op>) -> Result<TxnResult> {
    store
        .txn(Txn {
            success: steps,
            ..Txn::default()
        })
        .await
}

/// Puts a key and returns the revision.
pub(crate) async fn set(store: &dyn Store, key: &str, value: &str) -> u64 {
    run(store, vec![put(key.to_owned(), value.to_owned())])
        .await
        .unwrap()
        .revision
        .0
}

pub(crate) async fn remove(store: &dyn Store, key: &str) -> u64 {
    run(store, vec![delete(key.to_owned())])
        .await
        .unwrap()
        .revision
        .0
}

pub(crate) async fn value(store: &dyn Store, key: &str, revision: Option<u64>) -> Option<String> {
    let request = RangeRequest {
        revision: revision.map(Revision),
        ..get(key.to_owned())
    };
    let kvs = store.range(request).await.unwrap().kvs;
    kvs.first().map(|kv| text(&kv.value))
}

pub(crate) fn text(bytes: &Bytes) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// `key=value@mod/created/version`
pub(crate) fn show(kv: &KeyValue) -> String {
    let (key, value) = (text(&kv.key), text(&kv.value));
    format!(
        "{key}={value}@{}/{}/{}",
        kv.mod_revision, kv.create_revision, kv.version
    )
}

pub(crate) fn show_event(event: &Event) -> String {
    let kind = match event.kind {
        EventKind::Put => "put",
        EventKind::Delete => "delete",
    };
    let prev = event
        .prev
        .as_ref()
        .map(|prev| format!(" was {}", show(prev)))
        .unwrap_or_default();
    format!("{kind} {}{prev}", show(&event.kv))
}

pub(crate) fn shown(result: &OpResult) -> Vec<String> {
    match result {
        OpResult::Range(range) => range.kvs.iter().map(show).collect(),
        OpResult::Put(prev) => prev.iter().map(show).collect(),
        OpResult::Delete(_, prevs) => prevs.iter().map(show).collect(),
        OpResult::Txn(nested) => nested.results.iter().flat_map(shown).collect(),
    }
}

/// The next thing a watch tells.
pub(crate) async fn next(watching: &mut Watching) -> Option<Result<WatchEvent>> {
    let deadline = Duration::from_secs(20);
    tokio::time::timeout(deadline, watching.next())
        .await
        .expect("the watch tells something")
}

/// The next events a watch tells, past any progress.
pub(crate) async fn next_events(watching: &mut Watching) -> (u64, Vec<String>) {
    loop {
        match next(watching).await.expect("the watch goes on").unwrap() {
            WatchEvent::Events(revision, events) => {
                return (revision.0, events.iter().map(show_event).collect());
            }
            WatchEvent::Progress(_) => {}
        }
    }
}

/// Waits until `done` holds.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !done().await {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

//! What the store adds to SQLite itself.
//!
//! Every figure about writing stands beside `raw`: the same bytes inserted into
//! one table of a bare SQLite database with the same settings, one transaction
//! and one fsync each. Machines differ; the ratio does not much.

#![allow(missing_docs, reason = "what criterion generates has none")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures::StreamExt;
use rusqlite::Connection;
use store::sqlite::{Config, Sqlite};
use store::{LeaseId, Op, RangeRequest, Store, Txn, WatchEvent, WatchRequest};
use tokio::runtime::Runtime;

/// About what a small pod takes.
const VALUE: Bytes = Bytes::from_static(&[b'x'; 1500]);

fn key(n: u64) -> Bytes {
    format!("/registry/pods/default/pod-{n:08}").into()
}

async fn put(store: &Sqlite, key: Bytes) {
    let step = Op::Put {
        key,
        value: VALUE,
        lease: LeaseId(0),
        prev_kv: false,
    };
    store
        .txn(Txn {
            success: vec![step],
            ..Txn::default()
        })
        .await
        .expect("a write");
}

fn open(folder: &tempfile::TempDir) -> Arc<Sqlite> {
    Sqlite::open(folder.path().join("state.db"), Config::default()).expect("a new store")
}

/// `writers` tasks that write `count` keys between them.
async fn put_many(store: &Arc<Sqlite>, writers: u64, count: u64) -> Duration {
    let started = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let store = Arc::clone(store);
            tokio::spawn(async move {
                for n in (writer..count).step_by(writers as usize) {
                    put(&store, key(n % 5000)).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a writer");
    }
    started.elapsed()
}

fn writes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("put");
    group.throughput(Throughput::Elements(1));
    group.bench_function("raw", |bencher| {
        let folder = tempfile::tempdir().expect("a folder");
        let raw = Connection::open(folder.path().join("raw.db")).expect("a database");
        raw.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             CREATE TABLE versions (id INTEGER PRIMARY KEY, key BLOB, value BLOB);",
        )
        .expect("a table");
        let mut insert = raw
            .prepare("INSERT INTO versions (key, value) VALUES (?, ?)")
            .expect("a statement");
        let mut n = 0;
        bencher.iter(|| {
            n += 1;
            insert
                .execute((key(n % 5000).as_ref(), VALUE.as_ref()))
                .expect("an insert")
        });
    });
    let runtime = Runtime::new().expect("a runtime");
    for writers in [1, 64] {
        let folder = tempfile::tempdir().expect("a folder");
        let store = open(&folder);
        group.bench_function(BenchmarkId::new("writers", writers), |bencher| {
            bencher.to_async(&runtime).iter_custom(|count| {
                let store = Arc::clone(&store);
                async move { put_many(&store, writers, count).await }
            });
        });
        let stats = store.stats();
        eprintln!(
            "{:.1} writes a commit",
            stats.transactions as f64 / stats.commits as f64
        );
        runtime.block_on(store.close());
    }
    group.finish();
}

fn reads(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder);
    runtime.block_on(put_many(&store, 64, 5000));
    let mut group = criterion.benchmark_group("range");
    let one = RangeRequest {
        key: key(4999),
        ..RangeRequest::default()
    };
    // Superseded, so that it comes from the table.
    let old = runtime.block_on(store.revision()).expect("a revision");
    runtime.block_on(put(&store, key(4999)));
    let cold = RangeRequest {
        revision: Some(old),
        ..one.clone()
    };
    let page = RangeRequest {
        key: key(0),
        end: Some(key(u64::MAX >> 1)),
        limit: 500,
        ..RangeRequest::default()
    };
    let keys = RangeRequest {
        keys_only: true,
        limit: 0,
        ..page.clone()
    };
    for (name, request) in [
        ("one key", one),
        ("one old key", cold),
        ("500 of 5000", page),
        ("5000 keys only", keys),
    ] {
        group.bench_function(name, |bencher| {
            bencher.to_async(&runtime).iter(|| {
                let (store, request) = (&store, request.clone());
                async move { black_box(store.range(request).await.expect("a range")) }
            });
        });
    }
    group.finish();
}

fn watches(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut group = criterion.benchmark_group("put seen by watchers");
    group.sample_size(20);
    for watchers in [1_usize, 100, 1000] {
        let folder = tempfile::tempdir().expect("a folder");
        let store = open(&folder);
        group.bench_function(BenchmarkId::from_parameter(watchers), |bencher| {
            bencher.to_async(&runtime).iter_custom(|count| {
                let store = Arc::clone(&store);
                async move {
                    let mut tasks = Vec::new();
                    for _ in 0..watchers {
                        let request = WatchRequest {
                            key: "/registry/pods/".into(),
                            end: Some("/registry/pods0".into()),
                            ..WatchRequest::default()
                        };
                        let mut watching = store.watch(request).await.expect("a watch");
                        tasks.push(tokio::spawn(async move {
                            let mut seen = 0;
                            while seen < count {
                                let event = watching.next().await.expect("it goes on");
                                seen += u64::from(matches!(event, Ok(WatchEvent::Events(..))));
                            }
                        }));
                    }
                    let started = Instant::now();
                    for n in 0..count {
                        put(&store, key(n % 5000)).await;
                    }
                    for task in tasks {
                        task.await.expect("a watcher");
                    }
                    started.elapsed()
                }
            });
        });
        runtime.block_on(store.close());
    }
    group.finish();
}

criterion_group!(benches, writes, reads, watches);
criterion_main!(benches);

//! Compaction and checkpoints beside a stream of writes.

use rusqlite::Connection;
use store::{RangeRequest, Revision, Store};

use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_stay_small_while_writes_never_pause() {
    let fixture = Fixture::new();
    let path = fixture.folder.path().join("state.db");
    let log = fixture.folder.path().join("state.db-wal");
    let mut watching = fixture.store.watch(watch_everything(None)).await.unwrap();
    let watcher = tokio::spawn(async move {
        let mut next = 2;
        while next <= 24_001 {
            let (revision, _) = next_events(&mut watching).await;
            assert_eq!(revision, next);
            next += 1;
        }
    });
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let store = fixture.store.clone();
            tokio::spawn(async move {
                let value = "x".repeat(1000);
                for n in 0..3000 {
                    set(&*store, &format!("{writer}/{}", n % 100), &value).await;
                }
            })
        })
        .collect();
    let (mut largest, mut compacted) = (0, 0);
    while !writers.iter().all(|writer| writer.is_finished()) {
        largest = largest.max(log.metadata().unwrap().len());
        let latest = fixture.store.revision().await.unwrap().0;
        if latest > compacted + 2000 {
            compacted = latest - 500;
            fixture.store.compact(Revision(compacted)).await.unwrap();
            // What a reader holds on to meanwhile must not disappear.
            let request = RangeRequest {
                revision: Some(Revision(compacted)),
                ..everything()
            };
            let range = fixture.store.range(request).await.unwrap();
            assert!(range.kvs.iter().all(|kv| kv.mod_revision.0 <= compacted));
        }
        tokio::task::yield_now().await;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    watcher.await.unwrap();
    assert!(compacted > 15_000, "compaction kept up, to {compacted}");
    assert!(largest < 48 << 20, "the log grew to {largest} bytes");
    let latest = fixture.store.revision().await.unwrap();
    fixture.store.compact(latest).await.unwrap();
    let rows = || async {
        let connection = Connection::open(&path).unwrap();
        let count = connection.query_row("SELECT count(*) FROM versions", [], |row| row.get(0));
        count.unwrap_or(-1_i64) == 800
    };
    eventually("superseded rows are deleted", rows).await;
    let size = fixture.store.size().await.unwrap();
    assert!(size < 40 << 20, "{size} bytes for 800 keys of 1000 bytes");
    let check = Connection::open(&path).unwrap();
    let verdict: String = check
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(verdict, "ok");
}

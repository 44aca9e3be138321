//! Sudden death: nothing acknowledged is lost, nothing half-written is seen.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use proptest::prelude::*;
use store::sqlite::{Config, Sqlite};
use store::{Error, RangeRequest, Revision, Store};

use crate::support::*;

const FOLDER: &str = "STORE_CRASH_FOLDER";

/// Not a test by itself: what [`survives_being_killed`] runs and kills. It
/// tells every write on its standard output once that is acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs as a child of survives_being_killed"]
async fn victim() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let path = PathBuf::from(folder).join("state.db");
    let store = Sqlite::open(path, Config::default()).unwrap();
    let mut tasks = Vec::new();
    for writer in 0..8 {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            for n in 0_u64.. {
                let (key, value) = (format!("key{}", (writer + n) % 13), format!("{writer}.{n}"));
                let revision = set(&*store, &key, &value).await;
                writeln!(std::io::stdout(), "ack {revision} {key} {value}").unwrap();
                if n % 50 == 49 {
                    // Another writer may have compacted further already.
                    let _ = store.compact(Revision(revision - 20)).await;
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn survives_being_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeMap::new();
    for round in 0..6_u64 {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::victim", "--ignored", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        // Kills at another number of acknowledged writes each round.
        let before = acknowledged.len() as u64;
        let mut killed = false;
        while let Some(Ok(line)) = lines.next() {
            // The harness's own words may share a line with the first of ours.
            let Some(at) = line.find("ack ") else {
                continue;
            };
            let words: Vec<&str> = line[at..].split(' ').collect();
            // The last line may be cut short.
            let [_, revision, key, value] = words[..] else {
                continue;
            };
            let known = acknowledged.insert(
                revision.parse::<u64>().unwrap(),
                (key.to_owned(), value.to_owned()),
            );
            assert!(known.is_none(), "revision {revision} was given twice");
            if !killed && acknowledged.len() as u64 > before + 40 + 97 * round {
                victim.kill().unwrap();
                killed = true;
            }
        }
        assert!(killed, "the victim lived until it was killed");
        victim.wait().unwrap();

        let store = Sqlite::open(folder.path().join("state.db"), Config::default()).unwrap();
        let (last, _) = acknowledged.last_key_value().unwrap();
        let latest = store.revision().await.unwrap().0;
        assert!(latest >= *last, "{latest} is not before {last}");
        let oldest = store.compacted_revision().await.unwrap().0;
        for (revision, (key, expected)) in &acknowledged {
            let request = RangeRequest {
                revision: Some(Revision(*revision)),
                ..get(key.clone())
            };
            match store.range(request).await {
                Ok(found) => assert_eq!(text(&found.kvs[0].value), *expected),
                Err(Error::Compacted(_)) => assert!(*revision < oldest),
                Err(error) => panic!("{error}"),
            }
        }
        store.close().await;
    }
}

/// Every write of a short history, and the files it left.
async fn history(folder: &Path) -> Vec<Vec<String>> {
    let store = Sqlite::open(folder.join("state.db"), Config::default()).unwrap();
    let mut states = vec![Vec::new(), Vec::new()];
    for n in 0..40 {
        let big = "x".repeat(if n % 7 == 0 { 9000 } else { 10 });
        set(&*store, &format!("k{}", n % 5), &format!("{n}{big}")).await;
        let kvs = store.range(everything()).await.unwrap().kvs;
        states.push(kvs.iter().map(show).collect());
    }
    // While it is open, its log is not merged into the database.
    for name in ["state.db", "state.db-wal"] {
        fs::copy(folder.join(name), folder.join(format!("{name}.copy"))).unwrap();
    }
    store.close().await;
    states
}

#[test]
fn a_log_cut_anywhere_opens_at_a_revision_that_was() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let states = runtime.block_on(history(folder.path()));
    let database = fs::read(folder.path().join("state.db.copy")).unwrap();
    let log = fs::read(folder.path().join("state.db-wal.copy")).unwrap();
    let strategy = (0.0..=1.0, any::<Option<u8>>());
    let config = ProptestConfig {
        cases: 100,
        ..ProptestConfig::default()
    };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let newest = std::cell::Cell::new(0);
    let checked = runner.run(&strategy, |(at, garbage)| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let cut = (log.len() as f64 * at) as usize;
        let mut log = log[..cut].to_vec();
        // A sector that the disk promised and never wrote.
        log.extend(garbage.map(|byte| [byte; 512]).into_iter().flatten());
        fs::write(&path, &database).unwrap();
        fs::write(folder.path().join("state.db-wal"), log).unwrap();
        let store = Sqlite::open(&path, Config::default()).unwrap();
        let (revision, kvs) = runtime.block_on(async {
            let range = store.range(everything()).await.unwrap();
            (range.revision.0, range.kvs)
        });
        let found: Vec<String> = kvs.iter().map(show).collect();
        prop_assert_eq!(&found, &states[revision as usize]);
        newest.set(newest.get().max(revision));
        runtime.block_on(async {
            assert_eq!(set(&*store, "new", "1").await, revision + 1);
            tokio::time::timeout(Duration::from_secs(20), store.close())
                .await
                .unwrap();
        });
        Ok(())
    });
    checked.unwrap();
    assert!(
        newest.get() > 20,
        "most of the history was seen, up to {}",
        newest.get()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_under_contention_count_every_success() {
    let fixture = Fixture::new();
    let mut tasks = Vec::new();
    for _ in 0..16 {
        let store = fixture.store.clone();
        tasks.push(tokio::spawn(async move {
            let mut successes = 0_u64;
            while successes < 20 {
                let range = store.range(get("counter")).await.unwrap();
                let (at, count) = range.kvs.first().map_or((Revision(0), 0), |kv| {
                    (kv.mod_revision, text(&kv.value).parse::<u64>().unwrap())
                });
                let txn = store::Txn {
                    compares: vec![store::Compare::mod_revision("counter", at)],
                    success: vec![put("counter", (count + 1).to_string())],
                    failure: vec![],
                };
                successes += u64::from(store.txn(txn).await.unwrap().succeeded);
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let counted = value(&*fixture.store, "counter", None).await;
    assert_eq!(counted.as_deref(), Some("320"));
    assert_eq!(fixture.store.revision().await.unwrap(), Revision(321));
}

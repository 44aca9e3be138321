//! Transactions, ranges, watches, compaction and leases, one rule at a time.

use std::time::Duration;

use bytes::Bytes;
use store::sqlite::Config;
use store::{
    Compare, CompareOp, CompareTarget, Error, LeaseId, Op, OpResult, RangeRequest, Revision, Store,
    Txn, WatchEvent, WatchRequest,
};

use crate::support::*;

#[tokio::test]
async fn versions_count_from_creation_and_start_over_after_a_delete() {
    let fixture = Fixture::new();
    let store = &*fixture.store;
    assert_eq!(store.revision().await.unwrap(), Revision(1));
    assert_eq!(set(store, "a", "1").await, 2);
    assert_eq!(set(store, "a", "2").await, 3);
    assert_eq!(remove(store, "a").await, 4);
    assert_eq!(
        remove(store, "a").await,
        4,
        "deleting nothing takes no revision"
    );
    assert_eq!(set(store, "a", "3").await, 5);
    let mut seen = Vec::new();
    for revision in 1..=5 {
        let request = RangeRequest {
            revision: Some(Revision(revision)),
            ..everything()
        };
        let result = store.range(request).await.unwrap();
        assert_eq!(result.revision, Revision(5));
        seen.push(result.kvs.iter().map(show).collect::<Vec<_>>().join(" "));
    }
    assert_eq!(seen, ["", "a=1@2/2/1", "a=2@3/2/2", "", "a=3@5/5/1"]);
}

#[tokio::test]
async fn ranges_limit_count_and_leave_out() {
    let fixture = Fixture::new();
    let store = &*fixture.store;
    for key in ["a", "b", "c", "d"] {
        set(store, key, key).await;
    }
    remove(store, "b").await;
    for (key, end, limit, keys, more, count) in [
        ("a", None, 0, "a", false, 1),
        ("b", None, 0, "", false, 0),
        ("a", Some("d"), 0, "a c", false, 2),
        ("a", Some("\0"), 0, "a c d", false, 3),
        ("a", Some("\0"), 2, "a c", true, 3),
        ("a", Some("\0"), 3, "a c d", false, 3),
        ("d", Some("a"), 0, "", false, 0),
    ] {
        for revision in [None, Some(Revision(0)), Some(Revision(6))] {
            for keys_only in [false, true] {
                let request = RangeRequest {
                    key: key.into(),
                    end: end.map(Bytes::from),
                    revision,
                    limit,
                    keys_only,
                    count_only: false,
                };
                let counting = RangeRequest {
                    count_only: true,
                    ..request.clone()
                };
                let result = store.range(request).await.unwrap();
                let found: Vec<String> = result.kvs.iter().map(|kv| text(&kv.key)).collect();
                assert_eq!(found.join(" "), keys);
                let full = |kv: &store::KeyValue| kv.value.is_empty() == keys_only;
                assert!(result.kvs.iter().all(full));
                assert_eq!((result.more, result.count), (more, count));
                let counted = store.range(counting).await.unwrap();
                assert_eq!(
                    (counted.kvs.len(), counted.count, counted.more),
                    (0, count, false)
                );
            }
        }
    }
    let future = RangeRequest {
        revision: Some(Revision(7)),
        ..everything()
    };
    assert!(matches!(
        store.range(future).await,
        Err(Error::Future(Revision(6)))
    ));
}

#[tokio::test]
async fn compares() {
    let fixture = Fixture::new();
    let store = &*fixture.store;
    let lease = store
        .lease_grant(LeaseId(7), Duration::from_secs(60))
        .await
        .unwrap();
    set(store, "a", "1").await;
    set(store, "a", "2").await;
    let attached = Op::Put {
        key: "b".into(),
        value: "5".into(),
        lease,
        prev_kv: false,
    };
    run(store, vec![attached]).await.unwrap();
    use CompareOp::{Equal, Greater, Less, NotEqual};
    use CompareTarget::{CreateRevision, Lease, ModRevision, Value, Version};
    for (key, end, op, target, holds) in [
        ("a", None, Equal, ModRevision(Revision(3)), true),
        ("a", None, Equal, ModRevision(Revision(2)), false),
        ("a", None, Less, ModRevision(Revision(4)), true),
        ("a", None, Equal, CreateRevision(Revision(2)), true),
        ("a", None, Greater, CreateRevision(Revision(2)), false),
        ("a", None, Equal, Version(2), true),
        ("a", None, NotEqual, Version(2), false),
        ("a", None, Equal, Value("2".into()), true),
        ("a", None, Greater, Value("1".into()), true),
        ("b", None, Equal, Lease(LeaseId(7)), true),
        ("a", None, Equal, Lease(LeaseId(0)), true),
        ("x", None, Equal, ModRevision(Revision(0)), true),
        ("x", None, Equal, Version(0), true),
        ("x", None, Equal, Lease(LeaseId(0)), true),
        ("x", None, NotEqual, Value("".into()), false),
        ("x", None, Equal, Value("".into()), false),
        ("a", Some("\0"), Greater, CreateRevision(Revision(1)), true),
        ("a", Some("\0"), Greater, CreateRevision(Revision(2)), false),
        ("a", Some("\0"), Less, Value("6".into()), true),
        ("x", Some("\0"), Equal, CreateRevision(Revision(0)), true),
    ] {
        let end = end.map(Bytes::from);
        let compare = Compare {
            key: key.into(),
            end,
            op,
            target,
        };
        let shown = format!("{compare:?}");
        let txn = Txn {
            compares: vec![compare],
            ..Txn::default()
        };
        assert_eq!(store.txn(txn).await.unwrap().succeeded, holds, "{shown}");
    }
}

#[tokio::test]
async fn a_transaction_sees_its_own_writes_under_one_revision() {
    let fixture = Fixture::new();
    let store = &*fixture.store;
    set(store, "a", "1").await;
    let nested = Txn {
        compares: vec![Compare::mod_revision("b", Revision(3))],
        success: vec![put("c", "9"), Op::Range(everything())],
        failure: vec![put("c", "0")],
    };
    let prev = Op::Put {
        key: "a".into(),
        value: "2".into(),
        lease: LeaseId(0),
        prev_kv: true,
    };
    let gone = Op::Delete {
        key: "d".into(),
        end: Some("\0".into()),
        prev_kv: true,
    };
    let before = Op::Range(RangeRequest {
        revision: Some(Revision(2)),
        ..everything()
    });
    let steps = vec![
        Op::Range(everything()),
        prev,
        put("b", "3"),
        Op::Txn(nested),
        before,
        gone,
    ];
    let result = run(store, steps).await.unwrap();
    assert_eq!(result.revision, Revision(3));
    let seen: Vec<String> = result.results.iter().map(|r| shown(r).join(" ")).collect();
    assert_eq!(
        seen,
        [
            "a=1@2/2/1",
            "a=1@2/2/1",
            "",
            "a=2@3/2/2 b=3@3/3/1 c=9@3/3/1",
            "a=1@2/2/1",
            ""
        ]
    );
    let OpResult::Txn(nested) = &result.results[3] else {
        panic!("a nested result")
    };
    assert!(nested.succeeded);
    assert_eq!(nested.revision, Revision(3));
}

#[tokio::test]
async fn a_key_cannot_be_written_twice() {
    let fixture = Fixture::new();
    let store = &*fixture.store;
    let nested = |success: Vec<Op>, failure: Vec<Op>| {
        Op::Txn(Txn {
            compares: vec![],
            success,
            failure,
        })
    };
    let wipe = || Op::Delete {
        key: "a".into(),
        end: Some("c".into()),
        prev_kv: false,
    };
    for (steps, refused) in [
        (vec![put("a", "1"), put("b", "1")], false),
        (vec![put("a", "1"), put("a", "1")], true),
        (vec![put("b", "1"), wipe()], true),
        (vec![wipe(), put("b", "1")], true),
        (vec![wipe(), put("c", "1")], false),
        (vec![wipe(), wipe()], false),
        (
            vec![nested(vec![put("a", "1")], vec![put("a", "2")])],
            false,
        ),
        (
            vec![put("a", "1"), nested(vec![], vec![put("a", "2")])],
            true,
        ),
        (
            vec![
                nested(vec![put("a", "1")], vec![]),
                nested(vec![put("a", "1")], vec![]),
            ],
            true,
        ),
        (vec![nested(vec![wipe()], vec![]), put("a", "1")], true),
        (
            vec![nested(
                vec![],
                vec![nested(vec![put("a", "1"), put("a", "2")], vec![])],
            )],
            true,
        ),
    ] {
        let shown = format!("{steps:?}");
        let before = store.revision().await.unwrap();
        match run(store, steps).await {
            Err(Error::DuplicateKey) => {
                assert!(refused, "{shown}");
                assert_eq!(store.revision().await.unwrap(), before);
            }
            outcome => assert!(!refused && outcome.is_ok(), "{shown}: {outcome:?}"),
        }
    }
}

#[tokio::test]
async fn a_failing_transaction_leaves_nothing_and_its_neighbours_alone() {
    let fixture = Fixture::new();
    let store = &*fixture.store;
    let orphan = |key: &'static str| Op::Put {
        key: key.into(),
        value: "1".into(),
        lease: LeaseId(404),
        prev_kv: false,
    };
    let future = Op::Range(RangeRequest {
        revision: Some(Revision(99)),
        ..everything()
    });
    let (a, b, c, d) = tokio::join!(
        run(store, vec![put("a", "1")]),
        run(store, vec![put("x", "1"), orphan("y")]),
        run(store, vec![put("x", "2"), future]),
        run(store, vec![put("d", "1")]),
    );
    assert!(matches!(b, Err(Error::LeaseNotFound)));
    assert!(matches!(c, Err(Error::Future(_))));
    assert_eq!((a.unwrap().revision.0, d.unwrap().revision.0), (2, 3));
    let kvs = store.range(everything()).await.unwrap().kvs;
    assert_eq!(
        kvs.iter().map(show).collect::<Vec<_>>(),
        ["a=1@2/2/1", "d=1@3/3/1"]
    );
}

#[tokio::test]
async fn a_watch_tells_history_and_goes_on_live() {
    let fixture = Fixture::new();
    let store = &*fixture.store;
    set(store, "a", "1").await;
    run(store, vec![put("a", "2"), put("b", "1"), put("z", "1")])
        .await
        .unwrap();
    let request = WatchRequest {
        key: "a".into(),
        end: Some("c".into()),
        ..watch_everything(Some(2))
    };
    let mut watching = store.watch(request).await.unwrap();
    assert_eq!(
        next_events(&mut watching).await,
        (2, vec!["put a=1@2/2/1".into()])
    );
    remove(store, "a").await;
    let both = vec!["put a=2@3/2/2 was a=1@2/2/1".into(), "put b=1@3/3/1".into()];
    assert_eq!(next_events(&mut watching).await, (3, both));
    set(store, "z", "2").await;
    set(store, "a", "3").await;
    let gone = vec!["delete a=@4/0/0 was a=2@3/2/2".into()];
    let progress = next(&mut watching).await.unwrap().unwrap();
    assert!(
        matches!(progress, WatchEvent::Progress(Revision(3))),
        "{progress:?}"
    );
    assert_eq!(next_events(&mut watching).await, (4, gone));
    assert_eq!(
        next_events(&mut watching).await,
        (6, vec!["put a=3@6/6/1".into()])
    );
    store.request_progress().await.unwrap();
    let progress = next(&mut watching).await.unwrap().unwrap();
    assert!(
        matches!(progress, WatchEvent::Progress(Revision(6))),
        "{progress:?}"
    );
    assert_eq!(fixture.store.stats().watchers, 1);
    drop(watching);
    assert_eq!(fixture.store.stats().watchers, 0);
}

#[tokio::test]
async fn a_watch_may_start_now_or_later() {
    let fixture = Fixture::new();
    let store = &*fixture.store;
    set(store, "a", "1").await;
    let mut now = store.watch(watch_everything(None)).await.unwrap();
    let mut later = store.watch(watch_everything(Some(4))).await.unwrap();
    for value in ["2", "3", "4"] {
        set(store, "a", value).await;
    }
    assert_eq!(next_events(&mut now).await.0, 3);
    assert_eq!(next_events(&mut later).await.0, 4);
    assert_eq!(next_events(&mut later).await.0, 5);
}

#[tokio::test]
async fn a_watcher_that_does_not_listen_is_ended() {
    let config = Config {
        fsync: false,
        watch_queue: 4,
        ..Config::default()
    };
    let fixture = Fixture::with(config);
    let store = &*fixture.store;
    let mut watching = store.watch(watch_everything(None)).await.unwrap();
    let mut told = Vec::new();
    for value in 0..20 {
        set(store, "a", &value.to_string()).await;
    }
    loop {
        match next(&mut watching).await.expect("an error ends it") {
            Ok(WatchEvent::Events(revision, _)) => told.push(revision.0),
            Ok(WatchEvent::Progress(_)) => {}
            Err(error) => {
                assert!(matches!(error, Error::Lagged));
                break;
            }
        }
    }
    assert_eq!(told, [2, 3, 4, 5], "what was queued, without a gap");
    assert!(next(&mut watching).await.is_none());
    let mut again = store.watch(watch_everything(Some(6))).await.unwrap();
    for revision in 6..=21 {
        assert_eq!(next_events(&mut again).await.0, revision);
    }
}

#[tokio::test]
async fn a_long_history_is_told_in_chunks_while_writes_go_on() {
    let fixture = Fixture::new();
    let store = &*fixture.store;
    let many: Vec<Op> = (0..3000).map(|n| put(format!("k{n:04}"), "x")).collect();
    run(store, many).await.unwrap();
    for n in 0..3000_u64 {
        set(store, "a", &n.to_string()).await;
    }
    let mut watching = store.watch(watch_everything(Some(2))).await.unwrap();
    let writer = {
        let store = fixture.store.clone();
        tokio::spawn(async move {
            for n in 0..500_u64 {
                set(&*store, "b", &n.to_string()).await;
            }
        })
    };
    for revision in 2..=3502 {
        let (told, events) = next_events(&mut watching).await;
        assert_eq!(
            (told, events.len()),
            (revision, if revision == 2 { 3000 } else { 1 })
        );
    }
    writer.await.unwrap();
}

#[tokio::test]
async fn compaction_refuses_older_revisions_and_frees_their_rows() {
    let mut fixture = Fixture::new();
    let store = fixture.store.clone();
    for value in 0..50 {
        set(&*store, "a", &value.to_string()).await;
    }
    set(&*store, "b", "1").await;
    remove(&*store, "b").await;
    let latest = store.revision().await.unwrap();
    assert_eq!(latest, Revision(53));
    store.compact(Revision(53)).await.unwrap();
    assert_eq!(store.compacted_revision().await.unwrap(), latest);
    let refused = |result| matches!(result, Err(Error::Compacted(Revision(53))));
    let old = RangeRequest {
        revision: Some(Revision(52)),
        ..everything()
    };
    assert!(
        store
            .range(old)
            .await
            .is_err_and(|error| refused(Err::<(), _>(error)))
    );
    let watch = store.watch(watch_everything(Some(52))).await;
    assert!(watch.is_err_and(|error| refused(Err(error))));
    assert!(refused(store.compact(Revision(53)).await));
    assert!(matches!(
        store.compact(Revision(54)).await,
        Err(Error::Future(Revision(53)))
    ));
    let mut watching = store.watch(watch_everything(Some(53))).await.unwrap();
    assert_eq!(
        next_events(&mut watching).await,
        (53, vec!["delete b=@53/0/0".into()])
    );
    drop(watching);
    assert_eq!(value(&*store, "a", Some(53)).await.as_deref(), Some("49"));
    set(&*store, "c", "1").await;
    store.compact(Revision(54)).await.unwrap();
    eventually("the deleted key leaves the index", || async {
        store.stats().keys == 2
    })
    .await;
    drop(store);
    fixture.reopen().await;
    let store = &*fixture.store;
    assert_eq!(store.stats().keys, 2);
    assert_eq!(store.compacted_revision().await.unwrap(), Revision(54));
    assert_eq!(store.revision().await.unwrap(), Revision(54));
    let kvs = store.range(everything()).await.unwrap().kvs;
    assert_eq!(
        kvs.iter().map(show).collect::<Vec<_>>(),
        ["a=49@51/2/50", "c=1@54/54/1"]
    );
}

#[tokio::test]
async fn leases_delete_their_keys_in_one_revision() {
    let fixture = Fixture::new();
    let store = &*fixture.store;
    let lease = store
        .lease_grant(LeaseId(0), Duration::from_secs(60))
        .await
        .unwrap();
    assert!(lease.0 > 0);
    assert!(matches!(
        store.lease_grant(lease, Duration::from_secs(1)).await,
        Err(Error::LeaseExists)
    ));
    let attached = |key: &'static str, lease| Op::Put {
        key: key.into(),
        value: "1".into(),
        lease,
        prev_kv: false,
    };
    run(
        store,
        vec![
            attached("a", lease),
            attached("b", lease),
            attached("c", lease),
        ],
    )
    .await
    .unwrap();
    run(store, vec![attached("c", LeaseId(0))]).await.unwrap();
    let info = store.lease_info(lease).await.unwrap();
    assert_eq!(info.keys, ["a", "b"]);
    assert_eq!(info.granted, Duration::from_secs(60));
    assert!(info.remaining <= info.granted && info.remaining > Duration::from_secs(50));
    assert_eq!(
        store.lease_keep_alive(lease).await.unwrap(),
        Duration::from_secs(60)
    );
    let mut watching = store.watch(watch_everything(None)).await.unwrap();
    store.lease_revoke(lease).await.unwrap();
    let events = vec![
        "delete a=@4/0/0 was a=1@2/2/1".into(),
        "delete b=@4/0/0 was b=1@2/2/1".into(),
    ];
    assert_eq!(next_events(&mut watching).await, (4, events));
    assert!(matches!(
        store.lease_revoke(lease).await,
        Err(Error::LeaseNotFound)
    ));
    assert!(matches!(
        store.lease_keep_alive(lease).await,
        Err(Error::LeaseNotFound)
    ));
    assert!(matches!(
        store.lease_info(lease).await,
        Err(Error::LeaseNotFound)
    ));
    assert!(store.leases().await.unwrap().is_empty());
}

#[tokio::test]
async fn leases_run_out_unless_kept_alive_and_start_over_after_a_restart() {
    let mut fixture = Fixture::new();
    let store = fixture.store.clone();
    let short = Duration::from_millis(400);
    store.lease_grant(LeaseId(1), short).await.unwrap();
    store
        .lease_grant(LeaseId(2), Duration::from_secs(60))
        .await
        .unwrap();
    store.lease_grant(LeaseId(3), short).await.unwrap();
    for (key, lease) in [("a", 1), ("b", 2), ("c", 3)] {
        let lease = LeaseId(lease);
        let step = Op::Put {
            key: key.into(),
            value: "1".into(),
            lease,
            prev_kv: false,
        };
        run(&*store, vec![step]).await.unwrap();
    }
    drop(store);
    fixture.reopen().await;
    let store = &*fixture.store;
    assert_eq!(
        store.leases().await.unwrap(),
        [LeaseId(1), LeaseId(2), LeaseId(3)]
    );
    assert!(store.lease_info(LeaseId(1)).await.unwrap().remaining > short / 2);
    let mut watching = store.watch(watch_everything(None)).await.unwrap();
    let started = std::time::Instant::now();
    while started.elapsed() < Duration::from_millis(800) {
        store.lease_keep_alive(LeaseId(3)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let gone = vec!["delete a=@5/0/0 was a=1@2/2/1".into()];
    assert_eq!(next_events(&mut watching).await, (5, gone));
    assert_eq!(store.leases().await.unwrap(), [LeaseId(2), LeaseId(3)]);
    let gone = vec!["delete c=@6/0/0 was c=1@4/4/1".into()];
    assert_eq!(next_events(&mut watching).await, (6, gone));
    assert_eq!(value(store, "b", None).await.as_deref(), Some("1"));
}

#[tokio::test]
async fn many_writers_share_commits() {
    let fixture = Fixture::with(Config::default());
    let writes = (0..64).map(|n| {
        let store = fixture.store.clone();
        tokio::spawn(async move {
            for round in 0..8 {
                set(&*store, &format!("k{n}"), &round.to_string()).await;
            }
        })
    });
    for write in writes.collect::<Vec<_>>() {
        write.await.unwrap();
    }
    let stats = fixture.store.stats();
    assert_eq!(stats.transactions, 512);
    assert!(stats.commits * 4 <= stats.transactions, "{stats:?}");
    assert_eq!(fixture.store.revision().await.unwrap(), Revision(513));
}

#[test]
fn works_on_either_runtime_and_after_close() {
    let current = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let multi = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    for runtime in [current, multi] {
        runtime.block_on(async {
            let fixture = Fixture::new();
            let store = &*fixture.store;
            set(store, "a", "1").await;
            set(store, "a", "2").await;
            assert_eq!(value(store, "a", Some(2)).await.as_deref(), Some("1"));
            let mut watching = store.watch(watch_everything(None)).await.unwrap();
            store.close().await;
            store.close().await;
            assert!(matches!(
                run(store, vec![put("b", "1")]).await,
                Err(Error::Closed)
            ));
            let ended = loop {
                match next(&mut watching).await {
                    Some(Ok(WatchEvent::Progress(_))) => {}
                    other => break other,
                }
            };
            assert!(matches!(ended, Some(Err(Error::Closed))));
            let old = RangeRequest {
                revision: Some(Revision(2)),
                ..get("a")
            };
            assert!(matches!(store.range(old).await, Err(Error::Closed)));
        });
    }
}

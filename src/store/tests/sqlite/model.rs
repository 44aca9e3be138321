//! The store against a model that keeps a full copy of the map per revision.
//!
//! Random transactions, reads, compactions, leases, watches and restarts: every
//! answer and every event must be what the model says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use store::{
    Compare, CompareOp, CompareTarget, Error, Event, EventKind, KeyValue, LeaseId, Op, OpResult,
    RangeRequest, RangeResult, Revision, Store, Txn, TxnResult, WatchEvent, WatchRequest,
};

use crate::support::{Fixture, Watching, next};

type State = BTreeMap<Bytes, KeyValue>;

fn in_range(key: &Bytes, first: &Bytes, end: Option<&Bytes>) -> bool {
    match end {
        None => key == first,
        Some(end) if end.as_ref() == b"\0" => key >= first,
        Some(end) => key >= first && key < end,
    }
}

/// Why the model refuses a transaction.
#[derive(Debug, PartialEq)]
enum Refusal {
    Compacted(u64),
    Future(u64),
    Duplicate,
    NoLease,
}

impl Refusal {
    fn of(error: &Error) -> Self {
        match error {
            Error::Compacted(oldest) => Self::Compacted(oldest.0),
            Error::Future(latest) => Self::Future(latest.0),
            Error::DuplicateKey => Self::Duplicate,
            Error::LeaseNotFound => Self::NoLease,
            other => panic!("unexpected: {other:?}"),
        }
    }
}

struct Model {
    /// What is there at each revision.
    history: Vec<State>,
    events: BTreeMap<u64, Vec<Event>>,
    compacted: u64,
    leases: BTreeSet<i64>,
}

/// A transaction under way.
struct Working {
    state: State,
    events: Vec<Event>,
    put: BTreeSet<Bytes>,
}

impl Model {
    fn new() -> Self {
        let history = vec![State::new(), State::new()];
        Self {
            history,
            events: BTreeMap::new(),
            compacted: 0,
            leases: BTreeSet::new(),
        }
    }

    fn revision(&self) -> u64 {
        self.history.len() as u64 - 1
    }

    fn working(&self) -> Working {
        let state = self.history.last().unwrap().clone();
        Working {
            state,
            events: Vec::new(),
            put: BTreeSet::new(),
        }
    }

    fn finish(&mut self, working: Working) {
        if !working.events.is_empty() {
            self.history.push(working.state);
            self.events.insert(self.revision(), working.events);
        }
    }

    fn txn(&mut self, txn: &Txn) -> Result<TxnResult, Refusal> {
        let mut working = self.working();
        let mut result = self.eval(txn, &mut working)?;
        self.finish(working);
        stamp(&mut result, Revision(self.revision()));
        Ok(result)
    }

    fn range(&self, request: &RangeRequest, working: &Working) -> Result<RangeResult, Refusal> {
        let current = self.revision() + u64::from(!working.events.is_empty());
        let state = match request.revision.map_or(0, |revision| revision.0) {
            0 => &working.state,
            at if at > current => return Err(Refusal::Future(current)),
            at if at < self.compacted => return Err(Refusal::Compacted(self.compacted)),
            at => self.history.get(at as usize).unwrap_or(&working.state),
        };
        let mut kvs: Vec<KeyValue> = state
            .values()
            .filter(|kv| in_range(&kv.key, &request.key, request.end.as_ref()))
            .cloned()
            .collect();
        let count = kvs.len() as u64;
        if request.limit > 0 {
            kvs.truncate(request.limit);
        }
        let more = !request.count_only && (kvs.len() as u64) < count;
        if request.count_only {
            kvs.clear();
        }
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        Ok(RangeResult {
            revision: Revision(current),
            kvs,
            more,
            count,
        })
    }

    fn eval(&self, txn: &Txn, working: &mut Working) -> Result<TxnResult, Refusal> {
        let succeeded = txn
            .compares
            .iter()
            .all(|compare| compares(compare, &working.state));
        let steps = if succeeded {
            &txn.success
        } else {
            &txn.failure
        };
        let results = steps
            .iter()
            .map(|step| self.step(step, working))
            .collect::<Result<_, _>>()?;
        Ok(TxnResult {
            revision: Revision(0),
            succeeded,
            results,
        })
    }

    fn step(&self, step: &Op, working: &mut Working) -> Result<OpResult, Refusal> {
        let revision = Revision(self.revision() + 1);
        match step {
            Op::Range(request) => self.range(request, working).map(OpResult::Range),
            Op::Txn(txn) => self.eval(txn, working).map(OpResult::Txn),
            Op::Put {
                key,
                value,
                lease,
                prev_kv,
            } => {
                if lease.0 != 0 && !self.leases.contains(&lease.0) {
                    return Err(Refusal::NoLease);
                }
                if !working.put.insert(key.clone()) {
                    return Err(Refusal::Duplicate);
                }
                let prev = working.state.get(key).cloned();
                let kv = KeyValue {
                    key: key.clone(),
                    value: value.clone(),
                    create_revision: prev.as_ref().map_or(revision, |prev| prev.create_revision),
                    mod_revision: revision,
                    version: prev.as_ref().map_or(0, |prev| prev.version) + 1,
                    lease: *lease,
                };
                working.state.insert(key.clone(), kv.clone());
                working.events.push(Event {
                    kind: EventKind::Put,
                    kv,
                    prev: prev.clone(),
                });
                Ok(OpResult::Put(prev.filter(|_| *prev_kv)))
            }
            Op::Delete { key, end, prev_kv } => {
                let doomed = |candidate: &&Bytes| in_range(candidate, key, end.as_ref());
                let keys: Vec<Bytes> = working.state.keys().filter(doomed).cloned().collect();
                let prevs: Vec<KeyValue> = keys
                    .iter()
                    .map(|key| delete(key, revision, working))
                    .collect();
                let count = prevs.len() as u64;
                Ok(OpResult::Delete(
                    count,
                    if *prev_kv { prevs } else { Vec::new() },
                ))
            }
        }
    }

    fn revoke(&mut self, id: i64) -> bool {
        if !self.leases.remove(&id) {
            return false;
        }
        let mut working = self.working();
        let held = |(_, kv): &(&Bytes, &KeyValue)| kv.lease.0 == id;
        let keys: Vec<Bytes> = working
            .state
            .iter()
            .filter(held)
            .map(|(key, _)| key.clone())
            .collect();
        for key in keys {
            delete(&key, Revision(self.revision() + 1), &mut working);
        }
        self.finish(working);
        true
    }
}

fn delete(key: &Bytes, revision: Revision, working: &mut Working) -> KeyValue {
    let prev = working.state.remove(key).unwrap();
    let kv = KeyValue {
        key: key.clone(),
        value: Bytes::new(),
        create_revision: Revision(0),
        mod_revision: revision,
        version: 0,
        lease: LeaseId(0),
    };
    working.events.push(Event {
        kind: EventKind::Delete,
        kv,
        prev: Some(prev.clone()),
    });
    prev
}

fn stamp(result: &mut TxnResult, revision: Revision) {
    result.revision = revision;
    for result in &mut result.results {
        if let OpResult::Txn(nested) = result {
            stamp(nested, revision);
        }
    }
}

fn compares(compare: &Compare, state: &State) -> bool {
    let absent = KeyValue {
        key: Bytes::new(),
        value: Bytes::new(),
        create_revision: Revision(0),
        mod_revision: Revision(0),
        version: 0,
        lease: LeaseId(0),
    };
    let found: Vec<&KeyValue> = state
        .values()
        .filter(|kv| in_range(&kv.key, &compare.key, compare.end.as_ref()))
        .collect();
    let one = |kv: &KeyValue| {
        let ordering = match &compare.target {
            CompareTarget::CreateRevision(target) => kv.create_revision.cmp(target),
            CompareTarget::ModRevision(target) => kv.mod_revision.cmp(target),
            CompareTarget::Version(target) => kv.version.cmp(target),
            CompareTarget::Lease(target) => kv.lease.cmp(target),
            CompareTarget::Value(target) => kv.value.cmp(target),
        };
        match compare.op {
            CompareOp::Equal => ordering.is_eq(),
            CompareOp::NotEqual => ordering.is_ne(),
            CompareOp::Greater => ordering.is_gt(),
            CompareOp::Less => ordering.is_lt(),
        }
    };
    match &compare.target {
        CompareTarget::Value(_) if found.is_empty() => false,
        _ if found.is_empty() => one(&absent),
        _ => found.into_iter().all(one),
    }
}

/// Whether no order of execution could write a key twice.
fn surely_no_duplicate(txn: &Txn) -> bool {
    fn collect<'a>(
        steps: &'a [Op],
        puts: &mut Vec<&'a Bytes>,
        deletes: &mut Vec<(&'a Bytes, Option<&'a Bytes>)>,
    ) {
        for step in steps {
            match step {
                Op::Put { key, .. } => puts.push(key),
                Op::Delete { key, end, .. } => deletes.push((key, end.as_ref())),
                Op::Txn(txn) => {
                    collect(&txn.success, puts, deletes);
                    collect(&txn.failure, puts, deletes);
                }
                Op::Range(_) => {}
            }
        }
    }
    [&txn.success, &txn.failure].into_iter().all(|steps| {
        let (mut puts, mut deletes) = (Vec::new(), Vec::new());
        collect(steps, &mut puts, &mut deletes);
        let distinct: BTreeSet<_> = puts.iter().collect();
        distinct.len() == puts.len()
            && !puts
                .iter()
                .any(|put| deletes.iter().any(|(key, end)| in_range(put, key, *end)))
    })
}

#[derive(Clone, Debug)]
enum Step {
    Txn(Txn),
    Range(RangeRequest),
    /// At a fraction of the revisions there are.
    RangeAt(RangeRequest, f64),
    Compact(f64),
    Watch(WatchRequest, Option<f64>),
    Grant(i64),
    Revoke(i64),
    Reopen,
}

fn key() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["", "a", "ab", "b", "b\0", "c", "d"]).prop_map(Bytes::from)
}

fn end() -> impl Strategy<Value = Option<Bytes>> {
    prop_oneof![
        3 => Just(None),
        2 => prop::sample::select(vec!["", "\0", "b", "c", "e"]).prop_map(|e| Some(e.into())),
    ]
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        5 => "[0-3]".prop_map(Bytes::from),
        // Longer than a page, so that it lies on pages of its own.
        1 => Just(Bytes::from(vec![b'x'; 9000])),
        // Too long for the cache.
        1 => Just(Bytes::from(vec![b'y'; 600])),
    ]
}

fn revision() -> impl Strategy<Value = Option<Revision>> {
    prop_oneof![3 => Just(None), 1 => (0_u64..40).prop_map(|r| Some(Revision(r)))]
}

prop_compose! {
    fn request()(
        key in key(),
        end in end(),
        revision in revision(),
        limit in prop_oneof![Just(0_usize), 1_usize..4],
        keys_only in any::<bool>(),
        count_only in prop::bool::weighted(0.2),
    ) -> RangeRequest {
        RangeRequest { key, end, revision, limit, keys_only, count_only }
    }
}

fn compare() -> impl Strategy<Value = Compare> {
    let op = prop::sample::select(vec![
        CompareOp::Equal,
        CompareOp::NotEqual,
        CompareOp::Greater,
        CompareOp::Less,
    ]);
    let target = prop_oneof![
        (0_u64..20).prop_map(|r| CompareTarget::CreateRevision(Revision(r))),
        (0_u64..30).prop_map(|r| CompareTarget::ModRevision(Revision(r))),
        (0_u64..4).prop_map(CompareTarget::Version),
        value().prop_map(CompareTarget::Value),
        (0_i64..3).prop_map(|id| CompareTarget::Lease(LeaseId(id))),
    ];
    (key(), end(), op, target).prop_map(|(key, end, op, target)| Compare {
        key,
        end,
        op,
        target,
    })
}

fn op() -> impl Strategy<Value = Op> {
    let lease = prop_oneof![6 => Just(0_i64), 2 => 1_i64..4];
    let leaf = prop_oneof![
        5 => (key(), value(), lease, any::<bool>()).prop_map(|(key, value, lease, prev_kv)| {
            Op::Put { key, value, lease: LeaseId(lease), prev_kv }
        }),
        3 => (key(), end(), any::<bool>())
            .prop_map(|(key, end, prev_kv)| Op::Delete { key, end, prev_kv }),
        1 => request().prop_map(Op::Range),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        let steps = prop::collection::vec(inner, 0..3);
        (prop::collection::vec(compare(), 0..2), steps.clone(), steps).prop_map(
            |(compares, success, failure)| {
                Op::Txn(Txn {
                    compares,
                    success,
                    failure,
                })
            },
        )
    })
}

fn txn() -> impl Strategy<Value = Txn> {
    let compares = prop::collection::vec(compare(), 0..3);
    (
        compares,
        prop::collection::vec(op(), 0..4),
        prop::collection::vec(op(), 0..3),
    )
        .prop_map(|(compares, success, failure)| Txn {
            compares,
            success,
            failure,
        })
}

fn step() -> impl Strategy<Value = Step> {
    let watch = (key(), end(), any::<bool>()).prop_map(|(key, end, prev_kv)| WatchRequest {
        key,
        end,
        start: None,
        prev_kv,
    });
    prop_oneof![
        12 => txn().prop_map(Step::Txn),
        8 => op().prop_map(|op| Step::Txn(Txn { success: vec![op], ..Txn::default() })),
        3 => request().prop_map(Step::Range),
        4 => (request(), 0.0..1.1).prop_map(|(request, at)| Step::RangeAt(request, at)),
        1 => (0.0..1.1).prop_map(Step::Compact),
        3 => (watch, prop::option::of(0.0..1.1)).prop_map(|(watch, at)| Step::Watch(watch, at)),
        1 => (1_i64..4).prop_map(Step::Grant),
        1 => (1_i64..4).prop_map(Step::Revoke),
        1 => Just(Step::Reopen),
    ]
}

/// An open watch and what it has told.
struct Opened {
    request: WatchRequest,
    start: u64,
    watching: Watching,
    told: BTreeMap<u64, Vec<Event>>,
}

struct Harness {
    fixture: Fixture,
    model: Model,
    watches: Vec<Opened>,
}

impl Harness {
    fn fraction(&self, at: f64) -> u64 {
        (self.model.revision() as f64 * at) as u64
    }

    async fn apply(&mut self, step: Step) {
        let store = self.fixture.store.clone();
        match step {
            Step::Txn(txn) => {
                let expected = match store.txn(txn.clone()).await {
                    // The static check may refuse what would not have run.
                    Err(Error::DuplicateKey) => {
                        assert!(!surely_no_duplicate(&txn), "{txn:?}");
                        return;
                    }
                    got => got.map_err(|error| Refusal::of(&error)),
                };
                assert_eq!(expected, self.model.txn(&txn), "{txn:?}");
            }
            Step::Range(request) => self.range(request).await,
            Step::RangeAt(request, at) => {
                let revision = Some(Revision(self.fraction(at)));
                self.range(RangeRequest {
                    revision,
                    ..request
                })
                .await;
            }
            Step::Compact(at) => {
                self.catch_up().await;
                let (at, model) = (self.fraction(at), &mut self.model);
                let expected = match at {
                    at if at <= model.compacted => Err(Refusal::Compacted(model.compacted)),
                    at if at > model.revision() => Err(Refusal::Future(model.revision())),
                    at => {
                        model.compacted = at;
                        Ok(())
                    }
                };
                let got = store.compact(Revision(at)).await;
                assert_eq!(got.map_err(|error| Refusal::of(&error)), expected);
            }
            Step::Watch(request, at) => {
                let start = at.map(|at| self.fraction(at));
                let request = WatchRequest {
                    start: start.map(Revision),
                    ..request
                };
                let start = match start.unwrap_or(0) {
                    0 => self.model.revision() + 1,
                    start => start,
                };
                match store.watch(request.clone()).await {
                    Ok(watching) => {
                        assert!(start >= self.model.compacted);
                        let told = BTreeMap::new();
                        self.watches.push(Opened {
                            request,
                            start,
                            watching,
                            told,
                        });
                        self.catch_up().await;
                    }
                    Err(error) => {
                        assert!(start < self.model.compacted);
                        assert_eq!(
                            Refusal::of(&error),
                            Refusal::Compacted(self.model.compacted)
                        );
                    }
                }
            }
            Step::Grant(id) => {
                let got = store
                    .lease_grant(LeaseId(id), Duration::from_secs(600))
                    .await;
                let new = self.model.leases.insert(id);
                assert!(if new {
                    got.is_ok()
                } else {
                    matches!(got, Err(Error::LeaseExists))
                });
            }
            Step::Revoke(id) => {
                let got = store.lease_revoke(LeaseId(id)).await;
                let there = self.model.revoke(id);
                assert!(if there {
                    got.is_ok()
                } else {
                    matches!(got, Err(Error::LeaseNotFound))
                });
            }
            Step::Reopen => {
                self.catch_up().await;
                self.check_watches();
                self.watches.clear();
                drop(store);
                self.fixture.reopen().await;
                self.check_state().await;
            }
        }
    }

    async fn range(&self, request: RangeRequest) {
        let got = self.fixture.store.range(request.clone()).await;
        let expected = self.model.range(&request, &self.model.working());
        assert_eq!(
            got.map_err(|error| Refusal::of(&error)),
            expected,
            "{request:?}"
        );
    }

    /// Reads every watch until it says that it has told all.
    async fn catch_up(&mut self) {
        self.fixture.store.request_progress().await.unwrap();
        let latest = self.model.revision();
        for opened in &mut self.watches {
            loop {
                match next(&mut opened.watching).await.unwrap().unwrap() {
                    WatchEvent::Progress(revision) if revision.0 >= latest => break,
                    WatchEvent::Progress(_) => {}
                    WatchEvent::Events(revision, events) => {
                        let last = opened.told.last_key_value().map_or(0, |(last, _)| *last);
                        assert!(revision.0 > last, "revisions only rise");
                        opened.told.insert(revision.0, events);
                    }
                }
            }
            // A watch that is live by now has one more to tell; the next round
            // begins with it.
        }
    }

    fn check_watches(&self) {
        for opened in &self.watches {
            let request = &opened.request;
            let mut expected = BTreeMap::new();
            for (revision, events) in self.model.events.range(opened.start..) {
                let matching =
                    |event: &&Event| in_range(&event.kv.key, &request.key, request.end.as_ref());
                let mut events: Vec<Event> = events.iter().filter(matching).cloned().collect();
                let told = opened.told.get(revision).map_or(&[][..], Vec::as_slice);
                for (event, told) in events.iter_mut().zip(told) {
                    let may_be_gone = *revision <= self.model.compacted && told.prev.is_none();
                    if !request.prev_kv || may_be_gone {
                        event.prev = None;
                    }
                }
                if !events.is_empty() {
                    expected.insert(*revision, events);
                }
            }
            assert_eq!(opened.told, expected, "{request:?}");
        }
    }

    /// Everything readable is as the model has it.
    async fn check_state(&self) {
        let store = &self.fixture.store;
        assert_eq!(store.revision().await.unwrap().0, self.model.revision());
        assert_eq!(
            store.compacted_revision().await.unwrap().0,
            self.model.compacted
        );
        for revision in 0..=self.model.revision() {
            let end = Some(Bytes::from_static(b"\0"));
            let revision = Some(Revision(revision));
            self.range(RangeRequest {
                end,
                revision,
                ..RangeRequest::default()
            })
            .await;
        }
        let leases: BTreeSet<i64> = store
            .leases()
            .await
            .unwrap()
            .into_iter()
            .map(|lease| lease.0)
            .collect();
        assert_eq!(leases, self.model.leases);
        for id in leases {
            let info = store.lease_info(LeaseId(id)).await.unwrap();
            let latest = self.model.history.last().unwrap();
            let held: Vec<Bytes> = latest
                .values()
                .filter(|kv| kv.lease.0 == id)
                .map(|kv| kv.key.clone())
                .collect();
            assert_eq!(info.keys, held);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_the_model(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let config = store::sqlite::Config {
                fsync: false,
                cache_bytes: 4096,
                ..store::sqlite::Config::default()
            };
            let mut harness =
                Harness { fixture: Fixture::with(config), model: Model::new(), watches: vec![] };
            for step in steps {
                harness.apply(step).await;
            }
            harness.catch_up().await;
            harness.check_watches();
            harness.check_state().await;
            harness.watches.clear();
            harness.fixture.reopen().await;
            harness.check_state().await;
        });
    }
}

//! Recording core/v1 Events.
//!
//! A recorder never blocks and never fails its caller: events go through a
//! bounded queue to one task, and are dropped when that is full or when the
//! API server refuses them. Before an event is written it is correlated as
//! client-go does it: repeats raise `count` of the event already there,
//! floods of events that differ only in their message are combined, and one
//! source may write 25 events about one object at once and then one every
//! five minutes.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use base::Supervisor;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;

/// Events waiting to be written; further ones are dropped.
const QUEUE: usize = 1000;
const TRIES: u32 = 12;
const RETRY: Duration = Duration::from_secs(10);

/// What an event tells about an object's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// Something happened as it should.
    Normal,
    /// Something that may need attention.
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Writes events in the name of one component. Clones share the queue.
#[derive(Clone)]
pub struct EventRecorder {
    queue: mpsc::Sender<Event>,
    component: String,
    host: String,
}

impl EventRecorder {
    /// A recorder for `component` (such as `kubelet`) on `host` (a node's name,
    /// or empty), whose writing task `tasks` owns.
    pub fn new(
        client: Client,
        tasks: &Supervisor,
        component: impl Into<String>,
        host: impl Into<String>,
    ) -> Self {
        let (queue, events) = mpsc::channel(QUEUE);
        tasks.spawn("events", move |stop| async move {
            stop.guard(write_all(client, events)).await;
        });
        Self {
            queue,
            component: component.into(),
            host: host.into(),
        }
    }

    /// The same queue, in the name of another component.
    #[must_use]
    pub fn named(&self, component: impl Into<String>) -> Self {
        Self {
            component: component.into(),
            ..self.clone()
        }
    }

    /// Records an event about an object.
    pub fn event<K: kube::Resource<DynamicType = ()>>(
        &self,
        about: &K,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.event_for(reference(about), kind, reason, message);
    }

    /// Records an event about whatever `about` names, such as one container of
    /// a pod (`fieldPath: spec.containers{name}`).
    pub fn event_for(
        &self,
        about: ObjectReference,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        let now = Timestamp::now();
        let namespace = match about.namespace.as_deref() {
            None | Some("") => "default".to_owned(),
            Some(namespace) => namespace.to_owned(),
        };
        let name = about.name.clone().unwrap_or_default();
        let event = Event {
            metadata: ObjectMeta {
                name: Some(event_name(&name, now)),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            },
            involved_object: about,
            reason: Some(reason.to_owned()),
            message: Some(message.into()),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            type_: Some(kind.as_str().to_owned()),
            source: Some(EventSource {
                component: Some(self.component.clone()),
                host: (!self.host.is_empty()).then(|| self.host.clone()),
            }),
            reporting_component: Some(self.component.clone()),
            reporting_instance: Some(self.host.clone()),
            ..Event::default()
        };
        if let Err(error) = self.queue.try_send(event) {
            tracing::debug!(%error, "event dropped");
        }
    }
}

/// The reference an event about `object` carries.
pub fn reference<K: kube::Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

/// `NAME.HEX`, with NAME cut so that the whole is a valid object name.
fn event_name(about: &str, at: Timestamp) -> String {
    let suffix = format!(".{:x}", at.as_nanosecond());
    let mut end = about.len().min(253 - suffix.len());
    while !about.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", about[..end].trim_end_matches(['.', '-']))
}

async fn write_all(client: Client, mut events: mpsc::Receiver<Event>) {
    let mut correlator = Correlator::default();
    while let Some(event) = events.recv().await {
        if let Some((key, event)) = correlator.correlate(event) {
            write(&client, &mut correlator, key, event).await;
        }
    }
}

async fn write(client: &Client, correlator: &mut Correlator, key: u64, event: Event) {
    let namespace = event.metadata.namespace.clone().unwrap_or_default();
    let name = event.metadata.name.clone().unwrap_or_default();
    let api = Api::<Event>::namespaced(client.clone(), &namespace);
    let count = event.count.unwrap_or(1);
    for attempt in 0..TRIES {
        let mut outcome = None;
        if count > 1 {
            let patch = json!({
                "count": count,
                "lastTimestamp": event.last_timestamp,
                "message": event.message,
            });
            let patched = api
                .patch(&name, &PatchParams::default(), &Patch::Strategic(patch))
                .await;
            if !matches!(&patched, Err(kube::Error::Api(status)) if status.is_not_found()) {
                outcome = Some(patched);
            }
        }
        let outcome = match outcome {
            Some(outcome) => outcome,
            None => api.create(&PostParams::default(), &event).await,
        };
        match outcome {
            Ok(written) => return correlator.written(key, &written),
            Err(kube::Error::Api(status)) => {
                tracing::debug!(reason = %status.reason, "event refused: {}", status.message);
                return;
            }
            Err(error) => {
                tracing::debug!(error = %base::Chain(&error), "event not written yet");
                let delay = if attempt == 0 {
                    RETRY.mul_f64(fastrand::f64())
                } else {
                    RETRY
                };
                tokio::time::sleep(delay).await;
            }
        }
    }
}

const COMBINE_AFTER: usize = 10;
const COMBINE_WITHIN_SECONDS: i64 = 600;
const SPAM_BURST: f64 = 25.0;
const SPAM_SECONDS_EACH: f64 = 300.0;
const REMEMBERED: usize = 4096;

/// client-go's event correlation: combine, count, limit.
#[derive(Default)]
struct Correlator {
    similar: Bounded<Similar>,
    seen: Bounded<Seen>,
    budgets: Bounded<Budget>,
}

struct Similar {
    messages: HashSet<u64>,
    last: Timestamp,
}

#[derive(Clone)]
struct Seen {
    count: i32,
    name: String,
    first: Option<Time>,
}

struct Budget {
    tokens: f64,
    last: Timestamp,
}

impl Correlator {
    /// The event to write and its identity; `None` for spam.
    fn correlate(&mut self, mut event: Event) -> Option<(u64, Event)> {
        let now = event
            .last_timestamp
            .as_ref()
            .map_or_else(Timestamp::now, |time| time.0);
        let group = {
            let about = &event.involved_object;
            digest(&(
                source(&event),
                (
                    &about.kind,
                    &about.namespace,
                    &about.name,
                    &about.uid,
                    &about.api_version,
                ),
                (&event.type_, &event.reason),
            ))
        };
        let exact = digest(&(group, &event.involved_object.field_path, &event.message));
        let similar = self.similar.get_or_insert(group, || Similar {
            messages: HashSet::new(),
            last: now,
        });
        if now.as_second() - similar.last.as_second() > COMBINE_WITHIN_SECONDS {
            similar.messages.clear();
        }
        similar.last = now;
        similar.messages.insert(digest(&event.message));
        let key = if similar.messages.len() < COMBINE_AFTER {
            exact
        } else {
            // Which message leaves does not matter; the set must not grow.
            if let Some(&one) = similar.messages.iter().next() {
                similar.messages.remove(&one);
            }
            let message = event.message.take().unwrap_or_default();
            event.message = Some(format!("(combined from similar events): {message}"));
            group
        };
        let fresh = Seen {
            count: 0,
            name: event.metadata.name.clone().unwrap_or_default(),
            first: event.first_timestamp.clone(),
        };
        let seen = self.seen.get_or_insert(key, || fresh);
        seen.count += 1;
        event.count = Some(seen.count);
        event.metadata.name = Some(seen.name.clone());
        event.first_timestamp = seen.first.clone();
        let about = &event.involved_object;
        let origin = digest(&(
            source(&event),
            (
                &about.kind,
                &about.namespace,
                &about.name,
                &about.uid,
                &about.api_version,
            ),
        ));
        let budget = self.budgets.get_or_insert(origin, || Budget {
            tokens: SPAM_BURST,
            last: now,
        });
        let elapsed = now.duration_since(budget.last).as_secs_f64().max(0.0);
        budget.tokens = (budget.tokens + elapsed / SPAM_SECONDS_EACH).min(SPAM_BURST);
        budget.last = now;
        if budget.tokens < 1.0 {
            return None;
        }
        budget.tokens -= 1.0;
        Some((key, event))
    }

    /// Takes over what the API server made of an event.
    fn written(&mut self, key: u64, event: &Event) {
        if let Some(seen) = self.seen.get_mut(key) {
            seen.name = event.metadata.name.clone().unwrap_or_default();
            seen.first = event.first_timestamp.clone();
            seen.count = event.count.unwrap_or(seen.count);
        }
    }
}

fn source(event: &Event) -> u64 {
    digest(&(&event.reporting_component, &event.reporting_instance))
}

fn digest(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A map that forgets its least recently used half once it is full.
struct Bounded<V> {
    entries: HashMap<u64, (u64, V)>,
    clock: u64,
}

impl<V> Default for Bounded<V> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            clock: 0,
        }
    }
}

impl<V> Bounded<V> {
    fn get_or_insert(&mut self, key: u64, fresh: impl FnOnce() -> V) -> &mut V {
        self.clock += 1;
        if self.entries.len() >= REMEMBERED && !self.entries.contains_key(&key) {
            let mut uses: Vec<u64> = self.entries.values().map(|(used, _)| *used).collect();
            uses.sort_unstable();
            let median = uses[uses.len() / 2];
            self.entries.retain(|_, (used, _)| *used >= median);
        }
        let clock = self.clock;
        let entry = self.entries.entry(key).or_insert_with(|| (clock, fresh()));
        entry.0 = clock;
        &mut entry.1
    }

    fn get_mut(&mut self, key: u64) -> Option<&mut V> {
        self.entries.get_mut(&key).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn event(pod: &str, message: &str) -> Event {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        Event {
            metadata: ObjectMeta {
                name: Some(event_name(pod, now)),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                name: Some(pod.to_owned()),
                ..ObjectReference::default()
            },
            message: Some(message.to_owned()),
            last_timestamp: Some(Time(now)),
            ..Event::default()
        }
    }

    #[test]
    fn repeats_raise_the_count() {
        let mut correlator = Correlator::default();
        for count in 1..=3 {
            let (_, event) = correlator.correlate(event("a", "no")).unwrap();
            assert_eq!(event.count, Some(count));
            assert_eq!(event.metadata.name.as_deref(), Some("a.17979cfe362a0000"));
        }
    }

    #[test]
    fn similar_events_are_combined_from_the_tenth() {
        let mut correlator = Correlator::default();
        for message in 0..12 {
            let (_, event) = correlator
                .correlate(event("a", &message.to_string()))
                .unwrap();
            let combined = event
                .message
                .unwrap()
                .starts_with("(combined from similar events): ");
            assert_eq!(combined, message >= 9, "message {message}");
            assert_eq!(event.count, Some((message - 8).max(1)));
        }
    }

    #[test]
    fn a_source_may_write_25_events_about_an_object_at_once() {
        let mut correlator = Correlator::default();
        let written = (0..40)
            .filter(|_| correlator.correlate(event("a", "no")).is_some())
            .count();
        assert_eq!(written, 25);
        assert!(correlator.correlate(event("b", "no")).is_some());
    }

    #[test]
    fn names_are_cut_to_the_limit() {
        let name = event_name(
            &"x".repeat(300),
            Timestamp::from_second(1_700_000_000).unwrap(),
        );
        assert_eq!(name.len(), 253);
    }
}

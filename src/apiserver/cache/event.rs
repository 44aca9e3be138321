//! Changes as watchers see them.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::entry::{Codec, Entry};
use super::filter::{Fields, Filter};

/// `watch.EventType` of a change, from one watcher's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventType {
    Added,
    Modified,
    Deleted,
}

impl EventType {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One change of one object; shared by every watcher.
#[derive(Debug)]
pub(crate) struct Event {
    /// When.
    pub revision: u64,
    /// The object afterwards; `None` if it was deleted.
    pub current: Option<Arc<Entry>>,
    /// The object before; `None` if it was created.
    pub previous: Option<Arc<Entry>>,
    codec: Arc<Codec>,
    last: OnceLock<Arc<Entry>>,
    frames: [OnceLock<Bytes>; 3],
}

impl Event {
    pub(crate) fn new(
        codec: Arc<Codec>,
        revision: u64,
        current: Option<Arc<Entry>>,
        previous: Option<Arc<Entry>>,
    ) -> Self {
        Self {
            revision,
            current,
            previous,
            codec,
            last: OnceLock::new(),
            frames: Default::default(),
        }
    }

    /// What the event is to a watcher; `None` if it does not concern it. An
    /// object that begins or ceases to match appears or goes.
    pub(crate) fn seen_by(&self, filter: &Filter, fields: &Fields) -> Option<EventType> {
        let matches = |entry: &Option<Arc<Entry>>| {
            entry
                .as_ref()
                .is_some_and(|entry| filter.matches(entry, fields))
        };
        match (matches(&self.previous), matches(&self.current)) {
            (false, true) => Some(EventType::Added),
            (true, true) => Some(EventType::Modified),
            (true, false) => Some(EventType::Deleted),
            (false, false) => None,
        }
    }

    /// The object an event of this type carries: for a deletion its last form
    /// with the version of the change.
    pub(crate) fn object(&self, kind: EventType) -> &Arc<Entry> {
        if kind != EventType::Deleted
            && let Some(current) = &self.current
        {
            return current;
        }
        self.last.get_or_init(|| {
            let previous = self
                .previous
                .as_ref()
                .expect("an event without an object now had one before");
            Arc::new(previous.at(&self.codec, self.revision))
        })
    }

    /// The JSON watch frame, encoded once for all watchers.
    pub(crate) fn frame(&self, kind: EventType) -> Bytes {
        self.frames[kind as usize]
            .get_or_init(|| json_frame(kind.as_str(), &self.object(kind).bytes))
            .clone()
    }
}

/// `{"type":T,"object":O}` and a line feed.
pub(crate) fn json_frame(kind: &str, object: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(object.len() + 40);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
    out.into()
}

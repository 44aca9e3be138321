//! Pods that wait for a node.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use client::NamespacedName;
use tokio::time::Instant;

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LAST_BACKOFF: Duration = Duration::from_secs(10);
/// A pod nothing happened for is looked at again after this long.
const FLUSH: Duration = Duration::from_secs(5 * 60);

/// The order in which active pods are tried: by priority, then by arrival.
type Turn = (Reverse<i32>, u64, NamespacedName);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Active,
    Backoff(Instant),
    Unschedulable { until: Instant, backoff: Instant },
    InFlight,
}

#[derive(Debug)]
struct Waiting {
    place: Place,
    priority: i32,
    arrival: u64,
    attempts: u32,
    /// Something changed while the pod was being tried.
    stirred: bool,
}

/// The scheduling queue: active, backing off, or unschedulable until
/// something changes.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pods: HashMap<NamespacedName, Waiting>,
    active: BTreeSet<Turn>,
    arrivals: u64,
}

impl Queue {
    /// Adds a pod, or lets one that is known be tried again because it changed.
    pub(crate) fn add(&mut self, key: &NamespacedName, priority: i32) {
        match self.pods.get_mut(key) {
            Some(waiting) => {
                waiting.priority = priority;
                self.wake(key, Instant::now());
            }
            None => {
                self.arrivals += 1;
                let arrival = self.arrivals;
                let waiting = Waiting {
                    place: Place::Active,
                    priority,
                    arrival,
                    attempts: 0,
                    stirred: false,
                };
                self.active
                    .insert((Reverse(priority), arrival, key.clone()));
                self.pods.insert(key.clone(), waiting);
            }
        }
    }

    pub(crate) fn contains(&self, key: &NamespacedName) -> bool {
        self.pods.contains_key(key)
    }

    pub(crate) fn remove(&mut self, key: &NamespacedName) {
        if let Some(waiting) = self.pods.remove(key) {
            self.active
                .remove(&(Reverse(waiting.priority), waiting.arrival, key.clone()));
        }
    }

    /// The next pod to try.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<NamespacedName> {
        self.release(now);
        let (_, _, key) = self.active.pop_first()?;
        let waiting = self.pods.get_mut(&key)?;
        waiting.place = Place::InFlight;
        waiting.stirred = false;
        waiting.attempts += 1;
        Some(key)
    }

    /// When a pod has to be looked at though nothing changed.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.pods
            .values()
            .filter_map(|waiting| match waiting.place {
                Place::Backoff(until) | Place::Unschedulable { until, .. } => Some(until),
                Place::Active | Place::InFlight => None,
            })
            .min()
    }

    /// Puts a pod that did not fit aside until something changes.
    pub(crate) fn park(&mut self, key: &NamespacedName, now: Instant) {
        if let Some(waiting) = self.pods.get_mut(key) {
            let doublings = waiting.attempts.saturating_sub(1).min(8);
            let backoff = now + (FIRST_BACKOFF * (1 << doublings)).min(LAST_BACKOFF);
            waiting.place = Place::Unschedulable {
                until: now + FLUSH,
                backoff,
            };
            if waiting.stirred {
                self.wake(key, now);
            }
        }
    }

    /// Tries a pod again after its back-off, as after a failed binding.
    pub(crate) fn retry(&mut self, key: &NamespacedName, now: Instant) {
        self.park(key, now);
        self.wake(key, now);
    }

    /// Lets one pod be tried again, once its back-off is over.
    fn wake(&mut self, key: &NamespacedName, now: Instant) {
        let Some(waiting) = self.pods.get_mut(key) else {
            return;
        };
        match waiting.place {
            Place::Unschedulable { backoff, .. } if backoff > now => {
                waiting.place = Place::Backoff(backoff);
            }
            Place::Unschedulable { .. } => {
                waiting.place = Place::Active;
                self.active
                    .insert((Reverse(waiting.priority), waiting.arrival, key.clone()));
            }
            Place::InFlight => waiting.stirred = true,
            Place::Active | Place::Backoff(_) => {}
        }
    }

    /// Lets every parked pod be tried again: the cluster changed.
    pub(crate) fn stir(&mut self, now: Instant) {
        let keys: Vec<NamespacedName> = self.pods.keys().cloned().collect();
        for key in keys {
            self.wake(&key, now);
        }
    }

    fn release(&mut self, now: Instant) {
        for (key, waiting) in &mut self.pods {
            let due = match waiting.place {
                Place::Backoff(until) | Place::Unschedulable { until, .. } => until <= now,
                Place::Active | Place::InFlight => false,
            };
            if due {
                waiting.place = Place::Active;
                self.active
                    .insert((Reverse(waiting.priority), waiting.arrival, key.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> NamespacedName {
        NamespacedName::new("default", name)
    }

    #[test]
    fn takes_the_important_first_and_then_by_arrival() {
        let mut queue = Queue::default();
        for (name, priority) in [("a", 0), ("b", 0), ("c", 5)] {
            queue.add(&key(name), priority);
        }
        let now = Instant::now();
        let order: Vec<_> = std::iter::from_fn(|| queue.pop(now)).collect();
        assert_eq!(order, [key("c"), key("a"), key("b")]);
    }

    #[test]
    fn a_parked_pod_waits_for_a_change_and_its_back_off() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.add(&key("a"), 0);
        assert_eq!(queue.pop(now), Some(key("a")));
        queue.park(&key("a"), now);
        assert_eq!(queue.pop(now + Duration::from_secs(60)), None);
        queue.stir(now);
        assert_eq!(queue.pop(now), None);
        assert_eq!(queue.next_deadline(), Some(now + FIRST_BACKOFF));
        assert_eq!(queue.pop(now + FIRST_BACKOFF), Some(key("a")));
        queue.park(&key("a"), now);
        queue.stir(now);
        assert_eq!(queue.next_deadline(), Some(now + 2 * FIRST_BACKOFF));
    }

    #[test]
    fn a_change_during_an_attempt_is_not_lost() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.add(&key("a"), 0);
        queue.pop(now);
        queue.stir(now);
        queue.park(&key("a"), now);
        assert_eq!(queue.next_deadline(), Some(now + FIRST_BACKOFF));
    }
}

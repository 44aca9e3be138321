//! The Kubernetes client every other part of Karve uses.
//!
//! [`Client`] is kube's client over any tower service: inside the server
//! process it calls the API server directly, on an agent it speaks TLS. On it
//! stand [`Informers`] (one list/watch for each kind, shared by everyone who
//! asks), and [`Controller`] (a work queue of keys with one run for each key
//! at a time, deduplication and back-off). [`EventRecorder`] writes Events.
//!
//! List/watch itself is `kube::runtime::watcher`: an explicit state machine
//! that resumes, relists on 410 and backs off, used as it is.

#![forbid(unsafe_code)]

mod controller;
mod events;
mod informer;
mod key;
pub mod labels;
pub mod placement;
#[cfg(feature = "testing")]
pub mod testing;

pub use controller::{Action, Controller, Enqueue, Observed};
pub use events::{EventRecorder, EventType, reference};
pub use informer::{Change, Informer, Informers, Subscription, Watched};
pub use key::NamespacedName;
pub use kube::api;
pub use kube::core;
pub use kube::discovery;
pub use kube::runtime;
pub use kube::{Api, Client, Error, Resource, ResourceExt};

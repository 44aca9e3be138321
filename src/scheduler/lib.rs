//! The pod scheduler: filter, score, preempt, bind.
//!
//! [`schedule()`] decides and does nothing else: it takes a [`Snapshot`] and a
//! pod and gives a node, or says why there is none. [`register`] starts the
//! loop around it, which keeps the snapshot current from informers, takes pods
//! from the queue one by one, assumes each placed before its binding is
//! written, and binds in the background. On an idle cluster a pod is bound as
//! soon as its creation is seen.
//!
//! Left out on purpose: several profiles, extenders, and sampling of nodes in
//! large clusters. Only pods of `default-scheduler` are looked at.
#![forbid(unsafe_code)]

mod affinity;
mod bind;
mod filter;
mod matching;
mod preempt;
mod quantity;
mod queue;
mod resources;
mod run;
mod schedule;
mod score;
mod snapshot;
mod spread;
#[cfg(test)]
mod tests;

pub use filter::Rejection;
pub use resources::{Resources, pod_requests};
pub use run::register;
pub use schedule::{FitError, NodeName, schedule};
pub use snapshot::{NodeInfo, PodInfo, Snapshot};

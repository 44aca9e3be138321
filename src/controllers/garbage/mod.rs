//! Deletes what its owners left behind.
//!
//! Every deletable resource the API server serves is watched, metadata only,
//! into a [`Graph`]. A change names the objects it concerns; each of those is
//! read afresh before anything is done to it. Background deletion removes
//! objects none of whose owners exists; foreground deletion removes
//! dependents before their owner; orphaning parts them first.
//!
//! Events are left out, as upstream does: there are many and nobody owns them.

mod collect;
mod graph;
mod watch;

use std::sync::Arc;

use client::{Client, Controller, Enqueue};
use parking_lot::{Mutex, RwLock};

use crate::context::Context;
use crate::discover::Discovered;
use graph::{Graph, Uid};

const NAME: &str = "generic-garbage-collector";

pub(crate) fn register(context: &Context) {
    let controller = Controller::<Uid>::new(NAME, context.tasks.clone());
    let collector = Arc::new(Collector {
        client: context.client(NAME),
        graph: Mutex::default(),
        resources: RwLock::default(),
        unsynced: tokio::sync::watch::Sender::new(1),
        enqueue: controller.enqueue(),
    });
    let tasks = context.tasks.clone();
    let watching = collector.clone();
    tasks
        .clone()
        .spawn("garbage collector discovery", move |stop| {
            watch::discover(watching, tasks, stop)
        });
    controller.run(8, move |uid| {
        let collector = collector.clone();
        async move { collector.reconcile(&uid).await }
    });
}

struct Collector {
    client: Client,
    graph: Mutex<Graph>,
    /// What the API server serves, watched or not: owners can be of any kind.
    resources: RwLock<Vec<Arc<Discovered>>>,
    /// First lists that have not arrived yet.
    unsynced: tokio::sync::watch::Sender<usize>,
    enqueue: Enqueue<Uid>,
}

impl Collector {
    /// The resource an owner reference speaks of.
    fn resource_of(&self, api_version: &str, kind: &str) -> Option<Arc<Discovered>> {
        let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
        let resources = self.resources.read();
        resources
            .iter()
            .find(|known| known.resource.group == group && known.resource.kind == kind)
            .cloned()
    }

    fn run(&self, affected: Vec<Uid>) {
        for uid in affected {
            self.enqueue.add(uid);
        }
    }
}

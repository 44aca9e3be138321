//! Keeping the kernel in step with the API.

use std::time::Duration;

use base::{Backoff, Shutdown};
use client::{Informer, Informers, NamespacedName};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use linux::netlink;
use linux::nftables::{Family, Owner, Removals};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::flows::{Frontends, forget_stale};
use crate::render::{Ruleset, State, TABLE, render};

const TABLES: [(Family, &str); 2] = [(Family::Ip, TABLE), (Family::Ip6, TABLE)];
const ZONE: &str = "topology.kubernetes.io/zone";

/// How this node proxies.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this node.
    pub node_name: String,
    /// All pods of the cluster.
    pub cluster_cidrs: Vec<IpNet>,
    /// Where ClusterIPs come from.
    pub service_cidrs: Vec<IpNet>,
    /// Shortest time between two transactions. The first change after a quiet
    /// time is carried out at once; what follows within this time is gathered.
    pub min_interval: Duration,
}

/// The kernel refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// nf_tables is missing or refused the rules.
    #[error("programming Services into nftables")]
    Nftables(#[source] netlink::Error),
}

/// Keeps the rules of all Services. Acts in the network namespace of the
/// thread that made it.
pub struct Proxy {
    config: Config,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    nodes: Informer<Node>,
    /// Absent while a transaction is under way.
    kernel: Option<Kernel>,
    synced: watch::Sender<bool>,
}

#[derive(Debug)]
struct Kernel {
    owner: Owner,
    /// What the last clean-up of flows was for.
    udp: Option<Frontends>,
}

impl Kernel {
    fn apply(&mut self, Ruleset { tables, udp }: Ruleset) -> Result<(), Error> {
        self.owner.sync(tables).map_err(Error::Nftables)?;
        if self.udp.as_ref() != Some(&udp) {
            // The rules stand; a flow that could not be forgotten is no reason to send them again.
            match forget_stale(&udp) {
                Ok(0) => {}
                Ok(count) => tracing::debug!(count, "forgot stale UDP flows"),
                Err(error) => {
                    tracing::warn!(error = %base::Chain(&error), "forgetting stale UDP flows");
                }
            }
            self.udp = Some(udp);
        }
        Ok(())
    }
}

impl Proxy {
    /// A proxy that has not done anything yet. The rules of an earlier run stay
    /// until the first transaction of this one.
    pub fn new(config: Config, informers: &Informers) -> Result<Self, Error> {
        let owner = Owner::open().map_err(Error::Nftables)?;
        let own = format!("metadata.name={}", config.node_name);
        Ok(Self {
            services: informers.of(),
            slices: informers.of(),
            nodes: informers.with_fields(&own),
            config,
            kernel: Some(Kernel { owner, udp: None }),
            synced: watch::Sender::new(false),
        })
    }

    /// Becomes true once the kernel holds all Services for the first time.
    pub fn synced(&self) -> watch::Receiver<bool> {
        self.synced.subscribe()
    }

    /// Runs until told to stop. The rules stay.
    pub async fn run(mut self, stop: Shutdown) {
        let mut services = self.services.subscribe();
        let mut slices = self.slices.subscribe();
        let mut nodes = self.nodes.subscribe();
        let started = async {
            self.services.synced().await;
            self.slices.synced().await;
        };
        if stop.guard(started).await.is_none() {
            return;
        }
        let mut removals = self.removals();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
        let mut due: Option<Instant> = Some(Instant::now());
        let mut earliest = Instant::now();
        loop {
            let wait = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let ended = tokio::select! {
                () = stop.triggered() => return,
                () = wait => {
                    match self.sync().await {
                        Some(Ok(())) => {
                            backoff.reset();
                            due = None;
                        }
                        Some(Err(error)) => {
                            tracing::error!(error = %base::Chain(&error), "retrying");
                            due = Some(Instant::now() + backoff.next_delay());
                        }
                        None => return,
                    }
                    earliest = Instant::now() + self.config.min_interval;
                    continue;
                }
                () = removed(&mut removals) => {
                    tracing::warn!("the rules of Services were removed, putting them back");
                    if let Some(kernel) = &mut self.kernel {
                        kernel.owner.forget();
                    }
                    false
                }
                change = services.next() => change.is_none(),
                change = slices.next() => change.is_none(),
                change = nodes.next() => match change {
                    // The kubelet reports every few seconds; only the zone matters.
                    Some(client::Change::Applied { old: Some(old), new })
                        if zone(&old) == zone(&new) => continue,
                    change => change.is_none(),
                },
            };
            if ended {
                return;
            }
            due = due.or(Some(earliest.max(Instant::now())));
        }
    }

    fn removals(&self) -> Option<Removals> {
        let owner = &self.kernel.as_ref()?.owner;
        match Removals::of(owner, &TABLES) {
            Ok(removals) => Some(removals),
            Err(error) => {
                tracing::warn!(
                    error = %base::Chain(&error),
                    "rules that others remove are put back with the next change only"
                );
                None
            }
        }
    }

    /// `None` when the runtime is going down.
    async fn sync(&mut self) -> Option<Result<(), Error>> {
        let node = self
            .nodes
            .get(&NamespacedName::new("", &self.config.node_name));
        let state = State {
            services: self.services.list(),
            slices: self.slices.list(),
            node: self.config.node_name.clone(),
            zone: node.and_then(|node| zone(&node).map(str::to_owned)),
            cluster_cidrs: self.config.cluster_cidrs.clone(),
            service_cidrs: self.config.service_cidrs.clone(),
        };
        // Rendering and netlink take milliseconds with thousands of Services.
        let mut kernel = self.kernel.take()?;
        let job = tokio::task::spawn_blocking(move || {
            let outcome = kernel.apply(render(&state));
            (kernel, outcome)
        });
        let (kernel, outcome) = job.await.ok()?;
        self.kernel = Some(kernel);
        if outcome.is_ok() {
            self.synced.send_replace(true);
        }
        Some(outcome)
    }
}

/// Completes when somebody else removed the rules.
async fn removed(removals: &mut Option<Removals>) {
    if let Some(listener) = removals {
        match listener.next().await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(%error, "listening for changes of nftables");
                *removals = None;
            }
        }
    }
    std::future::pending().await
}

fn zone(node: &Node) -> Option<&str> {
    node.metadata.labels.as_ref()?.get(ZONE).map(String::as_str)
}

/// Removes all rules of Services, for uninstalling.
pub fn remove() -> Result<(), Error> {
    let mut owner = Owner::open().map_err(Error::Nftables)?;
    owner.remove(&TABLES).map_err(Error::Nftables)
}

//! [`Network`]: the order in which pool, state, plumbing and rules are called.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base::Shutdown;
use cri::{
    ErrorKind, PodNetwork, PodNetworkRequest, PodNetworkStatus, PodSandboxId, PortMapping, Protocol,
};
use ipnet::IpNet;
use linux::conntrack::{Conntrack, Flow};
use linux::nftables::{Owner, Removals};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::Error;
use crate::plumbing::{self, NODE_INTERFACES, Node};
use crate::pool::Pool;
use crate::rules::{self, Facts};
use crate::state::{Attachment, State, StateFile};

/// How long [`PodNetwork::set_up`] waits for the node's pod CIDR.
const WAIT_FOR_CIDR: Duration = Duration::from_secs(30);
const DEFAULT_MTU: u32 = 1500;

/// How the pod network of this node is laid out.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's pod CIDRs (`node.spec.podCIDRs`), at most one of each
    /// family, the primary family first. Empty when not known yet: see
    /// [`Network::set_pod_cidrs`].
    pub pod_cidrs: Vec<IpNet>,
    /// All pods of the cluster; traffic that leaves them is masqueraded.
    pub cluster_cidrs: Vec<IpNet>,
    /// Where Services have their addresses.
    pub service_cidrs: Vec<IpNet>,
    /// Name of the interface that carries the node's addresses in the pod
    /// network, such as `karve0`.
    pub interface: String,
    /// Largest packet in bytes; that of the default route's interface when absent.
    pub mtu: Option<u32>,
    /// Folder for what has to survive a restart of the daemon.
    pub state_dir: PathBuf,
}

/// The pod network of this node. It acts in the network namespace of the
/// threads that call it.
#[derive(Debug)]
pub struct Network {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    file: StateFile,
    inner: Mutex<Inner>,
    /// The gateways, once pods can be plugged in.
    ready: watch::Sender<Option<Vec<IpAddr>>>,
}

#[derive(Debug)]
struct Inner {
    state: State,
    pools: Vec<Pool>,
    node: Node,
    rules: Owner,
}

impl Network {
    /// Loads what earlier runs handed out and, if the pod CIDRs are known (now
    /// or from an earlier run), prepares the node.
    pub fn new(config: Config) -> Result<Arc<Self>, Error> {
        let file = StateFile::open(&config.state_dir)?;
        let state = file.load()?;
        let cidrs = if config.pod_cidrs.is_empty() {
            state.pod_cidrs.clone()
        } else {
            config.pod_cidrs.clone()
        };
        let shared = Shared {
            config,
            file,
            inner: Mutex::new(Inner {
                state,
                pools: Vec::new(),
                node: Node::default(),
                rules: Owner::open()?,
            }),
            ready: watch::Sender::new(None),
        };
        if !cidrs.is_empty() {
            shared.set_pod_cidrs(&cidrs)?;
        }
        Ok(Arc::new(Self {
            shared: Arc::new(shared),
        }))
    }

    /// Sets the node's pod CIDRs, once they are known, and prepares the node.
    /// Call it again whenever the node object says so; nothing happens if
    /// nothing changed. Blocks for as long as a few netlink requests take.
    pub fn set_pod_cidrs(&self, cidrs: &[IpNet]) -> Result<(), Error> {
        self.shared.set_pod_cidrs(cidrs)
    }

    /// The node's addresses in the pod network, one of each family, once the
    /// pod CIDR is known. Pods reach the node at them.
    pub fn gateways(&self) -> Option<Vec<IpAddr>> {
        self.shared.gateways()
    }

    /// Waits until pods can be plugged in and returns the gateways.
    pub async fn ready(&self) -> Vec<IpAddr> {
        let mut ready = self.shared.ready.subscribe();
        // The sender lives in `self`: waiting cannot fail.
        match ready.wait_for(Option::is_some).await {
            Ok(gateways) => gateways.clone().unwrap_or_default(),
            Err(_) => Vec::new(),
        }
    }

    /// Puts the rules back whenever somebody else removes them (firewalls that
    /// are reloaded with `flush ruleset`), until told to stop.
    pub async fn run(&self, stop: Shutdown) {
        let listening = Removals::of(&self.shared.inner.lock().rules, &rules::TABLES);
        let mut removals = match listening {
            Ok(removals) => removals,
            Err(error) => {
                tracing::warn!(error = %base::Chain(&error), "rules that others remove stay away");
                return;
            }
        };
        while let Some(Ok(())) = stop.guard(removals.next()).await {
            tracing::warn!("the rules of the pod network were removed, putting them back");
            let shared = self.shared.clone();
            let put_back = blocking(move || {
                let mut inner = shared.inner.lock();
                inner.rules.forget();
                inner.sync_rules(&shared.config)
            });
            if let Err(error) = put_back.await {
                tracing::error!(error = %base::Chain(&error), "putting the rules back");
            }
        }
    }

    /// Removes all interfaces, routes, rules and state: the node looks as
    /// if Karve had never run. For uninstalling, and for a clean stop after
    /// every pod has gone.
    pub fn remove(&self) -> Result<(), Error> {
        self.shared.remove()
    }
}

impl Shared {
    fn set_pod_cidrs(&self, cidrs: &[IpNet]) -> Result<(), Error> {
        let mut inner = self.inner.lock();
        let cidrs: Vec<IpNet> = cidrs.iter().map(IpNet::trunc).collect();
        let changed = inner.state.pod_cidrs != cidrs;
        if !changed && self.ready.borrow().is_some() {
            return Ok(());
        }
        if changed && !inner.state.sandboxes.is_empty() {
            let list = |cidrs: &[IpNet]| {
                cidrs
                    .iter()
                    .map(IpNet::to_string)
                    .collect::<Vec<_>>()
                    .join(",")
            };
            return Err(Error::InUse {
                old: list(&inner.state.pod_cidrs),
                new: list(&cidrs),
                pods: inner.state.sandboxes.len(),
            });
        }
        let mut pools = cidrs
            .iter()
            .map(|net| Pool::new(*net))
            .collect::<Result<Vec<_>, _>>()?;
        for (pool, next) in pools.iter_mut().zip(&inner.state.next) {
            pool.resume(*next);
        }
        for ip in inner
            .state
            .sandboxes
            .values()
            .flat_map(|attachment| &attachment.ips)
        {
            // False for pools of the other family.
            let _ = pools.iter_mut().any(|pool| pool.occupy(*ip));
        }
        let gateways: Vec<IpAddr> = pools.iter().map(Pool::gateway).collect();
        let mtu = match self.config.mtu {
            Some(mtu) => mtu,
            None => plumbing::outer_mtu()?.unwrap_or(DEFAULT_MTU),
        };
        let node = Node {
            interface: self.config.interface.clone(),
            mtu,
            pod_cidrs: cidrs.clone(),
            service_cidrs: self.config.service_cidrs.clone(),
            gateways: gateways.clone(),
        };
        plumbing::prepare(&node)?;
        if changed {
            inner.state.pod_cidrs = cidrs;
            inner.state.next = pools.iter().map(Pool::next).collect();
            self.file.save(&inner.state)?;
        }
        inner.pools = pools;
        inner.node = node;
        inner.sync_rules(&self.config)?;
        self.ready.send_replace(Some(gateways));
        Ok(())
    }

    fn gateways(&self) -> Option<Vec<IpAddr>> {
        self.ready.borrow().clone()
    }

    fn remove(&self) -> Result<(), Error> {
        let mut inner = self.inner.lock();
        self.ready.send_replace(None);
        for attachment in inner.state.sandboxes.values() {
            plumbing::detach(attachment)?;
        }
        plumbing::remove(&self.config.interface, &inner.state.pod_cidrs)?;
        inner.rules.remove(&rules::TABLES)?;
        inner.state = State::default();
        inner.pools.clear();
        self.file.remove()
    }

    fn plug(&self, request: &PodNetworkRequest) -> Result<PodNetworkStatus, Error> {
        let mut inner = self.inner.lock();
        if self.ready.borrow().is_none() {
            return Err(Error::NotReady);
        }
        let id = request.sandbox.to_string();
        let attachment = match inner.state.sandboxes.get(&id) {
            Some(attachment) => attachment.clone(),
            None => {
                let attachment = inner.allocate(request)?;
                inner.state.sandboxes.insert(id, attachment.clone());
                // On disk before anything is made: what a crash leaves behind is known.
                self.file.save(&inner.state)?;
                attachment
            }
        };
        plumbing::attach(&inner.node, &request.netns, &attachment)?;
        inner.sync_rules(&self.config)?;
        let is_new_port = |flow: &Flow| {
            let port = flow.original.destination_port;
            attachment
                .ports
                .iter()
                .any(|mapping| mapping.host_port == port)
                && !attachment.ips.contains(&flow.reply.source)
                && flow.reply.source == flow.original.destination
        };
        forget_flows(is_new_port, !has_udp(&attachment.ports));
        Ok(PodNetworkStatus {
            ips: attachment.ips,
        })
    }

    fn unplug(&self, gone: impl Fn(&str) -> bool) -> Result<(), Error> {
        let mut inner = self.inner.lock();
        let ids: Vec<String> = inner
            .state
            .sandboxes
            .keys()
            .filter(|id| gone(id))
            .cloned()
            .collect();
        let mut closed: Vec<IpAddr> = Vec::new();
        for id in &ids {
            let Some(attachment) = inner.state.sandboxes.get(id) else {
                continue;
            };
            plumbing::detach(attachment)?;
            if let Some(attachment) = inner.state.sandboxes.remove(id) {
                for ip in &attachment.ips {
                    inner.pools.iter_mut().for_each(|pool| pool.free(*ip));
                }
                if has_udp(&attachment.ports) {
                    closed.extend(attachment.ips);
                }
            }
        }
        if ids.is_empty() {
            return Ok(());
        }
        self.file.save(&inner.state)?;
        inner.sync_rules(&self.config)?;
        forget_flows(
            |flow| closed.contains(&flow.reply.source),
            closed.is_empty(),
        );
        Ok(())
    }

    /// Removes veth pairs no sandbox has, such as those of a lost state file.
    fn sweep(&self) -> Result<(), Error> {
        let inner = self.inner.lock();
        let known: HashSet<&str> = inner
            .state
            .sandboxes
            .values()
            .map(|attachment| attachment.interface.as_str())
            .collect();
        plumbing::sweep(|interface| known.contains(interface))
    }
}

fn has_udp(ports: &[PortMapping]) -> bool {
    ports.iter().any(|port| port.protocol == Protocol::Udp)
}

/// Forgets UDP flows: those to a pod that is gone, and those to a host port
/// from before it was one. A flow that could not be forgotten is no reason to
/// fail a pod.
fn forget_flows(stale: impl Fn(&Flow) -> bool, none: bool) {
    const UDP: u8 = 17;
    if none {
        return;
    }
    let forget = || -> Result<(), linux::netlink::Error> {
        let mut conntrack = Conntrack::open()?;
        for flow in conntrack.flows(UDP)?.iter().filter(|flow| stale(flow)) {
            conntrack.delete(flow)?;
        }
        Ok(())
    };
    if let Err(error) = forget() {
        tracing::warn!(error = %base::Chain(&error), "forgetting stale UDP flows");
    }
}

impl Inner {
    /// Sends rules that changed; pods without host ports change none.
    fn sync_rules(&mut self, config: &Config) -> Result<(), Error> {
        let tables = rules::render(&Facts {
            pod_cidrs: &self.state.pod_cidrs,
            cluster_cidrs: &config.cluster_cidrs,
            attachments: self.state.sandboxes.values().collect(),
        });
        self.rules.sync(tables)?;
        Ok(())
    }

    fn allocate(&mut self, request: &PodNetworkRequest) -> Result<Attachment, Error> {
        let mut ips: Vec<IpAddr> = Vec::new();
        for at in 0..self.pools.len() {
            match self.pools[at].allocate() {
                Ok(ip) => ips.push(ip),
                Err(error) => {
                    for (pool, ip) in self.pools.iter_mut().zip(ips) {
                        pool.free(ip);
                    }
                    return Err(error);
                }
            }
        }
        self.state.next = self.pools.iter().map(Pool::next).collect();
        let slot = self
            .pools
            .iter()
            .zip(&ips)
            .find_map(|(pool, ip)| pool.slot(*ip))
            .ok_or(Error::NotReady)?;
        Ok(Attachment {
            pod: format!("{}/{}", request.namespace, request.name),
            interface: format!("{NODE_INTERFACES}{slot}"),
            ips,
            ports: request.port_mappings.clone(),
        })
    }
}

#[async_trait]
impl PodNetwork for Network {
    async fn set_up(&self, request: &PodNetworkRequest) -> cri::Result<PodNetworkStatus> {
        let pod = format!("{}/{}", request.namespace, request.name);
        let failed = |source: Error| {
            cri::Error::with_source(
                ErrorKind::Internal,
                format!("setting up the network of pod {pod}"),
                source,
            )
        };
        if tokio::time::timeout(WAIT_FOR_CIDR, self.ready())
            .await
            .is_err()
        {
            return Err(failed(Error::NotReady));
        }
        let (network, request) = (self.shared.clone(), request.clone());
        blocking(move || network.plug(&request))
            .await
            .map_err(failed)
    }

    async fn tear_down(&self, sandbox: &PodSandboxId) -> cri::Result<()> {
        let (network, id) = (self.shared.clone(), sandbox.to_string());
        blocking(move || network.unplug(|known| known == id))
            .await
            .map_err(|source| {
                cri::Error::with_source(
                    ErrorKind::Internal,
                    format!("tearing down the network of sandbox {sandbox}"),
                    source,
                )
            })
    }

    async fn status(&self, sandbox: &PodSandboxId) -> cri::Result<Option<PodNetworkStatus>> {
        let inner = self.shared.inner.lock();
        let known = inner.state.sandboxes.get(&sandbox.to_string());
        Ok(known.map(|attachment| PodNetworkStatus {
            ips: attachment.ips.clone(),
        }))
    }

    async fn retain(&self, keep: &[PodSandboxId]) -> cri::Result<()> {
        let keep: HashSet<String> = keep.iter().map(ToString::to_string).collect();
        let network = self.shared.clone();
        blocking(move || {
            network.unplug(|known| !keep.contains(known))?;
            network.sweep()
        })
        .await
        .map_err(|source| {
            cri::Error::with_source(
                ErrorKind::Internal,
                "freeing the network of sandboxes that are gone",
                source,
            )
        })
    }
}

/// Runs netlink work off the async threads.
async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(job).await {
        Ok(outcome) => outcome,
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::NotReady),
        },
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

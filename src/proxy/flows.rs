//! UDP flows that lead to endpoints which are gone.
//!
//! The kernel translates a UDP flow the way its first packet was translated,
//! for as long as packets keep coming. A client that goes on sending from the
//! same port (a DNS resolver, a game) would talk to a dead pod for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use linux::conntrack::{Conntrack, Flow};
use linux::netlink;

const UDP: u8 = 17;

type Targets = BTreeSet<(IpAddr, u16)>;

/// Where UDP flows to Services may lead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frontends {
    pub(crate) by_address: BTreeMap<(IpAddr, u16), Targets>,
    pub(crate) by_node_port: BTreeMap<u16, Targets>,
}

impl Frontends {
    /// Whether a flow goes to a Service but to none of its endpoints.
    fn is_stale(&self, flow: &Flow) -> bool {
        let wanted = (flow.original.destination, flow.original.destination_port);
        let actual = (flow.reply.source, flow.reply.source_port);
        let targets = self.by_address.get(&wanted).or_else(|| {
            // Only translated flows: others go to a process of the node.
            self.by_node_port
                .get(&wanted.1)
                .filter(|_| wanted.0 != actual.0)
        });
        targets.is_some_and(|targets| !targets.contains(&actual))
    }
}

/// Forgets stale flows and returns how many there were.
pub(crate) fn forget_stale(frontends: &Frontends) -> Result<usize, netlink::Error> {
    let mut conntrack = Conntrack::open()?;
    let stale: Vec<Flow> = conntrack
        .flows(UDP)?
        .into_iter()
        .filter(|flow| frontends.is_stale(flow))
        .collect();
    for flow in &stale {
        conntrack.delete(flow)?;
    }
    Ok(stale.len())
}

//! Interfaces, addresses and routes.
//!
//! Everything here is idempotent and acts in the network namespace of the
//! calling thread (the node's), or in the sandbox's where it says so.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;

use ipnet::IpNet;
use linux::netlink::{Link, LinkChange, Mac, NewLink, Route, RouteEntry};
use linux::{netns, sysctl};

use crate::Error;
use crate::state::Attachment;

/// The pod's interface, named as every pod expects it.
const POD_INTERFACE: &str = "eth0";

/// What the names of the node's ends of veth pairs begin with. (Tools that
/// manage networks leave `veth…` alone.)
pub(crate) const NODE_INTERFACES: &str = "vethk";

/// How the node is prepared.
#[derive(Clone, Debug, Default)]
pub(crate) struct Node {
    /// Interface that carries the node's addresses in the pod network.
    pub(crate) interface: String,
    pub(crate) mtu: u32,
    pub(crate) pod_cidrs: Vec<IpNet>,
    pub(crate) service_cidrs: Vec<IpNet>,
    /// The node's address in each pod CIDR.
    pub(crate) gateways: Vec<IpAddr>,
}

impl Node {
    fn gateway(&self, like: IpAddr) -> Option<IpAddr> {
        self.gateways
            .iter()
            .copied()
            .find(|gateway| gateway.is_ipv4() == like.is_ipv4())
    }

    /// The hardware address of all of the node's ends.
    fn mac(&self) -> Option<Mac> {
        self.gateways.first().copied().map(mac_of)
    }
}

/// Creates the node's own interface, or brings an existing one into shape.
///
/// Service addresses are routed to it: they are translated before they get
/// there, but without a route a node that has no default one (offline, at the
/// edge) would refuse to send to them at all. Pod addresses nobody has are
/// unreachable, so that callers of a pod that is gone fail at once.
pub(crate) fn prepare(node: &Node) -> Result<(), Error> {
    let mut route = Route::open()?;
    let link = own_interface(&mut route, node)?;
    let change = LinkChange {
        up: Some(true),
        mtu: Some(node.mtu),
        mac: node.mac(),
        master: None,
    };
    route.set_link(link.index, &change)?;
    let wanted: Vec<IpNet> = node.gateways.iter().copied().map(IpNet::from).collect();
    for (index, address) in route.addresses()? {
        if index == link.index && !wanted.contains(&address) {
            route.delete_address(index, address)?;
        }
    }
    for address in wanted {
        route.add_address(link.index, address)?;
    }
    for cidr in &node.pod_cidrs {
        route.set_route(&unreachable(*cidr))?;
    }
    for cidr in &node.service_cidrs {
        if let Some(gateway) = node.gateway(cidr.addr()) {
            route.set_route(&RouteEntry {
                to: *cidr,
                via: None,
                link: Some(link.index),
                on_link: false,
                source: Some(gateway),
            })?;
        }
    }
    if node.gateways.iter().any(IpAddr::is_ipv4) {
        sysctl::set("net/ipv4/ip_forward", "1")?;
    }
    if node.gateways.iter().any(IpAddr::is_ipv6) {
        sysctl::set("net/ipv6/conf/all/forwarding", "1")?;
    }
    Ok(())
}

fn own_interface(route: &mut Route, node: &Node) -> Result<Link, Error> {
    let name = &node.interface;
    if route.link(name)?.is_none() {
        let change = LinkChange {
            mtu: Some(node.mtu),
            mac: node.mac(),
            ..LinkChange::default()
        };
        // A bridge without ports serves as well where the kernel has no dummy driver.
        route
            .add_link(name, &NewLink::Dummy, &change)
            .or_else(|_| route.add_link(name, &NewLink::Bridge, &change))?;
        silence_ipv6(name)?;
    }
    let link = route
        .link(name)?
        .ok_or_else(|| Error::Vanished(name.clone()))?;
    match link.kind.as_deref() {
        Some("dummy" | "bridge") => Ok(link),
        _ => Err(Error::NameTaken(name.clone())),
    }
}

/// Joins a sandbox to the node.
pub(crate) fn attach(node: &Node, netns_path: &Path, attachment: &Attachment) -> Result<(), Error> {
    let Attachment { interface, ips, .. } = attachment;
    let mut route = Route::open()?;
    let mut inside = Route::open_in(netns_path)??;
    let pod_mac = ips.first().copied().map(mac_of);
    let whole = route.link(interface)?.is_some()
        && inside
            .link(POD_INTERFACE)?
            .is_some_and(|eth0| eth0.mac == pod_mac);
    if !whole {
        // Leftovers of an attempt that was cut short, or of another sandbox.
        route.delete_link(interface)?;
        inside.delete_link(POD_INTERFACE)?;
        let netns = File::open(netns_path).map_err(|source| Error::State {
            operation: "opening",
            path: netns_path.to_owned(),
            source,
        })?;
        let veth = NewLink::Veth {
            peer: POD_INTERFACE,
            peer_mac: pod_mac,
            peer_netns: Some(netns.as_fd()),
        };
        let change = LinkChange {
            mtu: Some(node.mtu),
            mac: node.mac(),
            ..LinkChange::default()
        };
        route.add_link(interface, &veth, &change)?;
    }
    silence_ipv6(interface)?;
    if ips.iter().any(IpAddr::is_ipv4) {
        // Host ports answer on loopback addresses; `rules` keeps pods off them.
        sysctl::set(&format!("net/ipv4/conf/{interface}/route_localnet"), "1")?;
    }
    netns::run_in(netns_path, || silence_ipv6(POD_INTERFACE))??;

    let up = LinkChange {
        up: Some(true),
        ..LinkChange::default()
    };
    inside.set_link(1, &up)?;
    let vanished = || Error::Vanished(interface.clone());
    let eth0 = inside.link(POD_INTERFACE)?.ok_or_else(vanished)?;
    inside.set_link(eth0.index, &up)?;
    let end = route.link(interface)?.ok_or_else(vanished)?;
    route.set_link(end.index, &up)?;
    for ip in ips {
        let Some(gateway) = node.gateway(*ip) else {
            continue;
        };
        inside.add_address(eth0.index, IpNet::from(*ip))?;
        let direct = |to: IpAddr, link: u32, source| RouteEntry {
            to: IpNet::from(to),
            via: None,
            link: Some(link),
            on_link: false,
            source,
        };
        inside.set_route(&direct(gateway, eth0.index, None))?;
        inside.set_route(&RouteEntry {
            to: everything(gateway),
            via: Some(gateway),
            ..direct(gateway, eth0.index, None)
        })?;
        // The node's address on this end as well: masquerading picks it.
        route.add_address(end.index, IpNet::from(gateway))?;
        route.set_route(&direct(*ip, end.index, Some(gateway)))?;
        // Both ends know each other for good: no first packet waits for ARP,
        // and a reused address never meets a stale entry.
        if let (Some(pod), Some(node)) = (pod_mac, node.mac()) {
            route.set_neighbour(end.index, *ip, pod)?;
            inside.set_neighbour(eth0.index, gateway, node)?;
        }
    }
    Ok(())
}

/// Unplugs a sandbox; its namespace need not exist any more. Routes and
/// neighbours go with the interface.
pub(crate) fn detach(attachment: &Attachment) -> Result<(), Error> {
    Ok(Route::open()?.delete_link(&attachment.interface)?)
}

/// Removes the node's ends of veth pairs that are not kept, with their peers.
pub(crate) fn sweep(keep: impl Fn(&str) -> bool) -> Result<(), Error> {
    let mut route = Route::open()?;
    for link in route.links()? {
        let slot = link.name.strip_prefix(NODE_INTERFACES);
        let ours = slot.is_some_and(|slot| slot.parse::<u32>().is_ok());
        if ours && !keep(&link.name) {
            route.delete_link(&link.name)?;
        }
    }
    Ok(())
}

/// Removes the node's own interface, every veth pair and every route.
pub(crate) fn remove(interface: &str, pod_cidrs: &[IpNet]) -> Result<(), Error> {
    sweep(|_| false)?;
    let mut route = Route::open()?;
    for cidr in pod_cidrs {
        route.delete_route(&unreachable(*cidr))?;
    }
    Ok(route.delete_link(interface)?)
}

/// The MTU of the interface that leads out of the node.
pub(crate) fn outer_mtu() -> Result<Option<u32>, Error> {
    let mut route = Route::open()?;
    let Some(index) = route.default_link()? else {
        return Ok(None);
    };
    Ok(route
        .links()?
        .into_iter()
        .find(|link| link.index == index)
        .map(|link| link.mtu))
}

/// A locally administered hardware address that follows from the IP address.
fn mac_of(ip: IpAddr) -> Mac {
    let tail = match ip {
        IpAddr::V4(ip) => ip.octets(),
        IpAddr::V6(ip) => {
            let octets = ip.octets();
            [octets[12], octets[13], octets[14], octets[15]]
        }
    };
    let [a, b, c, d] = tail;
    Mac([0x0a, 0x4b, a, b, c, d])
}

/// Link-local addresses only make chatter here (duplicate detection, router
/// solicitations, multicast reports): neighbours are fixed, routes are set.
fn silence_ipv6(interface: &str) -> Result<(), Error> {
    match sysctl::set(&format!("net/ipv6/conf/{interface}/addr_gen_mode"), "1") {
        Err(error) if !error.is_absent() => Err(error.into()),
        _ => Ok(()),
    }
}

fn unreachable(cidr: IpNet) -> RouteEntry {
    RouteEntry {
        to: cidr,
        via: None,
        link: None,
        on_link: false,
        source: None,
    }
}

fn everything(like: IpAddr) -> IpNet {
    let any = match like {
        IpAddr::V4(_) => IpAddr::from([0; 4]),
        IpAddr::V6(_) => IpAddr::from([0; 16]),
    };
    IpNet::new(any, 0).expect("a prefix of zero fits every family")
}

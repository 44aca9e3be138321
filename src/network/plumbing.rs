//! Bridge, veth pairs, addresses and routes.
//!
//! Everything here is idempotent and acts in the network namespace of the
//! calling thread (the node's), or in the sandbox's where it says so.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;

use ipnet::IpNet;
use linux::netlink::{LinkChange, Mac, NewLink, Route, RouteEntry};
use linux::{netns, sysctl};

use crate::Error;
use crate::state::Attachment;

/// The pod's interface, named as every pod expects it.
const POD_INTERFACE: &str = "eth0";

/// Creates the bridge or brings an existing one into shape: exactly these
/// gateway addresses, up, forwarding. Returns its index.
pub(crate) fn bridge(name: &str, mtu: u32, gateways: &[IpNet]) -> Result<u32, Error> {
    let mut route = Route::open()?;
    // A fixed hardware address: by default a bridge takes one of its ports'.
    let mac = gateways.first().map(|gateway| mac_of(gateway.addr()));
    let link = match route.link(name)? {
        Some(link) if link.kind.as_deref() != Some("bridge") => {
            return Err(Error::NotABridge(name.to_owned()));
        }
        Some(link) => link,
        None => {
            let change = LinkChange {
                mtu: Some(mtu),
                mac,
                ..LinkChange::default()
            };
            route.add_link(name, &NewLink::Bridge, &change)?;
            route
                .link(name)?
                .ok_or_else(|| Error::NotABridge(name.to_owned()))?
        }
    };
    silence_ipv6(
        name,
        gateways.iter().any(|gateway| gateway.addr().is_ipv6()),
    )?;
    let change = LinkChange {
        up: Some(true),
        mtu: Some(mtu),
        mac,
        master: None,
    };
    route.set_link(link.index, &change)?;
    for (index, address) in route.addresses()? {
        let kept = gateways.contains(&address) || is_link_local(address.addr());
        if index == link.index && !kept {
            route.delete_address(index, address)?;
        }
    }
    for gateway in gateways {
        route.add_address(link.index, *gateway)?;
    }
    // The node routes between pods.
    if gateways.iter().any(|gateway| gateway.addr().is_ipv4()) {
        sysctl::set("net/ipv4/ip_forward", "1")?;
        // Packets between pods leave where they came in. Telling pods of a
        // shorter way would be wrong: there is none. The parameter is the OR
        // of `all` and the interface's own, so others keep their setting.
        sysctl::set("net/ipv4/conf/all/send_redirects", "0")?;
        sysctl::set(&format!("net/ipv4/conf/{name}/send_redirects"), "0")?;
        // Host ports answer on loopback addresses; `rules` keeps pods off them.
        sysctl::set(&format!("net/ipv4/conf/{name}/route_localnet"), "1")?;
    }
    if gateways.iter().any(|gateway| gateway.addr().is_ipv6()) {
        sysctl::set("net/ipv6/conf/all/forwarding", "1")?;
    }
    Ok(link.index)
}

/// Joins a sandbox to the bridge.
pub(crate) fn attach(
    bridge: &str,
    mtu: u32,
    gateways: &[IpNet],
    netns_path: &Path,
    attachment: &Attachment,
) -> Result<(), Error> {
    let Attachment { interface, ips, .. } = attachment;
    let mut route = Route::open()?;
    let bridge = route
        .link(bridge)?
        .ok_or_else(|| Error::NotABridge(bridge.to_owned()))?;
    let mut inside = Route::open_in(netns_path)??;
    let mac = ips.first().copied().map(mac_of);
    let whole = route.link(interface)?.is_some()
        && inside
            .link(POD_INTERFACE)?
            .is_some_and(|eth0| eth0.mac == mac);
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
            peer_mac: mac,
            peer_netns: Some(netns.as_fd()),
        };
        route.add_link(
            interface,
            &veth,
            &LinkChange {
                mtu: Some(mtu),
                ..Default::default()
            },
        )?;
    }
    let ipv6 = ips.iter().any(IpAddr::is_ipv6);
    silence_ipv6(interface, false)?;
    netns::run_in(netns_path, || silence_ipv6(POD_INTERFACE, ipv6))??;

    let missing = || Error::NotABridge(interface.clone());
    let port = route.link(interface)?.ok_or_else(missing)?;
    let change = LinkChange {
        up: Some(true),
        master: Some(bridge.index),
        ..Default::default()
    };
    route.set_link(port.index, &change)?;
    route.set_bridge_port(port.index, true, false)?;

    inside.set_link(
        1,
        &LinkChange {
            up: Some(true),
            ..Default::default()
        },
    )?;
    let eth0 = inside.link(POD_INTERFACE)?.ok_or_else(missing)?;
    inside.set_link(
        eth0.index,
        &LinkChange {
            up: Some(true),
            ..Default::default()
        },
    )?;
    for ip in ips {
        inside.add_address(eth0.index, IpNet::from(*ip))?;
        let Some(gateway) = gateways
            .iter()
            .map(IpNet::addr)
            .find(|gateway| gateway.is_ipv4() == ip.is_ipv4())
        else {
            continue;
        };
        let direct = RouteEntry {
            to: IpNet::from(gateway),
            via: None,
            link: eth0.index,
            on_link: false,
            source: None,
        };
        inside.set_route(&direct)?;
        inside.set_route(&RouteEntry {
            to: everything(gateway),
            via: Some(gateway),
            ..direct
        })?;
        // Both ends know each other for good: no first packet waits for ARP,
        // and a reused address never meets a stale entry.
        if let (Some(pod), Some(node)) = (mac, bridge.mac) {
            route.set_neighbour(bridge.index, *ip, pod)?;
            inside.set_neighbour(eth0.index, gateway, node)?;
        }
    }
    Ok(())
}

/// Unplugs a sandbox; its namespace need not exist any more.
pub(crate) fn detach(bridge: &str, attachment: &Attachment) -> Result<(), Error> {
    let mut route = Route::open()?;
    route.delete_link(&attachment.interface)?;
    if let Some(bridge) = route.link(bridge)? {
        for ip in &attachment.ips {
            route.delete_neighbour(bridge.index, *ip)?;
        }
    }
    Ok(())
}

/// Removes the bridge and every port it has.
pub(crate) fn remove(bridge: &str) -> Result<(), Error> {
    let mut route = Route::open()?;
    let Some(link) = route.link(bridge)? else {
        return Ok(());
    };
    for port in route.links()? {
        if port.master == Some(link.index) && port.kind.as_deref() == Some("veth") {
            route.delete_link(&port.name)?;
        }
    }
    Ok(route.delete_link(bridge)?)
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

/// Where no IPv6 is given out, link-local addresses only make chatter:
/// duplicate detection, router solicitations, multicast reports.
fn silence_ipv6(interface: &str, wanted: bool) -> Result<(), Error> {
    let mode = if wanted { "0" } else { "1" };
    match sysctl::set(&format!("net/ipv6/conf/{interface}/addr_gen_mode"), mode) {
        Err(error) if !error.is_absent() => Err(error.into()),
        _ => Ok(()),
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn everything(like: IpAddr) -> IpNet {
    let any = match like {
        IpAddr::V4(_) => IpAddr::from([0; 4]),
        IpAddr::V6(_) => IpAddr::from([0; 16]),
    };
    IpNet::new(any, 0).expect("a prefix of zero fits every family")
}

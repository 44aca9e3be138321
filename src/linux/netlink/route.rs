//! Links, addresses, routes and neighbours.

use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use ipnet::IpNet;
use nix::libc;
use nix::sys::socket::SockProtocol;

use super::attributes::{Attributes, Parse, ne32, text};
use super::socket::{CREATE, DUMP, EXCL, Error, REPLACE, Reply, Request, Socket};
use crate::netns;

const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const BRIDGE_MULTICAST_SNOOPING: u16 = 23;
const BRIDGE_PORT_MODE: u16 = 4;
const BRIDGE_PORT_ISOLATED: u16 = 33;
/// `RTNH_F_ONLINK`.
const ON_LINK: u32 = 4;
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;

/// A MAC address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index, unique in its namespace.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Whether it is administratively up.
    pub up: bool,
    /// Hardware address, if it has one of six bytes.
    pub mac: Option<Mac>,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Index of the bridge it is a port of.
    pub master: Option<u32>,
    /// Driver kind (`bridge`, `veth`, …); absent for hardware and loopback.
    pub kind: Option<String>,
}

/// What to create.
#[derive(Clone, Debug)]
pub enum NewLink<'a> {
    /// A bridge that floods multicast instead of tracking who wants it.
    Bridge,
    /// An interface that leads nowhere.
    Dummy,
    /// Two interfaces joined back to back.
    Veth {
        /// Name of the other end.
        peer: &'a str,
        /// Hardware address of the other end.
        peer_mac: Option<Mac>,
        /// Network namespace of the other end; this one when absent.
        peer_netns: Option<BorrowedFd<'a>>,
    },
}

/// Changes to a link; what is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkChange {
    /// Administratively up or down.
    pub up: Option<bool>,
    /// Largest packet in bytes.
    pub mtu: Option<u32>,
    /// Hardware address.
    pub mac: Option<Mac>,
    /// Index of the bridge to become a port of; 0 for none.
    pub master: Option<u32>,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteEntry {
    /// Where to; `0.0.0.0/0` is the default route.
    pub to: IpNet,
    /// Next hop; directly connected when absent.
    pub via: Option<IpAddr>,
    /// Outgoing interface; without one, packets are refused with ICMP host
    /// unreachable.
    pub link: Option<u32>,
    /// Treat the next hop as reachable on the link although no address covers it.
    pub on_link: bool,
    /// Source address to prefer.
    pub source: Option<IpAddr>,
}

/// A `NETLINK_ROUTE` socket. It belongs to the network namespace it was opened in.
#[derive(Debug)]
pub struct Route {
    socket: Socket,
}

impl Route {
    /// Opens a socket in the namespace of this thread.
    pub fn open() -> Result<Self, Error> {
        Ok(Self {
            socket: Socket::open(SockProtocol::NetlinkRoute)?,
        })
    }

    /// Opens a socket in the namespace pinned at `path`.
    pub fn open_in(path: &Path) -> Result<Result<Self, Error>, netns::Error> {
        netns::run_in(path, Self::open)
    }

    /// Every interface.
    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        let replies = self.socket.execute(
            Request {
                kind: libc::RTM_GETLINK,
                flags: DUMP,
                header: &link_header(0, 0, 0),
                attributes: &Attributes::new(),
            },
            || "listing network interfaces".into(),
        )?;
        Ok(replies.iter().filter_map(parse_link).collect())
    }

    /// The interface of this name.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, Error> {
        let mut attributes = Attributes::new();
        attributes.string(libc::IFLA_IFNAME, name);
        let found = self.socket.execute(
            Request {
                kind: libc::RTM_GETLINK,
                flags: 0,
                header: &link_header(0, 0, 0),
                attributes: &attributes,
            },
            || format!("looking up network interface {name}"),
        );
        match found {
            Ok(replies) => Ok(replies.iter().find_map(parse_link)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Creates an interface, down. Fails if the name is taken.
    pub fn add_link(
        &mut self,
        name: &str,
        new: &NewLink<'_>,
        with: &LinkChange,
    ) -> Result<(), Error> {
        let mut attributes = Attributes::new();
        attributes.string(libc::IFLA_IFNAME, name);
        change_attributes(&mut attributes, with);
        attributes.nest(libc::IFLA_LINKINFO, |info| match new {
            NewLink::Bridge => {
                info.string(INFO_KIND, "bridge");
                info.nest(INFO_DATA, |data| {
                    data.u8(BRIDGE_MULTICAST_SNOOPING, 0);
                });
            }
            NewLink::Dummy => {
                info.string(INFO_KIND, "dummy");
            }
            NewLink::Veth {
                peer,
                peer_mac,
                peer_netns,
            } => {
                info.string(INFO_KIND, "veth");
                info.nest(INFO_DATA, |data| {
                    data.nest_after(VETH_INFO_PEER, &link_header(0, 0, 0), |other| {
                        other.string(libc::IFLA_IFNAME, peer);
                        if let Some(mac) = peer_mac {
                            other.bytes(libc::IFLA_ADDRESS, &mac.0);
                        }
                        if let Some(mtu) = with.mtu {
                            other.u32(libc::IFLA_MTU, mtu);
                        }
                        if let Some(netns) = peer_netns {
                            other.u32(libc::IFLA_NET_NS_FD, netns.as_raw_fd().cast_unsigned());
                        }
                    });
                });
            }
        });
        let flags = if with.up == Some(true) {
            libc::IFF_UP as u32
        } else {
            0
        };
        self.socket.execute(
            Request {
                kind: libc::RTM_NEWLINK,
                flags: CREATE | EXCL,
                header: &link_header(0, flags, flags),
                attributes: &attributes,
            },
            || format!("creating network interface {name}"),
        )?;
        Ok(())
    }

    /// Changes an interface.
    pub fn set_link(&mut self, index: u32, change: &LinkChange) -> Result<(), Error> {
        let mut attributes = Attributes::new();
        change_attributes(&mut attributes, change);
        let up = libc::IFF_UP as u32;
        let (flags, mask) = match change.up {
            Some(true) => (up, up),
            Some(false) => (0, up),
            None => (0, 0),
        };
        self.socket.execute(
            Request {
                kind: libc::RTM_NEWLINK,
                flags: 0,
                header: &link_header(index, flags, mask),
                attributes: &attributes,
            },
            || format!("changing network interface {index}"),
        )?;
        Ok(())
    }

    /// Sets options of a bridge port. `isolated` ports reach the bridge itself
    /// but not each other; `hairpin` lets frames leave where they came in.
    pub fn set_bridge_port(
        &mut self,
        index: u32,
        isolated: bool,
        hairpin: bool,
    ) -> Result<(), Error> {
        let mut attributes = Attributes::new();
        attributes.nest(libc::IFLA_PROTINFO, |port| {
            port.u8(BRIDGE_PORT_MODE, hairpin.into());
            port.u8(BRIDGE_PORT_ISOLATED, isolated.into());
        });
        let mut header = link_header(index, 0, 0);
        header[0] = libc::AF_BRIDGE as u8;
        self.socket.execute(
            Request {
                kind: libc::RTM_SETLINK,
                flags: 0,
                header: &header,
                attributes: &attributes,
            },
            || format!("changing bridge port {index}"),
        )?;
        Ok(())
    }

    /// Removes an interface (of a veth pair, both ends). Succeeds if there is none.
    pub fn delete_link(&mut self, name: &str) -> Result<(), Error> {
        let mut attributes = Attributes::new();
        attributes.string(libc::IFLA_IFNAME, name);
        let deleted = self.socket.execute(
            Request {
                kind: libc::RTM_DELLINK,
                flags: 0,
                header: &link_header(0, 0, 0),
                attributes: &attributes,
            },
            || format!("removing network interface {name}"),
        );
        match deleted {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Every address, with the index of its interface.
    pub fn addresses(&mut self) -> Result<Vec<(u32, IpNet)>, Error> {
        let replies = self.socket.execute(
            Request {
                kind: libc::RTM_GETADDR,
                flags: DUMP,
                header: &[0; ADDRESS_HEADER],
                attributes: &Attributes::new(),
            },
            || "listing addresses".into(),
        )?;
        Ok(replies.iter().filter_map(parse_address).collect())
    }

    /// Gives an interface an address. Succeeds if it has it.
    pub fn add_address(&mut self, index: u32, address: IpNet) -> Result<(), Error> {
        let mut attributes = Attributes::new();
        with_octets(address.addr(), |octets| {
            attributes.bytes(libc::IFA_LOCAL, octets);
            attributes.bytes(libc::IFA_ADDRESS, octets);
        });
        if let IpNet::V4(net) = address
            && net.prefix_len() < 31
        {
            attributes.bytes(libc::IFA_BROADCAST, &net.broadcast().octets());
        }
        if address.addr().is_ipv6() {
            // Karve hands out addresses itself; waiting for duplicates only delays pods.
            attributes.u32(libc::IFA_FLAGS, libc::IFA_F_NODAD);
        }
        self.socket.execute(
            Request {
                kind: libc::RTM_NEWADDR,
                flags: CREATE | REPLACE,
                header: &address_header(index, address),
                attributes: &attributes,
            },
            || format!("adding address {address} to network interface {index}"),
        )?;
        Ok(())
    }

    /// Takes an address from an interface. Succeeds if it does not have it.
    pub fn delete_address(&mut self, index: u32, address: IpNet) -> Result<(), Error> {
        let mut attributes = Attributes::new();
        with_octets(address.addr(), |octets| {
            attributes.bytes(libc::IFA_LOCAL, octets);
            attributes.bytes(libc::IFA_ADDRESS, octets);
        });
        let deleted = self.socket.execute(
            Request {
                kind: libc::RTM_DELADDR,
                flags: 0,
                header: &address_header(index, address),
                attributes: &attributes,
            },
            || format!("removing address {address} from network interface {index}"),
        );
        match deleted {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Adds a route, or replaces the one to the same destination.
    pub fn set_route(&mut self, route: &RouteEntry) -> Result<(), Error> {
        let (header, attributes) = encode_route(route);
        self.socket.execute(
            Request {
                kind: libc::RTM_NEWROUTE,
                flags: CREATE | REPLACE,
                header: &header,
                attributes: &attributes,
            },
            || format!("setting the route to {}", route.to),
        )?;
        Ok(())
    }

    /// Removes a route. Succeeds if there is none.
    pub fn delete_route(&mut self, route: &RouteEntry) -> Result<(), Error> {
        let (header, attributes) = encode_route(route);
        let deleted = self.socket.execute(
            Request {
                kind: libc::RTM_DELROUTE,
                flags: 0,
                header: &header,
                attributes: &attributes,
            },
            || format!("removing the route to {}", route.to),
        );
        match deleted {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Index of the interface the IPv4 default route of the main table leads
    /// through, or the IPv6 one if there is no IPv4 one.
    pub fn default_link(&mut self) -> Result<Option<u32>, Error> {
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut header = [0; ROUTE_HEADER];
            header[0] = family as u8;
            let replies = self.socket.execute(
                Request {
                    kind: libc::RTM_GETROUTE,
                    flags: DUMP,
                    header: &header,
                    attributes: &Attributes::new(),
                },
                || "listing routes".into(),
            )?;
            let found = replies.iter().filter_map(parse_default_route).min();
            if let Some((_, link)) = found {
                return Ok(Some(link));
            }
        }
        Ok(None)
    }

    /// Fixes the hardware address of a neighbour, so that nobody asks for it.
    pub fn set_neighbour(&mut self, index: u32, address: IpAddr, mac: Mac) -> Result<(), Error> {
        let mut attributes = Attributes::new();
        with_octets(address, |octets| {
            attributes.bytes(libc::NDA_DST, octets);
        });
        attributes.bytes(libc::NDA_LLADDR, &mac.0);
        self.socket.execute(
            Request {
                kind: libc::RTM_NEWNEIGH,
                flags: CREATE | REPLACE,
                header: &neighbour_header(index, address, libc::NUD_PERMANENT),
                attributes: &attributes,
            },
            || format!("fixing neighbour {address} on network interface {index}"),
        )?;
        Ok(())
    }

    /// Forgets a neighbour. Succeeds if it is not known.
    pub fn delete_neighbour(&mut self, index: u32, address: IpAddr) -> Result<(), Error> {
        let mut attributes = Attributes::new();
        with_octets(address, |octets| {
            attributes.bytes(libc::NDA_DST, octets);
        });
        let deleted = self.socket.execute(
            Request {
                kind: libc::RTM_DELNEIGH,
                flags: 0,
                header: &neighbour_header(index, address, 0),
                attributes: &attributes,
            },
            || format!("forgetting neighbour {address} on network interface {index}"),
        );
        match deleted {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    family as u8
}

fn with_octets<T>(address: IpAddr, job: impl FnOnce(&[u8]) -> T) -> T {
    match address {
        IpAddr::V4(address) => job(&address.octets()),
        IpAddr::V6(address) => job(&address.octets()),
    }
}

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: u32, mask: u32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&mask.to_ne_bytes());
    header
}

/// `struct ifaddrmsg`.
fn address_header(index: u32, address: IpNet) -> [u8; ADDRESS_HEADER] {
    let mut header = [0; ADDRESS_HEADER];
    header[0] = family(address.addr());
    header[1] = address.prefix_len();
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header
}

/// `struct ndmsg`.
fn neighbour_header(index: u32, address: IpAddr, state: u16) -> [u8; 12] {
    let mut header = [0; 12];
    header[0] = family(address);
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    header
}

/// `struct rtmsg` and its attributes.
fn encode_route(route: &RouteEntry) -> (Vec<u8>, Attributes) {
    let mut attributes = Attributes::new();
    if route.to.prefix_len() > 0 {
        with_octets(route.to.network(), |to| {
            attributes.bytes(libc::RTA_DST, to);
        });
    }
    if let Some(via) = route.via {
        with_octets(via, |via| {
            attributes.bytes(libc::RTA_GATEWAY, via);
        });
    }
    if let Some(source) = route.source {
        with_octets(source, |source| {
            attributes.bytes(libc::RTA_PREFSRC, source);
        });
    }
    if let Some(link) = route.link {
        attributes.u32(libc::RTA_OIF, link);
    }
    let kind = if route.link.is_some() {
        libc::RTN_UNICAST
    } else {
        libc::RTN_UNREACHABLE
    };
    let scope = match route.via {
        None if route.to.addr().is_ipv4() && route.link.is_some() => libc::RT_SCOPE_LINK,
        _ => libc::RT_SCOPE_UNIVERSE,
    };
    let flags = if route.on_link { ON_LINK } else { 0u32 };
    let mut header = vec![
        family(route.to.addr()),
        route.to.prefix_len(),
        0,
        0,
        libc::RT_TABLE_MAIN,
        libc::RTPROT_STATIC,
        scope,
        kind,
    ];
    header.extend_from_slice(&flags.to_ne_bytes());
    (header, attributes)
}

fn change_attributes(attributes: &mut Attributes, change: &LinkChange) {
    if let Some(mtu) = change.mtu {
        attributes.u32(libc::IFLA_MTU, mtu);
    }
    if let Some(mac) = change.mac {
        attributes.bytes(libc::IFLA_ADDRESS, &mac.0);
    }
    if let Some(master) = change.master {
        attributes.u32(libc::IFLA_MASTER, master);
    }
}

fn parse_link(reply: &Reply) -> Option<Link> {
    if reply.kind != libc::RTM_NEWLINK {
        return None;
    }
    let attributes = reply.attributes(LINK_HEADER);
    let kind = attributes.clone().find(libc::IFLA_LINKINFO);
    Some(Link {
        index: ne32(reply.body.get(4..)?)?,
        name: text(attributes.clone().find(libc::IFLA_IFNAME)?),
        up: ne32(reply.body.get(8..)?)? & libc::IFF_UP as u32 != 0,
        mac: attributes
            .clone()
            .find(libc::IFLA_ADDRESS)
            .and_then(|mac| mac.try_into().ok())
            .map(Mac),
        mtu: attributes
            .clone()
            .find(libc::IFLA_MTU)
            .and_then(ne32)
            .unwrap_or(0),
        master: attributes.find(libc::IFLA_MASTER).and_then(ne32),
        kind: kind.and_then(|info| Parse(info).find(INFO_KIND)).map(text),
    })
}

/// Metric and interface of a unicast default route of the main table.
fn parse_default_route(reply: &Reply) -> Option<(u32, u32)> {
    let [_, to_length, _, _, table, _, _, kind] = *reply.body.first_chunk()?;
    let wanted = reply.kind == libc::RTM_NEWROUTE
        && to_length == 0
        && table == libc::RT_TABLE_MAIN
        && kind == libc::RTN_UNICAST;
    if !wanted {
        return None;
    }
    let attributes = reply.attributes(ROUTE_HEADER);
    let metric = attributes
        .clone()
        .find(libc::RTA_PRIORITY)
        .and_then(ne32)
        .unwrap_or(0);
    Some((metric, attributes.find(libc::RTA_OIF).and_then(ne32)?))
}

fn parse_address(reply: &Reply) -> Option<(u32, IpNet)> {
    if reply.kind != libc::RTM_NEWADDR {
        return None;
    }
    let attributes = reply.attributes(ADDRESS_HEADER);
    // Point-to-point links have their own address in LOCAL and the peer's in ADDRESS.
    let octets = attributes
        .clone()
        .find(libc::IFA_LOCAL)
        .or_else(|| attributes.find(libc::IFA_ADDRESS))?;
    let address = match octets.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(octets).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(octets).ok()?),
    };
    Some((
        ne32(reply.body.get(4..)?)?,
        IpNet::new(address, *reply.body.get(1)?).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;
    use crate::testing::skip_unless_root;

    #[test]
    fn joins_two_namespaces() {
        skip_unless_root!();
        let folder = tempfile::tempdir().unwrap();
        let (node, pod) = (folder.path().join("node"), folder.path().join("pod"));
        netns::create(&node).unwrap();
        netns::create(&pod).unwrap();
        let mut route = Route::open_in(&node).unwrap().unwrap();
        assert_eq!(route.link("br").unwrap(), None);
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let up = LinkChange {
            up: Some(true),
            mac: Some(mac),
            ..Default::default()
        };
        route.add_link("br", &NewLink::Bridge, &up).unwrap();
        let bridge = route.link("br").unwrap().unwrap();
        assert_eq!(
            (bridge.up, bridge.mac, bridge.kind.as_deref()),
            (true, Some(mac), Some("bridge"))
        );
        assert!(
            route
                .add_link("br", &NewLink::Bridge, &up)
                .unwrap_err()
                .is_already_there()
        );
        let gateway: IpNet = "10.9.0.1/24".parse().unwrap();
        for _ in 0..2 {
            route.add_address(bridge.index, gateway).unwrap();
        }
        assert!(
            route
                .addresses()
                .unwrap()
                .contains(&(bridge.index, gateway))
        );

        let pod_netns = File::open(&pod).unwrap();
        let peer_mac = Mac([2, 0, 0, 0, 0, 9]);
        route
            .add_link(
                "veth9",
                &NewLink::Veth {
                    peer: "eth0",
                    peer_mac: Some(peer_mac),
                    peer_netns: Some(pod_netns.as_fd()),
                },
                &LinkChange {
                    mtu: Some(1400),
                    ..Default::default()
                },
            )
            .unwrap();
        let port = route.link("veth9").unwrap().unwrap();
        let change = LinkChange {
            up: Some(true),
            master: Some(bridge.index),
            ..Default::default()
        };
        route.set_link(port.index, &change).unwrap();
        route.set_bridge_port(port.index, true, false).unwrap();
        let port = route.link("veth9").unwrap().unwrap();
        assert_eq!(
            (port.master, port.mtu, port.up),
            (Some(bridge.index), 1400, true)
        );
        route
            .set_neighbour(bridge.index, "10.9.0.9".parse().unwrap(), peer_mac)
            .unwrap();

        let mut inside = Route::open_in(&pod).unwrap().unwrap();
        let eth0 = inside.link("eth0").unwrap().unwrap();
        assert_eq!((eth0.mac, eth0.mtu), (Some(peer_mac), 1400));
        inside
            .set_link(
                eth0.index,
                &LinkChange {
                    up: Some(true),
                    ..Default::default()
                },
            )
            .unwrap();
        inside
            .add_address(eth0.index, "10.9.0.9/32".parse().unwrap())
            .unwrap();
        for _ in 0..2 {
            let direct = RouteEntry {
                to: "10.9.0.1/32".parse().unwrap(),
                via: None,
                link: Some(eth0.index),
                on_link: false,
                source: None,
            };
            inside.set_route(&direct).unwrap();
            let default = RouteEntry {
                to: "0.0.0.0/0".parse().unwrap(),
                via: Some("10.9.0.1".parse().unwrap()),
                ..direct
            };
            inside.set_route(&default).unwrap();
        }
        assert_eq!(inside.default_link().unwrap(), Some(eth0.index));
        assert_eq!(route.default_link().unwrap(), None);
        let listener =
            netns::run_in(&node, || std::net::TcpListener::bind("10.9.0.1:0").unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        netns::run_in(&pod, || std::net::TcpStream::connect(address).map(drop))
            .unwrap()
            .unwrap();

        route
            .delete_neighbour(bridge.index, "10.9.0.9".parse().unwrap())
            .unwrap();
        for _ in 0..2 {
            route.delete_link("veth9").unwrap();
        }
        assert_eq!(inside.link("eth0").unwrap(), None);
        netns::delete(&pod).unwrap();
        netns::delete(&node).unwrap();
    }
}

//! Connection tracking entries: list and delete.
//!
//! Address translation is decided by the first packet of a flow and remembered
//! for as long as packets keep coming. For UDP that may be for ever, so flows
//! to endpoints that are gone have to be forgotten actively.

use std::net::IpAddr;

use nix::sys::socket::SockProtocol;

use crate::netlink::socket::{DUMP, Request, Socket};
use crate::netlink::{Attributes, Error, Parse};

const SUBSYSTEM: u16 = 1;
const NEW: u16 = SUBSYSTEM << 8;
const GET: u16 = (SUBSYSTEM << 8) | 1;
const DELETE: u16 = (SUBSYSTEM << 8) | 2;
/// `struct nfgenmsg`.
const HEADER: usize = 4;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;

/// One direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Direction {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
}

/// A tracked flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Transport protocol number.
    pub protocol: u8,
    /// As the initiator sends it.
    pub original: Direction,
    /// As the responder answers; its source is where a translated flow really goes.
    pub reply: Direction,
    family: u8,
    /// Wire form of the original direction, which names the flow.
    tuple: Vec<u8>,
    id: Option<Vec<u8>>,
}

/// A socket to the connection tracker of one network namespace.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
}

impl Conntrack {
    /// Opens a socket in the namespace of this thread.
    pub fn open() -> Result<Self, Error> {
        Ok(Self {
            socket: Socket::open(SockProtocol::NetlinkNetFilter)?,
        })
    }

    /// Every flow of this transport protocol.
    pub fn flows(&mut self, protocol: u8) -> Result<Vec<Flow>, Error> {
        let replies = self.socket.execute(
            Request {
                kind: GET,
                flags: DUMP,
                header: &[0; HEADER],
                attributes: &Attributes::new(),
            },
            || "listing tracked connections".into(),
        )?;
        Ok(replies
            .iter()
            .filter(|reply| reply.kind == NEW)
            .filter_map(|reply| parse(&reply.body))
            .filter(|flow| flow.protocol == protocol)
            .collect())
    }

    /// Forgets a flow: its next packet is handled like a first one. Succeeds
    /// if it ended meanwhile.
    pub fn delete(&mut self, flow: &Flow) -> Result<(), Error> {
        let mut attributes = Attributes::new();
        attributes.bytes(TUPLE_ORIGINAL | 0x8000, &flow.tuple);
        if let Some(id) = &flow.id {
            attributes.bytes(ID, id);
        }
        let deleted = self.socket.execute(
            Request {
                kind: DELETE,
                flags: 0,
                header: &[flow.family, 0, 0, 0],
                attributes: &attributes,
            },
            || format!("forgetting the flow to {}", flow.original.destination),
        );
        match deleted {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

fn parse(body: &[u8]) -> Option<Flow> {
    let attributes = Parse(body.get(HEADER..)?);
    let tuple = attributes.clone().find(TUPLE_ORIGINAL)?;
    let (protocol, original) = direction(tuple)?;
    let (_, reply) = direction(attributes.clone().find(TUPLE_REPLY)?)?;
    Some(Flow {
        protocol,
        original,
        reply,
        family: *body.first()?,
        tuple: tuple.to_vec(),
        id: attributes.find(ID).map(<[u8]>::to_vec),
    })
}

fn direction(tuple: &[u8]) -> Option<(u8, Direction)> {
    let ip = Parse(Parse(tuple).find(1)?);
    let transport = Parse(Parse(tuple).find(2)?);
    let address = |v4: u16, v6: u16| -> Option<IpAddr> {
        if let Some(octets) = ip.clone().find(v4) {
            return Some(<[u8; 4]>::try_from(octets).ok()?.into());
        }
        Some(<[u8; 16]>::try_from(ip.clone().find(v6)?).ok()?.into())
    };
    let port = |kind: u16| -> Option<u16> {
        Some(u16::from_be_bytes(
            transport.clone().find(kind)?.try_into().ok()?,
        ))
    };
    let direction = Direction {
        source: address(1, 3)?,
        destination: address(2, 4)?,
        source_port: port(2)?,
        destination_port: port(3)?,
    };
    Some((*transport.clone().find(1)?.first()?, direction))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::net::UdpSocket;

    use super::*;
    use crate::netns;
    use crate::nftables::{
        Base, Chain, ChainKind, Expression, Family, Hook, Owner, Register, Rule, Table, priority,
    };
    use crate::testing::skip_unless_root;

    #[test]
    fn lists_and_forgets_flows() {
        skip_unless_root!();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ns");
        netns::create(&path).unwrap();
        netns::run_in(&path, || {
            // Connections are tracked once a rule asks about them.
            let mut table = Table::new(Family::Ip, "t");
            let rule = Rule::new(Expression::destination_was_translated(Register(0)));
            table.chains.insert(
                "output".into(),
                Chain {
                    base: Some(Base {
                        kind: ChainKind::Filter,
                        hook: Hook::Output,
                        priority: priority::FILTER,
                    }),
                    rules: vec![rule],
                },
            );
            Owner::open().unwrap().sync(vec![table]).unwrap();
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.send_to(b"x", peer.local_addr().unwrap()).unwrap();
            let mut conntrack = Conntrack::open().unwrap();
            let flows = conntrack.flows(17).unwrap();
            assert_eq!(flows.len(), 1, "{flows:?}");
            assert_eq!(
                flows[0].original.destination_port,
                peer.local_addr().unwrap().port()
            );
            assert_eq!(flows[0].reply.source, flows[0].original.destination);
            assert!(conntrack.flows(6).unwrap().is_empty());
            for _ in 0..2 {
                conntrack.delete(&flows[0]).unwrap();
            }
            assert!(conntrack.flows(17).unwrap().is_empty());
        })
        .unwrap();
        netns::delete(&path).unwrap();
    }
}

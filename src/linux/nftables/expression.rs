//! What rules are made of, and its wire form.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use nix::libc;

use super::Verdict;
use super::encode::{data, verdict};
use crate::netlink::Attributes;

const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;

/// One of the sixteen 32-bit registers. Longer values take several in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register(pub u8);

impl Register {
    /// The register this many words further on.
    #[must_use]
    pub fn after(self, words: u8) -> Self {
        Self(self.0 + words)
    }

    fn number(self) -> u32 {
        libc::NFT_REG32_00.cast_unsigned() + u32::from(self.0)
    }
}

/// Where a payload offset counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadBase {
    /// The IP header.
    Network,
    /// The TCP, UDP or SCTP header.
    Transport,
}

/// Facts about a packet that are not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaKey {
    /// The packet mark.
    Mark,
    /// Name of the interface it came in on, 16 bytes padded with NUL.
    InputInterface,
    /// Name of the interface it leaves through, 16 bytes padded with NUL.
    OutputInterface,
    /// Transport protocol number.
    Protocol,
}

impl MetaKey {
    fn number(self) -> u32 {
        let number = match self {
            Self::Mark => libc::NFT_META_MARK,
            Self::InputInterface => libc::NFT_META_IIFNAME,
            Self::OutputInterface => libc::NFT_META_OIFNAME,
            Self::Protocol => libc::NFT_META_L4PROTO,
        };
        number.cast_unsigned()
    }
}

/// Facts about a packet's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConntrackKey {
    /// Bits of `ip_conntrack_info`.
    State,
    /// Bits of `ip_conntrack_status`.
    Status,
}

/// How values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
}

/// What is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatKind {
    /// The source.
    Source,
    /// The destination.
    Destination,
}

/// What it is translated to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatRange {
    /// Register that holds the address.
    pub address: Register,
    /// Register that holds the port; kept when absent.
    pub port: Option<Register>,
}

/// How `numgen` picks numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbering {
    /// One after the other.
    Incremental,
    /// At random.
    Random,
}

/// One step of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// Loads bytes of the packet.
    Payload {
        /// Where `offset` counts from.
        base: PayloadBase,
        /// First byte.
        offset: u32,
        /// Number of bytes.
        length: u32,
        /// Where they go.
        to: Register,
    },
    /// Loads a fact about the packet.
    Meta {
        /// The fact.
        key: MetaKey,
        /// Where it goes.
        to: Register,
    },
    /// Sets a fact about the packet.
    SetMeta {
        /// The fact.
        key: MetaKey,
        /// The register that holds the value.
        from: Register,
    },
    /// Loads a fact about the connection.
    Conntrack {
        /// The fact.
        key: ConntrackKey,
        /// Where it goes.
        to: Register,
    },
    /// Goes on only if the comparison holds.
    Compare {
        /// The register with the left side.
        from: Register,
        /// How.
        with: Comparison,
        /// The right side.
        value: Vec<u8>,
    },
    /// `to = (from & mask) ^ xor`.
    Bitwise {
        /// Source register.
        from: Register,
        /// Destination register.
        to: Register,
        /// Bits to keep.
        mask: Vec<u8>,
        /// Bits to flip.
        xor: Vec<u8>,
    },
    /// Goes on only if the key is (or with `inverted` is not) in the set; with
    /// `to`, loads what it maps to.
    Lookup {
        /// Name of the set.
        set: String,
        /// First register of the key.
        key: Register,
        /// Where the data goes.
        to: Option<Register>,
        /// Goes on if the key is absent.
        inverted: bool,
    },
    /// Acts on the verdict the key maps to; goes on if there is none.
    VerdictLookup {
        /// Name of the verdict map.
        set: String,
        /// First register of the key.
        key: Register,
    },
    /// Loads a constant of at most 16 bytes.
    Load {
        /// The constant.
        value: Vec<u8>,
        /// Where it goes.
        to: Register,
    },
    /// Ends the rule with a verdict.
    Verdict(Verdict),
    /// Translates addresses, and ports if given.
    Nat {
        /// Source or destination.
        kind: NatKind,
        /// Whether the address is IPv6.
        ipv6: bool,
        /// What to.
        to: NatRange,
    },
    /// Translates the source to the address of the outgoing interface, with a
    /// port picked fully at random.
    Masquerade,
    /// Loads a number below `modulus`.
    Numgen {
        /// How it is picked.
        how: Numbering,
        /// First number that is never picked.
        modulus: u32,
        /// Where it goes, in host byte order.
        to: Register,
    },
    /// Adds the key to a dynamic set, or starts its time anew.
    Remember {
        /// Name of the set.
        set: String,
        /// First register of the key.
        key: Register,
        /// How long the element stays.
        timeout: Duration,
    },
    /// Answers with ICMP port unreachable and drops the packet.
    Reject {
        /// Whether the packet is IPv6.
        ipv6: bool,
    },
    /// Counts packets and bytes.
    Counter,
    /// Loads the routing type of the destination address, in host byte order.
    DestinationType {
        /// Where it goes.
        to: Register,
    },
    /// Loads the routing type of the source address, in host byte order.
    SourceType {
        /// Where it goes.
        to: Register,
    },
}

/// Common rules' parts.
impl Expression {
    /// Loads the source address.
    pub fn source(ipv6: bool, to: Register) -> Self {
        let (offset, length) = if ipv6 { (8, 16) } else { (12, 4) };
        Self::Payload {
            base: PayloadBase::Network,
            offset,
            length,
            to,
        }
    }

    /// Loads the destination address.
    pub fn destination(ipv6: bool, to: Register) -> Self {
        let (offset, length) = if ipv6 { (24, 16) } else { (16, 4) };
        Self::Payload {
            base: PayloadBase::Network,
            offset,
            length,
            to,
        }
    }

    /// Loads the destination port of TCP, UDP or SCTP.
    pub fn destination_port(to: Register) -> Self {
        Self::Payload {
            base: PayloadBase::Transport,
            offset: 2,
            length: 2,
            to,
        }
    }

    /// Goes on only if the address in `from` is (or is not) within `net`.
    /// Overwrites the register.
    pub fn within(from: Register, with: Comparison, net: IpNet) -> Vec<Self> {
        let octets = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let mask = octets(net.netmask());
        let xor = vec![0; mask.len()];
        vec![
            Self::Bitwise {
                from,
                to: from,
                mask,
                xor,
            },
            Self::Compare {
                from,
                with,
                value: octets(net.network()),
            },
        ]
    }

    /// Goes on only if the packet is for this host, whatever its interface.
    /// Overwrites the register.
    pub fn for_this_host(scratch: Register) -> Vec<Self> {
        let value = u32::from(libc::RTN_LOCAL).to_ne_bytes().to_vec();
        vec![
            Self::DestinationType { to: scratch },
            Self::Compare {
                from: scratch,
                with: Comparison::Equal,
                value,
            },
        ]
    }

    /// Goes on only if the packet has an address of this host as its source.
    /// Overwrites the register.
    pub fn from_this_host(scratch: Register) -> Vec<Self> {
        let value = u32::from(libc::RTN_LOCAL).to_ne_bytes().to_vec();
        vec![
            Self::SourceType { to: scratch },
            Self::Compare {
                from: scratch,
                with: Comparison::Equal,
                value,
            },
        ]
    }

    /// Goes on only if the interface's name compares. A name that ends with
    /// `*` stands for all that begin like it. Overwrites four registers.
    pub fn interface(key: MetaKey, with: Comparison, name: &str, scratch: Register) -> Vec<Self> {
        let value = match name.strip_suffix('*') {
            Some(beginning) => beginning.as_bytes().to_vec(),
            None => {
                let mut whole = name.as_bytes().to_vec();
                whole.resize(libc::IFNAMSIZ, 0);
                whole
            }
        };
        vec![
            Self::Meta { key, to: scratch },
            Self::Compare {
                from: scratch,
                with,
                value,
            },
        ]
    }

    /// Goes on only if the connection's destination was translated.
    /// Overwrites the register.
    pub fn destination_was_translated(scratch: Register) -> Vec<Self> {
        const DST_NAT: u32 = 1 << 5;
        vec![
            Self::Conntrack {
                key: ConntrackKey::Status,
                to: scratch,
            },
            Self::Bitwise {
                from: scratch,
                to: scratch,
                mask: DST_NAT.to_ne_bytes().to_vec(),
                xor: vec![0; 4],
            },
            Self::Compare {
                from: scratch,
                with: Comparison::NotEqual,
                value: vec![0; 4],
            },
        ]
    }

    /// Sets bits of the packet mark. Overwrites the register.
    pub fn set_mark_bits(bits: u32, scratch: Register) -> Vec<Self> {
        vec![
            Self::Meta {
                key: MetaKey::Mark,
                to: scratch,
            },
            Self::Bitwise {
                from: scratch,
                to: scratch,
                mask: (!bits).to_ne_bytes().to_vec(),
                xor: bits.to_ne_bytes().to_vec(),
            },
            Self::SetMeta {
                key: MetaKey::Mark,
                from: scratch,
            },
        ]
    }

    /// Clears bits of the packet mark. Overwrites the register.
    pub fn clear_mark_bits(bits: u32, scratch: Register) -> Vec<Self> {
        vec![
            Self::Meta {
                key: MetaKey::Mark,
                to: scratch,
            },
            Self::Bitwise {
                from: scratch,
                to: scratch,
                mask: (!bits).to_ne_bytes().to_vec(),
                xor: vec![0; 4],
            },
            Self::SetMeta {
                key: MetaKey::Mark,
                from: scratch,
            },
        ]
    }

    /// Goes on only if any of these bits of the packet mark is set.
    /// Overwrites the register.
    pub fn has_mark_bits(bits: u32, scratch: Register) -> Vec<Self> {
        vec![
            Self::Meta {
                key: MetaKey::Mark,
                to: scratch,
            },
            Self::Bitwise {
                from: scratch,
                to: scratch,
                mask: bits.to_ne_bytes().to_vec(),
                xor: vec![0; 4],
            },
            Self::Compare {
                from: scratch,
                with: Comparison::NotEqual,
                value: vec![0; 4],
            },
        ]
    }

    /// The set the expression refers to.
    #[cfg(test)]
    pub(super) fn set(&self) -> Option<&str> {
        match self {
            Self::Lookup { set, .. }
            | Self::VerdictLookup { set, .. }
            | Self::Remember { set, .. } => Some(set),
            _ => None,
        }
    }

    /// The chain the expression leads to.
    #[cfg(test)]
    pub(super) fn chain(&self) -> Option<&str> {
        match self {
            Self::Verdict(verdict) => verdict.chain(),
            _ => None,
        }
    }

    /// Writes the expression as an element of a rule's list.
    pub(super) fn encode(&self, list: &mut Attributes) {
        list.nest(LIST_ELEMENT, |element| {
            element.string(EXPRESSION_NAME, self.name());
            element.nest(EXPRESSION_DATA, |out| self.encode_data(out));
        });
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Payload { .. } => "payload",
            Self::Meta { .. } | Self::SetMeta { .. } => "meta",
            Self::Conntrack { .. } => "ct",
            Self::Compare { .. } => "cmp",
            Self::Bitwise { .. } => "bitwise",
            Self::Lookup { .. } | Self::VerdictLookup { .. } => "lookup",
            Self::Load { .. } | Self::Verdict(_) => "immediate",
            Self::Nat { .. } => "nat",
            Self::Masquerade => "masq",
            Self::Numgen { .. } => "numgen",
            Self::Remember { .. } => "dynset",
            Self::Reject { .. } => "reject",
            Self::Counter => "counter",
            Self::DestinationType { .. } | Self::SourceType { .. } => "fib",
        }
    }

    fn encode_data(&self, out: &mut Attributes) {
        match self {
            Self::Payload {
                base,
                offset,
                length,
                to,
            } => {
                let base = match base {
                    PayloadBase::Network => libc::NFT_PAYLOAD_NETWORK_HEADER,
                    PayloadBase::Transport => libc::NFT_PAYLOAD_TRANSPORT_HEADER,
                };
                out.be32(1, to.number()).be32(2, base.cast_unsigned());
                out.be32(3, *offset).be32(4, *length);
            }
            Self::Meta { key, to } => {
                out.be32(2, key.number()).be32(1, to.number());
            }
            Self::SetMeta { key, from } => {
                out.be32(2, key.number()).be32(3, from.number());
            }
            Self::Conntrack { key, to } => {
                let key = match key {
                    ConntrackKey::State => libc::NFT_CT_STATE,
                    ConntrackKey::Status => libc::NFT_CT_STATUS,
                };
                out.be32(1, to.number()).be32(2, key.cast_unsigned());
            }
            Self::Compare { from, with, value } => {
                let operator = match with {
                    Comparison::Equal => libc::NFT_CMP_EQ,
                    Comparison::NotEqual => libc::NFT_CMP_NEQ,
                };
                out.be32(1, from.number()).be32(2, operator.cast_unsigned());
                out.nest(3, |out| data(out, value));
            }
            Self::Bitwise {
                from,
                to,
                mask,
                xor,
            } => {
                let length = u32::try_from(mask.len()).expect("masks are 16 bytes at most");
                out.be32(1, from.number())
                    .be32(2, to.number())
                    .be32(3, length);
                out.nest(4, |out| data(out, mask))
                    .nest(5, |out| data(out, xor));
            }
            Self::Lookup {
                set,
                key,
                to,
                inverted,
            } => {
                out.string(1, set).be32(2, key.number());
                if let Some(to) = to {
                    out.be32(3, to.number());
                }
                if *inverted {
                    out.be32(5, 1);
                }
            }
            Self::VerdictLookup { set, key } => {
                out.string(1, set).be32(2, key.number());
                out.be32(3, libc::NFT_REG_VERDICT.cast_unsigned());
            }
            Self::Load { value, to } => {
                out.be32(1, to.number()).nest(2, |out| data(out, value));
            }
            Self::Verdict(to) => {
                out.be32(1, libc::NFT_REG_VERDICT.cast_unsigned());
                out.nest(2, |out| verdict(out, to));
            }
            Self::Nat { kind, ipv6, to } => {
                let kind = match kind {
                    NatKind::Source => libc::NFT_NAT_SNAT,
                    NatKind::Destination => libc::NFT_NAT_DNAT,
                };
                let family = if *ipv6 {
                    libc::NFPROTO_IPV6
                } else {
                    libc::NFPROTO_IPV4
                };
                out.be32(1, kind.cast_unsigned())
                    .be32(2, family.cast_unsigned());
                out.be32(3, to.address.number());
                if let Some(port) = to.port {
                    out.be32(5, port.number());
                }
            }
            Self::Masquerade => {
                const RANDOM_FULLY: u32 = 1 << 4;
                out.be32(1, RANDOM_FULLY);
            }
            Self::Numgen { how, modulus, to } => {
                let how = match how {
                    Numbering::Incremental => libc::NFT_NG_INCREMENTAL,
                    Numbering::Random => libc::NFT_NG_RANDOM,
                };
                out.be32(1, to.number())
                    .be32(2, *modulus)
                    .be32(3, how.cast_unsigned());
            }
            Self::Remember { set, key, timeout } => {
                const UPDATE: u32 = 1;
                let timeout = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
                out.string(1, set)
                    .be32(3, UPDATE)
                    .be32(4, key.number())
                    .be64(6, timeout);
            }
            Self::Reject { ipv6 } => {
                // Port unreachable, of ICMP and of ICMPv6.
                out.be32(1, libc::NFT_REJECT_ICMP_UNREACH.cast_unsigned());
                out.u8(2, if *ipv6 { 4 } else { 3 });
            }
            Self::Counter => {}
            Self::DestinationType { to } | Self::SourceType { to } => {
                const ADDRESS_TYPE: u32 = 3;
                let from_source = matches!(self, Self::SourceType { .. });
                let flags = if from_source { 1 } else { 2 };
                out.be32(1, to.number())
                    .be32(2, ADDRESS_TYPE)
                    .be32(3, flags);
            }
        }
    }
}

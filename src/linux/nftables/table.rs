//! Tables, chains, sets and elements as data.

use std::collections::BTreeMap;
use std::net::IpAddr;

use nix::libc;

use super::Expression;

/// Which packets a table sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Both.
    Inet,
}

impl Family {
    pub(super) fn number(self) -> u8 {
        let number = match self {
            Self::Ip => libc::NFPROTO_IPV4,
            Self::Ip6 => libc::NFPROTO_IPV6,
            Self::Inet => libc::NFPROTO_INET,
        };
        number as u8
    }
}

/// Everything a table holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Family.
    pub family: Family,
    /// Name, unique within the family.
    pub name: String,
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
    /// Sets and maps by name.
    pub sets: BTreeMap<String, Set>,
}

impl Table {
    /// A table with nothing in it.
    pub fn new(family: Family, name: impl Into<String>) -> Self {
        Self {
            family,
            name: name.into(),
            chains: BTreeMap::new(),
            sets: BTreeMap::new(),
        }
    }
}

/// A list of rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where packets enter by themselves; absent for chains that are jumped to.
    pub base: Option<Base>,
    /// Rules in order.
    pub rules: Vec<Rule>,
}

/// How a base chain is hooked into packet processing. Its policy is to accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// What its rules may do.
    pub kind: ChainKind,
    /// Where it is called.
    pub hook: Hook,
    /// Order among chains of the same hook, lowest first.
    pub priority: i32,
}

/// What the rules of a base chain may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    /// Accept, drop, reject, mark.
    Filter,
    /// Translate addresses; sees the first packet of each connection.
    Nat,
}

impl ChainKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

/// Points in packet processing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Packets that arrived, before routing.
    Prerouting,
    /// Packets for this host.
    Input,
    /// Packets that pass through.
    Forward,
    /// Packets from this host.
    Output,
    /// Packets that leave, after routing.
    Postrouting,
}

impl Hook {
    pub(super) fn number(self) -> u32 {
        let number = match self {
            Self::Prerouting => libc::NF_INET_PRE_ROUTING,
            Self::Input => libc::NF_INET_LOCAL_IN,
            Self::Forward => libc::NF_INET_FORWARD,
            Self::Output => libc::NF_INET_LOCAL_OUT,
            Self::Postrouting => libc::NF_INET_POST_ROUTING,
        };
        number.cast_unsigned()
    }
}

/// Well-known priorities.
pub mod priority {
    /// Before connection tracking.
    pub const RAW: i32 = -300;
    /// Where destinations are translated.
    pub const DSTNAT: i32 = -100;
    /// Where packets are filtered.
    pub const FILTER: i32 = 0;
    /// Where sources are translated.
    pub const SRCNAT: i32 = 100;
}

/// Expressions evaluated in order until one does not match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// What it does.
    pub expressions: Vec<Expression>,
    /// Shown by `nft list`; at most 127 bytes are kept.
    pub comment: Option<String>,
}

impl Rule {
    /// A rule without a comment.
    pub fn new(expressions: impl IntoIterator<Item = Expression>) -> Self {
        Self {
            expressions: expressions.into_iter().collect(),
            comment: None,
        }
    }

    /// The rule with a comment.
    #[must_use]
    pub fn comment(mut self, comment: impl Into<String>) -> Self {
        self.comment = Some(comment.into());
        self
    }
}

/// A set, map or verdict map of exact keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// The fields a key is concatenated from.
    pub key: Vec<FieldType>,
    /// What keys map to; absent for plain sets.
    pub data: Option<SetData>,
    /// Filled by rules, with elements that expire. [`plan`](super::plan())
    /// leaves the elements of such a set alone.
    pub dynamic: bool,
    /// Elements by key, in the form [`Concat`] builds.
    pub elements: BTreeMap<Vec<u8>, Option<Value>>,
}

impl Set {
    /// A plain set.
    pub fn of(key: &[FieldType]) -> Self {
        Self {
            key: key.to_vec(),
            data: None,
            dynamic: false,
            elements: BTreeMap::new(),
        }
    }

    /// A map to values.
    pub fn map(key: &[FieldType], data: &[FieldType]) -> Self {
        Self {
            data: Some(SetData::Fields(data.to_vec())),
            ..Self::of(key)
        }
    }

    /// A map to verdicts.
    pub fn verdicts(key: &[FieldType]) -> Self {
        Self {
            data: Some(SetData::Verdict),
            ..Self::of(key)
        }
    }
}

/// What a map maps to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetData {
    /// Values loaded into registers.
    Fields(Vec<FieldType>),
    /// Verdicts.
    Verdict,
}

/// Types of the fields of keys and values. The kernel only wants lengths; the
/// numbers behind the names let `nft list` print them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldType {
    /// IPv4 address.
    Ipv4,
    /// IPv6 address.
    Ipv6,
    /// Transport protocol number.
    Protocol,
    /// Port.
    Port,
    /// A number in host byte order, as `numgen` makes them.
    Number,
}

impl FieldType {
    /// `nft`'s number of the type.
    pub(super) fn number(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Number => 19,
        }
    }

    /// Bytes in a register file: whole words.
    pub(super) fn padded_length(self) -> u32 {
        match self {
            Self::Ipv6 => 16,
            _ => 4,
        }
    }

    /// Bytes on the wire when it stands alone.
    pub(super) fn length(self) -> u32 {
        match self {
            Self::Ipv4 | Self::Number => 4,
            Self::Ipv6 => 16,
            Self::Protocol => 1,
            Self::Port => 2,
        }
    }
}

/// Builds keys and values out of fields, padded as registers are. Build them
/// in the order of the set's field types.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Concat {
    bytes: Vec<u8>,
    unpadded: usize,
    fields: usize,
}

impl Concat {
    /// No fields yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn field(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self.unpadded = self.bytes.len();
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.fields += 1;
        self
    }

    /// Adds an address.
    #[must_use]
    pub fn ip(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => self.field(&address.octets()),
            IpAddr::V6(address) => self.field(&address.octets()),
        }
    }

    /// Adds a transport protocol number.
    #[must_use]
    pub fn protocol(self, protocol: u8) -> Self {
        self.field(&[protocol])
    }

    /// Adds a port.
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        self.field(&port.to_be_bytes())
    }

    /// Adds a number in host byte order.
    #[must_use]
    pub fn number(self, number: u32) -> Self {
        self.field(&number.to_ne_bytes())
    }

    /// The bytes: a field that stands alone is not padded.
    pub fn build(mut self) -> Vec<u8> {
        if self.fields == 1 {
            self.bytes.truncate(self.unpadded);
        }
        self.bytes
    }
}

/// What an element maps to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Fields, in the form [`Concat`] builds.
    Fields(Vec<u8>),
    /// What happens to the packet.
    Verdict(Verdict),
}

/// What happens to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Leaves this table; later chains still see it.
    Accept,
    /// It is gone.
    Drop,
    /// Back to the rule behind the jump.
    Return,
    /// To another chain and back.
    Jump(String),
    /// To another chain; from its end, to where that one would return.
    Goto(String),
}

impl Verdict {
    /// The chain it leads to.
    pub fn chain(&self) -> Option<&str> {
        match self {
            Self::Jump(chain) | Self::Goto(chain) => Some(chain),
            _ => None,
        }
    }

    pub(super) fn code(&self) -> i32 {
        match self {
            Self::Accept => libc::NF_ACCEPT,
            Self::Drop => libc::NF_DROP,
            Self::Return => libc::NFT_RETURN,
            Self::Jump(_) => libc::NFT_JUMP,
            Self::Goto(_) => libc::NFT_GOTO,
        }
    }
}

//! Changes as netlink messages.

use nix::libc;

use super::{Change, Expression, FieldType, SetData, Table, Value, Verdict};
use crate::netlink::Attributes;
use crate::netlink::socket::{ACK, APPEND, CREATE, REQUEST, Request};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_TYPE: u32 = 0xffff_ff00;
/// Bits of one type in the number of a concatenated type.
const TYPE_BITS: u32 = 6;
const SET_MAP: u32 = 0x8;
const SET_TIMEOUT: u32 = 0x10;
const SET_EVAL: u32 = 0x20;
const COMMENT_LENGTH: usize = 127;

/// A constant.
pub(super) fn data(out: &mut Attributes, value: &[u8]) {
    out.bytes(DATA_VALUE, value);
}

/// A verdict.
pub(super) fn verdict(out: &mut Attributes, verdict: &Verdict) {
    out.nest(DATA_VERDICT, |out| {
        out.be32(1, verdict.code().cast_unsigned());
        if let Some(chain) = verdict.chain() {
            out.string(2, chain);
        }
    });
}

/// The family header of every message: `struct nfgenmsg`.
pub(super) fn header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

/// The type of a message to nf_tables.
pub(super) fn message(kind: libc::c_int) -> u16 {
    (SUBSYSTEM << 8) | u16::try_from(kind).expect("message numbers are small")
}

/// A transaction in wire form.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// The next sequence number, counted from the first message.
    next: u32,
    first: u32,
    /// Where the flags of the last message are.
    last_flags: usize,
}

impl Batch {
    pub(super) fn begin(first: u32) -> Self {
        let mut batch = Self {
            next: first,
            first,
            ..Self::default()
        };
        batch.push(BATCH_BEGIN, 0, 0, SUBSYSTEM, &Attributes::new());
        batch
    }

    fn push(&mut self, kind: u16, flags: u16, family: u8, resource: u16, attributes: &Attributes) {
        self.last_flags = self.bytes.len() + 6;
        let header = header(family, resource);
        let request = Request {
            kind,
            flags: flags | REQUEST,
            header: &header,
            attributes,
        };
        request.write(self.next, &mut self.bytes);
        self.next += 1;
    }

    /// Sequence number of the message that is added next.
    pub(super) fn next_sequence(&self) -> u32 {
        self.next
    }

    /// Ends the transaction: its bytes, first and last answered sequence number.
    pub(super) fn end(mut self) -> (Vec<u8>, u32, u32) {
        // Only the last message is acknowledged, and whatever is refused: a
        // long transaction would overflow the receive buffer otherwise.
        // (Kernels before 6.10 do not acknowledge the end marker itself.)
        let flags = REQUEST | ACK;
        let at = self.last_flags;
        let old = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]);
        self.bytes[at..at + 2].copy_from_slice(&(old | flags).to_ne_bytes());
        let last = self.next - 1;
        self.push(BATCH_END, 0, 0, SUBSYSTEM, &Attributes::new());
        (self.bytes, self.first, last)
    }

    /// Adds a change to `table`.
    pub(super) fn change(&mut self, table: &Table, change: &Change) {
        let mut out = Attributes::new();
        let name = table.name.as_str();
        let (kind, flags) = match change {
            Change::AddTable => {
                out.string(1, name);
                (libc::NFT_MSG_NEWTABLE, CREATE)
            }
            Change::DeleteTable => {
                out.string(1, name);
                (libc::NFT_MSG_DELTABLE, 0)
            }
            Change::AddChain(chain, base) => {
                out.string(1, name).string(3, chain);
                if let Some(base) = base {
                    out.nest(4, |hook| {
                        hook.be32(1, base.hook.number());
                        hook.be32(2, base.priority.cast_unsigned());
                    });
                    out.be32(5, libc::NF_ACCEPT.cast_unsigned());
                    out.string(7, base.kind.name());
                }
                (libc::NFT_MSG_NEWCHAIN, CREATE)
            }
            Change::DeleteChain(chain) => {
                out.string(1, name).string(3, chain);
                (libc::NFT_MSG_DELCHAIN, 0)
            }
            Change::FlushChain(chain) => {
                out.string(1, name).string(2, chain);
                (libc::NFT_MSG_DELRULE, 0)
            }
            Change::AddRule(chain, rule) => {
                out.string(1, name).string(2, chain);
                out.nest(4, |list| encode_all(&rule.expressions, list));
                if let Some(comment) = &rule.comment {
                    out.bytes(7, &comment_data(comment));
                }
                (libc::NFT_MSG_NEWRULE, CREATE | APPEND)
            }
            Change::AddSet(set_name, set) => {
                let map = if set.data.is_some() { SET_MAP } else { 0 };
                let dynamic = if set.dynamic {
                    SET_TIMEOUT | SET_EVAL
                } else {
                    0
                };
                out.string(1, name)
                    .string(2, set_name)
                    .be32(3, map | dynamic);
                out.be32(4, type_of(&set.key)).be32(5, length_of(&set.key));
                match &set.data {
                    Some(SetData::Fields(fields)) => {
                        out.be32(6, type_of(fields)).be32(7, length_of(fields));
                    }
                    Some(SetData::Verdict) => {
                        out.be32(6, VERDICT_TYPE);
                    }
                    None => {}
                }
                // Wanted by the kernel although everything refers to sets by name.
                out.be32(10, self.next);
                (libc::NFT_MSG_NEWSET, CREATE)
            }
            Change::DeleteSet(set) => {
                out.string(1, name).string(2, set);
                (libc::NFT_MSG_DELSET, 0)
            }
            Change::AddElements(set, elements) => {
                out.string(1, name).string(2, set).nest(3, |list| {
                    for (key, value) in elements {
                        list.nest(1, |element| {
                            element.nest(1, |out| data(out, key));
                            match value {
                                Some(Value::Fields(fields)) => {
                                    element.nest(2, |out| data(out, fields));
                                }
                                Some(Value::Verdict(to)) => {
                                    element.nest(2, |out| verdict(out, to));
                                }
                                None => {}
                            }
                        });
                    }
                });
                (libc::NFT_MSG_NEWSETELEM, CREATE)
            }
            Change::DeleteElements(set, keys) => {
                out.string(1, name).string(2, set).nest(3, |list| {
                    for key in keys {
                        list.nest(1, |element| {
                            element.nest(1, |out| data(out, key));
                        });
                    }
                });
                (libc::NFT_MSG_DELSETELEM, 0)
            }
        };
        self.push(message(kind), flags, table.family.number(), 0, &out);
    }
}

fn encode_all(expressions: &[Expression], list: &mut Attributes) {
    for expression in expressions {
        expression.encode(list);
    }
}

fn type_of(fields: &[FieldType]) -> u32 {
    fields
        .iter()
        .fold(0, |whole, field| (whole << TYPE_BITS) | field.number())
}

fn length_of(fields: &[FieldType]) -> u32 {
    match fields {
        [field] => field.length(),
        fields => fields.iter().map(|field| field.padded_length()).sum(),
    }
}

/// A comment in the form `nft` stores it: type, length, text with NUL.
fn comment_data(comment: &str) -> Vec<u8> {
    let end = (0..=COMMENT_LENGTH.min(comment.len()))
        .rev()
        .find(|end| comment.is_char_boundary(*end))
        .unwrap_or(0);
    let text = &comment.as_bytes()[..end];
    let length = u8::try_from(text.len() + 1).expect("cut to 127 bytes above");
    [&[0, length], text, &[0]].concat()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;
    use crate::netlink::Parse;
    use crate::nftables::{Comparison, Family, Register, Rule};

    /// Splits a batch into `(kind, flags, sequence, body)`.
    fn messages(mut bytes: &[u8]) -> Vec<(u16, u16, u32, Vec<u8>)> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
            let half = |at: usize| u16::from_ne_bytes(bytes[at..at + 2].try_into().unwrap());
            let length = word(0) as usize;
            assert_eq!(length % 4, 0, "messages stay aligned");
            found.push((half(4), half(6), word(8), bytes[16..length].to_vec()));
            bytes = &bytes[length..];
        }
        found
    }

    #[test]
    fn frames_a_transaction() {
        let table = Table::new(Family::Ip6, "t");
        let mut batch = Batch::begin(40);
        batch.change(&table, &Change::AddTable);
        batch.change(&table, &Change::FlushChain("c".into()));
        let (bytes, first, last) = batch.end();
        assert_eq!((first, last), (40, 42));
        let found = messages(&bytes);
        let heads: Vec<_> = found
            .iter()
            .map(|(kind, flags, seq, _)| (*kind, *flags, *seq))
            .collect();
        assert_eq!(
            heads,
            [
                (0x10, REQUEST, 40),
                (0xa00, REQUEST | CREATE, 41),
                (0xa08, REQUEST | ACK, 42),
                (0x11, REQUEST, 43),
            ]
        );
        assert_eq!(found[0].3, [0, 0, 0, 10]);
        assert_eq!(found[1].3[..4], [libc::NFPROTO_IPV6 as u8, 0, 0, 0]);
        assert_eq!(Parse(&found[2].3[4..]).find(2), Some(&b"c\0"[..]));
    }

    #[test]
    fn cuts_comments_between_characters() {
        let long = "é".repeat(100);
        let stored = comment_data(&long);
        assert_eq!(stored[1], 127);
        assert_eq!(stored[2..128], long.as_bytes()[..126]);
        assert_eq!(stored.last(), Some(&0));
    }

    proptest! {
        #[test]
        fn elements_and_rules_can_be_read_back(
            keys in prop::collection::btree_set(prop::collection::vec(any::<u8>(), 1..60), 1..50),
            value in prop::collection::vec(any::<u8>(), 1..16),
        ) {
            let table = Table::new(Family::Ip, "t");
            let elements: Vec<_> = keys.iter().map(|key| (key.clone(), None)).collect();
            let rule = Rule::new(keys.iter().map(|_| Expression::Compare {
                from: Register(3),
                with: Comparison::Equal,
                value: value.clone(),
            }));
            let mut batch = Batch::begin(1);
            batch.change(&table, &Change::AddElements("s".into(), elements));
            batch.change(&table, &Change::AddRule("c".into(), rule));
            let (bytes, ..) = batch.end();
            let found = messages(&bytes);
            let list = Parse(&found[1].3[4..]).find(3).unwrap();
            let read: Vec<Vec<u8>> = Parse(list)
                .map(|(_, element)| {
                    let key = Parse(element).find(1).unwrap();
                    Parse(key).find(DATA_VALUE).unwrap().to_vec()
                })
                .collect();
            prop_assert_eq!(read, keys.into_iter().collect::<Vec<_>>());
            for (_, expression) in Parse(Parse(&found[2].3[4..]).find(4).unwrap()) {
                prop_assert_eq!(Parse(expression).find(1), Some(&b"cmp\0"[..]));
                let inside = Parse(expression).find(2).unwrap();
                prop_assert_eq!(Parse(inside).find(1), Some(&11u32.to_be_bytes()[..]));
                let right = Parse(inside).find(3).unwrap();
                prop_assert_eq!(Parse(right).find(DATA_VALUE), Some(&value[..]));
            }
        }
    }
}

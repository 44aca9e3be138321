//! nf_tables over netlink: rules as data, replaced in atomic transactions.
//!
//! A [`Table`] describes everything a table holds: chains with rules, sets,
//! maps and their elements. [`Owner`] makes the kernel fit: the first time by
//! replacing the table as a whole, afterwards by sending what differs
//! (`plan`), each time in one transaction, so that no packet ever meets half
//! a ruleset. Rules stay in the kernel when the process ends.
//!
//! # Layout
//!
//! - `expression`: what rules are made of, and its wire form;
//! - `table`: tables, chains, sets and elements as data;
//! - `plan`: from one table to another, as ordered changes (pure);
//! - `encode`: changes as netlink messages (pure);
//! - `owner`: transactions;
//! - `removals`: noticing that somebody else removed a table.
//!
//! Rules are kept to what `nft list ruleset` can print: users look at them.
//! (It gives up on registers that a map filled and another lookup reads.)
//!
//! Needs Linux 5.10: concatenated map data, `reject` before routing. Numbers
//! are the kernel's ABI (`linux/netfilter/nf_tables.h`). Rejected: calling
//! `nft` (a helper executable) and libnftnl (C, not linked statically by
//! Karve); JSON or text forms of rules would only be parsed again.

mod encode;
mod expression;
mod owner;
mod plan;
mod removals;
mod table;

pub use expression::{
    Comparison, ConntrackKey, Expression, MetaKey, NatKind, NatRange, Numbering, PayloadBase,
    Register,
};
pub use owner::{Owner, tables};
pub use plan::{Change, plan};
pub use removals::Removals;
pub use table::{
    Base, Chain, ChainKind, Concat, Family, FieldType, Hook, Rule, Set, SetData, Table, Value,
    Verdict, priority,
};

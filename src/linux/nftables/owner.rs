//! Transactions.

use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::SockProtocol;

use super::encode::{Batch, header, message};
use super::plan::{plan, removal};
use super::{Change, Family, Table};
use crate::netlink::socket::{DUMP, Request, Socket};
use crate::netlink::{Attributes, Error, text};
use crate::netns;

/// Keeps tables in the kernel as they are described, and nobody else does.
///
/// It remembers what it sent, so that later transactions carry only what
/// differs. If somebody else changed the table meanwhile and the kernel
/// refuses, the table is replaced as a whole.
#[derive(Debug)]
pub struct Owner {
    socket: Socket,
    known: Vec<Table>,
}

impl Owner {
    /// Opens a socket in the network namespace of this thread.
    pub fn open() -> Result<Self, Error> {
        Ok(Self {
            socket: Socket::open(SockProtocol::NetlinkNetFilter)?,
            known: Vec::new(),
        })
    }

    /// Opens a socket in the namespace pinned at `path`.
    pub fn open_in(path: &Path) -> Result<Result<Self, Error>, netns::Error> {
        netns::run_in(path, Self::open)
    }

    /// Makes the kernel's tables fit, all in one transaction. Tables of
    /// earlier calls that are not in `desired` stay as they are. Returns
    /// whether anything was sent.
    pub fn sync(&mut self, desired: Vec<Table>) -> Result<bool, Error> {
        let changes: Vec<(&Table, Vec<Change>)> = desired
            .iter()
            .map(|table| (table, plan(self.known(table), table)))
            .filter(|(_, changes)| !changes.is_empty())
            .collect();
        if changes.is_empty() {
            return Ok(false);
        }
        let outcome = match commit(&mut self.socket, &changes) {
            Err(error) if is_surprise(&error) => {
                tracing::warn!(
                    error = %error.errno(),
                    "nftables rules were changed by somebody else, replacing them"
                );
                let whole: Vec<_> = desired
                    .iter()
                    .map(|table| (table, plan(None, table)))
                    .collect();
                commit(&mut self.socket, &whole)
            }
            outcome => outcome,
        };
        for table in desired {
            self.known.retain(|known| !same(known, &table));
            if outcome.is_ok() {
                self.known.push(table);
            }
        }
        outcome.map(|()| true)
    }

    /// Forgets what was sent: the next [`sync`](Self::sync) replaces every table
    /// as a whole.
    pub fn forget(&mut self) {
        self.known.clear();
    }

    /// The netlink port of its transactions, which names it in notifications.
    pub(super) fn port(&self) -> Result<u32, Error> {
        self.socket.port()
    }

    /// Removes tables, in one transaction. Succeeds if they do not exist.
    pub fn remove(&mut self, tables: &[(Family, &str)]) -> Result<(), Error> {
        let tables: Vec<Table> = tables
            .iter()
            .map(|(family, name)| Table::new(*family, *name))
            .collect();
        let changes: Vec<_> = tables.iter().map(|table| (table, removal())).collect();
        commit(&mut self.socket, &changes)?;
        self.known
            .retain(|known| !tables.iter().any(|table| same(known, table)));
        Ok(())
    }

    fn known(&self, table: &Table) -> Option<&Table> {
        self.known.iter().find(|known| same(known, table))
    }
}

/// Names of the tables of a family in the namespace of this thread.
pub fn tables(family: Family) -> Result<Vec<String>, Error> {
    let mut socket = Socket::open(SockProtocol::NetlinkNetFilter)?;
    let replies = socket.execute(
        Request {
            kind: message(libc::NFT_MSG_GETTABLE),
            flags: DUMP,
            header: &header(family.number(), 0),
            attributes: &Attributes::new(),
        },
        || "listing nftables tables".into(),
    )?;
    let new = message(libc::NFT_MSG_NEWTABLE);
    Ok(replies
        .iter()
        .filter(|reply| reply.kind == new && reply.body.first() == Some(&family.number()))
        .filter_map(|reply| reply.attributes(4).find(1))
        .map(text)
        .collect())
}

fn same(a: &Table, b: &Table) -> bool {
    a.family == b.family && a.name == b.name
}

/// Refusals that mean the kernel's table is not what was sent before.
fn is_surprise(error: &Error) -> bool {
    matches!(error.errno(), Errno::ENOENT | Errno::EEXIST | Errno::EBUSY)
}

fn commit(socket: &mut Socket, changes: &[(&Table, Vec<Change>)]) -> Result<(), Error> {
    let first = socket.next_sequence();
    let mut batch = Batch::begin(first);
    // For errors: which message carries which change.
    let mut sent: Vec<(u32, &Table, &Change)> = Vec::new();
    for (table, changes) in changes {
        for change in changes {
            sent.push((batch.next_sequence(), table, change));
            batch.change(table, change);
        }
    }
    let (bytes, first, last) = batch.end();
    socket.skip_sequences(last + 1);
    socket
        .send(&bytes)
        .map_err(|errno| Error::new("sending an nftables transaction", errno))?;
    socket.batch_outcome(first, last).map_err(|refusal| {
        let operation = sent
            .iter()
            .find(|(sequence, ..)| *sequence == refusal.sequence);
        let operation = match operation {
            Some((_, table, change)) => {
                format!(
                    "changing nftables table {}: {}",
                    table.name,
                    describe(change)
                )
            }
            None => "committing an nftables transaction".to_owned(),
        };
        refusal.into_error(operation)
    })
}

fn describe(change: &Change) -> String {
    match change {
        Change::AddTable => "adding the table".into(),
        Change::DeleteTable => "removing the table".into(),
        Change::AddChain(chain, _) => format!("adding chain {chain}"),
        Change::DeleteChain(chain) => format!("removing chain {chain}"),
        Change::FlushChain(chain) => format!("emptying chain {chain}"),
        Change::AddRule(chain, rule) => {
            let names: Vec<_> = rule
                .expressions
                .iter()
                .map(|expression| format!("{expression:?}"))
                .collect();
            format!("adding a rule to chain {chain}: {}", names.join(", "))
        }
        Change::AddSet(set, _) => format!("adding set {set}"),
        Change::DeleteSet(set) => format!("removing set {set}"),
        Change::AddElements(set, elements) => {
            format!("adding {} elements to set {set}", elements.len())
        }
        Change::DeleteElements(set, keys) => {
            format!("removing {} elements from set {set}", keys.len())
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

//! Noticing that somebody else removed a table.
//!
//! Other software on the node reloads its firewall with `flush ruleset`
//! (Debian's `nftables.service` does), which removes every table there is.
//! The kernel tells who listens.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::encode::message;
use super::{Family, Owner};
use crate::netlink::socket::{Notification, notifications};
use crate::netlink::{Error, Parse, text};

/// The bit of the group `NFNLGRP_NFTABLES`, the seventh.
const GROUP: u32 = 1 << 6;
/// `struct nfgenmsg`.
const FAMILY_HEADER: usize = 4;

/// Listens for tables that others remove.
#[derive(Debug)]
pub struct Removals {
    fd: AsyncFd<OwnedFd>,
    tables: Vec<(Family, String)>,
    own: u32,
}

impl Removals {
    /// Listens in the network namespace of this thread, for tables that
    /// somebody else than `owner` removes. Needs a tokio runtime.
    pub fn of(owner: &Owner, tables: &[(Family, &str)]) -> Result<Self, Error> {
        let failed = |errno| Error::new("listening for changes of nftables", errno);
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkNetFilter;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol).map_err(failed)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, GROUP)).map_err(failed)?;
        // SAFETY: an `OwnedFd` stays the same open descriptor until it is
        // dropped, and the `AsyncFd` owns it.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        let raw =
            |error: io::Error| failed(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)));
        Ok(Self {
            fd: fd.map_err(|error| raw(error.into()))?,
            tables: tables
                .iter()
                .map(|(family, name)| (*family, (*name).to_owned()))
                .collect(),
            own: owner.port()?,
        })
    }

    /// Completes when one of the tables was removed, or when so much happened
    /// at once that it may have been. Loses nothing when it is dropped.
    pub async fn next(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let mut ready = self.fd.readable().await?;
            let received = ready.try_io(|fd| {
                recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()).map_err(io::Error::from)
            });
            match received {
                Err(_) => {}
                Ok(Ok(length)) => {
                    if notifications(&buffer[..length]).any(|told| self.is_removal(&told)) {
                        return Ok(());
                    }
                }
                Ok(Err(error)) => {
                    let overflow = error.raw_os_error() == Some(libc::ENOBUFS);
                    return if overflow { Ok(()) } else { Err(error) };
                }
            }
        }
    }

    fn is_removal(&self, told: &Notification<'_>) -> bool {
        let name = Parse(told.body.get(FAMILY_HEADER..).unwrap_or_default())
            .find(1)
            .map(text);
        told.kind == message(libc::NFT_MSG_DELTABLE)
            && told.port != self.own
            && self.tables.iter().any(|(family, table)| {
                told.body.first() == Some(&family.number()) && name.as_ref() == Some(table)
            })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::time::Duration;

    use super::*;
    use crate::netns;
    use crate::nftables::Table;
    use crate::testing::skip_unless_root;

    #[test]
    fn tells_others_from_the_owner() {
        skip_unless_root!();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ns");
        netns::create(&path).unwrap();
        netns::run_in(&path, || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let mut owner = Owner::open().unwrap();
                let mut stranger = Owner::open().unwrap();
                let tables = || vec![Table::new(Family::Ip, "a"), Table::new(Family::Ip6, "a")];
                let mut removals = Removals::of(&owner, &[(Family::Ip, "a")]).unwrap();
                owner.sync(tables()).unwrap();
                owner.forget();
                owner.sync(tables()).unwrap();
                stranger.remove(&[(Family::Ip6, "a")]).unwrap();
                let wait = Duration::from_millis(50);
                assert!(tokio::time::timeout(wait, removals.next()).await.is_err());
                stranger.remove(&[(Family::Ip, "a")]).unwrap();
                let wait = Duration::from_secs(5);
                tokio::time::timeout(wait, removals.next())
                    .await
                    .unwrap()
                    .unwrap();
            });
        })
        .unwrap();
        netns::delete(&path).unwrap();
    }
}

//! Cluster addresses and node ports of Services, and the lease of events.
//!
//! What is taken is held in memory, read from the stored Services at first
//! use. A [`Hold`] gives back what a write took unless the write succeeded,
//! so two writers can never be given the same address.

mod service;

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use parking_lot::Mutex;
use store::{LeaseId, Store};
use tokio::sync::OnceCell;

/// How long events share one lease.
const LEASE_SHARED: Duration = Duration::from_secs(60);

/// Addresses and ports in use.
#[derive(Debug, Default)]
struct Taken {
    addresses: HashSet<IpAddr>,
    ports: BTreeSet<u16>,
}

/// What a write took or frees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Items {
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
}

/// The allocators of one server.
pub(crate) struct Allocators {
    ranges: Vec<IpNet>,
    ports: RangeInclusive<u16>,
    taken: Arc<Mutex<Taken>>,
    loaded: OnceCell<()>,
    lease: tokio::sync::Mutex<Option<(LeaseId, Instant)>>,
}

/// What a write took; given back when dropped, unless kept.
#[derive(Debug)]
#[must_use = "dropping it gives back what was taken"]
pub(crate) struct Hold {
    taken: Option<Arc<Mutex<Taken>>>,
    fresh: Items,
    stale: Items,
}

impl Hold {
    /// Nothing.
    pub(crate) fn none() -> Self {
        Self {
            taken: None,
            fresh: Items::default(),
            stale: Items::default(),
        }
    }

    /// The write succeeded: what it replaced is free now.
    pub(crate) fn keep(mut self) {
        self.fresh = std::mem::take(&mut self.stale);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(taken) = &self.taken {
            taken.lock().free(&self.fresh);
        }
    }
}

impl Taken {
    fn free(&mut self, items: &Items) {
        for address in &items.addresses {
            self.addresses.remove(address);
        }
        for port in &items.ports {
            self.ports.remove(port);
        }
    }

    fn add(&mut self, items: &Items) {
        self.addresses.extend(&items.addresses);
        self.ports.extend(&items.ports);
    }
}

impl Allocators {
    pub(crate) fn new(ranges: Vec<IpNet>, ports: RangeInclusive<u16>) -> Self {
        Self {
            ranges,
            ports,
            taken: Arc::default(),
            loaded: OnceCell::new(),
            lease: tokio::sync::Mutex::default(),
        }
    }

    /// The range of a family, if there is one.
    fn range(&self, ipv6: bool) -> Option<&IpNet> {
        self.ranges
            .iter()
            .find(|range| range.addr().is_ipv6() == ipv6)
    }

    fn first_is_ipv6(&self) -> bool {
        self.ranges
            .first()
            .is_some_and(|range| range.addr().is_ipv6())
    }

    /// A free address of a family: from the upper part of the range, so that
    /// the lower part stays for those who choose their address.
    fn pick_address(&self, ipv6: bool) -> Option<IpAddr> {
        let range = self.range(ipv6)?;
        let size = range_size(range);
        if size < 3 {
            return None;
        }
        let last = if ipv6 { size - 1 } else { size - 2 };
        let reserved = (size / 16).clamp(16, 256).min(last);
        let mut taken = self.taken.lock();
        let mut search = |from: u128, to: u128| {
            let count = to.checked_sub(from)? + 1;
            let offset = u128::from(fastrand::u64(..)) % count;
            (0..count.min(1 << 20))
                .map(|step| nth(range, from + (offset + step) % count))
                .find(|address| taken.addresses.insert(*address))
        };
        search(reserved + 1, last).or_else(|| search(1, reserved))
    }

    /// Takes one given address; says why not.
    fn take_address(&self, address: IpAddr) -> Result<(), String> {
        let Some(range) = self.range(address.is_ipv6()) else {
            return Err("the provided IP family is not configured".to_owned());
        };
        let edge =
            address == range.network() || (!address.is_ipv6() && address == range.broadcast());
        if !range.contains(&address) {
            return Err("the provided network does not match the current range".to_owned());
        }
        if edge {
            return Err(format!(
                "the provided IP ({address}) is not in the valid range. The range of valid IPs is \
                 {range}"
            ));
        }
        if self.taken.lock().addresses.insert(address) {
            Ok(())
        } else {
            Err("provided IP is already allocated".to_owned())
        }
    }

    fn pick_port(&self) -> Option<u16> {
        let (low, high) = (*self.ports.start(), *self.ports.end());
        // As for addresses: the lowest ports stay for those who choose theirs.
        let size = high - low + 1;
        let reserved = (size / 32).clamp(16, 128).min(size);
        let mut taken = self.taken.lock();
        let mut search = |from: u16, to: u16| {
            let count = u32::from(to.checked_sub(from)?) + 1;
            let offset = fastrand::u32(..count);
            (0..count)
                .filter_map(|step| u16::try_from((offset + step) % count).ok())
                .map(|step| from + step)
                .find(|port| taken.ports.insert(*port))
        };
        search(low + reserved, high).or_else(|| search(low, low + reserved - 1))
    }

    fn take_port(&self, port: u16) -> Result<(), String> {
        if !self.ports.contains(&port) {
            return Err(format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                self.ports.start(),
                self.ports.end()
            ));
        }
        if self.taken.lock().ports.insert(port) {
            Ok(())
        } else {
            Err("provided port is already allocated".to_owned())
        }
    }

    /// The lease that events written now hang on. Events of the same minute
    /// share one, so that they cost one lease a minute and go together.
    pub(crate) async fn event_lease(
        &self,
        store: &Arc<dyn Store>,
        ttl: Duration,
    ) -> store::Result<LeaseId> {
        let mut lease = self.lease.lock().await;
        if let Some((id, granted)) = *lease
            && granted.elapsed() < LEASE_SHARED
        {
            return Ok(id);
        }
        let id = store
            .lease_grant(LeaseId::default(), ttl + LEASE_SHARED)
            .await?;
        *lease = Some((id, Instant::now()));
        Ok(id)
    }
}

fn range_size(range: &IpNet) -> u128 {
    let bits = u32::from(range.max_prefix_len() - range.prefix_len());
    1u128.checked_shl(bits).unwrap_or(u128::MAX)
}

fn nth(range: &IpNet, offset: u128) -> IpAddr {
    match range.network() {
        IpAddr::V4(base) => {
            let base = u128::from(u32::from(base));
            IpAddr::V4(Ipv4Addr::from(
                u32::try_from(base + offset).unwrap_or(u32::MAX),
            ))
        }
        IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from(u128::from(base).saturating_add(offset))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_unique_and_run_out() {
        let ranges = vec!["10.43.0.0/28".parse().expect("a range")];
        let allocators = Allocators::new(ranges, 30000..=30003);
        let mut seen = HashSet::new();
        while let Some(address) = allocators.pick_address(false) {
            assert!(seen.insert(address));
        }
        assert_eq!(seen.len(), 14);
        let mut ports = HashSet::new();
        while let Some(port) = allocators.pick_port() {
            assert!(ports.insert(port));
        }
        assert_eq!(ports.len(), 4);
        assert!(allocators.take_port(80).is_err());
        let given: IpAddr = "10.43.0.5".parse().expect("an address");
        assert!(allocators.take_address(given).is_err());
        drop(Hold {
            taken: Some(allocators.taken.clone()),
            fresh: Items {
                addresses: vec![given],
                ports: Vec::new(),
            },
            stale: Items::default(),
        });
        assert!(allocators.take_address(given).is_ok());
    }
}

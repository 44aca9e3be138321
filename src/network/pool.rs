//! Which address of a CIDR is free.
//!
//! Addresses are handed out in turn, so that a freed one is not used again
//! before all others have been: peers that still remember the old pod do not
//! talk to a new one by mistake.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::Error;

/// The addresses of one CIDR. Slots count from the network address: slot 1 is
/// the gateway, pods start at slot 2.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    net: IpNet,
    /// First slot behind the last usable one.
    end: u32,
    /// Where the search for a free slot begins.
    next: u32,
    used: BTreeSet<u32>,
}

const FIRST: u32 = 2;
const GATEWAY: u32 = 1;

impl Pool {
    pub(crate) fn new(net: IpNet) -> Result<Self, Error> {
        let host_bits = net.max_prefix_len() - net.prefix_len();
        // Beyond 2^24 pods on a node the numbering of slots is no limit.
        let slots = 1u32 << host_bits.min(24);
        let end = if net.addr().is_ipv4() && host_bits <= 24 {
            slots - 1
        } else {
            slots
        };
        if end <= FIRST {
            return Err(Error::TooSmall(net, net.max_prefix_len() - 2));
        }
        Ok(Self {
            net: net.trunc(),
            end,
            next: FIRST,
            used: BTreeSet::new(),
        })
    }

    pub(crate) fn gateway(&self) -> IpAddr {
        self.address(GATEWAY)
    }

    pub(crate) fn next(&self) -> u32 {
        self.next
    }

    /// Begins the next search at this slot, as before a restart.
    pub(crate) fn resume(&mut self, next: u32) {
        self.next = if (FIRST..self.end).contains(&next) {
            next
        } else {
            FIRST
        };
    }

    /// Marks an address as taken; false if it is not one of this pool's.
    pub(crate) fn occupy(&mut self, address: IpAddr) -> bool {
        match self.slot(address) {
            Some(slot) => {
                self.used.insert(slot);
                true
            }
            None => false,
        }
    }

    pub(crate) fn allocate(&mut self) -> Result<IpAddr, Error> {
        let free = self
            .first_free(self.next, self.end)
            .or_else(|| self.first_free(FIRST, self.next));
        let slot = free.ok_or(Error::Exhausted(self.net))?;
        self.used.insert(slot);
        self.resume(slot + 1);
        Ok(self.address(slot))
    }

    pub(crate) fn free(&mut self, address: IpAddr) {
        if let Some(slot) = self.slot(address) {
            self.used.remove(&slot);
        }
    }

    fn first_free(&self, from: u32, to: u32) -> Option<u32> {
        let mut candidate = from;
        for used in self.used.range(from..to) {
            if *used != candidate {
                break;
            }
            candidate += 1;
        }
        (candidate < to).then_some(candidate)
    }

    fn address(&self, slot: u32) -> IpAddr {
        match self.net.network() {
            IpAddr::V4(base) => Ipv4Addr::from_bits(base.to_bits() + slot).into(),
            IpAddr::V6(base) => Ipv6Addr::from_bits(base.to_bits() + u128::from(slot)).into(),
        }
    }

    pub(crate) fn slot(&self, address: IpAddr) -> Option<u32> {
        let slot = match (self.net.network(), address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                address.to_bits().checked_sub(base.to_bits())?
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                u32::try_from(address.to_bits().checked_sub(base.to_bits())?).ok()?
            }
            _ => return None,
        };
        (FIRST..self.end).contains(&slot).then_some(slot)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn pool(net: &str) -> Pool {
        Pool::new(net.parse().unwrap()).unwrap()
    }

    #[test]
    fn edges() {
        for (net, gateway, first, capacity) in [
            ("10.42.0.0/24", "10.42.0.1", "10.42.0.2", 253),
            ("10.42.7.0/30", "10.42.7.1", "10.42.7.2", 1),
            ("10.42.7.9/29", "10.42.7.9", "10.42.7.10", 5),
            ("fd00:42::/120", "fd00:42::1", "fd00:42::2", 254),
            ("fd00:42::/64", "fd00:42::1", "fd00:42::2", (1 << 24) - 2),
        ] {
            let mut pool = pool(net);
            assert_eq!(pool.gateway(), gateway.parse::<IpAddr>().unwrap(), "{net}");
            assert_eq!(
                pool.allocate().unwrap(),
                first.parse::<IpAddr>().unwrap(),
                "{net}"
            );
            assert_eq!(pool.end - FIRST, capacity, "{net}");
        }
        for net in ["10.42.0.0/31", "10.42.0.1/32", "fd00::/128", "fd00::/127"] {
            assert!(Pool::new(net.parse().unwrap()).is_err(), "{net}");
        }
    }

    #[test]
    fn a_freed_address_comes_last() {
        let mut pool = pool("10.42.0.0/29");
        let all: Vec<_> = (0..5).map(|_| pool.allocate().unwrap()).collect();
        assert!(matches!(pool.allocate(), Err(Error::Exhausted(_))));
        pool.free(all[0]);
        pool.free(all[3]);
        assert_eq!(pool.allocate().unwrap(), all[0]);
        pool.free(all[0]);
        assert_eq!(pool.allocate().unwrap(), all[3]);
    }

    proptest! {
        #[test]
        fn never_hands_out_an_address_twice(steps in prop::collection::vec(0u8..4, 1..200)) {
            let mut pool = pool("10.42.0.0/28");
            let mut held = Vec::new();
            for step in steps {
                if step > 0 {
                    match pool.allocate() {
                        Ok(address) => held.push(address),
                        Err(_) => prop_assert_eq!(held.len(), 13),
                    }
                } else if !held.is_empty() {
                    pool.free(held.remove(0));
                }
                let distinct: HashSet<_> = held.iter().collect();
                prop_assert_eq!(distinct.len(), held.len());
            }
        }
    }
}

//! Narrow interfaces to the Linux kernel; the only crate with unsafe code.

pub mod conntrack;
pub mod netlink;
pub mod netns;
pub mod nftables;
pub mod sysctl;
#[cfg(test)]
mod testing;

//! Narrow interfaces to the Linux kernel; the only crate with unsafe code.

pub mod beneath;
pub mod cgroup;
pub mod conntrack;
pub mod devices;
pub mod fds;
pub mod mounts;
pub mod namespaces;
pub mod netlink;
pub mod netns;
pub mod nftables;
pub mod signals;
pub mod sysctl;
#[cfg(test)]
mod testing;

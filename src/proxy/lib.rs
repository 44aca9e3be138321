//! Services to nftables.

//! Links, addresses, routes and neighbours over `NETLINK_ROUTE`, and the
//! socket and attribute encoding that [`crate::nftables`] shares.
//!
//! Written here rather than taken from the rtnetlink crates: nf_tables needs a
//! netlink layer of its own either way, requests are answered synchronously so
//! an async connection task buys nothing, and what Karve needs of rtnetlink is
//! a dozen message types.

mod attributes;
mod route;
pub(crate) mod socket;

pub(crate) use attributes::text;
pub use attributes::{Attributes, Parse};
pub use route::{Link, LinkChange, Mac, NewLink, Route, RouteEntry};
pub use socket::Error;

//! Pod network: IPAM, bridge, veth, host ports.

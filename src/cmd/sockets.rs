//! Listening sockets, bound before anything else starts.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use anyhow::{Context, Result};

/// Binds a TCP listener, ready for tokio. `flag` is what to change if that fails.
pub(crate) fn tcp(address: IpAddr, port: u16, what: &str, flag: &str) -> Result<TcpListener> {
    let address = SocketAddr::new(address, port);
    let listener =
        TcpListener::bind(address).map_err(|error| explain(error, address, what, flag))?;
    listener
        .set_nonblocking(true)
        .context("preparing a listener")?;
    Ok(listener)
}

fn explain(error: std::io::Error, address: SocketAddr, what: &str, flag: &str) -> anyhow::Error {
    let advice = match error.kind() {
        ErrorKind::AddrInUse => format!(
            "{address} is in use by another process (`ss -tlnp` shows which); stop it or choose another port with {flag}"
        ),
        ErrorKind::AddrNotAvailable => {
            format!(
                "{} is no address of this machine; change {flag}",
                address.ip()
            )
        }
        ErrorKind::PermissionDenied => {
            format!("no permission to listen on {address}; run karve as root or change {flag}")
        }
        _ => format!("cannot listen on {address}; change {flag}"),
    };
    anyhow::Error::new(error).context(format!("{what}: {advice}"))
}

/// The address packets to the outside leave from: that of the interface with
/// the default route. Nothing is sent to find out.
pub(crate) fn default_address() -> Option<IpAddr> {
    // A datagram socket that is connected only asks the routing table. The
    // targets are from the blocks reserved for documentation.
    let ask = |local: IpAddr, target: IpAddr| {
        let socket = UdpSocket::bind((local, 0)).ok()?;
        socket.connect((target, 9)).ok()?;
        let address = socket.local_addr().ok()?.ip();
        (!address.is_unspecified()).then_some(address)
    };
    ask(
        Ipv4Addr::UNSPECIFIED.into(),
        Ipv4Addr::new(203, 0, 113, 1).into(),
    )
    .or_else(|| {
        ask(
            Ipv6Addr::UNSPECIFIED.into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_named_with_the_way_out() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = taken.local_addr().expect("bound").port();
        let error = tcp(
            Ipv4Addr::LOCALHOST.into(),
            port,
            "API server",
            "--https-listen-port",
        )
        .expect_err("taken");
        let text = format!("{error:#}");
        assert!(
            text.contains(&format!("127.0.0.1:{port} is in use")),
            "{text}"
        );
        assert!(text.contains("--https-listen-port"), "{text}");
    }
}

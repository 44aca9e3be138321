//! Agreeing on a transport and a protocol.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

const SPDY: &str = "SPDY/3.1";
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
const PORT_FORWARD: &str = "portforward.k8s.io";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// Protocol of a remote command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RemoteProtocol {
    /// WebSocket; `version` is that of `vN.channel.k8s.io`.
    WebSocket { version: u8, base64: bool },
    /// SPDY streams.
    Spdy { version: u8 },
}

/// Transport of a port-forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ForwardTransport {
    /// SPDY on the connection itself.
    Spdy,
    /// SPDY tunnelled through WebSocket messages.
    WebSocket,
}

/// What was agreed on, and the answer that says so.
#[derive(Debug)]
pub(crate) struct Negotiated<P> {
    pub(crate) protocol: P,
    pub(crate) response: Response<()>,
}

/// Why nothing was agreed on: the status and message to answer with.
pub(crate) type Refused = (StatusCode, String);

fn tokens<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    let values = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let tokens = values.flat_map(|value| value.split(','));
    tokens
        .map(str::trim)
        .filter(|token| !token.is_empty())
        .collect()
}

fn wants(headers: &HeaderMap, protocol: &str) -> bool {
    let upgrade = tokens(headers, "connection")
        .iter()
        .any(|t| t.eq_ignore_ascii_case("upgrade"));
    upgrade
        && tokens(headers, "upgrade")
            .iter()
            .any(|t| t.eq_ignore_ascii_case(protocol))
}

fn switching(pairs: &[(header::HeaderName, &str)]) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    for (name, value) in pairs {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name.clone(), value);
        }
    }
    response
}

/// Answers a WebSocket handshake with a subprotocol (or none).
fn accept_websocket(headers: &HeaderMap, subprotocol: &str) -> Result<Response<()>, Refused> {
    let key = headers.get("sec-websocket-key");
    let version = headers
        .get("sec-websocket-version")
        .map(HeaderValue::as_bytes);
    let (Some(key), Some(b"13")) = (key, version) else {
        let message = "a WebSocket handshake needs Sec-WebSocket-Key and version 13".to_owned();
        return Err((StatusCode::BAD_REQUEST, message));
    };
    let accept = derive_accept_key(key.as_bytes());
    let mut pairs = vec![
        (header::UPGRADE, "websocket"),
        (header::SEC_WEBSOCKET_ACCEPT, accept.as_str()),
    ];
    if !subprotocol.is_empty() {
        pairs.push((header::SEC_WEBSOCKET_PROTOCOL, subprotocol));
    }
    Ok(switching(&pairs))
}

fn no_upgrade() -> Refused {
    (
        StatusCode::BAD_REQUEST,
        "you must specify at least 1 of an upgrade to websocket or SPDY/3.1".into(),
    )
}

/// Agrees on the protocol of exec and attach.
pub(crate) fn negotiate_remote(headers: &HeaderMap) -> Result<Negotiated<RemoteProtocol>, Refused> {
    if wants(headers, "websocket") {
        let offered = tokens(headers, "sec-websocket-protocol");
        let known = |name: &str| {
            let (version, base64) = match name {
                "v5.channel.k8s.io" => (5, false),
                "v4.channel.k8s.io" => (4, false),
                "v4.base64.channel.k8s.io" => (4, true),
                "channel.k8s.io" | "" => (1, false),
                "base64.channel.k8s.io" => (1, true),
                _ => return None,
            };
            Some(RemoteProtocol::WebSocket { version, base64 })
        };
        let chosen = match offered.is_empty() {
            true => Some((
                "",
                RemoteProtocol::WebSocket {
                    version: 1,
                    base64: false,
                },
            )),
            false => offered.iter().find_map(|name| Some((*name, known(name)?))),
        };
        let Some((name, protocol)) = chosen else {
            let message = format!("unable to upgrade: no supported subprotocol in {offered:?}");
            return Err((StatusCode::BAD_REQUEST, message));
        };
        return Ok(Negotiated {
            protocol,
            response: accept_websocket(headers, name)?,
        });
    }
    if !wants(headers, SPDY) {
        return Err(no_upgrade());
    }
    let offered = tokens(headers, STREAM_PROTOCOL);
    let known = |name: &str| match name {
        "v4.channel.k8s.io" => Some(4),
        "v3.channel.k8s.io" => Some(3),
        "v2.channel.k8s.io" => Some(2),
        "channel.k8s.io" => Some(1),
        _ => None,
    };
    let chosen = match offered.is_empty() {
        true => Some(("", 1)),
        false => offered.iter().find_map(|name| Some((*name, known(name)?))),
    };
    let Some((name, version)) = chosen else {
        let message = format!("unable to upgrade: no supported stream protocol in {offered:?}");
        return Err((StatusCode::FORBIDDEN, message));
    };
    let mut pairs = vec![(header::UPGRADE, SPDY)];
    if !name.is_empty() {
        pairs.push((header::HeaderName::from_static(STREAM_PROTOCOL), name));
    }
    Ok(Negotiated {
        protocol: RemoteProtocol::Spdy { version },
        response: switching(&pairs),
    })
}

/// Agrees on the transport of a port-forward.
pub(crate) fn negotiate_forward(
    headers: &HeaderMap,
) -> Result<Negotiated<ForwardTransport>, Refused> {
    if wants(headers, "websocket") {
        if !tokens(headers, "sec-websocket-protocol").contains(&TUNNEL) {
            let message =
                format!("unable to upgrade: the only supported subprotocol is {TUNNEL:?}");
            return Err((StatusCode::BAD_REQUEST, message));
        }
        let response = accept_websocket(headers, TUNNEL)?;
        return Ok(Negotiated {
            protocol: ForwardTransport::WebSocket,
            response,
        });
    }
    if !wants(headers, SPDY) {
        return Err(no_upgrade());
    }
    let offered = tokens(headers, STREAM_PROTOCOL);
    if !offered.is_empty() && !offered.contains(&PORT_FORWARD) {
        let message = format!("unable to upgrade: no supported stream protocol in {offered:?}");
        return Err((StatusCode::FORBIDDEN, message));
    }
    let name = header::HeaderName::from_static(STREAM_PROTOCOL);
    let response = switching(&[(header::UPGRADE, SPDY), (name, PORT_FORWARD)]);
    Ok(Negotiated {
        protocol: ForwardTransport::Spdy,
        response,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn picks_what_both_know() {
        let websocket = |offer: &'static str| {
            headers(&[
                ("connection", "keep-alive, Upgrade"),
                ("upgrade", "websocket"),
                ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
                ("sec-websocket-version", "13"),
                ("sec-websocket-protocol", offer),
            ])
        };
        let got =
            negotiate_remote(&websocket("v9.x, v5.channel.k8s.io, v4.channel.k8s.io")).unwrap();
        assert_eq!(
            got.protocol,
            RemoteProtocol::WebSocket {
                version: 5,
                base64: false
            }
        );
        let answer = got.response.headers();
        assert_eq!(
            answer["sec-websocket-accept"],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        assert_eq!(answer["sec-websocket-protocol"], "v5.channel.k8s.io");
        assert!(negotiate_remote(&websocket("nothing")).is_err());
        let tunnel = negotiate_forward(&websocket(TUNNEL)).unwrap();
        assert_eq!(tunnel.protocol, ForwardTransport::WebSocket);
        assert!(negotiate_forward(&websocket("v4.channel.k8s.io")).is_err());
    }

    #[test]
    fn picks_spdy_protocols() {
        let spdy = headers(&[
            ("connection", "Upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v5.channel.k8s.io"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
        ]);
        let got = negotiate_remote(&spdy).unwrap();
        assert_eq!(got.protocol, RemoteProtocol::Spdy { version: 4 });
        assert_eq!(
            got.response.headers()["x-stream-protocol-version"],
            "v4.channel.k8s.io"
        );
        assert!(negotiate_remote(&HeaderMap::new()).is_err());
        assert!(negotiate_forward(&spdy).is_err());
    }
}

//! WebSocket answers: a stream of which each chunk is sent as one message.
//!
//! Browsers and some clients read watches and logs this way. Clients only
//! listen: what they send is read, for pings and the goodbye, and dropped.

use std::time::Duration;

use base::{Shutdown, Supervisor};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures::{SinkExt, Stream, StreamExt};
use http::header::{
    AUTHORIZATION, CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::{Body, BoxError, Response, text};

/// Largest message taken from a client, which has nothing to say.
const MAX_MESSAGE: usize = 64 * 1024;
/// How long a client may take to answer the goodbye.
const GOODBYE: Duration = Duration::from_secs(5);
/// Prefix of the subprotocol that carries a bearer token.
const BEARER: &str = "base64url.bearer.authorization.k8s.io.";

/// How chunks become messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Binary messages.
    Binary,
    /// Text messages of chunks that are UTF-8.
    Text,
    /// Text messages that hold base64.
    Base64,
}

impl Framing {
    fn message(self, chunk: Bytes) -> Message {
        match self {
            Self::Binary => Message::Binary(chunk),
            Self::Text => match Utf8Bytes::try_from(chunk.clone()) {
                Ok(text) => Message::Text(text),
                Err(_) => Message::Binary(chunk),
            },
            Self::Base64 => Message::text(STANDARD.encode(&chunk)),
        }
    }
}

fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

/// Whether the request asks for a WebSocket.
pub(crate) fn is_wanted(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(UPGRADE).map(HeaderValue::as_bytes);
    upgrade.is_some_and(|value| value.eq_ignore_ascii_case(b"websocket"))
        && tokens(headers, CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"))
}

/// Takes the headers of a handshake away, so that the rest asks for a plain answer.
pub(crate) fn strip(headers: &mut HeaderMap) {
    for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_KEY] {
        headers.remove(name);
    }
    for name in [SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION] {
        headers.remove(name);
    }
    headers.remove("sec-websocket-extensions");
}

/// Turns the subprotocol that carries a bearer token into an `Authorization`
/// header: browsers cannot set that one on a WebSocket.
///
/// # Errors
///
/// Says what is wrong with the token; the request is unauthorized then.
pub(crate) fn take_bearer(headers: &mut HeaderMap) -> Result<(), &'static str> {
    if !is_wanted(headers) {
        return Ok(());
    }
    let (bearers, others): (Vec<&str>, Vec<&str>) =
        tokens(headers, SEC_WEBSOCKET_PROTOCOL).partition(|token| token.starts_with(BEARER));
    let encoded = match bearers.as_slice() {
        [] => return Ok(()),
        [one] => &one[BEARER.len()..],
        _ => return Err("multiple base64.bearer.authorization tokens specified"),
    };
    let token = URL_SAFE_NO_PAD
        .decode(encoded)
        .map_err(|_| "invalid base64.bearer.authorization token encoding")?;
    let token =
        String::from_utf8(token).map_err(|_| "invalid base64.bearer.authorization token")?;
    if others.is_empty() {
        return Err("missing additional subprotocol");
    }
    let others = HeaderValue::from_str(&others.join(",")).map_err(|_| "invalid subprotocol")?;
    let authorization = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| "invalid base64.bearer.authorization token")?;
    headers.insert(SEC_WEBSOCKET_PROTOCOL, others);
    headers.entry(AUTHORIZATION).or_insert(authorization);
    Ok(())
}

/// A handshake that both sides can agree on.
pub(crate) struct Handshake {
    upgrade: OnUpgrade,
    answer: Response,
}

impl Handshake {
    /// The handshake of a reader: one stream of bytes, raw or as base64.
    ///
    /// # Errors
    ///
    /// The answer that refuses it.
    pub(crate) fn reader(parts: &http::request::Parts) -> Result<(Self, Framing), Box<Response>> {
        let offered: Vec<&str> = tokens(&parts.headers, SEC_WEBSOCKET_PROTOCOL).collect();
        let known = |name: &str| match name {
            "binary.k8s.io" => Some(Framing::Binary),
            "base64.binary.k8s.io" => Some(Framing::Base64),
            _ => None,
        };
        let chosen = match offered.is_empty() {
            true => Some(("", Framing::Binary)),
            false => offered.iter().find_map(|name| Some((*name, known(name)?))),
        };
        let Some((name, framing)) = chosen else {
            let message = format!(
                "requested protocol(s) are not supported: [{}]; supports [ binary.k8s.io base64.binary.k8s.io]",
                offered.join(" ")
            );
            return Err(refused(403, message));
        };
        Ok((Self::new(parts, name)?, framing))
    }

    /// The handshake of a watch: any one subprotocol, from a page that says
    /// where it comes from.
    ///
    /// # Errors
    ///
    /// The answer that refuses it.
    pub(crate) fn watch(parts: &http::request::Parts) -> Result<Self, Box<Response>> {
        if parts
            .headers
            .get("origin")
            .is_none_or(HeaderValue::is_empty)
        {
            return Err(refused(403, "null origin".to_owned()));
        }
        let offered: Vec<&str> = tokens(&parts.headers, SEC_WEBSOCKET_PROTOCOL).collect();
        match offered.as_slice() {
            [] => Self::new(parts, ""),
            [one] => Self::new(parts, one),
            _ => Err(refused(
                400,
                "bad WebSocket protocol: a watch takes one".to_owned(),
            )),
        }
    }

    fn new(parts: &http::request::Parts, subprotocol: &str) -> Result<Self, Box<Response>> {
        let headers = &parts.headers;
        let version = headers
            .get(SEC_WEBSOCKET_VERSION)
            .map(HeaderValue::as_bytes);
        if version != Some(b"13") {
            let mut answer = refused(400, "missing or bad WebSocket Version".to_owned());
            let supported = HeaderValue::from_static("13");
            answer
                .headers_mut()
                .insert(SEC_WEBSOCKET_VERSION, supported);
            return Err(answer);
        }
        let Some(key) = headers.get(SEC_WEBSOCKET_KEY) else {
            return Err(refused(400, "mismatch challenge/response".to_owned()));
        };
        let Some(upgrade) = parts.extensions.get::<OnUpgrade>().cloned() else {
            return Err(refused(400, "not websocket protocol".to_owned()));
        };
        let mut answer = http::Response::new(Body::empty());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let accept = derive_accept_key(key.as_bytes());
        for (name, value) in [
            (UPGRADE, "websocket"),
            (CONNECTION, "Upgrade"),
            (SEC_WEBSOCKET_ACCEPT, accept.as_str()),
            (SEC_WEBSOCKET_PROTOCOL, subprotocol),
        ] {
            if let Ok(value) = HeaderValue::from_str(value)
                && !value.is_empty()
            {
                answer.headers_mut().insert(name, value);
            }
        }
        Ok(Self { upgrade, answer })
    }

    /// Answers, and sends the stream once the connection is upgraded.
    pub(crate) fn send(
        self,
        tasks: &Supervisor,
        framing: Framing,
        chunks: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
    ) -> Response {
        let upgrade = self.upgrade;
        tasks.spawn("websocket", move |stop| async move {
            match upgrade.await {
                Ok(io) => run(TokioIo::new(io), framing, chunks, stop).await,
                Err(error) => tracing::debug!(%error, "upgrade to a WebSocket failed"),
            }
        });
        self.answer
    }
}

fn refused(code: u16, message: String) -> Box<Response> {
    Box::new(text(code, message))
}

async fn run<T>(
    io: T,
    framing: Framing,
    chunks: impl Stream<Item = Result<Bytes, BoxError>> + Send,
    stop: Shutdown,
) where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send,
{
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
    let (mut sink, mut stream) = socket.split();
    {
        let listen = async { while let Some(Ok(_)) = stream.next().await {} };
        let mut listen = std::pin::pin!(listen);
        let say = async {
            let mut chunks = std::pin::pin!(chunks);
            while let Some(Some(Ok(chunk))) = stop.guard(chunks.next()).await {
                if sink.send(framing.message(chunk)).await.is_err() {
                    return;
                }
            }
            // A goodbye without a code would be taken for an error.
            let goodbye = CloseFrame {
                code: CloseCode::Normal,
                reason: Utf8Bytes::default(),
            };
            sink.send(Message::Close(Some(goodbye))).await.ok();
        };
        tokio::select! {
            () = &mut listen => {}
            () = say => {
                let _ = tokio::time::timeout(GOODBYE, listen).await;
            }
        }
    }
    if let Ok(socket) = sink.reunite(stream) {
        socket.into_inner().shutdown().await.ok();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn headers(protocols: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-protocol", protocols),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn bearers_are_taken_from_protocols() {
        let check = |protocols: &str| {
            let mut headers = headers(protocols);
            take_bearer(&mut headers).map(|()| {
                let text = |name| {
                    headers
                        .get(name)
                        .map(|value| value.to_str().unwrap().to_owned())
                };
                (text(AUTHORIZATION), text(SEC_WEBSOCKET_PROTOCOL))
            })
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(check("a.k8s.io"), Ok((None, some("a.k8s.io"))));
        let bearer = format!("{BEARER}dDE");
        assert_eq!(
            check(&format!("{bearer}, a.k8s.io")),
            Ok((some("Bearer t1"), some("a.k8s.io")))
        );
        assert_eq!(check(&bearer), Err("missing additional subprotocol"));
        assert!(check(&format!("{bearer}, {bearer}, a")).is_err());
        assert!(check(&format!("{BEARER}?, a")).is_err());
    }

    async fn received(framing: Framing) -> Vec<Message> {
        let (near, far) = tokio::io::duplex(1024);
        let chunks = futures::stream::iter(["", "one\n"].map(|text| Ok(Bytes::from(text))));
        let client = async {
            let mut client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
            client.send(Message::text("ignored")).await.unwrap();
            let mut all = Vec::new();
            while let Some(Ok(message)) = client.next().await {
                all.push(message);
            }
            all
        };
        let (all, ()) = tokio::join!(client, run(near, framing, chunks, Shutdown::new()));
        all
    }

    #[tokio::test]
    async fn chunks_are_messages() {
        let end = Message::Close(Some(CloseFrame {
            code: CloseCode::Normal,
            reason: Utf8Bytes::default(),
        }));
        let binary = |text: &'static str| Message::Binary(Bytes::from(text));
        assert_eq!(
            received(Framing::Binary).await,
            [binary(""), binary("one\n"), end.clone()]
        );
        assert_eq!(
            received(Framing::Base64).await,
            [Message::text(""), Message::text("b25lCg=="), end.clone()]
        );
        assert_eq!(
            received(Framing::Text).await,
            [Message::text(""), Message::text("one\n"), end]
        );
    }
}

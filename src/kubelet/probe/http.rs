//! One HTTP GET to a pod, as probes and lifecycle hooks make it: no pooled
//! connections, no proxy, certificates not verified.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::pod::resolve_port;

/// Most of a response body that is read.
const MAX_BODY: usize = 10 << 10;
const MAX_REDIRECTS: usize = 10;

/// Where a GET goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpTarget {
    pub(crate) https: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl HttpTarget {
    /// The target of an `httpGet` action; `purpose` goes into the user agent.
    pub(crate) fn new(
        action: &HTTPGetAction,
        container: &Container,
        pod_ip: &str,
        purpose: &str,
    ) -> Result<Self, String> {
        let mut headers: Vec<(String, String)> = action
            .http_headers
            .iter()
            .flatten()
            .map(|header| (header.name.clone(), header.value.clone()))
            .collect();
        let has = |headers: &[(String, String)], name: &str| {
            headers
                .iter()
                .any(|(known, _)| known.eq_ignore_ascii_case(name))
        };
        if !has(&headers, "user-agent") {
            headers.push(("User-Agent".into(), format!("kube-{purpose}/1.36")));
        }
        if !has(&headers, "accept") {
            headers.push(("Accept".into(), "*/*".into()));
        }
        headers.retain(|(name, value)| !(name.eq_ignore_ascii_case("accept") && value.is_empty()));
        let path = action.path.as_deref().unwrap_or_default();
        Ok(Self {
            https: action
                .scheme
                .as_deref()
                .is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")),
            host: action
                .host
                .as_deref()
                .filter(|h| !h.is_empty())
                .unwrap_or(pod_ip)
                .to_owned(),
            port: resolve_port(&action.port, container)?,
            path: if path.starts_with('/') {
                path.to_owned()
            } else {
                format!("/{path}")
            },
            headers,
        })
    }

    fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    fn url(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(), self.path)
    }

    /// The target a redirect leads to; `None` if it leaves this host.
    fn redirected(&self, location: &str) -> Option<Self> {
        let mut next = self.clone();
        let rest = if let Some(rest) = location.strip_prefix("http://") {
            (next.https, next.port) = (false, 80);
            rest
        } else if let Some(rest) = location.strip_prefix("https://") {
            (next.https, next.port) = (true, 443);
            rest
        } else if location.starts_with('/') {
            next.path = location.to_owned();
            return Some(next);
        } else {
            let base = self.path.rsplit_once('/').map_or("", |(base, _)| base);
            next.path = format!("{base}/{location}");
            return Some(next);
        };
        let at = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        next.path = if path.is_empty() {
            "/".into()
        } else {
            path.to_owned()
        };
        let authority: http::uri::Authority = authority.parse().ok()?;
        if let Some(port) = authority.port_u16() {
            next.port = port;
        }
        let host = authority.host().trim_matches(['[', ']']);
        (host == self.host).then_some(next)
    }
}

/// Status code and the beginning of the body; the error text is in the words
/// upstream's client has for it. Redirects within the host are followed.
pub(crate) async fn http_get(
    target: &HttpTarget,
    timeout: Duration,
) -> Result<(u16, Vec<u8>), String> {
    let fetch = async {
        let mut target = target.clone();
        for _ in 0..=MAX_REDIRECTS {
            let (status, location, body) = get_once(&target)
                .await
                .map_err(|error| format!("Get {:?}: {error}", target.url()))?;
            let next = location.filter(|_| (300..400).contains(&status));
            match next.and_then(|location| target.redirected(&location)) {
                Some(next) => target = next,
                None => return Ok((status, body)),
            }
        }
        Err(format!(
            "Get {:?}: stopped after 10 redirects",
            target.url()
        ))
    };
    tokio::time::timeout(timeout, fetch).await.unwrap_or_else(|_| {
        Err(format!(
            "Get {:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
            target.url()
        ))
    })
}

/// Connects; the error reads like `dial tcp 10.0.0.1:80: connect: connection refused`.
pub(crate) async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    let place = match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    };
    TcpStream::connect((host, port)).await.map_err(|error| {
        let reason = match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "connect: connection refused".into(),
            std::io::ErrorKind::HostUnreachable => "connect: no route to host".into(),
            std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".into(),
            std::io::ErrorKind::TimedOut => "i/o timeout".into(),
            _ => error.to_string(),
        };
        format!("dial tcp {place}: {reason}")
    })
}

async fn get_once(target: &HttpTarget) -> Result<(u16, Option<String>, Vec<u8>), String> {
    let stream = dial(&target.host, target.port).await?;
    if !target.https {
        return exchange(target, stream).await;
    }
    let name = ServerName::try_from(target.host.clone()).map_err(|error| error.to_string())?;
    let connector = tokio_rustls::TlsConnector::from(UNVERIFIED.clone());
    let stream = connector
        .connect(name, stream)
        .await
        .map_err(|error| error.to_string())?;
    exchange(target, stream).await
}

async fn exchange(
    target: &HttpTarget,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<(u16, Option<String>, Vec<u8>), String> {
    let connect = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = connect.map_err(|error| error.to_string())?;
    let mut request = Request::get(&target.path);
    let mut has_host = false;
    for (name, value) in &target.headers {
        has_host |= name.eq_ignore_ascii_case("host");
        request = request.header(name, value);
    }
    if !has_host {
        request = request.header("Host", target.authority());
    }
    let request = request
        .header("Connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| e.to_string())?;
    let respond = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let location = response.headers().get("location");
        let location = location
            .and_then(|value| value.to_str().ok())
            .map(Into::into);
        // A body that is too long or breaks off is no failure: the status decides.
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        let body = body
            .map(|body| body.to_bytes().to_vec())
            .unwrap_or_default();
        Ok((status, location, body))
    };
    tokio::pin!(connection);
    tokio::pin!(respond);
    tokio::select! {
        result = &mut respond => result,
        ended = &mut connection => match ended {
            Ok(()) => respond.await,
            Err(error) => Err(error.to_string()),
        },
    }
}

static UNVERIFIED: LazyLock<Arc<rustls::ClientConfig>> = LazyLock::new(|| {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(AnyCertificate(provider.clone()));
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider supports the default TLS versions")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Arc::new(config)
});

/// Takes any certificate: a probe asks whether something answers, not who.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn target(port: u16) -> HttpTarget {
        let action = serde_json::from_value(json!({"path": "healthz", "port": port,
            "httpHeaders": [{"name": "X-Custom", "value": "a"}]}))
        .unwrap();
        HttpTarget::new(&action, &Container::default(), "127.0.0.1", "probe").unwrap()
    }

    #[tokio::test]
    async fn gets_and_follows_local_redirects() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serve = async {
            for answer in ["302 Found\r\nLocation: /other", "503 Busy"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 1024];
                let read = stream.read(&mut request).await.unwrap();
                let request = String::from_utf8_lossy(&request[..read]).to_lowercase();
                assert!(request.contains("user-agent: kube-probe/1.36"), "{request}");
                assert!(request.contains("x-custom: a"), "{request}");
                let answer = format!("HTTP/1.1 {answer}\r\nContent-Length: 2\r\n\r\nok");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        };
        let target = target(port);
        let (got, ()) = tokio::join!(http_get(&target, Duration::from_secs(5)), serve);
        assert_eq!(got.unwrap(), (503, b"ok".to_vec()));
    }

    #[tokio::test]
    async fn says_what_failed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let slow = http_get(&target(port), Duration::from_millis(20))
            .await
            .unwrap_err();
        assert!(slow.contains("context deadline exceeded"), "{slow}");
        drop(listener);
        let refused = http_get(&target(port), Duration::from_secs(5))
            .await
            .unwrap_err();
        let url = format!("http://127.0.0.1:{port}/healthz");
        let want = format!("Get {url:?}: dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(refused, want);
    }

    #[test]
    fn redirects_stay_on_the_host() {
        let check = |location: &str, want: Option<&str>| {
            let got = target(8080).redirected(location).map(|next| next.url());
            assert_eq!(got.as_deref(), want, "{location}");
        };
        check("/x", Some("http://127.0.0.1:8080/x"));
        check("x", Some("http://127.0.0.1:8080/x"));
        check("https://127.0.0.1/x", Some("https://127.0.0.1:443/x"));
        check("http://example.com/", None);
    }
}

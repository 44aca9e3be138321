//! One HTTP/1.1 connection over TLS.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::Target;

/// A client that takes any server for the right one: it measures loopback.
pub(crate) fn trusting() -> Result<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting(provider)))
        .with_no_client_auth();
    Ok(config)
}

#[derive(Debug)]
struct Trusting(Arc<CryptoProvider>);

impl ServerCertVerifier for Trusting {
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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// An answer, its body already looked at.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// When the first byte of the body was there.
    pub(crate) first: Instant,
    pub(crate) bytes: u64,
}

/// Where the body ends.
enum Framing {
    Length(u64),
    Chunked,
}

/// A connection that stays open.
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    buffer: Vec<u8>,
    /// What of the buffer is read and not used yet.
    start: usize,
    end: usize,
    common: String,
}

impl Connection {
    pub(crate) async fn open(target: &Target) -> Result<Self> {
        let stream = TcpStream::connect(&target.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost")?;
        let stream = target.tls.connect(name, stream).await?;
        Ok(Self {
            stream,
            buffer: vec![0; 32 << 10],
            start: 0,
            end: 0,
            common: format!(
                "Host: {}\r\nAuthorization: Bearer {}\r\nAccept: application/json\r\n\
                 User-Agent: load\r\n",
                target.address, target.token
            ),
        })
    }

    /// Sends a request and reads the whole answer; `each` sees the body.
    pub(crate) async fn request(
        &mut self,
        method: &str,
        path: &str,
        body: &[u8],
        each: impl FnMut(&[u8]),
    ) -> Result<Answer> {
        self.send(method, path, body).await?;
        self.answer(each).await
    }

    /// Sends a request.
    pub(crate) async fn send(&mut self, method: &str, path: &str, body: &[u8]) -> Result<()> {
        let mut request = format!("{method} {path} HTTP/1.1\r\n{}", self.common).into_bytes();
        if !body.is_empty() {
            let media = match method {
                "PATCH" => "application/merge-patch+json",
                _ => "application/json",
            };
            let head = format!(
                "Content-Type: {media}\r\nContent-Length: {}\r\n",
                body.len()
            );
            request.extend_from_slice(head.as_bytes());
        }
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(body);
        self.stream.write_all(&request).await?;
        self.stream.flush().await?;
        Ok(())
    }

    /// Reads an answer to its end, which a watch reaches when the server says so.
    pub(crate) async fn answer(&mut self, mut each: impl FnMut(&[u8])) -> Result<Answer> {
        let (status, framing) = self.head().await?;
        let mut answer = Answer {
            status,
            first: Instant::now(),
            bytes: 0,
        };
        match framing {
            Framing::Length(length) => {
                if length > 0 && self.start == self.end {
                    self.fill().await?;
                    answer.first = Instant::now();
                }
                answer.bytes = length;
                self.body(length, &mut each).await?;
            }
            Framing::Chunked => loop {
                let size = self.line().await?;
                let size = std::str::from_utf8(&size)?.trim();
                let size = u64::from_str_radix(size, 16).context("a chunk's size")?;
                if answer.bytes == 0 {
                    answer.first = Instant::now();
                }
                answer.bytes += size;
                self.body(size, &mut each).await?;
                self.line().await?;
                if size == 0 {
                    break;
                }
            },
        }
        Ok(answer)
    }

    /// Reads up to the beginning of a body that goes on; its status.
    pub(crate) async fn begin(&mut self) -> Result<u16> {
        Ok(self.head().await?.0)
    }

    /// Reads on in a chunked body that has begun: line feeds in what came.
    pub(crate) async fn lines(&mut self, left: &mut u64) -> Result<u64> {
        let mut lines = 0;
        loop {
            while *left == 0 {
                if lines > 0 {
                    // What follows may be long in coming.
                    return Ok(lines);
                }
                let size = self.line().await?;
                let size = std::str::from_utf8(&size)?.trim().to_owned();
                if size.is_empty() {
                    continue;
                }
                *left = u64::from_str_radix(&size, 16).context("a chunk's size")?;
                if *left == 0 {
                    bail!("the watch ended");
                }
            }
            if self.start == self.end {
                if lines > 0 {
                    return Ok(lines);
                }
                self.fill().await?;
            }
            let have = (self.end - self.start).min(usize::try_from(*left).unwrap_or(usize::MAX));
            let part = &self.buffer[self.start..self.start + have];
            lines += part.iter().filter(|byte| **byte == b'\n').count() as u64;
            self.start += have;
            *left -= have as u64;
            if self.start == self.end && lines > 0 {
                return Ok(lines);
            }
        }
    }

    async fn head(&mut self) -> Result<(u16, Framing)> {
        let first = self.line().await?;
        let status = std::str::from_utf8(first.get(9..12).context("a status line")?)?.parse()?;
        let mut framing = Framing::Length(0);
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok((status, framing));
            }
            let Some(colon) = line.iter().position(|byte| *byte == b':') else {
                bail!("a header without a colon");
            };
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if name.eq_ignore_ascii_case(b"content-length") {
                framing = Framing::Length(std::str::from_utf8(value)?.parse()?);
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                framing = Framing::Chunked;
            }
        }
    }

    /// Reads more behind what is there.
    async fn fill(&mut self) -> Result<()> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.end == self.buffer.len() {
                bail!("a line longer than {}", self.buffer.len());
            }
        }
        match self.stream.read(&mut self.buffer[self.end..]).await? {
            0 => bail!("the server closed the connection"),
            more => self.end += more,
        }
        Ok(())
    }

    async fn line(&mut self) -> Result<Vec<u8>> {
        let mut looked = 0;
        loop {
            let part = &self.buffer[self.start..self.end];
            if let Some(at) = part[looked..].iter().position(|byte| *byte == b'\n') {
                let line = part[..looked + at].trim_ascii_end().to_vec();
                self.start += looked + at + 1;
                return Ok(line);
            }
            looked = part.len();
            self.fill().await?;
        }
    }

    async fn body(&mut self, mut left: u64, each: &mut impl FnMut(&[u8])) -> Result<()> {
        while left > 0 {
            if self.start == self.end {
                self.fill().await?;
            }
            let have = (self.end - self.start).min(usize::try_from(left).unwrap_or(usize::MAX));
            each(&self.buffer[self.start..self.start + have]);
            self.start += have;
            left -= have as u64;
        }
        Ok(())
    }
}

//! TLS configurations made from certificates, all on ring.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};

use crate::{Error, Issued, Result};

/// A server that asks for client certificates signed by `client_ca` (PEM) and
/// also accepts clients without one, who then show a token.
pub fn server_config(serving: &Issued, client_ca: &str, alpn: &[&[u8]]) -> Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots(client_ca)?), provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(|source| Error::Tls(Box::new(source)))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_client_cert_verifier(verifier)
                .with_single_cert(chain(&serving.certificate)?, key(&serving.key)?)
        })
        .map_err(|source| Error::Tls(Box::new(source)))?;
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

/// A client that trusts servers signed by `server_ca` (PEM) and shows `client`.
pub fn client_config(server_ca: &str, client: &Issued, alpn: &[&[u8]]) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_root_certificates(
                    roots(server_ca).map_err(|error| rustls::Error::General(error.to_string()))?,
                )
                .with_client_auth_cert(chain(&client.certificate)?, key(&client.key)?)
        })
        .map_err(|source| Error::Tls(Box::new(source)))?;
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

/// A client that takes any certificate and shows none of its own: for proxying
/// to pods, of which nobody knows who signed theirs.
pub fn unverified_client_config() -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(AnyCertificate(provider.clone()));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| Error::Tls(Box::new(source)))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(config)
}

/// Checks that the other side holds its certificate's key, not who signed it.
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
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn roots(pem: &str) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(pem).map_err(|source| Error::Tls(Box::new(source)))? {
        roots
            .add(certificate)
            .map_err(|source| Error::Tls(Box::new(source)))?;
    }
    Ok(roots)
}

fn chain(pem: &str) -> std::result::Result<Vec<CertificateDer<'static>>, rustls::Error> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| rustls::Error::General(format!("certificate: {error}")))
}

fn key(pem: &str) -> std::result::Result<PrivateKeyDer<'static>, rustls::Error> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| rustls::Error::General(format!("private key: {error}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::{Ca, Leaf, Usage};
    use std::time::Duration;

    #[test]
    fn any_certificate_will_do() {
        let mut leaf = Leaf::client("x", "y");
        leaf.usage = Usage::Server;
        let serving = Ca::generate("unknown").unwrap().issue(&leaf).unwrap();
        let ca = Ca::generate("ca").unwrap();
        let server = server_config(&serving, ca.certificate(), &[]).unwrap();
        let client = unverified_client_config().unwrap();
        let (_, server) = shake_hands(client, server, "10.1.2.3");
        assert!(server.peer_certificates().is_none());
    }

    fn shake_hands(
        client: ClientConfig,
        server: ServerConfig,
        name: &'static str,
    ) -> (rustls::ClientConnection, rustls::ServerConnection) {
        let name = name.try_into().unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(client), name).unwrap();
        let mut server = rustls::ServerConnection::new(Arc::new(server)).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets().unwrap();
            let mut wire = Vec::new();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets().unwrap();
        }
        (client, server)
    }

    #[test]
    fn a_client_and_a_server_agree() {
        let ca = Ca::generate("ca").unwrap();
        let serving = ca
            .issue(&Leaf {
                common_name: "server".into(),
                organization: None,
                dns_names: vec!["localhost".into()],
                addresses: Vec::new(),
                usage: Usage::Server,
                validity: Duration::from_secs(60),
            })
            .unwrap();
        let client = ca.issue(&Leaf::client("ada", "crew")).unwrap();
        let server = server_config(&serving, ca.certificate(), &[b"h2"]).unwrap();
        let client = client_config(ca.certificate(), &client, &[b"h2"]).unwrap();
        let (_, server) = shake_hands(client, server, "localhost");
        assert_eq!(server.alpn_protocol(), Some(&b"h2"[..]));
        assert!(server.peer_certificates().is_some());
    }
}

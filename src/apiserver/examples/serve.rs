//! Serves the API alone, for tests from outside: a fresh store, self-made
//! certificates, one token, no controllers.
//!
//! ```text
//! cargo run -p apiserver --example serve -- PORT TOKEN [FOLDER]
//! ```
//!
//! The folder keeps the database and the keys; without one, a temporary folder
//! is used and forgotten. A kubeconfig is written to `FOLDER/kubeconfig`.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use apiserver::access::{ClientCertificates, StaticTokens, User};
use apiserver::{Config, Deps};
use base::Shutdown;
use pki::{Leaf, Pki, ServerNames, Usage};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let port: u16 = args.next().ok_or("PORT is missing")?.parse()?;
    let token = args.next().ok_or("TOKEN is missing")?;
    let temporary = tempfile::tempdir()?;
    let folder = args
        .next()
        .map_or_else(|| temporary.path().to_owned(), PathBuf::from);
    std::fs::create_dir_all(&folder)?;
    let keys = Pki::open(&folder.join("tls"))?;
    let tls = server_tls(&keys)?;
    write_kubeconfig(&keys, &folder, port)?;

    let fsync = std::env::var_os("NO_FSYNC").is_none();
    let settings = store::sqlite::Config {
        fsync,
        ..store::sqlite::Config::default()
    };
    let store = store::sqlite::Sqlite::open(folder.join("state.db"), settings)?;
    let mut tokens = StaticTokens::default();
    tokens.insert(&token, User::new("admin", &["system:masters"]));
    let mut deps = Deps::new(store, Arc::new(keys.token_key));
    deps.authenticators = vec![Arc::new(ClientCertificates), Arc::new(tokens)];
    let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let listener = TcpListener::bind((localhost, port)).await?;
    let port = listener.local_addr()?.port();
    let (server, task) = apiserver::build(Config::new(localhost, port), deps);
    let stop = Shutdown::new();
    let task = tokio::spawn(task.run(stop.clone()));
    let serving = tokio::spawn(server.serve(listener, tls, stop.clone()));
    println!(
        "serving on https://127.0.0.1:{port}, kubeconfig {}",
        folder.join("kubeconfig").display()
    );
    tokio::signal::ctrl_c().await?;
    stop.trigger();
    serving.await?;
    task.await?;
    Ok(())
}

fn server_tls(keys: &Pki) -> Result<Arc<rustls::ServerConfig>, Box<dyn Error>> {
    let names = ServerNames {
        dns: vec!["localhost".to_owned(), "kubernetes".to_owned()],
        addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
    };
    let issued = keys.serving(&names)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(
        keys.client_ca.certificate().as_bytes(),
    )?)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(
                issued.certificate.as_bytes(),
            )?],
            PrivateKeyDer::from_pem_slice(issued.key.as_bytes())?,
        )?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn write_kubeconfig(keys: &Pki, folder: &std::path::Path, port: u16) -> Result<(), Box<dyn Error>> {
    let client = keys.client_ca.issue(&Leaf {
        common_name: "admin".to_owned(),
        organization: Some("system:masters".to_owned()),
        dns_names: Vec::new(),
        addresses: Vec::new(),
        usage: Usage::Client,
        validity: Duration::from_secs(365 * 24 * 3600),
    })?;
    let text = pki::kubeconfig(
        &format!("https://127.0.0.1:{port}"),
        keys.server_ca.certificate(),
        &client,
    );
    std::fs::write(folder.join("kubeconfig"), text)?;
    Ok(())
}

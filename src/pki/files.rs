//! The tls folder: what exists is loaded, what is missing is made.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::{Ca, Error, Issued, Leaf, Result, TokenKey, Usage};

/// Names and addresses the API server answers for.
#[derive(Clone, Debug, Default)]
pub struct ServerNames {
    /// DNS names.
    pub dns: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
}

/// Every authority and key of a server.
pub struct Pki {
    /// Signs serving certificates; clients trust it.
    pub server_ca: Ca,
    /// Signs client certificates; the API server trusts it.
    pub client_ca: Ca,
    /// Signs the certificate the API server presents to aggregated API servers.
    pub request_header_ca: Ca,
    /// Signs service-account tokens.
    pub token_key: TokenKey,
}

impl Pki {
    /// Loads authorities and keys from `folder`, making what is missing.
    pub fn open(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(|source| Error::Io {
            operation: "creating",
            path: folder.into(),
            source,
        })?;
        Ok(Self {
            server_ca: authority(folder, "server-ca", "karve-server-ca")?,
            client_ca: authority(folder, "client-ca", "karve-client-ca")?,
            request_header_ca: authority(folder, "request-header-ca", "karve-request-header-ca")?,
            token_key: token_key(&folder.join("service-account.key"))?,
        })
    }

    /// Issues the API server's serving certificate, valid for a year.
    pub fn serving(&self, names: &ServerNames) -> Result<Issued> {
        self.server_ca.issue(&Leaf {
            common_name: "kube-apiserver".into(),
            organization: None,
            dns_names: names.dns.clone(),
            addresses: names.addresses.clone(),
            usage: Usage::Server,
            validity: Duration::from_secs(365 * 24 * 3600),
        })
    }
}

fn authority(folder: &Path, file: &str, common_name: &str) -> Result<Ca> {
    let certificate = folder.join(format!("{file}.crt"));
    let key = folder.join(format!("{file}.key"));
    match (read(&certificate)?, read(&key)?) {
        (Some(certificate_pem), Some(key_pem)) => {
            Ca::from_pem(&certificate_pem, &key_pem).map_err(|source| Error::Malformed {
                what: "certificate authority",
                path: certificate,
                source: Box::new(source),
            })
        }
        // A certificate without its key, or the reverse, is a folder somebody
        // damaged or an interrupted first start; only the latter may go on.
        (Some(_), None) => Err(Error::Malformed {
            what: "certificate authority",
            path: key,
            source: "the certificate is there but its key is missing".into(),
        }),
        (None, _) => {
            let ca = Ca::generate(common_name)?;
            // The key first: a certificate on disk means that its key is, too.
            write(&key, ca.key(), 0o600)?;
            write(&certificate, ca.certificate(), 0o644)?;
            Ok(ca)
        }
    }
}

fn token_key(path: &Path) -> Result<TokenKey> {
    const HEAD: &str = "-----BEGIN PRIVATE KEY-----\n";
    const FOOT: &str = "\n-----END PRIVATE KEY-----\n";
    let Some(pem) = read(path)? else {
        let (key, der) = TokenKey::generate()?;
        write(
            path,
            &format!("{HEAD}{}{FOOT}", STANDARD.encode(der)),
            0o600,
        )?;
        return Ok(key);
    };
    let body: String = pem
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .map(str::trim)
        .collect();
    STANDARD
        .decode(body)
        .ok()
        .and_then(|der| TokenKey::from_pkcs8(&der))
        .ok_or_else(|| Error::Malformed {
            what: "service-account key",
            path: path.into(),
            source: "not a P-256 key in PKCS #8 PEM".into(),
        })
}

fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io {
            operation: "reading",
            path: path.into(),
            source,
        }),
    }
}

/// Writes a file that only its owner may read, whole or not at all, durably.
pub fn write_secret(path: &Path, text: &str) -> Result<()> {
    write(path, text, 0o600)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let mut temporary: PathBuf = path.into();
    temporary.as_mut_os_string().push(".new");
    let io = |source| Error::Io {
        operation: "writing",
        path: path.into(),
        source,
    };
    let _ = fs::remove_file(&temporary);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .map_err(io)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(io)?;
    fs::rename(&temporary, path).map_err(io)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_second_open_finds_what_the_first_made() {
        let folder = tempfile::tempdir().unwrap();
        let first = Pki::open(folder.path()).unwrap();
        let token = first.token_key.sign(&crate::Claims::new()).unwrap();
        let second = Pki::open(folder.path()).unwrap();
        assert_eq!(
            first.server_ca.certificate(),
            second.server_ca.certificate()
        );
        assert!(second.token_key.verify(&token).is_ok());
    }

    #[test]
    fn damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        Pki::open(folder.path()).unwrap();
        fs::write(folder.path().join("server-ca.crt"), "rubbish").unwrap();
        let error = Pki::open(folder.path()).err().unwrap().to_string();
        assert!(
            error.contains("server-ca.crt is not a usable certificate authority"),
            "{error}"
        );
        fs::remove_file(folder.path().join("client-ca.key")).unwrap();
        fs::remove_file(folder.path().join("server-ca.crt")).unwrap();
        let error = Pki::open(folder.path()).err().unwrap().to_string();
        assert!(error.contains("client-ca.key"), "{error}");
    }
}

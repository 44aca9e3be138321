//! `registries.yaml`: mirrors, credentials and TLS settings of registries.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The file, in the form k3s has made known.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Registries {
    /// Where to look instead, by registry; `*` is any.
    pub mirrors: BTreeMap<String, Mirror>,
    /// Credentials and TLS, by host of a registry or mirror.
    pub configs: BTreeMap<String, HostConfig>,
}

/// Endpoints tried in order before the registry itself.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mirror {
    /// `https://host[:port]`, or `http://` for plain text.
    pub endpoint: Vec<String>,
    /// Regular expressions on repository names and what replaces the match.
    pub rewrite: BTreeMap<String, String>,
}

/// How to talk to one host.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostConfig {
    /// Credentials.
    pub auth: Option<HostAuth>,
    /// TLS.
    pub tls: Option<HostTls>,
}

/// Credentials of one host.
#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostAuth {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// `user:password` in base64.
    pub auth: String,
    /// Bearer token.
    pub identity_token: String,
}

impl std::fmt::Debug for HostAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostAuth")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// TLS of one host.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostTls {
    /// Certificates to trust beside the usual ones.
    pub ca_file: Option<PathBuf>,
    /// Client certificate.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// Trust anyone.
    pub insecure_skip_verify: bool,
}

impl Registries {
    /// Reads the file; an absent one says nothing.
    pub fn load(path: &Path) -> cri::Result<Self> {
        use crate::error::Context;
        match std::fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            other => {
                let text = crate::error::at(other, "reading", path)?;
                Self::parse(&text)
                    .context(|| format!("{} is not valid", path.display()))
                    .map_err(|error| cri::Error {
                        kind: cri::ErrorKind::Invalid,
                        ..error
                    })
            }
        }
    }

    fn parse(text: &str) -> Result<Self, serde_yaml_ng::Error> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_yaml_ng::from_str(text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_known_form_is_read() {
        let registries = Registries::parse(
            "mirrors:\n  docker.io:\n    endpoint:\n      - https://mirror.example:5000\n    \
             rewrite:\n      \"^library/(.*)\": \"docker/$1\"\nconfigs:\n  mirror.example:5000:\n    \
             auth:\n      username: u\n      password: p\n    tls:\n      insecure_skip_verify: true\n",
        )
        .unwrap();
        assert_eq!(
            registries.mirrors["docker.io"].endpoint,
            ["https://mirror.example:5000"]
        );
        let config = &registries.configs["mirror.example:5000"];
        assert_eq!(config.auth.as_ref().unwrap().username, "u");
        assert!(config.tls.as_ref().unwrap().insecure_skip_verify);
        assert!(!format!("{config:?}").contains("\"p\""));
        assert!(Registries::parse("mirror: {}").is_err());
        assert!(Registries::parse("  ").unwrap().mirrors.is_empty());
    }
}

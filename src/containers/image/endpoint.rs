//! Which hosts serve a registry, and how to talk to them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cri::RegistryAuth;
use oci_client::Client;
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth as Credentials;
use std::time::Duration;

use super::pull::read_pem;
use super::reference::Reference;
use super::registries::{HostAuth, HostConfig, Mirror, Registries};
use crate::error::{Context, invalid};

const CONNECT: Duration = Duration::from_secs(15);
/// Longest silence within a download.
const SILENCE: Duration = Duration::from_secs(60);

/// One host that may have the image.
pub(super) struct Endpoint {
    /// Tried in order; one at least.
    pub(super) logins: Vec<Login>,
    /// Some reference to the repository, for requests of blobs.
    pub(super) any: oci_client::Reference,
}

/// One credential with a client of its own, since a client remembers the
/// first credential it was used with.
pub(super) struct Login {
    pub(super) client: Client,
    pub(super) credentials: Credentials,
}

impl Endpoint {
    /// The reference as this host knows it.
    pub(super) fn remote(&self, reference: &Reference) -> oci_client::Reference {
        let (registry, repository) = (
            self.any.registry().to_owned(),
            self.any.repository().to_owned(),
        );
        match (&reference.digest, &reference.tag) {
            (Some(digest), _) => {
                oci_client::Reference::with_digest(registry, repository, digest.clone())
            }
            (None, tag) => oci_client::Reference::with_tag(
                registry,
                repository,
                tag.clone().unwrap_or_else(|| "latest".to_owned()),
            ),
        }
    }
}

/// A host by address, before a client is made for it.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    host: String,
    plain: bool,
    repository: String,
}

/// Mirrors in their order, then the registry itself.
pub(super) fn endpoints(
    registries: &Registries,
    reference: &Reference,
    auth: &[RegistryAuth],
) -> cri::Result<Vec<Endpoint>> {
    let mut list = Vec::new();
    for place in mirrors(registries, reference)? {
        let config = registries.configs.get(&place.host);
        let own = config
            .and_then(|c| c.auth.as_ref())
            .map(of_host)
            .transpose()?;
        list.push(endpoint(
            place,
            config,
            vec![own.unwrap_or(Credentials::Anonymous)],
        )?);
    }
    let place = Place {
        host: reference.registry.clone(),
        plain: is_loopback(&reference.registry),
        repository: reference.repository.clone(),
    };
    let config = registries.configs.get(&place.host);
    let mut credentials: Vec<Credentials> = auth.iter().map(given).collect();
    if let Some(own) = config.and_then(|c| c.auth.as_ref()) {
        credentials.push(of_host(own)?);
    }
    if credentials.is_empty() {
        credentials.push(Credentials::Anonymous);
    }
    list.push(endpoint(place, config, credentials)?);
    Ok(list)
}

fn mirrors(registries: &Registries, reference: &Reference) -> cri::Result<Vec<Place>> {
    let found = registries
        .mirrors
        .get(&reference.registry)
        .or_else(|| registries.mirrors.get("*"));
    let Some(Mirror { endpoint, rewrite }) = found else {
        return Ok(Vec::new());
    };
    let mut repository = reference.repository.clone();
    for (pattern, replacement) in rewrite {
        let pattern = regex::Regex::new(pattern).context(|| {
            format!("the rewrite pattern {pattern:?} of registries.yaml is not valid")
        })?;
        if pattern.is_match(&repository) {
            repository = pattern
                .replace(&repository, replacement.as_str())
                .into_owned();
            break;
        }
    }
    endpoint
        .iter()
        .map(|endpoint| {
            let (plain, rest) = match endpoint.split_once("://") {
                Some(("http", rest)) => (true, rest),
                Some(("https", rest)) => (false, rest),
                Some((scheme, _)) => {
                    return Err(invalid(format!(
                        "mirror {endpoint:?} of registries.yaml: scheme {scheme:?} is neither http nor https"
                    )));
                }
                None => (is_loopback(endpoint), endpoint.as_str()),
            };
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            let path = path.trim_matches('/');
            let prefix = path.strip_prefix("v2").unwrap_or(path).trim_matches('/');
            let repository = if prefix.is_empty() {
                repository.clone()
            } else {
                format!("{prefix}/{repository}")
            };
            Ok(Place { host: host.to_owned(), plain, repository })
        })
        .collect()
}

fn endpoint(
    place: Place,
    config: Option<&HostConfig>,
    credentials: Vec<Credentials>,
) -> cri::Result<Endpoint> {
    // The library's TLS takes the process's provider; whoever came first is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let logins = credentials
        .into_iter()
        .map(|credentials| {
            Ok(Login {
                client: client(&place, config)?,
                credentials,
            })
        })
        .collect::<cri::Result<Vec<_>>>()?;
    let any = oci_client::Reference::with_tag(place.host, place.repository, "latest".to_owned());
    Ok(Endpoint { logins, any })
}

fn client(place: &Place, config: Option<&HostConfig>) -> cri::Result<Client> {
    let mut client = ClientConfig {
        protocol: if place.plain {
            ClientProtocol::Http
        } else {
            ClientProtocol::Https
        },
        connect_timeout: Some(CONNECT),
        read_timeout: Some(SILENCE),
        user_agent: concat!("karve/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    };
    if let Some(tls) = config.and_then(|c| c.tls.as_ref()) {
        client.accept_invalid_certificates = tls.insecure_skip_verify;
        if tls.cert_file.is_some() || tls.key_file.is_some() {
            return Err(invalid(format!(
                "registries.yaml has a client certificate for {}; they are not supported, use auth",
                place.host
            )));
        }
        if let Some(path) = &tls.ca_file {
            let data = read_pem(path)?;
            client.extra_root_certificates.push(Certificate {
                encoding: CertificateEncoding::Pem,
                data,
            });
        }
    }
    Client::try_from(client).context(|| format!("setting up the connection to {}", place.host))
}

fn given(auth: &RegistryAuth) -> Credentials {
    if !auth.registry_token.is_empty() {
        Credentials::Bearer(auth.registry_token.clone())
    } else if auth.username.is_empty() && auth.password.is_empty() {
        Credentials::Anonymous
    } else {
        Credentials::Basic(auth.username.clone(), auth.password.clone())
    }
}

fn of_host(auth: &HostAuth) -> cri::Result<Credentials> {
    if !auth.identity_token.is_empty() {
        return Ok(Credentials::Bearer(auth.identity_token.clone()));
    }
    if !auth.username.is_empty() {
        return Ok(Credentials::Basic(
            auth.username.clone(),
            auth.password.clone(),
        ));
    }
    if auth.auth.is_empty() {
        return Ok(Credentials::Anonymous);
    }
    let bad = || invalid("an auth of registries.yaml is not user:password in base64");
    let bytes = STANDARD.decode(auth.auth.trim()).map_err(|_| bad())?;
    let text = String::from_utf8(bytes).map_err(|_| bad())?;
    let (user, password) = text.split_once(':').ok_or_else(bad)?;
    Ok(Credentials::Basic(user.to_owned(), password.to_owned()))
}

/// Registries on this machine speak plain HTTP unless told otherwise.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    name == "localhost"
        || name
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn loopback_is_plain() {
        for (host, plain) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.1.2.3", true),
            ("[::1]:5000", true),
            ("10.0.0.1:5000", false),
            ("localhost.example", false),
        ] {
            assert_eq!(is_loopback(host), plain, "{host}");
        }
    }

    #[test]
    fn mirrors_come_rewritten() {
        let registries = Registries {
            mirrors: [(
                "docker.io".to_owned(),
                Mirror {
                    endpoint: vec!["http://a:5000".into(), "https://b/v2/proxy".into()],
                    rewrite: [("^library/(.*)".to_owned(), "hub/$1".to_owned())].into(),
                },
            )]
            .into(),
            ..Registries::default()
        };
        let places = mirrors(&registries, &Reference::parse("nginx").unwrap()).unwrap();
        let place = |host: &str, plain, repository: &str| Place {
            host: host.into(),
            plain,
            repository: repository.into(),
        };
        assert_eq!(
            places,
            [
                place("a:5000", true, "hub/nginx"),
                place("b", false, "proxy/hub/nginx")
            ]
        );
        assert!(
            mirrors(&registries, &Reference::parse("quay.io/a").unwrap())
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn credentials_are_read() {
        let auth = HostAuth {
            auth: "dXNlcjpwYXNz".into(),
            ..HostAuth::default()
        };
        assert_eq!(
            of_host(&auth).unwrap(),
            Credentials::Basic("user".into(), "pass".into())
        );
        let bad = HostAuth {
            auth: "???".into(),
            ..HostAuth::default()
        };
        assert!(of_host(&bad).is_err());
    }
}

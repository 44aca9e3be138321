//! Certificate authorities and the certificates they issue.

use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};

use crate::{Error, Result};

/// A clock may be behind by this much and still accept a fresh certificate.
const BACKDATE: Duration = Duration::from_secs(3600);

/// What a certificate may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// TLS server.
    Server,
    /// TLS client.
    Client,
    /// Both.
    Both,
}

/// A certificate to issue.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// Common name; the user name of a client certificate.
    pub common_name: String,
    /// Organisation; the group of a client certificate. One is all that
    /// `rcgen` can put into a name.
    pub organization: Option<String>,
    /// DNS names it answers for.
    pub dns_names: Vec<String>,
    /// Addresses it answers for.
    pub addresses: Vec<IpAddr>,
    /// What it may be used for.
    pub usage: Usage,
    /// How long it is valid.
    pub validity: Duration,
}

impl Leaf {
    /// A client certificate for a user in a group, valid for a year.
    pub fn client(user: impl Into<String>, group: &str) -> Self {
        Self {
            common_name: user.into(),
            organization: Some(group.to_owned()),
            dns_names: Vec::new(),
            addresses: Vec::new(),
            usage: Usage::Client,
            validity: Duration::from_secs(365 * 24 * 3600),
        }
    }
}

/// A certificate with its key, both PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate, followed by its authority's.
    pub certificate: String,
    /// PKCS #8 key.
    pub key: String,
}

/// A certificate authority.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    key: String,
}

impl Ca {
    /// Makes a self-signed authority, valid for ten years.
    pub fn generate(common_name: &str) -> Result<Self> {
        let sign = |source| Error::Sign {
            subject: common_name.to_owned(),
            source,
        };
        let key = KeyPair::generate().map_err(sign)?;
        let mut params = params(common_name, None, Duration::from_secs(10 * 365 * 24 * 3600))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::KeyCertSign,
        ];
        let certificate = params.self_signed(&key).map_err(sign)?.pem();
        let key_pem = key.serialize_pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate,
            key: key_pem,
        })
    }

    /// Loads an authority from PEM text.
    pub fn from_pem(certificate: &str, key: &str) -> std::result::Result<Self, rcgen::Error> {
        let pair = KeyPair::from_pem(key)?;
        let issuer = Issuer::from_ca_cert_pem(certificate, pair)?;
        Ok(Self {
            issuer,
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        })
    }

    /// Its certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Its key, PEM (PKCS #8).
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Issues a certificate with a fresh key.
    pub fn issue(&self, leaf: &Leaf) -> Result<Issued> {
        let sign = |source| Error::Sign {
            subject: leaf.common_name.clone(),
            source,
        };
        let key = KeyPair::generate().map_err(sign)?;
        let mut params = params(
            &leaf.common_name,
            leaf.organization.as_deref(),
            leaf.validity,
        )?;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = match leaf.usage {
            Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usage::Both => {
                vec![
                    ExtendedKeyUsagePurpose::ServerAuth,
                    ExtendedKeyUsagePurpose::ClientAuth,
                ]
            }
        };
        for name in &leaf.dns_names {
            let name = name.as_str().try_into().map_err(sign)?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        for address in &leaf.addresses {
            params.subject_alt_names.push(SanType::IpAddress(*address));
        }
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).map_err(sign)?;
        Ok(Issued {
            certificate: format!("{}{}", certificate.pem(), self.certificate),
            key: key.serialize_pem(),
        })
    }
}

fn params(
    common_name: &str,
    organization: Option<&str>,
    validity: Duration,
) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    let mut serial = [0_u8; 16];
    SystemRandom::new()
        .fill(&mut serial)
        .map_err(|_| Error::Random)?;
    // A serial number is a positive integer of at most 20 octets (RFC 5280, 4.1.2.2).
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    let now = std::time::SystemTime::now();
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + validity).into();
    Ok(params)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use x509_parser::prelude::{FromDer, X509Certificate};

    #[test]
    fn issues_what_was_asked_for_and_survives_a_reload() {
        let made = Ca::generate("karve-client-ca").unwrap();
        let ca = Ca::from_pem(made.certificate(), made.key()).unwrap();
        let issued = ca.issue(&Leaf::client("ada", "system:masters")).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(issued.certificate.as_bytes()).unwrap();
        let (_, leaf) = X509Certificate::from_der(&pem.contents).unwrap();
        let names: Vec<_> = leaf
            .subject()
            .iter_common_name()
            .map(|name| name.as_str().unwrap())
            .collect();
        let groups: Vec<_> = leaf
            .subject()
            .iter_organization()
            .map(|name| name.as_str().unwrap())
            .collect();
        assert_eq!(names, ["ada"]);
        assert_eq!(groups, ["system:masters"]);
        let (_, pem) = x509_parser::pem::parse_x509_pem(made.certificate().as_bytes()).unwrap();
        let (_, authority) = X509Certificate::from_der(&pem.contents).unwrap();
        assert_eq!(leaf.issuer(), authority.subject());
        assert!(leaf.validity().is_valid());
    }
}

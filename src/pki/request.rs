//! Certificates for requests that others made: PKCS #10 in, X.509 out.
//!
//! The certificate is put together here, not by `rcgen`, so that subject, key
//! and names go over from the request as they are, octet for octet: `rcgen`
//! knows one organisation in a name, and users have several groups.

use std::time::{Duration, SystemTime};

use rcgen::{KeyPair, SigningKey};
use ring::rand::{SecureRandom, SystemRandom};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::Ca;

/// A clock may be behind by this much and still accept a fresh certificate.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// Below this lifetime, what is put before now is not taken off the end.
const SHORT: Duration = Duration::from_secs(8 * 3600);

/// Why a request cannot be read or signed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Not a request at all.
    #[error("PEM block type must be CERTIFICATE REQUEST")]
    NotARequest,
    /// A request that cannot be read.
    #[error("malformed certificate request: {0}")]
    Malformed(String),
    /// Whoever asks does not have the key.
    #[error("unable to verify certificate request signature")]
    Signature,
    /// No such usage.
    #[error("unrecognized usage values: {0:?}")]
    Usage(Vec<String>),
    /// The authority's own certificate is over.
    #[error("the signer has expired")]
    Expired,
    /// The signer failed.
    #[error("failed to sign certificate: {0}")]
    Sign(String),
}

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateRequest {
    /// Common name.
    pub common_name: String,
    /// Organisations.
    pub organizations: Vec<String>,
    /// Whether it names DNS names.
    pub has_dns_names: bool,
    /// Whether it names addresses.
    pub has_addresses: bool,
    /// Whether it names mail addresses.
    pub has_emails: bool,
    /// Whether it names URIs.
    pub has_uris: bool,
    der: Vec<u8>,
}

impl CertificateRequest {
    /// Reads a request, PEM.
    ///
    /// # Errors
    /// When it is none, or is not well-formed.
    pub fn from_pem(pem: &[u8]) -> Result<Self, RequestError> {
        let (_, pem) =
            x509_parser::pem::parse_x509_pem(pem).map_err(|_| RequestError::NotARequest)?;
        if pem.label != "CERTIFICATE REQUEST" {
            return Err(RequestError::NotARequest);
        }
        let mut read = Self {
            der: pem.contents,
            ..Self::default()
        };
        let der = read.der.clone();
        let request = parse(&der)?;
        let subject = &request.certification_request_info.subject;
        let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            value.as_str().ok().map(str::to_owned)
        };
        read.common_name = subject
            .iter_common_name()
            .find_map(text)
            .unwrap_or_default();
        read.organizations = subject.iter_organization().filter_map(text).collect();
        for extension in request.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension {
                for name in &names.general_names {
                    match name {
                        GeneralName::DNSName(_) => read.has_dns_names = true,
                        GeneralName::IPAddress(_) => read.has_addresses = true,
                        GeneralName::RFC822Name(_) => read.has_emails = true,
                        GeneralName::URI(_) => read.has_uris = true,
                        _ => {}
                    }
                }
            }
        }
        Ok(read)
    }
}

fn parse(der: &[u8]) -> Result<X509CertificationRequest<'_>, RequestError> {
    X509CertificationRequest::from_der(der)
        .map(|(_, request)| request)
        .map_err(|error| RequestError::Malformed(error.to_string()))
}

impl Ca {
    /// Signs a request for these usages, by the names Kubernetes has for them;
    /// PEM. It ends with the authority at the latest.
    ///
    /// # Errors
    /// When who asks does not have the key, or the authority is over.
    pub fn sign_request(
        &self,
        request: &CertificateRequest,
        usages: &[String],
        lifetime: Duration,
    ) -> Result<String, RequestError> {
        let signing = |error: &dyn std::fmt::Display| RequestError::Sign(error.to_string());
        let parsed = parse(&request.der)?;
        parsed
            .verify_signature()
            .map_err(|_| RequestError::Signature)?;
        let (_, own) = x509_parser::pem::parse_x509_pem(self.certificate().as_bytes())
            .map_err(|error| signing(&error))?;
        let (_, own) = X509Certificate::from_der(&own.contents).map_err(|error| signing(&error))?;
        let now = SystemTime::now();
        let seconds = |time: SystemTime| {
            time.duration_since(SystemTime::UNIX_EPOCH)
                .ok()
                .and_then(|since| i64::try_from(since.as_secs()).ok())
                .unwrap_or(0)
        };
        let end = own.validity().not_after.timestamp();
        if seconds(now) >= end {
            return Err(RequestError::Expired);
        }
        let after = if lifetime < SHORT {
            lifetime
        } else {
            lifetime - BACKDATE
        };
        let info = &parsed.certification_request_info;
        let mut serial = [0_u8; 16];
        SystemRandom::new()
            .fill(&mut serial)
            .map_err(|error| signing(&error))?;
        // Positive, and of a fixed length (RFC 5280, 4.1.2.2).
        serial[0] = serial[0] & 0x7f | 0x40;
        let validity = [
            time(seconds(now - BACKDATE)),
            time(seconds(now + after).min(end)),
        ]
        .concat();
        let body = sequence(
            &[
                tagged(0xa0, &integer(&[2])),
                integer(&serial),
                algorithm(),
                own.subject().as_raw().to_vec(),
                sequence(&validity),
                info.subject.as_raw().to_vec(),
                info.subject_pki.raw.to_vec(),
                tagged(0xa3, &sequence(&extensions(&parsed, &own, usages)?)),
            ]
            .concat(),
        );
        let key = KeyPair::from_pem(self.key()).map_err(|error| signing(&error))?;
        let signature = key.sign(&body).map_err(|error| signing(&error))?;
        let der = sequence(&[body, algorithm(), bit_string(0, &signature)].concat());
        Ok(pem(&der))
    }
}

/// Key usage bits by Kubernetes' names.
const KEY_USAGES: [(&str, u16); 10] = [
    ("signing", 0),
    ("digital signature", 0),
    ("content commitment", 1),
    ("key encipherment", 2),
    ("data encipherment", 3),
    ("key agreement", 4),
    ("cert sign", 5),
    ("crl sign", 6),
    ("encipher only", 7),
    ("decipher only", 8),
];

/// Extended key usages, each an object identifier.
const EXTENDED_USAGES: [(&str, &[u8]); 13] = [
    ("any", &[0x55, 0x1d, 0x25, 0x00]),
    ("server auth", &[0x2b, 6, 1, 5, 5, 7, 3, 1]),
    ("client auth", &[0x2b, 6, 1, 5, 5, 7, 3, 2]),
    ("code signing", &[0x2b, 6, 1, 5, 5, 7, 3, 3]),
    ("email protection", &[0x2b, 6, 1, 5, 5, 7, 3, 4]),
    ("s/mime", &[0x2b, 6, 1, 5, 5, 7, 3, 4]),
    ("ipsec end system", &[0x2b, 6, 1, 5, 5, 7, 3, 5]),
    ("ipsec tunnel", &[0x2b, 6, 1, 5, 5, 7, 3, 6]),
    ("ipsec user", &[0x2b, 6, 1, 5, 5, 7, 3, 7]),
    ("timestamping", &[0x2b, 6, 1, 5, 5, 7, 3, 8]),
    ("ocsp signing", &[0x2b, 6, 1, 5, 5, 7, 3, 9]),
    ("microsoft sgc", &[0x2b, 6, 1, 4, 1, 0x82, 0x37, 10, 3, 3]),
    (
        "netscape sgc",
        &[0x60, 0x86, 0x48, 1, 0x86, 0xf8, 0x42, 4, 1],
    ),
];

fn extensions(
    request: &X509CertificationRequest<'_>,
    authority: &X509Certificate<'_>,
    usages: &[String],
) -> Result<Vec<u8>, RequestError> {
    let mut bits = 0_u16;
    let mut extended: Vec<&[u8]> = Vec::new();
    let mut unknown = Vec::new();
    for usage in usages {
        if let Some((_, bit)) = KEY_USAGES.iter().find(|(name, _)| name == usage) {
            bits |= 0x8000 >> bit;
        } else if let Some((_, id)) = EXTENDED_USAGES.iter().find(|(name, _)| name == usage) {
            if !extended.contains(id) {
                extended.push(id);
            }
        } else {
            unknown.push(usage.clone());
        }
    }
    if !unknown.is_empty() {
        return Err(RequestError::Usage(unknown));
    }
    let mut out = Vec::new();
    if bits != 0 {
        let octets = bits.to_be_bytes();
        let used = if octets[1] == 0 { 1 } else { 2 };
        // How many bits of the last octet are not used.
        let unused = u8::try_from(octets[used - 1].trailing_zeros()).unwrap_or(0);
        out.extend(extension(
            &[0x55, 0x1d, 0x0f],
            true,
            &bit_string(unused, &octets[..used]),
        ));
    }
    if !extended.is_empty() {
        let ids: Vec<u8> = extended.iter().flat_map(|id| tagged(0x06, id)).collect();
        out.extend(extension(&[0x55, 0x1d, 0x25], false, &sequence(&ids)));
    }
    out.extend(extension(&[0x55, 0x1d, 0x13], true, &sequence(&[])));
    for own in authority.extensions() {
        if let ParsedExtension::SubjectKeyIdentifier(id) = own.parsed_extension() {
            out.extend(extension(
                &[0x55, 0x1d, 0x23],
                false,
                &sequence(&tagged(0x80, id.0)),
            ));
        }
    }
    let asked = request.certification_request_info.iter_attributes();
    for attribute in asked {
        if let x509_parser::cri_attributes::ParsedCriAttribute::ExtensionRequest(requested) =
            attribute.parsed_attribute()
        {
            for wanted in &requested.extensions {
                if matches!(
                    wanted.parsed_extension(),
                    ParsedExtension::SubjectAlternativeName(_)
                ) {
                    out.extend(extension(
                        &[0x55, 0x1d, 0x11],
                        wanted.critical,
                        wanted.value,
                    ));
                }
            }
        }
    }
    Ok(out)
}

fn extension(id: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let mut content = tagged(0x06, id);
    if critical {
        content.extend(tagged(0x01, &[0xff]));
    }
    content.extend(tagged(0x04, value));
    sequence(&content)
}

/// `ecdsa-with-SHA256`: what authorities of this crate sign with.
fn algorithm() -> Vec<u8> {
    sequence(&tagged(0x06, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]))
}

fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match u8::try_from(content.len()) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let octets: Vec<u8> = content
                .len()
                .to_be_bytes()
                .into_iter()
                .skip_while(|octet| *octet == 0)
                .collect();
            // A length has eight octets at most.
            out.push(0x80 | u8::try_from(octets.len()).unwrap_or(0));
            out.extend(octets);
        }
    }
    out.extend(content);
    out
}

fn sequence(content: &[u8]) -> Vec<u8> {
    tagged(0x30, content)
}

fn integer(octets: &[u8]) -> Vec<u8> {
    tagged(0x02, octets)
}

fn bit_string(unused: u8, octets: &[u8]) -> Vec<u8> {
    tagged(0x03, &[&[unused], octets].concat())
}

/// `UTCTime` until 2049, `GeneralizedTime` after (RFC 5280, 4.1.2.5).
fn time(seconds: i64) -> Vec<u8> {
    let at = jiff::Timestamp::from_second(seconds).unwrap_or_default();
    let at = at.to_zoned(jiff::tz::TimeZone::UTC);
    if at.year() < 2050 {
        tagged(0x17, at.strftime("%y%m%d%H%M%SZ").to_string().as_bytes())
    } else {
        tagged(0x18, at.strftime("%Y%m%d%H%M%SZ").to_string().as_bytes())
    }
}

fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = (0..text.len())
        .step_by(64)
        .map(|at| &text[at..text.len().min(at + 64)])
        .collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}

/// When a certificate (PEM) ends, in seconds since 1970; `None` if it is none.
pub fn not_after(pem: &[u8]) -> Option<i64> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).ok()?;
    let (_, certificate) = X509Certificate::from_der(&pem.contents).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, SanType};

    fn request(organization: &str) -> CertificateRequest {
        let mut params = CertificateParams::default();
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, organization);
        name.push(DnType::CommonName, "ada");
        params.distinguished_name = name;
        params.subject_alt_names = vec![SanType::DnsName("a.example".try_into().unwrap())];
        let key = KeyPair::generate().unwrap();
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        CertificateRequest::from_pem(pem.as_bytes()).unwrap()
    }

    fn usages(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn signs_what_was_asked_for() {
        let ca = Ca::generate("karve-client-ca").unwrap();
        let request = request("crew");
        assert_eq!(request.common_name, "ada");
        assert_eq!(request.organizations, ["crew"]);
        assert!(request.has_dns_names && !request.has_addresses);
        let asked = usages(&["digital signature", "key encipherment", "client auth"]);
        let pem = ca
            .sign_request(&request, &asked, Duration::from_secs(3600))
            .unwrap();
        let left = not_after(pem.as_bytes()).unwrap() - jiff::Timestamp::now().as_second();
        assert!((3590..=3600).contains(&left), "{left}");
        let (_, der) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let (rest, leaf) = X509Certificate::from_der(&der.contents).unwrap();
        assert!(rest.is_empty());
        let (_, own) = x509_parser::pem::parse_x509_pem(ca.certificate().as_bytes()).unwrap();
        let (_, own) = X509Certificate::from_der(&own.contents).unwrap();
        leaf.verify_signature(Some(own.public_key())).unwrap();
        assert!(leaf.validity().is_valid());
        let usage = leaf.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && usage.key_encipherment());
        assert!(!usage.key_cert_sign());
        let extended = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.client_auth && !extended.server_auth);
        assert!(!leaf.is_ca());
        let names = leaf.subject_alternative_name().unwrap().unwrap().value;
        assert_eq!(names.general_names, [GeneralName::DNSName("a.example")]);
        assert_eq!(leaf.subject().iter_organization().count(), 1);
    }

    #[test]
    fn refuses() {
        let ca = Ca::generate("ca").unwrap();
        let hour = Duration::from_secs(3600);
        let unknown = ca.sign_request(&request("crew"), &usages(&["x"]), hour);
        assert!(matches!(unknown, Err(RequestError::Usage(_))));
        let mut forged = request("crew");
        let at = forged.der.len() - 1;
        forged.der[at] ^= 1;
        let forged = ca.sign_request(&forged, &usages(&["client auth"]), hour);
        assert!(forged.is_err());
        assert!(matches!(
            CertificateRequest::from_pem(ca.certificate().as_bytes()),
            Err(RequestError::NotARequest)
        ));
    }
}

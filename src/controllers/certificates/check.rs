//! What the cluster's signers sign, and what not.

use std::collections::BTreeSet;

use crate::CertificateSubject;

const PREFIX: &str = "system:node:";

fn matches(usages: &[String], required: &[&str]) -> bool {
    let usages: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    usages == required.iter().copied().collect()
}

/// The usages a kubelet's certificate has: `last` says which side it is for;
/// keys that are not RSA need no key encipherment.
fn kubelet_usages(usages: &[String], last: &str) -> Result<(), String> {
    if matches(usages, &["digital signature", "key encipherment", last])
        || matches(usages, &["digital signature", last])
    {
        return Ok(());
    }
    let mut required = ["digital signature", "key encipherment", last];
    required.sort_unstable();
    Err(format!("usages did not match [{}]", required.join(" ")))
}

/// `ValidateKubeletClientCSR`.
pub(super) fn kubelet_client(wanted: &CertificateSubject, usages: &[String]) -> Result<(), String> {
    if wanted.organizations != ["system:nodes"] {
        return Err("subject organization is not system:nodes".to_owned());
    }
    for (has, what) in [
        (wanted.has_dns_names, "DNS"),
        (wanted.has_emails, "Email"),
        (wanted.has_addresses, "IP"),
        (wanted.has_uris, "URI"),
    ] {
        if has {
            return Err(format!("{what} subjectAltNames are not allowed"));
        }
    }
    if !wanted.common_name.starts_with(PREFIX) {
        return Err(format!("subject common name does not begin with {PREFIX}"));
    }
    kubelet_usages(usages, "client auth")
}

/// `ValidateKubeletServingCSR`.
pub(super) fn kubelet_serving(
    wanted: &CertificateSubject,
    usages: &[String],
) -> Result<(), String> {
    if wanted.organizations != ["system:nodes"] {
        return Err("subject organization is not system:nodes".to_owned());
    }
    if !wanted.has_dns_names && !wanted.has_addresses {
        return Err("DNS or IP subjectAltName is required".to_owned());
    }
    for (has, what) in [(wanted.has_emails, "Email"), (wanted.has_uris, "URI")] {
        if has {
            return Err(format!("{what} subjectAltNames are not allowed"));
        }
    }
    kubelet_usages(usages, "server auth")?;
    if !wanted.common_name.starts_with(PREFIX) {
        return Err(format!("subject common name does not begin with {PREFIX}"));
    }
    Ok(())
}

/// What a client's certificate may be for.
pub(super) fn client(usages: &[String]) -> Result<(), String> {
    const REQUIRED: &str = "client auth";
    for usage in usages {
        if !matches!(
            usage.as_str(),
            "digital signature" | "key encipherment" | REQUIRED
        ) {
            return Err(format!("invalid usage for client certificate: {usage}"));
        }
    }
    if usages.iter().any(|usage| usage == REQUIRED) {
        return Ok(());
    }
    Err(format!(
        "missing required usage for client certificate: {REQUIRED}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usages(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn kubelets() {
        let node = CertificateSubject {
            common_name: "system:node:n".to_owned(),
            organizations: vec!["system:nodes".to_owned()],
            ..CertificateSubject::default()
        };
        let client = usages(&["client auth", "digital signature"]);
        let server = usages(&["server auth", "digital signature", "key encipherment"]);
        let named = CertificateSubject {
            has_dns_names: true,
            ..node.clone()
        };
        let other = CertificateSubject {
            common_name: "ada".to_owned(),
            ..node.clone()
        };
        assert_eq!(kubelet_client(&node, &client), Ok(()));
        assert!(kubelet_client(&named, &client).is_err());
        assert!(kubelet_client(&other, &client).is_err());
        assert_eq!(
            kubelet_client(&node, &server),
            Err("usages did not match [client auth digital signature key encipherment]".to_owned())
        );
        assert_eq!(kubelet_serving(&named, &server), Ok(()));
        assert!(kubelet_serving(&node, &server).is_err());
        assert!(
            kubelet_serving(
                &CertificateSubject {
                    has_emails: true,
                    ..named
                },
                &server
            )
            .is_err()
        );
    }

    #[test]
    fn clients() {
        for (names, expected) in [
            (&["client auth"][..], Ok(())),
            (&["client auth", "digital signature"], Ok(())),
            (
                &["digital signature"],
                Err("missing required usage for client certificate: client auth"),
            ),
            (
                &["client auth", "server auth"],
                Err("invalid usage for client certificate: server auth"),
            ),
        ] {
            assert_eq!(client(&usages(names)), expected.map_err(str::to_owned));
        }
    }
}

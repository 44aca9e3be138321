//! Image references, normalised as docker and containerd do.

use std::fmt;

/// A full image reference: `docker.io/library/nginx:latest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Registry with an optional port.
    pub registry: String,
    /// Path in the registry.
    pub repository: String,
    /// Tag; `latest` unless there is a digest.
    pub tag: Option<String>,
    /// Manifest digest.
    pub digest: Option<String>,
}

/// Why a reference is not one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("invalid image reference {reference:?}: {reason}")]
pub struct ReferenceError {
    reference: String,
    reason: &'static str,
}

impl Reference {
    /// Parses and completes a reference: `nginx` is `docker.io/library/nginx:latest`.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let fail = |reason| {
            Err(ReferenceError {
                reference: text.to_owned(),
                reason,
            })
        };
        if text.len() == 64
            && text
                .bytes()
                .all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
        {
            return fail("64 hexadecimal digits are an image id, not a name");
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        if digest.is_some_and(|d| super::digits(d).is_err()) {
            return fail("the digest is not sha256: and 64 lower-case hexadecimal digits");
        }
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return fail("the tag is not up to 128 of letters, digits, '_', '.' and '-'");
        }
        let (registry, path) = match name.split_once('/') {
            Some((first, path)) if is_registry(first) => (first, path.to_owned()),
            _ => ("docker.io", name.to_owned()),
        };
        let registry = if registry == "index.docker.io" {
            "docker.io"
        } else {
            registry
        };
        let repository = if registry == "docker.io" && !path.contains('/') {
            format!("library/{path}")
        } else {
            path
        };
        if repository.len() > 255 || !repository.split('/').all(is_component) {
            return fail(
                "the name is not of lower-case letters and digits, separated by '/', '.', '_' or '-'",
            );
        }
        if !registry
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']'))
        {
            return fail("the registry is not a host name with an optional port");
        }
        let tag = match (tag, digest) {
            (None, None) => Some("latest".to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            tag,
            digest: digest.map(str::to_owned),
        })
    }

    /// Registry and repository, no tag: `docker.io/library/nginx`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// What the store keeps it under: with a digest the tag does not count.
    pub(crate) fn key(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => format!("{}@{digest}", self.name()),
            (None, Some(tag)) => format!("{}:{tag}", self.name()),
            (None, None) => self.name(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn is_registry(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':'])
        || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

/// Alphanumerics, with single `.`, one or two `_`, or any run of `-` between.
fn is_component(component: &str) -> bool {
    let bytes = component.as_bytes();
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = bytes.first().is_some_and(alphanumeric) && bytes.last().is_some_and(alphanumeric);
    ends && component
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|b| b == b'-'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn references_are_completed() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for (text, full) in [
            ("nginx", "docker.io/library/nginx:latest".to_owned()),
            ("nginx:1.27", "docker.io/library/nginx:1.27".to_owned()),
            ("library/nginx", "docker.io/library/nginx:latest".to_owned()),
            ("index.docker.io/a/b", "docker.io/a/b:latest".to_owned()),
            ("localhost/x", "localhost/x:latest".to_owned()),
            ("localhost:5000/x", "localhost:5000/x:latest".to_owned()),
            ("127.0.0.1:5000/a/b:v1", "127.0.0.1:5000/a/b:v1".to_owned()),
            (
                "registry.k8s.io/e2e-test-images/agnhost:2.53",
                "registry.k8s.io/e2e-test-images/agnhost:2.53".to_owned(),
            ),
            (
                &format!("nginx@{digest}"),
                format!("docker.io/library/nginx@{digest}"),
            ),
            (
                &format!("nginx:1@{digest}"),
                format!("docker.io/library/nginx:1@{digest}"),
            ),
        ] {
            assert_eq!(Reference::parse(text).unwrap().to_string(), full, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let id = "ab".repeat(32);
        for text in [
            "",
            ":tag",
            "a:",
            "UPPER",
            "a//b",
            "a/../b",
            "a@sha256:1",
            "-a",
            "a b",
            "a:b:c",
            "a_.b",
            &id,
        ] {
            assert!(Reference::parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_full_reference_parses_to_itself(
            host in "[a-z]{1,8}\\.[a-z]{2,3}(:[0-9]{2,4})?",
            path in "[a-z0-9]{1,6}((\\.|_|__|-{1,3}|/)[a-z0-9]{1,6}){0,3}",
            tag in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}",
        ) {
            let text = format!("{host}/{path}:{tag}");
            let text = if host == "docker.io" { format!("x{text}") } else { text };
            prop_assert_eq!(Reference::parse(&text).unwrap().to_string(), text);
        }

        #[test]
        fn no_input_panics(text in "\\PC{0,80}") {
            let _ = Reference::parse(&text);
        }
    }
}

//! Levels, versions, and what the labels of a namespace ask for.

use std::fmt;

use api::{FieldError, Path};
use serde_json::Value;

/// How strict a policy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "privileged" => Self::Privileged,
            "baseline" => Self::Baseline,
            "restricted" => Self::Restricted,
            _ => return None,
        })
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        })
    }
}

/// The Kubernetes release whose rules are meant. The latest is newer than
/// every other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    Minor(u64),
    Latest,
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        if text == "latest" {
            return Some(Self::Latest);
        }
        let minor = text.strip_prefix("v1.")?;
        let plain = !minor.is_empty()
            && minor.bytes().all(|byte| byte.is_ascii_digit())
            && (minor == "0" || !minor.starts_with('0'));
        if !plain {
            return None;
        }
        minor.parse().ok().map(Self::Minor)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Minor(minor) => write!(f, "v1.{minor}"),
            Self::Latest => f.write_str("latest"),
        }
    }
}

/// A level as of a version, written `restricted:v1.30`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standard {
    pub(super) level: Level,
    pub(super) version: Version,
}

impl Standard {
    const PRIVILEGED: Self = Self {
        level: Level::Privileged,
        version: Version::Latest,
    };
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.level, self.version)
    }
}

/// What a namespace asks for: what is refused, recorded and warned about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) enforce: Standard,
    pub(super) audit: Standard,
    pub(super) warn: Standard,
}

impl Policy {
    /// The policy of a namespace, and what is wrong with its labels. Where a
    /// label is wrong, what is enforced is the strictest, and the rest nothing.
    pub(super) fn of(namespace: &Value) -> (Self, Vec<FieldError>) {
        let labels = &namespace["metadata"]["labels"];
        let mut policy = Self {
            enforce: Standard::PRIVILEGED,
            audit: Standard::PRIVILEGED,
            warn: Standard::PRIVILEGED,
        };
        let mut errors = Vec::new();
        let enforced = read(
            labels,
            "enforce",
            Level::Restricted,
            &mut policy.enforce,
            &mut errors,
        );
        read(
            labels,
            "audit",
            Level::Privileged,
            &mut policy.audit,
            &mut errors,
        );
        read(
            labels,
            "warn",
            Level::Privileged,
            &mut policy.warn,
            &mut errors,
        );
        let given = |mode: &str| !labels[format!("pod-security.kubernetes.io/{mode}")].is_null();
        if !given("warn") && enforced && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if !given("warn-version") {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, errors)
    }
}

/// Reads the two labels of a mode; whether a valid level was given.
fn read(
    labels: &Value,
    mode: &str,
    otherwise: Level,
    into: &mut Standard,
    errors: &mut Vec<FieldError>,
) -> bool {
    let path = Path::new("metadata").child("labels");
    let mut valid = false;
    let label = format!("pod-security.kubernetes.io/{mode}");
    if let Some(text) = labels[&label].as_str() {
        match Level::parse(text) {
            Some(level) => {
                into.level = level;
                valid = true;
            }
            None => {
                into.level = otherwise;
                errors.push(FieldError::invalid(
                    &path.key(&label),
                    text,
                    "must be one of privileged, baseline, restricted",
                ));
            }
        }
    }
    let label = format!("{label}-version");
    if let Some(text) = labels[&label].as_str() {
        into.version = Version::parse(text).unwrap_or_else(|| {
            errors.push(FieldError::invalid(
                &path.key(&label),
                text,
                "must be \"latest\" or \"v1.x\"",
            ));
            Version::Latest
        });
    }
    valid
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels() {
        for (labels, enforce, audit, warn, wrong) in [
            (
                json!({}),
                "privileged:latest",
                "privileged:latest",
                "privileged:latest",
                0,
            ),
            (
                json!({ "enforce": "baseline" }),
                "baseline:latest",
                "privileged:latest",
                "baseline:latest",
                0,
            ),
            (
                json!({ "enforce": "restricted", "enforce-version": "v1.20", "warn": "baseline" }),
                "restricted:v1.20",
                "privileged:latest",
                "baseline:latest",
                0,
            ),
            (
                json!({ "enforce": "restricted", "enforce-version": "v1.20" }),
                "restricted:v1.20",
                "privileged:latest",
                "restricted:v1.20",
                0,
            ),
            (
                json!({ "enforce": "strict", "audit": "x", "warn-version": "v1.01" }),
                "restricted:latest",
                "privileged:latest",
                "privileged:latest",
                3,
            ),
        ] {
            let labels: serde_json::Map<String, Value> = labels
                .as_object()
                .into_iter()
                .flatten()
                .map(|(key, value)| (format!("pod-security.kubernetes.io/{key}"), value.clone()))
                .collect();
            let (policy, errors) = Policy::of(&json!({ "metadata": { "labels": labels } }));
            assert_eq!(policy.enforce.to_string(), enforce);
            assert_eq!(policy.audit.to_string(), audit);
            assert_eq!(policy.warn.to_string(), warn);
            assert_eq!(errors.len(), wrong);
        }
    }
}

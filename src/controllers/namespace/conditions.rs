//! What stands between a namespace and its end, as conditions.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{NamespaceCondition, NamespaceStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Tally;

/// What one pass over a namespace found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Why the resources could not be discovered.
    pub(super) discovery: Option<String>,
    /// Requests that failed.
    pub(super) errors: Vec<String>,
    /// Objects left, by resource.
    pub(super) remaining: Tally,
    /// Objects left that hold a finalizer, by finalizer.
    pub(super) finalizers: Tally,
}

impl Findings {
    pub(super) fn is_empty(&self) -> bool {
        self.discovery.is_none() && self.errors.is_empty() && self.remaining.is_empty()
    }
}

/// Brings the conditions up to date; whether anything changed.
pub(super) fn update(status: &mut NamespaceStatus, findings: &Findings, now: Timestamp) -> bool {
    let wanted = [
        condition(
            "NamespaceDeletionDiscoveryFailure",
            findings
                .discovery
                .clone()
                .map(|error| ("DiscoveryFailed", error)),
            (
                "ResourcesDiscovered",
                "All resources successfully discovered",
            ),
        ),
        condition(
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            (
                "ParsedGroupVersions",
                "All legacy kube types successfully parsed",
            ),
        ),
        condition(
            "NamespaceDeletionContentFailure",
            content_failure(findings).map(|text| ("ContentDeletionFailed", text)),
            (
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization",
            ),
        ),
        condition(
            "NamespaceContentRemaining",
            tally(&findings.remaining, "has", "resource instances").map(|text| {
                (
                    "SomeResourcesRemain",
                    format!("Some resources are remaining: {text}"),
                )
            }),
            ("ContentRemoved", "All content successfully removed"),
        ),
        condition(
            "NamespaceFinalizersRemaining",
            tally(&findings.finalizers, "in", "resource instances").map(|text| {
                let text =
                    format!("Some content in the namespace has finalizers remaining: {text}");
                ("SomeFinalizersRemain", text)
            }),
            (
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished",
            ),
        ),
    ];
    let conditions = status.conditions.get_or_insert_default();
    let mut changed = false;
    for mut wanted in wanted {
        let Some(known) = conditions
            .iter_mut()
            .find(|known| known.type_ == wanted.type_)
        else {
            wanted.last_transition_time = Some(Time(now));
            conditions.push(wanted);
            changed = true;
            continue;
        };
        wanted.last_transition_time = if known.status == wanted.status {
            known.last_transition_time.clone()
        } else {
            Some(Time(now))
        };
        if *known != wanted {
            *known = wanted;
            changed = true;
        }
    }
    changed
}

fn condition(
    kind: &str,
    problem: Option<(&str, String)>,
    fine: (&str, &str),
) -> NamespaceCondition {
    let (status, reason, message) = match problem {
        Some((reason, message)) => ("True", reason, message),
        None => ("False", fine.0, fine.1.to_owned()),
    };
    NamespaceCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: None,
    }
}

fn content_failure(findings: &Findings) -> Option<String> {
    if findings.errors.is_empty() || findings.discovery.is_some() {
        return None;
    }
    let mut errors = findings.errors.clone();
    errors.sort();
    Some(format!(
        "Failed to delete all resource types, {} remaining: {}",
        errors.len(),
        errors.join(", ")
    ))
}

fn tally(counts: &Tally, verb: &str, things: &str) -> Option<String> {
    let parts: Vec<String> = counts
        .iter()
        .map(|(name, number)| format!("{name} {verb} {number} {things}"))
        .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn says_what_remains_and_changes_only_what_changed() {
        let mut status = NamespaceStatus::default();
        let mut findings = Findings::default();
        findings.remaining.insert("pods.".to_owned(), 2);
        findings.finalizers.insert("example.com/hold".to_owned(), 1);
        let at = |second| Timestamp::from_second(second).unwrap();
        assert!(update(&mut status, &findings, at(1)));
        assert!(!update(&mut status, &findings, at(2)));
        let texts: Vec<_> = status
            .conditions
            .as_ref()
            .unwrap()
            .iter()
            .map(|c| c.message.clone().unwrap())
            .collect();
        assert_eq!(
            texts[3],
            "Some resources are remaining: pods. has 2 resource instances"
        );
        assert_eq!(
            texts[4],
            "Some content in the namespace has finalizers remaining: \
             example.com/hold in 1 resource instances"
        );
        assert!(update(&mut status, &Findings::default(), at(3)));
        let remaining = &status.conditions.unwrap()[3];
        assert_eq!(remaining.status, "False");
        assert_eq!(remaining.last_transition_time, Some(Time(at(3))));
    }
}

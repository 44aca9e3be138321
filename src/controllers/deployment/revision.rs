//! Revisions of a Deployment: which ReplicaSet is which, and the annotations
//! that `kubectl rollout` reads.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;

use super::plan::Limits;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
pub(super) const HASH_LABEL: &str = "pod-template-hash";
pub(super) const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Bytes of revision history kept.
const HISTORY_LIMIT: usize = 2000;

type Annotations = BTreeMap<String, String>;

fn is_own(key: &str) -> bool {
    [
        LAST_APPLIED,
        REVISION,
        REVISION_HISTORY,
        DESIRED_REPLICAS,
        MAX_REPLICAS,
        ROLLBACK_TO,
    ]
    .contains(&key)
}

/// The revision an object carries; none counts as zero, nonsense as none.
pub(super) fn of(set: &ReplicaSet) -> i64 {
    annotation(set, REVISION)
        .and_then(|revision| revision.parse().ok())
        .unwrap_or(0)
}

fn annotation<'a>(set: &'a ReplicaSet, key: &str) -> Option<&'a str> {
    set.metadata
        .annotations
        .as_ref()?
        .get(key)
        .map(String::as_str)
}

/// The Deployment's size when this set was last scaled.
pub(super) fn desired_before(set: &ReplicaSet) -> Option<i32> {
    annotation(set, DESIRED_REPLICAS)?
        .parse()
        .ok()
        .filter(|size| *size >= 0)
}

/// The most pods the Deployment might have had when this set was last scaled.
pub(super) fn max_before(set: &ReplicaSet) -> Option<i32> {
    annotation(set, MAX_REPLICAS)?
        .parse()
        .ok()
        .filter(|size| *size >= 0)
}

/// The highest revision of all.
pub(super) fn highest<'a>(sets: impl IntoIterator<Item = &'a ReplicaSet>) -> i64 {
    sets.into_iter().map(of).max().unwrap_or(0)
}

/// The revision before the current one; zero if there is none.
pub(super) fn last<'a>(sets: impl IntoIterator<Item = &'a ReplicaSet>) -> i64 {
    let mut revisions: Vec<i64> = sets.into_iter().map(of).collect();
    revisions.sort_unstable_by(|a, b| b.cmp(a));
    revisions.get(1).copied().unwrap_or(0)
}

/// Copies the Deployment's annotations to its new set and numbers it; whether
/// that changed anything.
pub(super) fn annotate(deployment: &Deployment, set: &mut ReplicaSet, revision: i64) -> bool {
    let annotations = set.metadata.annotations.get_or_insert_default();
    let mut changed = false;
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !is_own(key) && annotations.get(key) != Some(value) {
            annotations.insert(key.clone(), value.clone());
            changed = true;
        }
    }
    let known = annotations.get(REVISION).cloned();
    let number = match known.as_deref() {
        None | Some("") => 0,
        Some(text) => match text.parse::<i64>() {
            Ok(number) => number,
            Err(_) => return false,
        },
    };
    if number < revision {
        annotations.insert(REVISION.to_owned(), revision.to_string());
        changed = true;
        if let Some(known) = known {
            let history = annotations.entry(REVISION_HISTORY.to_owned()).or_default();
            *history = appended(history, &known);
        }
    }
    changed
}

fn appended(history: &str, revision: &str) -> String {
    let mut kept: Vec<&str> = history.split(',').filter(|part| !part.is_empty()).collect();
    kept.push(revision);
    let length = |parts: &[&str]| parts.iter().map(|part| part.len() + 1).sum::<usize>();
    while kept.len() > 1 && length(&kept) > HISTORY_LIMIT {
        kept.remove(0);
    }
    kept.join(",")
}

/// Notes on a set the size it is scaled for; whether that changed anything.
pub(super) fn note_scale(set: &mut ReplicaSet, limits: Limits) -> bool {
    let annotations = set.metadata.annotations.get_or_insert_default();
    let mut changed = false;
    for (key, value) in [
        (DESIRED_REPLICAS, limits.replicas),
        (MAX_REPLICAS, limits.ceiling()),
    ] {
        let value = value.to_string();
        if annotations.get(key) != Some(&value) {
            annotations.insert(key.to_owned(), value);
            changed = true;
        }
    }
    changed
}

/// The annotations of a Deployment rolled back to `set`.
pub(super) fn rolled_back(deployment: &Deployment, set: &ReplicaSet) -> Annotations {
    let own = deployment
        .metadata
        .annotations
        .iter()
        .flatten()
        .filter(|(key, _)| is_own(key));
    let theirs = set
        .metadata
        .annotations
        .iter()
        .flatten()
        .filter(|(key, _)| !is_own(key));
    own.chain(theirs)
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// A template without the label that tells revisions apart.
pub(super) fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(meta) = &mut template.metadata {
        if let Some(labels) = &mut meta.labels {
            labels.remove(HASH_LABEL);
        }
        meta.labels = meta.labels.take().filter(|labels| !labels.is_empty());
        meta.annotations = meta.annotations.take().filter(|known| !known.is_empty());
        meta.creation_timestamp = None;
    }
    template
}

/// The oldest set that has the Deployment's template.
pub(super) fn find_new(deployment: &Deployment, by_age: &[ReplicaSet]) -> Option<usize> {
    let wanted = without_hash(&deployment.spec.as_ref()?.template);
    by_age.iter().position(|set| {
        set.spec
            .as_ref()
            .and_then(|spec| spec.template.as_ref())
            .is_some_and(|template| without_hash(template) == wanted)
    })
}

/// The value of the `pod-template-hash` label: FNV-1a over the template's JSON
/// and the number of collisions so far, in letters that spell no words.
pub(super) fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let mut bytes = serde_json::to_vec(template).expect("a pod template is plain data");
    if let Some(collisions) = collisions {
        bytes.extend_from_slice(&collisions.to_le_bytes());
    }
    crate::hash::safe_encode(crate::hash::fnv32a(&bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn set(revision: &str) -> ReplicaSet {
        let mut set = ReplicaSet::default();
        let annotations = BTreeMap::from([(REVISION.to_owned(), revision.to_owned())]);
        set.metadata.annotations = Some(annotations);
        set
    }

    #[test]
    fn a_set_rolled_back_to_remembers_its_earlier_revisions() {
        let mut deployment = Deployment::default();
        deployment.metadata.annotations = Some(BTreeMap::from([
            (
                "kubernetes.io/change-cause".to_owned(),
                "because".to_owned(),
            ),
            (LAST_APPLIED.to_owned(), "{}".to_owned()),
        ]));
        let mut set = set("1");
        assert!(annotate(&deployment, &mut set, 3));
        assert!(!annotate(&deployment, &mut set, 3));
        assert!(annotate(&deployment, &mut set, 5));
        let annotations = set.metadata.annotations.unwrap();
        assert_eq!(annotations[REVISION], "5");
        assert_eq!(annotations[REVISION_HISTORY], "1,3");
        assert_eq!(annotations["kubernetes.io/change-cause"], "because");
        assert!(!annotations.contains_key(LAST_APPLIED));
    }

    #[test]
    fn finds_the_highest_and_the_last_revision() {
        let sets = [set("2"), set("7"), set("x"), set("5")];
        assert_eq!(highest(&sets), 7);
        assert_eq!(last(&sets), 5);
        assert_eq!(last(&sets[..1]), 0);
    }

    #[test]
    fn history_forgets_its_beginning() {
        let mut history = String::new();
        for revision in 0..1000 {
            history = appended(&history, &revision.to_string());
        }
        assert!(history.len() <= HISTORY_LIMIT && history.ends_with(",999"));
    }

    #[test]
    fn a_collision_changes_the_hash() {
        let template = PodTemplateSpec::default();
        assert_ne!(hash(&template, None), hash(&template, Some(1)));
    }
}

//! The pods and claims of a StatefulSet.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::history::REVISION_LABEL;
use crate::owner::controller_ref;
use crate::pods::from_template;

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

fn set_name(set: &StatefulSet) -> &str {
    set.metadata.name.as_deref().unwrap_or_default()
}

/// The pod's number in the set, if its name is one the set gives.
pub(super) fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let name = pod.metadata.name.as_deref()?;
    let number = name.strip_prefix(set_name(set))?.strip_prefix('-')?;
    let ordinal: i32 = number.parse().ok()?;
    (number == ordinal.to_string()).then_some(ordinal)
}

/// The name of the revision the pod was made from.
pub(super) fn revision(pod: &Pod) -> Option<&str> {
    pod.metadata
        .labels
        .as_ref()?
        .get(REVISION_LABEL)
        .map(String::as_str)
}

fn claim_name(template: &PersistentVolumeClaim, set: &StatefulSet, ordinal: i32) -> String {
    let template = template.metadata.name.as_deref().unwrap_or_default();
    format!("{template}-{}-{ordinal}", set_name(set))
}

/// The claims a pod of the set needs.
pub(super) fn claims(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let Some(spec) = &set.spec else {
        return Vec::new();
    };
    let deleted_along = spec
        .persistent_volume_claim_retention_policy
        .as_ref()
        .is_some_and(|policy| policy.when_deleted.as_deref() == Some("Delete"));
    let make = |template: &PersistentVolumeClaim| {
        let mut labels: BTreeMap<String, String> =
            template.metadata.labels.clone().unwrap_or_default();
        labels.extend(spec.selector.match_labels.clone().unwrap_or_default());
        PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(claim_name(template, set, ordinal)),
                namespace: set.metadata.namespace.clone(),
                labels: Some(labels),
                annotations: template.metadata.annotations.clone(),
                owner_references: deleted_along.then(|| vec![controller_ref(set)]),
                ..ObjectMeta::default()
            },
            spec: template.spec.clone(),
            status: None,
        }
    };
    spec.volume_claim_templates
        .iter()
        .flatten()
        .map(make)
        .collect()
}

/// The pod of this number, from the template of a revision.
pub(super) fn make(
    set: &StatefulSet,
    template: &PodTemplateSpec,
    ordinal: i32,
    revision: &str,
) -> Pod {
    let name = format!("{}-{ordinal}", set_name(set));
    let mut pod = from_template(set, template);
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.to_owned(), name.clone());
    labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
    labels.insert(REVISION_LABEL.to_owned(), revision.to_owned());
    let set_spec = set.spec.clone().unwrap_or_default();
    if let Some(spec) = &mut pod.spec {
        spec.hostname = Some(name);
        spec.subdomain = set_spec
            .service_name
            .clone()
            .filter(|name| !name.is_empty());
        let volumes = spec.volumes.get_or_insert_default();
        for claim in set_spec.volume_claim_templates.iter().flatten() {
            let volume = claim.metadata.name.clone().unwrap_or_default();
            volumes.retain(|known| known.name != volume);
            volumes.push(Volume {
                persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                    claim_name: claim_name(claim, set, ordinal),
                    read_only: Some(false),
                }),
                name: volume,
                ..Volume::default()
            });
        }
    }
    pod
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_the_set_gives_have_an_ordinal() {
        let mut set = StatefulSet::default();
        set.metadata.name = Some("web".to_owned());
        for (name, expected) in [
            ("web-0", Some(0)),
            ("web-12", Some(12)),
            ("web-01", None),
            ("web-x", None),
            ("w-1", None),
        ] {
            let mut pod = Pod::default();
            pod.metadata.name = Some(name.to_owned());
            assert_eq!(ordinal(&set, &pod), expected, "{name}");
        }
    }
}

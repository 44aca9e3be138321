//! `PersistentVolume` and `PersistentVolumeClaim`.

use serde_json::{Value, json};

use super::value::{default, list, object, text};
use super::{Column, Context, Kind, Plan, columns, pod_defaults, table, validate};
use crate::{FieldError, Quantity};

const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// The storage class of a volume or claim; the annotation wins.
fn class(object: &Value) -> String {
    match object["metadata"]["annotations"][CLASS].as_str() {
        Some(class) => class.to_owned(),
        None => text(&object["spec"], "storageClassName").to_owned(),
    }
}

fn modes(holder: &Value) -> String {
    let has = |mode: &str| list(holder, "accessModes").iter().any(|it| it == mode);
    let mut out = Vec::new();
    for (mode, short) in [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ] {
        if has(mode) {
            out.push(short);
        }
    }
    out.join(",")
}

fn storage(map: &Value) -> String {
    let quantity: Option<Quantity> = map["storage"].as_str().and_then(|text| text.parse().ok());
    quantity.unwrap_or_default().to_string()
}

fn phase(object: &Value) -> &str {
    if object["metadata"]["deletionTimestamp"].is_null() {
        text(&object["status"], "phase")
    } else {
        "Terminating"
    }
}

/// `v1` `PersistentVolume`.
pub(super) struct PersistentVolume;

impl Kind for PersistentVolume {
    fn plan(&self) -> Plan {
        Plan::STATUS
    }

    fn default(&self, volume: &mut Value) {
        let spec = object(volume, "spec");
        default(spec, "persistentVolumeReclaimPolicy", "Retain");
        super::value::default_absent(spec, "volumeMode", "Filesystem");
        pod_defaults::quantities(spec, "capacity");
        pod_defaults::volume_source(spec);
        default(object(volume, "status"), "phase", "Pending");
    }

    fn prepare_create(&self, volume: &mut Value, context: &Context<'_>) {
        volume["status"] = json!({ "phase": "Pending", "lastPhaseTransitionTime": context.now });
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, context: &Context<'_>) {
        self.plan().update(new, old, context.subresource);
        if context.subresource == "status" {
            let (now, before) = (&new["status"], &old["status"]);
            let unset = now["lastPhaseTransitionTime"].is_null()
                || now["lastPhaseTransitionTime"] == before["lastPhaseTransitionTime"];
            if now["phase"] != before["phase"] && unset {
                object(new, "status")["lastPhaseTransitionTime"] = context.now.into();
            } else if now["lastPhaseTransitionTime"].is_null()
                && !before["lastPhaseTransitionTime"].is_null()
            {
                object(new, "status")["lastPhaseTransitionTime"] =
                    before["lastPhaseTransitionTime"].clone();
            }
        }
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::volume::persistent_volume(object)
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> Vec<FieldError> {
        match context.subresource {
            "" => validate::volume::persistent_volume_update(new, old),
            _ => Vec::new(),
        }
    }

    fn columns(&self) -> &'static [Column] {
        columns::PERSISTENTVOLUME
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let spec = &object["spec"];
        let claim = &spec["claimRef"];
        let claim = if claim.is_object() {
            format!("{}/{}", text(claim, "namespace"), text(claim, "name"))
        } else {
            String::new()
        };
        vec![
            table::name(object),
            storage(&spec["capacity"]).into(),
            modes(spec).into(),
            text(spec, "persistentVolumeReclaimPolicy").into(),
            phase(object).into(),
            claim.into(),
            class(object).into(),
            table::or(spec, "volumeAttributesClassName", "<unset>").into(),
            text(&object["status"], "reason").into(),
            table::age(object, now),
            table::or(spec, "volumeMode", "<unset>").into(),
        ]
    }
}

/// `v1` `PersistentVolumeClaim`.
pub(super) struct PersistentVolumeClaim;

/// Makes `dataSource` and `dataSourceRef` say the same where they can.
fn normalize_sources(spec: &mut Value) {
    let (source, reference) = (spec["dataSource"].clone(), spec["dataSourceRef"].clone());
    if source.is_object() && reference.is_null() {
        let kind = text(&source, "kind");
        let known = (kind == "PersistentVolumeClaim" && text(&source, "apiGroup").is_empty())
            || (kind == "VolumeSnapshot" && text(&source, "apiGroup") == "snapshot.storage.k8s.io");
        if known {
            spec["dataSourceRef"] = source;
        }
    } else if reference.is_object() && source.is_null() && text(&reference, "namespace").is_empty()
    {
        let mut copy = reference;
        super::value::remove(&mut copy, "namespace");
        spec["dataSource"] = copy;
    }
}

impl Kind for PersistentVolumeClaim {
    fn plan(&self) -> Plan {
        Plan::STATUS
    }

    fn default(&self, claim: &mut Value) {
        pod_defaults::claim_spec(object(claim, "spec"));
        default(object(claim, "status"), "phase", "Pending");
    }

    fn prepare_create(&self, claim: &mut Value, _: &Context<'_>) {
        claim["status"] = json!({ "phase": "Pending" });
        normalize_sources(object(claim, "spec"));
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, context: &Context<'_>) {
        self.plan().update(new, old, context.subresource);
        if context.subresource.is_empty() {
            normalize_sources(object(new, "spec"));
        }
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::volume::claim(object)
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> Vec<FieldError> {
        match context.subresource {
            "" => validate::volume::claim_update(new, old),
            _ => Vec::new(),
        }
    }

    fn columns(&self) -> &'static [Column] {
        columns::PERSISTENTVOLUMECLAIM
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let volume = text(spec, "volumeName");
        let (capacity, access) = if volume.is_empty() {
            (String::new(), String::new())
        } else {
            (storage(&status["capacity"]), modes(status))
        };
        vec![
            table::name(object),
            phase(object).into(),
            volume.into(),
            capacity.into(),
            access.into(),
            class(object).into(),
            table::or(spec, "volumeAttributesClassName", "<unset>").into(),
            table::age(object, now),
            table::or(spec, "volumeMode", "<unset>").into(),
        ]
    }
}

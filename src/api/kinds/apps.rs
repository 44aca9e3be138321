//! Workloads that keep pods running: group `apps`, and `ReplicationController`.

use serde_json::{Value, json};

use super::value::{at, blank, default, each, int, object, remove, same, text, within};
use super::{Column, Context, Kind, Plan, columns, pod_defaults, table, validate};
use crate::FieldError;
use crate::meta::{self, NameRule};

pub(super) fn of(kind: &str) -> Option<&'static dyn Kind> {
    Some(match kind {
        "Deployment" => &Deployment,
        "ReplicaSet" => &ReplicaSet,
        "DaemonSet" => &DaemonSet,
        "StatefulSet" => &StatefulSet,
        "ControllerRevision" => &ControllerRevision,
        _ => return None,
    })
}

struct Deployment;

impl Kind for Deployment {
    fn plan(&self) -> Plan {
        Plan {
            status: true,
            generation: &[&["spec"], &["metadata", "annotations"]],
            status_keeps: &[&["spec"], &["metadata", "labels"]],
        }
    }

    fn default(&self, deployment: &mut Value) {
        let spec = object(deployment, "spec");
        pod_defaults::template(object(spec, "template"));
        default(spec, "replicas", 1);
        default(spec, "revisionHistoryLimit", 10);
        default(spec, "progressDeadlineSeconds", 600);
        let strategy = object(spec, "strategy");
        default(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            let rolling = object(strategy, "rollingUpdate");
            default(rolling, "maxUnavailable", "25%");
            default(rolling, "maxSurge", "25%");
        }
        object(deployment, "status");
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::apps::deployment(object)
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> Vec<FieldError> {
        match context.subresource {
            "" => validate::apps::deployment_update(new, old),
            "status" => validate::apps::deployment_status(new, old),
            _ => Vec::new(),
        }
    }

    fn columns(&self) -> &'static [Column] {
        columns::DEPLOYMENT
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let (names, images) = table::containers(&spec["template"]["spec"]);
        vec![
            table::name(object),
            format!("{}/{}", int(status, "readyReplicas"), int(spec, "replicas")).into(),
            int(status, "updatedReplicas").into(),
            int(status, "availableReplicas").into(),
            table::age(object, now),
            names.into(),
            images.into(),
            table::selector(&spec["selector"]).into(),
        ]
    }
}

struct ReplicaSet;

impl Kind for ReplicaSet {
    fn plan(&self) -> Plan {
        Plan::SPEC
    }

    fn default(&self, set: &mut Value) {
        let spec = object(set, "spec");
        pod_defaults::template(object(spec, "template"));
        default(spec, "replicas", 1);
        default(object(set, "status"), "replicas", 0);
    }

    fn prepare_create(&self, set: &mut Value, _: &Context<'_>) {
        self.plan().create(set);
        set["status"] = json!({ "replicas": 0 });
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::apps::replica_set(object)
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> Vec<FieldError> {
        match context.subresource {
            "" => validate::apps::replica_set_update(new, old),
            "status" => validate::apps::replica_set_status(new),
            _ => Vec::new(),
        }
    }

    fn columns(&self) -> &'static [Column] {
        columns::REPLICASET
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let (names, images) = table::containers(&spec["template"]["spec"]);
        vec![
            table::name(object),
            int(spec, "replicas").into(),
            int(status, "replicas").into(),
            int(status, "readyReplicas").into(),
            table::age(object, now),
            names.into(),
            images.into(),
            table::selector(&spec["selector"]).into(),
        ]
    }
}

/// `v1` `ReplicationController`.
pub(super) struct ReplicationController;

impl Kind for ReplicationController {
    fn name_rule(&self) -> NameRule {
        NameRule::LongName
    }

    fn plan(&self) -> Plan {
        Plan::SPEC
    }

    fn default(&self, controller: &mut Value) {
        let spec = object(controller, "spec");
        if spec["template"].is_object() {
            pod_defaults::template(object(spec, "template"));
        }
        default(spec, "replicas", 1);
        if int(spec, "minReadySeconds") == 0 {
            // Go leaves a zero out, whatever the documented default.
            remove(spec, "minReadySeconds");
        }
        if let Some(labels) = pod_defaults::template_labels(spec) {
            if blank(&spec["selector"]) {
                spec["selector"] = labels.clone();
            }
            if blank(&controller["metadata"]["labels"]) {
                meta::metadata_mut(controller).insert("labels".into(), labels);
            }
        }
        default(object(controller, "status"), "replicas", 0);
    }

    fn prepare_create(&self, controller: &mut Value, _: &Context<'_>) {
        self.plan().create(controller);
        controller["status"] = json!({ "replicas": 0 });
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::apps::replication_controller(object)
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> Vec<FieldError> {
        match context.subresource {
            "" => validate::apps::replication_controller_update(new, old),
            "status" => validate::apps::replica_set_status(new),
            _ => Vec::new(),
        }
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![(
            "status.replicas",
            int(&object["status"], "replicas").to_string(),
        )]
    }

    fn columns(&self) -> &'static [Column] {
        columns::REPLICATIONCONTROLLER
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let (names, images) = table::containers(&spec["template"]["spec"]);
        vec![
            table::name(object),
            int(spec, "replicas").into(),
            int(status, "replicas").into(),
            int(status, "readyReplicas").into(),
            table::age(object, now),
            names.into(),
            images.into(),
            table::labels(&spec["selector"]).into(),
        ]
    }
}

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

struct DaemonSet;

/// The generation of a daemon set's template, which only its annotation shows.
fn template_generation(set: &Value) -> i64 {
    set["metadata"]["annotations"][TEMPLATE_GENERATION]
        .as_str()
        .and_then(|text| text.parse().ok())
        .unwrap_or_default()
}

fn set_template_generation(set: &mut Value, generation: i64) {
    meta::metadata_mut(set);
    object(&mut set["metadata"], "annotations")[TEMPLATE_GENERATION] =
        generation.to_string().into();
}

fn daemon_status() -> Value {
    json!({
        "currentNumberScheduled": 0,
        "numberMisscheduled": 0,
        "desiredNumberScheduled": 0,
        "numberReady": 0,
    })
}

impl Kind for DaemonSet {
    fn plan(&self) -> Plan {
        Plan::SPEC
    }

    fn default(&self, set: &mut Value) {
        let generation = template_generation(set);
        set_template_generation(set, generation);
        let spec = object(set, "spec");
        pod_defaults::template(object(spec, "template"));
        default(spec, "revisionHistoryLimit", 10);
        let strategy = object(spec, "updateStrategy");
        default(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            let rolling = object(strategy, "rollingUpdate");
            default(rolling, "maxUnavailable", 1);
            default(rolling, "maxSurge", 0);
        }
        let status = object(set, "status");
        for (name, zero) in daemon_status().as_object().into_iter().flatten() {
            default(status, name, zero.clone());
        }
    }

    fn prepare_create(&self, set: &mut Value, _: &Context<'_>) {
        self.plan().create(set);
        set["status"] = daemon_status();
        let generation = template_generation(set).max(1);
        set_template_generation(set, generation);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, context: &Context<'_>) {
        self.plan().update(new, old, context.subresource);
        let mut generation = template_generation(old);
        let template = ["spec", "template"];
        if context.subresource.is_empty() && !same(at(new, &template), at(old, &template)) {
            generation += 1;
        }
        set_template_generation(new, generation);
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::apps::daemon_set(object)
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> Vec<FieldError> {
        match context.subresource {
            "" => validate::apps::daemon_set_update(new, old),
            "status" => validate::apps::daemon_set_status(new, old),
            _ => Vec::new(),
        }
    }

    fn row_metadata(&self, metadata: &mut Value) {
        // The hub version has no annotation for it.
        within(metadata, "annotations", |annotations| {
            remove(annotations, TEMPLATE_GENERATION);
        });
        if blank(&metadata["annotations"]) {
            remove(metadata, "annotations");
        }
    }

    fn columns(&self) -> &'static [Column] {
        columns::DAEMONSET
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let (names, images) = table::containers(&spec["template"]["spec"]);
        vec![
            table::name(object),
            int(status, "desiredNumberScheduled").into(),
            int(status, "currentNumberScheduled").into(),
            int(status, "numberReady").into(),
            int(status, "updatedNumberScheduled").into(),
            int(status, "numberAvailable").into(),
            table::labels(&spec["template"]["spec"]["nodeSelector"]).into(),
            table::age(object, now),
            names.into(),
            images.into(),
            table::selector(&spec["selector"]).into(),
        ]
    }
}

struct StatefulSet;

/// A rolling update goes pod by pod: the field is behind a gate that is off.
fn drop_unavailable(set: &mut Value) {
    within(object(set, "spec"), "updateStrategy", |strategy| {
        within(strategy, "rollingUpdate", |rolling| {
            remove(rolling, "maxUnavailable");
        });
    });
}

impl Kind for StatefulSet {
    fn name_rule(&self) -> NameRule {
        NameRule::Label
    }

    fn plan(&self) -> Plan {
        Plan::SPEC
    }

    fn default(&self, set: &mut Value) {
        let spec = object(set, "spec");
        pod_defaults::template(object(spec, "template"));
        if spec["serviceName"].is_null() {
            spec["serviceName"] = "".into();
        }
        default(spec, "podManagementPolicy", "OrderedReady");
        let strategy = object(spec, "updateStrategy");
        if text(strategy, "type").is_empty() {
            strategy["type"] = "RollingUpdate".into();
            object(strategy, "rollingUpdate");
        }
        if strategy["type"] == "RollingUpdate" {
            within(strategy, "rollingUpdate", |rolling| {
                default(rolling, "partition", 0);
            });
        }
        let retention = object(spec, "persistentVolumeClaimRetentionPolicy");
        default(retention, "whenDeleted", "Retain");
        default(retention, "whenScaled", "Retain");
        default(spec, "replicas", 1);
        default(spec, "revisionHistoryLimit", 10);
        each(spec, "volumeClaimTemplates", |claim| {
            claim["apiVersion"] = "v1".into();
            claim["kind"] = "PersistentVolumeClaim".into();
            object(claim, "metadata");
            pod_defaults::claim_spec(object(claim, "spec"));
            default(object(claim, "status"), "phase", "Pending");
        });
        let status = object(set, "status");
        default(status, "replicas", 0);
        default(status, "availableReplicas", 0);
    }

    fn prepare_create(&self, set: &mut Value, _: &Context<'_>) {
        self.plan().create(set);
        set["status"] = json!({ "replicas": 0, "availableReplicas": 0 });
        drop_unavailable(set);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, context: &Context<'_>) {
        drop_unavailable(new);
        self.plan().update(new, old, context.subresource);
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::apps::stateful_set(object)
    }

    fn validate_update(&self, new: &Value, old: &Value, context: &Context<'_>) -> Vec<FieldError> {
        match context.subresource {
            "" => validate::apps::stateful_set_update(new, old),
            "status" => validate::apps::stateful_set_status(new, old),
            _ => Vec::new(),
        }
    }

    fn columns(&self) -> &'static [Column] {
        columns::STATEFULSET
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let (names, images) = table::containers(&spec["template"]["spec"]);
        vec![
            table::name(object),
            format!("{}/{}", int(status, "readyReplicas"), int(spec, "replicas")).into(),
            table::age(object, now),
            names.into(),
            images.into(),
        ]
    }
}

struct ControllerRevision;

impl Kind for ControllerRevision {
    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::apps::controller_revision(object)
    }

    fn validate_update(&self, new: &Value, old: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::apps::controller_revision_update(new, old)
    }

    fn columns(&self) -> &'static [Column] {
        columns::CONTROLLERREVISION
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        vec![
            table::name(object),
            table::controller(object).into(),
            int(object, "revision").into(),
            table::age(object, now),
        ]
    }
}

/// `PodTemplate`.
pub(super) struct PodTemplate;

impl Kind for PodTemplate {
    fn plan(&self) -> Plan {
        Plan {
            generation: &[&["template"]],
            ..Plan::PLAIN
        }
    }

    fn default(&self, template: &mut Value) {
        pod_defaults::template(object(template, "template"));
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::pod::template(&object["template"], &crate::Path::new("template"))
    }

    fn columns(&self) -> &'static [Column] {
        columns::PODTEMPLATE
    }

    fn cells(&self, object: &Value, _: i64) -> Vec<Value> {
        let (names, images) = table::containers(&object["template"]["spec"]);
        vec![
            table::name(object),
            names.into(),
            images.into(),
            table::labels(&object["template"]["metadata"]["labels"]).into(),
        ]
    }
}

/// The annotation that a write of a daemon set's status cannot change.
#[cfg(test)]
mod tests {
    use super::super::value::restore;
    use super::*;

    #[test]
    fn template_generation_counts_template_changes() {
        let context = Context::default();
        let mut set = json!({"metadata": {"name": "a"}, "spec": {"template": {"spec": {}}}});
        DaemonSet.default(&mut set);
        DaemonSet.prepare_create(&mut set, &context);
        assert_eq!(template_generation(&set), 1);
        let mut new = set.clone();
        restore(&mut new, &json!({}), &["metadata", "annotations"]);
        new["spec"]["template"]["spec"]["nodeName"] = "x".into();
        DaemonSet.prepare_update(&mut new, &set, &context);
        assert_eq!(template_generation(&new), 2);
        assert_eq!(meta::generation(&new), 2);
    }
}

//! Group `apps`, and replication controllers.

use serde_json::{Value, json};

use super::{common, pod};
use crate::kinds::value::{blank, int, invalid, list, object, remove, same, text};
use crate::{FieldError, LabelSelector, Path, names};

type Errors = Vec<FieldError>;

fn at_spec() -> Path {
    Path::new("spec")
}

/// `validatePositiveIntOrPercent`.
pub(super) fn int_or_percent(holder: &Value, name: &str, path: &Path) -> Errors {
    let at = path.child(name);
    match &holder[name] {
        Value::String(value) => invalid(&at, value, names::percent(value)),
        _ => common::nonnegative(holder, name, path)
            .into_iter()
            .collect(),
    }
}

fn percent(value: &Value) -> Option<i64> {
    value.as_str()?.strip_suffix('%')?.parse().ok()
}

/// A number, or the number before the `%`.
fn amount(value: &Value) -> i64 {
    percent(value)
        .or_else(|| value.as_i64())
        .unwrap_or_default()
}

pub(super) fn at_most_all(holder: &Value, name: &str, path: &Path) -> Option<FieldError> {
    let value = &holder[name];
    percent(value).filter(|percent| *percent > 100).map(|_| {
        FieldError::invalid(
            &path.child(name),
            value.clone(),
            "must not be greater than 100%",
        )
    })
}

/// What a required, non-empty selector and its template must be.
fn selector(spec: &Value, what: &str, errors: &mut Errors) {
    let at = at_spec().child("selector");
    let selector = &spec["selector"];
    if selector.is_null() {
        errors.push(FieldError::required(&at, ""));
        return;
    }
    errors.extend(common::label_selector(selector, &at));
    if blank(&selector["matchLabels"]) && blank(&selector["matchExpressions"]) {
        errors.push(FieldError::invalid(
            &at,
            selector.clone(),
            format!("empty selector is invalid for {what}"),
        ));
    }
}

fn mismatch(template: &Value, path: &Path) -> FieldError {
    let labels = match &template["metadata"]["labels"] {
        Value::Null => Value::Null,
        labels => labels.clone(),
    };
    FieldError::invalid(
        &path.child("metadata").child("labels"),
        labels,
        "`selector` does not match template `labels`",
    )
}

/// The selector compiled without judging keys and values, as upstream does
/// once they are judged.
fn matches(selector: &Value, template: &Value) -> Option<bool> {
    let compiled = LabelSelector::from_object(selector).ok()?;
    Some(compiled.matches(&template["metadata"]["labels"]))
}

/// A template whose pods are restarted for ever.
fn template(spec: &Value, check: bool, what: &str, errors: &mut Errors) {
    let path = at_spec().child("template");
    let template = &spec["template"];
    if check && !spec["selector"].is_null() && !selects_all(&spec["selector"]) {
        match matches(&spec["selector"], template) {
            Some(false) => errors.push(mismatch(template, &path)),
            Some(true) => {}
            None => {
                errors.push(FieldError::invalid(
                    &at_spec().child("selector"),
                    spec["selector"].clone(),
                    "invalid label selector",
                ));
                return;
            }
        }
    } else if check && spec["selector"].is_null() {
        // An absent selector matches nothing.
        errors.push(mismatch(template, &path));
    }
    errors.extend(pod::template(template, &path));
    always(template, what, &path, errors);
}

fn selects_all(selector: &Value) -> bool {
    blank(&selector["matchLabels"]) && blank(&selector["matchExpressions"])
}

fn always(template: &Value, what: &str, path: &Path, errors: &mut Errors) {
    let at = path.child("spec");
    let policy = text(&template["spec"], "restartPolicy");
    if policy != "Always" {
        errors.push(FieldError::not_supported(
            &at.child("restartPolicy"),
            policy,
            &["Always"],
        ));
    }
    if !template["spec"]["activeDeadlineSeconds"].is_null() {
        errors.push(FieldError::forbidden(
            &at.child("activeDeadlineSeconds"),
            format!("activeDeadlineSeconds in {what} is not Supported"),
        ));
    }
}

fn nonnegative(holder: &Value, names: &[&str], path: &Path, errors: &mut Errors) {
    for name in names {
        errors.extend(common::nonnegative(holder, name, path));
    }
}

/// `ValidateDeployment`.
pub(in crate::kinds) fn deployment(deployment: &Value) -> Errors {
    let (spec, path) = (&deployment["spec"], at_spec());
    let mut errors = Vec::new();
    nonnegative(spec, &["replicas"], &path, &mut errors);
    selector(spec, "deployment", &mut errors);
    template(spec, true, "ReplicaSet", &mut errors);
    let strategy = &spec["strategy"];
    let at = path.child("strategy");
    let rolling = &strategy["rollingUpdate"];
    match text(strategy, "type") {
        "Recreate" => {
            if !rolling.is_null() {
                errors.push(FieldError::forbidden(
                    &at.child("rollingUpdate"),
                    "may not be specified when strategy `type` is 'Recreate'",
                ));
            }
        }
        "RollingUpdate" => {
            let at = at.child("rollingUpdate");
            errors.extend(int_or_percent(rolling, "maxUnavailable", &at));
            errors.extend(int_or_percent(rolling, "maxSurge", &at));
            if amount(&rolling["maxUnavailable"]) == 0 && amount(&rolling["maxSurge"]) == 0 {
                errors.push(FieldError::invalid(
                    &at.child("maxUnavailable"),
                    rolling["maxUnavailable"].clone(),
                    "may not be 0 when `maxSurge` is 0",
                ));
            }
            errors.extend(at_most_all(rolling, "maxUnavailable", &at));
        }
        _ => errors.push(FieldError::not_supported(
            &at,
            strategy.clone(),
            &["Recreate", "RollingUpdate"],
        )),
    }
    nonnegative(
        spec,
        &[
            "minReadySeconds",
            "revisionHistoryLimit",
            "progressDeadlineSeconds",
        ],
        &path,
        &mut errors,
    );
    if let Some(deadline) = spec["progressDeadlineSeconds"].as_i64()
        && deadline <= int(spec, "minReadySeconds")
    {
        errors.push(FieldError::invalid(
            &path.child("progressDeadlineSeconds"),
            deadline,
            "must be greater than minReadySeconds",
        ));
    }
    errors
}

fn same_selector(new: &Value, old: &Value, errors: &mut Errors) {
    errors.extend(common::immutable(
        &new["spec"]["selector"],
        &old["spec"]["selector"],
        &at_spec().child("selector"),
    ));
}

/// `ValidateDeploymentUpdate`.
pub(in crate::kinds) fn deployment_update(new: &Value, old: &Value) -> Errors {
    let mut errors = deployment(new);
    same_selector(new, old, &mut errors);
    errors
}

fn at_most(status: &Value, name: &str, limit: &str, message: &str, errors: &mut Errors) {
    let value = int(status, name);
    if value > int(status, limit) {
        errors.push(FieldError::invalid(
            &Path::new("status").child(name),
            value,
            message,
        ));
    }
}

const TOTAL: &str = "cannot be greater than status.replicas";

/// `ValidateDeploymentStatusUpdate`.
pub(in crate::kinds) fn deployment_status(new: &Value, old: &Value) -> Errors {
    let (status, path) = (&new["status"], Path::new("status"));
    let mut errors = Vec::new();
    nonnegative(
        status,
        &[
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
            "terminatingReplicas",
            "collisionCount",
        ],
        &path,
        &mut errors,
    );
    for name in ["updatedReplicas", "readyReplicas", "availableReplicas"] {
        at_most(status, name, "replicas", TOTAL, &mut errors);
    }
    at_most(
        status,
        "availableReplicas",
        "readyReplicas",
        "cannot be greater than readyReplicas",
        &mut errors,
    );
    let count = int(status, "collisionCount");
    if count < int(&old["status"], "collisionCount") {
        errors.push(FieldError::invalid(
            &path.child("collisionCount"),
            count,
            "cannot be decremented",
        ));
    }
    errors
}

/// `ValidateReplicaSetStatus`, which replication controllers share.
pub(in crate::kinds) fn replica_set_status(new: &Value) -> Errors {
    let (status, path) = (&new["status"], Path::new("status"));
    let mut errors = Vec::new();
    nonnegative(
        status,
        &[
            "replicas",
            "fullyLabeledReplicas",
            "readyReplicas",
            "availableReplicas",
            "observedGeneration",
            "terminatingReplicas",
        ],
        &path,
        &mut errors,
    );
    for name in ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"] {
        at_most(status, name, "replicas", TOTAL, &mut errors);
    }
    at_most(
        status,
        "availableReplicas",
        "readyReplicas",
        "cannot be greater than readyReplicas",
        &mut errors,
    );
    errors
}

/// `ValidateReplicaSet`.
pub(in crate::kinds) fn replica_set(set: &Value) -> Errors {
    let spec = &set["spec"];
    let mut errors = Vec::new();
    nonnegative(
        spec,
        &["replicas", "minReadySeconds"],
        &at_spec(),
        &mut errors,
    );
    selector(spec, "deployment", &mut errors);
    template(spec, true, "ReplicaSet", &mut errors);
    errors
}

/// `ValidateReplicaSetUpdate`.
pub(in crate::kinds) fn replica_set_update(new: &Value, old: &Value) -> Errors {
    let mut errors = replica_set(new);
    same_selector(new, old, &mut errors);
    errors
}

/// `ValidateStatefulSetStatus`.
pub(in crate::kinds) fn stateful_set_status(new: &Value, old: &Value) -> Errors {
    let (status, path) = (&new["status"], Path::new("status"));
    let mut errors = Vec::new();
    nonnegative(
        status,
        &[
            "replicas",
            "readyReplicas",
            "currentReplicas",
            "updatedReplicas",
            "availableReplicas",
            "observedGeneration",
            "collisionCount",
        ],
        &path,
        &mut errors,
    );
    for name in [
        "readyReplicas",
        "currentReplicas",
        "updatedReplicas",
        "availableReplicas",
    ] {
        at_most(status, name, "replicas", TOTAL, &mut errors);
    }
    at_most(
        status,
        "availableReplicas",
        "readyReplicas",
        "cannot be greater than status.readyReplicas",
        &mut errors,
    );
    never_less(status, &old["status"], &mut errors);
    errors
}

/// `ValidateDaemonSetStatus`.
pub(in crate::kinds) fn daemon_set_status(new: &Value, old: &Value) -> Errors {
    let (status, path) = (&new["status"], Path::new("status"));
    let mut errors = Vec::new();
    nonnegative(
        status,
        &[
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
            "collisionCount",
        ],
        &path,
        &mut errors,
    );
    never_less(status, &old["status"], &mut errors);
    errors
}

fn never_less(new: &Value, old: &Value, errors: &mut Errors) {
    let count = int(new, "collisionCount");
    if count < int(old, "collisionCount") {
        errors.push(FieldError::invalid(
            &Path::new("status").child("collisionCount"),
            count,
            "cannot be decremented",
        ));
    }
}

/// `ValidateReplicationController`.
pub(in crate::kinds) fn replication_controller(controller: &Value) -> Errors {
    let (spec, path) = (&controller["spec"], at_spec());
    let mut errors = Vec::new();
    nonnegative(spec, &["minReadySeconds"], &path, &mut errors);
    if blank(&spec["selector"]) {
        errors.push(FieldError::required(&path.child("selector"), ""));
    }
    nonnegative(spec, &["replicas"], &path, &mut errors);
    let at = path.child("template");
    let template = &spec["template"];
    if !template.is_object() {
        errors.push(FieldError::required(&at, ""));
        return errors;
    }
    let selector = LabelSelector::from_map(&spec["selector"]);
    if !selector.matches(&template["metadata"]["labels"]) {
        errors.push(mismatch(template, &at));
    }
    errors.extend(pod::template(template, &at));
    always(template, "ReplicationController", &at, &mut errors);
    errors
}

/// `ValidateReplicationControllerUpdate`.
pub(in crate::kinds) fn replication_controller_update(new: &Value, _old: &Value) -> Errors {
    replication_controller(new)
}

/// `ValidateDaemonSet`.
pub(in crate::kinds) fn daemon_set(set: &Value) -> Errors {
    let (spec, path) = (&set["spec"], at_spec());
    let mut errors = common::label_selector(&spec["selector"], &path.child("selector"));
    let at = path.child("template");
    if matches(&spec["selector"], &spec["template"]) == Some(false) {
        errors.push(mismatch(&spec["template"], &at));
    }
    if spec["selector"].is_object() && selects_all(&spec["selector"]) {
        errors.push(FieldError::invalid(
            &path.child("selector"),
            spec["selector"].clone(),
            "empty selector is invalid for daemonset",
        ));
    }
    template(spec, false, "DaemonSet", &mut errors);
    nonnegative(spec, &["minReadySeconds"], &path, &mut errors);
    let strategy = &spec["updateStrategy"];
    let at = path.child("updateStrategy");
    match text(strategy, "type") {
        "OnDelete" => {}
        "RollingUpdate" => {
            let rolling = &strategy["rollingUpdate"];
            let at = at.child("rollingUpdate");
            if rolling.is_object() {
                for name in ["maxUnavailable", "maxSurge"] {
                    errors.extend(int_or_percent(rolling, name, &at));
                }
                for name in ["maxUnavailable", "maxSurge"] {
                    errors.extend(at_most_all(rolling, name, &at));
                }
                let (unavailable, surge) = (
                    amount(&rolling["maxUnavailable"]) != 0,
                    amount(&rolling["maxSurge"]) != 0,
                );
                if unavailable && surge {
                    errors.push(FieldError::invalid(
                        &at.child("maxSurge"),
                        rolling["maxSurge"].clone(),
                        "may not be set when maxUnavailable is non-zero",
                    ));
                } else if !unavailable && !surge {
                    errors.push(FieldError::required(
                        &at.child("maxUnavailable"),
                        "cannot be 0 when maxSurge is 0",
                    ));
                }
            } else {
                errors.push(FieldError::required(&at, ""));
            }
        }
        _ => errors.push(FieldError::not_supported(
            &at,
            strategy.clone(),
            &["RollingUpdate", "OnDelete"],
        )),
    }
    nonnegative(spec, &["revisionHistoryLimit"], &path, &mut errors);
    errors
}

/// `ValidateDaemonSetUpdate`.
pub(in crate::kinds) fn daemon_set_update(new: &Value, old: &Value) -> Errors {
    let mut errors = Vec::new();
    same_selector(new, old, &mut errors);
    errors.extend(daemon_set(new));
    errors
}

/// `ValidateStatefulSet`.
pub(in crate::kinds) fn stateful_set(set: &Value) -> Errors {
    stateful_set_spec(set, true)
}

fn stateful_set_spec(set: &Value, create: bool) -> Errors {
    let (spec, path) = (&set["spec"], at_spec());
    let mut errors = Vec::new();
    let policy = text(spec, "podManagementPolicy");
    if !matches!(policy, "OrderedReady" | "Parallel") {
        errors.push(FieldError::invalid(
            &path.child("podManagementPolicy"),
            policy,
            "must be 'OrderedReady' or 'Parallel'",
        ));
    }
    let strategy = &spec["updateStrategy"];
    let rolling = &strategy["rollingUpdate"];
    let at = path.child("updateStrategy");
    match text(strategy, "type") {
        "OnDelete" => {
            if !rolling.is_null() {
                errors.push(FieldError::invalid(
                    &at.child("rollingUpdate"),
                    rolling.clone(),
                    "only allowed for updateStrategy 'RollingUpdate'",
                ));
            }
        }
        "RollingUpdate" => {
            let at = at.child("rollingUpdate");
            nonnegative(rolling, &["partition"], &at, &mut errors);
            if !rolling["maxUnavailable"].is_null() {
                errors.extend(int_or_percent(rolling, "maxUnavailable", &at));
                if amount(&rolling["maxUnavailable"]) == 0 {
                    errors.push(FieldError::invalid(
                        &at.child("maxUnavailable"),
                        rolling["maxUnavailable"].clone(),
                        "cannot be 0",
                    ));
                }
                errors.extend(at_most_all(rolling, "maxUnavailable", &at));
            }
        }
        _ => errors.push(FieldError::invalid(
            &at,
            strategy.clone(),
            "must be 'RollingUpdate' or 'OnDelete'",
        )),
    }
    let retention = &spec["persistentVolumeClaimRetentionPolicy"];
    for name in ["whenDeleted", "whenScaled"] {
        let value = text(retention, name);
        if !matches!(value, "Retain" | "Delete") {
            errors.push(FieldError::not_supported(
                &path
                    .child("persistentVolumeClaimRetentionPolicy")
                    .child(name),
                value,
                &["Retain", "Delete"],
            ));
        }
    }
    if create {
        for (at, claim) in crate::kinds::value::indexed(spec, "volumeClaimTemplates", &path) {
            errors.extend(super::volume::claim_spec(&claim["spec"], &at.child("spec")));
        }
    }
    nonnegative(spec, &["replicas", "minReadySeconds"], &path, &mut errors);
    if let Some(error) = common::nonnegative(&spec["ordinals"], "start", &path.child("ordinals")) {
        errors.push(error);
    }
    let service = text(spec, "serviceName");
    if create && !service.is_empty() {
        errors.extend(invalid(
            &path.child("serviceName"),
            service,
            names::dns_label(service),
        ));
    }
    selector(spec, "statefulset", &mut errors);
    let at = path.child("template");
    let mut template = spec["template"].clone();
    let matched = matches(&spec["selector"], &template);
    let none = spec["selector"].is_null();
    if none || matched == Some(false) && !selects_all(&spec["selector"]) {
        errors.push(mismatch(&template, &at));
    }
    if matched.is_none() {
        errors.push(FieldError::invalid(
            &at_spec().child("selector"),
            spec["selector"].clone(),
            "",
        ));
        always(&spec["template"], "StatefulSet", &at, &mut errors);
        return errors;
    }
    // Host names and claimed volumes of the pods are the set's to give.
    let claims = list(spec, "volumeClaimTemplates");
    let pod_spec = object(&mut template, "spec");
    remove(pod_spec, "subdomain");
    remove(pod_spec, "hostname");
    if !claims.is_empty() {
        let claimed = |name: &str| {
            claims
                .iter()
                .any(|claim| text(&claim["metadata"], "name") == name)
        };
        let mut volumes: Vec<Value> = claims
            .iter()
            .map(|claim| {
                let name = text(&claim["metadata"], "name");
                json!({ "name": name, "persistentVolumeClaim": { "claimName": name } })
            })
            .collect();
        volumes.extend(
            list(pod_spec, "volumes")
                .iter()
                .filter(|volume| !claimed(text(volume, "name")))
                .cloned(),
        );
        pod_spec["volumes"] = volumes.into();
    }
    errors.extend(pod::template(&template, &at));
    let metadata = &template["metadata"];
    errors.extend(crate::meta::labels(
        &metadata["labels"],
        &at.child("labels"),
    ));
    errors.extend(crate::meta::annotations(
        &metadata["annotations"],
        &at.child("annotations"),
    ));
    always(&spec["template"], "StatefulSet", &at, &mut errors);
    errors
}

/// `ValidateStatefulSetUpdate`.
pub(in crate::kinds) fn stateful_set_update(new: &Value, old: &Value) -> Errors {
    let mut errors = stateful_set_spec(new, false);
    let rest = |set: &Value| {
        let mut spec = set["spec"].clone();
        for name in [
            "replicas",
            "template",
            "updateStrategy",
            "minReadySeconds",
            "ordinals",
            "revisionHistoryLimit",
            "persistentVolumeClaimRetentionPolicy",
        ] {
            remove(&mut spec, name);
        }
        spec
    };
    if !same(&rest(new), &rest(old)) {
        errors.push(FieldError::forbidden(
            &at_spec(),
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        ));
    }
    errors
}

fn revision(object: &Value) -> Errors {
    common::nonnegative(object, "revision", &Path::root())
        .into_iter()
        .collect()
}

/// `ValidateControllerRevisionCreate`.
pub(in crate::kinds) fn controller_revision(object: &Value) -> Errors {
    let mut errors = revision(object);
    let at = Path::new("data");
    match &object["data"] {
        Value::Null => errors.push(FieldError::required(&at, "data is mandatory")),
        Value::Object(_) => {}
        _ => errors.push(FieldError::required(
            &at,
            "data must be a valid JSON object",
        )),
    }
    errors
}

/// `ValidateControllerRevisionUpdate`.
pub(in crate::kinds) fn controller_revision_update(new: &Value, old: &Value) -> Errors {
    let mut errors = revision(new);
    errors.extend(common::immutable(
        &new["data"],
        &old["data"],
        &Path::new("data"),
    ));
    errors
}

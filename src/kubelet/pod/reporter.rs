//! Writing pod statuses to the API server.
//!
//! Workers never wait for the API server: they leave the latest status here,
//! and a few tasks write what changed, trying again until it is in. Once a pod
//! is over for good its object is deleted the same way.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use base::Supervisor;
use client::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use client::{Action, Client, Controller, Enqueue};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use super::spec::{name, namespace, uid};

const WRITERS: usize = 4;
const RETRY: Duration = Duration::from_secs(2);

#[derive(Clone)]
struct Report {
    pod: Arc<Pod>,
    status: Arc<PodStatus>,
    /// What the API server is known to have.
    sent: Option<Arc<PodStatus>>,
    /// Delete the object once the status is in.
    delete: bool,
}

/// Takes statuses from workers. Clones share the queue.
#[derive(Clone)]
pub(crate) struct Reporter {
    client: Client,
    reports: Arc<Mutex<HashMap<String, Report>>>,
    enqueue: Enqueue<String>,
}

impl Reporter {
    /// Starts the writing tasks.
    pub(crate) fn start(client: Client, tasks: Arc<Supervisor>) -> Self {
        let controller = Controller::<String>::new("pod status", tasks);
        let reporter = Self {
            client,
            reports: Arc::default(),
            enqueue: controller.enqueue(),
        };
        let writer = reporter.clone();
        controller.run(WRITERS, move |uid| {
            let writer = writer.clone();
            async move { Ok::<_, Infallible>(writer.write(&uid).await) }
        });
        reporter
    }

    /// Reports a status; one not written yet is replaced.
    pub(crate) fn set(&self, pod: &Arc<Pod>, status: Arc<PodStatus>) {
        let key = uid(pod).to_owned();
        let mut reports = self.reports.lock();
        let report = reports.entry(key.clone()).or_insert_with(|| Report {
            pod: pod.clone(),
            status: status.clone(),
            sent: pod.status.clone().map(Arc::new),
            delete: false,
        });
        report.pod = pod.clone();
        report.status = status;
        self.enqueue.add(key);
    }

    /// Deletes the object once its last status is in.
    pub(crate) fn delete(&self, pod: &Arc<Pod>) {
        let key = uid(pod).to_owned();
        let mut reports = self.reports.lock();
        let status = Arc::new(pod.status.clone().unwrap_or_default());
        let report = reports.entry(key.clone()).or_insert_with(|| Report {
            pod: pod.clone(),
            status: status.clone(),
            sent: Some(status),
            delete: false,
        });
        report.delete = true;
        self.enqueue.add(key);
    }

    /// Forgets a pod that is gone from the API server.
    pub(crate) fn forget(&self, uid: &str) {
        self.reports.lock().remove(uid);
    }

    async fn write(&self, key: &str) -> Action {
        let Some(report) = self.reports.lock().get(key).cloned() else {
            return Action::Done;
        };
        let pod = &report.pod;
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace(pod));
        let gone = |error: &client::Error| matches!(error, client::Error::Api(status) if status.code == 404 || status.code == 409);
        if let Some(patch) = status_patch(pod, report.sent.as_deref(), &report.status) {
            let patch = Patch::Strategic(&patch);
            match api
                .patch_status(name(pod), &PatchParams::default(), &patch)
                .await
            {
                Ok(_) => {
                    if let Some(known) = self.reports.lock().get_mut(key) {
                        known.sent = Some(report.status.clone());
                    }
                }
                Err(error) if gone(&error) => {
                    self.forget(key);
                    return Action::Done;
                }
                Err(error) => {
                    tracing::info!(pod = %super::spec::format_pod(pod), error = %base::Chain(&error),
                        "writing the pod's status failed, trying again");
                    return Action::After(RETRY);
                }
            }
        }
        if report.delete {
            let params = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(Preconditions {
                    uid: pod.metadata.uid.clone(),
                    resource_version: None,
                }),
                ..Default::default()
            };
            match api.delete(name(pod), &params).await {
                Ok(_) => self.forget(key),
                Err(error) if gone(&error) => self.forget(key),
                Err(error) => {
                    tracing::info!(pod = %super::spec::format_pod(pod), error = %base::Chain(&error),
                        "deleting the pod failed, trying again");
                    return Action::After(RETRY);
                }
            }
        }
        Action::Done
    }
}

/// The strategic merge patch from one status to another; `None` if they are equal.
fn status_patch(pod: &Pod, old: Option<&PodStatus>, new: &PodStatus) -> Option<Value> {
    let empty = PodStatus::default();
    let old = old.unwrap_or(&empty);
    if old == new {
        return None;
    }
    let fields = |status: &PodStatus| match serde_json::to_value(status) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    let (before, after) = (fields(old), fields(new));
    let mut patch = Map::new();
    for (key, value) in &after {
        if before.get(key) == Some(value) {
            continue;
        }
        let value = match key.as_str() {
            "conditions" => condition_patch(old.conditions.as_deref(), new.conditions.as_deref()),
            "podIPs" | "hostIPs" => ip_patch(before.get(key), value),
            _ => value.clone(),
        };
        patch.insert(key.clone(), value);
    }
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    if patch.is_empty() {
        return None;
    }
    Some(json!({"metadata": {"uid": uid(pod)}, "status": patch}))
}

/// Conditions merge by type: those that changed, and which are gone.
fn condition_patch(old: Option<&[PodCondition]>, new: Option<&[PodCondition]>) -> Value {
    let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
    let before = |kind: &str| old.iter().find(|condition| condition.type_ == kind);
    let changed = new
        .iter()
        .filter(|condition| before(&condition.type_) != Some(condition));
    let mut list: Vec<Value> = changed
        .map(|condition| {
            let mut value = json!(condition);
            // A field that is no longer set must be said to be so.
            for (key, had, has) in [
                (
                    "reason",
                    before(&condition.type_).and_then(|c| c.reason.as_ref()),
                    &condition.reason,
                ),
                (
                    "message",
                    before(&condition.type_).and_then(|c| c.message.as_ref()),
                    &condition.message,
                ),
            ] {
                if had.is_some() && has.is_none() {
                    value[key] = Value::Null;
                }
            }
            value
        })
        .collect();
    for condition in old {
        if !new.iter().any(|known| known.type_ == condition.type_) {
            list.push(json!({"$patch": "delete", "type": condition.type_}));
        }
    }
    Value::Array(list)
}

/// Addresses merge by `ip`: the new ones, and which are gone.
fn ip_patch(old: Option<&Value>, new: &Value) -> Value {
    let mut list = new.as_array().cloned().unwrap_or_default();
    for known in old.and_then(Value::as_array).into_iter().flatten() {
        if !list.contains(known) {
            list.push(json!({"$patch": "delete", "ip": known["ip"]}));
        }
    }
    Value::Array(list)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn patches_say_what_changed() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"uid": "u"}})).unwrap();
        let status = |value: Value| serde_json::from_value::<PodStatus>(value).unwrap();
        let old = status(
            json!({"phase": "Pending", "reason": "x", "podIPs": [{"ip": "1.1.1.1"}],
            "conditions": [{"type": "Ready", "status": "False", "reason": "r"},
                {"type": "Initialized", "status": "True"}, {"type": "Old", "status": "True"}]}),
        );
        let new = status(json!({"phase": "Running", "podIPs": [{"ip": "2.2.2.2"}],
            "conditions": [{"type": "Ready", "status": "True"},
                {"type": "Initialized", "status": "True"}]}));
        assert_eq!(status_patch(&pod, Some(&new), &new), None);
        let want = json!({"metadata": {"uid": "u"}, "status": {
            "phase": "Running", "reason": null,
            "podIPs": [{"ip": "2.2.2.2"}, {"$patch": "delete", "ip": "1.1.1.1"}],
            "conditions": [{"type": "Ready", "status": "True", "reason": null},
                {"$patch": "delete", "type": "Old"}]}});
        assert_eq!(status_patch(&pod, Some(&old), &new), Some(want));
    }
}

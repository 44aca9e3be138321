//! Events about pods, their containers and the node.

pub(crate) use client::EventType::{Normal, Warning};
use client::{EventRecorder, EventType};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};

use crate::pod;

/// Records events in the name of this node's kubelet. Clones share the queue.
#[derive(Clone)]
pub(crate) struct Recorder(EventRecorder);

impl Recorder {
    /// A recorder that writes through `events`.
    pub(crate) fn new(events: EventRecorder) -> Self {
        Self(events)
    }

    /// Records an event about whatever `object` names.
    pub(crate) fn record(
        &self,
        object: &ObjectReference,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.0.event_for(object.clone(), kind, reason, message);
    }

    /// Records an event about a pod.
    pub(crate) fn pod(&self, pod: &Pod, kind: EventType, reason: &str, message: impl Into<String>) {
        self.0.event(pod, kind, reason, message);
    }

    /// Records an event about a container of a pod.
    pub(crate) fn container(
        &self,
        pod: &Pod,
        name: &str,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.0
            .event_for(container_reference(pod, name), kind, reason, message);
    }
}

/// Refers to a container of a pod.
pub(crate) fn container_reference(pod: &Pod, name: &str) -> ObjectReference {
    let list = if pod::init_containers(pod)
        .iter()
        .any(|container| container.name == name)
    {
        "initContainers"
    } else if pod::ephemeral_containers(pod)
        .iter()
        .any(|container| container.name == name)
    {
        "ephemeralContainers"
    } else {
        "containers"
    };
    ObjectReference {
        field_path: Some(format!("spec.{list}{{{name}}}")),
        ..client::reference(pod)
    }
}

/// Refers to a node, whose events use its name as uid.
pub(crate) fn node_reference(name: &str) -> ObjectReference {
    ObjectReference {
        kind: Some("Node".into()),
        name: Some(name.into()),
        uid: Some(name.into()),
        ..Default::default()
    }
}

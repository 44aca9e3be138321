//! This node in the API: its object, its status, its lease.

mod image_gc;
mod lease;
mod machine;
mod status;

use std::sync::Arc;
use std::time::Duration;

use base::{Backoff, Shutdown};
use client::api::{Api, Patch, PatchParams, PostParams};
use client::{Change, Client, Informers};
use cri::{Image, ImageService};
use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::config::Config;
use crate::events::{Normal, Recorder, node_reference};

pub(crate) use image_gc::ImageCollector;
pub(crate) use machine::Machine;
pub(crate) use status::allocatable;

/// How often pressure is looked at. Nothing announces a disk that fills up.
const PRESSURE_INTERVAL: Duration = Duration::from_secs(10);

/// Keeps this node's object and lease current.
pub(crate) struct NodeAgent {
    pub(crate) config: Config,
    pub(crate) client: Client,
    pub(crate) informers: Informers,
    pub(crate) images: Arc<dyn ImageService>,
    pub(crate) machine: Arc<Machine>,
    pub(crate) events: Recorder,
    /// Nudged when the image list may have changed.
    pub(crate) images_changed: Arc<Notify>,
}

impl NodeAgent {
    /// Registers the node, then keeps its status current until stopped.
    pub(crate) async fn run(self, stop: Shutdown) {
        let reference = node_reference(&self.config.node_name);
        self.events
            .record(&reference, Normal, "Starting", "Starting kubelet.");
        let Some(mut sent) = stop.guard(self.register()).await else {
            return;
        };
        let lease = lease::renew(self.client.clone(), self.config.clone());
        let status = self.keep_status(&mut sent);
        let cidrs = self.follow_cidrs();
        stop.guard(async { tokio::join!(lease, status, cidrs) })
            .await;
    }

    /// Creates the object, or brings the one there is up to date; returns the
    /// status the API server has.
    async fn register(&self) -> NodeStatus {
        let api: Api<Node> = Api::all(self.client.clone());
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(7));
        loop {
            match self.try_register(&api).await {
                Ok(status) => return status,
                Err(error) => {
                    tracing::info!(node = self.config.node_name, error = %base::Chain(&error),
                        "registering the node failed, trying again");
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    async fn try_register(&self, api: &Api<Node>) -> Result<NodeStatus, client::Error> {
        let name = &self.config.node_name;
        let labels = status::labels(&self.config, &self.machine);
        if let Some(known) = api.get_opt(name).await? {
            let had = known.metadata.labels.clone().unwrap_or_default();
            let changed: Map<String, Value> = labels
                .iter()
                .filter(|(key, value)| had.get(*key) != Some(value))
                .map(|(key, value)| (key.clone(), json!(value)))
                .collect();
            if !changed.is_empty() {
                let patch = json!({"metadata": {"labels": changed}});
                api.patch(name, &PatchParams::default(), &Patch::Strategic(patch))
                    .await?;
            }
            return Ok(known.status.unwrap_or_default());
        }
        let taints = self.config.taints.clone();
        let node = Node {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                labels: Some(labels),
                annotations: Some(
                    [(
                        "volumes.kubernetes.io/controller-managed-attach-detach",
                        "true",
                    )]
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
                ),
                ..Default::default()
            },
            spec: Some(NodeSpec {
                taints: (!taints.is_empty()).then_some(taints),
                ..Default::default()
            }),
            status: Some(self.status(&self.list_images().await, &NodeStatus::default())),
        };
        let made = api.create(&PostParams::default(), &node).await?;
        tracing::info!(node = name, "registered the node");
        Ok(made.status.unwrap_or_default())
    }

    async fn list_images(&self) -> Vec<Image> {
        self.images.list_images().await.unwrap_or_else(|error| {
            tracing::debug!(error = %base::Chain(&error), "listing images");
            Vec::new()
        })
    }

    fn status(&self, images: &[Image], old: &NodeStatus) -> NodeStatus {
        let pressure = self.machine.pressure(&self.config);
        let now = jiff::Timestamp::now();
        status::status(&self.config, &self.machine, images, pressure, old, now)
    }

    /// Writes the status when it changes, and now and then though it does not.
    async fn keep_status(&self, sent: &mut NodeStatus) {
        let api: Api<Node> = Api::all(self.client.clone());
        let reference = node_reference(&self.config.node_name);
        let mut due = Instant::now();
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        let mut images = self.list_images().await;
        loop {
            let fresh = self.status(&images, sent);
            let changed = status::differs(sent, &fresh);
            if changed || Instant::now() >= due {
                let patch = status::patch(sent, &fresh);
                let name = &self.config.node_name;
                let params = PatchParams::default();
                match api
                    .patch_status(name, &params, &Patch::Strategic(&patch))
                    .await
                {
                    Ok(_) => {
                        for reason in status::transitions(sent, &fresh) {
                            let text = format!("Node {name} status is now: {reason}");
                            self.events.record(&reference, Normal, reason, text);
                        }
                        *sent = fresh;
                        due = Instant::now() + self.config.status_report_interval;
                        backoff.reset();
                    }
                    Err(client::Error::Api(error)) if error.code == 404 => {
                        *sent = self.register().await;
                        continue;
                    }
                    Err(error) => {
                        tracing::info!(error = %base::Chain(&error), "writing the node's status");
                        tokio::time::sleep(backoff.next_delay()).await;
                        continue;
                    }
                }
            }
            let look = (Instant::now() + PRESSURE_INTERVAL).min(due);
            tokio::select! {
                () = tokio::time::sleep_until(look) => {
                    // What was imported from outside is seen now and then.
                    if look == due {
                        images = self.list_images().await;
                    }
                }
                () = self.images_changed.notified() => images = self.list_images().await,
            }
        }
    }

    /// Tells the network which pod addresses this node has been given.
    async fn follow_cidrs(&self) {
        let Some(tell) = &self.config.on_pod_cidrs else {
            return;
        };
        let fields = format!("metadata.name={}", self.config.node_name);
        let informer = self.informers.with_fields::<Node>(&fields);
        let mut changes = informer.subscribe();
        let mut told: Option<Vec<String>> = None;
        while let Some(change) = changes.next().await {
            let node = match change {
                Change::Applied { new, .. } => Some(new),
                Change::Deleted(_) => None,
                Change::Resync => informer.list().into_iter().next(),
            };
            let spec = node.as_ref().and_then(|node| node.spec.as_ref());
            let cidrs = spec.and_then(|spec| {
                spec.pod_cidrs
                    .clone()
                    .or_else(|| spec.pod_cidr.clone().map(|cidr| vec![cidr]))
            });
            if let Some(cidrs) = cidrs.filter(|cidrs| !cidrs.is_empty())
                && told.as_ref() != Some(&cidrs)
            {
                tell(cidrs.clone());
                told = Some(cidrs);
            }
        }
    }
}

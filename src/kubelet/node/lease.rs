//! The heartbeat: a Lease in `kube-node-lease`.

use std::time::Duration;

use base::Backoff;
use client::Client;
use client::api::{Api, Patch, PatchParams, PostParams};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use serde_json::json;
use tokio::time::MissedTickBehavior;

use crate::config::Config;

const NAMESPACE: &str = "kube-node-lease";

/// Renews the lease for ever.
pub(crate) async fn renew(client: Client, config: Config) {
    let api: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    let mut ticks = tokio::time::interval(config.lease_renew_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(7));
        while let Err(error) = renew_once(&client, &api, &config).await {
            tracing::info!(error = %base::Chain(&error), "renewing the node's lease");
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }
}

async fn renew_once(
    client: &Client,
    api: &Api<Lease>,
    config: &Config,
) -> Result<(), client::Error> {
    let now = Timestamp::now();
    let name = &config.node_name;
    let patch = json!({"spec": {"renewTime": base::time::rfc3339_micro(now),
        "holderIdentity": name, "leaseDurationSeconds": config.lease_duration.as_secs()}});
    match api
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
    {
        Ok(_) => return Ok(()),
        Err(client::Error::Api(error)) if error.code == 404 => {}
        Err(error) => return Err(error),
    }
    let node = Api::<Node>::all(client.clone()).get(name).await?;
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(NAMESPACE.into()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: name.clone(),
                uid: node.metadata.uid.unwrap_or_default(),
                ..Default::default()
            }]),
            ..Default::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: i32::try_from(config.lease_duration.as_secs()).ok(),
            renew_time: Some(MicroTime(now)),
            ..Default::default()
        }),
    };
    api.create(&PostParams::default(), &lease).await.map(drop)
}

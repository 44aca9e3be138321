//! The objects every cluster begins with.

mod flow;
mod objects;

use std::sync::Arc;
use std::time::Duration;

use api::{Reason, Status};
use base::Backoff;
use futures::StreamExt;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::access::{MASTERS, User};
use crate::registry::{Call, Registry, Replace};
use crate::server::ApiServer;

/// Who makes them.
const USER: &str = "system:apiserver";
/// Objects created at once.
const BATCH: usize = 256;

/// Creates what is missing; tries again until it has.
pub(crate) async fn run(server: &ApiServer) {
    let (first, rest) = objects::all(&server.inner.config)
        .into_iter()
        .partition(|it| it.2 == "namespaces");
    // Namespaces come before what is in them; all else has no order, and
    // goes to the store together to share its commits.
    for batch in [first, rest] {
        let batch: Vec<Bootstrap> = batch;
        futures::stream::iter(&batch)
            .for_each_concurrent(BATCH, |object| create(server, object))
            .await;
    }
}

async fn create(server: &ApiServer, (group, version, resource, object): &Bootstrap) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
    while let Err(status) = ensure(&server.inner.registry, group, version, resource, object).await {
        tracing::warn!(
            resource,
            name = %object["metadata"]["name"],
            error = %status.message,
            "cannot create a bootstrap object; trying again"
        );
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

async fn ensure(
    registry: &Arc<Registry>,
    group: &str,
    version: &str,
    resource: &str,
    object: &Value,
) -> Result<(), Status> {
    let Some(resource) = registry.resource(group, resource) else {
        return Ok(());
    };
    let text = |field: &str| {
        object["metadata"][field]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let key = resource.key(&text("namespace"), &text("name"));
    let known = registry.fetch(&resource, &key).await?;
    if let Some(known) = &known
        && !is_stale(resource.is("", "configmaps"), object, &known.value())
    {
        return Ok(());
    }
    let mut call = Call {
        version: version.to_owned(),
        subresource: String::new(),
        namespace: text("namespace"),
        name: String::new(),
        user: Arc::new(User::new(USER, &[MASTERS])),
        dry_run: false,
        manager: "karve".to_owned(),
        field_validation: "Ignore".to_owned(),
        options: json!({}),
        warnings: Mutex::default(),
        empties: Mutex::default(),
        resource,
    };
    let bytes = serde_json::to_vec(object).expect("a value is JSON");
    let gvk = call.resource.gvk(version);
    let object = registry
        .engine
        .decode(&call, &gvk, crate::http::Format::Json, &bytes)?;
    if known.is_some() {
        call.name = text("name");
        return registry.update(&call, &Replace(object)).await.map(|_| ());
    }
    match registry.create(&call, object).await {
        Ok(_) => Ok(()),
        Err(status) if status.reason == Reason::AlreadyExists => Ok(()),
        Err(status) => Err(status),
    }
}

/// Whether an object that is there has to be made anew: what this server
/// publishes of itself, where that has changed.
fn is_stale(published: bool, wanted: &Value, known: &Value) -> bool {
    published
        && wanted["metadata"]["name"] == objects::AUTHENTICATION
        && wanted["data"] != known["data"]
}

/// Group, version, resource and object.
type Bootstrap = (&'static str, &'static str, &'static str, Value);

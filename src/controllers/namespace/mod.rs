//! Empties namespaces that are being deleted, then lets them go.
//!
//! Pods go first, so that nothing a running pod uses disappears under it;
//! then every other namespaced resource that discovery knows. Conditions in
//! the namespace's status say what is in the way.

mod conditions;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::api::{DeleteParams, ListParams, PostParams};
use client::core::{DynamicObject, PartialObjectMeta};
use client::{Action, Api, Client, Informer, NamespacedName};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Pod};

use crate::context::{Context, run};
use crate::discover::{self, Discovered};
use crate::error::{During, Error, Result, ignore_not_found, is_conflict, is_not_found, message};
use crate::pods;
use conditions::Findings;

const NAME: &str = "namespace-controller";
const FINALIZER: &str = "kubernetes";
/// How long to leave objects whose finalizers someone else must remove.
const FINALIZER_WAIT: Duration = Duration::from_secs(5);

/// Whether objects may be created in the namespace.
pub(crate) fn is_active(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_none()
        && namespace
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref())
            != Some("Terminating")
}

pub(crate) fn register(context: &Context) {
    let namespaces = context.informers.of::<Namespace>();
    let pods = context.informers.of::<Pod>();
    let controller = context.controller(NAME);
    controller.watch(&namespaces, |namespace| {
        let deleting = namespace.metadata.deletion_timestamp.is_some();
        deleting
            .then(|| NamespacedName::of(namespace))
            .into_iter()
            .collect()
    });
    let known = namespaces.clone();
    controller.watch_changes(&pods, move |change| match change {
        client::Observed::Deleted(pod) => {
            let name = pod.metadata.namespace.clone().unwrap_or_default();
            let key = NamespacedName::new("", name);
            let going = known
                .get(&key)
                .is_some_and(|namespace| !is_active(&namespace));
            going.then_some(key).into_iter().collect()
        }
        client::Observed::Applied { .. } => Vec::new(),
    });
    let emptier = Arc::new(Emptier {
        client: context.client(NAME),
        pods,
    });
    run(controller, 4, move |key| {
        let emptier = emptier.clone();
        async move { emptier.reconcile(&key.name).await }
    });
}

struct Emptier {
    client: Client,
    pods: Informer<Pod>,
}

impl Emptier {
    async fn reconcile(&self, name: &str) -> Result<Action> {
        let api = Api::<Namespace>::all(self.client.clone());
        let fetched = api
            .get_opt(name)
            .await
            .during(|| format!("reading namespace {name}"))?;
        let Some(mut namespace) = fetched else {
            return Ok(Action::Done);
        };
        if namespace.metadata.deletion_timestamp.is_none() {
            return Ok(Action::Done);
        }
        if is_finalized(&namespace) {
            return Ok(Action::Done);
        }
        let mut status = namespace.status.take().unwrap_or_default();
        if status.phase.as_deref() != Some("Terminating") {
            status.phase = Some("Terminating".to_owned());
            namespace.status = Some(status.clone());
            match api
                .replace_status(name, &PostParams::default(), &namespace)
                .await
            {
                Ok(updated) => {
                    namespace = updated;
                    status = namespace.status.take().unwrap_or_default();
                }
                Err(error) if is_not_found(&error) => return Ok(Action::Done),
                Err(error) => {
                    return Err(error).during(|| format!("marking namespace {name} terminating"));
                }
            }
        }
        let (findings, wait) = self.empty(name).await;
        if conditions::update(&mut status, &findings, Timestamp::now()) {
            namespace.status = Some(status);
            match api
                .replace_status(name, &PostParams::default(), &namespace)
                .await
            {
                Ok(updated) => namespace = updated,
                Err(error) if is_not_found(&error) => return Ok(Action::Done),
                Err(error) if is_conflict(&error) => {}
                Err(error) => {
                    return Err(error)
                        .during(|| format!("updating conditions of namespace {name}"));
                }
            }
        }
        if let Some(first) = findings.errors.first() {
            return Err(Error::Unmet(format!("emptying namespace {name}: {first}")));
        }
        if !findings.is_empty() {
            return Ok(Action::After(wait));
        }
        self.finalize(namespace).await?;
        Ok(Action::Done)
    }

    /// Deletes what is left and says what remains, and when to look again.
    async fn empty(&self, namespace: &str) -> (Findings, Duration) {
        let mut findings = Findings::default();
        let resources = match discover::resources(&self.client).await {
            Ok(resources) => resources,
            Err(error) => {
                findings.discovery = Some(message(&error));
                findings.errors.push(message(&error));
                return (findings, FINALIZER_WAIT);
            }
        };
        let (pods, others): (Vec<_>, Vec<_>) = resources
            .iter()
            .filter(|found| found.namespaced && found.supports("delete") && found.supports("list"))
            .partition(|found| found.resource.group.is_empty() && found.resource.plural == "pods");
        for resource in pods {
            self.empty_one(namespace, resource, &mut findings).await;
        }
        if !findings.is_empty() {
            return (findings, self.grace(namespace));
        }
        for resource in others {
            self.empty_one(namespace, resource, &mut findings).await;
        }
        (findings, FINALIZER_WAIT)
    }

    async fn empty_one(&self, namespace: &str, found: &Discovered, findings: &mut Findings) {
        match self.delete_all(namespace, found).await {
            Ok(left) if left.is_empty() => {}
            Ok(left) => {
                let held = left.iter().any(|object| {
                    object
                        .metadata
                        .finalizers
                        .as_ref()
                        .is_some_and(|list| !list.is_empty())
                });
                let is_pods = found.resource.plural == "pods";
                findings.remaining.insert(found.dotted(), left.len());
                for finalizer in left
                    .iter()
                    .flat_map(|object| object.metadata.finalizers.iter().flatten())
                {
                    *findings.finalizers.entry(finalizer.clone()).or_default() += 1;
                }
                // Pods take their grace period; anything else without a
                // finalizer was created behind our back: go again at once.
                if !held && !is_pods {
                    let resource = &found.resource;
                    findings.errors.push(format!(
                        "unexpected items still remain in namespace: {namespace} for gvr: {}/{}, Resource={}",
                        resource.group, resource.version, resource.plural
                    ));
                }
            }
            Err(error) => findings.errors.push(message(&error)),
        }
    }

    async fn delete_all(
        &self,
        namespace: &str,
        found: &Discovered,
    ) -> Result<Vec<PartialObjectMeta<DynamicObject>>, client::Error> {
        let resource = &found.resource;
        let metadata = Api::<PartialObjectMeta<DynamicObject>>::namespaced_with(
            self.client.clone(),
            namespace,
            resource,
        );
        let everything = ListParams::default();
        // The list is asked of the server rather than of a copy: what it
        // leaves out would be lost with the namespace.
        let listed = match metadata.list(&everything).await {
            Err(error) if is_unsupported(&error) => return Ok(Vec::new()),
            listed => listed?,
        };
        if listed.items.is_empty() {
            return Ok(Vec::new());
        }
        let objects =
            Api::<DynamicObject>::namespaced_with(self.client.clone(), namespace, resource);
        let background = DeleteParams::background();
        let mut collected = false;
        if found.supports("deletecollection") {
            match objects.delete_collection(&background, &everything).await {
                Err(error) if !is_unsupported(&error) => return Err(error),
                outcome => collected = outcome.is_ok(),
            }
        }
        if !collected {
            for object in &listed.items {
                let name = object.metadata.name.as_deref().unwrap_or_default();
                ignore_not_found(objects.delete(name, &background).await)?;
            }
        }
        Ok(metadata.list(&everything).await?.items)
    }

    /// When the longest grace period among the pods may be over; their
    /// deletion is watched, so this only matters for pods nobody ends.
    fn grace(&self, namespace: &str) -> Duration {
        let longest = self
            .pods
            .in_namespace(namespace)
            .iter()
            .filter(|pod| !pods::is_finished(pod))
            .filter_map(|pod| pod.spec.as_ref()?.termination_grace_period_seconds)
            .max()
            .unwrap_or(0);
        Duration::from_secs(u64::try_from(longest / 2 + 1).unwrap_or(1))
    }

    async fn finalize(&self, namespace: Namespace) -> Result<()> {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        let mut namespace = namespace;
        if let Some(spec) = &mut namespace.spec
            && let Some(finalizers) = &mut spec.finalizers
        {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
        }
        let api = Api::<Namespace>::all(self.client.clone());
        let outcome = api
            .replace_subresource("finalize", &name, &PostParams::default(), &namespace)
            .await;
        ignore_not_found(outcome).during(|| format!("finalizing namespace {name}"))
    }
}

fn is_finalized(namespace: &Namespace) -> bool {
    namespace
        .spec
        .as_ref()
        .and_then(|spec| spec.finalizers.as_ref())
        .is_none_or(Vec::is_empty)
}

fn is_unsupported(error: &client::Error) -> bool {
    matches!(error, client::Error::Api(status) if status.code == 404 || status.code == 405)
}

/// Numbers by name, in the order in which messages list them.
type Tally = BTreeMap<String, usize>;

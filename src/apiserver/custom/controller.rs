//! Follows the definitions: accepts their names, serves what is established,
//! and removes instances before a definition goes.
//!
//! Level-triggered: whatever changes, every definition is looked at again, and
//! what is as it should be costs a comparison.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use base::Shutdown;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Custom;
use crate::access::{MASTERS, User};
use crate::cache::{Filter, Start};
use crate::registry::{Call, Change, DeleteOptions, Registry, Resource};
use crate::server::ApiServer;

const GROUP: &str = "apiextensions.k8s.io";
const RESOURCE: &str = "customresourcedefinitions";
pub(crate) const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
const APPROVAL: &str = "api-approved.kubernetes.io";
/// How long before something that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Runs until shutdown.
pub(crate) async fn run(server: ApiServer, stop: Shutdown) {
    let registry = server.inner.registry.clone();
    let mut controller = Controller {
        server,
        registry,
        installed: BTreeMap::new(),
        removing: Arc::default(),
    };
    while !stop.is_triggered() {
        match stop.guard(controller.follow(&stop)).await {
            None => return,
            Some(Ok(())) => {}
            Some(Err(status)) => {
                tracing::warn!(error = %status.message, "custom resource definitions cannot be followed; trying again");
                if stop.guard(tokio::time::sleep(AGAIN)).await.is_none() {
                    return;
                }
            }
        }
    }
}

struct Controller {
    server: ApiServer,
    registry: Arc<Registry>,
    /// What is served, by the definition's name.
    installed: BTreeMap<String, Arc<Custom>>,
    /// Definitions whose instances are being removed.
    removing: Arc<Mutex<BTreeSet<String>>>,
}

impl Controller {
    /// Looks at every definition whenever one changes; ends when the watch does.
    async fn follow(&mut self, stop: &Shutdown) -> Result<(), Status> {
        let resource = definitions(&self.registry)?;
        let cache = self.registry.cache(&resource).await?;
        let mut subscription = cache.subscribe(Filter::default(), Start::Now);
        loop {
            let (entries, ..) = cache.list(&Filter::default(), "", 0);
            let all: Vec<Arc<Value>> = entries.iter().map(|it| Arc::new(it.value())).collect();
            let failed = self.look_at(&all, stop).await;
            let next = async {
                let first = subscription.events.recv().await;
                // What else has come meanwhile is looked at together.
                while subscription.events.try_recv().is_ok() {}
                first.is_some()
            };
            let goes_on = if failed {
                tokio::time::timeout(AGAIN, next).await.unwrap_or(true)
            } else {
                next.await
            };
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// Brings everything to what the definitions say; true if something failed.
    async fn look_at(&mut self, all: &[Arc<Value>], stop: &Shutdown) -> bool {
        let gone: Vec<String> = self
            .installed
            .keys()
            .filter(|name| !all.iter().any(|it| name_of(it) == **name))
            .cloned()
            .collect();
        for name in gone {
            self.uninstall(&name);
        }
        let mut failed = false;
        for definition in all {
            if let Err(status) = self.reconcile(definition, all, stop).await {
                // A newer object is on its way, or the definition is gone.
                if !matches!(status.reason, api::Reason::Conflict | api::Reason::NotFound) {
                    tracing::warn!(definition = %name_of(definition), error = %status.message, "custom resource definition");
                    failed = true;
                }
            }
        }
        failed
    }

    async fn reconcile(
        &mut self,
        definition: &Arc<Value>,
        all: &[Arc<Value>],
        stop: &Shutdown,
    ) -> Result<(), Status> {
        let wanted = status(definition, all);
        let mut current = definition.clone();
        if wanted != definition["status"] {
            let mut next = Value::clone(definition);
            next["status"] = wanted.clone();
            current = Arc::new(next);
        }
        // Served before it is said to be.
        if is_true(&current, "Established") {
            self.install(&current);
        }
        if wanted != definition["status"] {
            self.write_status(name_of(definition), &SetStatus(wanted))
                .await?;
        }
        let leaving = !definition["metadata"]["deletionTimestamp"].is_null();
        if leaving && has_finalizer(definition) {
            self.remove_instances(name_of(definition), stop);
        }
        Ok(())
    }

    fn install(&mut self, definition: &Arc<Value>) {
        let name = name_of(definition).to_owned();
        let same = |it: &Custom| {
            let names = |it: &Value| it["status"]["acceptedNames"].clone();
            it.source["spec"] == definition["spec"]
                && it.source["metadata"]["uid"] == definition["metadata"]["uid"]
                && names(&it.source) == names(definition)
        };
        let is_leaving = |it: &Value| !it["metadata"]["deletionTimestamp"].is_null();
        let known = self.installed.get(&name);
        let changed = known.is_some_and(|it| !same(it));
        if known.is_some_and(|it| !changed && is_leaving(&it.source) == is_leaving(definition)) {
            return;
        }
        let Some(custom) = Custom::new(definition.clone()).map(Arc::new) else {
            return;
        };
        self.registry
            .install(Resource::custom(custom.clone()), changed);
        self.installed.insert(name, custom);
    }

    fn uninstall(&mut self, name: &str) {
        if let Some(custom) = self.installed.remove(name) {
            let definition = &custom.definition;
            self.registry
                .uninstall(&definition.group, &definition.plural);
        }
    }

    async fn write_status(&self, name: &str, change: &dyn Change) -> Result<(), Status> {
        let resource = definitions(&self.registry)?;
        let call = call(resource, "v1", "status", "", name);
        self.registry.update(&call, change).await.map(drop)
    }

    /// Removes the instances of a definition beside everything else, for they
    /// may have finalizers of their own.
    fn remove_instances(&self, name: &str, stop: &Shutdown) {
        if !self.removing.lock().insert(name.to_owned()) {
            return;
        }
        let (registry, removing) = (self.registry.clone(), self.removing.clone());
        let (name, stop) = (name.to_owned(), stop.clone());
        let custom = self.installed.get(&name).cloned();
        self.server
            .inner
            .tasks
            .spawn(format!("instances of {name}"), move |_| async move {
                let outcome = stop.guard(finish(&registry, &name, custom.as_deref())).await;
                if let Some(Err(status)) = outcome
                    && !matches!(status.reason, api::Reason::Conflict | api::Reason::NotFound)
                {
                    tracing::warn!(definition = name, error = %status.message, "removing its instances");
                }
                removing.lock().remove(&name);
            });
    }
}

/// Removes every instance, then the finalizer, with which the definition goes.
async fn finish(registry: &Registry, name: &str, custom: Option<&Custom>) -> Result<(), Status> {
    let mut reason = ("NeverEstablished", "resource was never established");
    if let Some(custom) = custom {
        let definition = &custom.definition;
        if let Some(resource) = registry.resource(&definition.group, &definition.plural) {
            remove_all(registry, &resource).await?;
        }
        reason = ("InstanceDeletionCompleted", "removed all instances");
    }
    let change = Finish(reason.0, reason.1);
    let call = call(definitions(registry)?, "v1", "status", "", name);
    registry.update(&call, &change).await.map(drop)
}

async fn remove_all(registry: &Registry, resource: &Arc<Resource>) -> Result<(), Status> {
    let cache = registry.cache(resource).await?;
    loop {
        let mut subscription = cache.subscribe(Filter::default(), Start::Now);
        let (entries, ..) = cache.list(&Filter::default(), "", 0);
        if entries.is_empty() {
            return Ok(());
        }
        for entry in entries {
            let object = entry.value();
            if !object["metadata"]["deletionTimestamp"].is_null() {
                continue;
            }
            let version = resource.storage_version.clone();
            let call = call(
                resource.clone(),
                &version,
                "",
                entry.namespace(),
                entry.name(),
            );
            match registry.delete(&call, &DeleteOptions::default()).await {
                Ok(_) => {}
                Err(status) if status.reason == api::Reason::NotFound => {}
                Err(status) => return Err(status),
            }
        }
        if subscription.events.recv().await.is_none() {
            return Err(Status::internal("the watch of the instances ended"));
        }
    }
}

fn definitions(registry: &Registry) -> Result<Arc<Resource>, Status> {
    registry
        .resource(GROUP, RESOURCE)
        .ok_or_else(|| Status::internal("custom resource definitions are not served"))
}

/// A call of the server itself.
fn call(
    resource: Arc<Resource>,
    version: &str,
    subresource: &str,
    namespace: &str,
    name: &str,
) -> Call {
    Call {
        resource,
        version: version.to_owned(),
        subresource: subresource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        user: Arc::new(User::new("system:apiserver", &[MASTERS])),
        dry_run: false,
        manager: "kube-apiserver".to_owned(),
        field_validation: "Ignore".to_owned(),
        options: json!({}),
        warnings: Mutex::default(),
        empties: Mutex::default(),
    }
}

/// Replaces the status, unless the definition has changed since.
struct SetStatus(Value);

impl Change for SetStatus {
    fn apply(&self, call: &Call, current: Option<&Value>) -> Result<Value, Status> {
        let mut new = current
            .cloned()
            .ok_or_else(|| call.resource.not_found(&call.name))?;
        new["status"] = self.0.clone();
        Ok(new)
    }
}

/// Says that the instances are gone and lets the definition go.
struct Finish(&'static str, &'static str);

impl Change for Finish {
    fn apply(&self, call: &Call, current: Option<&Value>) -> Result<Value, Status> {
        let mut new = current
            .cloned()
            .ok_or_else(|| call.resource.not_found(&call.name))?;
        set_condition(&mut new["status"], "Terminating", "False", self.0, self.1);
        if let Some(finalizers) = new["metadata"]["finalizers"].as_array_mut() {
            finalizers.retain(|it| it != FINALIZER);
            if finalizers.is_empty() {
                api::meta::metadata_mut(&mut new).remove("finalizers");
            }
        }
        Ok(new)
    }
}

fn name_of(definition: &Value) -> &str {
    definition["metadata"]["name"].as_str().unwrap_or_default()
}

fn has_finalizer(definition: &Value) -> bool {
    let finalizers = definition["metadata"]["finalizers"].as_array();
    finalizers.into_iter().flatten().any(|it| it == FINALIZER)
}

fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = status["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .find(|it| it["type"] == kind)
}

fn is_true(definition: &Value, kind: &str) -> bool {
    condition(&definition["status"], kind).is_some_and(|it| it["status"] == "True")
}

/// Sets a condition; its time moves with its status.
pub(crate) fn set_condition(
    status: &mut Value,
    kind: &str,
    value: &str,
    reason: &str,
    message: &str,
) {
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(conditions) = status["conditions"].as_array_mut() else {
        return;
    };
    let now = crate::registry::now();
    let Some(known) = conditions.iter_mut().find(|it| it["type"] == kind) else {
        conditions.push(json!({
            "type": kind, "status": value, "reason": reason, "message": message,
            "lastTransitionTime": now,
        }));
        return;
    };
    if known["status"] != value {
        known["lastTransitionTime"] = now.into();
    }
    known["status"] = value.into();
    known["reason"] = reason.into();
    known["message"] = message.into();
}

/// The status a definition should have beside the others.
fn status(definition: &Value, all: &[Arc<Value>]) -> Value {
    let mut status = definition["status"].clone();
    let spec = &definition["spec"];
    let had = condition(&status, "NamesAccepted").is_some();
    if spec["names"] != status["acceptedNames"] || !had {
        accept_names(definition, all, &mut status);
    }
    let accepted = condition(&status, "NamesAccepted").is_some_and(|it| it["status"] == "True");
    let established = condition(&status, "Established").is_some_and(|it| it["status"] == "True");
    if accepted && !established {
        let message = "the initial names have been accepted";
        set_condition(
            &mut status,
            "Established",
            "True",
            "InitialNamesAccepted",
            message,
        );
    } else if condition(&status, "Established").is_none() {
        let message = "not all names are accepted";
        set_condition(&mut status, "Established", "False", "NotAccepted", message);
    }
    approve(definition, &mut status);
    if !definition["metadata"]["deletionTimestamp"].is_null() && has_finalizer(definition) {
        let message = "CustomResource deletion is in progress";
        set_condition(
            &mut status,
            "Terminating",
            "True",
            "InstanceDeletionInProgress",
            message,
        );
    }
    status
}

/// Takes over the names that nobody else in the group has.
fn accept_names(definition: &Value, all: &[Arc<Value>], status: &mut Value) {
    let (mut resources, mut kinds) = (BTreeSet::new(), BTreeSet::new());
    for other in all {
        if other["spec"]["group"] != definition["spec"]["group"] {
            continue;
        }
        let names = &other["status"]["acceptedNames"];
        let text = |name: &str| names[name].as_str().unwrap_or_default().to_owned();
        resources.extend([text("plural"), text("singular")]);
        let short = names["shortNames"].as_array().into_iter().flatten();
        resources.extend(short.filter_map(Value::as_str).map(str::to_owned));
        kinds.extend([text("kind"), text("listKind")]);
    }
    let requested = &definition["spec"]["names"];
    let mut accepted = status["acceptedNames"].clone();
    let mut conflict: Option<(&str, String)> = None;
    let own = accepted.clone();
    for (name, used, reason) in [
        ("plural", &resources, "PluralConflict"),
        ("singular", &resources, "SingularConflict"),
    ] {
        take(
            requested,
            &own,
            name,
            used,
            reason,
            &mut accepted,
            &mut conflict,
        );
    }
    if requested["shortNames"] != own["shortNames"] {
        let list = |names: &Value| -> Vec<String> {
            let all = names["shortNames"].as_array().into_iter().flatten();
            all.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let ours = list(&own);
        let mut taken = list(requested);
        taken.retain(|name| !ours.contains(name) && resources.contains(name));
        if taken.is_empty() {
            put(&mut accepted, "shortNames", &requested["shortNames"]);
        } else {
            let each: Vec<String> = taken.iter().map(|name| in_use(name)).collect();
            let message = match each.as_slice() {
                [one] => one.clone(),
                many => format!("[{}]", many.join(", ")),
            };
            conflict = Some(("ShortNamesConflict", message));
        }
    }
    for (name, used, reason) in [
        ("kind", &kinds, "KindConflict"),
        ("listKind", &kinds, "ListKindConflict"),
    ] {
        take(
            requested,
            &own,
            name,
            used,
            reason,
            &mut accepted,
            &mut conflict,
        );
    }
    put(&mut accepted, "categories", &requested["categories"]);
    status["acceptedNames"] = accepted;
    match conflict {
        Some((reason, message)) => {
            set_condition(status, "NamesAccepted", "False", reason, &message);
        }
        None => set_condition(
            status,
            "NamesAccepted",
            "True",
            "NoConflicts",
            "no conflicts found",
        ),
    }
}

fn in_use(name: &str) -> String {
    format!("{name:?} is already in use")
}

fn put(names: &mut Value, name: &str, value: &Value) {
    if let Some(map) = names.as_object_mut() {
        if value.is_null() {
            map.remove(name);
        } else {
            map.insert(name.to_owned(), value.clone());
        }
    }
}

fn take<'a>(
    requested: &Value,
    own: &Value,
    name: &str,
    used: &BTreeSet<String>,
    reason: &'a str,
    accepted: &mut Value,
    conflict: &mut Option<(&'a str, String)>,
) {
    let wanted = requested[name].as_str().unwrap_or_default();
    let is_ours = own[name].as_str().unwrap_or_default() == wanted;
    if !is_ours && used.contains(wanted) {
        *conflict = Some((reason, in_use(wanted)));
    } else {
        put(accepted, name, &requested[name]);
    }
}

/// Groups of the Kubernetes project say whether it has approved them.
fn approve(definition: &Value, status: &mut Value) {
    let group = definition["spec"]["group"].as_str().unwrap_or_default();
    let is_theirs = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|it| group == *it || group.ends_with(&format!(".{it}")));
    if !is_theirs {
        return;
    }
    let given = definition["metadata"]["annotations"][APPROVAL]
        .as_str()
        .unwrap_or_default();
    let (value, reason, message) = if given.is_empty() {
        let message = format!(
            "protected groups must have approval annotation {APPROVAL:?}, see https://github.com/kubernetes/enhancements/pull/1111"
        );
        ("False", "MissingAnnotation", message)
    } else if given.starts_with("unapproved") {
        (
            "False",
            "UnapprovedAnnotation",
            format!("not approved: {given:?}"),
        )
    } else {
        ("True", "ApprovedAnnotation", format!("approved in {given}"))
    };
    set_condition(
        status,
        "KubernetesAPIApprovalPolicyConformant",
        value,
        reason,
        &message,
    );
}

//! Adds up what a namespace uses of its ResourceQuotas.
//!
//! This loop keeps `status.used` true after the fact, above all when objects
//! go; refusing what would exceed a quota is admission's part.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::api::PostParams;
use client::core::PartialObjectMeta;
use client::{Action, Api, Client, Informer, NamespacedName, Watched};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolumeClaim, Pod, ReplicationController, ResourceQuota, ResourceQuotaSpec,
    ResourceQuotaStatus, ScopedResourceSelectorRequirement, Secret, Service,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::amount::Amount;
use crate::context::{Context, run};
use crate::error::{During, Result, is_not_found};
use crate::pods::is_finished;

const NAME: &str = "resourcequota-controller";

pub(crate) fn register(context: &Context) {
    let informers = &context.informers;
    let state = Arc::new(Quotas {
        client: context.client(NAME),
        quotas: informers.of(),
        pods: informers.of(),
        services: informers.of(),
        claims: informers.of(),
        secrets: informers.of(),
        config_maps: informers.of(),
        controllers: informers.of(),
        deployments: informers.of(),
        replica_sets: informers.of(),
        stateful_sets: informers.of(),
        jobs: informers.of(),
        cron_jobs: informers.of(),
    });
    let controller = context.controller(NAME);
    controller.watch(&state.quotas, |quota| vec![NamespacedName::of(quota)]);
    watch(&controller, &state, &state.pods);
    watch(&controller, &state, &state.services);
    watch(&controller, &state, &state.claims);
    watch(&controller, &state, &state.secrets);
    watch(&controller, &state, &state.config_maps);
    watch(&controller, &state, &state.controllers);
    watch(&controller, &state, &state.deployments);
    watch(&controller, &state, &state.replica_sets);
    watch(&controller, &state, &state.stateful_sets);
    watch(&controller, &state, &state.jobs);
    watch(&controller, &state, &state.cron_jobs);
    run(controller, 2, move |key| {
        let state = state.clone();
        async move { state.reconcile(&key).await }
    });
}

/// Runs the quotas of a namespace when an object of it changes.
fn watch<K: Watched>(controller: &client::Controller, state: &Arc<Quotas>, informer: &Informer<K>) {
    let quotas = state.quotas.clone();
    controller.watch(informer, move |object| {
        let namespace = object.meta().namespace.as_deref().unwrap_or_default();
        let quotas = quotas.in_namespace(namespace);
        quotas
            .iter()
            .map(|quota| NamespacedName::of(&**quota))
            .collect()
    });
}

struct Quotas {
    client: Client,
    quotas: Informer<ResourceQuota>,
    pods: Informer<Pod>,
    services: Informer<Service>,
    claims: Informer<PersistentVolumeClaim>,
    secrets: Informer<PartialObjectMeta<Secret>>,
    config_maps: Informer<PartialObjectMeta<ConfigMap>>,
    controllers: Informer<ReplicationController>,
    deployments: Informer<Deployment>,
    replica_sets: Informer<ReplicaSet>,
    stateful_sets: Informer<StatefulSet>,
    jobs: Informer<Job>,
    cron_jobs: Informer<CronJob>,
}

impl Quotas {
    async fn reconcile(&self, key: &NamespacedName) -> Result<Action> {
        let Some(quota) = self.quotas.get(key) else {
            return Ok(Action::Done);
        };
        let spec = quota.spec.clone().unwrap_or_default();
        let hard = spec.hard.clone().unwrap_or_default();
        let known = quota.status.clone().unwrap_or_default();
        let mut used: BTreeMap<String, Quantity> = BTreeMap::new();
        for name in hard.keys() {
            let amount = match self.usage(&key.namespace, &spec, name) {
                Some(amount) => amount.to_string(),
                // Not counted here: what admission noted stays.
                None => match known.used.as_ref().and_then(|used| used.get(name)) {
                    Some(noted) => noted.0.clone(),
                    None => "0".to_owned(),
                },
            };
            used.insert(name.clone(), Quantity(amount));
        }
        let same = |a: Option<&BTreeMap<String, Quantity>>, b: &BTreeMap<String, Quantity>| {
            a.is_some_and(|a| {
                a.len() == b.len()
                    && b.iter().all(|(name, amount)| {
                        a.get(name).map(|known| Amount::parse(&known.0))
                            == Some(Amount::parse(&amount.0))
                    })
            })
        };
        let settled = hard.is_empty() && known.hard.is_none();
        if settled || same(known.used.as_ref(), &used) && known.hard.as_ref() == Some(&hard) {
            return Ok(Action::Done);
        }
        let status = ResourceQuotaStatus {
            hard: Some(hard),
            used: Some(used),
        };
        let fresh = ResourceQuota {
            status: Some(status),
            ..(*quota).clone()
        };
        let api = Api::<ResourceQuota>::namespaced(self.client.clone(), &key.namespace);
        match api
            .replace_status(&key.name, &PostParams::default(), &fresh)
            .await
        {
            Err(error) if !is_not_found(&error) => {
                Err(error).during(|| format!("updating the status of quota {key}"))
            }
            _ => Ok(Action::Done),
        }
    }

    /// How much of one resource a namespace uses; `None` if it is not one that
    /// is counted here.
    fn usage(&self, namespace: &str, spec: &ResourceQuotaSpec, name: &str) -> Option<Amount> {
        let services = |keep: &dyn Fn(&str) -> bool| {
            let all = self.services.in_namespace(namespace);
            let kind = |service: &Service| {
                let spec = service.spec.as_ref();
                spec.and_then(|spec| spec.type_.clone())
                    .unwrap_or("ClusterIP".to_owned())
            };
            Amount::of(all.iter().filter(|service| keep(&kind(service))).count())
        };
        Some(match name {
            "services" | "count/services" => services(&|_| true),
            "services.loadbalancers" => services(&|kind| kind == "LoadBalancer"),
            "services.nodeports" => {
                let all = self.services.in_namespace(namespace);
                let ports = all
                    .iter()
                    .filter_map(|service| service.spec.as_ref())
                    .filter(|spec| {
                        matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"))
                    })
                    .flat_map(|spec| spec.ports.iter().flatten())
                    .filter(|port| port.node_port.is_some_and(|port| port != 0));
                Amount::of(ports.count())
            }
            "secrets" | "count/secrets" => Amount::of(self.secrets.in_namespace(namespace).len()),
            "configmaps" | "count/configmaps" => {
                Amount::of(self.config_maps.in_namespace(namespace).len())
            }
            "replicationcontrollers" | "count/replicationcontrollers" => {
                Amount::of(self.controllers.in_namespace(namespace).len())
            }
            "resourcequotas" | "count/resourcequotas" => {
                Amount::of(self.quotas.in_namespace(namespace).len())
            }
            "persistentvolumeclaims" | "count/persistentvolumeclaims" => {
                Amount::of(self.claims.in_namespace(namespace).len())
            }
            "count/deployments.apps" => Amount::of(self.deployments.in_namespace(namespace).len()),
            "count/replicasets.apps" => Amount::of(self.replica_sets.in_namespace(namespace).len()),
            "count/statefulsets.apps" => {
                Amount::of(self.stateful_sets.in_namespace(namespace).len())
            }
            "count/jobs.batch" => Amount::of(self.jobs.in_namespace(namespace).len()),
            "count/cronjobs.batch" => Amount::of(self.cron_jobs.in_namespace(namespace).len()),
            "requests.storage" => {
                let claims = self.claims.in_namespace(namespace);
                let sizes = claims.iter().filter_map(|claim| {
                    let resources = claim.spec.as_ref()?.resources.as_ref()?;
                    Amount::parse(&resources.requests.as_ref()?.get("storage")?.0)
                });
                sizes.fold(Amount::default(), Amount::plus)
            }
            "count/pods" => Amount::of(self.pods.in_namespace(namespace).len()),
            name => return self.pod_usage(namespace, spec, name),
        })
    }

    fn pod_usage(&self, namespace: &str, spec: &ResourceQuotaSpec, name: &str) -> Option<Amount> {
        let pods = self.pods.in_namespace(namespace);
        let counted = pods
            .iter()
            .filter(|pod| !is_finished(pod) && in_scopes(pod, spec));
        let (limits, resource) = match name {
            "pods" => return Some(Amount::of(counted.count())),
            "cpu" | "memory" | "ephemeral-storage" => (false, name),
            name => match (name.strip_prefix("requests."), name.strip_prefix("limits.")) {
                (Some(resource), _) => (false, resource),
                (_, Some(resource)) => (true, resource),
                _ => return None,
            },
        };
        Some(
            counted
                .map(|pod| asked(pod, resource, limits))
                .fold(Amount::default(), Amount::plus),
        )
    }
}

/// What a pod asks of one resource: its containers together, or its hungriest
/// init container.
fn asked(pod: &Pod, resource: &str, limits: bool) -> Amount {
    let Some(spec) = &pod.spec else {
        return Amount::default();
    };
    let of = |container: &k8s_openapi::api::core::v1::Container| {
        let resources = container.resources.as_ref()?;
        let list = if limits {
            resources.limits.as_ref()
        } else {
            resources.requests.as_ref()
        };
        Amount::parse(&list?.get(resource)?.0)
    };
    let sum = spec
        .containers
        .iter()
        .filter_map(of)
        .fold(Amount::default(), Amount::plus);
    let (sidecars, starting): (Vec<_>, Vec<_>) = spec
        .init_containers
        .iter()
        .flatten()
        .partition(|container| container.restart_policy.as_deref() == Some("Always"));
    let sidecars = sidecars
        .into_iter()
        .filter_map(of)
        .fold(Amount::default(), Amount::plus);
    let most = starting
        .into_iter()
        .filter_map(of)
        .max()
        .unwrap_or_default();
    sum.plus(sidecars).max(most.plus(sidecars))
}

fn in_scopes(pod: &Pod, quota: &ResourceQuotaSpec) -> bool {
    let plain = quota
        .scopes
        .iter()
        .flatten()
        .all(|scope| in_scope(pod, scope, None));
    let selected = quota
        .scope_selector
        .iter()
        .flat_map(|selector| selector.match_expressions.iter().flatten())
        .all(|wanted| in_scope(pod, &wanted.scope_name, Some(wanted)));
    plain && selected
}

fn in_scope(pod: &Pod, scope: &str, wanted: Option<&ScopedResourceSelectorRequirement>) -> bool {
    let spec = pod.spec.as_ref();
    let bounded = spec
        .and_then(|spec| spec.active_deadline_seconds)
        .is_some_and(|s| s >= 0);
    let status = pod.status.as_ref();
    let best_effort = match status.and_then(|status| status.qos_class.as_deref()) {
        Some(class) => class == "BestEffort",
        None => ["cpu", "memory"].iter().all(|resource| {
            asked(pod, resource, false) == Amount::default()
                && asked(pod, resource, true) == Amount::default()
        }),
    };
    match scope {
        "Terminating" => bounded,
        "NotTerminating" => !bounded,
        "BestEffort" => best_effort,
        "NotBestEffort" => !best_effort,
        "PriorityClass" => {
            let class = spec.and_then(|spec| spec.priority_class_name.as_ref());
            let among = |values: &Option<Vec<String>>| {
                class.is_some_and(|class| values.iter().flatten().any(|value| value == class))
            };
            match wanted {
                Some(wanted) => match wanted.operator.as_str() {
                    "In" => among(&wanted.values),
                    "NotIn" => !among(&wanted.values),
                    "Exists" => class.is_some(),
                    _ => class.is_none(),
                },
                None => class.is_some(),
            }
        }
        "CrossNamespacePodAffinity" => {
            let affinity = spec.and_then(|spec| spec.affinity.as_ref());
            let terms = affinity.into_iter().flat_map(|affinity| {
                let near = affinity.pod_affinity.iter().flat_map(|terms| {
                    terms
                        .required_during_scheduling_ignored_during_execution
                        .iter()
                        .flatten()
                });
                let far = affinity.pod_anti_affinity.iter().flat_map(|terms| {
                    terms
                        .required_during_scheduling_ignored_during_execution
                        .iter()
                        .flatten()
                });
                near.chain(far)
            });
            terms.into_iter().any(|term| {
                term.namespace_selector.is_some()
                    || term
                        .namespaces
                        .as_ref()
                        .is_some_and(|names| !names.is_empty())
            })
        }
        _ => false,
    }
}

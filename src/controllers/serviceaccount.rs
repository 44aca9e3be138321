//! A `default` ServiceAccount in every namespace.

use std::sync::Arc;

use client::api::PostParams;
use client::{Action, Api, NamespacedName};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::context::{Context, run};
use crate::error::{During, Result, is_already_exists, is_namespace_terminating, is_not_found};
use crate::namespace::is_active;

const NAME: &str = "service-account-controller";

pub(crate) fn register(context: &Context) {
    let client = context.client(NAME);
    let namespaces = context.informers.of::<Namespace>();
    let accounts = context.informers.of::<ServiceAccount>();
    let controller = context.controller(NAME);
    controller.watch(&namespaces, |namespace| vec![NamespacedName::of(namespace)]);
    controller.watch(&accounts, |account| {
        let namespace = account.metadata.namespace.clone().unwrap_or_default();
        match account.metadata.name.as_deref() {
            Some("default") => vec![NamespacedName::new("", namespace)],
            _ => Vec::new(),
        }
    });
    let state = Arc::new((client, namespaces, accounts));
    run(controller, 1, move |key| {
        let state = state.clone();
        async move {
            let (client, namespaces, accounts) = &*state;
            if !namespaces
                .get(&key)
                .is_some_and(|namespace| is_active(&namespace))
                || accounts
                    .get(&NamespacedName::new(&key.name, "default"))
                    .is_some()
            {
                return Ok(Action::Done);
            }
            let account = ServiceAccount {
                metadata: ObjectMeta {
                    name: Some("default".to_owned()),
                    namespace: Some(key.name.clone()),
                    ..ObjectMeta::default()
                },
                ..ServiceAccount::default()
            };
            let api = Api::<ServiceAccount>::namespaced(client.clone(), &key.name);
            settle(api.create(&PostParams::default(), &account).await)
                .during(|| format!("creating the default service account of {}", key.name))
        }
    });
}

/// What a create in every namespace may meet: someone was faster, or the
/// namespace is going.
pub(crate) fn settle<K>(outcome: Result<K, client::Error>) -> Result<Action, client::Error> {
    match outcome {
        Err(error)
            if !is_already_exists(&error)
                && !is_namespace_terminating(&error)
                && !is_not_found(&error) =>
        {
            Err(error)
        }
        _ => Ok(Action::Done),
    }
}

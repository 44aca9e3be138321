//! Publishes the cluster's CA certificate in every namespace, as the config
//! map `kube-root-ca.crt` that every pod's service account volume projects.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::api::PostParams;
use client::{Action, Api, NamespacedName};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::context::{Context, run};
use crate::error::During;
use crate::namespace::is_active;
use crate::serviceaccount::settle;

const NAME: &str = "root-ca-cert-publisher";
const CONFIG_MAP: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

pub(crate) fn register(context: &Context) {
    let client = context.client(NAME);
    let namespaces = context.informers.of::<Namespace>();
    let maps = context
        .informers
        .with_fields::<ConfigMap>("metadata.name=kube-root-ca.crt");
    let controller = context.controller(NAME);
    controller.watch(&namespaces, |namespace| vec![NamespacedName::of(namespace)]);
    controller.watch(&maps, |map| {
        vec![NamespacedName::new(
            "",
            map.metadata.namespace.clone().unwrap_or_default(),
        )]
    });
    let data = BTreeMap::from([("ca.crt".to_owned(), context.config.root_ca.clone())]);
    let state = Arc::new((client, namespaces, maps, data));
    run(controller, 1, move |key| {
        let state = state.clone();
        async move {
            let (client, namespaces, maps, data) = &*state;
            if !namespaces
                .get(&key)
                .is_some_and(|namespace| is_active(&namespace))
            {
                return Ok(Action::Done);
            }
            let api = Api::<ConfigMap>::namespaced(client.clone(), &key.name);
            let action = || format!("publishing the root CA in {}", key.name);
            match maps.get(&NamespacedName::new(&key.name, CONFIG_MAP)) {
                None => {
                    let map = published(ConfigMap::default(), &key.name, data);
                    settle(api.create(&PostParams::default(), &map).await).during(action)
                }
                Some(known) if is_published(&known, data) => Ok(Action::Done),
                Some(known) => {
                    let map = published((*known).clone(), &key.name, data);
                    settle(api.replace(CONFIG_MAP, &PostParams::default(), &map).await)
                        .during(action)
                }
            }
        }
    });
}

fn is_published(map: &ConfigMap, data: &BTreeMap<String, String>) -> bool {
    let annotations = map.metadata.annotations.as_ref();
    map.data.as_ref() == Some(data)
        && annotations
            .is_some_and(|annotations| annotations.contains_key("kubernetes.io/description"))
}

fn published(map: ConfigMap, namespace: &str, data: &BTreeMap<String, String>) -> ConfigMap {
    let mut annotations = map.metadata.annotations.unwrap_or_default();
    annotations.insert(
        "kubernetes.io/description".to_owned(),
        DESCRIPTION.to_owned(),
    );
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(CONFIG_MAP.to_owned()),
            namespace: Some(namespace.to_owned()),
            annotations: Some(annotations),
            ..map.metadata
        },
        data: Some(data.clone()),
        binary_data: None,
        immutable: map.immutable,
    }
}

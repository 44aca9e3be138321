//! Secrets of type `kubernetes.io/service-account-token`: filled with a token
//! that lasts as long as they do, and deleted with their ServiceAccount.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::api::{DeleteParams, PostParams, Preconditions};
use client::{Action, Api, Client, Informer, NamespacedName};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use serde_json::{Map, Value, json};

use crate::Credentials;
use crate::context::{Context, run};
use crate::error::{During, Error, Result, ignore_not_found, is_conflict, is_not_found};

const NAME: &str = "tokens-controller";
const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

pub(crate) fn register(context: &Context) {
    let Some(credentials) = context.config.credentials.clone() else {
        return;
    };
    let accounts = context.informers.of::<ServiceAccount>();
    let secrets = context
        .informers
        .with_fields::<Secret>(&format!("type={TYPE}"));
    let controller = context.controller(NAME);
    controller.watch(&secrets, |secret| vec![NamespacedName::of(secret)]);
    let known = secrets.clone();
    controller.watch(&accounts, move |account| {
        let namespace = account.metadata.namespace.as_deref().unwrap_or_default();
        known
            .in_namespace(namespace)
            .iter()
            .filter(|secret| annotation(secret, ACCOUNT) == account.metadata.name.as_deref())
            .map(|secret| NamespacedName::of(&**secret))
            .collect()
    });
    let state = Arc::new(State {
        client: context.client(NAME),
        secrets,
        credentials,
        root_ca: context.config.root_ca.clone(),
    });
    run(controller, 1, move |key| {
        let state = state.clone();
        async move { state.reconcile(&key).await }
    });
}

fn annotation<'a>(secret: &'a Secret, key: &str) -> Option<&'a str> {
    let annotations = secret.metadata.annotations.as_ref()?;
    annotations.get(key).map(String::as_str)
}

struct State {
    client: Client,
    secrets: Informer<Secret>,
    credentials: Arc<dyn Credentials>,
    root_ca: String,
}

impl State {
    async fn reconcile(&self, key: &NamespacedName) -> Result<Action> {
        let Some(secret) = self.secrets.get(key) else {
            return Ok(Action::Done);
        };
        let Some(name) = annotation(&secret, ACCOUNT).filter(|name| !name.is_empty()) else {
            return Ok(Action::Done);
        };
        if secret.metadata.deletion_timestamp.is_some() {
            return Ok(Action::Done);
        }
        // Asked of the server itself: an old copy would cost the secret.
        let account = Api::<ServiceAccount>::namespaced(self.client.clone(), &key.namespace)
            .get_opt(name)
            .await
            .during(|| format!("reading service account {}/{name}", key.namespace))?
            .filter(|account| {
                annotation(&secret, ACCOUNT_UID).is_none_or(|uid| {
                    uid.is_empty() || account.metadata.uid.as_deref() == Some(uid)
                })
            });
        let api = Api::<Secret>::namespaced(self.client.clone(), &key.namespace);
        let Some(account) = account else {
            let parameters = DeleteParams::default().preconditions(Preconditions {
                uid: secret.metadata.uid.clone(),
                resource_version: None,
            });
            return match ignore_not_found(api.delete(&key.name, &parameters).await) {
                // Another secret of the same name is not this one.
                Err(error) if is_conflict(&error) => Ok(Action::Done),
                outcome => outcome
                    .during(|| format!("deleting token {key}, whose service account is gone"))
                    .map(|()| Action::Done),
            };
        };
        let Some(filled) = self.fill(&secret, &account)? else {
            return Ok(Action::Done);
        };
        match api
            .replace(&key.name, &PostParams::default(), &filled)
            .await
        {
            Err(error) if !is_not_found(&error) => {
                Err(error).during(|| format!("filling in token {key}"))
            }
            _ => Ok(Action::Done),
        }
    }

    /// The secret with what it lacks; `None` if it lacks nothing.
    fn fill(&self, secret: &Secret, account: &ServiceAccount) -> Result<Option<Secret>> {
        let mut filled = secret.clone();
        let namespace = secret.metadata.namespace.clone().unwrap_or_default();
        let data = filled.data.get_or_insert_default();
        let lacks = |data: &BTreeMap<String, ByteString>, key: &str| {
            data.get(key).is_none_or(|value| value.0.is_empty())
        };
        let mut changed = false;
        if data
            .get("ca.crt")
            .is_none_or(|known| known.0 != self.root_ca.as_bytes())
        {
            data.insert(
                "ca.crt".to_owned(),
                ByteString(self.root_ca.clone().into_bytes()),
            );
            changed = true;
        }
        if lacks(data, "namespace") {
            data.insert("namespace".to_owned(), ByteString(namespace.into_bytes()));
            changed = true;
        }
        if lacks(data, "token") {
            let token = self
                .credentials
                .sign_token(&claims(secret, account))
                .map_err(|why| Error::Unmet(format!("signing a service account token: {why}")))?;
            data.insert("token".to_owned(), ByteString(token.into_bytes()));
            changed = true;
        }
        if !changed {
            return Ok(None);
        }
        let annotations = filled.metadata.annotations.get_or_insert_default();
        for (key, value) in [
            (ACCOUNT, &account.metadata.name),
            (ACCOUNT_UID, &account.metadata.uid),
        ] {
            annotations.insert(key.to_owned(), value.clone().unwrap_or_default());
        }
        Ok(Some(filled))
    }
}

/// The claims of a token that lives in a secret.
fn claims(secret: &Secret, account: &ServiceAccount) -> Map<String, Value> {
    let namespace = account.metadata.namespace.as_deref().unwrap_or_default();
    let name = account.metadata.name.as_deref().unwrap_or_default();
    let claims = json!({
        "iss": "kubernetes/serviceaccount",
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
        "kubernetes.io/serviceaccount/namespace": namespace,
        "kubernetes.io/serviceaccount/secret.name": secret.metadata.name,
        "kubernetes.io/serviceaccount/service-account.name": name,
        "kubernetes.io/serviceaccount/service-account.uid": account.metadata.uid,
    });
    match claims {
        Value::Object(claims) => claims,
        _ => Map::new(),
    }
}

//! `ServiceAccount`: every pod runs as one, with its token mounted.

use std::sync::Arc;
use std::time::Duration;

use api::{GroupResource, Reason, Status};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Operation, Plugin, Reader, Review, is_core};

/// Where a container finds its token.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// How long the default service account of a fresh namespace is waited for.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Letters of generated names, as upstream draws them.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// A pod that mirrors one of the node's own.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Restricts a service account's pods to the secrets it lists.
const ENFORCE: &str = "kubernetes.io/enforce-mountable-secrets";

/// The plugin.
#[derive(Debug, Default)]
pub struct ServiceAccount;

#[async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, subresource: &str) -> bool {
        is_core(resource, "pods")
            && matches!(
                (operation, subresource),
                (Operation::Create, "") | (Operation::Update, "ephemeralcontainers")
            )
    }

    async fn mutate(
        &self,
        review: &mut Review<'_>,
        reader: &dyn Reader,
    ) -> Result<Vec<String>, Status> {
        if review.operation == Operation::Update {
            return Ok(Vec::new());
        }
        if review.object["metadata"]["annotations"]
            .get(MIRROR)
            .is_some()
        {
            check_mirror(review)?;
            return Ok(Vec::new());
        }
        let given = review.object["spec"]["serviceAccountName"]
            .as_str()
            .unwrap_or("");
        let name = if given.is_empty() { "default" } else { given }.to_owned();
        let account = find(reader, review.namespace, &name).await?.ok_or_else(|| {
            let namespace = review.namespace;
            review.forbidden(&format!(
                "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
            ))
        })?;
        let spec = &mut review.object["spec"];
        spec["serviceAccountName"] = name.clone().into();
        spec["serviceAccount"] = name.clone().into();
        let automount = spec["automountServiceAccountToken"]
            .as_bool()
            .or_else(|| account["automountServiceAccountToken"].as_bool())
            .unwrap_or(true);
        if automount {
            mount_token(spec);
        }
        if spec["imagePullSecrets"]
            .as_array()
            .is_none_or(Vec::is_empty)
            && let Some(secrets) = account["imagePullSecrets"]
                .as_array()
                .filter(|list| !list.is_empty())
        {
            spec["imagePullSecrets"] = json!(secrets);
        }
        if enforces(&account) {
            check_secrets(review, &account, &name)?;
        }
        Ok(Vec::new())
    }

    async fn validate(
        &self,
        review: &Review<'_>,
        reader: &dyn Reader,
    ) -> Result<Vec<String>, Status> {
        if review.operation != Operation::Update {
            return Ok(Vec::new());
        }
        // A container that is added later sees no more secrets than the others.
        let spec = &review.object["spec"];
        let name = spec["serviceAccountName"].as_str().unwrap_or("");
        let namespace = review.namespace;
        if name.is_empty() {
            return Err(review.forbidden(&format!(
                "no service account specified for pod {namespace}/{}",
                review.object_name()
            )));
        }
        let account = find(reader, namespace, name).await?.ok_or_else(|| {
            review.forbidden(&format!(
                "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
            ))
        })?;
        if !enforces(&account) {
            return Ok(Vec::new());
        }
        for (secret, what) in container_secrets(spec, "ephemeralContainers", "ephemeral container")
        {
            if !lists(&account, "secrets", &secret) {
                return Err(Status {
                    code: 500,
                    ..Status::new(
                        Reason::Unknown,
                        format!(
                            "{what} is not allowed because service account {name} does not reference that secret"
                        ),
                    )
                });
            }
        }
        Ok(Vec::new())
    }
}

/// Whether an account's pods are held to the secrets it lists.
fn enforces(account: &Value) -> bool {
    account["metadata"]["annotations"][ENFORCE]
        .as_str()
        .is_some_and(is_true)
}

/// Whether an account names a secret in one of its lists.
fn lists(account: &Value, list: &str, wanted: &str) -> bool {
    account[list]
        .as_array()
        .is_some_and(|items| items.iter().any(|item| item["name"] == wanted))
}

/// The account; the default one is waited for, because a controller makes it
/// right after its namespace.
async fn find(
    reader: &dyn Reader,
    namespace: &str,
    name: &str,
) -> Result<Option<Arc<Value>>, Status> {
    let resource = GroupResource {
        group: String::new(),
        resource: "serviceaccounts".into(),
    };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut delay = Duration::from_millis(2);
    loop {
        let account = reader.get(&resource, namespace, name, true).await?;
        if account.is_some() || name != "default" || tokio::time::Instant::now() >= deadline {
            return Ok(account);
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(Duration::from_millis(100));
    }
}

/// Adds the projected token volume, and its mount to every container that
/// mounts nothing at its path.
fn mount_token(spec: &mut Value) {
    let existing = spec["volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .find_map(|volume| {
            let name = volume["name"].as_str()?;
            name.starts_with("kube-api-access-")
                .then(|| name.to_owned())
        });
    let known = existing.is_some();
    let name = existing.unwrap_or_else(|| {
        let suffix: String = (0..5)
            .map(|_| char::from(LETTERS[fastrand::usize(..LETTERS.len())]))
            .collect();
        format!("kube-api-access-{suffix}")
    });
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let has = container["volumeMounts"]
                .as_array()
                .is_some_and(|mounts| mounts.iter().any(|mount| mount["mountPath"] == MOUNT_PATH));
            if has {
                continue;
            }
            mounted = true;
            let mount = json!({ "name": name, "readOnly": true, "mountPath": MOUNT_PATH });
            push(container, "volumeMounts", mount);
        }
    }
    if mounted && !known {
        push(
            spec,
            "volumes",
            json!({
                "name": name,
                "projected": {
                    "defaultMode": 0o644,
                    "sources": [
                        { "serviceAccountToken": { "expirationSeconds": 3607, "path": "token" } },
                        { "configMap": {
                            "name": "kube-root-ca.crt",
                            "items": [{ "key": "ca.crt", "path": "ca.crt" }],
                        } },
                        { "downwardAPI": { "items": [{
                            "path": "namespace",
                            "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" },
                        }] } },
                    ],
                },
            }),
        );
    }
}

fn push(object: &mut Value, list: &str, item: Value) {
    match object[list].as_array_mut() {
        Some(items) => items.push(item),
        None => object[list] = json!([item]),
    }
}

fn check_mirror(review: &Review<'_>) -> Result<(), Status> {
    let spec = &review.object["spec"];
    if spec["serviceAccountName"]
        .as_str()
        .is_some_and(|name| !name.is_empty())
    {
        return Err(review.forbidden("a mirror pod may not reference service accounts"));
    }
    if !secrets(spec).is_empty() {
        return Err(review.forbidden("a mirror pod may not reference secrets"));
    }
    let projects_token = spec["volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|volume| {
            volume["projected"]["sources"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|source| source.get("serviceAccountToken").is_some())
        });
    if projects_token {
        return Err(
            review.forbidden("a mirror pod may not use ServiceAccountToken volume projections")
        );
    }
    Ok(())
}

/// Every secret a pod names, with the words upstream refuses it in.
fn secrets(spec: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        if let Some(name) = volume["secret"]["secretName"].as_str() {
            found.push((
                name.to_owned(),
                format!("volume with secret.secretName=\"{name}\""),
            ));
        }
    }
    found.extend(container_secrets(spec, "initContainers", "init container"));
    found.extend(container_secrets(spec, "containers", "container"));
    found
}

/// The same of one list of containers.
fn container_secrets(spec: &Value, list: &str, what: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for container in spec[list].as_array().into_iter().flatten() {
        let own = container["name"].as_str().unwrap_or("");
        for env in container["env"].as_array().into_iter().flatten() {
            if let Some(name) = env["valueFrom"]["secretKeyRef"]["name"].as_str() {
                let variable = env["name"].as_str().unwrap_or("");
                found.push((
                    name.to_owned(),
                    format!(
                        "{what} {own} with envVar {variable} referencing secret.secretName=\"{name}\""
                    ),
                ));
            }
        }
        for from in container["envFrom"].as_array().into_iter().flatten() {
            if let Some(name) = from["secretRef"]["name"].as_str() {
                found.push((
                    name.to_owned(),
                    format!("{what} {own} with envFrom referencing secret.secretName=\"{name}\""),
                ));
            }
        }
    }
    found
}

fn check_secrets(review: &Review<'_>, account: &Value, name: &str) -> Result<(), Status> {
    for (secret, what) in secrets(&review.object["spec"]) {
        if !lists(account, "secrets", &secret) {
            return Err(review.forbidden(&format!(
                "{what} is not allowed because service account {name} does not reference that secret"
            )));
        }
    }
    let pull = review.object["spec"]["imagePullSecrets"]
        .as_array()
        .into_iter()
        .flatten();
    for (index, secret) in pull.enumerate() {
        let secret = secret["name"].as_str().unwrap_or("");
        if !lists(account, "imagePullSecrets", secret) {
            return Err(review.forbidden(&format!(
                "imagePullSecrets[{index}].name=\"{secret}\" is not allowed because service account {name} does not reference that imagePullSecret"
            )));
        }
    }
    Ok(())
}

/// What Go's `strconv.ParseBool` takes for true.
fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_mounted_where_nothing_else_is() {
        let mut spec = json!({ "containers": [
            { "name": "a" },
            { "name": "b", "volumeMounts": [{ "name": "own", "mountPath": MOUNT_PATH }] },
        ]});
        mount_token(&mut spec);
        let volume = spec["volumes"][0]["name"].clone();
        assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], volume);
        assert_eq!(
            spec["containers"][1]["volumeMounts"]
                .as_array()
                .map(Vec::len),
            Some(1)
        );
        let once = spec.clone();
        mount_token(&mut spec);
        assert_eq!(spec, once);
    }
}

//! Service account tokens bound to pods, renewed before they expire.

use std::collections::HashMap;
use std::time::Duration;

use client::Client;
use client::api::{Api, PostParams};
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::pod::{name, namespace, spec, uid};

const DEFAULT_LIFETIME: i64 = 3600;
/// A token is never used longer than this before it is renewed.
const LONGEST_USE: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone, Debug)]
struct Cached {
    token: String,
    refresh_at: Instant,
}

/// Tokens of one pod by volume and path.
#[derive(Debug, Default)]
pub(crate) struct Tokens(Mutex<HashMap<(String, String), Cached>>);

impl Tokens {
    /// A token that is good, and when to ask again.
    pub(crate) async fn get(
        &self,
        client: &Client,
        pod: &Pod,
        volume: &str,
        source: &ServiceAccountTokenProjection,
    ) -> Result<(String, Instant), String> {
        let key = (volume.to_owned(), source.path.clone());
        let cached = self.0.lock().get(&key).cloned();
        if let Some(cached) = cached.filter(|cached| cached.refresh_at > Instant::now()) {
            return Ok((cached.token, cached.refresh_at));
        }
        let (token, lifetime) = request(client, pod, source).await?;
        let refresh_at = Instant::now() + refresh_after(lifetime);
        self.0.lock().insert(
            key,
            Cached {
                token: token.clone(),
                refresh_at,
            },
        );
        Ok((token, refresh_at))
    }
}

/// Eighty per cent of the life of a token, a day at most.
fn refresh_after(lifetime: Duration) -> Duration {
    lifetime
        .mul_f64(0.8)
        .min(LONGEST_USE)
        .max(Duration::from_secs(1))
}

async fn request(
    client: &Client,
    pod: &Pod,
    source: &ServiceAccountTokenProjection,
) -> Result<(String, Duration), String> {
    let account = spec(pod)
        .service_account_name
        .as_deref()
        .filter(|name| !name.is_empty());
    let account = account.unwrap_or("default");
    let audience = source
        .audience
        .clone()
        .filter(|audience| !audience.is_empty());
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: Some(audience.into_iter().collect()),
            expiration_seconds: Some(source.expiration_seconds.unwrap_or(DEFAULT_LIFETIME)),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(name(pod).into()),
                uid: Some(uid(pod).into()),
            }),
        }),
        ..Default::default()
    };
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace(pod));
    let answer = api
        .create_subresource::<_, TokenRequest>("token", account, &PostParams::default(), &request)
        .await
        .map_err(|error| format!("failed to fetch token: {}", base::Chain(&error)))?;
    let status = answer
        .status
        .ok_or("failed to fetch token: the answer has no status")?;
    let token = status
        .token
        .ok_or("failed to fetch token: the answer has no token")?;
    let expires = status.expiration_timestamp.map_or(0, |at| at.0.as_second());
    let left = expires - Timestamp::now().as_second();
    Ok((token, Duration::from_secs(u64::try_from(left).unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renews_in_time() {
        let check = |lifetime, want| {
            assert_eq!(
                refresh_after(Duration::from_secs(lifetime)),
                Duration::from_secs(want)
            );
        };
        check(600, 480);
        check(365 * 24 * 3600, 24 * 3600);
        check(0, 1);
    }
}

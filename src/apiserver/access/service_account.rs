//! Service-account tokens: issued by `serviceaccounts/token`, recognised on requests.
//!
//! A token is bound to its ServiceAccount by uid and, if asked for, to a Pod,
//! Secret or Node; it ends with whatever it is bound to.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{FieldError, GroupKind, GroupResource, Path, Status};
use async_trait::async_trait;
use base64::Engine;
use jiff::Timestamp;
use pki::{Claims, TokenKey};
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::token::bearer;
use super::{Authenticator, InvalidCredential, User};
use crate::admission::Reader;

/// Issuer of tokens that live in secrets.
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
/// Lifetime of a token that does not ask for one, in seconds.
const DEFAULT_EXPIRATION: i64 = 3600;
/// Shortest lifetime, in seconds.
const MIN_EXPIRATION: i64 = 600;
/// Longest lifetime, in seconds.
const MAX_EXPIRATION: i64 = 1 << 32;
/// A pod's projected token asks for this lifetime; it is warned about after
/// it and refused only after [`EXTENDED_EXPIRATION`], for clients that never
/// read the file again.
const WARN_ONLY_EXPIRATION: i64 = 3607;
/// One year.
const EXTENDED_EXPIRATION: i64 = 365 * 24 * 3600;
/// Clocks may differ by this much, in seconds.
const LEEWAY: i64 = 60;

/// Issues and recognises service-account tokens.
pub struct ServiceAccountTokens {
    key: Arc<TokenKey>,
    issuer: String,
    audiences: Vec<String>,
    reader: Arc<dyn Reader>,
}

/// The user of a token and which of the wanted audiences it is for.
pub(crate) struct Verified {
    pub(crate) user: User,
    pub(crate) audiences: Vec<String>,
}

impl ServiceAccountTokens {
    /// Tokens signed by `key` in the name of `issuer`, which is also the
    /// audience they are for unless they ask for another.
    pub fn new(key: Arc<TokenKey>, issuer: impl Into<String>, reader: Arc<dyn Reader>) -> Self {
        let issuer = issuer.into();
        Self {
            key,
            audiences: vec![issuer.clone()],
            issuer,
            reader,
        }
    }

    /// The OpenID provider configuration (`/.well-known/openid-configuration`).
    pub fn openid_configuration(&self) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": format!("{}/openid/v1/jwks", self.issuer),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    /// The keys that verify tokens (`/openid/v1/jwks`).
    pub fn jwks(&self) -> Value {
        self.key.jwks()
    }

    /// Answers a `TokenRequest` for the service account `name`.
    pub(crate) async fn issue(
        &self,
        namespace: &str,
        name: &str,
        mut request: Value,
    ) -> Result<Value, Status> {
        let resource = core("serviceaccounts");
        let account = self
            .reader
            .get(&resource, namespace, name, true)
            .await?
            .ok_or_else(|| Status::not_found(&resource, name))?;
        self.check_metadata(&request, &account, namespace, name)?;
        let spec = &mut request["spec"];
        if spec["audiences"].as_array().is_none_or(Vec::is_empty) {
            spec["audiences"] = json!(self.audiences);
        }
        if spec["expirationSeconds"].is_null() {
            spec["expirationSeconds"] = DEFAULT_EXPIRATION.into();
        }
        let seconds = spec["expirationSeconds"].as_i64().unwrap_or(0);
        let path = Path::new("spec").child("expirationSeconds");
        let why = if seconds < MIN_EXPIRATION {
            "may not specify a duration less than 10 minutes"
        } else if seconds > MAX_EXPIRATION {
            "may not specify a duration larger than 2^32 seconds"
        } else {
            ""
        };
        if !why.is_empty() {
            return Err(Status::invalid(
                &token_request(),
                "",
                &[FieldError::invalid(&path, seconds, why)],
            ));
        }
        let bound = self
            .bound(namespace, name, &request["spec"]["boundObjectRef"])
            .await?;
        let now = Timestamp::now().as_second();
        let audiences = request["spec"]["audiences"].clone();
        let for_us = audiences.as_array().is_some_and(|list| {
            list.iter()
                .all(|item| self.audiences.iter().any(|own| item == own))
        });
        let extend = seconds == WARN_ONLY_EXPIRATION && for_us && bound.contains_key("pod");
        let mut kubernetes = json!({
            "namespace": namespace,
            "serviceaccount": { "name": name, "uid": account["metadata"]["uid"] },
        });
        for (kind, reference) in bound {
            kubernetes[kind] = reference;
        }
        if extend {
            kubernetes["warnafter"] = (now + seconds).into();
        }
        let claims = json!({
            "aud": audiences,
            "exp": now + if extend { EXTENDED_EXPIRATION } else { seconds },
            "iat": now,
            "nbf": now,
            "iss": self.issuer,
            "jti": uuid::Uuid::new_v4().to_string(),
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
            "kubernetes.io": kubernetes,
        });
        let Value::Object(claims) = claims else {
            unreachable!("written as an object above")
        };
        let token = self.key.sign(&claims).map_err(Status::internal)?;
        let at = |second| {
            Timestamp::from_second(second)
                .map(base::time::rfc3339)
                .map_err(Status::internal)
        };
        let meta = &mut request["metadata"];
        meta["name"] = name.into();
        meta["namespace"] = namespace.into();
        meta["uid"] = account["metadata"]["uid"].clone();
        meta["creationTimestamp"] = at(now)?.into();
        request["kind"] = "TokenRequest".into();
        request["apiVersion"] = "authentication.k8s.io/v1".into();
        request["status"] = json!({ "token": token, "expirationTimestamp": at(now + seconds)? });
        Ok(request)
    }

    fn check_metadata(
        &self,
        request: &Value,
        account: &Value,
        namespace: &str,
        name: &str,
    ) -> Result<(), Status> {
        let meta = &request["metadata"];
        for (field, expected, why) in [
            (
                "name",
                name,
                "must match the service account name if specified",
            ),
            (
                "namespace",
                namespace,
                "must match the service account namespace if specified",
            ),
        ] {
            let given = text(&meta[field]);
            if !given.is_empty() && given != expected {
                let error = FieldError::invalid(&Path::new("metadata").child(field), given, why);
                return Err(Status::invalid(&token_request(), name, &[error]));
            }
        }
        let (given, actual) = (text(&meta["uid"]), text(&account["metadata"]["uid"]));
        if !given.is_empty() && given != actual {
            let resource = GroupResource {
                group: "authentication.k8s.io".into(),
                resource: "TokenRequest".into(),
            };
            return Err(Status::conflict(
                &resource,
                name,
                &format!(
                    "the UID in the token request ({given}) does not match the UID of the service account ({actual})"
                ),
            ));
        }
        Ok(())
    }

    /// The claims of what a token is bound to.
    async fn bound(
        &self,
        namespace: &str,
        account: &str,
        reference: &Value,
    ) -> Result<BTreeMap<&'static str, Value>, Status> {
        let mut claims = BTreeMap::new();
        if reference.is_null() {
            return Ok(claims);
        }
        let (api_version, kind, name) = (
            text(&reference["apiVersion"]),
            text(&reference["kind"]),
            text(&reference["name"]),
        );
        let (resource, claim, namespace) = match (api_version, kind) {
            ("v1", "Pod") => (core("pods"), "pod", namespace),
            ("v1", "Secret") => (core("secrets"), "secret", namespace),
            ("v1", "Node") => (core("nodes"), "node", ""),
            _ => {
                let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
                return Err(Status::bad_request(format!(
                    "cannot bind token to object of type {group}/{version}, Kind={kind}"
                )));
            }
        };
        let object = self
            .reader
            .get(&resource, namespace, name, true)
            .await?
            .ok_or_else(|| Status::not_found(&resource, name))?;
        if claim == "pod" {
            if text(&object["spec"]["serviceAccountName"]) != account {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
                )));
            }
            let node = text(&object["spec"]["nodeName"]);
            if !node.is_empty() {
                let mut node_claim = json!({ "name": node });
                if let Some(object) = self.reader.get(&core("nodes"), "", node, false).await? {
                    node_claim["uid"] = object["metadata"]["uid"].clone();
                }
                claims.insert("node", node_claim);
            }
        }
        let (wanted, actual) = (text(&reference["uid"]), text(&object["metadata"]["uid"]));
        if !wanted.is_empty() && wanted != actual {
            let resource = GroupResource {
                group: String::new(),
                resource: kind.into(),
            };
            return Err(Status::conflict(
                &resource,
                name,
                &format!(
                    "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
                ),
            ));
        }
        claims.insert(claim, json!({ "name": name, "uid": actual }));
        Ok(claims)
    }

    /// Checks a token whole. `None` if it is no token of this issuer.
    pub(crate) async fn verify(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<Verified>, InvalidCredential> {
        let claims = match self.key.verify(token) {
            Ok(claims) => claims,
            Err(pki::TokenError::Malformed) => return Ok(None),
            Err(error) => return Err(InvalidCredential(error.to_string())),
        };
        if text_of(&claims, "iss") == LEGACY_ISSUER {
            return self
                .verify_legacy(token, &claims, audiences)
                .await
                .map(Some);
        }
        if text_of(&claims, "iss") != self.issuer {
            return Ok(None);
        }
        let invalid = |why: &str| InvalidCredential(why.to_owned());
        let now = Timestamp::now().as_second();
        let time = |name: &str| claims.get(name).and_then(Value::as_i64);
        if time("exp").is_none_or(|at| now > at + LEEWAY) {
            return Err(invalid("service account token has expired"));
        }
        if time("nbf").is_some_and(|at| now + LEEWAY < at) {
            return Err(invalid("service account token is not valid yet"));
        }
        let wanted = if audiences.is_empty() {
            &self.audiences
        } else {
            audiences
        };
        let token_audiences: Vec<&str> = match claims.get("aud") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let matched: Vec<String> = wanted
            .iter()
            .filter(|item| token_audiences.contains(&item.as_str()))
            .cloned()
            .collect();
        if matched.is_empty() {
            return Err(InvalidCredential(format!(
                "token audiences {token_audiences:?} is invalid for the target audiences {wanted:?}"
            )));
        }
        let user = self.user(&claims).await?;
        Ok(Some(Verified {
            user,
            audiences: matched,
        }))
    }

    /// Checks a token that lives in a secret: it holds as long as the secret does.
    async fn verify_legacy(
        &self,
        token: &str,
        claims: &Claims,
        audiences: &[String],
    ) -> Result<Verified, InvalidCredential> {
        let invalid = |why: &str| InvalidCredential(why.to_owned());
        let claim = |name: &str| text_of(claims, &format!("kubernetes.io/serviceaccount/{name}"));
        let (namespace, secret) = (claim("namespace"), claim("secret.name"));
        let (name, uid) = (claim("service-account.name"), claim("service-account.uid"));
        for (value, missing) in [
            (namespace, "namespace claim is missing"),
            (secret, "secretName claim is missing"),
            (name, "serviceAccountName claim is missing"),
            (uid, "serviceAccountUID claim is missing"),
        ] {
            if value.is_empty() {
                return Err(invalid(missing));
            }
        }
        if text_of(claims, "sub") != format!("system:serviceaccount:{namespace}:{name}") {
            return Err(invalid("sub claim is invalid"));
        }
        // Such tokens are for nobody else.
        let matched: Vec<String> = if audiences.is_empty() {
            self.audiences.clone()
        } else {
            let ours = |wanted: &&String| self.audiences.contains(wanted);
            audiences.iter().filter(ours).cloned().collect()
        };
        if matched.is_empty() {
            return Err(InvalidCredential(format!(
                "token audiences {:?} is invalid for the target audiences {audiences:?}",
                self.audiences
            )));
        }
        let stored = self
            .reader
            .get(&core("secrets"), namespace, secret, true)
            .await
            .map_err(|error| InvalidCredential(error.to_string()))?
            .filter(|stored| stored["metadata"]["deletionTimestamp"].is_null())
            .ok_or_else(|| invalid("Token has been invalidated"))?;
        let copy = base64::engine::general_purpose::STANDARD
            .decode(text(&stored["data"]["token"]))
            .unwrap_or_default();
        if Sha256::digest(&copy) != Sha256::digest(token.as_bytes()) {
            return Err(invalid("Token does not match server's copy"));
        }
        if !stored["metadata"]["labels"]["kubernetes.io/legacy-token-invalid-since"].is_null() {
            return Err(InvalidCredential(format!(
                "the token in secret {namespace}/{secret} for service account {namespace}/{name} \
                 has been marked invalid"
            )));
        }
        let account = json!({ "name": name, "uid": uid });
        self.stands("serviceaccounts", namespace, &account).await?;
        Ok(Verified {
            user: account_user(namespace, name, uid, BTreeMap::new()),
            audiences: matched,
        })
    }

    /// The user of verified claims, if everything it is bound to still stands.
    async fn user(&self, claims: &Claims) -> Result<User, InvalidCredential> {
        let own = claims.get("kubernetes.io").cloned().unwrap_or_default();
        let namespace = text(&own["namespace"]);
        let account = &own["serviceaccount"];
        let name = text(&account["name"]);
        if namespace.is_empty() || name.is_empty() {
            return Err(InvalidCredential("token names no service account".into()));
        }
        self.stands("serviceaccounts", namespace, account).await?;
        let mut extra = BTreeMap::new();
        let mut add = |key: &str, value: &str| {
            extra.insert(
                format!("authentication.kubernetes.io/{key}"),
                vec![value.to_owned()],
            );
        };
        if !own["secret"].is_null() {
            self.stands("secrets", namespace, &own["secret"]).await?;
        }
        let node = &own["node"];
        if !own["pod"].is_null() {
            self.stands("pods", namespace, &own["pod"]).await?;
            add("pod-name", text(&own["pod"]["name"]));
            add("pod-uid", text(&own["pod"]["uid"]));
        } else if !node.is_null() {
            self.stands("nodes", "", node).await?;
        }
        if !node.is_null() {
            add("node-name", text(&node["name"]));
            if !text(&node["uid"]).is_empty() {
                add("node-uid", text(&node["uid"]));
            }
        }
        let id = text_of(claims, "jti");
        if !id.is_empty() {
            add("credential-id", &format!("JTI={id}"));
        }
        Ok(account_user(namespace, name, text(&account["uid"]), extra))
    }

    /// Fails unless the object of a claim exists with the claim's uid.
    async fn stands(
        &self,
        resource: &str,
        namespace: &str,
        claim: &Value,
    ) -> Result<(), InvalidCredential> {
        let name = text(&claim["name"]);
        let gone = |why: String| InvalidCredential(format!("{resource} {namespace}/{name}: {why}"));
        // What this server has not seen yet may have been made a moment ago:
        // only then is the store asked.
        let mut object = None;
        for fresh in [false, true] {
            object = self
                .reader
                .get(&core(resource), namespace, name, fresh)
                .await
                .map_err(|error| gone(error.to_string()))?;
            if object
                .as_ref()
                .is_some_and(|object| object["metadata"]["uid"] == claim["uid"])
            {
                break;
            }
        }
        let object =
            object.ok_or_else(|| gone("service account token has been invalidated".into()))?;
        if object["metadata"]["uid"] != claim["uid"] {
            return Err(gone("the uid does not match the token's claim".into()));
        }
        let deleted = text(&object["metadata"]["deletionTimestamp"])
            .parse::<Timestamp>()
            .ok();
        if deleted.is_some_and(|at| at.as_second() < Timestamp::now().as_second() - LEEWAY) {
            return Err(gone("service account token has been invalidated".into()));
        }
        Ok(())
    }
}

#[async_trait]
impl Authenticator for ServiceAccountTokens {
    async fn authenticate(
        &self,
        request: &http::request::Parts,
        _peer: &[CertificateDer<'static>],
    ) -> Result<Option<User>, InvalidCredential> {
        match bearer(request) {
            Some(token) => Ok(self.verify(token, &[]).await?.map(|verified| verified.user)),
            None => Ok(None),
        }
    }
}

fn account_user(
    namespace: &str,
    name: &str,
    uid: &str,
    extra: BTreeMap<String, Vec<String>>,
) -> User {
    User {
        name: format!("system:serviceaccount:{namespace}:{name}"),
        uid: uid.to_owned(),
        groups: vec![
            "system:serviceaccounts".into(),
            format!("system:serviceaccounts:{namespace}"),
        ],
        extra,
    }
}

fn core(resource: &str) -> GroupResource {
    GroupResource {
        group: String::new(),
        resource: resource.into(),
    }
}

fn token_request() -> GroupKind {
    GroupKind {
        group: "authentication.k8s.io".into(),
        kind: "TokenRequest".into(),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

fn text_of<'a>(claims: &'a Claims, name: &str) -> &'a str {
    claims.get(name).and_then(Value::as_str).unwrap_or("")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use parking_lot::Mutex;

    /// Objects by `resource/namespace/name`.
    #[derive(Default)]
    struct Fake(Mutex<BTreeMap<String, Value>>);

    impl Fake {
        fn put(&self, resource: &str, namespace: &str, object: Value) {
            let key = format!(
                "{resource}/{namespace}/{}",
                text(&object["metadata"]["name"])
            );
            self.0.lock().insert(key, object);
        }
    }

    #[async_trait]
    impl Reader for Fake {
        async fn get(
            &self,
            resource: &GroupResource,
            namespace: &str,
            name: &str,
            _fresh: bool,
        ) -> Result<Option<Arc<Value>>, Status> {
            let key = format!("{}/{namespace}/{name}", resource.resource);
            Ok(self.0.lock().get(&key).cloned().map(Arc::new))
        }

        async fn list(&self, _: &GroupResource, _: &str) -> Result<Vec<Arc<Value>>, Status> {
            Ok(Vec::new())
        }

        async fn generation(&self, _: &GroupResource) -> Result<u64, Status> {
            Ok(0)
        }
    }

    fn tokens() -> (Arc<Fake>, ServiceAccountTokens) {
        let fake = Arc::new(Fake::default());
        fake.put(
            "serviceaccounts",
            "ns",
            json!({ "metadata": { "name": "sa", "uid": "u1" } }),
        );
        fake.put(
            "pods",
            "ns",
            json!({
                "metadata": { "name": "p", "uid": "u2" },
                "spec": { "serviceAccountName": "sa", "nodeName": "n" },
            }),
        );
        let (key, _) = TokenKey::generate().unwrap();
        let tokens = ServiceAccountTokens::new(Arc::new(key), "https://issuer", fake.clone());
        (fake, tokens)
    }

    #[tokio::test]
    async fn a_token_ends_with_what_it_is_bound_to() {
        let (fake, tokens) = tokens();
        let request = json!({ "spec": {
            "audiences": [],
            "expirationSeconds": 3607,
            "boundObjectRef": { "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u2" },
        }});
        let answer = tokens.issue("ns", "sa", request).await.unwrap();
        let token = text(&answer["status"]["token"]);
        let user = tokens.verify(token, &[]).await.unwrap().unwrap().user;
        assert_eq!(user.name, "system:serviceaccount:ns:sa");
        assert_eq!(
            user.groups,
            ["system:serviceaccounts", "system:serviceaccounts:ns"]
        );
        assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["p"]);
        assert_eq!(user.extra["authentication.kubernetes.io/node-name"], ["n"]);
        let other = tokens
            .verify(token, &["else".to_owned()])
            .await
            .err()
            .unwrap()
            .to_string();
        assert!(other.contains("audiences"), "{other}");
        fake.put(
            "pods",
            "ns",
            json!({ "metadata": { "name": "p", "uid": "another" } }),
        );
        assert!(tokens.verify(token, &[]).await.is_err());
    }

    #[tokio::test]
    async fn requests_are_checked() {
        let (_, tokens) = tokens();
        for (request, message) in [
            (
                json!({ "spec": { "expirationSeconds": 5 } }),
                "less than 10 minutes",
            ),
            (
                json!({ "metadata": { "name": "x" }, "spec": {} }),
                "must match the service account name",
            ),
            (
                json!({ "spec": { "boundObjectRef": { "kind": "Pod", "apiVersion": "v1", "name": "q" } } }),
                "\"q\" not found",
            ),
            (
                json!({ "spec": { "boundObjectRef": { "kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "z" } } }),
                "does not match the UID in record",
            ),
        ] {
            let error = tokens
                .issue("ns", "sa", request)
                .await
                .unwrap_err()
                .to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}

//! Who may call the node API: asked of the API server, as upstream's kubelet
//! does with webhook authentication and authorisation.
//!
//! Client certificates are read here (TLS has verified them); bearer tokens go
//! into a `TokenReview`, and what the user wants into a `SubjectAccessReview`.

use apiserver::access::{Authenticator, ClientCertificates, MASTERS, User};
use async_trait::async_trait;
use client::Client;
use kubelet::{Denied, NodeAuth, NodeRequest};
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};

/// Asks the cluster.
pub(crate) struct ClusterAuth {
    client: Client,
}

impl ClusterAuth {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    async fn post(&self, path: &str, review: &Value) -> Result<Value, String> {
        let body = serde_json::to_vec(review).map_err(|error| error.to_string())?;
        let request = http::Request::post(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|error| error.to_string())?;
        self.client
            .request(request)
            .await
            .map_err(|error| base::Chain(&error).to_string())
    }

    async fn user(
        &self,
        certificates: &[CertificateDer<'static>],
        bearer: Option<&str>,
    ) -> Result<User, Denied> {
        let (parts, ()) = http::Request::new(()).into_parts();
        if let Ok(Some(user)) = ClientCertificates.authenticate(&parts, certificates).await {
            return Ok(user);
        }
        let token = bearer.ok_or(Denied::Unauthorized)?;
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": { "token": token },
        });
        let answer = self
            .post("/apis/authentication.k8s.io/v1/tokenreviews", &review)
            .await
            .map_err(|error| {
                tracing::warn!(error, "a token of the node API could not be reviewed");
                Denied::Unauthorized
            })?;
        let status = &answer["status"];
        if status["authenticated"] != true {
            return Err(Denied::Unauthorized);
        }
        let name = status["user"]["username"].as_str().unwrap_or("");
        let groups: Vec<&str> = status["user"]["groups"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        Ok(User::new(name, &groups))
    }
}

#[async_trait]
impl NodeAuth for ClusterAuth {
    async fn authorize(
        &self,
        certificates: &[CertificateDer<'static>],
        bearer: Option<&str>,
        request: &NodeRequest<'_>,
    ) -> Result<(), Denied> {
        let user = self.user(certificates, bearer).await?;
        if user.in_group(MASTERS) {
            return Ok(());
        }
        let mut reason = String::new();
        for subresource in request.subresources {
            let review = json!({
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SubjectAccessReview",
                "spec": {
                    "user": user.name,
                    "groups": user.groups,
                    "resourceAttributes": {
                        "verb": request.verb,
                        "resource": "nodes",
                        "subresource": subresource,
                        "name": request.node,
                        "version": "v1",
                    },
                },
            });
            match self
                .post(
                    "/apis/authorization.k8s.io/v1/subjectaccessreviews",
                    &review,
                )
                .await
            {
                Ok(answer) if answer["status"]["allowed"] == true => return Ok(()),
                Ok(answer) => {
                    reason = answer["status"]["reason"].as_str().unwrap_or("").to_owned();
                }
                Err(error) => reason = error,
            }
        }
        let wanted = request.subresources.first().copied().unwrap_or("");
        let because = if reason.is_empty() {
            String::new()
        } else {
            format!(": {reason}")
        };
        Err(Denied::Forbidden(format!(
            "Forbidden (user={}, verb={}, resource=nodes, subresource(s)=[{wanted}]){because}",
            user.name, request.verb
        )))
    }
}

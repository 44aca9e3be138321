//! The APIs that answer questions about access: `SubjectAccessReview` and its
//! relatives, `SelfSubjectReview` and `TokenReview`.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{FieldError, GroupKind, Path, Status};
use serde_json::{Map, Value, json};

use super::rbac::Rbac;
use super::service_account::ServiceAccountTokens;
use super::{Attributes, Authenticator, Authorizer, Decision, MASTERS, User, authorize};

/// Answers reviews. One is shared by every connection.
pub struct Reviews {
    authorizers: Vec<Arc<dyn Authorizer>>,
    rbac: Arc<Rbac>,
    tokens: Arc<ServiceAccountTokens>,
    authenticators: Vec<Arc<dyn Authenticator>>,
}

impl Reviews {
    /// Reviews over what authorises and authenticates requests.
    /// `authenticators` are asked about tokens that are no service account's.
    pub fn new(
        authorizers: Vec<Arc<dyn Authorizer>>,
        rbac: Arc<Rbac>,
        tokens: Arc<ServiceAccountTokens>,
        authenticators: Vec<Arc<dyn Authenticator>>,
    ) -> Self {
        Self {
            authorizers,
            rbac,
            tokens,
            authenticators,
        }
    }

    /// The tokens of service accounts.
    pub(crate) fn tokens(&self) -> &ServiceAccountTokens {
        &self.tokens
    }

    /// Answers a review that `user` created; `namespace` is that of the
    /// request. `None` if the kind is no review.
    pub(crate) async fn answer(
        &self,
        kind: &str,
        namespace: &str,
        user: &User,
        mut review: Value,
    ) -> Option<Result<Value, Status>> {
        let status = match kind {
            "SubjectAccessReview" | "LocalSubjectAccessReview" | "SelfSubjectAccessReview" => {
                self.access(kind, namespace, user, &review).await
            }
            "SelfSubjectRulesReview" => self.rules(user, &review).await,
            "SelfSubjectReview" => Ok(json!({ "userInfo": user_info(user) })),
            "TokenReview" => self.token(&review).await,
            _ => return None,
        };
        Some(status.map(|status| {
            if kind == "SelfSubjectReview" {
                let now = base::time::rfc3339(jiff::Timestamp::now());
                review["metadata"]["creationTimestamp"] = now.into();
            }
            review["status"] = status;
            review
        }))
    }

    async fn access(
        &self,
        kind: &str,
        namespace: &str,
        user: &User,
        review: &Value,
    ) -> Result<Value, Status> {
        let errors = validate(kind, namespace, review);
        if !errors.is_empty() {
            // Upstream has forgotten the kind by then.
            let kind = GroupKind {
                group: "authorization.k8s.io".into(),
                kind: String::new(),
            };
            return Err(Status::invalid(&kind, "", &errors));
        }
        let spec = &review["spec"];
        let asked = if kind == "SelfSubjectAccessReview" {
            user.clone()
        } else {
            subject(spec)
        };
        let decision = authorize(&self.authorizers, &asked, &attributes(spec)).await;
        Ok(access_status(&decision))
    }

    async fn rules(&self, user: &User, review: &Value) -> Result<Value, Status> {
        let namespace = text(&review["spec"]["namespace"]);
        if namespace.is_empty() {
            return Err(Status::bad_request("no namespace on request"));
        }
        let mut resource_rules = Vec::new();
        let mut other_rules = Vec::new();
        if user.in_group(MASTERS) {
            resource_rules.push(json!({ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }));
            other_rules.push(json!({ "verbs": ["*"], "nonResourceURLs": ["*"] }));
        }
        for rule in self.rbac.rules(user, namespace).await? {
            let object = rule.to_value();
            if rule.resources.is_empty() {
                other_rules.push(object);
            } else {
                resource_rules.push(object);
            }
        }
        let mut status = json!({
            "resourceRules": resource_rules,
            "nonResourceRules": other_rules,
            "incomplete": false,
        });
        if super::node_of(user).is_some() {
            status["incomplete"] = true.into();
            status["evaluationError"] =
                "node authorizer does not support user rule resolution".into();
        }
        Ok(status)
    }

    async fn token(&self, review: &Value) -> Result<Value, Status> {
        let token = text(&review["spec"]["token"]);
        if token.is_empty() {
            return Err(Status::bad_request(
                "token is required for TokenReview in authentication",
            ));
        }
        let audiences: Vec<String> = review["spec"]["audiences"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|audience| audience.as_str().map(str::to_owned))
            .collect();
        let mut error = "invalid bearer token".to_owned();
        match self.tokens.verify(token, &audiences).await {
            Ok(Some(verified)) => {
                return Ok(json!({
                    "authenticated": true,
                    "user": user_info(&verified.user.authenticated()),
                    "audiences": verified.audiences,
                }));
            }
            Ok(None) => {}
            Err(why) => error = format!("[invalid bearer token, {}]", why.0),
        }
        // Other tokens are for the API server itself, whatever audience is asked for.
        if audiences.is_empty()
            && let Ok(request) = http::Request::builder()
                .header(http::header::AUTHORIZATION, format!("Bearer {token}"))
                .body(())
        {
            let (parts, ()) = request.into_parts();
            for authenticator in &self.authenticators {
                if let Ok(Some(user)) = authenticator.authenticate(&parts, &[]).await {
                    return Ok(json!({
                        "authenticated": true,
                        "user": user_info(&user.authenticated()),
                    }));
                }
            }
        }
        Ok(json!({ "user": {}, "error": error }))
    }
}

fn access_status(decision: &Decision) -> Value {
    let mut status = json!({ "allowed": decision.allowed });
    if !decision.reason.is_empty() {
        status["reason"] = decision.reason.clone().into();
    }
    status
}

/// `authentication.k8s.io UserInfo`.
pub(crate) fn user_info(user: &User) -> Value {
    let mut info = Map::new();
    info.insert("username".into(), user.name.clone().into());
    if !user.uid.is_empty() {
        info.insert("uid".into(), user.uid.clone().into());
    }
    if !user.groups.is_empty() {
        info.insert("groups".into(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        info.insert("extra".into(), json!(user.extra));
    }
    Value::Object(info)
}

fn subject(spec: &Value) -> User {
    let list = |value: &Value| -> Vec<String> {
        value
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|item| item.as_str().map(str::to_owned))
            .collect()
    };
    let extra: BTreeMap<String, Vec<String>> = spec["extra"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, values)| (key.to_lowercase(), list(values)))
        .collect();
    User {
        name: text(&spec["user"]).to_owned(),
        uid: text(&spec["uid"]).to_owned(),
        groups: list(&spec["groups"]),
        extra,
    }
}

fn attributes(spec: &Value) -> Attributes<'_> {
    let resource = &spec["resourceAttributes"];
    if resource.is_object() {
        return Attributes {
            verb: text(&resource["verb"]),
            namespace: text(&resource["namespace"]),
            group: text(&resource["group"]),
            version: text(&resource["version"]),
            resource: text(&resource["resource"]),
            subresource: text(&resource["subresource"]),
            name: text(&resource["name"]),
            is_resource: true,
            field_selector: field_selector(&resource["fieldSelector"]).into(),
            ..Attributes::default()
        };
    }
    let other = &spec["nonResourceAttributes"];
    Attributes {
        verb: text(&other["verb"]),
        path: text(&other["path"]),
        ..Attributes::default()
    }
}

/// The selector of a review as a query would have it. What it cannot say is
/// left out, which only widens the question.
fn field_selector(selector: &Value) -> String {
    if let Some(raw) = selector["rawSelector"].as_str() {
        return raw.to_owned();
    }
    let terms: Vec<String> = selector["requirements"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|wanted| {
            let sign = match text(&wanted["operator"]) {
                "In" => "=",
                "NotIn" => "!=",
                _ => return None,
            };
            match wanted["values"].as_array().map(Vec::as_slice) {
                Some([value]) => Some(format!("{}{sign}{}", text(&wanted["key"]), text(value))),
                _ => None,
            }
        })
        .collect();
    terms.join(",")
}

fn validate(kind: &str, namespace: &str, review: &Value) -> Vec<FieldError> {
    let spec = &review["spec"];
    let path = Path::new("spec");
    let (resource, other) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let mut errors = Vec::new();
    if resource.is_object() && other.is_object() {
        errors.push(FieldError::invalid(
            &path.child("nonResourceAttributes"),
            other.clone(),
            "cannot be specified in combination with resourceAttributes",
        ));
    }
    if !resource.is_object() && !other.is_object() {
        errors.push(FieldError::invalid(
            &path.child("resourceAttributes"),
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ));
    }
    if kind != "SelfSubjectAccessReview"
        && text(&spec["user"]).is_empty()
        && spec["groups"].as_array().is_none_or(Vec::is_empty)
    {
        errors.push(FieldError::invalid(
            &path.child("user"),
            text(&spec["user"]),
            "at least one of user or group must be specified",
        ));
    }
    if kind == "LocalSubjectAccessReview" {
        if resource.is_object() && text(&resource["namespace"]) != namespace {
            errors.push(FieldError::invalid(
                &Path::new("spec.resourceAttributes.namespace"),
                text(&resource["namespace"]),
                "must match metadata.namespace",
            ));
        }
        if other.is_object() {
            errors.push(FieldError::invalid(
                &path.child("nonResourceAttributes"),
                other.clone(),
                "disallowed on this kind of request",
            ));
        }
    }
    errors
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

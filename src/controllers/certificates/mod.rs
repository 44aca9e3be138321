//! Certificate signing requests: kubelets' own are approved, approved ones of
//! the cluster's signers are signed, old ones are deleted.
//!
//! What upstream splits into an approving, a signing and a cleaning controller
//! is one loop here: a request goes through all three in order.

mod check;
mod clean;

use std::sync::Arc;

use client::api::PostParams;
use client::{Action, Api, Client, Informer, NamespacedName};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::Credentials;
use crate::context::{Context, run};
use crate::error::{During, Error, Result, ignore_not_found};

const NAME: &str = "certificate-controller";
/// Client certificates of kubelets.
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Certificates of the node API.
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// Client certificates of anyone.
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";

pub(crate) fn register(context: &Context) {
    let requests = context.informers.of::<CertificateSigningRequest>();
    let controller = context.controller(NAME);
    controller.watch(&requests, |request| vec![NamespacedName::of(request)]);
    let state = Arc::new(State {
        client: context.client(NAME),
        requests,
        credentials: context.config.credentials.clone(),
    });
    run(controller, 2, move |key| {
        let state = state.clone();
        async move { state.reconcile(&key).await }
    });
}

struct State {
    client: Client,
    requests: Informer<CertificateSigningRequest>,
    credentials: Option<Arc<dyn Credentials>>,
}

impl State {
    async fn reconcile(&self, key: &NamespacedName) -> Result<Action> {
        let Some(request) = self.requests.get(key) else {
            return Ok(Action::Done);
        };
        let api = Api::<CertificateSigningRequest>::all(self.client.clone());
        if let Some(credentials) = &self.credentials
            && (self.approve(&request, &**credentials).await?
                || self.sign(&api, &request, &**credentials).await?)
        {
            // The change comes back as one.
            return Ok(Action::Done);
        }
        let expires = |certificate: &[u8]| {
            let seconds = self.credentials.as_ref()?.not_after(certificate)?;
            Timestamp::from_second(seconds).ok()
        };
        match clean::due(&request, expires) {
            None => Ok(Action::Done),
            Some(at) => {
                let left = at.duration_since(Timestamp::now());
                if left.is_positive() {
                    return Ok(Action::After(left.unsigned_abs()));
                }
                ignore_not_found(api.delete(&key.name, &Default::default()).await)
                    .during(|| format!("deleting old signing request {key}"))?;
                Ok(Action::Done)
            }
        }
    }

    /// Approves what a kubelet asks for itself; whether something was written.
    async fn approve(
        &self,
        request: &CertificateSigningRequest,
        credentials: &dyn Credentials,
    ) -> Result<bool> {
        let spec = &request.spec;
        if spec.signer_name != KUBELET_CLIENT
            || is_issued(request)
            || has(request, "Approved")
            || has(request, "Denied")
        {
            return Ok(false);
        }
        let wanted = read(request, credentials)?;
        if check::kubelet_client(&wanted, &spec.usages.clone().unwrap_or_default()).is_err() {
            return Ok(false);
        }
        let own = spec.username.as_deref() == Some(&wanted.common_name);
        for (applies, subresource, message) in [
            (
                own,
                "selfnodeclient",
                "Auto approving self kubelet client certificate after SubjectAccessReview.",
            ),
            (
                true,
                "nodeclient",
                "Auto approving kubelet client certificate after SubjectAccessReview.",
            ),
        ] {
            if !applies || !self.may(request, subresource).await? {
                continue;
            }
            let mut approved = request.clone();
            add(&mut approved, "Approved", "AutoApproved", message);
            let name = name(request);
            self.put_approval(&name, &approved)
                .await
                .during(|| format!("approving signing request {name}"))?;
            return Ok(true);
        }
        Ok(false)
    }

    async fn put_approval(
        &self,
        name: &str,
        request: &CertificateSigningRequest,
    ) -> Result<CertificateSigningRequest, client::Error> {
        let path =
            format!("/apis/certificates.k8s.io/v1/certificatesigningrequests/{name}/approval");
        let body = serde_json::to_vec(request).map_err(client::Error::SerdeError)?;
        let request = http::Request::put(path)
            .header("content-type", "application/json")
            .body(body)
            .map_err(client::Error::HttpError)?;
        self.client.request(request).await
    }

    async fn may(&self, request: &CertificateSigningRequest, subresource: &str) -> Result<bool> {
        let spec = &request.spec;
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: spec.username.clone(),
                uid: spec.uid.clone(),
                groups: spec.groups.clone(),
                extra: spec.extra.clone(),
                resource_attributes: Some(ResourceAttributes {
                    group: Some("certificates.k8s.io".to_owned()),
                    resource: Some("certificatesigningrequests".to_owned()),
                    verb: Some("create".to_owned()),
                    subresource: Some(subresource.to_owned()),
                    version: Some("*".to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let answer = Api::<SubjectAccessReview>::all(self.client.clone())
            .create(&PostParams::default(), &review)
            .await
            .during(|| format!("asking who may approve {}", name(request)))?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    /// Signs what is approved; whether something was written.
    async fn sign(
        &self,
        api: &Api<CertificateSigningRequest>,
        request: &CertificateSigningRequest,
        credentials: &dyn Credentials,
    ) -> Result<bool> {
        let spec = &request.spec;
        if !has(request, "Approved") || has(request, "Denied") || has(request, "Failed") {
            return Ok(false);
        }
        let signer = spec.signer_name.as_str();
        if is_issued(request) || !matches!(signer, CLIENT | KUBELET_CLIENT | KUBELET_SERVING) {
            return Ok(false);
        }
        let wanted = read(request, credentials)?;
        let usages = spec.usages.clone().unwrap_or_default();
        let valid = match signer {
            KUBELET_CLIENT => check::kubelet_client(&wanted, &usages),
            KUBELET_SERVING => check::kubelet_serving(&wanted, &usages),
            _ => check::client(&usages),
        };
        let mut answered = request.clone();
        match valid {
            Err(why) => add(&mut answered, "Failed", "SignerValidationFailure", &why),
            Ok(()) => {
                let lifetime = spec
                    .expiration_seconds
                    .and_then(|seconds| u64::try_from(seconds).ok());
                let certificate = credentials
                    .sign_certificate(
                        signer == KUBELET_SERVING,
                        &spec.request.0,
                        &usages,
                        lifetime,
                    )
                    .map_err(|why| {
                        Error::Unmet(format!(
                            "signing request {} cannot be signed: {why}",
                            name(request)
                        ))
                    })?;
                answered.status.get_or_insert_default().certificate =
                    Some(ByteString(certificate.into_bytes()));
            }
        }
        let name = name(request);
        api.replace_status(&name, &PostParams::default(), &answered)
            .await
            .during(|| format!("answering signing request {name}"))?;
        Ok(true)
    }
}

fn name(request: &CertificateSigningRequest) -> String {
    request.metadata.name.clone().unwrap_or_default()
}

fn read(
    request: &CertificateSigningRequest,
    credentials: &dyn Credentials,
) -> Result<crate::CertificateSubject> {
    credentials
        .read_request(&request.spec.request.0)
        .map_err(|why| Error::Unmet(format!("unable to parse csr {:?}: {why}", name(request))))
}

fn is_issued(request: &CertificateSigningRequest) -> bool {
    let certificate = request
        .status
        .as_ref()
        .and_then(|status| status.certificate.as_ref());
    certificate.is_some_and(|certificate| !certificate.0.is_empty())
}

fn conditions(
    request: &CertificateSigningRequest,
) -> impl Iterator<Item = &CertificateSigningRequestCondition> {
    let status = request.status.as_ref();
    status
        .and_then(|status| status.conditions.as_ref())
        .into_iter()
        .flatten()
}

fn has(request: &CertificateSigningRequest, kind: &str) -> bool {
    conditions(request).any(|condition| condition.type_ == kind)
}

fn add(request: &mut CertificateSigningRequest, kind: &str, reason: &str, message: &str) {
    let condition = CertificateSigningRequestCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(Time(Timestamp::now())),
        ..CertificateSigningRequestCondition::default()
    };
    request
        .status
        .get_or_insert_default()
        .conditions
        .get_or_insert_default()
        .push(condition);
}

//! Pods on this node.
//!
//! Deciding is apart from doing. Pure: [`mod@spec`] questions, [`resources`],
//! [`mod@env`], [`dns`], [`security`], [`plan`] (what to do next), [`status`] with
//! [`phase`] and [`conditions`] (what to report), [`admission`] and [`resize`]
//! (what fits here). Doing: one [`worker`] for
//! each pod walks it through its life, one action at a time; [`start`] and
//! [`kill`] are its actions; [`manager`] feeds the workers.

mod admission;
mod backoff;
mod conditions;
mod dns;
mod env;
mod expand;
mod fields;
mod hooks;
mod images;
mod kill;
mod manager;
mod observed;
mod phase;
mod plan;
mod reporter;
mod resize;
mod resources;
mod sandbox;
mod security;
mod spec;
mod start;
mod status;
mod worker;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};

pub(crate) use backoff::go_duration;
pub(crate) use env::Sources;
pub(crate) use expand::expand;
pub(crate) use fields::{FieldContext, field, resource_field};
pub(crate) use images::Puller;
pub(crate) use manager::{PodView, Pods};
pub(crate) use reporter::Reporter;
pub(crate) use resources::pod_limits;
pub(crate) use spec::{
    ephemeral_containers, find_container, image_volumes, init_containers, name, namespace,
    resolve_port, spec, uid,
};
pub(crate) use worker::Shared;

/// Wakes a pod's worker.
pub(crate) type Nudge = Arc<dyn Fn() + Send + Sync>;

/// Expands references to variables whose values stand in the spec itself.
pub(crate) fn expand_static(word: &str, container: &Container) -> String {
    expand(word, |name| {
        let mut variables = container.env.iter().flatten();
        variables
            .find(|variable| variable.name == name)?
            .value
            .clone()
    })
}

/// The user every container of a pod runs as, if they agree on one.
pub(crate) fn shared_run_as_user(pod: &Pod) -> Option<u32> {
    let shared = spec(pod)
        .security_context
        .as_ref()
        .and_then(|context| context.run_as_user);
    let mut user = None;
    for container in init_containers(pod).iter().chain(spec::containers(pod)) {
        let own = container
            .security_context
            .as_ref()
            .and_then(|context| context.run_as_user);
        let own = own.or(shared)?;
        if user.is_some_and(|user| user != own) {
            return None;
        }
        user = Some(own);
    }
    user.and_then(|user| u32::try_from(user).ok())
}

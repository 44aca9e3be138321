//! What happens to nodes and, through them, to their pods.

mod eviction;
mod lifecycle;
mod taints;

use crate::context::Context;

pub(crate) fn register(context: &Context) {
    lifecycle::register(context);
    eviction::register(context);
}

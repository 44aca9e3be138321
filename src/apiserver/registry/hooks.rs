//! What the storage of some kinds does beside storing.
//!
//! Services are given addresses and ports before they are validated; what was
//! taken is given back unless the write succeeds.

use api::Status;
use serde_json::Value;

use super::{Call, Registry, Resource, store_error};
use crate::alloc::Hold;

/// How long events are kept.
const EVENT_TTL: std::time::Duration = std::time::Duration::from_secs(3600);

impl Registry {
    /// Before a new object is validated.
    pub(super) async fn begin_create(
        &self,
        call: &Call,
        object: &mut Value,
    ) -> Result<Hold, Status> {
        if call.resource.is("", "services") {
            return self.allocators.create(self, object, call.dry_run).await;
        }
        Ok(Hold::none())
    }

    /// Before a changed object is validated.
    pub(super) async fn begin_update(
        &self,
        call: &Call,
        object: &mut Value,
        old: &Value,
    ) -> Result<Hold, Status> {
        if call.resource.is("", "services") && call.subresource.is_empty() {
            return self
                .allocators
                .update(self, object, old, call.dry_run)
                .await;
        }
        Ok(Hold::none())
    }

    /// After an object is gone.
    pub(super) async fn after_delete(&self, call: &Call, old: &Value) {
        if call.resource.is("", "services") {
            self.allocators.delete(old);
        }
    }

    /// The lease a new value hangs on: events go away by themselves.
    pub(super) async fn lease_for(&self, resource: &Resource) -> Result<store::LeaseId, Status> {
        if resource.group_resource.resource != "events" {
            return Ok(store::LeaseId::default());
        }
        self.allocators
            .event_lease(self.hub.store(), EVENT_TTL)
            .await
            .map_err(|error| store_error(&error))
    }
}

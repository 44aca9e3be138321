//! The common strategies: what status and generation do on a write.

use serde_json::{Value, json};

use super::value::{at, restore, same};
use crate::meta;

/// How status and generation of a kind behave.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Whether clients write `status` only through its subresource.
    pub status: bool,
    /// Paths whose change raises the generation; none for kinds without one.
    pub generation: &'static [&'static [&'static str]],
    /// What a write of `status` leaves as it is.
    pub status_keeps: &'static [&'static [&'static str]],
}

const SPEC: &[&[&str]] = &[&["spec"]];
const STATUS: &[&[&str]] = &[&["status"]];

impl Plan {
    /// Neither status nor generation.
    pub const PLAIN: Self = Self {
        status: false,
        generation: &[],
        status_keeps: &[],
    };
    /// Status without generation.
    pub const STATUS: Self = Self {
        status: true,
        generation: &[],
        status_keeps: SPEC,
    };
    /// Status, and a generation that a change of `spec` raises.
    pub const SPEC: Self = Self {
        status: true,
        generation: SPEC,
        status_keeps: SPEC,
    };
    /// No status, but a generation that a change of `spec` raises.
    pub const GENERATION: Self = Self {
        status: false,
        generation: SPEC,
        status_keeps: &[],
    };
    /// As [`Plan::SPEC`]; a write of status leaves all metadata alone too.
    pub const SPEC_META: Self = Self {
        status_keeps: &[&["spec"], &["metadata"]],
        ..Self::SPEC
    };
    /// As [`Plan::STATUS`]; a write of status leaves all metadata alone too.
    pub const STATUS_META: Self = Self {
        status_keeps: &[&["spec"], &["metadata"]],
        ..Self::STATUS
    };

    /// `PrepareForCreate`.
    pub fn create(&self, object: &mut Value) {
        if self.status {
            object["status"] = json!({});
        }
        if !self.generation.is_empty() {
            meta::set_generation(object, 1);
        }
    }

    /// `PrepareForUpdate`.
    pub fn update(&self, new: &mut Value, old: &Value, subresource: &str) {
        if subresource.is_empty() {
            if self.status {
                restore(new, old, &["status"]);
            }
            if self
                .generation
                .iter()
                .any(|path| !same(at(new, path), at(old, path)))
            {
                meta::set_generation(new, meta::generation(old) + 1);
            }
        } else if subresource == "status" {
            for path in self.status_keeps {
                if *path == ["metadata"] {
                    keep_metadata(new, old);
                } else {
                    restore(new, old, path);
                }
            }
        }
    }

    /// Fields that a write cannot set.
    pub fn reset_fields(&self, subresource: &str) -> &'static [&'static [&'static str]] {
        match subresource {
            "" if self.status => STATUS,
            "status" => self.status_keeps,
            _ => &[],
        }
    }
}

/// All metadata but what identifies the version and names the owners of fields.
fn keep_metadata(new: &mut Value, old: &Value) {
    let version = new["metadata"]["resourceVersion"].clone();
    let fields = new["metadata"]["managedFields"].clone();
    restore(new, old, &["metadata"]);
    let metadata = meta::metadata_mut(new);
    for (name, value) in [("resourceVersion", version), ("managedFields", fields)] {
        if value.is_null() {
            metadata.remove(name);
        } else {
            metadata.insert(name.into(), value);
        }
    }
}
